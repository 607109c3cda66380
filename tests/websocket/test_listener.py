"""Accepting: places, shutting down, and a process that runs out of descriptors."""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket as stdlib_socket

import gevent
import pytest
from gevent import monkey
from gevent.event import Event
from gevent.server import StreamServer
from gevent.socket import AF_INET, SOCK_STREAM, socket

from tests.websocket.loopback import (
    PATIENCE,
    accept_all,
    descriptors,
    each_mode,
    echo,
    exchange,
    listening,
    no_more_than,
    peer,
    peer_at,
    read_head,
    read_to_end,
    run_program,
    status_of,
    until,
    upgrade,
)
from webmesh.exceptions import LocalProtocolError
from webmesh.log_limit import limit_logs
from webmesh.observer import NO_OBSERVER
from webmesh.options import Limits, Timeouts
from webmesh.exceptions import ListenFailed
from webmesh.websocket.http import pages
from webmesh.websocket.hub import HubThread
from webmesh.websocket.listener import Listener
from webmesh.websocket.tls import ServerTLS
from webmesh.websocket.upgraded import TcpAddress, UnixAddress


def connected(listener: Listener) -> socket:
    """A peer whose upgrade was accepted."""
    sock = peer(listener)
    sock.sendall(upgrade())
    assert 101 == status_of(read_head(sock))
    return sock


def new_listener(address: object) -> Listener:
    return Listener(
        address, limits=Limits(), timeouts=Timeouts(), observer=NO_OBSERVER, tls=None, decide=accept_all, serve=echo,
        http=pages(ready=lambda: True),
    )  # fmt: skip


def test_port_0_is_told_once_it_is_known():
    """Before `start` there is no address to tell."""
    listener = new_listener(TcpAddress("127.0.0.1", 0))
    with pytest.raises(LocalProtocolError, match="not been started"):
        listener.address

    listener.start()

    assert f"127.0.0.1:{listener.port}" == listener.address
    connected(listener).close()
    listener.close(0.0)


def test_a_listener_starts_once():
    """A second start would leave the first socket behind."""
    with listening() as listener:
        with pytest.raises(LocalProtocolError, match="already"):
            listener.start()


def test_a_port_that_is_taken_is_told_and_nothing_is_left():
    """The caller of `start` gets the reason; closing is possible all the same."""
    with listening() as first:
        before = descriptors()
        second = new_listener(TcpAddress("127.0.0.1", first.port))

        with pytest.raises(ListenFailed):
            second.start()
        second.close(0.0)

        assert no_more_than(before)


def test_the_backlog_is_the_limit_s(monkeypatch):
    """A burst waits in the kernel's queue; with gevent's own default much of it would be refused."""
    lengths = []
    listen = socket.listen if "listen" in vars(socket) else None

    def listen_noted(sock, length):
        lengths.append(length)
        sock._sock.listen(length)

    monkeypatch.setattr(socket, "listen", listen_noted, raising=False)
    with listening(limits=Limits(backlog=7)):
        assert ([7], None) == (lengths, listen)


@pytest.mark.parametrize("address", [TcpAddress("::", 0), TcpAddress("127.0.0.1", 0), None], ids=["::", "IPv4", "unix"])
def test_peers_have_an_address_on_every_family(address, tmp_path, monkeypatch):
    """The decider and the log see who it is."""
    monkeypatch.chdir(tmp_path)
    seen = []

    def serve(upgraded):
        seen.append(upgraded.address)
        echo(upgraded)

    with listening(address or UnixAddress("shop.sock"), serve=serve) as listener:
        where = listener.address.replace("[::]", "127.0.0.1")
        with peer_at(where) as sock:
            sock.sendall(upgrade())
            read_head(sock)
            expected = where if address is None else "{}:{}".format(*sock.getsockname())
    assert [expected] == seen


def test_one_of_several_leaves_its_address_and_loses_nobody():
    """Who waits in its queue is accepted before that is closed, which would reset them; later ones are another's."""
    with listening(TcpAddress("127.0.0.1", 0, shared=True), shared=True) as first:
        waiting = [peer(first) for _ in range(40)]
        with listening(TcpAddress("127.0.0.1", first.port, shared=True), shared=True) as second:
            first.leave_to_others()
            later = [peer(second) for _ in range(10)]
            for sock in (*waiting, *later):
                sock.sendall(upgrade())
                assert 101 == status_of(read_head(sock))
            assert (len(waiting), len(later)) == (first.connections, second.connections)
            for sock in (*waiting, *later):
                sock.close()


