"""A socket that carries messages: reading, writing, pings, deadlines, the closing handshake."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import Greenlet
from gevent.socket import SHUT_WR
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.raw_frames import BINARY, CLOSE, CONTINUATION, KEY, PING, PONG, TEXT, cut, raw_frame
from tests.websocket.line import Line, settle
from tests.websocket.loopback import PATIENCE, Authority, descriptors, reset, until
from tests.websocket.wires import Wires, each_kind
from webmesh.exceptions import ConnectionClosed, LocalProtocolError
from webmesh.options import Limits, Timeouts
from webmesh.protocol.frames import CloseReceived, Frames, PingReceived, PongReceived
from webmesh.websocket.stream import CLOSED, FLUSH_SIZE, OPEN

SOON = Timeouts(ping_interval=1e6, liveness=2e6, write=1e6, message=1e6, close=0.05)
"""Closing is given up soon."""


@pytest.fixture
def wires(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Wires]:
    made = Wires(getattr(request, "param", "unix"), authority)
    yield made
    made.close()


def alive() -> int:
    """How many greenlets there are."""
    gc.collect()
    return sum(isinstance(each, Greenlet) and bool(each) for each in gc.get_objects())


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    """No test waits for ever."""
    with gevent.Timeout(2.5 * PATIENCE):
        yield


def mask_of(line: Line) -> bytes | None:
    """The key for frames that are written by hand: only clients mask."""
    return KEY if line.stream._client is False else None


# ------------------------------------------------------------------------- reading


@each_kind("unix", "tcp", "tls", "tls12")
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_messages_go_both_ways(wires: Wires, client: bool):
    """Text and bytes, small and large, in order."""
    messages = ["text", b"bytes", "", b"", "ä" * 40_000, bytes(700_000), "last"]
    line = Line(wires, client=client)
    line._answer = line.stream.send
    line.read_on()
    for message in messages:
        line.message(message)

    assert messages == line.hear(len(messages))
    assert messages == line.received
    line.say(line.frames.close(1000))
    line.sock.close() if client else None
    assert 1000 == line.code


@pytest.mark.row(16)
@pytest.mark.parametrize("at", [0, 1, 5, 12, 13, 20, 29])
def test_bytes_that_came_with_the_upgrade_come_first(wires: Wires, at: int):
    """Whole frames and halves of them, however the packets were cut."""
    peer = Frames(client=True, limits=Limits())
    data = peer.encode("first") + peer.encode("second") + peer.ping(b"?")
    line = Line(wires, trailing=data[:at]).read_on()
    line.say(data[at:])

    assert PongReceived(b"?") == line.hear()
    assert ["first", "second"] == line.received
    line.stream.abort(ConnectionClosed(1000))


@pytest.mark.row(16)
def test_bytes_that_came_with_the_upgrade_need_no_more(wires: Wires):
    """They are handled although the peer sends nothing else, the close among them as well."""
    peer = Frames(client=True, limits=Limits())
    line = Line(wires, trailing=peer.encode("only") + peer.close(1000, "done")).read_on()

    assert (1000, "done") == line.end
    assert ["only"] == line.received
    assert ([CloseReceived(1000, "")], "end") == line.hear_out()


@each_kind()
@pytest.mark.row(21)
def test_a_message_may_come_byte_by_byte(wires: Wires):
    """It is put together, and nothing is given out before its end."""
    line = Line(wires).read_on()
    for byte in cut(line.frames.encode("dribble"), 1):
        assert [] == line.received
        line.say(byte)

    until(lambda: ["dribble"] == line.received)
    line.stream.abort(ConnectionClosed(1000))


@pytest.mark.row(82)
def test_a_peer_that_never_pauses_is_read_by_turns(wires: Wires):
    """However much has come: after so many frames the hub serves others."""
    line = Line(wires, limits=Limits(frames_per_turn=4))
    line.say(*(line.frames.encode(str(number)) for number in range(20)))
    turns: list[int] = []

    def count() -> None:
        while line.stream.state is OPEN:
            turns.append(len(line.received))
            gevent.sleep(0)

    counting = gevent.spawn(count)
    line.read_on()
    until(lambda: 20 == len(line.received))
    line.stream.abort(ConnectionClosed(1000))
    counting.join(PATIENCE)

    assert {0, 4, 8, 12, 16} == set(turns) - {20}


@each_kind("unix", "tcp")
def test_what_came_before_half_an_end_is_read_and_answered(wires: Wires):
    """A peer may end what it sends and still read; without a close that is no proper end."""
    line = Line(wires)
    line._answer = line.stream.send
    messages = [b"%d" % number * 1000 for number in range(9)]
    line.sock.sendall(b"".join(map(line.frames.encode, messages)))
    line.hang_up()
    line.read_on()

    assert 1006 == line.code
    assert messages == line.received
    assert messages == line.hear_out()[0]


@each_kind()
@pytest.mark.row(64)
@pytest.mark.parametrize(
    "part",
    [
        raw_frame(TEXT, b"not all of it", declared=100),
        raw_frame(BINARY, b"first of two", fin=False),
        raw_frame(BINARY, b"", fin=False) + raw_frame(CONTINUATION, b"more", fin=False),
        raw_frame(TEXT, b"x" * 300)[:3],
        raw_frame(TEXT, b"x")[:1],
    ],
    ids=["payload", "fragment", "fragments", "long head", "head"],
)
def test_half_a_message_is_never_delivered(wires: Wires, part: bytes):
    """The link ended inside it: it is dropped, with 1006."""
    line = Line(wires).read_on()
    line.say(line.frames.encode("whole"), part)
    line.hang_up()

    assert (1006, "the link ended without a close") == line.end
    assert ["whole"] == line.received


@pytest.mark.row(64)
@each_kind("tls")
def test_half_a_message_is_not_delivered_by_a_proper_end_of_tls(wires: Wires):
    """close_notify is no close: only the frame is."""
    line = Line(wires).read_on()
    line.say(raw_frame(TEXT, b"not all of it", declared=100))
    ending = gevent.spawn(line.sock.unwrap)

    assert 1006 == line.code
    ending.join(PATIENCE)
    assert [] == line.received


@pytest.mark.row(71, 70)
@each_kind("tcp", "tls")
@pytest.mark.parametrize("when", ["idle", "in a frame", "after our close", "unread", "clogged"])
def test_a_reset_ends_it_whenever_it_comes(wires: Wires, when: str):
    """Once, with a code, and nothing is left behind."""
    before, threads = len(descriptors()), alive()
    line = Line(wires, small=True).read_on()
    settle()
    if when == "in a frame":
        line.say(raw_frame(TEXT, b"not all", declared=100))
    elif when == "after our close":
        line.stream.close(1001)
    elif when == "unread":
        line.stream.send(b"never read")
        line.stream.flush()
    elif when == "clogged":
        line.clog()
    reset(line.sock)

    assert line.code == (1001 if when == "after our close" else 1006)
    with pytest.raises(ConnectionClosed):
        line.stream.send(b"late")
    del line.reader
    until(lambda: len(descriptors()) == before and alive() == threads)


# ------------------------------------------------------------------------- writing


@pytest.mark.row(94)
def test_answers_of_one_turn_leave_in_one_write(wires: Wires):
    """However many there are; the next turn has its own."""
    line = Line(wires)
    line._answer = line.stream.send
    line.read_on()
    line.message(*[b"%d" % number for number in range(50)])
    assert 50 == len(line.hear(50))
    line.message("again")
    assert "again" == line.hear()

    assert 2 == len(line.writes)
    line.stream.abort(ConnectionClosed(1000))


def test_messages_that_greenlets_send_leave_together(wires: Wires):
    """Those that are sent before the hub turns."""
    line = Line(wires)

    def send(number: int) -> None:
        line.stream.send(str(number))
        line.stream.flush_soon()

    gevent.joinall([gevent.spawn(send, number) for number in range(10)], PATIENCE)
    assert [str(number) for number in range(10)] == line.hear(10)

    assert 1 == len(line.writes)
    line.stream.send("later")
    line.stream.flush_soon()
    assert "later" == line.hear()
    line.stream.abort(ConnectionClosed(1000))


def test_much_leaves_before_the_turn_is_over(wires: Wires):
    """So a reply of many megabytes does not gather whole in memory."""
    line = Line(wires)
    for _ in range(8):
        line.stream.send(bytes(FLUSH_SIZE // 8))

    assert 1 == len(line.writes)
    assert line.writes[0] > FLUSH_SIZE
    assert 0 == line.stream.queued
    line.stream.send(b"rest")
    assert 0 < line.stream.queued < 100
    line.stream.abort(ConnectionClosed(1000))


def test_nothing_to_send_writes_nothing(wires: Wires):
    """A flush, however it comes."""
    line = Line(wires)
    line.stream.flush()
    line.stream.end_turn()
    line.stream.flush_soon()
    settle()

    assert [] == line.writes
    line.stream.abort(ConnectionClosed(1000))


def test_a_flush_is_asked_for_once(wires: Wires):
    """And not at all where there is nothing to write: each costs the hub something."""

    class Batch:
        def __init__(self) -> None:
            self.asked: list[Any] = []

        def add(self, flush: Any) -> None:
            self.asked.append(flush)

    line = Line(wires)
    line.stream._batch = batch = Batch()  # type: ignore[assignment]
    line.stream.end_turn()
    assert [] == batch.asked
    for again in (line.stream.end_turn, line.stream.flush_soon):
        for number in range(3):
            line.stream.send(str(number))
            again()
        assert 1 == len(batch.asked)
        batch.asked.pop()()
        assert ["0", "1", "2"] == line.hear(3)
    assert 2 == len(line.writes)
    line.stream.abort(ConnectionClosed(1000))


@each_kind("unix", "tcp", "tls", "tls12")
@pytest.mark.row(66)
def test_what_a_slow_peer_does_not_take_waits_in_order(wires: Wires):
    """All of it arrives when it reads, and only one greenlet writes meanwhile."""
    line = Line(wires, small=True).read_on()
    settle()
    before = alive()
    first = line.clog()
    for number in range(20):
        line.stream.send(b"%d" % number * 10_000)
        line.stream.flush_soon()
        settle()
    assert before + 1 == alive()
    queued = line.stream.queued
    assert queued > 200_000

    assert [first, *(b"%d" % number * 10_000 for number in range(20))] == line.hear(21)
    until(lambda: 0 == line.stream.queued)
    until(lambda: before == alive())
    line.stream.send("direct")
    line.stream.flush()
    assert "direct" == line.hear()
    line.stream.abort(ConnectionClosed(1000))


@each_kind()
@pytest.mark.row(66)
def test_senders_wait_while_too_much_is_queued(wires: Wires):
    """Whoever drains goes on when no more than the limit waits, all of them."""
    line = Line(wires, small=True, limits=Limits(send_queue=100_000)).read_on()
    message = line.clog()
    waiting = [gevent.spawn(line.stream.drain) for _ in range(3)]
    settle()
    assert [] == [each for each in waiting if each.ready()]

    assert message == line.hear()
    gevent.joinall(waiting, PATIENCE)
    assert all(each.successful() for each in waiting)
    assert line.stream.queued <= 100_000
    line.stream.drain()
    line.stream.abort(ConnectionClosed(1000))


@pytest.mark.row(66)
def test_a_sender_that_drains_before_it_sends_queues_no_more_than_the_limit(wires: Wires):
    """And one message."""
    line = Line(wires, small=True, limits=Limits(send_queue=300_000)).read_on()
    most: list[int] = []

    def send_all() -> None:
        for number in range(60):
            line.stream.drain()
            line.stream.send(b"%d" % (number % 10) * 50_000)
            line.stream.flush_soon()
            most.append(line.stream.queued)

    sending = gevent.spawn(send_all)
    settle()
    assert not sending.ready()
    assert 60 == len(line.hear(60))
    sending.get(timeout=PATIENCE)

    assert max(most) <= 300_000 + 50_000 + FLUSH_SIZE + 100
    line.stream.abort(ConnectionClosed(1000))


@pytest.mark.row(95)
def test_who_drains_is_woken_by_the_end(wires: Wires):
    """Or killed: the others go on waiting, for the room or for the end."""
    line = Line(wires, small=True, limits=Limits(send_queue=1)).read_on()
    line.clog()
    waiting = [gevent.spawn(line.stream.drain) for _ in range(3)]
    settle()
    waiting[0].kill()
    assert not waiting[1].ready()
    line.stream.abort(ConnectionClosed(4503, "kicked"))

    gevent.joinall(waiting, PATIENCE)
    assert all(each.ready() for each in waiting)
    with pytest.raises(ConnectionClosed, match="kicked"):
        line.stream.send("late")


@each_kind()
def test_sending_to_a_peer_that_has_gone_raises_nothing(wires: Wires):
    """Who sends may be in the middle of anything: the end comes by itself, a moment later, once."""
    line = Line(wires)
    line.sock.close()
    settle()
    for _ in range(3):
        line.stream.send("into the void")
        line.stream.flush()
    assert OPEN == line.stream.state or line.ends

    code, reason = line.end
    assert (1006, True) == (code, reason.startswith("sending failed"))
    with pytest.raises(ConnectionClosed, match="1006"):
        line.stream.send("late")
    assert None is line.stream.read()


@pytest.mark.row(94)
@each_kind()
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_frames_of_many_greenlets_never_mix(wires: Wires, client: bool):
    """Messages, pings and pongs, direct and queued, flushed and not: the peer reads each whole, and in its order."""

    @settings(max_examples=25)
    @given(
        st.lists(
            st.lists(
                st.tuples(st.integers(0, 90_000), st.sampled_from(["flush", "soon", "wait", "ping", "drain", "asked"])),
                max_size=8,
            ),
            min_size=1, max_size=4,
        ),
        st.booleans(),
    )  # fmt: skip
    def check(senders: list[list[tuple[int, str]]], closes: bool) -> None:
        line = Line(wires, client=client, small=True, limits=Limits(send_queue=50_000)).read_on()

        def send(who: int) -> None:
            for number, (size, act) in enumerate(senders[who]):
                line.stream.send(f"{who} {number} ".encode() + bytes(size))
                if act == "flush":
                    line.stream.flush()
                elif act == "wait":
                    gevent.sleep(0)
                elif act == "ping":
                    line.stream.ping(b"%d" % who)
                elif act == "drain":
                    line.stream.flush_soon()
                    line.stream.drain()
                elif act == "asked":
                    line.stream.control(PingReceived(b"%d" % who))
                else:
                    line.stream.flush_soon()

        sending = [gevent.spawn(send, who) for who in range(len(senders))]
        if closes:
            gevent.spawn_later(0.002, line.stream.close, 1001)
        else:
            gevent.spawn(lambda: gevent.joinall(sending) and line.stream.close(1001))
        heard: list[Any] = []
        while not heard or not isinstance(heard[-1], CloseReceived):
            heard.append(line.hear())
        line.say(line.frames.close(1001))
        line.sock.close()
        assert 1001 == line.code
        gevent.joinall(sending, PATIENCE)

        for who, sent in enumerate(senders):
            mine = [each for each in heard if isinstance(each, bytes) and each.startswith(b"%d " % who)]
            wanted = [f"{who} {number} ".encode() + bytes(size) for number, (size, _) in enumerate(sent)]
            assert wanted[: len(mine)] == mine
            assert closes or len(wanted) == len(mine)
            assert isinstance(sending[who].exception, ConnectionClosed | None)

    check()


# --------------------------------------------------------------------------- pings


@each_kind()
def test_a_ping_is_answered_with_its_payload(wires: Wires):
    """And our own pings and pongs disturb nobody."""
    line = Line(wires).read_on()
    line.say(line.frames.ping(b"are you there?"))
    assert PongReceived(b"are you there?") == line.hear()
    line.stream.ping(b"and you?")
    assert PingReceived(b"and you?") == line.hear()
    line.say(line.frames.pong(b"and you?"), line.frames.pong(b"unasked"), line.frames.encode("still here"))

    until(lambda: ["still here"] == line.received)
    line.stream.abort(ConnectionClosed(1000))


def test_the_pongs_of_one_turn_leave_in_one_write(wires: Wires):
    """A write for each would make a flood of pings expensive, for us."""
    line = Line(wires).read_on()
    line.say(*(line.frames.ping(b"%d" % number) for number in range(30)))

    assert [PongReceived(b"%d" % number) for number in range(30)] == line.hear(30)
    assert 1 == len(line.writes)
    line.stream.abort(ConnectionClosed(1000))


def test_a_ping_does_not_overtake_what_was_sent(wires: Wires):
    """A pong tells that everything before it has arrived."""
    line = Line(wires).read_on()
    line.stream.send("first")
    line.stream.ping(b"second")
    line.stream.send("third")
    line.say(line.frames.ping(b"fourth"))

    assert ["first", PingReceived(b"second"), "third", PongReceived(b"fourth")] == line.hear(4)
    line.stream.abort(ConnectionClosed(1000))


@pytest.mark.row(24)
@each_kind()
def test_only_the_newest_ping_of_a_slow_reader_is_answered(wires: Wires):
    """One pong waits, however many were asked for (RFC 6455 section 5.5.3)."""
    line = Line(wires, small=True).read_on()
    message = line.clog()
    line.stream.send("behind it")
    line.stream.flush()
    queued = line.stream.queued
    for number in range(50):
        line.say(line.frames.ping(b"%d" % number))
    assert queued + 200 > line.stream.queued

    heard = line.hear(3)
    assert message == heard[0]
    assert {"behind it", PongReceived(b"49")} == set(heard[1:])
    line.say(line.frames.ping(b"next"))
    assert PongReceived(b"next") == line.hear()
    line.stream.abort(ConnectionClosed(1000))


@pytest.mark.row(24)
def test_one_greenlet_writes_also_when_the_pong_meets_a_full_socket(wires: Wires):
    """Of two that waited for one watcher, one would wait for ever."""
    line = Line(wires).read_on()
    settle()
    before, taken = alive(), [10]

    def take(data: Any) -> int:
        """A socket that takes so many bytes, and then none."""
        sent = min(taken[0], len(data))
        taken[0] -= sent
        return line._send(data[:sent]) if sent else 0

    line.stream._send = take
    line.stream.send(bytes(100))
    line.stream.flush()
    line.say(line.frames.ping(b"?"))
    line.stream.send(bytes(200))
    assert before + 1 == alive()
    taken[0] += len(Frames(client=False, limits=Limits()).encode(bytes(100))) - 10
    settle()
    assert before + 1 == alive()

    taken[0] += 1000
    line.stream.flush()
    heard = line.hear(3)
    assert bytes(100) == heard[0]
    assert {bytes(200), PongReceived(b"?")} == set(heard[1:])
    until(lambda: before == alive())
    line.stream.abort(ConnectionClosed(1000))


def test_pings_after_the_end_are_not_answered(wires: Wires):
    """Nothing may follow our close frame."""
    line = Line(wires).read_on()
    line.stream.close(1000)
    line.say(line.frames.ping(b"?"))
    line.stream.ping(b"!")
    line.say(line.frames.close(1000))

    assert ([CloseReceived(1000, "")], "end") == line.hear_out()
    line.stream.ping(b"!")
    assert 1000 == line.code


def test_a_pong_that_waits_does_not_follow_our_close(wires: Wires):
    """It goes before it."""
    line = Line(wires, small=True).read_on()
    message = line.clog()
    line.say(line.frames.ping(b"?"))
    line.stream.close(1001)

    assert [message, PongReceived(b"?"), CloseReceived(1001, "")] == line.hear(3)
    line.say(line.frames.close(1001))
    assert ([], "end") == line.hear_out()
    assert 1001 == line.code


# ----------------------------------------------------------------------- deadlines

LIVE = Timeouts(ping_interval=20, liveness=45, message=30, write=10, close=1e6)


@each_kind()
def test_silence_is_broken_by_pings_and_ends_the_connection(wires: Wires):
    """Two pings fit in it; then the peer is told, and so is our side."""
    line = Line(wires, timeouts=LIVE).read_on()
    settle()
    line.tick(1, 19)
    assert [] == line.writes
    line.tick(1)
    assert PingReceived(b"") == line.hear()
    line.tick(1, 19)
    assert 1 == len(line.writes)
    line.tick(1)
    assert PingReceived(b"") == line.hear()
    line.tick(1, 4)
    assert OPEN == line.stream.state
    line.tick(1)

    assert (4012, "no pong") == line.end
    assert CloseReceived(4012, "no pong") == line.hear_out()[0][0]
    line.tick(1, 100)


def test_a_peer_that_hangs_is_stalled_and_recovers(wires: Wires):
    """Told once each; a peer that is waited for is asked after five seconds of silence."""
    line = Line(wires, timeouts=LIVE).read_on()
    settle()
    told = [line.stream.tick(line.clock.advance(1), True) for _ in range(12)]
    assert [10] == [second for second, stalled in enumerate(told, 1) if stalled]
    assert line.stream.stalled
    assert PingReceived(b"") == line.hear()
    line.say(raw_frame(PONG, b"", key=mask_of(line)))

    assert not line.stream.stalled
    assert line.stream.tick(line.clock.advance(1)) is False
    assert line.stream.tick(line.clock.advance(1)) is None
    line.stream.abort(ConnectionClosed(1000))


@each_kind("unix", "tcp", "tls")
@pytest.mark.row(79)
def test_a_sign_of_life_is_asked_for_ahead_of_what_waits(wires: Wires):
    """Behind the message that was begun; and ours for the peer, too."""
    line = Line(wires, small=True, timeouts=LIVE).read_on()
    settle()
    message = line.clog()
    line.stream.send(bytes(100_000))
    line.stream.flush()
    line.tick(1, 5)
    line.say(raw_frame(PING, b"?", key=mask_of(line)))

    assert [message, PingReceived(b""), PongReceived(b"?"), bytes(100_000)] == line.hear(4)
    line.stream.abort(ConnectionClosed(1000))


@pytest.mark.parametrize("life", ["pong", "ping", "message", "half a frame"])
def test_any_byte_is_life(wires: Wires, life: str):
    """Not only the pong: also a piece of a message that takes its time."""
    line = Line(wires, timeouts=Timeouts(ping_interval=20, liveness=45, message=1e6, write=10, close=1e6)).read_on()
    settle()
    part = raw_frame(TEXT, b"x" * 30, declared=100)
    for step in range(30):
        frame = {
            "pong": raw_frame(PONG, b""), "ping": raw_frame(PING, b""), "message": raw_frame(TEXT, b"x"),
        }.get(life, part[step : step + 1])  # fmt: skip
        line.say(frame)
        line.tick(15)

    assert OPEN == line.stream.state
    assert PingReceived(b"") not in line._heard
    line.stream.abort(ConnectionClosed(1000))


def test_silence_proves_nothing_while_we_do_not_read(wires: Wires):
    """As when all handlers are busy: the peer's pong would lie in the socket."""
    line = Line(wires, timeouts=LIVE)
    line.tick(1, 100)

    assert OPEN == line.stream.state
    assert [] == line.writes
    line.read_on()
    settle()
    line.tick(1, 44)
    assert OPEN == line.stream.state
    line.tick(1, 2)
    assert 4012 == line.code


