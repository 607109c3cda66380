"""The fault proxy: each fault does to the bytes what it says, and nothing else."""

from __future__ import annotations

import errno
import os
import socket as constants
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket

from tests.running import PATIENCE, Census, running, wait_for
from webmesh.exceptions import ConfigurationError, LocalProtocolError
from webmesh.testing import FaultProxy
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer


class Line:
    """A proxy before a server that keeps its side of each connection."""

    def __init__(self, family: int = constants.AF_INET, where: Any = ("127.0.0.1", 0), **options: Any) -> None:
        self.listening = socket.socket(family)
        self.listening.bind(where)
        self.listening.listen(16)
        self.listening.settimeout(PATIENCE)
        name = self.listening.getsockname()
        self.proxy = FaultProxy(f"unix:{name}" if family == constants.AF_UNIX else name, **options)

    def dial(self) -> Any:
        """A client's socket, connected to the proxy."""
        address = self.proxy.address
        sock: Any
        if address.startswith("unix:"):
            sock = socket.socket(constants.AF_UNIX)
            sock.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            sock = socket.create_connection((host, int(port)), timeout=PATIENCE)
        sock.settimeout(PATIENCE)
        return sock

    def join(self) -> tuple[Any, Any]:
        """A client's socket and the server's end of the same connection."""
        client = self.dial()
        server, _ = self.listening.accept()
        server.settimeout(PATIENCE)
        return client, server


@contextmanager
def line(**options: Any) -> Iterator[Line]:
    made = Line(**options)
    with closing(made.listening), made.proxy:
        yield made


def read(sock: Any, size: int) -> bytes:
    """Exactly *size* bytes, fewer at the end."""
    data = bytearray()
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return bytes(data)


def send_all(sock: Any, data: bytes) -> None:
    """Send it and nothing more."""
    sock.sendall(data)
    sock.shutdown(constants.SHUT_WR)


def is_reset(dialled: Any) -> bool:
    """Whether the connection, a socket or how to get one, ends with a reset, and not properly."""
    try:
        sock = dialled() if callable(dialled) else dialled  # the reset may come before it is connected
        while sock.recv(4096):
            pass
    except OSError as error:
        return error.errno == errno.ECONNRESET
    return False


def test_without_faults_it_passes_everything_on() -> None:
    """Both ways, and the end of each direction by itself."""
    with line() as made:
        client, server = made.join()
        with closing(client), closing(server):
            client.sendall(b"question")
            assert b"question" == read(server, 8)
            client.shutdown(constants.SHUT_WR)
            assert b"" == server.recv(1)
            server.sendall(b"answer")
            server.close()
            assert b"answer" == read(client, 100)
        assert wait_for(lambda: not made.proxy.connections)
        assert (1, 8, 6) == tuple(made.proxy.counts[name] for name in ("accepted", "up", "down"))


def test_a_client_calls_a_server_through_it() -> None:
    """`url` is the server's with the proxy's port; a whole mesh conversation passes."""
    server = WebMeshServer(mount="/mesh")
    server.on("/echo")(lambda payload, path, client: payload)
    with running(server), FaultProxy(server) as proxy:
        assert proxy.url.endswith("/mesh") and proxy.url != server.url
        with WebMeshClient(proxy.url) as client:
            payload = os.urandom(100_000)
            assert payload == client.call("/echo", payload, timeout=PATIENCE)
            assert 1 == len(proxy.connections)
            assert proxy.counts["up"] > 100_000


def test_it_stands_between_unix_sockets_too(tmp_path: Path) -> None:
    """On either side; its file goes with it, and it can refuse there."""
    front = tmp_path / "front"
    with line(family=constants.AF_UNIX, where=str(tmp_path / "back"), unix=str(front)) as made:
        assert made.proxy.url.startswith("ws+unix://")
        client, server = made.join()
        with closing(client), closing(server):
            client.sendall(b"x")
            assert b"x" == server.recv(1)
            made.proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                made.dial()
            made.proxy.heal()
            made.dial().close()
    assert not front.exists()


def test_a_name_in_the_url_stays() -> None:
    """A certificate is checked against it."""
    with FaultProxy("wss://localhost:1/x?y=1") as proxy:
        port = proxy.address.rpartition(":")[2]
        assert f"wss://localhost:{port}/x?y=1" == proxy.url


@pytest.mark.parametrize(
    "target", ["nowhere", 7, "http://a", None, ("a", 0), ("a",), ("::1", "x"), "a:99999", "a:http"]
)
def test_what_is_no_target_is_refused(target: Any) -> None:
    """At once, with a text that says what is."""
    with pytest.raises(ConfigurationError):
        FaultProxy(target)