def test_the_only_one_does_not_leave_its_address():
    """There is nobody to leave it to: newcomers are told in words that it closes."""
    with listening() as listener:
        listener.leave_to_others()
        peer(listener).close()


def test_a_socket_that_listens_already_is_served():
    """As handed over by a service manager, with a client in its queue."""
    given = stdlib_socket.socket(AF_INET, SOCK_STREAM)
    given.bind(("127.0.0.1", 0))
    given.listen(5)
    early = peer_at("{}:{}".format(*given.getsockname()))
    with listening(given) as listener, early:
        early.sendall(upgrade())
        assert 101 == status_of(read_head(early))
        assert f"127.0.0.1:{listener.port}" == listener.address


@pytest.mark.row(90)
def test_a_listener_lives_in_the_thread_that_started_it():
    """A server has a hub of its own in an unpatched process: TLS, sockets and deadlines all belong to that one."""
    home, listener = HubThread("test"), new_listener(TcpAddress("127.0.0.1", 0))
    home.start()
    try:
        home.run(listener.start)
        with connected(listener) as sock:
            sock.sendall(b"ping")
            assert b"ping" == sock.recv(4)
        home.run(listener.close, 0.0)
        with pytest.raises(ConnectionRefusedError):
            peer(listener)
    finally:
        home.stop()


@pytest.mark.row(1)
def test_silent_peers_are_closed_at_the_deadline(witness, server_log):
    """Nobody keeps a place by saying nothing: each is counted, and told once."""
    with listening(timeouts=Timeouts(upgrade=0.2), observer=witness) as listener:
        silent = [peer(listener) for _ in range(20)]
        for sock in silent:
            assert b"" == read_to_end(sock)
            sock.close()
        until(lambda: listener.newcomers == 0)

    assert [(0, "no whole request in time")] * 20 == witness.reasons
    assert 20 == sum(record.msg == "handshake refused" for record in server_log.records)


@pytest.mark.row(1)
def test_the_oldest_silent_peer_is_dropped_for_a_new_one(witness, server_log):
    """At the cap on unfinished handshakes the newest gets in: it may be honest, the oldest hardly is."""
    with listening(limits=Limits(handshakes=3), observer=witness) as listener:
        silent = []
        for count in range(1, 5):
            silent.append(peer(listener))
            until(lambda: listener.newcomers == min(count, 3))

        assert b"" == read_to_end(silent[0])
        assert [(0, "dropped for a newer one")] == witness.wait_for(1)
        connected(listener).close()
        assert b"" == read_to_end(silent[1])
        for sock in silent:
            sock.close()


@pytest.mark.row(1)
def test_honest_clients_get_in_while_silent_ones_fill_every_place(server_log):
    """More silent peers than there are places of any kind: each honest one is served all the same."""
    limits = Limits(connections=8, spare_connections=2, handshakes=100)
    with listening(limits=limits) as listener:
        silent = [peer(listener) for _ in range(40)]
        honest = [connected(listener) for _ in range(8)]
        assert 8 == listener.connections
        for sock in silent + honest:
            sock.close()