@pytest.mark.row(22)
@pytest.mark.parametrize("filler", ["nothing", "more of it", "pings", "pongs"])
@pytest.mark.parametrize("kind", ["frame", "fragments"])
def test_a_message_that_is_begun_must_be_finished(wires: Wires, kind: str, filler: str):
    """Counted from its beginning: neither more of it nor control frames in between move the deadline."""
    line = Line(wires, timeouts=LIVE, limits=Limits(fragments=1000)).read_on()
    if kind == "frame":
        if filler in ("pings", "pongs"):
            pytest.skip("a control frame cannot stand inside a frame")
        line.say(raw_frame(BINARY, b"begin", declared=1000))
    else:
        line.say(raw_frame(TEXT, b"begin", fin=False))
    for _ in range(31):
        line.tick(1)
        assert OPEN == line.stream.state
        if filler == "more of it":
            line.say(b"x" if kind == "frame" else raw_frame(CONTINUATION, b"x", fin=False))
        elif filler != "nothing":
            line.say(raw_frame(PING if filler == "pings" else PONG, b"x"))
    line.tick(1)

    heard: list[Any] = []
    while not heard or not isinstance(heard[-1], CloseReceived):
        heard.append(line.hear())
    assert CloseReceived(1008, "message not finished in time") == heard[-1]
    assert [] == line.received
    line.sock.close()
    assert 1008 == line.code


