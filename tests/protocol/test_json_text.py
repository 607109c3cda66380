"""Strict JSON, both ways; the standard library, asked step by step, is the judge of what JSON is."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.exceptions import DecodeError, EncodeError
from webmesh.options import Limits
from webmesh.protocol.json_text import read_json, write_json
from webmesh.protocol.values import INTEGER_MAX, INTEGER_MIN

LIMITS = Limits()
SMALL = Limits(depth=5, items=30)

plain = st.recursive(
    st.none() | st.booleans() | st.integers(INTEGER_MIN, INTEGER_MAX) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=20,
)  # fmt: skip


def read(text: str, limits: Limits = LIMITS) -> Any:
    return read_json(text, limits)


def refusal(text: str, limits: Limits = LIMITS) -> str:
    with pytest.raises(DecodeError) as caught:
        read(text, limits)
    return str(caught.value)


class TestReading:
    """What is taken, what is refused."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("{}", {}),
            (' \t\r\n{"a" : [ 1 , 2 ] } \n', {"a": [1, 2]}),
            ('{"path":"/","data":"hi"}', {"path": "/", "data": "hi"}),
            ('"\\u00e9\\ud83d\\ude00\\/\\n"', "é\U0001f600/\n"),
            ('{"a":-0.0}', {"a": -0.0}),
            ("[1.5,-2e3,1E+2,1e-400]", [1.5, -2000.0, 100.0, 0.0]),
            ("[]", []),
            ("null", None),
            ("17", 17),
            ('{"text":"\u2028 \x7f"}', {"text": "\u2028 \x7f"}),
        ],
    )
    def test_json_is_read(self, text: str, expected: object) -> None:
        """White space around and between, all escapes, every kind of value."""
        result = read(text)

        assert expected == result
        assert repr(expected) == repr(result)

    @pytest.mark.parametrize(
        "text",
        [
            "", " ", "{", "}", '{"a"', '{"a":', '{"a":1', '{"a":1,}', "[1,]", "[,1]", "[1 2]", '{"a" 1}', "{1:2}",
            "nul", "{null:1}", "{'a':1}", "[1]]", "{}{}", "{} x", "True", "undefined", "// 1\n1", "/* */ 1", '"abc',
            '"\\x41"', '"\\u12"', "01", "[00]", '{"a":-01}', "1.", "[1.]", ".5", "-.5", "-", "[-]", "+1", "1e", "1e+",
            "0x10", "1_000", "--1", "1-2",
        ],
    )  # fmt: skip
    def test_what_is_not_quite_json_is_refused(self, text: str) -> None:
        """Everything that RFC 8259 does not know, also what ujson, JavaScript or Python would take."""
        assert refusal(text).startswith("not JSON")

    @pytest.mark.row(39)
    @pytest.mark.parametrize(
        "number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1E400", "1e+0999", "9" * 400 + ".0", "0.1e400"]
    )
    @pytest.mark.parametrize("frame", ["{}", "[{}]", '{{"data":{{"a":[1, {}]}}}}', "[\n{}\n]"])
    def test_numbers_that_are_not_finite_are_refused(self, number: str, frame: str) -> None:
        """By name or by size, wherever they stand."""
        refusal(frame.format(number))

    @pytest.mark.row(40)
    @pytest.mark.parametrize(
        "number", [str(INTEGER_MAX + 1), str(INTEGER_MIN - 1), "9" * 21, "9" * 5000, "-" + "9" * 5000, "1" + "0" * 400]
    )
    @pytest.mark.parametrize("frame", ["{}", "[{}]", '{{"data":{{"a":[1, {}]}}}}', "[\n{}\n]"])
    def test_integers_beyond_64_bits_are_refused(self, number: str, frame: str) -> None:
        """They are neither rounded nor converted at length."""
        assert "64-bit" in refusal(frame.format(number))

    @pytest.mark.row(40)
    def test_thousands_of_digits_are_refused_where_python_would_convert_them(self) -> None:
        """The refusal does not rest on Python's own limit of digits, which a program may have lifted."""
        before = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        try:
            text = refusal('{"a":' + "9" * 100_000 + "}")
        finally:
            sys.set_int_max_str_digits(before)

        assert "100000 characters" in text

    @pytest.mark.row(40)
    @pytest.mark.parametrize("integer", [INTEGER_MAX, INTEGER_MIN, 10**18, -(10**18), 10**18 - 1])
    def test_integers_of_64_bits_are_exact(self, integer: int) -> None:
        """Both ends of the range, and around the number of digits from which the text is looked at."""
        assert {"a": [integer]} == read(f'{{"a":[{integer}]}}')

    @pytest.mark.parametrize(
        "text", ["DE89" + "3" * 20, "9" * 30, "sha256:3e999ab1e400", ":12345678901234567890", ", 1e999", "0.1e400"]
    )
    def test_long_digits_in_strings_are_only_text(self, text: str) -> None:
        """Account numbers and hashes look like large numbers and are none."""
        assert {"data": text, text: [text]} == read(json.dumps({"data": text, text: [text]}))

    @pytest.mark.row(41)
    @pytest.mark.parametrize(
        "text",
        [
            '"\\ud800"', '"\\udc00"', '"\\ude00\\ud83d"', '{"\\uD800":1}', '{"a":["x\\uDFFF"]}', '"\ud800"',
            '"\\ud83d\\\\ude00"',
        ],
    )  # fmt: skip
    def test_halves_of_surrogate_pairs_are_refused(self, text: str) -> None:
        """Escaped or raw, as value or key: UTF-8 could not send them on."""
        assert "surrogate" in refusal(text)

    @pytest.mark.row(41)
    @pytest.mark.parametrize("text", ['"\\ud83d\\ude00"', '"\\\\ud800"', '{"a":"\\\\\\\\ud800"}'])
    def test_whole_pairs_and_escaped_backslashes_are_taken(self, text: str) -> None:
        """What only looks like half a pair is read."""
        assert json.loads(text) == read(text)

    @pytest.mark.row(41)
    @pytest.mark.parametrize(
        "text", ["\ufeff{}", "\x00{}", "{}\x00", '{"a":"\x00"}', '"\x1f"', '"\n"', "\x0b{}", "\xa0{}"]
    )
    def test_marks_and_raw_control_characters_are_refused(self, text: str) -> None:
        """A byte order mark, NUL and other raw control characters, white space that is none of JSON's four."""
        refusal(text)

    @pytest.mark.row(41)
    def test_an_escaped_nul_is_a_character_like_others(self) -> None:
        """A payload may hold any character that UTF-8 can; paths are checked by the envelope."""
        assert "a\x00b" == read('"a\\u0000b"')

    @pytest.mark.row(42)
    @pytest.mark.parametrize(
        "text",
        [
            '{"id":1,"id":2}', '{"id":1,"data":{"id":1},"id":1}', '{"path":"/a","p\\u0061th":"/b"}',
            '{"\\u0069d":1,"id":2}', '{"id":1,"data":{"a":1,"a":2}}', '{"a":{},"a":{}}',
        ],
    )  # fmt: skip
    def test_a_key_that_stands_twice_is_refused(self, text: str) -> None:
        """Two readers could take two different values for it; other spellings of the key do not help."""
        assert "twice" in refusal(text)

    @pytest.mark.row(42)
    def test_the_same_key_in_different_maps_is_fine(self) -> None:
        """A payload may have an id as well."""
        message = {"path": "/users", "id": 1, "data": {"id": [{"id": 2}, {"id": 3}], "path": "path"}}

        assert message == read(json.dumps(message))

    @pytest.mark.row(42)
    @pytest.mark.parametrize("key", ["__class__", "__proto__", "__dict__", "constructor"])
    def test_names_of_internals_are_plain_keys(self, key: str) -> None:
        """Nothing but a dict comes out, with the key in it."""
        result = read(json.dumps({key: {key: "x"}}))

        assert type(result) is dict and type(result[key]) is dict
        assert {key: {key: "x"}} == result


