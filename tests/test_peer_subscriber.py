"""A peer that subscribes: what is sent now, what is kept, what is left out and told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.topic_fakes import CountingSerializer, FakeConversation, FakeStream, fake_peer
from webmesh.acknowledged import Letter
from webmesh.exceptions import EncodeError
from webmesh.peer_subscriber import PeerSubscriber, PeerSubscription, delivered, expiry
from webmesh.protocol.data_frames import server_frame
from webmesh.protocol.kept_deliveries import shared
from webmesh.protocol.publication import TTL, Publication
from webmesh.protocol.retained import Room
from webmesh.protocol.session import ACCEPTING_SIDE_IDS
from webmesh.subscribers import PatternEntry
from webmesh.topic_options import TopicOptions

LOOSE = TopicOptions(slow_peer="drop_newest")
ACK = TopicOptions(ack=True)


def event(number: int) -> dict[str, Any]:
    return {"topic": "a", "data": number, "subs": [1]}


def back(peer: PeerSubscriber) -> FakeStream:
    """Its next connection."""
    conversation: Any = FakeConversation(peer.serializer)
    peer.come_back(conversation)
    stream: FakeStream = conversation.stream
    return stream


@pytest.fixture
def serializer() -> CountingSerializer:
    return CountingSerializer()


def test_what_is_counted_is_kept_until_it_has_arrived(serializer: CountingSerializer):
    """And comes again, in order, from where the peer says that it is."""
    peer, stream = fake_peer(serializer, Room(10_000))
    for number in range(4):
        peer.send(event(number))
    assert [0, 1, 2, 3] == stream.payloads
    peer.acknowledge(1)
    peer.leave()
    peer.send(event(4))
    assert (5, True) == (peer.delivered, peer.unsettled)
    assert peer.can_resume(2)
    again = back(peer)
    assert [2, 3, 4] == again.payloads
    peer.send(event(5))
    assert 5 == again.payloads[-1]


def test_what_is_not_kept_any_more_ends_the_session(serializer: CountingSerializer):
    """No part of it is delivered."""
    peer, _ = fake_peer(serializer, Room(10_000))
    peer.send(event(0))
    peer.acknowledge(1)
    peer.leave()
    assert not peer.can_resume(0)


def test_without_a_session_nothing_is_kept(serializer: CountingSerializer):
    """It ends with its connection."""
    peer, stream = fake_peer(serializer)
    peer.send(event(0))
    peer.leave()
    assert not peer.deliver(shared("{}", 1), None, "close")
    assert (0, False, [0]) == (peer.delivered, peer.unsettled, stream.payloads)
    assert peer.can_resume(None)


def test_receipts_are_asked_for_what_was_sent_last(serializer: CountingSerializer):
    """When nothing has come for a while: what keeps coming is asked for in between."""
    peer, _ = fake_peer(serializer, Room(10_000))
    peer.send(event(0))
    before = peer.owner.asked
    peer.tick()
    peer.tick()
    assert before + 1 == peer.owner.asked


def test_a_full_queue_and_a_policy_that_drops(serializer: CountingSerializer):
    """What is left out is told of when there is room: once for each topic, up to the newest."""
    peer, stream = fake_peer(serializer)
    stream.full = True
    message = shared(serializer.serialize(event(0)), 1)
    for offset in (1, 2):
        assert not peer.deliver_loose(message, None, LOOSE, Publication("a", 0, offset=offset, epoch="e"), [1])
    peer.tick()
    assert [] == stream.sent
    stream.full = False
    assert peer.deliver_loose(message, None, LOOSE, Publication("a", 0, offset=3, epoch="e"), [1])
    gap = {"topic": "a", "event": "gap", "data": {"reason": "slow"}, "subs": [1], "offset": 2, "epoch": "e"}
    assert [gap, event(0)] == stream.sent


def test_it_is_told_although_nothing_more_comes(serializer: CountingSerializer):
    """When it is looked at."""
    peer, stream = fake_peer(serializer)
    peer.lose(Publication("a"), [1], "encoding")
    peer.tick()
    peer.tick()
    assert [{"topic": "a", "event": "gap", "data": {"reason": "encoding"}, "subs": [1]}] == stream.sent


def test_a_cut_off_peer_is_not_told_of_a_loss_besides(serializer: CountingSerializer):
    """With the policy that closes it comes back, and recovers from where it was."""
    peer, stream = fake_peer(serializer)
    stream.full = True
    keyed = Publication("a", 0, conflate_key="k")
    assert not peer.deliver_loose(shared("{}", 1), None, TopicOptions(), keyed, [1])
    stream.full = False
    peer.tick()
    assert [] == stream.sent


def test_conflation_goes_by_topic_and_key(serializer: CountingSerializer):
    """Other topics may use the same keys."""
    peer, stream = fake_peer(serializer, Room(10_000))
    for topic in ("a", "b"):
        message = shared(serializer.serialize(event(0) | {"topic": topic}), 1)
        peer.deliver_loose(message, None, TopicOptions(), Publication(topic, 0, conflate_key="k"), [1])
    assert [("a", "k"), ("b", "k")] == stream.keys
    peer.leave()
    for number, topic in enumerate(("a", "b", "a")):
        message = shared(serializer.serialize(event(number) | {"topic": topic}), 1)
        peer.deliver_loose(message, None, TopicOptions(), Publication(topic, 0, conflate_key="k"), [1])
    assert peer.can_resume(None)
    assert [("a", 2), ("b", 1)] == [(one["topic"], one["data"]) for one in back(peer).sent]


class Following:
    def __init__(self) -> None:
        self.told: list[str] = []

    def left(self) -> None:
        self.told.append("left")

    def back(self) -> None:
        self.told.append("back")

    def tick(self) -> None:
        self.told.append("tick")


def test_followers_know_of_its_comings_and_goings(serializer: CountingSerializer):
    """When it is back, what was kept for it is on its way before they act."""
    peer, _ = fake_peer(serializer, Room(10_000))
    follower = Following()
    peer.follow(follower)
    peer.tick()
    peer.leave()
    back(peer)
    peer.unfollow(follower)
    peer.leave()
    assert ["tick", "left", "back"] == follower.told


def test_a_delivery_to_be_acknowledged(serializer: CountingSerializer):
    """It has an id of the session's, which finds who waits for it; it is neither counted nor kept."""
    peer, stream = fake_peer(serializer, Room(10_000))
    answers: list[Any] = []
    letter = Letter(Publication("a", "x", ttl=10.0, at=100.0, headers={"ttl-ms": "10000"}), ACK)
    peer.hand(letter, [7], 2, answers.append, now=104.0)
    peer.hand(letter, [7], 3, answers.append, now=104.0)
    first, second = stream.sent
    assert (ACCEPTING_SIDE_IDS, 2, {"ttl-ms": "6000"}) == (first["id"], first["attempt"], first["headers"])
    assert (0, False) == (peer.delivered, peer.unsettled)
    session = peer.conversation.session  # type: ignore[union-attr]
    session.receive({"id": first["id"], "data": None}).request.waiter.succeed(None)  # type: ignore[union-attr]
    failed: Any = session.receive({"id": second["id"], "error": {"code": "aborted", "message": "no"}})
    failed.owner.waiter.fail(failed.error)
    assert (None, "aborted") == (answers[0], answers[1].code)
    assert 0 == session.open_requests


