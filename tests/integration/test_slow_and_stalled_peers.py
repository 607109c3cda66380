"""Story: a peer that hangs, crawls or has no link harms nobody else, and I am told what it is."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest

from tests.running import PATCHED, PATIENCE, running, wait_for
from webmesh import ConnectionClosed, Limits, Timeouts, WebMeshClient, WebMeshServer
from webmesh.message_serializers import MessagePackSerializer
from webmesh.protocol.frames import CloseReceived, Frames
from webmesh.testing import RecordingObserver
from webmesh.websocket.websocket_connection import WebSocketConnection

ROOT = Path(__file__).parent.parent.parent
NOISE = os.urandom(100_000)
"""What no serializer can shrink."""
QUICK = Timeouts(ping_interval=0.3, stalled=0.2, liveness=20, write=20, close=0.3)

CLIENT = """
import sys
from webmesh import WebMeshClient
client = WebMeshClient(sys.argv[1])
client.on("/who", blocking=False)(lambda payload, path, peer: "client")
client.connect().wait_closed()
"""
SERVER = """
from webmesh import WebMeshServer
server = WebMeshServer()
server.on("/who", blocking=False)(lambda payload, path, peer: "server")
server.listen(port=0)
server.await_started()
print(server.url, flush=True)
server.serve_forever()
"""
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@contextmanager
def program(code: str, *arguments: str) -> Iterator[Any]:
    """A Python process, which is ended after the test even if it was stopped."""
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


class Crawler:
    """A peer by hand, whose reading is in the test's hands; its system keeps little for it."""

    def __init__(self, server: WebMeshServer) -> None:
        self.sock = gevent.socket.socket()
        self.sock.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_RCVBUF, 8192)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(("127.0.0.1", server.port))
        self.sock.sendall(UPGRADE)
        self.frames = Frames(client=True, limits=Limits())
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.sock.recv(1)
        self.received: list[Any] = []

    def read(self, size: int = 65536) -> bool:
        """Take at most so many bytes; false at the end."""
        try:
            data = self.sock.recv(size)
        except ConnectionResetError:
            return False
        self.received += self.frames.receive(data)
        while self.frames.pending:
            self.received += self.frames.receive()
        return bool(data)

    def read_out(self) -> list[Any]:
        """Everything until the end."""
        while self.read():
            pass
        return self.received


@contextmanager
def crawling(**options: Any) -> Iterator[tuple[WebMeshServer, WebSocketConnection, Crawler]]:
    """A server with one such peer."""
    server = WebMeshServer(**options)
    with running(server):
        crawler = Crawler(server)
        assert wait_for(lambda: server.connections)
        yield server, server.connections[0], crawler
        crawler.sock.close()


def check_stall(peer: WebSocketConnection, process: Any, observer: RecordingObserver, name: str) -> None:
    """Stop the process behind *peer*, and let it go on."""
    assert name == peer.call("/who")
    os.kill(process.pid, signal.SIGSTOP)
    assert wait_for(lambda: ") T " in Path(f"/proc/{process.pid}/stat").read_text())  # it may still answer before
    answer = peer.spawn("/who", timeout=PATIENCE)
    assert wait_for(lambda: peer.stalled)
    assert peer.stats.stalled
    assert peer.open
    assert not answer.done()

    os.kill(process.pid, signal.SIGCONT)
    assert name == answer.result()
    assert wait_for(lambda: not peer.stalled)
    assert wait_for(lambda: 2 == len(observer.named("peer_stalled")))
    assert [(peer, True), (peer, False)] == observer.named("peer_stalled")
    assert name == peer.call("/who")


@pytest.mark.row(70)
@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")
def test_a_stopped_client_is_stalled_and_comes_back():
    """Its machine still acknowledges: nothing is dropped, and a call waits for it."""
    observer = RecordingObserver()
    server = WebMeshServer(timeouts=QUICK, observer=observer)
    with running(server), program(CLIENT, server.url) as process:
        assert wait_for(lambda: server.connections)
        check_stall(server.connections[0], process, observer, "client")


