"""What a session keeps of deliveries: counts, order, bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.protocol.kept_deliveries import COST, KeptDeliveries, Recount, TURNS, shared
from webmesh.protocol.retained import Room

LARGE = 10**9


def kept(limit: int = LARGE) -> KeptDeliveries:
    return KeptDeliveries(Room(limit))


@given(sent=st.integers(0, 20), had=st.integers(0, 20), acknowledged=st.integers(0, 20), later=st.integers(0, 20))
def test_a_peer_gets_exactly_what_it_misses(sent: int, had: int, acknowledged: int, later: int):
    """Whatever it had when the connection broke, and whatever was acknowledged before: the rest, in order."""
    had, acknowledged = min(had, sent), min(acknowledged, had, sent)
    deliveries = kept()
    for number in range(sent):
        deliveries.add(shared(b"%d" % number, 1))
    deliveries.acknowledge(acknowledged)
    deliveries.leave()
    for number in range(sent, sent + later):
        deliveries.add(shared(b"%d" % number, 1))

    assert deliveries.resume(had)
    assert [b"%d" % number for number in range(had, sent + later)] == deliveries.take_missed()


def test_a_peer_that_does_not_count_gets_what_came_since_its_loss():
    """What was on its way is nobody's business then: at most once."""
    deliveries = kept()
    deliveries.add(shared(b"sent", 1))
    deliveries.leave()
    deliveries.add(shared(b"away", 1))
    assert deliveries.resume(None)
    assert [b"away"] == deliveries.take_missed()


@pytest.mark.parametrize("received", [-1, 3, 10**30])
def test_a_count_that_cannot_be_is_no_resume(received: int):
    """A peer cannot have had more than was sent."""
    deliveries = kept()
    deliveries.add(shared(b"a", 1))
    deliveries.add(shared(b"b", 1))
    deliveries.leave()
    assert not deliveries.resume(received)


def test_what_is_sent_again_is_kept_until_it_has_arrived():
    """The second connection may break as well."""
    deliveries = kept()
    deliveries.add(shared(b"a", 1))
    deliveries.leave()
    assert deliveries.resume(0)
    assert [b"a"] == deliveries.take_missed()
    deliveries.leave()
    assert deliveries.resume(0)
    assert [b"a"] == deliveries.take_missed()
    deliveries.acknowledge(1)
    assert 0 == len(deliveries)


def test_without_room_the_oldest_go_and_a_peer_that_has_them_goes_on():
    """It is there and has most likely had them."""
    deliveries = kept(3 * (1000 + COST) + 16 * 1024)
    for _ in range(100):
        deliveries.add(shared(bytes(1000), 1))
    assert 0 < deliveries.first
    deliveries.leave()
    assert not deliveries.resume(deliveries.first - 1)
    assert deliveries.resume(deliveries.first)


def test_what_came_while_away_is_whole_or_there_is_no_resume():
    """All or nothing: no partial replay, whatever the peer says it has had."""
    deliveries = kept(16 * 1024)
    deliveries.leave()
    for _ in range(100):
        deliveries.add(shared(bytes(1000), 1))
    assert deliveries.broken
    assert not deliveries.resume(None)
    assert not deliveries.resume(deliveries.next)


def test_once_resumed_it_is_whole_from_where_the_peer_is():
    """Until it is taken, more may come: what was sent before the loss is missed as well, if the peer says so."""
    deliveries = kept(4096)
    for number in range(4):
        deliveries.add(shared(b"%0936d" % number, 1))
    deliveries.leave()
    assert deliveries.resume(1)
    deliveries.add(shared(b"%0936d" % 4, 1))
    assert not deliveries.broken
    deliveries.add(shared(b"%0936d" % 5, 1))
    deliveries.add(shared(b"%0936d" % 6, 1))
    assert deliveries.broken


def test_what_is_withdrawn_takes_no_room_from_what_stays():
    """What comes in its place may be longer, and the common part of what many keep is small."""
    deliveries = kept(4096)
    deliveries.leave()
    deliveries.add(shared(b"stays", 1))
    for _ in range(40):
        deliveries.add(shared(b"goes", 1))
    deliveries.rewrite(lambda message: None if message[0] == b"goes" else message, shared(bytes(200), 1))
    assert not deliveries.broken
    assert deliveries.resume(0)
    assert [b"stays"] + 40 * [bytes(200)] == deliveries.take_missed()