def test_no_answer_to_the_old_connection_passes_for_one_to_the_new(serializer: CountingSerializer):
    """Ids go on where they were."""
    peer, stream = fake_peer(serializer, Room(10_000))
    letter = Letter(Publication("a", "x"), ACK)
    peer.hand(letter, [7], 1, lambda error: None, now=0.0)
    peer.leave()
    again = back(peer)
    peer.hand(letter, [7], 2, lambda error: None, now=0.0)
    assert stream.sent[0]["id"] + 1 == again.sent[0]["id"]


def test_what_cannot_be_written_leaves_nothing_open(serializer: CountingSerializer):
    """Whoever gave it decides what becomes of it."""
    peer, stream = fake_peer(serializer)
    with pytest.raises(EncodeError):
        peer.hand(Letter(Publication("a", {1, 2}), ACK), [7], 1, lambda error: None, now=0.0)
    assert (0, []) == (peer.conversation.session.open_requests, stream.sent)  # type: ignore[union-attr]


@pytest.mark.parametrize("options", [TopicOptions(), LOOSE])
def test_work_that_nobody_acknowledges(serializer: CountingSerializer, options: TopicOptions):
    """Goes as other deliveries do, with the rules for a slow peer."""
    peer, stream = fake_peer(serializer, Room(10_000))
    peer.hand(Letter(Publication("a", "x"), options), [7], 1, None, now=0.0)
    assert ("x", options is LOOSE) == (stream.sent[0]["data"], "loose" in stream.sent[0])
    assert ("id" in stream.sent[0], options is not LOOSE) == (False, peer.delivered == 1)