@pytest.mark.row(22)
@pytest.mark.parametrize("kind", ["frames", "fragments", "fragments and pings"])
def test_each_message_has_its_own_time(wires: Wires, kind: str):
    """A peer that is always in the middle of one, but finishes them, is not late."""
    line = Line(wires, timeouts=LIVE).read_on()
    whole = raw_frame(TEXT, b"begin end")
    begin, end = (
        (whole[:9], whole[9:]) if kind == "frames"
        else (raw_frame(TEXT, b"begin", fin=False), raw_frame(CONTINUATION, b" end"))
    )  # fmt: skip
    ping = raw_frame(PING, b"x") if "pings" in kind else b""
    line.say(begin)
    for _ in range(60):
        line.tick(1)
        line.say(ping)
        line.say(end, begin)
        line.say(ping)

    assert OPEN == line.stream.state
    assert ["begin end"] * 60 == line.received
    line.stream.abort(ConnectionClosed(1000))


@pytest.mark.row(22)
def test_the_time_of_a_message_does_not_run_while_we_do_not_read(wires: Wires):
    """Its end may have come long ago."""
    line = Line(wires, timeouts=LIVE)
    line.say(line.frames.encode("first"), raw_frame(TEXT, b"sec", fin=False))
    assert ["first"] == line.stream.read()
    line.tick(1, 100)
    line.say(raw_frame(CONTINUATION, b"ond"))

    assert ["second"] == line.stream.read()
    assert OPEN == line.stream.state
    line.stream.abort(ConnectionClosed(1000))