@pytest.mark.row(1)
def test_five_thousand_silent_peers(witness, server_log):
    """None is left after the deadline, an honest client connects meanwhile, and the log stays small."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files[1] < 12_000:
        pytest.skip("needs 12,000 descriptors, 5,000 for either end")
    limit_logs()  # as whoever makes a server does
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files[0], 12_000), files[1]))
    try:
        with listening(limits=Limits(handshakes=6000), timeouts=Timeouts(upgrade=2.0), observer=witness) as listener:
            silent = [peer(listener) for _ in range(5000)]
            connected(listener).close()
            for sock in silent:
                assert b"" == read_to_end(sock)
                sock.close()
            until(lambda: listener.newcomers == 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)

    assert [(0, "no whole request in time")] * 5000 == witness.reasons
    assert len(server_log.records) < 1000


@pytest.mark.row(2)
def test_a_slow_head_has_the_same_deadline(witness, server_log):
    """One byte after the other makes progress and gains no time."""
    with listening(timeouts=Timeouts(upgrade=0.3), observer=witness) as listener, peer(listener) as sock:
        with pytest.raises(OSError), gevent.Timeout(PATIENCE):
            for byte in upgrade("/" + "x" * 8000):
                sock.sendall(bytes([byte]))
                gevent.sleep(0.01)

    assert [(0, "no whole request in time")] == witness.reasons


def test_a_full_server_says_when_to_come_back(witness, server_log):
    """503 with Retry-After, at once, instead of a connection that hangs; when one ends the next is served."""
    with listening(limits=Limits(connections=2, spare_connections=2), observer=witness) as listener:
        first, second = connected(listener), connected(listener)

        answer = exchange(listener, upgrade())

        assert 503 == status_of(answer)
        assert b"\r\nretry-after: " in answer.lower()
        assert [(503, "the server is full")] == witness.reasons
        first.close()
        until(lambda: listener.connections == 1)
        connected(listener).close()
        second.close()


def test_a_full_server_still_answers_http():
    """Probes must see that it lives, and may see that it is not ready."""
    with listening(limits=Limits(connections=1, spare_connections=1)) as listener, connected(listener):
        assert 200 == status_of(exchange(listener, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"))


@pytest.mark.row(1)
def test_silent_peers_cannot_silence_a_full_server(server_log):
    """The spare places are for answering 503: whoever holds one without a word loses it to the next."""
    with listening(limits=Limits(connections=1, spare_connections=2)) as listener, connected(listener):
        silent = [peer(listener) for _ in range(10)]
        assert 503 == status_of(exchange(listener, upgrade()))
        for sock in silent:
            sock.close()


@pytest.mark.row(71)
def test_nothing_is_left_of_peers_that_failed(authority, server_log):
    """Descriptors and places are back after failures of every kind."""
    with listening() as listener:
        connected(listener).close()
        until(lambda: listener.connections == 0)
        before = descriptors()
        for sent in (b"", b"BAD\r\n\r\n", b"GET", upgrade("/", "Content-Length: 5"), upgrade() + b"x"):
            exchange(listener, sent)
        until(lambda: (listener.connections, listener.newcomers) == (0, 0))
        until(lambda: no_more_than(before))


def test_stop_accepting_closes_the_door_only():
    """Connections live on, new ones are refused by the system, a successor can have the port."""
    with listening() as listener, connected(listener) as sock:
        listener.stop_accepting()
        listener.stop_accepting()

        with pytest.raises(ConnectionRefusedError):
            peer(listener)
        sock.sendall(b"still here")
        assert b"still here" == sock.recv(100)
        with listening(TcpAddress("127.0.0.1", listener.port)) as successor:
            connected(successor).close()


def test_closing_waits_for_connections_that_end():
    """A server that drains gives them their time."""
    ending, finished = Event(), []

    def serve(upgraded):
        ending.wait(PATIENCE)
        gevent.sleep(0.01)
        finished.append(upgraded.address)

    with listening(serve=serve) as listener:
        with connected(listener):
            gevent.spawn_later(0.01, ending.set)
            listener.close(PATIENCE)
            assert 1 == len(finished)


def test_closing_ends_what_has_not_ended():
    """After the time given, connections are killed and their sockets closed."""
    with listening() as listener:
        sock = connected(listener)
        listener.close(0.01)

        assert b"" == read_to_end(sock)
        assert (0, 0) == (listener.connections, listener.newcomers)
        sock.close()


def test_closing_does_not_wait_for_the_silent(witness, server_log):
    """Peers that have not asked for anything lose nothing."""
    with listening(timeouts=Timeouts(upgrade=PATIENCE * 10), observer=witness) as listener:
        sock = peer(listener)
        until(lambda: listener.newcomers == 1)
        with gevent.Timeout(PATIENCE):
            listener.close(PATIENCE * 10)

        assert b"" == read_to_end(sock)
        sock.close()
    assert [(0, "the server closes")] == witness.reasons


def test_a_peer_that_was_accepted_as_the_listener_closed_is_closed_too(monkeypatch):
    """Its greenlet begins only after the listener has dropped all newcomers: closing does not wait for it."""
    accept, closing = StreamServer.do_read, []

    def close_and_accept(server):
        accepted = accept(server)
        if accepted:
            closing.append(gevent.spawn(listener.close, PATIENCE * 10))
        return accepted

    monkeypatch.setattr(StreamServer, "do_read", close_and_accept)
    with listening(timeouts=Timeouts(upgrade=PATIENCE * 10)) as listener, peer(listener) as sock:
        assert b"" == read_to_end(sock)
        closing[0].get(timeout=PATIENCE)


def test_a_connection_may_close_the_listener_that_it_came_by():
    """It does not wait for itself."""
    with listening(serve=lambda upgraded: listener.close(PATIENCE * 10)) as listener:
        with gevent.Timeout(PATIENCE), connected(listener) as sock:
            assert b"" == read_to_end(sock)


def test_a_closed_listener_gives_everything_back(tmp_path, monkeypatch):
    """Descriptors, the port, and the file of a Unix socket."""
    monkeypatch.chdir(tmp_path)
    with listening():
        pass  # the first one makes the hub open descriptors of its own
    before = descriptors()
    for address in (TcpAddress("127.0.0.1", 0), UnixAddress("shop.sock", 0o600)):
        with listening(address) as listener:
            connected(listener).close()
        until(lambda: no_more_than(before))
    assert not os.path.exists("shop.sock")


def test_a_repr_shows_where_and_how_many():
    """For logs and debuggers."""
    assert "not started" in repr(new_listener(TcpAddress("127.0.0.1", 0)))
    with listening() as listener, connected(listener):
        assert f"<Listener {listener.address} connections=1 newcomers=0>" == repr(listener)


STARVED_PROGRAM = """
import contextlib, logging, resource, sys, time
from gevent.os import make_nonblocking, nb_read
from webmesh.observer import NO_OBSERVER
from webmesh.options import Limits, Timeouts
from webmesh.websocket import listener as module
from webmesh.websocket.http import pages
from webmesh.websocket.upgraded import Acceptance, TcpAddress

