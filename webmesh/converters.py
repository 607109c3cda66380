"""Converters: what a parameter of a path pattern matches, and the value it becomes.

This file alone decides the text that each built-in converter takes and which converter is the more specific.
Pure: text in, value out. Where a parameter stands in a pattern, and which route wins, is `routing`'s business.

| written | matches one segment that is | value |
|---|---|---|
| `<uuid:x>` | RFC 9562 text: 8-4-4-4-12 hexadecimal digits, either case | `uuid.UUID` |
| `<int:x>` | decimal ASCII digits, perhaps after `-`: no `+`, blank, leading zero or `-0`; −2⁶³ … 2⁶⁴−1 | `int` |
| `<float:x>` | a JSON number (RFC 8259 section 6) of at most 32 characters that is finite | `float` |
| `<own:x>` | what its regular expression and then its function take | the function's result |
| `<x>`, `<str:x>` | any text but `.` and `..` | `str` |
| `<path:x>` | one or more such segments, up to the end of the path | `str` |

An earlier line is more specific than a later one and is tried first. No parameter matches an empty segment. One
integer or UUID in lower case has one text, so that a path can be a key; a float has several (`1`, `1.0`, `1e0`).
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

from webmesh.exceptions import ConfigurationError
from webmesh.linear_regex import compile_linear

ANY_SEGMENT = "[^/]+"
"""Regular expression of a converter that names none: whatever stands in one segment."""

# What the serializers carry without loss (docs/PROTOCOL.md): msgpack's signed and unsigned 64 bits.
_INT_LEAST, _INT_MOST = -(2**63), 2**64 - 1

# The longest text of a finite float is 24 characters (`repr(-sys.float_info.max)`); people may write a few zeros more.
_FLOAT_SIZE = 32

_DOTS = frozenset((".", ".."))


class Specificity(IntEnum):
    """How narrow a converter is; the smaller is tried first."""

    UUID = 0
    INT = 1
    FLOAT = 2
    OWN = 3
    STR = 4
    PATH = 5


@dataclass(frozen=True)
class Converter:
    """A kind of path parameter: a regular expression, then a function from text to value.

    Two converters are equal when both are; the name under which a router knows one does not matter.

    Args:
        parse: Gets a segment that the whole of *pattern* matches. A `ValueError` means that the segment is not of this
            kind, and the path may match another route. Runs for each such path, so it must be quick and not wait.
        pattern: Regular expression of the segment. It must be linear (see `linear_regex`): repeats cover single
            characters or classes. `\\d` and `\\w` are ASCII.

    Raises:
        BadPattern: The regular expression is malformed or could take more than linear time.
    """

    parse: Callable[[str], object]
    pattern: str = ANY_SEGMENT
    specificity: Specificity = field(init=False, default=Specificity.OWN)
    fullmatch: Callable[[str], re.Match[str] | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.parse):
            raise ConfigurationError(f"a converter needs a function from text to value, not {self.parse!r}")
        object.__setattr__(self, "fullmatch", compile_linear(self.pattern).fullmatch)

    def accepts(self, text: str) -> bool:
        """Whether *text* is of this kind."""
        if self.fullmatch(text) is None:
            return False
        try:
            self.parse(text)
        except ValueError:
            return False
        return True


def _built_in(parse: Callable[[str], object], pattern: str, specificity: Specificity) -> Converter:
    converter = Converter(parse, pattern)
    object.__setattr__(converter, "specificity", specificity)
    return converter


def _int(text: str) -> int:
    value = int(text)
    if not _INT_LEAST <= value <= _INT_MOST:
        raise ValueError("integers beyond 64 bits cannot be sent on")
    return value


def _float(text: str) -> float:
    if len(text) > _FLOAT_SIZE:
        raise ValueError("longer than any float's own text")
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("beyond what a float holds")
    return value


def _str(text: str) -> str:
    # Handlers build file names and URLs of such values, where these two lead elsewhere.
    if text in _DOTS:
        raise ValueError("not a name")
    return text


def _path(text: str) -> str:
    segments = text.split("/")
    if "" in segments or not _DOTS.isdisjoint(segments):
        raise ValueError("an empty segment, or one that leads elsewhere")
    return text


_HEX = "[0-9a-fA-F]"

BUILT_IN: Mapping[str, Converter] = MappingProxyType(
    {
        "uuid": _built_in(uuid.UUID, "-".join(f"{_HEX}{{{n}}}" for n in (8, 4, 4, 4, 12)), Specificity.UUID),
        "int": _built_in(_int, "0|-?[1-9][0-9]{0,19}", Specificity.INT),
        "float": _built_in(_float, r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+\-]?[0-9]+)?", Specificity.FLOAT),
        "str": _built_in(_str, ANY_SEGMENT, Specificity.STR),
        "path": _built_in(_path, ".+", Specificity.PATH),
    }
)
"""Converters that every router knows. Their names cannot be given to others."""