@pytest.mark.parametrize(
    "fault",
    [
        lambda proxy: proxy.stall("left"),
        lambda proxy: proxy.bandwidth(0),
        lambda proxy: proxy.slice(0),
        lambda proxy: proxy.latency(-1),
        lambda proxy: proxy.cut(-1),
        lambda proxy: proxy.duplicate(0),
        lambda proxy: proxy.latency(float("nan")),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(fault: Any) -> None:
    """A test with a wrong fault would pass for the wrong reason."""
    with line() as made, pytest.raises(ConfigurationError):
        fault(made.proxy)


def test_faults_wait_for_the_start() -> None:
    """Those that need its hub say so."""
    with pytest.raises(LocalProtocolError):
        FaultProxy("127.0.0.1:1").refuse()


def test_bytes_come_later_and_in_order() -> None:
    """With latency and jitter nothing overtakes, and nothing waits for what was sent before it to arrive."""
    with line(seed=4) as made:
        client, server = made.join()
        with closing(client), closing(server):
            made.proxy.latency(0.05, jitter=0.05, direction="up")
            for number in range(50):
                client.sendall(bytes([number]))
                gevent.sleep(0)
            assert bytes(range(50)) == read(server, 50)


def test_bandwidth_is_shared_out_in_small_pieces() -> None:
    """What was sent at once arrives bit by bit; it can be lifted while it holds."""
    with line() as made:
        client, server = made.join()
        with closing(client), closing(server):
            made.proxy.bandwidth(2000)
            client.sendall(bytes(400_000))
            assert len(server.recv(400_000)) < 400_000
            made.proxy.bandwidth(None)
            assert 300_000 == len(read(server, 300_000))


def test_slices_arrive_one_by_one() -> None:
    """With a pause nothing is joined again on its way."""
    with line() as made:
        client, server = made.join()
        with closing(client), closing(server):
            made.proxy.slice(1, "up", pause=0.005)
            client.sendall(b"abcdef")
            assert b"abcdef" == b"".join(pieces := [server.recv(100) for _ in range(6)])
            assert 6 == len([piece for piece in pieces if piece])


@pytest.mark.parametrize("after", [0, 5])
def test_a_cut_ends_both_sides_after_so_many_bytes(after: int) -> None:
    """In the middle of what was sent; properly for TCP, so that only the WebSocket is cut."""
    with line() as made:
        client, server = made.join()
        with closing(client), closing(server):
            made.proxy.cut(after, "up")
            if after:
                client.sendall(b"0123456789")
            assert b"01234"[:after] == read(server, 100)
            assert b"" == client.recv(1)
        assert 1 == made.proxy.counts["cut"]
        client, server = made.join()  # the next one lives
        with closing(client), closing(server):
            client.sendall(b"0123456789")
            assert b"0123456789" == read(server, 10)


def test_a_cut_waits_for_a_connection_when_there_is_none() -> None:
    """For the next one only, or with `repeat` for all until the proxy is healed."""
    with line() as made:
        made.proxy.cut(3, "down")
        for _ in range(2):
            client, server = made.join()
            server.sendall(b"abcdef")
            assert b"abc" == read(client, 6)
            client.close(), server.close()
            made.proxy.cut(3, "down", repeat=True)
        made.proxy.heal()
        client, server = made.join()
        with closing(client), closing(server):
            server.sendall(b"abcdef")
            assert b"abcdef" == read(client, 6)


def test_a_reset_is_seen_by_both_sides() -> None:
    """As when a machine has forgotten the connection."""
    with line() as made:
        client, server = made.join()
        with closing(client), closing(server):
            made.proxy.reset()
            assert is_reset(client) and is_reset(server)
        assert 1 == made.proxy.counts["reset"]


def test_a_reset_of_one_side_is_passed_on() -> None:
    """It is no proper end."""
    with line() as made:
        client, server = made.join()
        with closing(server):
            client.sendall(b"x")
            assert b"x" == server.recv(1)
            client.setsockopt(constants.SOL_SOCKET, constants.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            assert is_reset(server)


def test_half_open_swallows_everything_and_tells_nobody() -> None:
    """Not even the end of a side; new connections get no answer; healed, only new ones live."""
    with line() as made:
        client, server = made.join()
        with closing(server):
            made.proxy.half_open()
            client.sendall(b"lost")
            assert wait_for(lambda: 4 == made.proxy.counts["swallowed"])
            client.close()
            made.dial().sendall(b"hello")
            assert wait_for(lambda: 9 == made.proxy.counts["swallowed"])
            server.settimeout(0.1)
            with pytest.raises(TimeoutError):
                server.recv(1)

            made.proxy.heal()
            with pytest.raises(TimeoutError):
                server.recv(1)
            alive, end = made.join()
            with closing(alive), closing(end):
                alive.sendall(b"x")
                assert b"x" == end.recv(1)


def test_half_open_one_way() -> None:
    """What goes the other way arrives."""
    with line() as made:
        client, server = made.join()
        with closing(client), closing(server):
            made.proxy.half_open("up")
            client.sendall(b"lost")
            server.sendall(b"told")
            assert b"told" == read(client, 4)
            assert wait_for(lambda: 4 == made.proxy.counts["swallowed"])


def test_a_stall_holds_bytes_back_and_loses_none() -> None:
    """One way or both; the sender is held up once buffers are full."""
    with line() as made:
        client, server = made.join()
        with closing(client), closing(server):
            made.proxy.stall("up")
            sent = gevent.spawn(send_all, client, bytes(20_000_000))
            server.sendall(b"x")
            assert b"x" == client.recv(1)
            server.settimeout(0.1)
            with pytest.raises(TimeoutError):
                server.recv(1)
            assert not sent.ready()

            server.settimeout(PATIENCE)
            made.proxy.resume("up")
            assert 20_000_000 == len(read(server, 20_000_001))


def test_duplicated_bytes_come_twice() -> None:
    """Whole, however they were cut, and only the next ones."""
    with line() as made:
        client, server = made.join()
        with closing(client), closing(server):
            made.proxy.duplicate(4, "up")
            made.proxy.slice(3)
            client.sendall(b"abcdef")
            assert b"abc" == read(server, 3)
            assert b"defabcd" == read(server, 7)
            client.sendall(b"gh")
            assert b"gh" == read(server, 2)


def test_refused_connections_and_the_port_that_stays() -> None:
    """Open connections live on, and healed it listens where it did."""
    with line() as made:
        client, server = made.join()
        with closing(client), closing(server):
            address = made.proxy.address
            made.proxy.refuse()
            made.proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                made.dial()
            client.sendall(b"x")
            assert b"x" == server.recv(1)

            made.proxy.heal()
            assert address == made.proxy.address
            client2, server2 = made.join()
            client2.close(), server2.close()


def test_connections_over_the_limit_are_reset() -> None:
    """Until there is room again."""
    with line() as made:
        made.proxy.limit(1)
        client, server = made.join()
        with closing(client), closing(server):
            assert is_reset(made.dial)
            assert 1 == made.proxy.counts["turned_away"]
        assert wait_for(lambda: not made.proxy.connections)
        client, server = made.join()
        client.close(), server.close()


def test_a_target_that_cannot_be_reached() -> None:
    """Is a reset, and counted; the proxy can be led elsewhere."""
    with line() as made, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        made.proxy.retarget(unused.getsockname())
        with suppress(ConnectionResetError):  # it may come before `connect` has returned
            assert is_reset(made.dial())
        assert wait_for(lambda: made.proxy.counts["failed"] == 1)
        made.proxy.retarget(made.listening.getsockname())
        client, server = made.join()
        client.close(), server.close()


def test_it_can_be_told_from_any_thread() -> None:
    """And from many at once."""
    with line() as made:
        client, server = made.join()
        with closing(client), closing(server):
            threads = [threading.Thread(target=made.proxy.slice, args=(size,)) for size in range(1, 9)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            made.proxy.cut()
            assert b"" == client.recv(1)


def test_nothing_is_left_of_it() -> None:
    """Connections, threads and descriptors end with the block, in whatever state they are."""
    census = Census()
    with line() as made:
        ends = [made.join() for _ in range(3)]
        made.proxy.stall()
        ends[0][0].sendall(bytes(100_000))
        made.proxy.refuse()
        made.proxy.half_open()
    made.proxy.close()
    for client, server in ends:
        client.close(), server.close()
    del made, ends
    assert {} == census.grown()


def test_it_runs_once() -> None:
    """Closed before its start it does nothing; a second start would leave the first one behind."""
    proxy = FaultProxy("127.0.0.1:1")
    proxy.close()
    with proxy, pytest.raises(LocalProtocolError, match="once"):
        proxy.start()
    with pytest.raises(LocalProtocolError, match="once"):
        proxy.start()


def test_a_file_in_its_place_survives(tmp_path: Path) -> None:
    """Only what a socket has left there is removed."""
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError):
        FaultProxy("127.0.0.1:1", unix=str(path)).start()
    assert "data" == path.read_text()