def test_loose_ones_keep_their_place_among_the_counted():
    """In the order in which they were published."""
    deliveries = kept()
    deliveries.leave()
    deliveries.add_loose(shared(b"l1", 1))
    deliveries.add(shared(b"c1", 1))
    deliveries.add_loose(shared(b"l2", 1))
    deliveries.add(shared(b"c2", 1))
    deliveries.add_loose(shared(b"l3", 1))
    assert deliveries.resume(None)
    assert [b"l1", b"c1", b"l2", b"c2", b"l3"] == deliveries.take_missed()
    assert [b"c1", b"c2"] == deliveries.take_missed()


def test_loose_ones_with_a_key_replace_each_other():
    """Only the newest counts, in the place of the first."""
    deliveries = kept()
    deliveries.leave()
    deliveries.add_loose(shared(b"a1", 1), "a")
    deliveries.add_loose(shared(b"b1", 1), "b")
    deliveries.add_loose(shared(b"a2", 1), "a")
    assert [b"a2", b"b1"] == deliveries.take_missed()


def test_loose_ones_go_first_for_want_of_room():
    """They were said to be worth less."""
    deliveries = kept(16 * 1024)
    deliveries.leave()
    deliveries.add(shared(bytes(1000), 1))
    for _ in range(100):
        deliveries.add_loose(shared(bytes(1000), 1))
    assert not deliveries.broken
    assert deliveries.resume(None)


def test_all_room_is_given_back():
    """By acknowledgements, and by the end."""
    room = Room(LARGE)
    deliveries = KeptDeliveries(room)
    for _ in range(50):
        deliveries.add(shared(bytes(5000), 1))
    deliveries.acknowledge(50)
    assert 0 == room.taken
    deliveries.leave()
    deliveries.add_loose(shared(bytes(100), 1))
    deliveries.add(shared(bytes(100), 1))
    deliveries.clear()
    assert 0 == room.taken


def test_what_many_keep_counts_for_each_in_part():
    """It is in memory once."""
    assert (b"x" * 1000, COST + 1000, None, None) == shared(b"x" * 1000, 1)
    assert (b"x" * 1000, COST + 1, None, None) == shared(b"x" * 1000, 1000)
    assert (b"", COST, None, None) == shared(b"", 0)


def test_the_peer_is_asked_now_and_then():
    """When so much has gathered, and while there is no room; not for each."""
    deliveries = kept()
    asked = [number for number in range(1000) if deliveries.add(shared(bytes(1000), 1))]
    assert 30 < len(asked) < 70
    deliveries.acknowledge(1000)
    assert not any(deliveries.add(shared(b"x", 1)) for _ in range(50))
    full = kept(4096)
    assert 10 == sum(full.add(shared(bytes(1200), 1)) for _ in range(640))


def test_many_keys_replace_each_other_without_a_search():
    """Each keeps the place of its first among the counted ones, and counts for its newest."""
    room = Room(1_000_000)
    deliveries = KeptDeliveries(room)
    deliveries.leave()
    for turn in range(3):
        for key in range(500):
            deliveries.add_loose(shared(b"%d %d" % (key, turn), 1), key)
    assert [b"%d 2" % key for key in range(500)] == deliveries.take_missed()
    deliveries.acknowledge(0)
    assert 0 == room.taken


def test_what_is_worthless_when_the_peer_is_back_is_left_out():
    """A counted one is replaced, as both sides have counted it; one that may be left out is not."""
    deliveries = KeptDeliveries(Room(1_000_000))
    deliveries.leave()
    for until in (5.0, 7.0):
        deliveries.add(shared(b"counted %d" % until, 1, (until, {"until": until})))
        deliveries.add_loose(shared(b"loose %d" % until, 1, (until, {})))
    missed = deliveries.take_missed(5.0, lambda wire: b"in place of %d" % wire["until"])
    assert [b"in place of 5", b"counted 7", b"loose 7"] == missed
    assert (2, 2, 2) == (deliveries.next, len(deliveries), deliveries.expired)