def test_who_takes_work(serializer: CountingSerializer):
    """Who is there, keeps up, and does not hang."""
    peer, stream = fake_peer(serializer, Room(10_000))
    assert peer.takes_work
    for name, value, usual in (("full", True, False), ("stalled", True, False), ("state", "closing", "open")):
        setattr(stream, name, value)
        assert not peer.takes_work
        setattr(stream, name, usual)
    peer.leave()
    assert not peer.takes_work


def test_after_the_end_nothing_is_sent_or_kept(serializer: CountingSerializer):
    """However it is called."""
    room = Room(10_000)
    peer, stream = fake_peer(serializer, room)
    peer.send(event(0))
    peer.end()
    peer.deliver(shared("{}", 1), None, "close")
    peer.deliver_to_all([peer], shared("{}", 1), b"", "close")
    peer.deliver_loose(shared("{}", 1), None, LOOSE, Publication("a"), [1])
    assert (True, [0], 0) == (peer.over, stream.payloads, room.taken)


def test_a_subscription_says_what_it_is_for():
    """Its pattern, and what deliveries name it by."""
    subscription = PeerSubscription(PatternEntry(("a", "*")), 7)
    assert (("a", "*"), 7) == (subscription.pattern, subscription.id)


def test_what_a_delivery_says():
    """Optional keys only where they say something."""
    assert {"topic": "a", "data": 1, "subs": [2]} == delivered(Publication("a", 1), [2])
    full = Publication("a", 1, {"h": "x"}, offset=3, epoch="e", retained=True)
    assert {
        "topic": "a", "data": 1, "subs": [2], "headers": {"h": "x"}, "offset": 3, "epoch": "e", "retained": True,
        "loose": True,
    } == delivered(full, [2], loose=True)  # fmt: skip


@pytest.mark.parametrize("many", [False, True])
def test_a_receipt_is_asked_for_behind_what_it_tells_of(serializer: CountingSerializer, many: bool):
    """A pong says that everything before its ping has arrived, so the ping must not overtake the last delivery."""
    peer, stream = fake_peer(serializer, Room(10**9))
    sent_when_asked: list[tuple[int, int]] = []
    peer.owner.ask_receipt = lambda: sent_when_asked.append((len(stream.sent), peer.delivered))
    for number in range(200):
        message, frame = shared("[%d]" % number + "x" * 500, 1), server_frame("{}")
        if many:
            PeerSubscriber.deliver_to_all([peer], message, frame, "close")
        else:
            peer.deliver(message, frame, "close")
    assert sent_when_asked
    assert all(sent == delivered for sent, delivered in sent_when_asked)


def test_what_waited_says_what_is_left_of_its_time(serializer: CountingSerializer):
    """Whoever comes back reads when it is worthless, not how long it once was good for."""
    peer, stream = fake_peer(serializer, Room(10**6))
    peer._desk = SimpleNamespace(now=lambda: 4.0)  # type: ignore[assignment]
    publication = Publication("a", 1, {TTL: "9000"}, ttl=9.0, at=0.0)
    peer.leave()
    message = shared(serializer.serialize(delivered(publication, [1])), 1, expiry(publication, [1]), [1])
    peer.deliver(message, None, "close")
    assert ["5000"] == [sent["headers"][TTL] for sent in back(peer).sent]
