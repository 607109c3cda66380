"""Regular expressions for peers' text: what is allowed, and that what is allowed is linear."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.exceptions import BadPattern
from webmesh.linear_regex import ALTERNATIVES, compile_linear


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("[0-9a-f]+", "c0ffee", "coffee"),
        (r"\d{4}-\d{2}", "2026-11", "2026-1"),
        (r"-?\d+", "-12", "--12"),
        (r"\w+@\w+\.\w+", "me@example.org", "me@example"),
        (r"v?(?:\d+|\d+\.\d+)", "v3.11", "v3."),
        (r"\d+(\.\d+)?", "1.5", "1."),
        (r"[A-Z]{3}", "JFK", "JFKX"),
        (r"[^/.]+\.[a-z]{2,4}", "photo.jpeg", "photo.j"),
        (r"[]a]+", "]a]", "b"),
        (r"[^]a]", "b", "]"),
        (r"[\[\\-]+", "[\\-", "]"),
        (r"\x41\u0042\U00000043", "ABC", "ABD"),
        (r"a|b|", "", "c"),
        (r"(?:red|green)(?:-(?:light|dark))?", "red-dark", "red-"),
        (r"\{\}\(\)\[\*", "{}()[*", "{}"),
        (r"größe[é-ü]", "größeö", "größea"),
        (".", "\n", ""),
    ],
)
def test_common_expressions_compile_and_match_whole_texts(pattern: str, matching: str, other: str) -> None:
    """Characters, classes, counts, groups and choices are what people write, and mean what they mean in `re`."""
    compiled = compile_linear(pattern)

    assert compiled.fullmatch(matching)
    assert not compiled.fullmatch(other)


@pytest.mark.row(52)
@pytest.mark.parametrize(
    ("pattern", "position"),
    [
        ("(a+)+", 4),
        ("(?:a*)*b", 6),
        ("x(?:[a-z]+,?){2,}", 13),
        ("(a|aa)+", 6),
        ("(a|b)*", 5),
        ("((a?)?){9}", 7),
    ],
)
def test_repeats_inside_repeats_are_refused_at_the_outer_count(pattern: str, position: int) -> None:
    """A group takes no count but '?': nested repeats are what makes backtracking exponential."""
    with pytest.raises(BadPattern, match="a group must not repeat") as caught:
        compile_linear(pattern)

    assert position == caught.value.position
    assert pattern == caught.value.pattern


@pytest.mark.row(52)
@pytest.mark.parametrize(
    ("pattern", "position"),
    [
        ("a*a", 0),
        ("xa+a*b", 1),
        (r"\d+[a-f0-9]", 0),
        (".*b", 0),
        (r"\w+b?c?\d", 0),
        ("a?a?aa", 0),
        ("[a-z]{1,9}[x-z]{1,9}", 0),
        ("a+(?:b|a)", 0),
        ("a+b?a", 0),
        (r"[^a]*[é]", 0),
        (r"[à-ÿ]+\u00e9", 0),
        (r"[Ā-ſ]+[ő-ɏ]", 0),
    ],
)
def test_a_repeat_that_can_eat_what_follows_is_refused(pattern: str, position: int) -> None:
    """Where a repeat ends must be told by the next character, else a failing match tries every division."""
    with pytest.raises(BadPattern, match="many ways to divide") as caught:
        compile_linear(pattern)

    assert position == caught.value.position


@pytest.mark.parametrize(
    "pattern", ["a+b", r"\d*\.\d*", "[a-m]+[n-z]+", r"[^/]*/", "[à-è]+[é-ÿ]+", "a{3}a+", "a{0,2}b?c"]
)
def test_repeats_that_cannot_meet_stand_side_by_side(pattern: str) -> None:
    """Classes are compared by what they hold, beyond ASCII too, so that separable repeats are let through."""
    assert compile_linear(pattern)


@pytest.mark.parametrize(
    ("pattern", "position", "why"),
    [
        ("^a", 0, "anchors"),
        ("ab$", 2, "anchors"),
        (r"\bword", 0, "escape"),
        (r"(a)\1", 3, "escape"),
        (r"a\Z", 1, "escape"),
        (r"\07", 0, "escape"),
        ("a\\", 1, "escape"),
        (r"\N{DASH}", 0, "escape"),
        ("(?=a)a", 1, "plain groups"),
        ("(?<!a)b", 1, "plain groups"),
        ("(?P<n>a)", 1, "plain groups"),
        ("(?i)a", 1, "plain groups"),
        ("a(?>b)", 2, "plain groups"),
        ("a(b", 1, "not closed"),
        ("a)b", 1, "closes nothing"),
        ("a[b", 1, "not closed"),
        ("[b-a]", 1, "bad character range"),
        ("a[[b]", 1, "inside a class"),
        ("a[b--c]", 1, "inside a class"),
        ("*a", 0, "nothing to repeat"),
        ("a|+", 2, "nothing to repeat"),
        ("{2}", 0, "nothing to repeat"),
        ("a+?", 1, "one count"),
        ("a*+", 1, "one count"),
        ("a{2}{3}", 1, "one count"),
        ("a{", 1, "a count is"),
        ("a{,}", 1, "a count is"),
        ("a{x}", 1, "a count is"),
        ("a{3,2}", 1, "from the smaller"),
        ("a{99999999}", 1, "up to 65535"),
    ],
)
def test_what_is_not_needed_is_refused_where_it_stands(pattern: str, position: int, why: str) -> None:
    """Each refusal names the character and the reason."""
    with pytest.raises(BadPattern, match=re.escape(why)) as caught:
        compile_linear(pattern)

    assert position == caught.value.position


def test_digits_and_letters_are_ascii() -> None:
    """`\\d` and `\\w` mean ASCII: look-alike digits of other scripts are other texts."""
    assert compile_linear(r"\d+").fullmatch("123")
    assert not compile_linear(r"\d+").fullmatch("１２３")
    assert not compile_linear(r"\w+").fullmatch("é")


def test_choices_are_bounded() -> None:
    """The ways to read a pattern multiply, so their number is bounded."""
    assert compile_linear("(?:a|b)" * 6)

    with pytest.raises(BadPattern, match=f"more than {ALTERNATIVES} ways") as caught:
        compile_linear("(?:a|b)" * 7)
    assert 6 * len("(?:a|b)") == caught.value.position

    with pytest.raises(BadPattern, match=f"more than {ALTERNATIVES} ways"):
        compile_linear("|".join("a" * (ALTERNATIVES + 1)))


@pytest.mark.row(52)
@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("[a-z]+", "a" * 1_000_000 + "!"),
        (r"a+b+c+", "a" * 500_000 + "b" * 500_000),
        (r"(?:x|y)?[a-z]*-[a-z]*(?:\.[a-z]+)?", "a" * 500_000 + "-" + "a" * 500_000 + "."),
        (r"\w+@\w+\.\w+", "w" * 1_000_000),
    ],
)
def test_a_million_hostile_characters_are_answered(pattern: str, text: str) -> None:
    """Text that nearly matches is refused within the time limit of any test; a quadratic match would take hours."""
    assert not compile_linear(pattern).fullmatch(text)


class CountingMatcher:
    """A plain backtracking matcher for sequences of (class, least, most), which counts its comparisons."""

    def __init__(self, sequence: list[tuple[str, int, int | None]]) -> None:
        self.pieces = [(re.compile(source, re.ASCII | re.DOTALL), least, most) for source, least, most in sequence]
        self.steps = 0

    def matches(self, text: str) -> bool:
        self.steps = 0
        return self._from(0, text, 0)

    def _from(self, index: int, text: str, start: int) -> bool:
        self.steps += 1
        if index == len(self.pieces):
            return start == len(text)
        source, least, most = self.pieces[index]
        end = start
        while end < len(text) and (most is None or end - start < most) and source.fullmatch(text[end]):
            self.steps += 1
            end += 1
        return any(self._from(index + 1, text, stop) for stop in range(end, start + least - 1, -1))


ATOMS = ["a", "b", "[ab]", "[^a]", ".", r"\d", r"\w", "[a-c]", "-"]
COUNTS: list[tuple[str, int, int | None]] = [
    ("", 1, 1), ("?", 0, 1), ("*", 0, None), ("+", 1, None), ("{2}", 2, 2), ("{1,3}", 1, 3), ("{2,}", 2, None),
]  # fmt: skip
SEQUENCES = st.lists(st.tuples(st.sampled_from(ATOMS), st.sampled_from(COUNTS)), min_size=1, max_size=6)


@pytest.mark.row(52)
@given(SEQUENCES, st.text("ab-1é", max_size=12), st.sampled_from("ab-1é"))
def test_steps_grow_with_the_text_and_no_faster(
    pieces: list[tuple[str, tuple[str, int, int | None]]], text: str, filler: str
) -> None:
    """Backtracking over an allowed pattern costs at most a constant of the pattern for each character."""
    pattern = "".join(atom + count for atom, (count, _, _) in pieces)
    try:
        compiled = compile_linear(pattern)
    except BadPattern:
        return
    matcher = CountingMatcher([(atom, least, most) for atom, (_, least, most) in pieces])

    for length in (0, 100, 400):
        hostile = filler * length + text
        assert bool(compiled.fullmatch(hostile)) == matcher.matches(hostile)
        assert matcher.steps <= (2 * len(pieces) + 2) * (len(hostile) + 1)


@given(st.text("ab[]()|?*+{},0123\\d^$.-é", max_size=14))
def test_any_text_is_read_or_refused_with_its_place(pattern: str) -> None:
    """No text makes the reader fail otherwise, and what it lets through `re` takes too."""
    try:
        compiled = compile_linear(pattern)
    except BadPattern as refusal:
        assert 0 <= refusal.position <= len(pattern)
    else:
        assert pattern == compiled.pattern
