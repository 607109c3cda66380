"""The syntax of path patterns: what is read, what is refused and where."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.converters import BUILT_IN, Converter
from webmesh.exceptions import BadPattern, ConfigurationError
from webmesh.path_patterns import MOST_SEGMENTS, Parameter, PathPattern, read_pattern, read_prefix

HEX = Converter(lambda text: int(text, 16), pattern="[0-9a-f]+")
KNOWN = {**BUILT_IN, "hex": HEX}


def read(text: str) -> PathPattern:
    return read_pattern(text, KNOWN)


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("/", ("",)),
        ("/users", ("users",)),
        ("/users/", ("users", "")),
        ("/users/me", ("users", "me")),
        ("/a b/%20/$x/*", ("a b", "%20", "$x", "*")),
    ],
)
def test_fixed_segments_are_kept_letter_for_letter(text: str, segments: tuple[str, ...]) -> None:
    """A path is plain text; a last slash is a segment of its own."""
    assert PathPattern(text, segments) == read(text)


def test_parameters_are_read_with_their_converters() -> None:
    """`<name>` is text, `<converter:name>` what the converter makes."""
    pattern = read("/shops/<hex:shop>/<name>/<uuid:u>/<float:x>/<path:rest>")

    assert pattern.segments == (
        "shops",
        Parameter("shop", HEX, 12),
        Parameter("name", BUILT_IN["str"], 19),
        Parameter("u", BUILT_IN["uuid"], 31),
        Parameter("x", BUILT_IN["float"], 41),
        Parameter("rest", BUILT_IN["path"], 50),
    )
    assert ("shop", "name", "u", "x", "rest") == tuple(parameter.name for parameter in pattern.parameters)
    for parameter in pattern.parameters:
        assert pattern.text.startswith(parameter.name, parameter.position)


def test_str_may_be_written_out() -> None:
    """`<str:name>` is `<name>`."""
    assert read("/<str:name>").parameters[0].converter is read("/<name>").parameters[0].converter


@pytest.mark.parametrize(
    ("text", "position", "why"),
    [
        ("", 0, "starts with '/'"),
        ("users", 0, "starts with '/'"),
        (" /users", 0, "starts with '/'"),
        ("$hello", 0, "protocol's own"),
        ("//", 1, "empty segment"),
        ("/a//b", 3, "empty segment"),
        ("/a/./b", 3, "cannot be a segment"),
        ("/..", 1, "cannot be a segment"),
        ("/a\nb", 2, "control characters"),
        ("/a/b\x00", 4, "control characters"),
        ("/\x9b1m", 1, "control characters"),
        ("/x\u2028", 2, "control characters"),
        ("/x\ud800", 2, "control characters"),
        ("/a/<name", 3, "not closed"),
        ("/a/name>", 7, "closes nothing"),
        ("/a/n>am<e", 4, "closes nothing"),
        ("/a/v<int:n>", 4, "slash must stand before"),
        ("/a/<int:n>.json", 10, "slash must follow"),
        ("/a/<x><y>", 6, "slash must follow"),
        ("/a/<x<y>", 5, "inside a parameter"),
        ("/a/<>", 4, "cannot be the name"),
        ("/a/<int:>", 8, "cannot be the name"),
        ("/a/<int:2nd>", 8, "cannot be the name"),
        ("/a/< id>", 4, "cannot be the name"),
        ("/a/<a-b>", 4, "cannot be the name"),
        ("/a/<class>", 4, "cannot be the name"),
        ("/a/<payload>", 4, "every handler gets already"),
        ("/a/<path>", 4, "every handler gets already"),
        ("/a/<int:client>", 8, "every handler gets already"),
        ("/a/<nope:x>", 4, "no converter is called 'nope'; known are float, hex, int, path, str, uuid"),
        ("/a/<:x>", 4, "no converter is called ''"),
        ("/a/<int:b:x>", 4, "no converter is called 'int:b'"),
        ("/a/<x>/<int:x>", 12, "'x' is there already"),
        ("/<path:rest>/edit", 1, "takes the rest"),
        ("/<path:rest>/", 1, "takes the rest"),
        ("/a" * (MOST_SEGMENTS + 1), 2 * MOST_SEGMENTS + 1, "more than 64 segments"),
    ],
)
def test_a_malformed_pattern_is_refused_at_the_character(text: str, position: int, why: str) -> None:
    """The error carries the pattern, the index of the character, and the reason."""
    with pytest.raises(BadPattern, match=re.escape(why)) as caught:
        read(text)

    assert position == caught.value.position
    assert text == caught.value.pattern


def test_a_pattern_must_be_text() -> None:
    """Bytes or a forgotten argument are told apart from a bad pattern."""
    with pytest.raises(ConfigurationError, match="a path pattern is text"):
        read_pattern(b"/users", KNOWN)  # type: ignore[arg-type]


@pytest.mark.row(47)
def test_patterns_are_kept_in_nfc() -> None:
    """Two spellings that look the same are the same pattern."""
    decomposed = unicodedata.normalize("NFD", "/größe/<é>")

    assert "/größe/<é>" == read(decomposed).text
    assert "é" == read(decomposed).parameters[0].name


def test_parameter_names_are_kept_as_python_keeps_them() -> None:
    """Python folds identifiers to NFKC, so the handler's parameter has that name."""
    assert "file" == read("/<ﬁle>").parameters[0].name