class TestBoundsOfReading:
    """Depth and number of elements, before objects are made."""

    @pytest.mark.row(37)
    @pytest.mark.parametrize("brackets", ["[]", "{}"])
    def test_the_depth_is_exact(self, brackets: str) -> None:
        """64 levels are read, 65 are not."""
        start, stop = ("[", "]") if brackets == "[]" else ('{"a":', "}")

        read(start * 64 + "1" + stop * 64)
        assert "deeper than 64" in refusal(start * 65 + "1" + stop * 65)

    @pytest.mark.row(37)
    @pytest.mark.parametrize("levels", [990, 1024, 100_000, 500_000])
    @pytest.mark.parametrize("text", ["[", '{"a":', '[{"a":[', "[],["])
    def test_deep_nesting_is_refused_before_it_is_parsed(self, text: str, levels: int) -> None:
        """Neither Python's recursion limit nor the stack of C decides, even where a program has raised the limit."""
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(10**6)
        try:
            refusal((text * levels)[: 1024 * 1024])
        finally:
            sys.setrecursionlimit(before)

    @pytest.mark.row(37)
    @pytest.mark.parametrize("noise", ["[[[[[[", "{{{{{{", '\\"[[[[[[', "\\\\[[[[[[", "]]]]]]]]", '\\\\\\"{{{{{{{'])
    def test_brackets_in_strings_do_not_count(self, noise: str) -> None:
        """Neither do they make a message deep nor do they hide its depth."""
        deep = f'[[[[["{noise}"]]]]]'

        assert json.loads(deep) == read(deep, SMALL)
        assert "deeper" in refusal(f'[[[["{noise}",[["{noise}"]]]]]]', SMALL)

    @pytest.mark.row(38)
    @pytest.mark.parametrize(
        ("text", "fits"),
        [
            ("[" + "1," * 29 + "1]", True),
            ("[" + "1," * 30 + "1]", False),
            ("[" + ",".join(["[]"] * 30) + "]", True),
            ("[" + ",".join(["{ }"] * 31) + "]", False),
            ('["' + "," * 40 + '","' + "[" * 40 + '"]', True),
            ("[[1,2,3,4,5,6,7,8,9,10],[1,2,3,4,5,6,7,8,9,10],[[],[1,2,3,4,5]]]", True),
            ("[[1,2,3,4,5,6,7,8,9,10],[1,2,3,4,5,6,7,8,9,10],[[],[1,2,3,4,5,6]]]", False),
        ],
    )
    def test_the_number_of_elements_is_exact(self, text: str, fits: bool) -> None:
        """Elements of all lists and maps together; commas and brackets in strings are none."""
        if fits:
            assert json.loads(text) == read(text, SMALL)
        else:
            assert "more than 30 elements" in refusal(text, SMALL)

    @pytest.mark.row(38)
    @pytest.mark.parametrize("text", ["[],", "{},", "0,", '[[],{"a":[]}],'])
    def test_a_mebibyte_of_small_values_is_refused(self, text: str) -> None:
        """1 MiB of empty lists would become 24 MiB of objects."""
        assert "elements" in refusal("[" + (text * (1024 * 1024 // len(text)))[:-1] + "]")

    @pytest.mark.row(42)
    def test_a_hundred_thousand_keys_are_refused(self) -> None:
        """Maps count like lists."""
        assert "elements" in refusal(json.dumps({str(number): 0 for number in range(100_000)}))


class TestWriting:
    """What is sent is strict JSON, compact, and read back as it was."""

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ({"path": "/a/b", "data": None}, '{"path":"/a/b","data":null}'),
            ([1.0, 0.1, 1e22, -0.0], "[1.0,0.1,1e+22,-0.0]"),
            ("é\U0001f600</script>", '"é\U0001f600</script>"'),
            ("\x00\x1f\"\\", '"\\u0000\\u001f\\"\\\\"'),
            ([INTEGER_MAX, INTEGER_MIN], f"[{INTEGER_MAX},{INTEGER_MIN}]"),
            ((1, (2, "x")), '[1,[2,"x"]]'),
            ([True, None], "[true,null]"),
        ],
    )  # fmt: skip
    def test_text_is_compact_and_not_escaped_beyond_need(self, value: object, text: str) -> None:
        """No blanks, no escaped slashes or letters."""
        assert text == write_json(value, LIMITS)

    @given(plain)
    def test_plain_values_come_back_as_they_were(self, value: object) -> None:
        """Writing and reading is the identity, down to the type of every number."""
        result = read(write_json(value, LIMITS))

        assert repr(value) == repr(result)

    @given(plain)
    def test_the_standard_library_reads_the_same(self, value: object) -> None:
        """What ujson writes is JSON for everyone."""
        assert repr(value) == repr(json.loads(write_json(value, LIMITS)))

    @pytest.mark.row(39)
    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    def test_numbers_that_are_not_finite_are_refused_by_place(self, number: float) -> None:
        """The sender learns it, and where; never the peer."""
        with pytest.raises(EncodeError, match=r"payload\.prices\[1\]: .*finite"):
            write_json({"id": 1, "data": {"prices": [1.0, number]}}, LIMITS)

    @pytest.mark.row(40)
    @pytest.mark.parametrize("integer", [INTEGER_MAX + 1, INTEGER_MIN - 1, pytest.param(10**5000, id="5000 digits")])
    @pytest.mark.parametrize("padding", ["", "x" * 20_000])
    def test_integers_beyond_64_bits_are_refused_by_place(self, integer: int, padding: str) -> None:
        """In short messages and in long ones, which are looked at in another way."""
        with pytest.raises(EncodeError, match=r"payload\[1\]: .*64-bit"):
            write_json({"id": 1, "data": [padding, integer]}, LIMITS)

    @pytest.mark.row(41)
    def test_lone_surrogates_are_refused_by_place(self) -> None:
        """UTF-8 has no form for them."""
        with pytest.raises(EncodeError, match=r"payload\[0\]: .*surrogate"):
            write_json({"id": 1, "data": ["\ud800"]}, LIMITS)

    @pytest.mark.parametrize("value", [{1: 2}, {None: 1}, {True: 1}, {b"a": 1}, {(1, 2): 3}, {1.5: 1}])
    def test_keys_that_are_no_text_are_refused(self, value: object) -> None:
        """ujson would make text of them, and a reader would find other keys."""
        with pytest.raises(EncodeError, match="keys of maps must be text"):
            write_json({"data": value}, LIMITS)

    @pytest.mark.row(37)
    def test_what_the_peer_would_refuse_as_too_deep_is_not_sent(self) -> None:
        """64 levels go out, 65 do not."""
        value: object = 1
        for _ in range(64):
            value = [value]

        assert value == read(write_json(value, LIMITS))
        with pytest.raises(EncodeError, match="deeper than 64"):
            write_json([value], LIMITS)

    def test_more_levels_than_the_interpreter_follows_are_refused(self) -> None:
        """A generous limit does not turn into a crash or a foreign exception."""
        value: object = 1
        for _ in range(20_000):
            value = [value]

        with pytest.raises(EncodeError):
            write_json(value, Limits(depth=100_000))

    @pytest.mark.row(38)
    def test_what_the_peer_would_refuse_as_too_many_is_not_sent(self) -> None:
        """The bound on elements holds for the sender too."""
        with pytest.raises(EncodeError, match="more than 65536 elements"):
            write_json([0] * 65_537, LIMITS)

    def test_a_message_over_the_limit_is_refused_with_both_sizes(self) -> None:
        """Bytes count, not characters."""
        assert write_json("é" * 49, Limits(message_size=100))
        with pytest.raises(EncodeError, match="102 bytes is over the limit of 100"):
            write_json("é" * 50, Limits(message_size=100))


FRAGMENTS = [
    "{", "}", "[", "]", ",", ":", '"', '"a"', '"id"', '"data":', '"\\u0061"', "1", "0", "-", ".", "e", "E", "+", " ",
    "\n", "9" * 18, "9" * 19, str(INTEGER_MAX), str(INTEGER_MAX + 1), str(INTEGER_MIN), str(INTEGER_MIN - 1), "NaN",
    "Infinity", "1e999", "1e308", "1e309", "0.1e400", "1e+0400", "1E-999", "null", "true", "\x00", "\x1f", "\ufeff",
    "\x0b", "é", "\\", '\\"', "\\\\", "\\ud800", "\\udc00", "\\ud83d\\ude00", "\\u0000", "[[[[", '{"a":', "[]", "{}",
    '"[[[["', '"{{,,,,"', "12:30",
]  # fmt: skip


def spoilt(text: str, place: int, noise: str) -> str:
    place %= len(text) + 1
    return text[:place] + noise + text[place:]


any_text = st.lists(st.sampled_from(FRAGMENTS) | st.characters(exclude_categories=[]), max_size=14).map("".join)
nearly_json = st.builds(spoilt, plain.map(json.dumps), st.integers(0, 500), any_text)


@pytest.mark.row(36, 37, 39, 40, 41, 42)
@given(any_text | nearly_json | plain.map(json.dumps))
def test_only_strict_json_is_taken_and_read_the_same(text: str) -> None:
    """The screens for speed change nothing: a slow reader that asks everything one by one agrees on every text."""
    expected = judge(text, SMALL)
    try:
        result: object = repr(read(text, SMALL))
    except DecodeError:
        result = None

    assert expected == result


def judge(text: str, limits: Limits) -> str | None:
    """What a reader without any shortcut makes of *text*: the repr of the value, or None for a refusal."""
    try:
        text.encode()
        value = json.loads(text, object_pairs_hook=unique, parse_constant=float)
        return repr(value) if elements(value, limits.depth) <= limits.items else None
    except ValueError:
        return None


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError
    return dict(pairs)


def elements(value: object, depth: int) -> int:
    if isinstance(value, (dict, list)):
        if depth == 0:
            raise ValueError
        for key in value if isinstance(value, dict) else ():
            key.encode()
        below = value.values() if isinstance(value, dict) else value
        return len(value) + sum(elements(one, depth - 1) for one in below)
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    elif isinstance(value, int) and not INTEGER_MIN <= value <= INTEGER_MAX:
        raise ValueError
    return 0
