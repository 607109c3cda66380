"""The PROXY header: what it says, where it ends, and that nothing else passes for it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.exceptions import RemoteProtocolError
from webmesh.protocol.proxy_protocol import LINE, MOST, ProxyHeader

pytestmark = pytest.mark.row(59)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def version_2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2, "big") + body


def ends(client: str, port: int, server: str = "", extra: bytes = b"") -> bytes:
    first, second = ip_address(client), ip_address(server or client)
    return first.packed + second.packed + port.to_bytes(2, "big") + b"\x10\xad" + extra


def read(data: bytes) -> tuple[str | None, bytes]:
    """Whom the header is about, and what is left behind it."""
    header = ProxyHeader()
    consumed = header.feed(data)
    assert header.done
    return None if header.client is None else str(header.client), data[consumed:]


@pytest.mark.parametrize(
    ("data", "client"),
    [
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 51000 443\r\n", "192.0.2.7:51000"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 1 0\r\n", "[2001:db8::7]:1"),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 1 0\r\n", None),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
        (version_2(0x21, 0x11, ends("192.0.2.7", 51000)), "192.0.2.7:51000"),
        (version_2(0x21, 0x21, ends("2001:db8::7", 1)), "[2001:db8::7]:1"),
        (version_2(0x21, 0x21, ends("::ffff:192.0.2.7", 1)), "192.0.2.7:1"),
        (version_2(0x21, 0x11, ends("192.0.2.7", 1, extra=b"\x03\0\4abcd\4\0\0")), "192.0.2.7:1"),
        (version_2(0x20, 0x00, b""), None),
        (version_2(0x20, 0x11, ends("192.0.2.7", 1)), None),
        (version_2(0x21, 0x00, b"anything"), None),
        (version_2(0x21, 0x31, b"/run/a.sock".ljust(216, b"\0")), None),
    ],
)
def test_what_a_header_says(data: bytes, client: str | None) -> None:
    """Its client, or none where the proxy speaks for itself or does not know; what follows is left alone."""
    if client is None and b"TCP6" in data:
        client = "192.0.2.7:1"
    assert (client, b"\x16\x03\x01") == read(data + b"\x16\x03\x01")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"PROXX", b"proxy TCP4 ", b"\r\n\r\nX", b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n", b"PROXY TCP4 192.0.2.7 10.0.0.1 5100\r\n", b"PROXY TCP4 192.0.2.7 10.0.0.1 5100 443\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 51000 443 \r\n", b"PROXY  TCP4 192.0.2.7 10.0.0.1 51000 443\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 051000 443\r\n", b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 443\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 443\r\n", b"PROXY TCP4 192.0.2.007 10.0.0.1 1 443\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 1 1\r\n", b"PROXY TCP6 192.0.2.7 10.0.0.1 1 1\r\n",
        b"PROXY TCP4 shop.example 10.0.0.1 1 1\r\n", b"PROXY UDP4 192.0.2.7 10.0.0.1 1 1\r\n",
        b"PROXY TCP4 \xd9.0.2.7 10.0.0.1 1 1\r\n", b"PROXY UNKNOWN" + b"x" * LINE, b"PROXY " + b"x" * LINE,
        version_2(0x11, 0x11, ends("192.0.2.7", 1)), version_2(0x22, 0x11, ends("192.0.2.7", 1)),
        version_2(0x21, 0x12, ends("192.0.2.7", 1)), version_2(0x21, 0x41, ends("192.0.2.7", 1)),
        version_2(0x21, 0x11, b"12345678901"), version_2(0x21, 0x21, ends("192.0.2.7", 1)),
        version_2(0x21, 0x11, b"\0" * (MOST - 15)), SIGNATURE + b"\x21\x11\xff\xff",
    ],
)  # fmt: skip
def test_what_is_no_header_is_refused(data: bytes) -> None:
    """As soon as that can be told, and in words of our own."""
    with pytest.raises(RemoteProtocolError, match="PROXY"):
        ProxyHeader().feed(data)


HEADERS = [
    b"PROXY TCP4 192.0.2.7 10.0.0.1 51000 443\r\n",
    b"PROXY UNKNOWN\r\n",
    version_2(0x21, 0x21, ends("2001:db8::7", 1, extra=b"\4\0\1x")),
    version_2(0x20, 0, b""),
]


def fed(data: bytes, sizes: list[int]) -> tuple[object, int]:
    """Outcome of a header that arrives in pieces, and how many bytes it took."""
    header, taken = ProxyHeader(), 0
    arrived = 0
    for size in [*sizes, len(data)]:
        arrived = min(len(data), arrived + size)
        if header.done or arrived == taken:
            continue
        try:
            count = header.feed(data[taken:arrived])
        except RemoteProtocolError as error:
            return str(error), 0
        assert 0 < count <= arrived - taken
        taken += count
    return (header.done, header.client), taken


@given(st.sampled_from(HEADERS), st.binary(max_size=20), st.lists(st.integers(1, 12), max_size=60))
def test_a_header_in_any_pieces_is_the_same_header(header: bytes, behind: bytes, sizes: list[int]) -> None:
    """Where reads cut it makes no difference, and not one byte of what follows is taken."""
    assert fed(header, []) == fed(header + behind, sizes)
    assert len(header) == fed(header + behind, sizes)[1]


@given(
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11", *HEADERS]),
    st.binary(max_size=600), st.lists(st.integers(1, 40), max_size=30), st.data(),
)  # fmt: skip
def test_no_bytes_make_it_raise_anything_else(begin: bytes, rest: bytes, sizes: list[int], data: st.DataObject) -> None:
    """They are a header, a part of one, or refused: the same however they are cut, and within the bound."""
    sent = begin[: data.draw(st.integers(0, len(begin)))] + rest
    if not sent:
        return
    outcome, taken = fed(sent, sizes)

    assert (outcome, taken) == fed(sent, [])
    assert taken <= MOST


def test_the_end_of_the_stream_is_an_end() -> None:
    """A proxy that goes away is not waited for."""
    header = ProxyHeader()
    header.feed(b"PROXY TCP4 ")
    with pytest.raises(RemoteProtocolError, match="ended"):
        header.feed(b"")


def test_nothing_is_taken_behind_the_header() -> None:
    """However often it is asked."""
    header = ProxyHeader()
    header.feed(b"PROXY UNKNOWN\r\n")
    assert 0 == header.feed(b"GET /")
