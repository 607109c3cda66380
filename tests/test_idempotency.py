"""The memory of keyed calls: what is found again, for how long, and what makes room."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.exceptions import Overloaded
from webmesh.idempotency import NOT_KEPT, SUBJECT_SIZE, IdempotencyWindow, Key, fingerprint_of

pytestmark = pytest.mark.row(57, 74, 86)


class Window(IdempotencyWindow):
    """One that counts what it drops for room."""

    def __init__(self, keys: int = 10, size: int = 100_000, seconds: float = 300) -> None:
        self.dropped = 0
        super().__init__(keys, size, seconds, self.drop)

    def drop(self) -> None:
        self.dropped += 1

    def run(self, text: str, outcome: bytes = b"outcome", now: float = 0) -> None:
        self.begin(key(text), b"print", None)
        self.end(key(text), outcome, now)


def key(text: str, subject: str = "", path: str = "/") -> Key:
    return Key(subject, path, text)


def test_an_outcome_is_found_under_its_key_until_it_is_too_old() -> None:
    """And under no other caller's, path's or key."""
    window = Window(seconds=300)
    assert window.find(key("a"), 0) is None
    window.begin(key("a"), b"print", "waiting")
    running = window.find(key("a"), 0)
    assert running is not None
    assert (b"print", None, "waiting") == (running.fingerprint, running.outcome, running.waiting)
    window.end(key("a"), b"outcome", 5)
    assert running is window.find(key("a"), 305) and b"outcome" == running.outcome
    others = (key("b"), key("a", "me"), key("a", "", "/other"))
    assert [None] * 3 == [window.find(other, 305) for other in others]
    assert window.find(key("a"), 305.1) is None
    assert (0, 0, 0) == (len(window), window.size, window.dropped)


def test_one_that_never_began_leaves_nothing() -> None:
    """It may run."""
    window = Window()
    window.begin(key("a"), b"", None)
    window.forget(key("a"))
    assert window.find(key("a"), 0) is None and 0 == len(window)


def test_the_oldest_outcomes_make_room_and_are_counted() -> None:
    """What runs never does."""
    window = Window(keys=3)
    window.begin(key("running"), b"", None)
    for text in "abcd":
        window.run(text)
    assert (3, 2) == (len(window), window.dropped)
    assert [False, False, True, True] == [window.find(key(text), 0) is not None for text in "abcd"]
    assert window.find(key("running"), 0) is not None


def test_more_than_may_be_remembered_cannot_run() -> None:
    """Otherwise one of them could not be recognised."""
    window = Window(keys=2)
    window.begin(key("a"), b"", None)
    window.begin(key("b"), b"", None)
    with pytest.raises(Overloaded):
        window.begin(key("c"), b"", None)
    window.end(key("a"), b"", 0)
    window.begin(key("c"), b"", None)


def test_bytes_are_bounded_whatever_the_number() -> None:
    """An outcome that would take more than half of the room is not kept at all."""
    window = Window(keys=1000, size=10_000)
    window.run("huge", b"x" * 5001)
    huge = window.find(key("huge"), 0)
    assert huge is not None and NOT_KEPT == huge.outcome
    for number in range(100):
        window.run(str(number), b"x" * 400)
    assert window.size <= 10_000 and 0 < len(window) < 11
    assert 101 == window.dropped + len(window)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["run", "forget"]), st.integers(0, 900))))
def test_its_size_is_that_of_what_it_holds(steps: list[tuple[str, str, int]]) -> None:
    """Whatever happens in whatever order."""
    window, now = Window(keys=4, size=3000, seconds=10), 0.0
    for text, what, size in steps:
        now += size / 300
        if window.find(key(text), now) is not None:
            continue
        window.begin(key(text), b"", None)
        window.end(key(text), b"x" * size, now) if what == "run" else window.forget(key(text))
        assert len(window) <= 4 and 0 <= window.size <= 3000
    window.find(key("a"), now + 100)
    assert (0, 0) == (len(window), window.size)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": 1, "b": [2, {"c": None, "d": 1.5}]}, {"b": [2, {"d": 1.5, "c": None}], "a": 1}, True),
        ({"a": b"\x00"}, {"a": b"\x00"}, True),
        ({"a": b"\x00"}, {"a": b"\x01"}, False),
        ({"a": b"1"}, {"a": "1"}, False),
        (1, 1.0, False),
        (1, True, False),
        ("1", 1, False),
        (None, "null", False),
        ([1, 2], [2, 1], False),
        (object(), object(), True),
    ],
)
def test_equal_payloads_have_one_fingerprint(one: Any, other: Any, equal: bool) -> None:
    """The order of keys does not count; a kind of its own has no more than its name."""
    assert equal is (fingerprint_of(one) == fingerprint_of(other))


def test_the_digest_of_a_key_tells_where_its_parts_end() -> None:
    """So no key can pretend to be another one."""
    keys = [Key("a", "b", "c"), Key("ab", "", "c"), Key("", "ab", "c"), Key("a", "bc", ""), Key("1:a", "b", "c")]
    assert 5 == len({one.digest for one in keys})
    assert {32} == {len(one.digest) for one in keys}


def test_the_digest_of_a_key_begins_with_its_subjects() -> None:
    """By which a store gives each subject its share."""
    keys = [Key("a", "b", "c"), Key("a", "b", "d"), Key("a", "c", "c"), Key("b", "b", "c")]
    assert [1, 1, 1, 2] == [len({one.digest[:SUBJECT_SIZE] for one in keys[: n + 1]}) for n in range(4)]


def test_one_subject_does_not_push_out_what_others_have() -> None:
    """Who holds more than half loses its own oldest, by number and by bytes; alone it may have all."""
    for window, outcome in ((Window(keys=10), b""), (Window(keys=100, size=10_000), bytes(400))):
        for number in range(30):
            if number < 2:
                window.begin(key(f"{number}", "ann"), b"", None)
                window.end(key(f"{number}", "ann"), outcome, number)
            window.begin(key(f"{number}", "eve"), b"", None)
            window.end(key(f"{number}", "eve"), outcome, number)
        assert all(window.find(key(text, "ann"), 30) for text in ("0", "1"))
        assert window.find(key("0", "eve"), 30) is None and window.find(key("29", "eve"), 30) is not None


def test_one_subject_does_not_take_all_places_of_running_calls() -> None:
    """Half of them and one: others can still begin theirs."""
    window = Window(keys=10)
    with pytest.raises(Overloaded, match="of one subject"):
        for number in range(10):
            window.begin(key(f"{number}", "eve"), b"", None)
    window.begin(key("a", "ann"), b"", None)