@pytest.mark.row(23)
@pytest.mark.parametrize(
    "frame",
    [raw_frame(PING, b"x"), raw_frame(PONG), raw_frame(TEXT), raw_frame(BINARY, b"x", fin=False)],
    ids=["pings", "pongs", "empty messages", "fragments"],
)
def test_a_flood_of_what_is_no_message_ends_the_connection(wires: Wires, frame: bytes):
    """Beyond the rate, averaged over a burst of its size: 1008, and nothing is answered after that."""
    line = Line(wires, limits=Limits(overhead_rate=100, frames_per_turn=10, fragments=10_000)).read_on()
    line.say(frame, *[raw_frame(CONTINUATION, b"x", fin=False) if frame[0] == BINARY else frame] * 99)
    assert OPEN == line.stream.state
    line.say(raw_frame(CONTINUATION, b"x", fin=False) if frame[0] == BINARY else frame)

    heard = []
    while not heard or not isinstance(heard[-1], CloseReceived):
        heard.append(line.hear())
    assert CloseReceived(1008, "too many control frames or fragments") == heard[-1]
    line.say(frame if frame[0] != BINARY else raw_frame(CONTINUATION, b"", fin=False), line.frames.close(1008))
    looked_at = line.stream._frames.overhead
    line.say(*[frame] * 50)
    assert looked_at == line.stream._frames.overhead, "what follows costs as much as before"
    line.hang_up()  # as it does that sees our end
    assert 1008 == line.code


