"""The history of one topic."""

from hypothesis import given
from hypothesis import strategies as st

import pytest

from webmesh.protocol.topic_log import TopicLog

STEPS = st.lists(st.floats(0, 20) | st.none(), max_size=40)


def filled(count: int, **options) -> TopicLog[str]:
    """A log with messages `m1` …, one a second from second 1 on."""
    log: TopicLog[str] = TopicLog("e1", **{"most": 100, **options})
    for number in range(1, count + 1):
        assert number == log.append(f"m{number}", float(number))
    return log


def offsets(entries) -> list[int]:
    return [entry.offset for entry in entries]


def test_messages_are_numbered_from_one():
    """An empty log stands at 0; the newest message's offset is the log's."""
    log = filled(0)
    assert (0, None) == (log.offset, log.newest(0.0))
    assert 1 == log.append("a", 0.0)
    assert (1, "a") == (log.offset, log.newest(0.0).message)


@pytest.mark.parametrize(("after", "wanted"), [(0, [1, 2, 3]), (1, [2, 3]), (3, [])])
def test_who_was_away_gets_all_that_came(after: int, wanted: list[int]):
    """Everything after its offset, in order; nothing when nothing came."""
    recovered = filled(3).after(after, "e1", 3.0)
    assert recovered.complete
    assert wanted == offsets(recovered.entries)


@pytest.mark.parametrize("after", [6, -1, 2])
def test_recovery_is_all_or_nothing(after: int):
    """An offset that was never given, or after which one message is gone, gets no part of the rest."""
    recovered = filled(5, most=2).after(after, "e1", 5.0)
    assert (False, []) == (recovered.complete, recovered.entries)


def test_the_last_offset_that_can_be_recovered():
    """The one just before the oldest message that is kept."""
    log = filled(5, most=2)
    assert [4, 5] == offsets(log.after(3, "e1", 5.0).entries)
    assert log.after(5, "e1", 5.0).complete


def test_another_epoch_is_never_recovered():
    """Its numbers mean other messages, even where they are equal."""
    assert not filled(3).after(3, "e0", 3.0).complete


def test_old_messages_go():
    """Each is kept for *ttl* seconds, also when nothing new comes."""
    log = filled(5, ttl=2.0)
    assert [4, 5] == offsets(log.page(5.5))
    assert not log.after(2, "e1", 5.5).complete
    assert log.after(3, "e1", 5.5).complete
    assert log.newest(7.0) is None
    assert log.after(5, "e1", 7.0).complete
    assert 6 == log.append("m6", 8.0)


def test_the_last_seconds():
    """Counted back from now, oldest first."""
    log = filled(5)
    assert [4, 5] == offsets(log.recent(2.0, 5.0))
    assert [] == log.recent(2.0, 60.0)
    assert [1, 2, 3, 4, 5] == offsets(log.recent(60.0, 5.0))


def test_pages():
    """From an offset on, so many, either way round."""
    log = filled(5)
    assert [3, 4] == offsets(log.page(5.0, after=2, most=2))
    assert [5, 4] == offsets(log.page(5.0, most=2, reverse=True))
    assert [5, 4, 3] == offsets(log.page(5.0, after=2, reverse=True))


def test_pages_of_a_log_that_has_let_go_of_its_beginning():
    """By offset, wherever that stands now."""
    log = filled(9, most=4)
    assert [6, 7] == offsets(log.page(9.0, after=2, most=2))
    assert [8] == offsets(log.page(9.0, after=7, most=1))
    assert [9, 8] == offsets(log.page(9.0, after=7, reverse=True))
    assert [] == log.page(9.0, after=20, most=2)


def test_a_log_that_keeps_nothing_counts():
    """A subscriber that is up to date is so without any history."""
    log = filled(3, most=0)
    assert (3, 0) == (log.offset, len(log))
    assert log.after(3, "e1", 3.0).complete
    assert not log.after(2, "e1", 3.0).complete


def test_a_log_that_goes_on_where_another_stopped():
    """As after a restart with an engine that remembers how far it was."""
    log: TopicLog[str] = TopicLog("e1", most=2, first=8)
    assert 7 == log.offset
    assert log.after(7, "e1", 0.0).complete
    assert not log.after(6, "e1", 0.0).complete
    assert 8 == log.append("m8", 0.0)


@given(STEPS, st.integers(0, 5), st.floats(1, 30) | st.none(), st.integers(-2, 45))
@pytest.mark.row(86)
def test_what_is_recovered_is_what_came(steps, most, ttl, since):
    """Whatever came when: complete exactly if every later message is there, and then these are they."""
    log: TopicLog[int] = TopicLog("e", most=most, ttl=ttl)
    now, came = 0.0, []
    for step in steps:
        if step is None:
            came.append(now)
            assert len(came) == log.append(len(came), now)
        else:
            now += step
    kept = [n for n, at in enumerate(came, 1) if n > len(came) - most and (ttl is None or at > now - ttl)]
    later = [n for n in range(1, len(came) + 1) if n > since]

    recovered = log.after(since, "e", now)

    assert recovered.complete == (0 <= since <= len(came) and set(later) <= set(kept))
    assert (later if recovered.complete else []) == offsets(recovered.entries)
    assert len(log) <= most


def test_bytes_are_bounded_and_the_newest_stays():
    """The oldest go until there is room; what has ended with its time counts no longer."""
    log: TopicLog[str] = TopicLog("e", most=3, ttl=10.0, most_bytes=10)

    def kept() -> list[int]:
        return [entry.offset for entry in log.page(now)]

    now = 0.0
    for size in (4, 4, 3):
        log.append("x", now, size)
    assert [2, 3] == kept()
    log.append("x", now, 99)
    assert [4] == kept()
    log.append("x", now, 1)
    assert [5] == kept()
    for _ in range(4):
        log.append("x", now, 2)
    assert [7, 8, 9] == kept()
    now = 10.0
    log.append("x", now, 10)
    assert [10] == kept()
