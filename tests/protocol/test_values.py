"""Plain values: what is one, what is made one, and how a misfit is named."""

from __future__ import annotations

import enum
import math
import uuid
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.speedups import IMPLEMENTATIONS, IN_PYTHON, c_module, loops
from webmesh.protocol.values import (
    BINARY_SCALARS, INTEGER_MAX, INTEGER_MIN, SHOWN_SIZE, TEXT_SCALARS, Misfit, escaped, few_items, numbers_fit,
    plain_copy, spare_items,
)  # fmt: skip

DEPTH, ITEMS = 8, 100


def copy(value: object, scalars: frozenset[type] = BINARY_SCALARS) -> object:
    return plain_copy(value, scalars, DEPTH, ITEMS)


def spare(value: object, scalars: frozenset[type] = BINARY_SCALARS) -> int:
    """What either implementation says."""
    said = [one.spare_items(value, scalars, DEPTH, ITEMS) for one in (IN_PYTHON, c_module())]
    assert said[0] == said[1]
    return said[0]


def refusal(value: object, scalars: frozenset[type] = BINARY_SCALARS) -> str:
    with pytest.raises(Misfit) as caught:
        copy(value, scalars)
    return str(caught.value)


def nested(levels: int) -> object:
    value: object = "core"
    for level in range(levels):
        value = {"below": value} if level % 2 else [value]
    return value


class Colour(enum.IntEnum):
    RED = 3


class Word(str, enum.Enum):
    YES = "yes"


class Shade(enum.Enum):
    DARK = 1


class Sly(dict[str, object]):
    """A map whose own methods must never be called."""

    def items(self) -> Any:
        raise AssertionError("user code was run")

    __iter__ = __len__ = keys = values = items


class SlyText(str):
    def __str__(self) -> str:
        raise AssertionError("user code was run")

    encode = __format__ = __repr__ = __str__  # type: ignore[assignment]


@dataclass
class Order:
    number: int


Pair = namedtuple("Pair", "left right")

