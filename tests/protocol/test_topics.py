"""What may be a topic, and what a pattern."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.exceptions import BadPattern, ConfigurationError
from webmesh.protocol.topics import (
    MOST_BYTES, MOST_SEGMENTS, is_topic, read_topic, read_topic_pattern, specificity,
)  # fmt: skip

GOOD = {
    "a": ("a",),
    "orders/42/created": ("orders", "42", "created"),
    "Grüße/日本": ("Grüße", "日本"),
    "a b/c.d": ("a b", "c.d"),
    "/".join("x" * MOST_SEGMENTS): ("x",) * MOST_SEGMENTS,
}
BAD = {
    "": 0, "/a": 0, "a/": 2, "a//b": 2, "a/\n": 2, "a\x00": 1, "\ud800": 0, "$sys/a": 0, "a\u2028b": 1,
    "/".join("x" * (MOST_SEGMENTS + 1)): 2 * MOST_SEGMENTS, "y" * (MOST_BYTES + 1): MOST_BYTES,
}  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_a_topic_is_read_as_its_segments(text: str):
    """Segments stand between slashes; a topic is a pattern that matches itself."""
    assert GOOD[text] == read_topic(text) == read_topic_pattern(text)
    assert is_topic(text)


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("read", [read_topic, read_topic_pattern])
@pytest.mark.row(50)
def test_what_is_neither_is_refused_at_its_place(read, text: str):
    """The error names the character at which it goes wrong."""
    with pytest.raises(BadPattern) as caught:
        read(text)
    assert BAD[text] == caught.value.position


@pytest.mark.parametrize("text", [None, 3, b"a", ["a"]])
def test_only_text_is_a_topic(text: object):
    """Whatever else a program gives is told with an example."""
    with pytest.raises(ConfigurationError, match="orders/created"):
        read_topic(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["*", "**", "a/*", "a/*/b", "*/*/**"])
def test_a_pattern_has_wildcards_that_a_topic_has_not(text: str):
    """`*` and `**` are whole segments of patterns."""
    assert tuple(text.split("/")) == read_topic_pattern(text)
    assert not is_topic(text)
    with pytest.raises(BadPattern, match="topic holds no"):
        read_topic(text)


@pytest.mark.parametrize(("text", "position"), [("a/b*", 3), ("***", 0), ("**/a", 0), ("a/**/b", 2), ("*a/b", 0)])
def test_a_wildcard_in_the_wrong_place_is_refused(text: str, position: int):
    """Part of a segment is no wildcard, and what follows `**` could never be found."""
    with pytest.raises(BadPattern) as caught:
        read_topic_pattern(text)
    assert position == caught.value.position


def test_topics_are_compared_in_one_form():
    """Two ways to write an umlaut are one topic."""
    assert read_topic("u\u0308") == read_topic("\u00fc")


def test_the_more_specific_pattern_comes_first():
    """Fixed segments win over `*`, that over `**`, from left to right."""
    patterns = ["**", "*/b", "a/**", "a/*", "a/b"]
    ordered = sorted((read_topic_pattern(text) for text in patterns), key=specificity)
    assert ["a/b", "a/*", "a/**", "*/b", "**"] == ["/".join(segments) for segments in ordered]


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str):
    """No text of a peer's raises anything else."""
    for read in (read_topic, read_topic_pattern):
        try:
            segments = read(text)
        except BadPattern:
            continue
        assert all(segments)
        assert segments == read("/".join(segments))