def test_what_is_not_worthless_yet_says_what_is_left_of_its_time():
    """Of those without an end nothing is made anew."""
    deliveries = KeptDeliveries(Room(1_000_000))
    deliveries.leave()
    for until in (None, 7.0):
        deliveries.add(shared(b"counted", 1, until and (until, {})))
        deliveries.add_loose(shared(b"loose", 1, until and (until, {})))
    missed = deliveries.take_missed(5.0, lambda wire: b"", lambda message, seconds: message + b" %d" % seconds)
    assert [b"counted", b"loose", b"counted 2", b"loose 2"] == missed


def both(count: int = 10, size: int = 10_000) -> tuple[KeptDeliveries, KeptDeliveries, Room]:
    """Two that keep the same, as among a thousand who got it, and the room of the second."""
    room = Room(LARGE)
    one, other = kept(), KeptDeliveries(room)
    for number in range(count):
        message = shared(bytes(size), 1000)
        one.add(message)
        other.add(message)
    return one, other, room


def tick(deliveries: KeptDeliveries, times: int = 4) -> None:
    for _ in range(times):
        deliveries.tick()


def test_the_last_who_keep_it_count_the_whole():
    """Or sessions that take nothing could hold a thousand times what they may."""
    one, other, room = both()
    tick(other)
    assert 10 * (5_000 + COST) <= room.taken < 10 * (5_500 + COST)
    one.acknowledge(10)
    tick(other)
    assert 10 * (10_000 + COST) <= room.taken < 10 * (10_500 + COST)
    other.acknowledge(4)
    other.add(shared(b"", 1))
    other.acknowledge(11)
    assert 0 == room.taken


def test_what_comes_for_one_that_takes_nothing_is_counted_within_two_ticks():
    """However much it keeps already."""
    _, other, room = both(count=1000, size=100)
    tick(other, 40)
    before = room.taken
    for _ in range(100):
        other.add(shared(bytes(10_000), 1000))
    tick(other, 2)
    assert before + 100 * 10_000 <= room.taken
    other.clear()
    assert 0 == room.taken


def test_loose_ones_count_the_whole_too():
    """Those that were replaced, or came through, no longer count."""
    room = Room(LARGE)
    deliveries = KeptDeliveries(room)
    deliveries.leave()
    for number in range(10):
        deliveries.add_loose(shared(bytes(10_000), 1000), number)
    tick(deliveries)
    assert 10 * 10_000 <= room.taken < 10 * 11_000
    for number in range(10):
        deliveries.add_loose(shared(b"", 1), number)
    assert 10 == len(deliveries.take_missed())
    deliveries.acknowledge(0)
    assert 0 == room.taken


def test_what_has_outgrown_its_room_goes_when_it_is_counted_again():
    """As if it had been whole from the beginning."""
    deliveries = kept(64 * 1024)
    deliveries.leave()
    for _ in range(100):
        deliveries.add(shared(bytes(10_000), 1000))
    assert not deliveries.broken
    tick(deliveries)
    assert deliveries.broken


def test_whoever_takes_what_it_gets_is_not_counted_again():
    """That would be work for each delivery."""
    deliveries = kept()
    for number in range(10):
        deliveries.add(shared(bytes(10), 1))
        deliveries.add(shared(bytes(10), 1))
        deliveries.acknowledge(number + 1)
        deliveries.tick()
        assert deliveries._recount is None


@pytest.mark.parametrize("size, counted", [(100, 3), (20_000, 3 * TURNS)])
def test_those_that_keep_little_are_counted_in_turns(size: int, counted: int, monkeypatch: pytest.MonkeyPatch):
    """Ten thousand that all wait for their next receipt would hold the hub in each tick."""
    times: list[int] = []
    monkeypatch.setattr(Recount, "count", lambda self, key, messages: times.append(1) or 0)
    deliveries = kept()
    for _ in range(5):
        deliveries.add(shared(bytes(size), 1000))
    deliveries.tick()  # nothing is stuck at the first look
    tick(deliveries, 3 * TURNS)
    assert 2 * counted == len(times)  # what is new, and what was counted before