@pytest.mark.row(70)
@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")
def test_a_stopped_server_is_stalled_and_comes_back():
    """A client sees the same of its server."""
    observer = RecordingObserver()
    with program(SERVER) as process:
        url = process.stdout.readline().strip()
        with WebMeshClient(url, timeouts=QUICK, observer=observer) as client:
            check_stall(client.connect(), process, observer, "server")


def alone(story: str) -> Any:
    """What came of a story of `lonely_network`, in a network of its own."""
    tools = [shutil.which(name) for name in ("unshare", "ip", "tc")]
    if None in tools or subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("needs root, unshare, ip and tc to make a network")
    mode = ["gevent.monkey", "--module"] if PATCHED else []
    command = ["unshare", "--net", sys.executable, "-m", *mode, "tests.integration.lonely_network", story]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    if "Unknown qdisc" in done.stderr or "Specified qdisc" in done.stderr:
        pytest.skip("this kernel has no tbf")
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


@pytest.mark.row(68, 69)
def test_a_cut_link_is_found_by_both_sides():
    """Nobody is called stalled; the call ends unknown and does not run again after the link is healed."""
    told = alone("partition")

    assert set(told.pop("ends").values()) <= {1006, 4012}
    assert told == {
        "outcome": "lost, started=True", "in time": True, "stalls": 0, "runs": ["once"], "answer": "healed", "open": 1,
    }  # fmt: skip


@pytest.mark.row(68)
def test_a_dead_machine_is_noticed_by_who_does_not_read():
    """The system gives up on our pings there; what had come before is not lost with the link."""
    [[code, reason, messages]] = alone("deaf")["told"]

    assert (1006, 200) == (code, messages)
    assert reason.startswith("the peer's machine does not answer: ")


@pytest.mark.row(79)
def test_a_narrow_link_is_kept_alive():
    """Pings do not wait behind the messages, and bytes that arrive are life."""
    assert {
        "arrived": True, "heard": [200_000, 20_000, 20_000, 20_000], "slow": True, "open": True, "ends": [[], []],
    } == alone("narrow")  # fmt: skip


@pytest.mark.row(67)
def test_a_peer_that_reads_byte_by_byte_is_too_slow():
    """It takes so little that nothing can be written to it within the write deadline."""
    timeouts = Timeouts(ping_interval=5, liveness=20, write=0.6, close=0.3)
    with crawling(timeouts=timeouts) as (_, peer, crawler):
        while not peer.stats.queued:
            peer.notify("/push", NOISE)
        until = gevent.spawn(peer.wait_closed, PATIENCE)
        while not until.ready():
            crawler.read(1)
            gevent.sleep(0.02)

        assert 4008 == until.get().code


@pytest.mark.row(66)
@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_a_peer_that_does_not_read_costs_no_more_than_its_queue(policy: Any):
    """However much it is told: losses are counted, and others are served."""
    observer = RecordingObserver()
    server = WebMeshServer(limits=Limits(send_queue=1_000_000), observer=observer, slow_peer=policy, timeouts=QUICK)
    server.on("/echo")(lambda payload, path, client: payload)
    with running(server):
        crawler = Crawler(server)
        assert wait_for(lambda: server.connections)
        [peer] = server.connections
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with WebMeshClient(server.url) as honest:
            taken = 0
            for number in range(1500):
                taken += peer.notify("/push", NOISE)
                if number % 300 == 0:
                    assert number == honest.call("/echo", number)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

        assert peer.stats.queued <= 1_000_000
        assert peer.stats.dropped == len(observer.named("refused")) >= 1400
        assert {("outgoing", policy)} == set(observer.named("refused"))
        assert (1500 if policy == "drop_oldest" else 1500 - peer.stats.dropped) == taken
        assert grown < 16 * 1024, f"{grown} KiB for 150 MB to a peer that reads none"
        crawler.sock.close()


