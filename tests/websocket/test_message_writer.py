"""What leaves at once, what waits for a slow peer, and what gives way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from tests.websocket.line import GENEROUS, Line, settle
from tests.websocket.loopback import PATIENCE, Authority, until
from tests.websocket.wires import Wires, each_kind
from webmesh.exceptions import ConnectionClosed
from webmesh.options import Limits, Timeouts
from webmesh.protocol.deflate import BoundedDeflate, negotiate_deflate
from webmesh.protocol.frames import CloseReceived, Frames, PingReceived, server_frame
from webmesh.testing import RecordingObserver
from webmesh.websocket.message_writer import FLUSH_SIZE
from webmesh.websocket.outgoing import ENTRY

ROOM = Limits(send_queue=5_000_000)
SOON = Timeouts(ping_interval=1e6, liveness=2e6, write=1e6, message=1e6, close=0.05)


@pytest.fixture
def wires(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Wires]:
    made = Wires(getattr(request, "param", "unix"), authority)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    """No test waits for ever."""
    with gevent.Timeout(2.5 * PATIENCE):
        yield


def clogged(wires: Wires, limit: int = 5_000_000, **options: Any) -> tuple[Line, bytes]:
    """A line whose peer does not read, and the message that it is in the middle of."""
    line = Line(wires, small=True, limits=Limits(send_queue=limit), **options).read_on()
    return line, line.clog()


def test_an_offer_to_a_quick_peer_is_a_send(wires: Wires):
    """All of one turn leave in one write, in order with what is sent."""
    line = Line(wires).read_on()
    settle()
    assert line.stream.offer("a", "drop_newest")
    line.stream.send("b")
    assert line.stream.offer("c", "close", "key")
    settle()

    assert ["a", "b", "c"] == line.hear(3)
    assert 1 == len(line.writes)
    assert line.stream.queue is None
    line.stream.abort(ConnectionClosed(1000))


def test_much_that_is_offered_leaves_before_the_turn_is_over(wires: Wires):
    """As with `send`, nothing gathers without bound."""
    line = Line(wires).read_on()
    settle()
    for _ in range(3):
        line.stream.offer(bytes(30_000), "drop_newest")
    assert [90_012] == line.writes
    assert FLUSH_SIZE < sum(line.writes)

    assert [bytes(30_000)] * 3 == line.hear(3)
    line.stream.abort(ConnectionClosed(1000))


def test_a_frame_for_many_is_what_each_would_have_sent(wires: Wires):
    """Where nothing is masked or compressed; it is kept once however many wait for it."""
    line, message = clogged(wires)
    assert line.stream.shares_frames
    frame = server_frame("for all")
    assert line.stream.offer_frame(frame, "drop_newest")

    assert [message, "for all"] == line.hear(2)
    assert not Line(wires, client=True).stream.shares_frames
    line.stream.abort(ConnectionClosed(1000))


def test_a_pushed_frame_is_written_at_once_and_never_overtakes(wires: Wires):
    """What was taken before it in the same turn leaves before it, and so does what waits for a slow peer."""
    line = Line(wires).read_on()
    settle()
    assert line.stream.push_frame(server_frame("a"), "close")
    assert 0 == line.stream.queued
    line.stream.send("b")
    assert line.stream.push_frame(server_frame("c"), "close")
    assert 0 < line.stream.queued
    settle()
    assert ["a", "b", "c"] == line.hear(3)
    line.stream.abort(ConnectionClosed(1000))
    assert not line.stream.push_frame(server_frame("late"), "close")

    line, message = clogged(wires)
    assert line.stream.push_frame(server_frame("d"), "drop_newest")
    assert [message, "d"] == line.hear(2)
    line.stream.abort(ConnectionClosed(1000))


@each_kind("unix", "tcp", "tls")
@pytest.mark.row(66)
@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_a_full_queue_stays_at_its_bound(wires: Wires, policy: Any):
    """Replies are never left out, all that is taken arrives in order, and each loss is counted once."""
    line, first = clogged(wires, 4_200_000)
    taken = []
    for number in range(2000):
        if line.stream.offer(b"%d" % number * 200, policy):
            taken.append(number)
        if number % 100 == 0:
            line.stream.send(f"reply {number}")
        assert line.stream.queued <= 4_200_000 + 200 * ENTRY
    queue = line.stream.queue
    assert queue is not None
    assert queue.dropped == 2000 - len(taken) if policy == "drop_newest" else len(taken) == 2000
    dropped = queue.dropped
    assert 0 < dropped < 2000

    heard = [item for item in line.hear(1 + 20 + 2000 - dropped)]
    assert first == heard[0]
    assert [f"reply {number}" for number in range(0, 2000, 100)] == [each for each in heard if isinstance(each, str)]
    values = [int(each[: len(each) // 200]) for each in heard[1:] if isinstance(each, bytes)]
    assert sorted(set(values)) == values
    assert (policy == "drop_oldest") == (values[-1] == 1999)
    line.stream.abort(ConnectionClosed(1000))


def test_losses_are_told_with_their_policy(wires: Wires):
    """One count for each message."""
    observer = RecordingObserver()
    line, _ = clogged(wires, 1, observer=observer)
    assert not line.stream.offer("a", "drop_newest")
    assert not line.stream.offer("b", "drop_oldest")
    assert not line.stream.offer("c", "close")

    assert [("outgoing", policy) for policy in ("drop_newest", "drop_oldest", "close")] == observer.named("refused")
    line.stream.abort(ConnectionClosed(1000))


def test_the_newest_of_a_key_arrives(wires: Wires):
    """In the place of the one that it replaces, however many there were."""
    line, message = clogged(wires)
    line.stream.offer("price 0", "drop_newest", "price")
    line.stream.send("other")
    for number in range(1, 100):
        line.stream.offer(f"price {number}", "drop_newest", "price")

    assert [message, "price 99", "other"] == line.hear(3)
    line.stream.abort(ConnectionClosed(1000))


@each_kind("unix", "tcp", "tls", "tls12")
@pytest.mark.row(66)
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_a_peer_that_is_cut_off_is_told_why(wires: Wires, client: bool):
    """As soon as the frame that it has begun is over, ahead of all else; senders that waited learn it too."""
    line, message = clogged(wires, 4_200_000, client=client)
    line.stream.send("undelivered")
    while line.stream.offer(bytes(1000), "close"):
        pass
    waiting = gevent.spawn(line.stream.drain)
    assert not line.stream.offer("late", "close")
    with pytest.raises(ConnectionClosed, match="too slow"):
        line.stream.send("later")
    waiting.get(timeout=PATIENCE)
    assert line.stream.queued <= len(message) + 200

    heard = line.hear(2)
    assert message == heard[0]
    assert isinstance(heard[1], CloseReceived) and 4008 == heard[1].code
    assert heard[1].reason.startswith("too slow: 4") and heard[1].reason.endswith(" bytes are waiting")
    line.say(line.frames.close(4008))
    line.sock.close() if client else None
    assert 4008 == line.code


@pytest.mark.row(66, 28)
def test_a_peer_that_is_cut_off_and_does_not_read_is_dropped(wires: Wires):
    """After the close deadline."""
    line, _ = clogged(wires, 1, timeouts=SOON)
    assert not line.stream.offer("late", "close")
    line.stream.cut_off(4008, "once is enough")

    code, reason = line.end
    assert 4008 == code and "once" not in reason


def test_a_peer_that_keeps_up_can_be_cut_off_too(wires: Wires):
    """What it was not sent yet is left out."""
    line = Line(wires).read_on()
    line.stream.send("undelivered")
    line.stream.cut_off(4503, "kicked")

    assert CloseReceived(4503, "kicked") == line.hear()
    line.say(line.frames.close(4503))
    assert 4503 == line.code
    assert not line.stream.offer("late", "drop_newest")
    assert not line.stream.offer_frame(b"late", "drop_newest")


@pytest.mark.parametrize("stays", [True, False])
def test_a_ping_with_a_payload_keeps_its_place(wires: Wires, stays: bool):
    """Its pong tells that all before it has arrived; the one that asks for life hurries."""
    line, message = clogged(wires)
    line.stream.send("before")
    line.stream.ping(b"all?") if stays else line.stream.ask()
    line.stream.send("behind")
    line.stream.flush()

    expected = ["before", PingReceived(b"all?"), "behind"] if stays else [PingReceived(b""), "before", "behind"]
    assert [message, *expected] == line.hear(4)
    line.stream.abort(ConnectionClosed(1000))
    line.stream.ask()


def test_a_compressed_message_that_is_left_out_spoils_none_behind_it(wires: Wires):
    """Each is compressed by itself, so the peer misses nothing to read the others."""
    line, message = clogged(wires, 4_200_000)
    extension = negotiate_deflate("permessage-deflate", limits=Limits())
    assert isinstance(extension, BoundedDeflate)
    line.stream._frames = Frames(client=False, limits=Limits(), extensions=[extension])
    for number in range(100):
        line.stream.offer(f"{number:03}" * 1000, "drop_newest", number % 7)

    ours = BoundedDeflate(Limits())
    ours.accept("server_no_context_takeover; client_no_context_takeover")
    line.frames = Frames(client=True, limits=GENEROUS, extensions=[ours])
    assert message == line.hear()
    assert {f"{number:03}" * 1000 for number in range(93, 100)} == set(line.hear(7))
    until(lambda: 0 == line.stream.queued)
    line.stream.abort(ConnectionClosed(1000))


@pytest.mark.row(66)
def test_a_larger_value_for_a_key_waits_for_room_too(wires: Wires):
    """Replacing a message with a small one needs none."""
    line, message = clogged(wires, 100_000)
    line.stream.offer("a", "wait", "key")
    assert line.stream.take("b", "wait", "key")
    larger = gevent.spawn(line.stream.take, "c" * 1000, "wait", "key")
    settle()
    assert not larger.ready()

    assert [message, "c" * 1000] == line.hear(2)
    assert larger.get()
    line.stream.abort(ConnectionClosed(1000))
