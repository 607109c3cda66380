"""Converters: which texts each takes, and what they become."""

from __future__ import annotations

import dataclasses
import sys
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.converters import ANY_SEGMENT, BUILT_IN, Converter, Specificity
from webmesh.exceptions import BadPattern, ConfigurationError


def convert(name: str, text: str) -> object:
    converter = BUILT_IN[name]
    assert converter.accepts(text)
    return converter.parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("7", 7),
        ("-5", -5),
        ("1234567890123456789", 1234567890123456789),
        (str(2**64 - 1), 2**64 - 1),
        (str(-(2**63)), -(2**63)),
    ],
)
def test_int_takes_plain_decimals_up_to_64_bits(text: str, value: int) -> None:
    """The range is what both serializers carry."""
    assert value == convert("int", text)


@pytest.mark.row(47, 52)
@pytest.mark.parametrize(
    "text",
    [
        "", "+1", " 1", "1 ", "1\n", "１", "٣", "²", "1_000", "1,000", "0x1", "1.0", "1e3", "-", "--1", "-0", "00",
        "007", "-01",
        str(2**64), str(-(2**63) - 1), "9" * 20, "9" * 5000,
    ],
)  # fmt: skip
def test_int_takes_no_other_spelling(text: str) -> None:
    """Plus signs, blanks, other scripts' digits, leading zeros and more digits do not match; `int()` reads many."""
    assert not BUILT_IN["int"].accepts(text)


@given(st.integers(-(2**63), 2**64 - 1))
def test_each_integer_has_one_text(value: int) -> None:
    """What `str` writes is read back, and is the only spelling, so that a path can be a key."""
    assert value == convert("int", str(value))


@given(st.text("0123456789-+ _.", max_size=22))
def test_no_two_texts_are_one_integer(text: str) -> None:
    """Whatever int takes is what `str` writes of its value."""
    if BUILT_IN["int"].accepts(text):
        assert text == str(BUILT_IN["int"].parse(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1.0), ("1.50", 1.5), ("-0.25", -0.25), ("1e3", 1000.0), ("2E-3", 0.002), ("1e+16", 1e16), ("-0", -0.0)],
)
def test_float_takes_json_numbers(text: str, value: float) -> None:
    """The grammar is that of RFC 8259 section 6."""
    assert value == convert("float", text)


@pytest.mark.row(39, 52)
@pytest.mark.parametrize(
    "text",
    [
        "", "nan", "NaN", "inf", "-inf", "Infinity", "1e999", "-1e999", "+1.0", " 1", "1.", ".5", "1_0.0", "01.5",
        "1,5", "１.5", "0x1p3", "1e", "1e5.0", "1." + "0" * 40, "9" * 5000,
    ],
)  # fmt: skip
def test_float_takes_nothing_that_is_not_finite_or_no_json_number(text: str) -> None:
    """NaN and infinity by any name, and what overflows to it, match no route."""
    assert not BUILT_IN["float"].accepts(text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_float_goes_through_its_repr(value: float) -> None:
    """What Python writes for a float is read back bit for bit."""
    assert repr(value) == repr(convert("float", repr(value)))


def test_the_longest_float_fits() -> None:
    """The bound on the text leaves room for the longest that `repr` writes."""
    assert -sys.float_info.max == convert("float", repr(-sys.float_info.max))


@given(st.uuids())
def test_uuid_takes_the_standard_text_in_either_case(value: uuid.UUID) -> None:
    """RFC 9562 section 4: written in lower case, read in any."""
    assert value == convert("uuid", str(value))
    assert value == convert("uuid", str(value).upper())


@pytest.mark.row(47)
@pytest.mark.parametrize(
    "text",
    [
        "12345678123456781234567812345678",
        "{12345678-1234-5678-1234-567812345678}",
        "urn:uuid:12345678-1234-5678-1234-567812345678",
        "12345678-1234-5678-1234-56781234567",
        "1234567-81234-5678-1234-567812345678",
        "1２345678-1234-5678-1234-56781234567",
        "g2345678-1234-5678-1234-567812345678",
        " 12345678-1234-5678-1234-567812345678",
    ],
)
def test_uuid_takes_no_other_spelling(text: str) -> None:
    """`uuid.UUID` alone would take braces, prefixes and dashes anywhere."""
    assert not BUILT_IN["uuid"].accepts(text)


@pytest.mark.parametrize("text", ["a", "with space", "größe", "a.b", "...", "%20", "-", "$x", "<b>"])
def test_str_takes_any_segment(text: str) -> None:
    """Text is not interpreted: a percent sign is a percent sign."""
    assert text == convert("str", text)


@pytest.mark.row(13)
@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "/"])
def test_str_takes_no_dots_and_no_slash(text: str) -> None:
    """What leads elsewhere in a file system never reaches a handler as a name."""
    assert not BUILT_IN["str"].accepts(text)


