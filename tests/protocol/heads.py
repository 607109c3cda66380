"""Heads of requests and answers for the tests of the handshake, and bytes cut into reads."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The key of RFC 6455 section 1.3."""
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The answer to it, from the same place."""

UPGRADE = {
    "Host": "shop.example:4269",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
SWITCH = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": ACCEPT}


def head(first: str, *lines: str | bytes) -> bytes:
    """A head of these lines; text is sent as ISO 8859-1."""
    parts = [line if isinstance(line, bytes) else line.encode("latin-1") for line in (first, *lines)]
    return b"\r\n".join([*parts, b"", b""])


def upgrade(*more: str | bytes, first: str = "GET / HTTP/1.1", without: Iterable[str] = ()) -> bytes:
    """A valid upgrade request with other header lines added, and some of its own left out."""
    return head(first, *(f"{name}: {value}" for name, value in UPGRADE.items() if name not in without), *more)


def switch(*more: str | bytes, first: str = "HTTP/1.1 101 Switching Protocols", without: Iterable[str] = ()) -> bytes:
    """A valid answer 101 to `KEY`, changed in the same way."""
    return head(first, *(f"{name}: {value}" for name, value in SWITCH.items() if name not in without), *more)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """*data* as reads that end at *cuts*; none of them is empty."""
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends) if end > start]


def cuts() -> st.SearchStrategy[list[int]]:
    """Where reads end: anywhere, or after every byte."""
    return st.one_of(st.lists(st.integers(1, 600), max_size=8), st.just(list(range(1, 2000))))


SCRAPS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b",", b";", b"\0", b"\x16\x03", b"\xff", b"%", b"%00",
    b"/", b"..", b"HTTP/1.1 200 \r\n", b"HTTP/1.1 100 \r\n\r\n",
    b"GET ", b"HEAD ", b"POST ", b" HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.0 ",
    b"\r\nHost: b", b"\r\nUpgrade: websocket", b"\r\nConnection: upgrade", b"\r\nContent-Length: 5", b"\r\nx: y",
    b"\r\nTransfer-Encoding: chunked", b"\r\nSec-WebSocket-Protocol: a, b", b"\r\nSec-WebSocket-Extensions: x; y=1",
    b"\r\nSec-WebSocket-Version: 8", b"\r\nRetry-After: 7", b"1\r\na\r\n0\r\n\r\n", b"x" * 300,
]  # fmt: skip
"""What mutations put in: the marks of HTTP's grammar, and headers that matter."""


def mutated(*originals: bytes) -> st.SearchStrategy[bytes]:
    """One of *originals* after a few replacements of a stretch by a scrap, or by nothing, or by any bytes."""

    def apply(original: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
        for place, length, scrap in changes:
            place %= len(original) + 1
            original = original[:place] + scrap + original[place + length :]
        return original

    scrap = st.one_of(st.sampled_from(SCRAPS), st.binary(max_size=4))
    change = st.tuples(st.integers(0, 1000), st.integers(0, 30), scrap)
    return st.builds(apply, st.sampled_from(originals), st.lists(change, max_size=5))
