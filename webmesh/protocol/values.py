"""Plain values: what may stand in a message, and what only looks as if it could.

Plain are maps with text keys, lists (tuples are sent as lists), text, integers of 64 bits, finite
numbers, booleans and None; bytes where the serializer carries them. `spare_items` is the quick look
that every message gets: it may say "surely plain" or "look closer", never "no". `plain_copy` is the
close look: it decides, says where the fault is, and turns subclasses (enums, named tuples, ordered
maps) into the plain types below them without calling their code. Knows no serializer and no envelope.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from webmesh.protocol.speedups import NATIVE

Scalars = frozenset[type]
"""Exact types that stand in a message by themselves."""

TEXT_SCALARS: Scalars = frozenset((str, int, float, bool, type(None)))
"""What every serializer carries."""

BINARY_SCALARS: Scalars = TEXT_SCALARS | {bytes, bytearray, memoryview}
"""What a binary serializer carries: the text ones, and bytes of any kind (they arrive as `bytes`)."""

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1
"""Integers that every peer can read: the union of msgpack's int 64 and uint 64."""

SHOWN_SIZE = 200
"""Characters of a peer's text that may appear in an error or a log (reliability row 46)."""

_BYTES_PER_ITEM = 128  # bytes that are searched in the time of looking at one element (measured)
_LONG_LIST = 16  # elements from which a check of all types in C is quicker than a loop here (measured)

_HINTS = {
    "bytes": "only a binary serializer such as msgpack carries bytes; send base64 text",
    "bytearray": "only a binary serializer such as msgpack carries bytes; send base64 text",
    "memoryview": "only a binary serializer such as msgpack carries bytes; send base64 text",
    "set": "send a list",
    "frozenset": "send a list",
    "generator": "send a list, or return the generator itself from the handler to stream it",
    "datetime": "send isoformat() or timestamp()",
    "date": "send isoformat()",
    "time": "send isoformat()",
    "timedelta": "send total_seconds()",
    "Decimal": "send str() of it: a float would change its value",
    "Fraction": "send str() of it: a float would change its value",
    "UUID": "send str() of it",
    "complex": "send a list of two numbers",
}


