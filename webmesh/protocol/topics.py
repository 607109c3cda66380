"""The syntax of topics and of patterns for them: `orders/42/created`, `orders/*/created`, `orders/**`.

This file alone decides what may stand in either. Pure: text in, segments or `BadPattern` out. Which patterns a
topic matches is `topic_trie`'s business. Wire form: docs/PROTOCOL.md section 4.

A topic is text, cut into segments by `/`. No segment is empty, so `a//b`, `/a` and `a/` are refused rather than
taken for names that only look like `a/b`. In a pattern, `*` as a whole segment stands for any one, and `**` as the
last one for one or more. Everything is compared letter for letter in Unicode's form NFC.
"""

from __future__ import annotations

import re
import unicodedata

from webmesh.exceptions import BadPattern, ConfigurationError

MOST_SEGMENTS = 32
"""Segments of a topic or pattern. A trie is searched segment by segment, so this bounds the cost of a message."""

MOST_BYTES = 512
"""Bytes of a topic or pattern in UTF-8. Every delivery carries its topic; NATS advises to stay below 256."""

ONE, REST = "*", "**"
"""The wildcards: any one segment, and one or more at the end."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def read_topic(text: str) -> tuple[str, ...]:
    """The segments of a topic, in NFC.

    Raises:
        BadPattern: It is no topic; with the position of the character at which it goes wrong.
        ConfigurationError: It is no text.
    """
    segments = _segments(text, "topic")
    position = text.find("*")
    if position >= 0:
        raise BadPattern(text, position, "a topic holds no '*': only patterns do")
    return segments


def read_topic_pattern(text: str) -> tuple[str, ...]:
    """The segments of a pattern, in NFC; every topic is a pattern too.

    Raises:
        BadPattern: It is no pattern; with the position of the character at which it goes wrong.
        ConfigurationError: It is no text.
    """
    segments = _segments(text, "pattern")
    for number, segment in enumerate(segments):
        if "*" in segment:
            _check_wildcard(text, segments, number)
    return segments


def is_topic(text: str) -> bool:
    """Whether a valid pattern matches only the topic of the same name."""
    return "*" not in text


def covers(pattern: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether *pattern* matches every topic that *other* does."""
    if pattern[-1] == REST:
        return len(other) >= len(pattern) and _agree(pattern[:-1], other)
    return len(pattern) == len(other) and other[-1] != REST and _agree(pattern, other)


def _agree(pattern: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return all(
        mine == theirs or mine == ONE and theirs != REST for mine, theirs in zip(pattern, other, strict=False)
    )


def overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether there is a topic that both patterns match."""
    for mine, theirs in zip(one, other, strict=False):
        if REST in (mine, theirs):
            return True
        if mine != theirs and ONE not in (mine, theirs):
            return False
    return len(one) == len(other)


def specificity(segments: tuple[str, ...]) -> tuple[int, ...]:
    """A key by which patterns that match one topic are ordered: the smallest is the most specific.

    Fixed segments win over `*`, and that over `**`, from left to right, as with paths.
    """
    return tuple(2 if segment == REST else 1 if segment == ONE else 0 for segment in segments)


def _segments(text: object, what: str) -> tuple[str, ...]:
    if not isinstance(text, str):
        raise ConfigurationError(f"a {what} is text such as 'orders/created', not {text!r}")
    text = unicodedata.normalize("NFC", text)
    control = _CONTROL.search(text)
    if control is not None:
        raise BadPattern(text, control.start(), f"control characters cannot stand in a {what}")
    if text.startswith("$"):
        raise BadPattern(text, 0, "names that start with '$' are the protocol's own")
    if len(text.encode()) > MOST_BYTES:
        raise BadPattern(text[:MOST_BYTES], MOST_BYTES, f"a {what} has at most {MOST_BYTES} bytes")
    segments = tuple(text.split("/"))
    if "" in segments:
        number = segments.index("")
        raise BadPattern(text, _start(segments, number), "a segment is empty")
    if len(segments) > MOST_SEGMENTS:
        raise BadPattern(text, _start(segments, MOST_SEGMENTS), f"a {what} has at most {MOST_SEGMENTS} segments")
    return segments


def _check_wildcard(text: str, segments: tuple[str, ...], number: int) -> None:
    segment = segments[number]
    position = _start(segments, number) + segment.index("*")
    if segment not in (ONE, REST):
        raise BadPattern(text, position, "a wildcard is a whole segment")
    if segment == REST and number != len(segments) - 1:
        raise BadPattern(text, position, "'**' can only be the last segment")


def _start(segments: tuple[str, ...], number: int) -> int:
    """Index of the first character of a segment."""
    return sum(len(segment) + 1 for segment in segments[:number])
