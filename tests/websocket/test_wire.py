"""Bytes over sockets that never block, plain and TLS: read, written, ended."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.socket import SHUT_WR

from tests.websocket.loopback import PATIENCE, Authority, descriptors, read_to_end, reset, until
from tests.websocket.wires import Wires, each_kind, ragged
from webmesh.websocket.wire import READ_SIZE, TLS_RECORD, PlainWire, TlsWire, wire_for


@pytest.fixture
def wires(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Wires]:
    made = Wires(request.param, authority)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No test waits for ever."""
    with gevent.Timeout(2 * PATIENCE):
        yield


def fill(wire: PlainWire, chunk: bytes = bytes(64 * 1024)) -> int:
    """Send until the socket takes no more; how much that was."""
    total = 0
    while sent := wire.send(chunk):
        total += sent
    return total


@each_kind("unix", "tcp", "tls", "tls12")
def test_each_kind_of_socket_has_its_wire(wires: Wires):
    """In every kind of process: a TLS socket that is taken for a plain one would be written to in the clear."""
    ours, _ = wires.pair()

    assert (TlsWire if wires.tls else PlainWire) is type(wire_for(ours))


@each_kind("unix", "tcp", "tls", "tls12")
def test_bytes_go_both_ways(wires: Wires):
    """A read gives what is there, and waits for more."""
    ours, theirs = wires.pair()
    wire = wire_for(ours)
    theirs.sendall(b"hello")
    assert b"hello" == wire.recv()
    reading = gevent.spawn(wire.recv)
    gevent.sleep(0)
    assert not reading.ready()
    theirs.sendall(b"again")
    assert b"again" == reading.get(timeout=PATIENCE)

    assert 5 == wire.send(b"there")
    assert b"there" == theirs.recv(100)