class Misfit(ValueError):
    """A value that is not plain; the text says where it stands and why it is refused.

    Attributes:
        reason: What is wrong with the value.
        place: Keys and indexes that lead to it, innermost first.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.place: list[str | int] = []

    def __str__(self) -> str:
        return f"{_place_text(self.place)}: {self.reason}" if self.place else self.reason


def escaped(text: str) -> str:
    """Text of a peer, safe for errors and logs: ASCII, escaped, at most `SHOWN_SIZE` characters."""
    quoted = ascii(text[:SHOWN_SIZE])
    return quoted if len(text) <= SHOWN_SIZE and len(quoted) <= SHOWN_SIZE else quoted[: SHOWN_SIZE - 3] + "..."


def spare_items_in_python(root: object, scalars: Scalars, depth: int, items: int) -> int:
    """How many more elements *root* might hold, or a negative number when it needs `plain_copy`.

    Not negative means: exact plain types only, text keys, at most *depth* levels and *items* elements.
    Numbers are not looked at. Ends early on cycles and on objects that are shared many times over.
    """
    if type(root) is not dict:
        return _spare_items_of_list(root, scalars, depth, items)
    items -= len(root)
    if items < 0 or not depth:
        return -1
    for key, value in root.items():
        if type(key) is not str:
            return -1
        if type(value) not in scalars:
            items = spare_items_in_python(value, scalars, depth - 1, items)
            if items < 0:
                return -1
    return items


def _spare_items_of_list(root: object, scalars: Scalars, depth: int, items: int) -> int:
    if type(root) is not list and type(root) is not tuple:
        return 0 if type(root) in scalars else -1
    items -= len(root)
    if items < 0 or not depth:
        return -1
    if len(root) > _LONG_LIST and scalars.issuperset(map(type, root)):
        return items
    for value in root:
        if type(value) not in scalars:
            items = spare_items_in_python(value, scalars, depth - 1, items)
            if items < 0:
                return -1
    return items


spare_items: Callable[[object, Scalars, int, int], int] = (
    spare_items_in_python if NATIVE is None else NATIVE.spare_items
)


def numbers_fit(root: object) -> bool:
    """Whether every number in *root*, known to be plain, is finite and within 64 bits."""
    values: Iterable[object]
    if isinstance(root, dict):
        values = root.values()
    else:
        values = root if isinstance(root, (list, tuple)) else (root,)
    for value in values:
        if isinstance(value, float):
            fits = value - value == 0.0  # not so for NaN and the infinities
        elif isinstance(value, int):
            fits = INTEGER_MIN <= value <= INTEGER_MAX
        else:
            fits = not isinstance(value, (dict, list, tuple)) or numbers_fit(value)
        if not fits:
            return False
    return True


def few_items(items: int, message: bytes) -> bool:
    """Whether *message* is so long for its *items*, as a file in one piece, that looking at each of them is cheaper."""
    return items * _BYTES_PER_ITEM < len(message)


def plain_copy(root: object, scalars: Scalars, depth: int, items: int) -> object:
    """The same value in exact plain types.

    Args:
        scalars: `TEXT_SCALARS` or `BINARY_SCALARS`.
        depth: Levels of maps and lists that are allowed.
        items: Elements of all maps and lists together that are allowed.

    Raises:
        Misfit: Something in it is not plain, too deep, or too many.
    """
    try:
        return _Copy(scalars, depth, items).of(root, 0)
    except RecursionError:
        raise Misfit("nested deeper than this interpreter can follow") from None


class _Copy:
    """One walk of `plain_copy`: it holds what is left of the allowance of elements."""

    __slots__ = ("_depth", "_items", "_left", "_scalars")

    def __init__(self, scalars: Scalars, depth: int, items: int) -> None:
        self._scalars = scalars
        self._depth = depth
        self._items = items
        self._left = items

    def of(self, value: object, depth: int) -> object:
        """The plain form of *value*, which stands *depth* levels below the root."""
        # Methods of the builtin classes are called by name, so that an override in a subclass, which
        # is user code and might block or raise, never runs here.
        if isinstance(value, dict):
            self._enter(dict.__len__(value), depth)
            return {(name := _key(key)): self._element(name, below, depth) for key, below in dict.items(value)}
        if isinstance(value, list):
            self._enter(list.__len__(value), depth)
            return [self._element(index, below, depth) for index, below in enumerate(list.__iter__(value))]
        if isinstance(value, tuple):
            self._enter(tuple.__len__(value), depth)
            return [self._element(index, below, depth) for index, below in enumerate(tuple.__iter__(value))]
        return self._scalar(value)

    def _enter(self, elements: int, depth: int) -> None:
        if depth >= self._depth:
            raise Misfit(f"nested deeper than {self._depth} levels (or contains itself)")
        self._left -= elements
        if self._left < 0:
            raise Misfit(f"more than {self._items} elements in all maps and lists together")

    def _element(self, key: str | int, value: object, depth: int) -> object:
        try:
            return self.of(value, depth + 1)
        except Misfit as misfit:
            misfit.place.append(key)
            raise

    def _scalar(self, value: object) -> object:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _text(value)
        if isinstance(value, int):
            return _integer(value)
        if isinstance(value, float):
            return _number(value)
        if isinstance(value, (bytes, bytearray, memoryview)) and bytes in self._scalars:
            return memoryview(value).tobytes()
        hint = _HINTS.get(type(value).__name__)
        raise Misfit(f"{_type_name(value)} is not a plain value" + (f": {hint}" if hint else ""))


def _key(key: object) -> str:
    if isinstance(key, str):
        return _text(key)
    # The key itself is shown only where that runs no code of the user's.
    shown = f" ({escaped(repr(key))})" if type(key) in BINARY_SCALARS else ""
    raise Misfit(f"keys of maps must be text, not {_type_name(key)}{shown}")


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(value: str) -> str:
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Misfit(f"text with a lone surrogate at character {error.start} has no UTF-8 form") from None
    return text


def _integer(value: int) -> int:
    integer = int.__int__(value)
    if not INTEGER_MIN <= integer <= INTEGER_MAX:
        raise Misfit(f"integer of {integer.bit_length()} bits is outside the 64-bit range: send it as text")
    return integer


def _number(value: float) -> float:
    number = float.__float__(value)
    if number - number != 0.0:
        raise Misfit(f"{number} is not a finite number: send None or text")
    return number


def _place_text(place: list[str | int]) -> str:
    """`payload.items[3]` for keys and indexes that are given innermost first."""
    root = "payload" if place[-1] in ("data", "item") else _step(place[-1]).lstrip(".")
    steps = islice(reversed(place), 1, None)
    return (root + "".join(map(_step, steps)))[:SHOWN_SIZE]


def _step(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if key.isascii() and key.isidentifier() else f"[{escaped(key)}]"