@given(st.text("/<>:.aint$ é\n", max_size=16))
def test_any_text_is_read_or_refused_with_its_place(text: str) -> None:
    """Reading a pattern raises nothing but `BadPattern`, and positions lie in the pattern."""
    try:
        pattern = read("/" + text)
    except BadPattern as refusal:
        assert 0 <= refusal.position <= len(refusal.pattern)
    else:
        assert len(pattern.segments) == pattern.text.count("/")


def test_the_protocols_own_paths_are_read_on_request() -> None:
    """They start with '$', which users' patterns cannot."""
    assert PathPattern("$hello", ("$hello",)) == read_pattern("$hello", KNOWN, reserved=True)
    with pytest.raises(BadPattern, match="start with"):
        read_pattern("/hello", KNOWN, reserved=True)
    with pytest.raises(BadPattern, match="no parameters") as caught:
        read_pattern("$stats/<x>", KNOWN, reserved=True)
    assert 7 == caught.value.position


@pytest.mark.parametrize("text", ["", "/"])
def test_a_prefix_may_be_nothing(text: str) -> None:
    """Both spellings add nothing."""
    assert PathPattern("", ()) == read_prefix(text, KNOWN)


@pytest.mark.parametrize(
    ("text", "position", "why"),
    [("/shop/", 5, "no last slash"), ("/<path:rest>", 7, "nothing can follow"), ("shop", 0, "starts with")],
)
def test_a_prefix_must_let_something_follow(text: str, position: int, why: str) -> None:
    """It is put before patterns letter for letter, and they begin with a slash."""
    with pytest.raises(BadPattern, match=why) as caught:
        read_prefix(text, KNOWN)

    assert position == caught.value.position


def test_a_prefix_goes_before_a_pattern_letter_for_letter() -> None:
    """Text, segments and positions are those of the pattern written in one piece."""
    for prefix, pattern in [("/shop/<hex:shop>", "/carts/<int:cart>"), ("/shop", "/"), ("/", "/a/<b>"), ("", "/x/")]:
        joined = read(pattern).below(read_prefix(prefix, KNOWN))

        assert read(prefix.removesuffix("/") + pattern) == joined


def test_a_prefix_and_a_pattern_share_no_name() -> None:
    """The position is that of the second name, counted in the whole."""
    with pytest.raises(BadPattern, match="'id' is there already") as caught:
        read("/carts/<int:id>").below(read_prefix("/shops/<id>", KNOWN))

    assert "/shops/<id>/carts/<int:id>" == caught.value.pattern
    assert 23 == caught.value.position


def test_a_prefix_does_not_make_a_pattern_too_long() -> None:
    """The bound on segments holds for the whole."""
    half = "/a" * (MOST_SEGMENTS // 2)
    read(half).below(read_prefix(half, KNOWN))

    with pytest.raises(BadPattern, match="more than 64 segments"):
        read(half + "/b").below(read_prefix(half, KNOWN))


def test_the_protocols_own_paths_go_below_no_prefix() -> None:
    """They belong to the connection, not to a service."""
    with pytest.raises(BadPattern, match="protocol's own"):
        read_pattern("$hello", KNOWN, reserved=True).below(read_prefix("/a", KNOWN))
