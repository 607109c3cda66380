"""The syntax of path patterns: `/users/<int:id>/orders`.

This file alone decides what may stand in a pattern. Pure: text in, segments or `BadPattern` out. What a converter
matches is in `converters`; which of two patterns wins is `route_tree`'s business.

A pattern starts with `/`. Between slashes stands a fixed segment, matched letter for letter, or one whole parameter,
`<name>` or `<converter:name>`. `/a` and `/a/` are different paths, so a pattern may end with a slash and means it.
Paths are plain text, not URLs: `%20` is three characters. Patterns and paths are compared in Unicode's form NFC.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from webmesh.converters import Converter, Specificity
from webmesh.exceptions import BadPattern, ConfigurationError

MOST_SEGMENTS = 64
"""Segments of one pattern. A path may have more where the pattern ends with `<path:…>`."""

CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What no pattern and no path that matches may hold: C0, C1, the line separators of Unicode, lone surrogates."""

HANDLER_PARAMETERS = ("payload", "path", "client")
"""What every handler gets by position, and so no path parameter may be called."""

_DOTS = (".", "..")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named segment; *position* is the index of its name in the pattern."""

    name: str
    converter: Converter
    position: int


Segment = str | Parameter


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A pattern, read: its text in NFC, and what stands between its slashes (nothing after a last slash: `""`)."""

    text: str
    segments: tuple[Segment, ...]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Its named segments, left to right."""
        return tuple(segment for segment in self.segments if isinstance(segment, Parameter))

    def below(self, prefix: PathPattern) -> PathPattern:
        """This pattern with *prefix* in front, letter for letter.

        Raises:
            BadPattern: Both have a parameter of one name, or together they are too long.
        """
        text = prefix.text + self.text
        if self.text.startswith("$"):
            raise BadPattern(self.text, 0, "the protocol's own paths have no place in a router that others include")
        moved = tuple(
            Parameter(segment.name, segment.converter, segment.position + len(prefix.text))
            if isinstance(segment, Parameter)
            else segment
            for segment in self.segments
        )
        pattern = PathPattern(text, prefix.segments + moved)
        if len(pattern.segments) > MOST_SEGMENTS:
            raise BadPattern(text, len(prefix.text), f"more than {MOST_SEGMENTS} segments")
        _refuse_repeated_names(pattern)
        return pattern


def read_pattern(text: str, converters: Mapping[str, Converter], *, reserved: bool = False) -> PathPattern:
    """The pattern that *text* writes.

    Args:
        converters: What stands before the colon of a parameter → the converter.
        reserved: Whether this is one of the protocol's own paths: they start with `$` and have no parameters.

    Raises:
        BadPattern: With the position of the character at which it goes wrong.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"a path pattern is text such as '/users/<int:id>', not {text!r}")
    text = unicodedata.normalize("NFC", text)
    if reserved:
        return _read_reserved(text)
    if not text.startswith("/"):
        own = "paths that start with '$' are the protocol's own"
        raise BadPattern(text, 0, own if text.startswith("$") else "a path starts with '/'")
    control = CONTROL_CHARACTERS.search(text)
    if control is not None:
        raise BadPattern(text, control.start(), "control characters cannot stand in a path")
    pattern = PathPattern(text, _read_segments(text, converters))
    _refuse_repeated_names(pattern)
    return pattern


def read_prefix(text: str, converters: Mapping[str, Converter]) -> PathPattern:
    """The prefix that *text* writes: a pattern without a last slash; `/` or nothing adds nothing.

    Raises:
        BadPattern: As `read_pattern`, and where it ends with a slash or with `<path:…>`.
    """
    if text in ("", "/"):
        return PathPattern("", ())
    pattern = read_pattern(text, converters)
    if pattern.segments[-1] == "":
        raise BadPattern(pattern.text, len(pattern.text) - 1, "a prefix has no last slash: what follows has a first")
    for parameter in pattern.parameters:
        if parameter.converter.specificity is Specificity.PATH:
            raise BadPattern(pattern.text, parameter.position, "nothing can follow a path parameter")
    return pattern


def _read_reserved(text: str) -> PathPattern:
    if not text.startswith("$"):
        raise BadPattern(text, 0, "the protocol's own paths start with '$'")
    if "<" in text:
        raise BadPattern(text, text.index("<"), "the protocol's own paths have no parameters")
    return PathPattern(text, tuple(text.split("/")))


def _read_segments(text: str, converters: Mapping[str, Converter]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    written = text[1:].split("/")
    position = 1
    for index, segment in enumerate(written):
        last = index == len(written) - 1
        if index == MOST_SEGMENTS:
            raise BadPattern(text, position, f"more than {MOST_SEGMENTS} segments")
        if "<" in segment or ">" in segment:
            segments.append(_read_parameter(text, position, segment, converters, last=last))
        elif segment in _DOTS or not (segment or last):
            raise BadPattern(text, position, f"{segment!r} cannot be a segment" if segment else "an empty segment")
        else:
            segments.append(segment)
        position += len(segment) + 1
    return tuple(segments)


def _read_parameter(
    text: str, start: int, segment: str, converters: Mapping[str, Converter], *, last: bool
) -> Parameter:
    _refuse_bad_brackets(text, start, segment)
    kind, colon, name = segment[1:-1].rpartition(":")
    if colon and kind not in converters:
        raise BadPattern(text, start + 1, f"no converter is called {kind!r}; known are {', '.join(sorted(converters))}")
    position = start + 1 + len(kind) + len(colon)
    converter = converters[kind if colon else "str"]
    _refuse_bad_name(text, position, name)
    if converter.specificity is Specificity.PATH and not last:
        raise BadPattern(text, start, "a path parameter takes the rest of the path, so nothing can follow it")
    # Python keeps the names of parameters in this form, so this is the one that the handler's has.
    return Parameter(unicodedata.normalize("NFKC", name), converter, position)


def _refuse_bad_brackets(text: str, start: int, segment: str) -> None:
    first = min(segment.find(bracket) for bracket in "<>" if bracket in segment)
    if segment[first] == ">":
        raise BadPattern(text, start + first, "'>' closes nothing")
    if first > 0:
        raise BadPattern(text, start + first, "a parameter is a whole segment: a slash must stand before it")
    end = segment.find(">")
    if end < 0:
        raise BadPattern(text, start, "this parameter is not closed with '>'")
    if end != len(segment) - 1:
        raise BadPattern(text, start + end + 1, "a parameter is a whole segment: a slash must follow it")
    if "<" in segment[1:]:
        raise BadPattern(text, start + segment.index("<", 1), "'<' inside a parameter")


def _refuse_bad_name(text: str, position: int, name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise BadPattern(text, position, f"{name!r} cannot be the name of a handler's parameter")
    if name in HANDLER_PARAMETERS:
        raise BadPattern(text, position, f"{name!r} is what every handler gets already; choose another name")


def _refuse_repeated_names(pattern: PathPattern) -> None:
    seen: set[str] = set()
    for parameter in pattern.parameters:
        if parameter.name in seen:
            raise BadPattern(pattern.text, parameter.position, f"the name {parameter.name!r} is there already")
        seen.add(parameter.name)
