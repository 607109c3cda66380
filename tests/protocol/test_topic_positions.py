"""Where a subscription stands: what is new, what comes twice, what is missing."""

from __future__ import annotations

import pytest

from webmesh.messages import Position
from webmesh.protocol.topic_positions import OwnOffsets, Place, TopicPositions, Verdict


def verdicts(place: Place, *offsets: int) -> list[str]:
    return [place.judge(offset, "e").value for offset in offsets]


def test_numbers_in_a_row_are_new_and_known_ones_are_not() -> None:
    """A hole is told and changes nothing: who asks decides what is done about it."""
    place = Place(3, "e")
    assert ["new", "had", "had", "jump", "new"] == verdicts(place, 4, 4, 2, 6, 5)
    assert Position(5, "e") == place.position


def test_another_epoch_is_a_jump() -> None:
    """Its numbers mean something else."""
    place = Place(3, "e")
    assert Verdict.JUMP is place.judge(4, "f")
    place.move(1, "f")
    assert Verdict.NEW is place.judge(2, "f")


def test_the_first_message_of_a_topic_is_where_it_begins() -> None:
    """Nothing is known of what came before it."""
    positions = TopicPositions()
    assert ["new", "new", "jump"] == [positions.judge("a", offset, "e").value for offset in (7, 8, 10)]


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ((8,), ["new"]),  # nothing was replayed
        ((5, 7, 8), ["new", "new", "new"]),  # some were, and it is the node's business which
        ((7, 7, 8), ["new", "had", "new"]),
        ((5, 9), ["new", "jump"]),
        ((6, 5), ["new", "had"]),
    ],
)
def test_what_is_replayed_may_have_holes(offsets: tuple[int, ...], expected: list[str]) -> None:
    """Up to the newest of when it began; what is live may not."""
    assert expected == verdicts(Place(None, "e", 7), *offsets)


def test_a_new_subscription_stands_at_the_newest() -> None:
    """So that nothing that follows is missed, even when it is lost before the first message."""
    place = Place(None, "e", 7)
    assert Position(7, "e") == place.position
    assert (True, False, False) == (place.replays(7, "e"), place.replays(8, "e"), place.replays(7, "f"))


def test_a_position_lies_before_what_is_not_acknowledged() -> None:
    """It would be lost otherwise with the session that waits for it."""
    place = Place(9, "e")
    place.unacknowledged = {7, 9}
    assert Position(6, "e") == place.position
    place.unacknowledged.clear()
    assert Position(9, "e") == place.position


def test_what_is_held_is_let_go_once() -> None:
    """The newest, where there is too much of it, and whatever somebody waits for."""
    place = Place(3, "e")
    place.fall_behind()
    place.hold(-1, print)
    for number in range(1000):
        place.hold(number, None)
    held = place.release()
    assert ([-1, 745, 999], 256) == ([held[index][0] for index in (0, 1, -1)], len(held))
    assert ([], False) == (place.release(), place.behind)
    place.fall_behind()
    for number in range(300):
        place.hold(number, print)
    assert 300 == len(place.release())


def test_what_was_handled_is_known_while_an_older_one_is_not() -> None:
    """Going back for that one brings the others again; so many of them are remembered."""
    place = Place(2, "e")
    for offset in (3, 4):
        place.depart(offset)
        place.move(offset, "e")
    place.arrive(4)
    place.go_back()
    assert (2, False, True) == (place.last, place.done(3), place.done(4))
    place.depart(3)
    place.arrive(3)
    assert place.done(4)
    place.move(5, "e")
    place.depart(5)
    place.arrive(5)
    assert not place.done(4)
    place.depart(5)
    for offset in range(6, 3000):
        place.arrive(offset)
    assert (1024, True) == (len(place.handled or ()), place.done(6))
    place.move(1, "f")
    assert (False, Position(1, "f")) == (place.done(6), place.position)


def test_what_was_fetched_is_done_unless_it_waits_for_its_end() -> None:
    """The part that was fetched last; an older one was live since."""
    place = Place(2, "e")
    place.fetch(3, "e")
    place.fetch(5, "e")
    place.depart(4)
    assert [False, True, False, True, False] == [place.done(offset) for offset in (2, 3, 4, 5, 6)]
    place.move(8, "e")
    place.fetch(9, "e")
    assert [False, True] == [place.done(offset) for offset in (5, 9)]


def test_topics_beyond_the_bound_are_forgotten() -> None:
    """The oldest go first."""
    positions = TopicPositions(2)
    for topic in ("a", "b", "c"):
        positions.judge(topic, 1, "e")
    assert ["b", "c"] == positions.topics()


def test_own_publications_are_no_holes() -> None:
    """As many as are remembered."""
    own = OwnOffsets()
    for offset in (3, 4, 6):
        own.add("a", "e", offset)
    assert own.cover("a", "e", 3, 4)
    assert not own.cover("a", "e", 3, 6)
    assert not own.cover("a", "f", 3, 4)
    assert not own.cover("a", "e", 3, 10**12)
    for offset in range(10, 2000):
        own.add("a", "e", offset)
    assert (False, True) == (own.has("a", "e", 3), own.has("a", "e", 1999))