scalars = (
    st.none() | st.booleans() | st.integers(INTEGER_MIN, INTEGER_MAX) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False)
)  # fmt: skip
plain = st.recursive(
    scalars | st.binary(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=20,
)


class TestTheQuickLook:
    """`spare_items` says "surely plain", with what is left of the allowance, or "look closer"."""

    @given(plain)
    def test_it_never_passes_what_the_close_look_refuses(self, value: object) -> None:
        """Whatever it calls plain comes out of the close look as it was."""
        if spare(value) >= 0:
            assert value == copy(value)

    @given(plain)
    def test_it_passes_all_exact_plain_values(self, value: object) -> None:
        """It sends nothing to the close look without need."""
        assert spare_items(value, BINARY_SCALARS, 100, 10_000) >= 0

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ({}, ITEMS),
            ([1, 2, 3], ITEMS - 3),
            ((1, 2), ITEMS - 2),
            ({"a": [1, 2], "b": {"c": None}}, ITEMS - 5),
            (list(range(ITEMS)), 0),
            ({"rows": [list(range(20)), list(range(20))]}, ITEMS - 43),
        ],
    )
    def test_elements_of_all_maps_and_lists_count(self, value: object, expected: int) -> None:
        """A pair of a map counts once, an element of a list once, containers themselves as elements of theirs."""
        assert expected == spare(value)

    @pytest.mark.row(38)
    @pytest.mark.parametrize(
        "value",
        [list(range(ITEMS + 1)), {str(n): 1 for n in range(ITEMS + 1)}, [[]] * (ITEMS + 1), [[[1] * 50] * 2] * 2],
    )  # fmt: skip
    def test_too_many_elements_need_the_close_look(self, value: object) -> None:
        """More elements than allowed are never passed, however they are spread."""
        assert spare(value) < 0

    @pytest.mark.row(37)
    def test_the_depth_is_exact(self) -> None:
        """As many levels as allowed pass, one more does not."""
        assert spare(nested(DEPTH)) >= 0
        assert spare(nested(DEPTH + 1)) < 0

    @pytest.mark.parametrize(
        "value",
        [
            {1: "a"}, {"a": {b"k": 1}}, [{None: 1}], {SlyText("k"): 1}, OrderedDict(a=1), [Pair(1, 2)], [SlyText("a")],
            {"a": Colour.RED}, {"a": {1, 2}}, object(), [1] * 20 + [Decimal(1)],
        ],
    )  # fmt: skip
    def test_anything_but_exact_types_needs_the_close_look(self, value: object) -> None:
        """Keys that are no text, subclasses and strangers are not passed."""
        assert spare(value) < 0

    def test_bytes_are_plain_only_where_the_serializer_carries_them(self) -> None:
        """The set of scalars decides."""
        assert spare([b"x"], BINARY_SCALARS) >= 0
        assert spare([b"x"], TEXT_SCALARS) < 0

    @pytest.mark.parametrize("branches", [1, 2, 3])
    def test_objects_that_contain_themselves_end_early(self, branches: int) -> None:
        """A list that holds itself many times over does not keep the walk busy for 2^64 steps."""
        knot: list[object] = []
        knot += [knot] * branches

        assert spare_items(knot, BINARY_SCALARS, 64, 65536) < 0

    def test_a_value_that_is_shared_many_times_over_ends_early(self) -> None:
        """Sixty lists that each hold the next one twice stand for 2^60 elements."""
        value: list[object] = []
        for _ in range(60):
            value = [value, value]

        assert spare_items(value, BINARY_SCALARS, 64, 65536) < 0

    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    def test_a_depth_that_the_interpreter_cannot_follow_is_an_error(self, implementation: str) -> None:
        """It never overflows the stack, whatever depth is allowed."""
        knot: list[object] = []
        knot.append(knot)

        with pytest.raises(RecursionError):
            loops(implementation).spare_items(knot, BINARY_SCALARS, 10_000_000, 10_000_000)