def serve(upgraded):
    with contextlib.suppress(OSError):
        upgraded.sock.recv(1)

logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
if "no-spare" in sys.argv:
    module._open_spare = lambda: None  # as when another thread has taken it
listener = module.Listener(
    TcpAddress("127.0.0.1", 0), limits=Limits(), timeouts=Timeouts(), observer=NO_OBSERVER, tls=None,
    decide=lambda *args: Acceptance(None), serve=serve, http=pages(ready=lambda: True),
)
listener.start()
print(listener.address, flush=True)
make_nonblocking(0)
while nb_read(0, 100):
    print(time.process_time(), flush=True)
listener.close(0.0)
"""


class Starved:
    """A server in a process of its own that may open no more than 40 descriptors."""

    def __init__(self, *arguments: str, patched: bool) -> None:
        self._program = run_program(STARVED_PROGRAM, *arguments, patched=patched)
        self.address = self._program.stdout.readline().strip()

    def __enter__(self) -> Starved:
        return self

    def __exit__(self, *exception: object) -> None:
        self._program.kill()
        self._program.communicate()

    def processor_time(self) -> float:
        """Seconds of CPU that it has used."""
        self._program.stdin.write("?")
        self._program.stdin.flush()
        return float(self._program.stdout.readline())

    def finish(self) -> list[str]:
        """End it; returns the lines that it has logged."""
        out, err = self._program.communicate(timeout=PATIENCE)
        assert 0 == self._program.returncode
        return err.splitlines()


def knock(address: str) -> tuple[socket, bytes]:
    """Ask for an upgrade; the socket and the first bytes of the answer, none where it was just closed."""
    sock = peer_at(address)
    try:
        sock.sendall(upgrade())
        return sock, sock.recv(12)
    except ConnectionError:
        return sock, b""


def welcomed(address: str) -> bool:
    """Whether an upgrade is accepted now."""
    sock, answer = knock(address)
    sock.close()
    return answer == b"HTTP/1.1 101"


@pytest.mark.row(84)
@each_mode
def test_out_of_descriptors_clients_are_told_to_come_back(patched):
    """Those who are connected stay, the rest get 503 at once, the process idles, and one line a second is logged."""
    with Starved(patched=patched) as server:
        knocks = [knock(server.address) for _ in range(100)]
        before = server.processor_time()
        gevent.sleep(0.5)
        idle = server.processor_time() - before
        served = [sock for sock, answer in knocks if answer == b"HTTP/1.1 101"]
        for sock in served[:5]:
            sock.close()
        until(lambda: welcomed(server.address))
        lines = server.finish()
    for sock, _ in knocks:
        sock.close()

    # Where the request crossed the refusal, a reset may have eaten the answer.
    turned_away = [answer for _, answer in knocks if answer == b"HTTP/1.1 503"]
    assert len(served) >= 10
    assert len(turned_away) >= (100 - len(served)) / 2
    assert idle < 0.2
    assert {"ERROR webmesh.server connections cannot be accepted"} == set(lines)
    assert len(lines) <= 5


@pytest.mark.row(84)
@each_mode
def test_without_even_a_spare_descriptor_accepting_rests(patched):
    """Clients wait in the kernel's queue, nothing spins, and accepting goes on when descriptors are back."""
    with Starved("no-spare", patched=patched) as server:
        served, waiting = [], None
        while waiting is None:
            sock = peer_at(server.address)
            sock.settimeout(0.5)
            sock.sendall(upgrade())
            try:
                sock.recv(12)
                served.append(sock)
            except TimeoutError:
                waiting = sock
        before = server.processor_time()
        gevent.sleep(0.5)
        idle = server.processor_time() - before
        for sock in served:
            sock.close()
        waiting.settimeout(PATIENCE)
        answer = waiting.recv(12)
        waiting.close()
        lines = server.finish()

    assert b"HTTP/1.1 101" == answer
    assert idle < 0.2
    assert {"ERROR webmesh.server connections cannot be accepted"} == set(lines)
    assert len(lines) <= 5


