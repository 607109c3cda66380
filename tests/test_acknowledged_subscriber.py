"""Plain subscribers that acknowledge: windows, bounds, places in the queue, ends."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from tests.running import wait_for
from webmesh import acknowledged_subscriber as module
from webmesh.acknowledged import Answer, Desk, Letter
from webmesh.acknowledged_subscriber import LocalDeliveries, PeerDeliveries
from webmesh.exceptions import Aborted
from webmesh.losses import Losses
from webmesh.protocol.deliveries import Redelivery
from webmesh.protocol.publication import Publication
from webmesh.protocol.retained import CommonRoom, Room
from webmesh.testing import FakeClock, RecordingObserver
from webmesh.topic_options import TopicOptions, TopicTable

OPTIONS = TopicOptions(ack=True, window=2, redelivery=Redelivery(first=10.0, attempts=3))


class Peer:
    """Notes what it is sent and told; `conversation` and `stream` stand for its connection."""

    def __init__(self) -> None:
        self.has_room = True
        self.conversation: Any = self
        self.stream: Any = self
        self.got: list[tuple[Any, int, list[int]]] = []
        self.answers: list[Answer] = []
        self.told: list[Any] = []
        self.closed: list[int] = []

    def hand(self, letter: Letter, subs: list[int], attempt: int, answer: Answer, *, now: float) -> None:
        self.got.append((letter.publication.payload, attempt, subs))
        self.answers.append(answer)

    def tell(self, lost: Losses) -> None:
        self.told.extend(event["offset"] for event in lost.events(lambda sub: ("*",)))

    def cut_off(self, code: int, reason: str) -> None:
        self.closed.append(code)

    @property
    def payloads(self) -> list[Any]:
        return [payload for payload, _, _ in self.got]


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def common() -> CommonRoom:
    return CommonRoom(10_000)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def desk(clock: FakeClock) -> Desk:
    return Desk(clock, RecordingObserver(), lambda letter, attempts, then: then(), clock)


@pytest.fixture
def deliveries(peer: Any, desk: Desk, common: CommonRoom) -> Any:
    made = PeerDeliveries(peer, desk, Room(1000, common))
    yield made
    made.end()


def put(deliveries: PeerDeliveries, *payloads: Any, size: int = 10, subs: Any = (1,), **more: Any) -> None:
    for payload in payloads:
        deliveries.put(Publication("a", payload, offset=payload, epoch="e", **more), OPTIONS, list(subs), size)


def test_the_window(peer: Peer, deliveries: PeerDeliveries) -> None:
    """What waits goes out as what is on its way is acknowledged."""
    put(deliveries, 1, 2, 3, 4)
    assert [1, 2] == peer.payloads
    peer.answers[0](None)
    peer.answers[1](None)
    assert [1, 2, 3, 4] == peer.payloads


def test_a_queue_that_is_full_is_given_no_more(peer: Peer, deliveries: PeerDeliveries) -> None:
    """It goes on when it is looked at the next time."""
    peer.has_room = False
    put(deliveries, 1)
    assert [] == peer.got
    peer.has_room = True
    deliveries.tick()
    assert [1] == peer.payloads


def test_one_that_was_away_has_it_again(peer: Peer, deliveries: PeerDeliveries) -> None:
    """As another attempt, ahead of what waits."""
    put(deliveries, 1, 2, 3)
    peer.has_room = False
    deliveries.left()
    peer.has_room = True
    deliveries.back()
    assert [(1, 2), (2, 2)] == [(payload, attempt) for payload, attempt, _ in peer.got[2:]]


@pytest.mark.row(51)
def test_who_lets_too_much_wait_is_told_what_is_lost(
    peer: Peer, deliveries: PeerDeliveries, common: CommonRoom, desk: Desk
) -> None:
    """Once, after what waited and before what comes next: until then all is lost, or it would come before its gap."""
    put(deliveries, 1, 2, 3, size=400)
    assert [4008] == peer.closed
    put(deliveries, 4, size=10)
    assert (800, []) == (common.taken, peer.told)
    peer.answers[0](None)
    peer.answers[1](None)
    assert ([4], 0) == (peer.told, common.taken)
    put(deliveries, 5, size=10)
    assert [1, 2, 5] == peer.payloads
    assert 1 == desk.observer.events.count(("refused", "delivery", "not acknowledged"))  # type: ignore[attr-defined]


def test_one_that_is_away_is_told_when_it_is_back(peer: Peer, deliveries: PeerDeliveries) -> None:
    """Also where nothing of it waits, as all sessions together have no room."""
    peer.conversation, peer.has_room = None, False
    put(deliveries, 1, size=2000)
    assert ([], []) == (peer.closed, peer.told)
    peer.has_room = True
    deliveries.back()
    assert [1] == peer.told


def test_the_number_is_bounded_too(
    peer: Peer, deliveries: PeerDeliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small they are."""
    monkeypatch.setattr(module, "MOST_OPEN", 5)
    put(deliveries, *range(1, 8), size=0)
    assert (5, [4008]) == (len(deliveries.deliveries), peer.closed)