@pytest.mark.row(23, 82)
def test_other_sockets_are_looked_at_after_each_turn(wires: Wires):
    """Whoever has sent much at once is served in turns, and between two of them the hub looks at all sockets."""
    line = Line(wires, limits=Limits(frames_per_turn=10)).read_on()
    looks: list[int] = []

    class Received(list):
        def append(self, item: Any) -> None:
            looks.append(gevent.get_hub().loop.iteration)
            super().append(item)

    line.received = Received()
    line.say(raw_frame(TEXT, b"x") * 100)

    assert 100 == len(line.received)
    assert len(set(looks)) >= 10


@pytest.mark.row(23)
def test_the_rate_of_what_is_no_message_is_an_average(wires: Wires):
    """A burst of a second's worth, or that much each second; but what was not used does not pile up."""
    line = Line(wires, limits=Limits(overhead_rate=100)).read_on()
    for _ in range(5):
        line.say(raw_frame(PONG) * 100)
        line.clock.advance(1)
    line.clock.advance(1000)
    line.say(raw_frame(PONG) * 100)
    line.clock.advance(0.5)
    line.say(raw_frame(PONG) * 50)
    assert OPEN == line.stream.state
    line.say(raw_frame(TEXT, b"messages are free") * 500)
    assert OPEN == line.stream.state

    line.say(raw_frame(PONG) * 2)
    assert CloseReceived(1008, "too many control frames or fragments") == line.hear()
    line.stream.abort(ConnectionClosed(1000))


@pytest.mark.row(67)
@each_kind("unix", "tcp", "tls", "tls12")
def test_a_peer_that_takes_nothing_is_too_slow(wires: Wires):
    """After the write deadline, although it may send all the time."""
    line = Line(wires, small=True, timeouts=LIVE).read_on()
    line.clog()
    while True:
        line.tick(1)
        if line.ends:
            break
        # The kernels on both sides take what they can, some of it late: counted is from the last byte.
        assert 11 > line.clock.now - line.stream._wrote_at
        line.say(raw_frame(PONG))

    assert 11 == line.clock.now - line.stream._wrote_at
    assert (4008, "too slow: no byte taken in time") == line.end
    assert line.hear_out()[1] in ("cut", "reset") if wires.tls else True


@pytest.mark.row(67)
@each_kind("unix", "tcp", "tls", "tls12")
def test_a_peer_that_takes_little_is_not_too_slow(wires: Wires):
    """Any progress counts, also inside one large message, and also over TLS."""
    line = Line(wires, small=True, timeouts=LIVE).read_on()
    message = line.clog(3_000_000)
    received = 0
    while received < 2_500_000:
        line.tick(9)
        taken = 0
        while taken < 200_000:
            data = line.sock.recv(65536)
            taken += len(data)
            line._take(data)
            gevent.sleep(0)
        settle()
        received += taken
        line.say(raw_frame(PONG))
        assert OPEN == line.stream.state
    assert message == line.hear()
    line.stream.abort(ConnectionClosed(1000))


@pytest.mark.row(67, 28)
def test_the_write_deadline_holds_while_closing(wires: Wires):
    """A close frame that waits behind a queue that nobody takes must not wait longer."""
    line = Line(wires, small=True, timeouts=LIVE).read_on()
    line.clog()
    line.stream.close(1001)
    line.tick(11)

    assert 4008 == line.code


@pytest.mark.row(95)
def test_a_writer_that_was_killed_is_noticed(wires: Wires):
    """Nothing is written any more: the write deadline ends the connection."""
    line = Line(wires, small=True, timeouts=LIVE).read_on()
    settle()
    before = {id(each) for each in gc.get_objects() if isinstance(each, Greenlet)}
    line.clog()
    [writer] = [each for each in gc.get_objects() if isinstance(each, Greenlet) and each and id(each) not in before]
    gevent.sleep(0)
    writer.kill()
    line.say(raw_frame(PONG))
    line.tick(11)

    assert 4008 == line.code


