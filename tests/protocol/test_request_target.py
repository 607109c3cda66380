"""Request targets: one decoded form, or a refusal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.protocol.http_head import RefusedHead, Refusal
from webmesh.protocol.request_target import parse_target


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a/b.c-d~e", "/a/b.c-d~e", ""),
        ("/a/", "/a/", ""),
        ("/a?", "/a", ""),
        ("/a?b=%2F&c=//../d?e", "/a", "b=%2F&c=//../d?e"),
        ("/%61%20b", "/a b", ""),
        ("/caf%C3%A9", "/café", ""),
        ("/cafe%CC%81", "/café", ""),
        ("/%F0%9F%90%8D", "/🐍", ""),
        ("/a%252Fb", "/a%2Fb", ""),
        ("/%252e%252e/x", "/%2e%2e/x", ""),
        ("/...", "/...", ""),
        ("/.well-known/x", "/.well-known/x", ""),
        ("/a;b=1,2@c:d", "/a;b=1,2@c:d", ""),
        ("/%E2%80%8D", "/\u200d", ""),
        ("/a%3Fb", "/a?b", ""),
        ("/a%23b", "/a#b", ""),
    ],
)
def test_a_path_has_one_decoded_form(target: str, path: str, query: str) -> None:
    """Escapes are decoded once, as UTF-8, to form NFC; the query stays as it was sent."""
    assert (path, query) == parse_target(target)


@pytest.mark.row(13)
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("", "target that is not a path"),
        ("*", "target that is not a path"),
        ("a", "target that is not a path"),
        ("@host/a", "target that is not a path"),
        ("http://evil.example/", "target that is not a path"),
        ("?a", "target that is not a path"),
        ("%2Fa", "target that is not a path"),
        ("/a#b", "target with a fragment"),
        ("/a?b#c", "target with a fragment"),
        ("/%", "malformed percent escape in the path"),
        ("/%4", "malformed percent escape in the path"),
        ("/%zz", "malformed percent escape in the path"),
        ("/%u0041", "malformed percent escape in the path"),
        ("/a%2Fb", "escaped slash in the path"),
        ("/%2f", "escaped slash in the path"),
        ("/a%2F..%2Fb", "escaped slash in the path"),
        ("/%ff", "path that is not UTF-8"),
        ("/%C3", "path that is not UTF-8"),
        ("/%ED%A0%80", "path that is not UTF-8"),
        ("/%C0%AE%C0%AE/", "path that is not UTF-8"),
        ("/a\\b", "backslash in the path"),
        ("/a%5Cb", "backslash in the path"),
        ("/%00", "control character in the path"),
        ("/a%0D%0Ab", "control character in the path"),
        ("/%7F", "control character in the path"),
        ("/%C2%85", "control character in the path"),
        ("/%E2%80%A8", "control character in the path"),
        ("/%E2%80%A9", "control character in the path"),
        ("//", "path with an empty or a dot segment"),
        ("//a", "path with an empty or a dot segment"),
        ("/a//b", "path with an empty or a dot segment"),
        ("/a//", "path with an empty or a dot segment"),
        ("/.", "path with an empty or a dot segment"),
        ("/..", "path with an empty or a dot segment"),
        ("/a/../b", "path with an empty or a dot segment"),
        ("/a/./b", "path with an empty or a dot segment"),
        ("/%2e%2e", "path with an empty or a dot segment"),
        ("/.%2E/a", "path with an empty or a dot segment"),
        ("/a/%2e", "path with an empty or a dot segment"),
    ],
)
def test_an_ambiguous_path_is_refused(target: str, reason: str) -> None:
    """What two readers could take for two paths, or no path at all, gets 400."""
    with pytest.raises(RefusedHead) as caught:
        parse_target(target)

    assert Refusal(400, reason) == caught.value.refusal


@pytest.mark.row(13)
@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40).map("/".__add__))
def test_a_parsed_path_is_harmless(target: str) -> None:
    """Whatever the target, a path that passes is absolute, normal, printable, and has no dot segments."""
    try:
        path, _ = parse_target(target)
    except RefusedHead as refused:
        assert 400 == refused.refusal.status
        return
    assert path.startswith("/")
    assert unicodedata.is_normalized("NFC", path)
    assert not {"\0", "\\", "\r", "\n"} & set(path)
    assert not {".", ".."} & set(path.split("/"))
    assert "//" not in path


@pytest.mark.row(13)
@given(st.binary(min_size=1, max_size=12))
def test_any_escaped_bytes_are_decoded_or_refused(raw: bytes) -> None:
    """A path of escapes alone yields their UTF-8 text or 400, never another exception."""
    target = "/" + "".join(f"%{byte:02X}" for byte in raw)
    try:
        path, query = parse_target(target)
    except RefusedHead as refused:
        assert 400 == refused.refusal.status
        return
    assert unicodedata.normalize("NFC", "/" + raw.decode()) == path
    assert "" == query