@pytest.mark.row(66)
def test_a_peer_that_is_cut_off_learns_why():
    """What waited for it is left out, but the reason reaches it."""
    with crawling(timeouts=QUICK, limits=Limits(send_queue=500_000), slow_peer="close") as (_, peer, crawler):
        while peer.notify("/push", NOISE):
            pass
        with pytest.raises(ConnectionClosed, match="too slow"):
            peer.notify("/push", None)
        last = crawler.read_out()[-1]

        assert isinstance(last, CloseReceived) and 4008 == last.code and last.reason.startswith("too slow: ")


def test_a_slow_peer_gets_the_newest_price():
    """Older ones with the same key give way to it, whatever the policy; other messages stay."""
    with crawling(timeouts=QUICK, limits=Limits(send_queue=50_000_000)) as (_, peer, crawler):
        while not peer.stats.queued:
            peer.notify("/push", NOISE)
        for number in range(500):
            assert peer.notify("/price", number, conflate_key="gold", slow_peer="wait" if number % 2 else "close")
        peer.notify("/done")
        assert 499 == peer.stats.conflated
        while b"/done" not in bytes(crawler.received[-1] if crawler.received else b""):
            crawler.read()

    read = MessagePackSerializer(Limits()).deserialize
    messages = [read(message) for message in crawler.received if isinstance(message, bytes)]
    assert [499] == [message["data"] for message in messages if message["path"] == "/price"]


@pytest.mark.row(23)
def test_a_peer_that_sends_too_many_messages_is_turned_away():
    """So many a second, averaged over a burst of a second."""
    server = WebMeshServer(limits=Limits(message_rate=50))
    server.on("/echo")(lambda payload, path, client: payload)
    with running(server), WebMeshClient(server.url) as client:
        connection = client.connect()
        assert list(range(40)) == [client.call("/echo", number) for number in range(40)]
        with pytest.raises(ConnectionClosed):
            while True:
                connection.notify("/echo")

        why = connection.wait_closed(PATIENCE)
        assert (1008, "too many messages") == (why.code, why.reason)


@pytest.mark.row(66)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of an end before it is read")
@pytest.mark.parametrize("blocking", [False, True])
def test_a_plain_route_that_does_not_read_learns_of_the_end(blocking: bool):
    """Although reading pauses at the bound; and what the peer had sent is there still."""
    server = WebMeshServer(timeouts=Timeouts(ping_interval=0.3, liveness=5, close=0.3))
    told: list[Any] = []

    @server.websocket("/deaf", blocking=blocking)
    def deaf(connection: WebSocketConnection) -> None:
        connection.wait_closed(PATIENCE)
        told.append(len(list(connection)))

    with running(server):
        crawler = Crawler.__new__(Crawler)
        crawler.sock = gevent.socket.create_connection(("127.0.0.1", server.port))
        crawler.sock.sendall(UPGRADE.replace(b"GET /", b"GET /deaf"))
        assert crawler.sock.recv(4096).startswith(b"HTTP/1.1 101")
        frames = Frames(client=True, limits=Limits())
        crawler.sock.sendall(b"".join(frames.encode("x") for _ in range(200)))
        assert wait_for(lambda: server.connections)
        crawler.sock.close()

        assert wait_for(lambda: told)
        assert [200] == told


@pytest.mark.row(68)
def test_a_stalled_peer_that_is_gone_is_stalled_no_longer() -> None:
    """Else those who count them would count it for ever."""
    observer = RecordingObserver()
    with crawling(timeouts=QUICK, observer=observer) as (_, peer, crawler):
        assert wait_for(lambda: peer.stalled)
        crawler.sock.close()
        assert wait_for(lambda: observer.named("connection_closed"))
        assert [(peer, True), (peer, False)] == observer.named("peer_stalled")


def test_a_stall_and_a_bad_end_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Once each, so that operators can see whom they lost and why."""
    with caplog.at_level(logging.INFO, "webmesh.server"), crawling(timeouts=QUICK) as (_, peer, crawler):
        assert wait_for(lambda: peer.stalled)
        crawler.sock.sendall(b"\xff\xff")
        assert wait_for(lambda: peer.close_reason)
        told = [(one.message, one.connection) for one in caplog.records if one.levelno == logging.WARNING]
        assert [("peer stalled", peer.id), ("connection ended badly", peer.id)] == told
