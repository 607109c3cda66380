"""What the system tells of a TCP connection."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.websocket.loopback import until
from webmesh.protocol.liveness import SAME_MACHINE, TcpState
from webmesh.websocket import tcp_info
from webmesh.websocket.tcp_info import give_up_after, read, tcp_state

linux = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is read on Linux only")


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dialled = socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
    yield served, dialled
    served.close()
    dialled.close()


def info(*, retransmits: int = 0, unacked: int = 0, last_ack: int = 0, acked: int = 0, unsent: int = 0) -> bytes:
    """A `tcp_info` as Linux 4.6 and later fill it."""
    made = bytearray(148)
    made[2] = retransmits
    struct.pack_into("@I", made, 24, unacked)
    struct.pack_into("@I", made, 56, last_ack)
    struct.pack_into("@Q", made, 120, acked)
    struct.pack_into("@I", made, 144, unsent)
    return bytes(made)


def test_figures_stand_where_the_system_puts_them():
    """Times are given in milliseconds."""
    assert TcpState(False, 7, 2.5, 0) == read(info(last_ack=2500, acked=7))
    assert TcpState(True, 2**40, 0.0, 3) == read(info(retransmits=3, unacked=1, acked=2**40))
    assert TcpState(True, 0, 0.0, 0) == read(info(unsent=9) + bytes(100))


def test_an_answer_that_is_too_short_tells_nothing():
    """As that of an old kernel."""
    assert read(info()[:-1]) is None
    assert read(b"") is None


@linux
def test_a_live_peer_acknowledges(pair: tuple[Any, Any]):
    """What its system has taken counts, whether it reads or not."""
    served, _ = pair
    before = tcp_state(served)
    served.sendall(b"x" * 1000)

    until(lambda: tcp_state(served).outstanding is False)  # type: ignore[union-attr]
    after = tcp_state(served)

    assert before is not None and after is not None
    assert 1000 == after.acknowledged - before.acknowledged
    assert 0 == after.retransmits


@linux
def test_a_peer_without_room_leaves_something_outstanding(pair: tuple[Any, Any]):
    """And goes on acknowledging."""
    served, _ = pair
    served.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            served.send(bytes(65536))

    state = tcp_state(served)

    assert state is not None and state.outstanding


def test_a_unix_socket_is_on_the_same_machine():
    """So whatever was sent has arrived."""
    ours, other = socket.socketpair()
    with ours, other:
        assert SAME_MACHINE == tcp_state(ours)
        give_up_after(ours, 45.0)  # changes nothing


def test_nothing_is_told_elsewhere_or_of_a_closed_socket(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch):
    """Then nobody can be called stalled."""
    served, dialled = pair
    dialled.close()
    served.close()
    assert tcp_state(served) is None
    give_up_after(served, 45.0)
    monkeypatch.setattr(tcp_info, "_TCP_INFO", None)
    with socket.socket() as sock:
        assert tcp_state(sock) is None


@linux
@pytest.mark.row(68)
@pytest.mark.parametrize(("seconds", "wanted"), [(45.0, 45_000), (0.0001, 1), (1e9, 2**31 - 1)])
def test_the_system_gives_up_after_so_long(pair: tuple[Any, Any], seconds: float, wanted: int):
    """In milliseconds, as far as it can count."""
    give_up_after(pair[0], seconds)

    assert wanted == pair[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
