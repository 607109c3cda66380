"""The order in which a new subscription gets what was, what is, and what comes."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from webmesh import catch_up as module
from webmesh.catch_up import CatchUp
from webmesh.exceptions import BrokerUnavailable, EncodeError
from webmesh.observer import NO_OBSERVER
from webmesh.peer_subscriber import PeerSubscription
from webmesh.protocol.publication import Publication
from webmesh.subscribers import PatternEntry


class Peer:
    """Notes what it is sent."""

    conversation = None
    over = False
    name = "me"
    serializer = "form"

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.lost: list[Any] = []
        self.expiries: list[float] = []
        self.then: Any = None

    def send(self, message: dict[str, Any], expiry: Any = None) -> None:
        if expiry is not None:
            self.expiries.append(expiry[0])
        if message["data"] == "bad":
            raise EncodeError("no")
        self.sent.append(message["data"])
        then, self.then = self.then, None
        if then is not None:
            then()

    def lose(self, publication: Publication, subs: list[int], reason: str) -> None:
        self.lost.append((publication.payload, subs, reason))


def kept(number: int, epoch: str = "e") -> Publication:
    return Publication("a", number, offset=number, epoch=epoch)


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def subscription() -> PeerSubscription:
    return PeerSubscription(PatternEntry(("a",)), 7)


@pytest.fixture
def catching(peer: Any, subscription: PeerSubscription) -> CatchUp:
    made = subscription.catching_up = CatchUp(peer, subscription, NO_OBSERVER)
    subscription.entry.takers[made] = None
    return made


def test_first_what_was_then_what_came_then_it_is_live(catching: CatchUp, peer: Peer, subscription: PeerSubscription):
    """Each once, though what came meanwhile was among what was read as well."""
    catching.take(kept(2))
    catching.replay([kept(1), kept(2)])
    peer.then = lambda: catching.take(kept(4))
    catching.take(kept(3))
    catching.run()
    assert [1, 2, 3, 4] == peer.sent
    assert {("form", 7): {peer: None}} == subscription.entry.peers
    assert not subscription.entry.takers
    assert subscription.catching_up is None


def test_another_epoch_is_never_taken_for_had(catching: CatchUp, peer: Peer):
    """Its numbers mean something else."""
    catching.replay([kept(5)])
    catching.take(Publication("a", "new", offset=1, epoch="f", at=1.0))
    catching.run()
    assert [5, "new"] == peer.sent


def test_what_is_not_numbered_is_told_apart_by_its_time(catching: CatchUp, peer: Peer):
    """A retained value that was read after it had come live is not sent twice."""
    value = Publication("a", "old", at=1.0)
    catching.take(value)
    catching.take(Publication("a", "new", at=2.0))
    catching.take(Publication("b", "other", at=0.5))
    catching.replay([value.as_retained()])
    catching.run()
    assert ["old", "new", "other"] == peer.sent


def test_a_value_published_meanwhile_comes_in_its_turn(catching: CatchUp, peer: Peer):
    """It was read after it had come: what came before it in its topic is neither lost nor overtaken by it."""
    for number in (1, 2, 3):
        catching.take(kept(number))
    catching.replay([kept(2).as_retained(), Publication("b", "b")])
    catching.run()
    assert ["b", 1, 2, 3] == peer.sent


def test_the_past_is_read_as_it_is_sent(catching: CatchUp, peer: Peer):
    """A value that changes before its turn comes when it is live, and one that was lost meanwhile as it was read."""

    def values() -> Any:
        yield Publication("a", "a", at=1.0)
        catching.take(Publication("b", "b", at=2.0))
        yield Publication("b", "b", at=2.0)
        yield Publication("c", "c", at=1.0)
        assert ["a", "c"] == peer.sent

    catching.replay(values(), values=True)
    catching.run()
    assert ["a", "c", "b"] == peer.sent


def test_nobody_reads_on_for_one_that_has_gone(catching: CatchUp, peer: Peer):
    """Its connection and its session are over."""
    read = []

    def values() -> Any:
        for number in range(1, 4):
            read.append(number)
            yield kept(number)

    catching.replay(values())
    peer.then = lambda: setattr(peer, "over", True)
    catching.run()
    assert ([1], [1, 2]) == (peer.sent, read)


def test_an_engine_that_is_lost_meanwhile_is_a_gap(catching: CatchUp, peer: Peer, subscription: PeerSubscription):
    """Its answer has gone already, with which it could have been refused."""

    def values() -> Any:
        yield kept(1)
        raise BrokerUnavailable("away")

    catching.replay(values())
    catching.run()
    assert [1, {"reason": "the engine was lost", "pattern": True}] == peer.sent
    assert subscription.catching_up is None


def test_what_is_replayed_to_one_that_is_away_ends_with_its_time(peer: Peer, subscription: PeerSubscription):
    """Its session keeps it as it keeps what is live."""
    catching = CatchUp(peer, subscription, NO_OBSERVER, now=lambda: 5.0)  # type: ignore[arg-type]
    catching.replay([Publication("a", 1, ttl=2.0, at=4.0), Publication("a", 2), Publication("a", 3, ttl=2.0, at=1.0)])
    catching.run()
    assert ([1, 2], [6.0]) == (peer.sent, peer.expiries)


def test_too_much_to_wait_is_lost_and_told(catching: CatchUp, peer: Peer, monkeypatch: pytest.MonkeyPatch):
    """The oldest go."""
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    for number in (1, 2, 3):
        catching.take(kept(number))
    catching.run()
    assert [2, 3] == peer.sent
    assert [(1, [7], "slow")] == peer.lost


def test_what_its_peer_cannot_read_is_told(catching: CatchUp, peer: Peer):
    """And the rest goes on."""
    catching.replay([Publication("a", "bad", offset=1, epoch="e"), kept(2)])
    catching.run()
    assert [2] == peer.sent
    assert [("bad", [7], "encoding")] == peer.lost


def test_ones_own_publications_can_be_left_out(catching: CatchUp, peer: Peer):
    """As those that are live."""
    catching.take(Publication("a", 1, publisher="me", exclude_self=True))
    catching.take(Publication("a", 2, publisher="me"))
    catching.run()
    assert [2] == peer.sent


def test_one_that_is_given_up_never_becomes_live(catching: CatchUp, peer: Peer, subscription: PeerSubscription):
    """Unsubscribed while it was catching up."""
    catching.replay([kept(1), kept(2)])
    peer.then = catching.stop
    catching.run()
    assert [1] == peer.sent
    assert not subscription.entry.peers
    assert not subscription.entry.takers


def test_a_gap_of_the_engine_is_told_of_the_pattern(catching: CatchUp, peer: Peer):
    """It may concern any topic of it."""
    catching.gap("redis was away")
    assert [{"reason": "redis was away", "pattern": True}] == peer.sent


def test_it_begins_once(catching: CatchUp, peer: Peer):
    """With its answer, or when its session is back without one; whichever is first."""
    catching.replay([kept(1)])
    catching.begin()
    catching.begin()
    gevent.sleep(0)
    assert [1] == peer.sent