class TestTheCloseLook:
    """`plain_copy` makes plain, or refuses and says what and where."""

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ((1, (2,)), [1, [2]]),
            (Pair(1, 2), [1, 2]),
            (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
            (defaultdict(int, a=1), {"a": 1}),
            (Colour.RED, 3),
            (Word.YES, "yes"),
            ({Word.YES: Word.YES}, {"yes": "yes"}),
            (bytearray(b"ab"), b"ab"),
            (memoryview(b"abcd")[::2], b"ac"),
            (True, True),
            (None, None),
        ],
    )
    def test_subclasses_become_the_type_below_them(self, value: object, expected: object) -> None:
        """Named tuples, ordered maps and enums of plain types are sent as what they are made of."""
        result = copy(value)

        assert expected == result
        assert type(expected) is type(result)

    def test_code_of_subclasses_is_not_run(self) -> None:
        """A map, list or text of the user's is read by the builtin methods alone."""
        value = Sly()
        dict.__setitem__(value, SlyText("key"), SlyText("value"))

        result = copy([value])

        assert [{"key": "value"}] == result
        assert isinstance(result, list) and type(next(iter(result[0]))) is str

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ({1, 2}, ["set", "send a list"]),
            (frozenset(), ["frozenset", "send a list"]),
            (datetime(2024, 1, 1, tzinfo=timezone.utc), ["datetime.datetime", "isoformat()"]),
            (date(2024, 1, 1), ["datetime.date", "isoformat()"]),
            (timedelta(1), ["datetime.timedelta", "total_seconds()"]),
            (Decimal("1.5"), ["decimal.Decimal", "str()", "change its value"]),
            (Fraction(1, 3), ["fractions.Fraction", "str()"]),
            (uuid.UUID(int=1), ["uuid.UUID", "str()"]),
            (1j, ["complex", "two numbers"]),
            ((n for n in range(3)), ["generator", "stream"]),
            (Shade.DARK, ["Shade"]),
            (Order(1), ["Order"]),
            (UserDict(a=1), ["UserDict"]),
            (object(), ["object"]),
        ],
    )
    def test_a_stranger_is_refused_by_name_with_a_hint(self, value: object, words: list[str]) -> None:
        """The text names the type, and where there is a usual way out, the way."""
        text = refusal(value)

        assert [] == [word for word in words if word not in text]

    def test_objects_that_offer_to_be_json_are_strangers(self) -> None:
        """Only the type counts: `__json__` and `toDict`, which ujson would call, are not asked."""

        class Obliging:
            def __json__(self) -> str:
                raise AssertionError("user code was run")

            toDict = to_dict = __json__

        assert "Obliging" in refusal([Obliging()])

    @pytest.mark.parametrize("value", [b"x", bytearray(b"x"), memoryview(b"x")])
    def test_bytes_are_refused_for_text_serializers(self, value: object) -> None:
        """The text says which serializer carries them."""
        assert "msgpack" in refusal({"data": value}, TEXT_SCALARS)

    @pytest.mark.row(40)
    @pytest.mark.parametrize("integer", [INTEGER_MAX + 1, INTEGER_MIN - 1, pytest.param(10**5000, id="5000 digits")])
    def test_integers_beyond_64_bits_are_refused(self, integer: int) -> None:
        """No float is made of them; the text does not hold 5,000 digits either."""
        text = refusal([integer])

        assert "64-bit" in text
        assert len(text) < 200

    @pytest.mark.row(40)
    @pytest.mark.parametrize("integer", [INTEGER_MAX, INTEGER_MIN, 0])
    def test_integers_of_64_bits_are_kept(self, integer: int) -> None:
        """Both ends of the range belong to it."""
        assert [integer] == copy([integer])

    @pytest.mark.row(39)
    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    def test_numbers_that_are_not_finite_are_refused(self, number: float) -> None:
        """NaN and both infinities."""
        assert "finite" in refusal({"data": number})

    @pytest.mark.row(41)
    @pytest.mark.parametrize("value", ["a\ud800", ["\udfff"], {"\ud800": 1}])
    def test_lone_surrogates_are_refused(self, value: object) -> None:
        """Text that UTF-8 cannot hold is refused as value and as key."""
        assert "surrogate" in refusal(value)

    @pytest.mark.parametrize(
        ("key", "shown"), [(1, "int (1)"), (None, "NoneType (None)"), (b"k", "bytes"), ((1, 2), "tuple"), (1.5, "1.5")]
    )  # fmt: skip
    def test_keys_that_are_no_text_are_refused(self, key: object, shown: str) -> None:
        """They are not turned into text: 1 and "1" would become one key."""
        text = refusal({"data": {key: 1}})

        assert "keys of maps must be text" in text
        assert shown.split()[0] in text

    @pytest.mark.row(37)
    def test_too_deep_is_refused_with_the_limit(self) -> None:
        """As many levels as allowed are copied, one more is refused."""
        assert nested(DEPTH) == copy(nested(DEPTH))
        assert f"deeper than {DEPTH} levels" in refusal(nested(DEPTH + 1))

    @pytest.mark.row(37)
    def test_a_limit_beyond_the_interpreters_own_is_no_crash(self) -> None:
        """Where more levels are allowed than Python follows, the refusal is the same kind."""
        with pytest.raises(Misfit, match="deeper than this interpreter"):
            plain_copy(nested(20_000), BINARY_SCALARS, 100_000, 100_000)

    def test_an_object_that_contains_itself_is_refused(self) -> None:
        """A cycle is too deep, and the text suspects it."""
        knot: dict[str, object] = {}
        knot["self"] = knot

        assert "contains itself" in refusal(knot)

    @pytest.mark.row(38)
    def test_too_many_elements_are_refused_with_the_limit(self) -> None:
        """The allowance is for the whole value."""
        assert f"more than {ITEMS} elements" in refusal([[0] * 60, [0] * 60])

    @given(plain)
    def test_exact_plain_values_come_out_equal(self, value: object) -> None:
        """The copy of a plain value is the value."""
        assert value == plain_copy(value, BINARY_SCALARS, 100, 10_000)