def test_a_newer_one_with_the_same_key(peer: Peer, deliveries: PeerDeliveries) -> None:
    """Takes the place of one that waits and was never sent; not of one that was, nor of another topic's."""
    put(deliveries, 1, 2)
    put(deliveries, 3, conflate_key="k")
    put(deliveries, 4)
    put(deliveries, 5, conflate_key="k")
    deliveries.put(Publication("b", 6, conflate_key="k"), OPTIONS, [1], 10)
    peer.answers[0](None)
    peer.answers[1](None)
    peer.answers[2](None)
    put(deliveries, 7, conflate_key="k")
    for number in range(3, 6):
        peer.answers[number](None)
    assert [1, 2, 5, 4, 6, 7] == peer.payloads


def test_what_an_ended_subscription_had_waiting_is_not_delivered(peer: Peer, deliveries: PeerDeliveries) -> None:
    """What another one shares goes on to that one."""
    put(deliveries, 1, 2)
    put(deliveries, 3, subs=(1, 2))
    put(deliveries, 4)
    deliveries.unsubscribed(1)
    assert (3, 1, [2]) == peer.got[-1]
    peer.answers[-1](None)
    assert [1, 2, 3] == peer.payloads


def test_catching_up_waits_for_room(peer: Peer, deliveries: PeerDeliveries, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no longer than the subscriber is there."""
    monkeypatch.setattr(module, "HALF", 3)
    put(deliveries, 1, 2, 3)
    one = gevent.spawn(deliveries.wait_room)
    gevent.sleep(0)
    assert not one.ready()
    peer.answers[0](None)
    one.get(timeout=10)
    put(deliveries, 4)
    other = gevent.spawn(deliveries.wait_room)
    gevent.sleep(0)
    assert not other.ready()
    deliveries.end()
    other.get(timeout=10)


def test_the_end_gives_back_all_room(peer: Peer, deliveries: PeerDeliveries, common: CommonRoom) -> None:
    """And nothing is delivered after it."""
    put(deliveries, 1, 2, 3)
    assert 30 == common.taken
    deliveries.end()
    put(deliveries, 4)
    peer.answers[0](None)
    assert (0, [1, 2]) == (common.taken, peer.payloads)


def test_what_is_given_up_gives_back_its_room(
    peer: Peer, deliveries: PeerDeliveries, common: CommonRoom, clock: FakeClock
) -> None:
    """When it is buried."""
    put(deliveries, 1)
    for number in range(3):
        peer.answers[number](Aborted("no"))
        clock.advance(100.0)
        deliveries._late()
    assert (0, 3) == (common.taken, len(peer.got))


class Function:
    """A function of the program."""

    def __init__(self) -> None:
        self.over = False
        self.plain: list[Any] = []
        self.got: list[tuple[Any, int]] = []
        self.answers: list[Answer] = []
        self.losses = 0
        self.gaps: list[str] = []

    def take(self, publication: Publication) -> None:
        self.plain.append(publication.payload)

    def hand(self, publication: Publication, attempt: int, answer: Answer) -> None:
        self.got.append((publication.payload, attempt))
        self.answers.append(answer)

    def lose(self) -> None:
        self.losses += 1

    def gap(self, reason: str) -> None:
        self.gaps.append(reason)


@pytest.fixture
def function() -> Function:
    return Function()


@pytest.fixture
def local(function: Any, desk: Desk) -> Any:
    table = TopicTable()
    table.add("safe/**", OPTIONS)
    made = LocalDeliveries(function, table, desk)
    yield made
    made.end()


def test_a_function_gets_one_after_another(function: Function, local: LocalDeliveries) -> None:
    """The next one when it has returned; what it need not acknowledge goes past that."""
    for number in range(3):
        local.take(Publication("safe/a", number))
    local.take(Publication("plain", "p"))
    local.gap("why")
    assert ([(0, 1)], ["p"], ["why"]) == (function.got, function.plain, function.gaps)
    function.answers[0](None)
    assert [(0, 1), (1, 1)] == function.got


def test_a_failure_waits_for_its_next_attempt(function: Function, local: LocalDeliveries, clock: FakeClock) -> None:
    """While others go on."""
    for number in range(2):
        local.take(Publication("safe/a", number))
    function.answers[0](Aborted("no"))
    assert [(0, 1), (1, 1)] == function.got
    function.answers[1](None)
    clock.advance(10.0)
    local._late()
    assert (0, 2) == function.got[-1]


def test_a_function_that_has_ended_gets_nothing(function: Function, local: LocalDeliveries) -> None:
    """It is not called while the program ends."""
    function.over = True
    local.take(Publication("safe/a", 0))
    assert [] == function.got


def test_a_function_that_lets_too_much_wait_is_told(
    function: Function, local: LocalDeliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What finds no room is lost to it, and it knows how many were."""
    monkeypatch.setattr(module, "MOST_OPEN", 3)
    for number in range(5):
        local.take(Publication("safe/a", number))
    assert 2 == function.losses
    assert wait_for(lambda: len(local.deliveries) == 3)


@pytest.mark.row(51)
def test_the_greediest_of_all_sessions_is_cut_off_and_told(
    peer: Peer, deliveries: PeerDeliveries, desk: Desk
) -> None:
    """Not whoever comes next, and takes what it gets."""
    common = CommonRoom(1500)
    greedy_peer: Any = Peer()
    room = Room(1000, common)
    greedy = PeerDeliveries(greedy_peer, desk, room)
    room.cut = greedy.cut
    modest = PeerDeliveries(peer, desk, Room(1000, common))  # type: ignore[arg-type]
    put(greedy, 1, 2, size=450)
    put(modest, 7, size=500)
    put(modest, 8, size=300)
    assert ([7, 8], []) == (peer.payloads, peer.closed)
    assert ([4008], 800) == (greedy_peer.closed, common.taken)
    greedy.tick()
    assert [2] == greedy_peer.told
    put(modest, 9, size=900)  # beyond its own room: its own loss
    assert [4008] == peer.closed
    greedy.end()
    modest.end()
    assert (0, {}) == (common.taken, common.rooms)


def test_what_takes_the_place_of_another_counts_for_itself(
    peer: Peer, deliveries: PeerDeliveries, common: CommonRoom
) -> None:
    """Its bytes and its subscriptions: there may be others by now."""
    put(deliveries, 1, 2)
    put(deliveries, 3, size=100, conflate_key="k")
    put(deliveries, 4, size=300, subs=(1, 5), conflate_key="k")
    assert 320 == common.taken
    put(deliveries, 5, size=50, subs=(5,), conflate_key="k")
    assert 70 == common.taken
    peer.answers[0](None)
    assert (5, 1, [5]) == peer.got[-1]
    put(deliveries, 6, size=100, conflate_key="k")
    put(deliveries, 7, size=980, conflate_key="k")
    assert [4008] == peer.closed


def test_a_key_is_forgotten_with_what_waited_under_it(
    peer: Peer, deliveries: PeerDeliveries, clock: FakeClock
) -> None:
    """Also where that was never sent."""
    put(deliveries, 1, 2)
    for number in range(3, 6):
        put(deliveries, number, conflate_key=str(number), ttl=1.0, at=clock())
    clock.advance(2.0)
    peer.answers[0](None)
    assert ({}, 1) == (deliveries._newest, len(deliveries.deliveries))