@each_kind("unix", "tcp", "tls", "tls12")
def test_more_than_one_read_holds_is_read_in_order(wires: Wires):
    """Also where TLS keeps decrypted bytes that no watcher knows of."""
    ours, theirs = wires.pair(client=True)
    data = bytes(range(256)) * (4 * READ_SIZE // 256)
    sending = gevent.spawn(theirs.sendall, data)
    wire, received = wire_for(ours), b""
    while len(received) < len(data):
        received += wire.recv()

    sending.get(timeout=PATIENCE)
    assert data == received


@each_kind("tls", "tls12")
def test_bytes_that_tls_has_decrypted_are_not_waited_for(wires: Wires, monkeypatch: pytest.MonkeyPatch):
    """The socket is silent, but a record was larger than a read."""
    monkeypatch.setattr("webmesh.websocket.wire.READ_SIZE", 1000)
    ours, theirs = wires.pair()
    theirs.sendall(bytes(2500))
    wire = wire_for(ours)

    assert [1000, 1000, 500] == [len(wire.recv()) for _ in range(3)]


@each_kind()
def test_a_full_socket_takes_nothing_and_says_when_it_does(wires: Wires):
    """Sending never waits; waiting is for who has nothing else to do."""
    ours, theirs = wires.pair(small=True)
    wire = wire_for(ours)
    sent = fill(wire)
    waiting = gevent.spawn(wire.wait_writable)
    gevent.sleep(0.01)
    assert not waiting.ready()

    while sent:
        sent -= len(theirs.recv(sent))
    waiting.get(timeout=PATIENCE)
    assert 0 < wire.send(bytes(64 * 1024))


@each_kind("unix", "tcp", "tls", "tls12")
def test_what_is_taken_arrives_although_it_was_cut_anywhere(wires: Wires):
    """A part that was refused is offered again from where the taken one ended, as the stream does it."""
    ours, theirs = wires.pair(small=True)
    wire = wire_for(ours)
    data = bytes(range(251)) * 4000
    received = bytearray()

    def read() -> None:
        while len(received) < len(data):
            received.extend(theirs.recv(5000))

    reading, rest, partly = gevent.spawn(read), memoryview(data), False
    while rest:
        sent = wire.send(rest)
        partly = partly or 0 < sent < len(rest)
        rest = rest[sent:]
        if rest:
            wire.wait_writable()
    reading.join(PATIENCE)

    assert data == bytes(received)
    assert partly


@each_kind("tls", "tls12")
@pytest.mark.row(67)
def test_a_large_message_shows_progress_over_tls(wires: Wires):
    """OpenSSL says of a large piece only that all of it was taken: a peer that reads slowly would seem not to read."""
    ours, theirs = wires.pair(small=True)
    wire = wire_for(ours)
    sent = wire.send(bytes(64 * TLS_RECORD))

    assert 0 < sent < 64 * TLS_RECORD
    assert 0 == sent % TLS_RECORD
    theirs.recv(1)


@each_kind()
def test_the_end_of_what_the_peer_sends_is_no_bytes(wires: Wires):
    """Everything before it is read; we can still answer."""
    ours, theirs = wires.pair()
    wire = wire_for(ours)
    theirs.sendall(b"last")
    theirs._sock.shutdown(SHUT_WR)  # over TLS without a word of its own: frames tell whether something was cut off

    assert [b"last", b"", b""] == [wire.recv() for _ in range(3)]
    if not wires.tls:
        wire.send(b"answer")
        assert b"answer" == theirs.recv(100)


@each_kind("tls", "tls12")
def test_the_proper_end_of_tls_is_no_bytes(wires: Wires):
    """With the peer's close_notify, which it waits for ours after."""
    ours, theirs = wires.pair()
    wire = wire_for(ours)
    ending = gevent.spawn(theirs.unwrap)

    assert b"" == wire.recv()
    wire.close(cut=False)
    ending.get(timeout=PATIENCE)


@each_kind("tcp", "tls")
@pytest.mark.row(71)
def test_a_reset_is_the_end_for_the_reader_and_an_error_for_the_writer(wires: Wires):
    """Whatever the peer had sent and received."""
    ours, theirs = wires.pair()
    wire = wire_for(ours)
    reading = gevent.spawn(wire.recv)
    gevent.sleep(0)
    reset(theirs)

    assert b"" == reading.get(timeout=PATIENCE)
    with pytest.raises(OSError):
        for _ in range(3):
            wire.send(b"late")


@each_kind("tls", "tls12")
def test_garbage_instead_of_tls_is_the_end(wires: Wires):
    """Whoever can write into the connection can end it, and no more."""
    ours, theirs = wires.pair()
    theirs._sock.send(b"GET / HTTP/1.1\r\n\r\n")

    assert b"" == wire_for(ours).recv()


@each_kind("unix", "tcp", "tls", "tls12")
def test_ending_what_we_send_leaves_reading_open(wires: Wires):
    """The peer sees a proper end, and what it sends is still read; TLS says so itself."""
    ours, theirs = wires.pair()
    wire = wire_for(ours)
    wire.send(b"last word")
    wire.end_writing()
    wire.end_writing()

    assert b"last word" == theirs.recv(100)
    assert not ragged(theirs) if wires.tls else b"" == theirs.recv(100)
    if wires.kind != "tls12":  # a half of TLS 1.2 cannot be closed alone (RFC 5246 section 7.2.1)
        theirs.sendall(b"more")
        assert b"more" == wire.recv()
    with pytest.raises(OSError):
        wire.send(b"in the clear?")


@each_kind("tls", "tls12")
@pytest.mark.row(64)
@pytest.mark.parametrize("cut", [False, True])
def test_a_cut_off_end_of_tls_shows(wires: Wires, cut: bool):
    """What was not sent must not look as if it had never been; what was sent to its end must not look cut."""
    ours, theirs = wires.pair()
    wire = wire_for(ours)
    wire.send(b"all or a part")
    wire.close(cut=cut)

    assert cut == ragged(theirs)


@each_kind()
def test_closing_wakes_the_reader_and_the_writer(wires: Wires):
    """And gives the descriptor back, also when another process shares it; twice does no harm."""
    ours, theirs = wires.pair(small=True)
    before = len(descriptors())
    copy = os.dup(ours.fileno())
    wire = wire_for(ours)
    fill(wire)
    reading = gevent.spawn(wire.recv)
    writing = gevent.spawn(wire.wait_writable)
    gevent.sleep(0)
    wire.close(cut=True)
    wire.close(cut=True)

    assert b"" == reading.get(timeout=PATIENCE)
    with pytest.raises(OSError):
        writing.get(timeout=PATIENCE)
    assert ragged(theirs) if wires.tls else read_to_end(theirs)
    os.close(copy)
    until(lambda: len(descriptors()) == before - 1)


@each_kind()
def test_a_closed_wire_can_be_used_without_harm(wires: Wires):
    """libev ends the whole process when somebody waits for a socket that is closed."""
    ours, _ = wires.pair()
    wire = wire_for(ours)
    wire.close(cut=False)

    assert b"" == wire.recv()
    for use in (wire.wait_writable, lambda: wire.send(b"late")):
        with pytest.raises(OSError):
            use()
    wire.end_writing()


@each_kind()
def test_a_descriptor_that_was_closed_behind_our_back_is_no_error(wires: Wires):
    """Somebody's os.close() must not keep us from ending."""
    ours, _ = wires.pair()
    wire = wire_for(ours)
    ours._sock.close()
    wire.close(cut=False)


@pytest.mark.row(95)
@each_kind()
def test_a_reader_that_is_killed_leaves_the_link_as_it_was(wires: Wires):
    """Nothing was read, and somebody else can."""
    ours, theirs = wires.pair()
    wire = wire_for(ours)
    reading = gevent.spawn(wire.recv)
    gevent.sleep(0)
    reading.kill()
    theirs.sendall(b"hello")

    assert b"hello" == wire.recv()


class Renegotiating:
    """A TLS socket that wants to write before it reads, as for a key update while its buffer is full."""

    def __init__(self, sock: Any) -> None:
        self._real = sock
        self.wanted = 2

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def recv(self, size: int) -> bytes:
        if self.wanted:
            self.wanted -= 1
            raise ssl.SSLWantWriteError
        return self._real.recv(size)  # type: ignore[no-any-return]


@each_kind("tls")
def test_a_read_that_must_write_first_is_tried_again(wires: Wires):
    """It is not the end of the connection."""
    ours, theirs = wires.pair()
    wire = TlsWire(Renegotiating(ours))  # type: ignore[arg-type]
    theirs.sendall(b"hello")

    assert b"hello" == wire.recv()


@each_kind("tls")
def test_a_read_that_waits_to_write_learns_of_the_end(wires: Wires):
    """Closed meanwhile: there is no watcher any more that it could wait with."""
    ours, theirs = wires.pair()
    wire = TlsWire(Renegotiating(ours))  # type: ignore[arg-type]
    theirs.sendall(b"hello")
    reading = gevent.spawn(wire.recv)
    until(lambda: wire._sock.wanted < 2)
    wire.close(cut=True)

    assert b"" == reading.get(timeout=PATIENCE)


@pytest.mark.row(51, 82)
@each_kind("unix", "tcp")
def test_nothing_is_watched_while_nobody_reads(wires: Wires):
    """At the bound of handlers a peer's bytes wait in the kernel, and cost the hub one look, not one each turn."""
    ours, theirs = wires.pair()
    wire = wire_for(ours)
    theirs.sendall(b"1")
    assert b"1" == wire.recv()
    theirs.sendall(b"2")
    until(lambda: not wire._readable.active)

    assert b"2" == wire.recv()


@each_kind("unix", "tcp")
def test_a_foreign_switch_is_no_end(wires: Wires):
    """A greenlet that something else wakes looks, finds nothing, and waits on."""
    ours, theirs = wires.pair()
    wire = wire_for(ours)
    reading = gevent.spawn(wire.recv)
    gevent.sleep(0)
    gevent.get_hub().loop.run_callback(reading.switch)
    gevent.sleep(0.01)
    assert not reading.ready()
    theirs.sendall(b"now")

    assert b"now" == reading.get(timeout=PATIENCE)


@each_kind("unix", "tcp", "tls")
def test_whoever_takes_over_reading_gets_what_comes(wires: Wires):
    """The one before was replaced, or killed, in the moment in which it came."""
    ours, theirs = wires.pair()
    wire = wire_for(ours)
    for number in range(5):
        reading = gevent.spawn(wire.recv)
        gevent.sleep(0)
        theirs.sendall(b"%d" % number)
        reading.kill()

        assert b"%d" % number == (reading.value if isinstance(reading.value, bytes) else wire.recv())


@each_kind()
def test_closing_while_nobody_reads_leaves_nothing_active(wires: Wires):
    """A watcher on a closed descriptor would end the process."""
    ours, theirs = wires.pair()
    wire = wire_for(ours)
    theirs.sendall(b"1")
    assert b"1" == wire.recv()
    theirs.sendall(b"2")
    wire.close()
    gevent.sleep(0.01)

    assert not wire._readable.active
    assert b"" == wire.recv()


@pytest.mark.row(88)
@each_kind()
def test_who_leaves_says_nothing(wires: Wires):
    """A forked child closes its copy of the descriptor: to the peer and to the parent nothing has happened."""
    ours, theirs = wires.pair()
    copy = os.dup(ours.fileno())
    wire = wire_for(ours)
    reading = gevent.spawn(wire.recv)
    gevent.sleep(0)
    before = len(descriptors())
    wire.leave()

    until(lambda: len(descriptors()) == before - 1)
    theirs.settimeout(0.01)
    with pytest.raises(OSError, match="timed out"):
        theirs.recv(1)
    with pytest.raises(OSError):
        wire.send(b"late")
    assert b"" == wire.recv()
    reading.kill()
    os.close(copy)