class TestThePlaceOfAMisfit:
    """An error says where the fault stands, as an expression that a programmer would write."""

    @pytest.mark.parametrize(
        ("value", "place"),
        [
            ({"path": "/", "data": {"items": [1, 2, 3, {4}]}}, "payload.items[3]: "),
            ({"id": 1, "item": [object()]}, "payload[0]: "),
            ({"headers": {"a": {1}}}, "headers.a: "),
            ([[1, {2}]], "[0][1]: "),
            ({"data": {"two words": {"é": {1}}}}, "payload['two words']['\\xe9']: "),
            ({"data": {"deep": {1: 2}}}, "payload.deep: keys"),
        ],
    )  # fmt: skip
    def test_it_leads_to_the_value(self, value: object, place: str) -> None:
        """Keys with dots or brackets, indexes in brackets, `payload` for what the wire calls data or item."""
        assert refusal(value).startswith(place)

    def test_the_root_has_no_place(self) -> None:
        """A misfit that is the whole value is named by its reason alone."""
        assert refusal({1, 2}).startswith("set is not")

    @pytest.mark.row(46)
    @pytest.mark.parametrize("key", ["k" * 8192, "\x1b[31mred", "line\r\nline", "{0.__class__}%s", "\u202e" * 300])
    def test_hostile_keys_are_escaped_and_cut(self, key: str) -> None:
        """What a peer chose as key cannot colour, break or flood a log."""
        text = refusal({key: {key: [float("nan")]}})

        assert text.isascii() and text.isprintable()
        assert len(text) <= SHOWN_SIZE + 80


@pytest.mark.row(46)
@given(st.text(max_size=600))
def test_escaped_text_is_short_printable_ascii(text: str) -> None:
    """However a text is made, what is shown of it fits in one line of a log."""
    shown = escaped(text)

    assert shown.isascii() and shown.isprintable()
    assert len(shown) <= SHOWN_SIZE
    assert shown.endswith("...") or len(text) <= SHOWN_SIZE


@pytest.mark.row(46)
@pytest.mark.parametrize(
    ("text", "expected"),
    [("/users/1", "'/users/1'"), ("\x1b[31m", "'\\x1b[31m'"), ("%s{0}", "'%s{0}'"), ("a\nb", "'a\\nb'")],
)
def test_escaped_text_stays_readable(text: str, expected: str) -> None:
    """Ordinary text is shown as it is, in quotes; nothing in it is taken for a format."""
    assert expected == escaped(text)


class TestNumbers:
    """`numbers_fit` looks at every number of a plain value."""

    @pytest.mark.parametrize(
        "value",
        [0, 1.5, INTEGER_MAX, INTEGER_MIN, -0.0, 1e308, 5e-324, True, None, "x", b"x", [], {}, {"a": [1, (2.0,)]}],
    )  # fmt: skip
    def test_finite_numbers_of_64_bits_fit(self, value: object) -> None:
        """Whatever is no number fits too."""
        assert numbers_fit(value)

    @pytest.mark.row(39, 40)
    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, INTEGER_MAX + 1, INTEGER_MIN - 1])
    def test_one_misfit_is_found_wherever_it_stands(self, number: float) -> None:
        """At the root, in lists and in maps, at the end of many."""
        places: list[Any] = [number, [0] * 50 + [number], {"a": {"b": (1, number)}}, [[], [[number]]]]

        assert [False] * 4 == [numbers_fit(value) for value in places]


def test_few_items_in_many_bytes() -> None:
    """A file in one piece is looked at by its elements, rows of numbers by their bytes."""
    assert few_items(3, bytes(64 * 1024))
    assert not few_items(10_000, bytes(64 * 1024))
    assert not few_items(3, b"short")