# ------------------------------------------------------------- the closing handshake


@each_kind("unix", "tcp", "tls", "tls12")
def test_we_close_as_the_server(wires: Wires):
    """Our frame, the peer's, then our end of TCP."""
    line = Line(wires).read_on()
    line.stream.send("last")
    line.stream.close(4001, "draining")
    assert ["last", CloseReceived(4001, "draining")] == line.hear(2)
    assert [] == line.ends
    line.say(line.frames.close(4001))

    assert (4001, "draining") == line.end
    assert ([], "end") == line.hear_out()


@each_kind("unix", "tcp", "tls", "tls12")
def test_we_close_as_the_client(wires: Wires):
    """Our frame, the server's, then the server's end of TCP (RFC 6455 section 7.1.1)."""
    line = Line(wires, client=True).read_on()
    line.stream.close(1000, "done")
    assert CloseReceived(1000, "done") == line.hear()
    line.say(line.frames.close(1000))
    assert [] == line.ends
    line.sock.close()

    assert (1000, "done") == line.end


@each_kind("unix", "tcp", "tls", "tls12")
def test_the_peer_closes_our_server(wires: Wires):
    """It is answered with its own code, behind everything that was sent, and TCP ends."""
    line = Line(wires).read_on()
    line.stream.send("last")
    line.say(line.frames.close(3000, "bye"))

    assert (3000, "bye") == line.end
    assert (["last", CloseReceived(3000, "")], "end") == line.hear_out()


@each_kind("unix", "tcp", "tls", "tls12")
def test_the_peer_closes_our_client(wires: Wires):
    """It is answered, and ends TCP itself."""
    line = Line(wires, client=True).read_on()
    line.say(line.frames.close(1012, "restart"))
    assert CloseReceived(1012, "") == line.hear()
    assert [] == line.ends
    with pytest.raises(ConnectionClosed, match="restart"):
        line.stream.send("late")
    line.sock.close()

    assert (1012, "restart") == line.end


@each_kind()
@pytest.mark.row(27)
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_both_close_at_once(wires: Wires, client: bool):
    """Each takes the other's frame for the answer; nobody answers twice. Each side keeps its own reason."""
    line = Line(wires, client=client).read_on()
    line.sock.sendall(line.frames.close(1000, "theirs"))
    line.stream.close(1001, "ours")
    assert CloseReceived(1001, "ours") == line.hear()
    settle()
    line.sock.close() if client else None

    assert (1001, "ours") == line.end
    if not client:
        assert ([], "end") == line.hear_out()


@pytest.mark.row(26)
def test_every_code_that_may_come_is_answered_alike(wires: Wires):
    """Also none at all: then the answer has none."""
    peer = Frames(client=True, limits=Limits())
    codes = [1000, 1001, 1002, 1003, *range(1007, 1014), 3000, 3999, 4000, 4999]
    for code in [*codes, None]:
        payload = b"" if code is None else code.to_bytes(2, "big") + b"why"
        assert isinstance(Frames(client=False, limits=Limits()).receive(raw_frame(CLOSE, payload))[0], CloseReceived)
        line = Line(wires).read_on()
        line.say(raw_frame(CLOSE, payload))

        assert (code or 1005, "why" if code else "") == line.end
        assert ([CloseReceived(code or 1005, "")], "end") == line.hear_out()
    assert peer.close_sent is False


@pytest.mark.row(27)
def test_what_follows_a_close_is_ignored(wires: Wires):
    """Data, pings, another close: one answer, and no message."""
    line = Line(wires).read_on()
    line.say(
        raw_frame(CLOSE, b"\x03\xe8"), raw_frame(TEXT, b"late"), raw_frame(PING, b"?"), raw_frame(CLOSE, b"\x03\xe9"),
        b"no frame at all" * 100,
    )  # fmt: skip

    assert 1000 == line.code
    assert [CloseReceived(1000, "")] == line.hear_out()[0]
    assert [] == line.received


@pytest.mark.row(27)
def test_a_close_inside_a_message_closes(wires: Wires):
    """The message is never delivered."""
    line = Line(wires).read_on()
    line.say(raw_frame(TEXT, b"half", fin=False), raw_frame(CLOSE, b"\x03\xe8"), raw_frame(CONTINUATION, b"half"))

    assert 1000 == line.code
    assert [] == line.received
    assert ([CloseReceived(1000, "")], "end") == line.hear_out()


def test_what_comes_with_a_close_is_answered_before_it(wires: Wires):
    """A request, a ping and the close in one packet: whoever hurries still gets its answers."""
    line = Line(wires)
    line._answer = line.stream.send
    line.read_on()
    line.say(line.frames.encode("request"), line.frames.ping(b"?"), line.frames.close(1000))

    assert (["request", PongReceived(b"?"), CloseReceived(1000, "")], "end") == line.hear_out()
    assert 1000 == line.code


def test_messages_that_come_after_our_close_are_still_read(wires: Wires):
    """They were on their way; only answering them is over."""
    line = Line(wires).read_on()
    line.stream.close(1001)
    line.say(line.frames.encode("crossed"), line.frames.close(1001))

    assert 1001 == line.code
    assert ["crossed"] == line.received


@pytest.mark.row(28)
@each_kind()
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_a_peer_that_never_answers_our_close(wires: Wires, client: bool):
    """TCP is dropped after the close deadline, although it goes on sending."""
    line = Line(wires, client=client, timeouts=SOON).read_on()
    line.stream.close(1000, "done")
    line.message("I have all the time in the world")

    assert (1000, "done") == line.end
    assert [CloseReceived(1000, "done")] == line.hear_out()[0]


@pytest.mark.row(28)
@each_kind()
def test_a_peer_that_never_reads_our_close(wires: Wires):
    """It waits behind a queue: no longer than the close deadline."""
    line = Line(wires, small=True, timeouts=SOON).read_on()
    line.clog()
    line.stream.close(1001)

    assert 1001 == line.code
    assert [] == line.hear_out()[0]


@pytest.mark.row(28)
@each_kind()
def test_a_server_that_answers_our_close_but_keeps_tcp(wires: Wires):
    """A client waits for the end of TCP, but not for ever; whoever closed."""
    for who in ("we", "they"):
        line = Line(wires, client=True, timeouts=SOON).read_on()
        if who == "we":
            line.stream.close(1000)
        line.say(line.frames.close(1000))
        assert 1000 == line.code


