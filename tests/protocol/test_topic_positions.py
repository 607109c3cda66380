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
    """The newest, where there is too much of it."""
    place = Place(3, "e")
    place.fall_behind()
    for number in range(1000):
        place.hold(number)
    held = place.release()
    assert (256, 999, [], False) == (len(held), held[-1], place.release(), place.behind)


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
