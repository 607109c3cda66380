"""Regular expressions that are safe to run on a peer's text: checked once, linear in its length ever after.

Python's `re` backtracks, so a pattern such as `(a+)+` or `a*a*b` lets forty characters hold the hub for hours
or a thousand for seconds. This file alone decides what is allowed: a repeat covers one character or class, and what
it matches cannot also begin what follows it. Then a match that fails gives nothing back in vain. Pure: pattern
in, compiled pattern or `BadPattern` out. What such a pattern stands for is `converters`' business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from webmesh.exceptions import BadPattern

ALTERNATIVES = 64
"""Ways to read one pattern (choices by `|` and `?` after a group, multiplied). Each may be tried on a text."""

REPEATS = 65535
"""Largest count in braces; a path is shorter by far."""

# Characters that stand for all others when two classes are compared: with re.ASCII and without flags every class is
# a union of ranges whose ends are ASCII or stand in the pattern itself.
_ASCII = frozenset(map(chr, range(0x81)))

_SPECIAL_GROUP = "only plain groups are allowed, '(…)' or '(?:…)': no look-around, names or flags"
_ANCHOR = "anchors are not needed: a pattern always covers the whole text"
_BRACES = re.compile(r"\{(\d*)(,?)(\d*)\}", re.ASCII)
_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[dDsSwWtnrfva]|[^0-9a-zA-Z])", re.DOTALL)
_CLASS = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)
_ESCAPED = re.compile(r"\\.", re.DOTALL)
# Unicode TR18 writes nested classes and set operations so; `re` warns that it may come to read them so too.
_SET_OPERATION = re.compile(r"\[|--|&&|\|\||~~")


@dataclass(frozen=True, slots=True)
class _Piece:
    """One character or class with its count: the only thing that may repeat."""

    position: int
    source: str
    characters: frozenset[str]
    least: int
    varies: bool


_Sequence = tuple[_Piece, ...]


def compile_linear(pattern: str) -> re.Pattern[str]:
    """*pattern* compiled for `fullmatch`, with `re.ASCII`: `\\d` and `\\w` mean ASCII digits and letters.

    Allowed are characters, escapes, classes, `.`, groups, `|`, and the counts `? * + {m,n}`; a group takes no count
    but `?`. The time of a match is bounded by the text's length times a constant of the pattern.

    Raises:
        BadPattern: With the position at which the pattern leaves what is allowed, and what to write instead.
    """
    _Reader(pattern).read()
    return re.compile(pattern, re.ASCII | re.DOTALL)


class _Reader:
    """Reads a pattern from left to right into the sequences of pieces that it stands for, and checks each."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._index = 0
        # Any character that the pattern names, and its neighbours, tell apart what its classes tell apart.
        named = {chr(code) for code in _codes(pattern)}
        self._samples = _ASCII | named | {chr(min(ord(character) + 1, 0x10FFFF)) for character in named}

    def read(self) -> None:
        """Check the whole pattern; raises `BadPattern`."""
        sequences = self._read_choice()
        if self._index < len(self._pattern):
            raise self._bad("')' closes nothing; write '\\)' for the character")
        for sequence in sequences:
            self._check(sequence)

    def _bad(self, why: str, position: int | None = None) -> BadPattern:
        return BadPattern(self._pattern, self._index if position is None else position, why)

    def _peek(self) -> str:
        return self._pattern[self._index : self._index + 1]

    def _read_choice(self) -> list[_Sequence]:
        """What stands between '|' up to the end of the group or pattern."""
        start = self._index
        sequences = self._read_sequence()
        while self._peek() == "|":
            self._index += 1
            sequences = sequences + self._read_sequence()
            self._bound(len(sequences), start)
        return sequences

    def _read_sequence(self) -> list[_Sequence]:
        sequences: list[_Sequence] = [()]
        while self._peek() not in ("", "|", ")"):
            start = self._index
            choices = self._read_group() if self._peek() == "(" else [(self._read_piece(),)]
            self._bound(len(sequences) * len(choices), start)
            sequences = [before + choice for before in sequences for choice in choices]
        return sequences

    def _bound(self, alternatives: int, position: int) -> None:
        if alternatives > ALTERNATIVES:
            raise self._bad(f"more than {ALTERNATIVES} ways to read the pattern; use classes for choices", position)

    def _read_group(self) -> list[_Sequence]:
        start = self._index
        self._index += 1
        if self._pattern.startswith("?:", self._index):
            self._index += 2
        elif self._peek() == "?":
            raise self._bad(_SPECIAL_GROUP)
        choices = self._read_choice()
        if self._peek() != ")":
            raise self._bad("this group is not closed", start)
        self._index += 1
        at_count = self._index
        least, most = self._read_count()
        if (least, most) == (0, 1):
            return [*choices, ()]
        if (least, most) != (1, 1):
            raise self._bad("a group must not repeat: repeats inside repeats take hostile text for ever", at_count)
        return choices

    def _read_piece(self) -> _Piece:
        start = self._index
        atom = self._read_atom()
        self._index = start + len(atom)
        matcher = _compiled_atom(self._pattern, atom, start)
        least, most = self._read_count()
        source = self._pattern[start : self._index]
        characters = frozenset(character for character in self._samples if matcher.fullmatch(character))
        return _Piece(start, source, characters, least, most is None or most > least)

    def _read_atom(self) -> str:
        """The text of one character or class at the index."""
        first = self._peek()
        if first == "[":
            match = _CLASS.match(self._pattern, self._index)
            if match is None:
                raise self._bad("this class is not closed; write '\\[' for the character")
            if _SET_OPERATION.search(_ESCAPED.sub("", match[0][1:-1])):
                raise self._bad("no '[', '--', '&&', '||' or '~~' inside a class: put a backslash before the character")
            return match[0]
        if first == "\\":
            match = _ESCAPE.match(self._pattern, self._index)
            if match is None:
                raise self._bad("this escape is not allowed: no anchors, back-references or octal numbers")
            return match[0]
        if first in "^$":
            raise self._bad(_ANCHOR)
        if first in "*+?{":
            raise self._bad(f"nothing to repeat; write '\\{first}' for the character")
        return first

    def _read_count(self) -> tuple[int, int | None]:
        """The least and most repeats asked for at the index; `None` for no end, (1, 1) where nothing is asked."""
        start = self._index
        counts: dict[str, tuple[int, int | None]] = {"?": (0, 1), "*": (0, None), "+": (1, None)}
        count = counts.get(self._peek())
        if count is not None:
            self._index += 1
        elif self._peek() == "{":
            count = self._read_braces()
        else:
            return 1, 1
        if self._peek() and self._peek() in "?*+{":
            raise self._bad("one count is enough: no lazy, possessive or repeated repeats", start)
        return count

    def _read_braces(self) -> tuple[int, int | None]:
        match = _BRACES.match(self._pattern, self._index)
        if match is None or not (match[1] or match[3]):
            raise self._bad("a count is '{m}', '{m,}', '{,n}' or '{m,n}'; write '\\{' for the character")
        least = int(match[1] or 0)
        most = least if not match[2] else int(match[3]) if match[3] else None
        if max(least, most or 0) > REPEATS or (most is not None and least > most):
            raise self._bad(f"counts go from the smaller to the larger and up to {REPEATS}")
        self._index = match.end()
        return least, most

    def _check(self, sequence: _Sequence) -> None:
        """A repeat whose end is not told by the next character would be tried at every length."""
        for index, piece in enumerate(sequence):
            if not piece.varies:
                continue
            for follower in sequence[index + 1 :]:
                if piece.characters & follower.characters:
                    raise self._bad(
                        f"{piece.source!r} can also match what {follower.source!r} after it matches, so there are many"
                        " ways to divide a text; put a character between them that the first does not match",
                        piece.position,
                    )
                if follower.least > 0:
                    break


def _compiled_atom(pattern: str, atom: str, position: int) -> re.Pattern[str]:
    try:
        return re.compile(atom, re.ASCII | re.DOTALL)
    except re.error as error:
        raise BadPattern(pattern, position + (error.pos or 0), error.msg) from error


def _codes(pattern: str) -> set[int]:
    """Code points that stand in *pattern*, as characters or as numbered escapes."""
    numbered = re.findall(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))", pattern)
    codes = {int("".join(groups), 16) for groups in numbered} | {ord(character) for character in pattern}
    return {code for code in codes if code <= 0x10FFFF}