@each_kind()
@pytest.mark.parametrize("hangs_up", [False, True], ids=["waits", "hangs up"])
def test_a_queue_is_written_before_the_end(wires: Wires, hangs_up: bool):
    """The peer has closed, and reads on, also where it has ended its half of TCP: everything, then our close."""
    line = Line(wires, small=True).read_on()
    message = line.clog()
    line.stream.send("behind it")
    line.say(line.frames.close(1000))
    if hangs_up and not wires.tls:
        line.hang_up()
    settle()
    assert [] == line.ends

    assert ([message, "behind it", CloseReceived(1000, "")], "end") == line.hear_out()
    assert 1000 == line.code


@each_kind()
def test_a_queue_is_written_before_the_end_when_we_close(wires: Wires):
    """The peer answers when it has read our close, behind everything else."""
    line = Line(wires, small=True).read_on()
    message = line.clog()
    line.stream.send("behind it")
    line.stream.close(4001)

    assert [message, "behind it", CloseReceived(4001, "")] == line.hear(3)
    line.say(line.frames.close(4001))
    assert ([], "end") == line.hear_out()
    assert 4001 == line.code


@each_kind()
def test_an_end_without_a_close_does_not_wait_for_the_queue(wires: Wires):
    """Who has not closed has gone, whatever is queued for it."""
    line = Line(wires, small=True).read_on()
    line.clog()
    line.hang_up()

    assert 1006 == line.code


@pytest.mark.row(28)
def test_a_peer_that_has_closed_and_does_not_read_its_queue(wires: Wires):
    """It has the close deadline for that."""
    for hangs_up in (False, True):
        line = Line(wires, small=True, timeouts=SOON).read_on()
        line.clog()
        line.say(line.frames.close(1000))
        if hangs_up:
            line.hang_up()

        assert 1000 == line.code


# --------------------------------------------------------------------- peers' faults


@each_kind("unix", "tcp", "tls", "tls12")
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_a_fault_of_the_peers_is_told_and_ends_the_connection(wires: Wires, client: bool):
    """A peer that answers our close sees our end at once: nobody waits for the close deadline."""
    line = Line(wires, client=client).read_on()
    line.say(line.frames.encode("fine"), raw_frame(0x3, b"unknown", key=mask_of(line)))
    heard = line.hear()
    assert 1002 == heard.code
    line.say(line.frames.close(1002))
    if client:
        line.sock.close()
    else:
        assert ([], "end") == line.hear_out()
        line.sock.close()

    assert 1002 == line.code
    assert ["fine"] == line.received


@each_kind("unix", "tcp", "tls")
def test_our_close_reaches_a_peer_that_is_still_sending(wires: Wires):
    """It reads only when it has sent everything: what it sends meanwhile is taken, as a reset could overtake us."""
    line = Line(wires, small=True, limits=Limits(message_size=1000)).read_on()
    line.sock.settimeout(PATIENCE)
    line.sock.sendall(raw_frame(BINARY, bytes(5_000_000)))
    line.sock.sendall(raw_frame(TEXT, b"more") * 1000)

    assert ([CloseReceived(1009, "message too big")], "end") == line.hear_out()
    line.sock.close()
    assert (1009, "message too big") == line.end
    assert [] == line.received


@each_kind()
def test_a_peer_that_goes_on_sending_after_its_fault_is_dropped(wires: Wires):
    """At the close deadline."""
    line = Line(wires, timeouts=SOON, limits=Limits(message_size=1000)).read_on()
    stop: list[bool] = []

    def flood() -> None:
        with gevent.Timeout(PATIENCE):
            try:
                line.sock.sendall(raw_frame(BINARY, bytes(2000)))
                while not stop:
                    line.sock.sendall(bytes(1000))
                    gevent.sleep(0.001)
            except OSError:
                stop.append(True)

    flooding = gevent.spawn(flood)
    assert 1009 == line.code
    flooding.join(PATIENCE)
    assert [True] == stop


@each_kind()
def test_a_fault_is_told_behind_the_queue(wires: Wires):
    """And then our half of TCP ends, at once although the peer's has not."""
    line = Line(wires, small=True).read_on()
    message = line.clog()
    line.say(raw_frame(0x3, b"unknown"))
    heard, how = line.hear_out()

    assert (message, 1002, "end") == (heard[0], heard[1].code, how)
    line.sock.close()
    assert 1002 == line.code


def test_a_fault_after_our_close_ends_it_too(wires: Wires):
    """Its answer will not come any more; the code stays ours."""
    line = Line(wires).read_on()
    line.stream.close(1001)
    line.say(raw_frame(0x3, b"unknown"))

    assert ([CloseReceived(1001, "")], "end") == line.hear_out()
    line.sock.close()
    assert 1001 == line.code


def test_a_fault_and_the_end_behind_a_queue(wires: Wires):
    """It breaks the protocol and ends its half, but reads on: it gets the queue and our close."""
    line = Line(wires, small=True).read_on()
    message = line.clog()
    line.say(raw_frame(0x3, b"unknown"))
    line.hang_up()
    heard, _ = line.hear_out()

    assert (message, 1002) == (heard[0], heard[1].code)
    assert 1002 == line.code


# ------------------------------------------------------------------ abort, and misuse


@each_kind()
def test_an_abort_ends_at_once_and_says_nothing(wires: Wires):
    """Whatever is queued is dropped; the reader and everybody else learn of it."""
    line = Line(wires, small=True).read_on()
    line.clog()
    line.stream.abort(ConnectionClosed(4503, "kicked"))

    assert (4503, "kicked") == line.end
    assert CLOSED == line.stream.state
    assert 0 == line.stream.queued
    heard, how = line.hear_out()
    assert [] == heard
    assert how in ("cut", "reset") if wires.tls else True


@each_kind()
def test_an_abort_may_tell_the_peer_why(wires: Wires):
    """As far as its socket takes it."""
    line = Line(wires).read_on()
    line.stream.send("dropped")
    line.stream.abort(ConnectionClosed(1011, "internal error"), say=True)

    assert 1011 == line.code
    assert ([CloseReceived(1011, "internal error")], "end") == line.hear_out()