@pytest.fixture
def failing_accept(monkeypatch) -> list[int]:
    """Error numbers with which accept fails before it works; the test fills them in."""
    accept, numbers = StreamServer.do_read, []

    def do_read(server):
        if numbers:
            number = numbers.pop()
            raise OSError(number, os.strerror(number))
        return accept(server)

    monkeypatch.setattr(StreamServer, "do_read", do_read)
    return numbers


@pytest.mark.row(84)
@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH])
def test_a_connection_that_was_lost_in_the_queue_is_passed_over(number, failing_accept, witness, server_log):
    """Its error is told by accept, and is none of the listener's: the next client is served at once."""
    with listening(observer=witness) as listener:
        failing_accept.append(number)
        connected(listener).close()

    assert [] == failing_accept
    assert ([], []) == (witness.handshakes, witness.others)


@pytest.mark.row(84)
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_the_spare_descriptor_answers_one_client_each_time(number, failing_accept, witness, server_log):
    """Each is told 503 and counted; with descriptors again, the next is served."""
    with listening(observer=witness) as listener:
        for _ in range(3):
            failing_accept.append(number)
            with peer(listener) as sock:
                assert 503 == status_of(read_to_end(sock))
        connected(listener).close()

    assert [(503, "out of descriptors")] * 3 == witness.reasons
    assert 1 == len([record for record in server_log.records if record.levelno == logging.ERROR])


@pytest.mark.row(84)
def test_a_client_that_has_asked_already_is_not_reset(failing_accept, witness, server_log):
    """Its request is read before it is told 503, as unread bytes would turn the end into a reset."""
    blocking = monkey.get_original("socket", "socket")  # connects and sends without a turn of the hub
    with listening(observer=witness) as listener:
        failing_accept.append(errno.EMFILE)
        with blocking(AF_INET) as asking:
            asking.connect(("127.0.0.1", listener.port))
            asking.sendall(upgrade())
            witness.wait_for(1)
            asking.settimeout(PATIENCE)
            answer = b""
            while data := asking.recv(4096):
                answer += data

    assert 503 == status_of(answer)


@pytest.mark.row(84)
def test_out_of_descriptors_tls_clients_are_closed(authority, failing_accept, witness, server_log):
    """Nothing can be said before TLS, and clear text least of all."""
    with listening(tls=ServerTLS(authority.issue("localhost")), observer=witness) as listener:
        failing_accept.append(errno.EMFILE)
        with peer(listener) as sock:
            assert b"" == read_to_end(sock)

    assert [(0, "out of descriptors")] == witness.reasons


@pytest.mark.row(84)
def test_nobody_is_counted_when_nobody_was_waiting(failing_accept, witness, server_log):
    """The system looks for a descriptor before it looks at the queue."""
    with listening(observer=witness) as listener:
        connected(listener).close()
        failing_accept.append(errno.EMFILE)
        listener._server.do_read()
        connected(listener).close()

    assert ([], []) == (witness.handshakes, witness.others)


@pytest.mark.row(84)
@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_out_of_memory_accepting_rests(number, failing_accept, witness, server_log, monkeypatch):
    """Longer each time, and goes on by itself: whoever waited in the queue is served."""
    delays, spawn_later = [], gevent.spawn_later

    def spawn_noted(delay, function):
        delays.append(delay)
        return spawn_later(delay, function)

    monkeypatch.setattr(gevent, "spawn_later", spawn_noted)
    with listening(observer=witness) as listener:
        failing_accept.extend([number] * 3)
        connected(listener).close()

    assert [delays[0], 2 * delays[0], 4 * delays[0]] == delays
    assert [("accept", os.strerror(number))] * 3 == witness.others
    assert 1 == len([record for record in server_log.records if record.levelno == logging.ERROR])


@pytest.mark.row(84)
def test_a_listener_that_rests_can_be_closed(failing_accept, server_log):
    """It does not come back to life afterwards."""
    with listening() as listener:
        failing_accept.extend([errno.ENOMEM] * 3)
        with peer(listener):
            until(lambda: len(failing_accept) < 3)
            listener.close(0.0)
            gevent.sleep(0.1)
        listener._server._resume()  # as when the pause ends in the very turn in which it is closed
    assert failing_accept