@pytest.mark.parametrize("text", ["a", "a/b", "a/b.txt", ".hidden/x", "a/.../b"])
def test_path_takes_several_segments(text: str) -> None:
    """One segment or more, slashes included."""
    assert text == convert("path", text)


@pytest.mark.row(13)
@pytest.mark.parametrize("text", ["", "/", "a/", "/a", "a//b", "..", "../a", "a/../b", "a/.", "./a"])
def test_path_takes_nothing_that_climbs(text: str) -> None:
    """No empty segment and no dots, so that a handler may join it to a folder."""
    assert not BUILT_IN["path"].accepts(text)


def test_specificity_is_the_documented_order() -> None:
    """uuid, int, float, own, str, path: each is tried before the next."""
    own = Converter(str)

    by_specificity = sorted([*BUILT_IN.values(), own], key=lambda converter: converter.specificity)

    names = {converter: name for name, converter in BUILT_IN.items()} | {own: "own"}
    assert ["uuid", "int", "float", "own", "str", "path"] == [names[converter] for converter in by_specificity]
    assert Specificity.OWN is own.specificity


def test_an_own_converter_needs_one_line() -> None:
    """A function and an expression; without one it gets any segment."""
    from_hex = Converter(lambda text: int(text, 16), pattern="[0-9a-f]+")

    assert 255 == from_hex.parse("ff")
    assert from_hex.accepts("ff")
    assert not from_hex.accepts("FF")
    assert ANY_SEGMENT == Converter(str).pattern
    assert Converter(str).accepts("anything at all")


def test_a_value_error_means_another_kind() -> None:
    """The function may refuse what the expression lets through."""
    month = Converter(lambda text: range(1, 13).index(int(text)) + 1, pattern="[0-9]{1,2}")

    assert month.accepts("12")
    assert not month.accepts("13")


def test_another_exception_of_an_own_converter_comes_through() -> None:
    """A bug in user code is not taken for a text that does not match."""
    with pytest.raises(ZeroDivisionError):
        Converter(lambda text: 1 // 0).accepts("x")


@pytest.mark.row(52)
def test_an_own_converter_with_nested_repeats_is_refused() -> None:
    """Peers' text never meets an expression that can take more than linear time."""
    with pytest.raises(BadPattern):
        Converter(str, pattern="(?:[a-z]+-?)+")


def test_a_converter_without_a_function_is_refused() -> None:
    """The error says what was given instead."""
    with pytest.raises(ConfigurationError, match="needs a function from text to value, not 'hex'"):
        Converter("hex")  # type: ignore[arg-type]


def test_converters_are_equal_by_what_they_do() -> None:
    """Function and expression make a converter; it cannot be changed."""
    assert Converter(int, "[0-9]") == Converter(int, "[0-9]")
    assert Converter(int, "[0-9]") != Converter(int, "[0-8]")
    assert Converter(str) != BUILT_IN["str"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Converter(int).pattern = "x"  # type: ignore[misc]