@pytest.mark.parametrize("state", ["clogged", "closing", "bad code"])
def test_an_abort_that_cannot_tell_why_ends_all_the_same(wires: Wires, state: str):
    """A full socket, a close frame sent before, a code that nobody may send."""
    line = Line(wires, small=True).read_on()
    if state == "clogged":
        line.clog()
    elif state == "closing":
        line.stream.close(1000)
    code = 1006 if state == "bad code" else 4012
    line.stream.abort(ConnectionClosed(code, "over"), say=True)

    assert (code, "over") == line.end
    assert ([CloseReceived(1000, "")] if state == "closing" else []) == line.hear_out()[0]


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 2999, 5000, 70000])
def test_a_code_that_nobody_may_send_changes_nothing(wires: Wires, code: int):
    """The connection is not left half closed, without a frame and without an end."""
    line = Line(wires).read_on()
    with pytest.raises(LocalProtocolError):
        line.stream.close(code)
    assert OPEN == line.stream.state
    line.stream.send("still open")
    line.stream.close(1000)

    assert ["still open", CloseReceived(1000, "")] == line.hear(2)
    line.say(line.frames.close(1000))
    assert 1000 == line.code


def test_a_connection_ends_once(wires: Wires):
    """Whatever is done after that does nothing."""
    line = Line(wires).read_on()
    line.stream.close(1000, "first")
    line.stream.close(1001, "second")
    line.say(line.frames.close(1000))
    assert (1000, "first") == line.end
    for act in (
        line.stream.close, line.stream.flush, line.stream.flush_soon, line.stream.end_turn, line.stream.drain,
        line.stream.ping, lambda: line.stream.abort(ConnectionClosed(4503)), lambda: line.tick(1000),
        lambda: line.stream.control(PingReceived(b"")), lambda: line.stream.control(CloseReceived(1000, "")),
    ):  # fmt: skip
        act()
        settle()

    assert None is line.stream.read()
    assert (1000, "first") == line.end
    assert CLOSED == line.stream.state


@pytest.mark.row(94)
def test_sending_after_the_end_tells_why_each_time_anew(wires: Wires):
    """While closing and when closed; an error that is raised often must not grow with each raise."""
    line = Line(wires).read_on()
    line.stream.close(4001, "draining")
    raised = []
    for state in ("closing", "closed"):
        for _ in range(3):
            with pytest.raises(ConnectionClosed, match="4001: draining") as caught:
                line.stream.send("late")
            raised.append(caught.value)
        line.say(line.frames.close(4001)) if state == "closing" else None
    assert 4001 == line.code

    assert 6 == len({id(error) for error in raised})
    assert line.ends[0] not in raised
    assert None is line.ends[0].__traceback__


def test_everything_is_over_when_the_end_is_told(wires: Wires):
    """Whoever is told may ask: the state, the reason, the socket."""
    seen: list[Any] = []
    line = Line(wires)

    def look(why: ConnectionClosed) -> None:
        seen.append((line.stream.state, line.stream.closed.wait(0) is why, line.stream.queued))
        line.stream.abort(ConnectionClosed(4503))
        line.stream.close(1000)
        with pytest.raises(ConnectionClosed, match="1001"):
            line.stream.send("late")

    line.stream._on_closed = look
    line.stream.send("dropped")
    line.stream.abort(ConnectionClosed(1001, "going"))

    assert [(CLOSED, True, 0)] == seen


@pytest.mark.row(88)
@each_kind()
def test_who_leaves_the_connection_to_the_parent_says_nothing(wires: Wires):
    """In a forked child: nothing is written, nobody is told of an end, and what is left of it here is of no use."""
    line = Line(wires, small=True)
    line.clog()
    line.stream.send("not sent")
    line.stream.flush_soon()
    line.stream.leave()
    written = len(line.writes)
    settle()

    assert (CLOSED, 0, []) == (line.stream.state, line.stream.queued, line.ends)
    assert written == len(line.writes)
    assert None is line.stream.read()
    with pytest.raises(ConnectionClosed):
        line.stream.send("late")
    line.stream.abort(ConnectionClosed(4503))
    line.tick(1e9)
    assert [] == line.ends


@pytest.mark.row(95)
@each_kind()
def test_a_reader_that_is_killed_leaves_the_stream_as_it_was(wires: Wires):
    """Another one reads on: nothing is lost, half frames included."""
    line = Line(wires).read_on()
    data = line.frames.encode("whole message")
    line.say(data[:7])
    line.reader.kill()
    line.say(data[7:])
    line.read_on()
    until(lambda: ["whole message"] == line.received)
    line.reader.kill()
    line.stream.abort(ConnectionClosed(1001, "the reader was stopped"))

    assert [1001] == [why.code for why in line.ends]
    assert ([], "end") == line.hear_out()


@pytest.mark.row(71, 95)
@each_kind("tcp", "tls")
def test_connections_that_come_and_go_leave_nothing(wires: Wires):
    """However they end: no greenlet, no descriptor, no stream."""

    def run(number: int) -> None:
        line = Line(wires, small=True, timeouts=SOON, client=number % 2 == 1).read_on()
        settle()
        if number % 3:
            line.clog(200_000)
        act = number % 7
        if act == 0:
            line.stream.close(1000)
        elif act == 1:
            reset(line.sock)
        elif act == 2:
            line.sock.close()
        elif act == 3:
            line.say(line.frames.close(1000))
        elif act == 4:
            line.stream.abort(ConnectionClosed(1001))
        elif act == 5:
            line.say(raw_frame(0x3, key=mask_of(line)))
        else:
            line.sock._sock.shutdown(SHUT_WR)
        assert line.code
        line.sock.close()

    def streams() -> int:
        gc.collect()
        return sum(type(each).__name__ == "MessageStream" for each in gc.get_objects())

    run(0)
    gc.collect()
    before = len(descriptors()), alive(), streams()
    for number in range(42):
        run(number)

    until(lambda: (len(descriptors()), alive(), streams()) == before)


@pytest.mark.row(67)
def test_a_peer_does_not_pay_for_time_in_which_nothing_was_written(wires: Wires):
    """As while our own process was stopped."""
    patient = Timeouts(ping_interval=1e6, liveness=2e6, write=10, message=1e6)
    line = Line(wires, small=True, timeouts=patient).read_on()
    line.clog()
    line.stream.tick(line.clock.advance(9))
    line.stream.tick(line.clock.advance(60), late=59)
    assert OPEN == line.stream.state

    line.stream.tick(line.clock.advance(6))
    assert CLOSED == line.stream.state
