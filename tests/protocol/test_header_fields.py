"""Header fields: grammar, repeated ones, those that callers give."""

from __future__ import annotations

import pytest

from webmesh.exceptions import ConfigurationError
from webmesh.protocol.header_fields import OWN_HEADERS, checked_fields, is_token, joined_fields, phrase, words


@pytest.mark.parametrize("text", ["GET", "webmesh.v1.json", "x-1", "!#$%&'*+-.^_`|~"])
def test_tokens_are_known(text: str) -> None:
    """A token is one or more letters, digits or the marks of RFC 9110."""
    assert is_token(text)


@pytest.mark.parametrize(
    "text", ["", "a b", "a,b", "a;b", 'a"', "a\n", "ä", "a/b", "a:b", "(a)", "[", "{", "a=b", "@", "?"]
)
def test_what_is_no_token(text: str) -> None:
    """Separators, space, line ends and characters outside ASCII end a token."""
    assert not is_token(text)


def test_repeated_fields_are_joined_in_their_order() -> None:
    """A header that is sent twice reads as one list; others are as they came."""
    fields = [(b"a", b"1"), (b"b", b"x"), (b"a", b"2, 3")]

    assert {"a": "1, 2, 3", "b": "x"} == joined_fields(fields)


def test_words_are_trimmed_and_lower_case() -> None:
    """Elements of a list are compared without regard to case or to the space around them."""
    assert ["keep-alive", "upgrade", ""] == words(" Keep-Alive ,\tUpGrade,")


def test_fields_of_a_caller_pass_unchanged() -> None:
    """What can stand on the wire is neither trimmed nor changed in case; an empty value is one."""
    fields = [("X-Name", "a b\tc"), ("x-empty", ""), ("Authorization", "Bearer a.b~c")]

    assert fields == checked_fields(iter(fields))


@pytest.mark.row(15)
@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "a\0", "ä", " a", "a ", 7, b"a"])
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    """No name can end its line or hold a colon."""
    with pytest.raises(ConfigurationError, match="^header name .* is not a token of ASCII characters$"):
        checked_fields([(name, "x")])


@pytest.mark.row(15)
@pytest.mark.parametrize(
    "value", ["a\r\nEvil: 1", "a\nb", "a\rb", "a\0b", "\x7f", "é", " a", "a ", "\ta", "a\n", "\x1b[2J", 7, None]
)
def test_a_value_that_could_break_its_line_is_refused(value: str) -> None:
    """Line ends, control characters, text outside ASCII and space at an end never reach the wire."""
    with pytest.raises(ConfigurationError, match="^the value of header 'x' must be printable ASCII"):
        checked_fields([("x", value)])


def test_a_refused_value_is_not_shown() -> None:
    """Values may be secret: the exception names the header alone."""
    with pytest.raises(ConfigurationError) as caught:
        checked_fields([("Authorization", "Bearer hunter2\n")])

    assert "Authorization" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(OWN_HEADERS) + ["HOST", "Sec-WebSocket-Key"])
def test_the_handshakes_own_headers_are_refused(name: str) -> None:
    """What the handshake writes, or leaves out for safety, cannot be added, in any case of letters."""
    with pytest.raises(ConfigurationError, match=f"^header '{name}' is written by the handshake itself"):
        checked_fields([(name, "x")])


def test_other_names_can_be_refused_instead() -> None:
    """Where other headers are the writer's own, those are refused and the handshake's are not."""
    assert [("Upgrade", "websocket")] == checked_fields([("Upgrade", "websocket")], refused=frozenset({"x"}))
    with pytest.raises(ConfigurationError):
        checked_fields([("X", "1")], refused=frozenset({"x"}))


def test_phrases_of_statuses() -> None:
    """A status has the standard's words, or none."""
    assert ("Not Found", "") == (phrase(404), phrase(799))
