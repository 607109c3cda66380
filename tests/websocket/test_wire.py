"""Bytes over one socket, plain and TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import gevent.socket
import pytest
import trustme
from gevent.ssl import SSLContext

from webmesh.websocket.wire import PlainWire, TlsWire, wire_for

KINDS = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@contextmanager
def joined(tls: bool) -> Iterator[tuple[Any, Any]]:
    """A wire, and the other end of its socket."""
    left, right = gevent.socket.socketpair()
    if tls:
        authority = trustme.CA()
        server, client = SSLContext(ssl.PROTOCOL_TLS_SERVER), SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.issue_cert("localhost").configure_cert(server)
        authority.configure_trust(client)
        accepting = gevent.spawn(server.wrap_socket, left, server_side=True)
        right = client.wrap_socket(right, server_hostname="localhost")
        left = accepting.get(timeout=10)
    wire = wire_for(left)
    try:
        yield wire, right
    finally:
        wire.close()
        right.close()


def received(wire: Any) -> bytes:
    with gevent.Timeout(10):
        return wire.recv()  # type: ignore[no-any-return]


@KINDS
def test_the_kind_of_socket_decides_the_wire(tls: bool):
    """gevent's TLS socket is recognised in every process; the standard library's name for it may be another class."""
    with joined(tls) as (wire, _):
        assert (TlsWire if tls else PlainWire) is type(wire)


@KINDS
def test_bytes_go_both_ways(tls: bool):
    """Several times in a row, so that watching survives a read."""
    with joined(tls) as (wire, other):
        for number in range(5):
            other.sendall(b"to the wire %d" % number)
            assert b"to the wire %d" % number == received(wire)
            assert 5 == wire.send(b"reply")
            assert b"reply" == other.recv(100)


@KINDS
def test_the_end_is_empty_and_stays_so(tls: bool):
    """Closed by the peer, and asked again."""
    with joined(tls) as (wire, other):
        other.close()

        assert b"" == received(wire)


@KINDS
def test_closing_wakes_who_receives(tls: bool):
    """With the end, not with an error, and only once the caller is through."""
    with joined(tls) as (wire, _):
        receiver = gevent.spawn(wire.recv)
        gevent.sleep(0.01)
        wire.close()

        assert b"" == receiver.get(timeout=10)
        assert b"" == received(wire)


@KINDS
def test_a_full_socket_takes_nothing_and_does_not_wait(tls: bool):
    """The caller queues what is left; room is announced."""
    with joined(tls) as (wire, other):
        with gevent.Timeout(10):
            while wire.send(b"x" * 65536):
                pass
        writer = gevent.spawn(wire.wait_writable)
        gevent.sleep(0.01)
        assert not writer.ready()

        def drain() -> None:
            while other.recv(1 << 20):
                pass

        reader = gevent.spawn(drain)
        writer.get(timeout=10)
        reader.kill()


@KINDS
def test_sending_on_a_broken_socket_is_an_error(tls: bool):
    """An OSError, whatever TLS calls it."""
    with joined(tls) as (wire, other):
        other.close()
        wire.close()

        with pytest.raises(OSError):
            wire.send(b"x")


def test_the_end_of_writing_leaves_reading_open():
    """The peer sees the end and may still say something."""
    with joined(tls=False) as (wire, other):
        wire.end_writing()
        wire.end_writing()
        assert b"" == other.recv(100)
        other.sendall(b"last words")

        assert b"last words" == received(wire)


@pytest.mark.row(51, 82)
def test_nothing_is_watched_while_nobody_reads():
    """At the bound of handlers a peer's bytes wait in the kernel, and cost the hub one look, not one each turn."""
    with joined(tls=False) as (wire, other):
        other.sendall(b"1")
        assert b"1" == received(wire)
        other.sendall(b"2")
        gevent.sleep(0.01)
        gevent.sleep(0.01)
        assert not wire._readable.active

        assert b"2" == received(wire)


@pytest.mark.row(95)
@KINDS
def test_a_killed_receiver_leaves_the_wire_usable(tls: bool):
    """Whoever receives next gets what comes."""
    with joined(tls) as (wire, other):
        receiver = gevent.spawn(wire.recv)
        gevent.sleep(0.01)
        receiver.kill()
        other.sendall(b"later")

        assert b"later" == received(wire)


def test_a_foreign_switch_is_no_end():
    """A greenlet that something else wakes looks, finds nothing, and waits on."""
    with joined(tls=False) as (wire, other):
        receiver = gevent.spawn(wire.recv)
        gevent.sleep(0.01)
        gevent.get_hub().loop.run_callback(receiver.switch)
        gevent.sleep(0.01)
        assert not receiver.ready()
        other.sendall(b"now")

        assert b"now" == receiver.get(timeout=10)
