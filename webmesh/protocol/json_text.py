"""Strict JSON: plain values to text and back.

Decides what counts as JSON here: RFC 8259, with one finite, 64-bit meaning for every number, no text
that UTF-8 cannot hold, and no key twice in one map. `ujson` writes. It does not read, because it takes
too much: NaN and 1e999, `0123`, `-`, `1.`, raw control characters, lone surrogates, repeated keys. A screen
for bad numbers alone costs more than ujson saves (measured, request of 190 characters: 1.0 us for ujson and
1.3 us for a regular expression, against 1.9 us for the standard library's scanner, which is C too and
refuses most of that by itself, repeated keys included). What it lets through, too large numbers and halves
of surrogate pairs, is looked for in the text at the speed of C. Where messages begin and end is not known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NoReturn

import ujson

from webmesh.exceptions import DecodeError, EncodeError
from webmesh.options import Limits
from webmesh.protocol.values import TEXT_SCALARS, Misfit, few_items, numbers_fit, plain_copy, spare_items

_WHITESPACE = " \t\n\r"

_CLASSES = {**dict.fromkeys(b"0123456789", "0"), **dict.fromkeys(b"eE", "e"), **dict.fromkeys(b":,[ \t\n\r", ",")}
_SHADOW = "".join(_CLASSES.get(byte, " ") for byte in range(256)).encode()
"""Makes a shadow of a text: digits are `0`, both letters of exponents `e`, and what may stand before a number `,`."""
_LONG_INTEGER = "," + "0" * 19
"""Every integer of 18 digits fits in 64 bits."""
_LARGE_EXPONENT = "0e000"
"""An exponent of two digits makes no number of 18 digits infinite."""
_HUGE_NUMBER = re.compile(r"[:,\[\s]-?[0-9][0-9.]*[eE]\+?[0-9]{3}").search
_LONGEST_INTEGER = len(str(-(2**63)))
"""Characters of the longest integer that is ever converted: the time for it grows with their square."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]").search

# By position: naming the options costs a third of the call. In order: ensure_ascii, encode_html_chars,
# escape_forward_slashes, sort_keys, indent, allow_nan, reject_bytes (the same since ujson 5).
_dumps: Callable[..., str] = ujson.dumps
_DUMP_OPTIONS = (False, False, False, False, 0, False, True)


def write_json(value: object, limits: Limits) -> str:
    """Compact JSON for *value*, a plain one or one that `plain_copy` makes plain.

    Raises:
        EncodeError: It is not plain, or too large; the text says where.
    """
    try:
        spare = spare_items(value, TEXT_SCALARS, limits.depth, limits.items)
        if spare < 0:
            value = _plain(value, limits)
        text = _dumps(value, *_DUMP_OPTIONS)
        body = text.encode()
    except (ValueError, OverflowError, RecursionError) as error:  # a number that is not finite, or a lone surrogate
        _plain(value, limits)
        raise EncodeError(f"JSON cannot carry this: {error}") from error
    if len(body) > limits.message_size:
        raise EncodeError(f"message of {len(body)} bytes is over the limit of {limits.message_size}")
    if (few_items(limits.items - spare, body) or _LONG_INTEGER in _shadow(body)) and not numbers_fit(value):
        _plain(value, limits)
    return text


def read_json(text: str, limits: Limits) -> object:
    """The value of a whole JSON text.

    Raises:
        DecodeError: Not JSON, a value outside of what is plain, or beyond *limits*.
    """
    openings = text.count("[") + text.count("{")
    if openings > limits.depth or len(text) > limits.items:
        _check_structure(text, openings, limits)
    try:
        shadow = _shadow(text.encode())
    except UnicodeEncodeError as error:
        raise DecodeError(f"text with a lone surrogate at character {error.start}") from error
    may_be_huge = _LONG_INTEGER in shadow or (_LARGE_EXPONENT in shadow and _HUGE_NUMBER(f" {text}") is not None)
    value = _parsed(_parse_guarded if may_be_huge else _parse, text)
    if may_be_huge or ("\\u" in text and _SURROGATE(text)):
        try:
            plain_copy(value, TEXT_SCALARS, limits.depth, limits.items)
        except Misfit as misfit:
            raise DecodeError(str(misfit)) from misfit
    return value


def _plain(value: object, limits: Limits) -> object:
    try:
        return plain_copy(value, TEXT_SCALARS, limits.depth, limits.items)
    except ValueError as misfit:
        raise EncodeError(str(misfit)) from misfit


def _shadow(body: bytes) -> str:
    # As text, because `in` is four times as fast on str as on bytes. Signs say nothing about size.
    return (b"," + body).translate(_SHADOW, b"+-").decode("ascii")


def _map_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one map")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")


def _short_integer(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER:
        raise ValueError(f"integer of {len(digits)} characters is outside the 64-bit range")
    return int(digits)


_Parse = Callable[[str], tuple[object, int]]
_parse: _Parse = json.JSONDecoder(object_pairs_hook=_map_of, parse_constant=_refuse_constant).raw_decode
_parse_guarded: _Parse = json.JSONDecoder(
    object_pairs_hook=_map_of, parse_constant=_refuse_constant, parse_int=_short_integer
).raw_decode


def _parsed(parse: _Parse, text: str) -> object:
    if text[:1] in _WHITESPACE:
        text = text.lstrip(_WHITESPACE)
    try:
        value, end = parse(text)
    except ValueError as error:
        raise DecodeError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise DecodeError("not JSON: nested deeper than this interpreter can follow") from error
    if end != len(text) and text[end:].strip(_WHITESPACE):
        raise DecodeError(f"not JSON: more text after the value, from character {end}")
    return value


def _check_structure(text: str, openings: int, limits: Limits) -> None:
    """Refuse what is too deep or has too many elements before a parser makes objects of it.

    Nothing else bounds the depth where a program has raised Python's recursion limit: 100,000 brackets
    would then overflow the stack of C.
    """
    at_most = openings + text.count(",")
    if openings <= limits.depth and at_most <= limits.items:
        return
    outline = _outline(text)
    # The elements first: they bound the brackets, and so the time that the depth takes.
    if at_most > limits.items and _elements(outline) > limits.items:
        raise DecodeError(f"more than {limits.items} elements in all maps and lists together")
    brackets = outline.translate(_ROUND).encode("ascii", "ignore").translate(None, _NO_BRACKETS)
    for _ in range(limits.depth):
        if not brackets:
            return
        brackets = brackets.replace(b"()", b"")  # takes away the innermost level everywhere
    if brackets:
        raise DecodeError(f"nested deeper than {limits.depth} levels, or brackets without their match")


_ROUND = str.maketrans("[{]}", "(())")
_NO_BRACKETS = bytes(c for c in range(256) if c not in b"()")


def _outline(text: str) -> str:
    """*text* with `s` in the place of every string, for counting what stands outside of strings."""
    if "\\" in text:
        text = text.replace("\\\\", "").replace('\\"', "")
    return "s".join(text.split('"')[::2])


def _elements(outline: str) -> int:
    compact = "".join(outline.split())
    empty = compact.count("[]") + compact.count("{}")
    return compact.count("[") + compact.count("{") - empty + compact.count(",")
