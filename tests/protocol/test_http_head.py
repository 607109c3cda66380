"""Raw heads: strictness and sizes, wherever reads cut them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.protocol.heads import cuts, head, mutated, pieces, switch, upgrade
from webmesh.options import Limits
from webmesh.protocol.http_head import AnswerHead, HeadReader, RefusedHead, Refusal, RequestHead

SMALL = Limits(header_line=64, header_count=6, head_size=300)
BAD_REQUEST_LINE = Refusal(400, "not an HTTP/1.1 request line")
NOT_HTTP = Refusal(400, "not an HTTP request")


def read(reader: HeadReader, reads: list[bytes]) -> tuple[bytes, bytes] | Refusal | None:
    """The head and what follows it, or the refusal; `None` when there was neither in all of *reads*."""
    for number, data in enumerate(reads):
        try:
            found = reader.receive(data)
        except RefusedHead as refused:
            return refused.refusal
        if found is not None:
            return found, reader.rest + b"".join(reads[number + 1 :])
    return None


def request(data: bytes, limits: Limits = Limits()) -> tuple[bytes, bytes] | Refusal | None:
    whole = read(RequestHead(limits), [data])
    dribbled = read(RequestHead(limits), pieces(data, range(len(data))))
    assert whole == dribbled, "one read or many: the same verdict"
    return whole


def answer(data: bytes, limits: Limits = Limits()) -> tuple[bytes, bytes] | Refusal | None:
    whole = read(AnswerHead(limits), [data])
    dribbled = read(AnswerHead(limits), pieces(data, range(len(data))))
    assert whole == dribbled, "one read or many: the same verdict"
    return whole


@pytest.mark.row(16)
def test_a_head_ends_at_its_empty_line() -> None:
    """The head comes back as it was sent, and what follows is kept apart, whatever its bytes."""
    assert (upgrade(), b"\x81\x80\0\0\r\n\r\n\xff") == request(upgrade() + b"\x81\x80\0\0\r\n\r\n\xff")


def test_a_head_needs_no_header() -> None:
    """Which headers there must be is asked later."""
    assert (b"GET / HTTP/1.1\r\n\r\n", b"") == request(b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("length", range(1, len(upgrade())))
def test_an_unfinished_head_is_awaited(length: int) -> None:
    """No valid beginning of a head is refused, and none is taken for a whole one."""
    assert RequestHead(Limits()).receive(upgrade()[:length]) is None


def test_the_beginnings_of_any_method_are_awaited() -> None:
    """A method of 24 letters may still become a request."""
    assert request(b"A" * 24) is None
    assert request(b"A" * 24 + b" ") is None


@pytest.mark.parametrize("line", ["x:", "x: ", "x:y", "x: a b\tc ", "X-1_!#$%&'*+-.^`|~: !\"#~"])
def test_valid_header_lines_pass(line: str) -> None:
    """A name of any token, and a value of printable ASCII and tabs, possibly empty."""
    assert (upgrade(line), b"") == request(upgrade(line))


@pytest.mark.row(7)
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (upgrade().replace(b"\r\n", b"\n"), "line that ends with LF alone"),
        (upgrade("x: y").replace(b"x: y\r\n", b"x: y\n"), "line that ends with LF alone"),
        (upgrade()[:-2] + b"\n", "line that ends with LF alone"),
        (upgrade("x: a\ny: b"), "line that ends with LF alone"),
        (upgrade("x: a\rb"), "CR without LF"),
        (upgrade("x: a\r\rb"), "CR without LF"),
        (upgrade()[:-2] + b"\rx", "CR without LF"),
        (upgrade("x: a", " b"), "folded header"),
        (upgrade("x: a", "\tb"), "folded header"),
        (upgrade(" "), "folded header"),
        (head("GET / HTTP/1.1", " Host: a", "Host: a"), "folded header"),
        (upgrade("x: a\0b"), "control character"),
        (upgrade("x\0: ab"), "control character"),
        (upgrade("x: \x1b[31m"), "control character"),
        (upgrade("x: a\x7fb"), "control character"),
        (upgrade("x: a\x0bb"), "control character"),
        (upgrade("x : y"), "space before the colon of a header"),
        (upgrade("x\t: y"), "space before the colon of a header"),
        (upgrade("Content-Length : 5"), "space before the colon of a header"),
        (upgrade("x"), "header without a valid name"),
        (upgrade(": y"), "header without a valid name"),
        (upgrade("a b: y"), "header without a valid name"),
        (upgrade("a(b): y"), "header without a valid name"),
        (upgrade('"a": y'), "header without a valid name"),
    ],
)
def test_what_is_written_badly_is_refused(data: bytes, reason: str) -> None:
    """Bare line ends, folded headers, control characters and misplaced spaces get 400."""
    assert Refusal(400, reason) == request(data)


@pytest.mark.row(4)
@pytest.mark.parametrize(
    "name", ["Host", "Connection", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Origin", "x"]
)
@pytest.mark.parametrize("value", [b"\x80", b"caf\xc3\xa9", b"\xff\xfe"])
def test_bytes_outside_ascii_are_refused_in_any_header(name: str, value: bytes) -> None:
    """No header that upgrades need is anything but ASCII, and bytes outside it mean different text to each reader."""
    assert Refusal(400, "byte outside ASCII") == request(upgrade(name.encode() + b": " + value))


@pytest.mark.row(4)
def test_bytes_outside_ascii_are_refused_in_the_path_and_in_names() -> None:
    """A path has them escaped."""
    assert Refusal(400, "byte outside ASCII") == request(b"GET /caf\xc3\xa9 HTTP/1.1\r\n")
    assert Refusal(400, "byte outside ASCII") == request(upgrade(b"caf\xe9: x"))


@pytest.mark.row(6)
@pytest.mark.parametrize(
    ("greeting", "refusal"),
    [
        (bytes.fromhex("160301020001000001fc0303"), Refusal(400, "TLS where plain HTTP is spoken")),
        (bytes.fromhex("15030300020250"), Refusal(400, "TLS where plain HTTP is spoken")),
        (b"\x10\x16\0\4MQTT", Refusal(400, "control character")),
        (b"\x80\x2e\1", Refusal(400, "byte outside ASCII")),
        (b"AMQP\0\0\x09\1", Refusal(400, "control character")),
        (b"GET\x16", Refusal(400, "control character")),
        (b"\r\n", NOT_HTTP),
        (b"\n", NOT_HTTP),
        (b" GET", NOT_HTTP),
        (b"\tGET", NOT_HTTP),
        (b"{\"path\"", NOT_HTTP),
        (b"GET\t", NOT_HTTP),
        (b"GET\r", NOT_HTTP),
        (b"GET\n", NOT_HTTP),
        (b"SSH-2.0-OpenSSH_9.2p1\r", NOT_HTTP),
        (b"http://", NOT_HTTP),
        (b"A" * 25, NOT_HTTP),
        (b"GET /\r\n", BAD_REQUEST_LINE),
        (b"EHLO mail.example\r\n", BAD_REQUEST_LINE),
        (b"*1 $4 PING\r\n", BAD_REQUEST_LINE),
        (b"GET  / HTTP/1.1\r\n", BAD_REQUEST_LINE),
        (b"GET / HTTP/1.1 \r\n", BAD_REQUEST_LINE),
        (b"GET / / HTTP/1.1\r\n", BAD_REQUEST_LINE),
        (b"GET /\tHTTP/1.1\r\n", BAD_REQUEST_LINE),
        (b"GET / http/1.1\r\n", BAD_REQUEST_LINE),
        (b"GET / HTTP/1.10\r\n", BAD_REQUEST_LINE),
        (b"GET / HTTP/11\r\n", BAD_REQUEST_LINE),
        (b"GET / XHTTP/1.1\r\n", BAD_REQUEST_LINE),
        (b"GET HTTP/1.1\r\n", BAD_REQUEST_LINE),
        (b"PRI * HTTP/2.0\r\n", Refusal(505, "only HTTP/1.1 is spoken here")),
        (b"GET / HTTP/1.0\r\n", Refusal(505, "only HTTP/1.1 is spoken here")),
        (b"GET / HTTP/0.9\r\n", Refusal(505, "only HTTP/1.1 is spoken here")),
        (b"POST / HTTP/1.0\r\n", Refusal(505, "only HTTP/1.1 is spoken here")),
        (b"GET / HTTP/1.2\r\n", Refusal(505, "only HTTP/1.1 is spoken here")),
    ],
)
def test_another_protocols_greeting_is_refused_at_once(greeting: bytes, refusal: Refusal) -> None:
    """No empty line is waited for: the other side may be waiting for ours."""
    assert refusal == request(greeting)
    assert request(greeting[:-1]) in (None, refusal)


@pytest.mark.row(6)
@pytest.mark.parametrize(
    "method", ["POST", "PUT", "OPTIONS", "CONNECT", "TRACE", "get", "Get", "GETS", "BASELINE-CONTROL"]
)
def test_other_methods_get_405(method: str) -> None:
    """What is no upgrade is only read, so nothing but GET and HEAD is answered, and the answer says which."""
    refusal = Refusal(405, "only GET and HEAD are answered here", (("Allow", "GET, HEAD"),))
    assert refusal == request(f"{method} / HTTP/1.1\r\n".encode())


def test_head_requests_pass() -> None:
    """HEAD is what health checks use."""
    assert (head("HEAD / HTTP/1.1", "Host: a"), b"") == request(head("HEAD / HTTP/1.1", "Host: a"))


@pytest.mark.row(3)
def test_the_request_line_is_bounded() -> None:
    """A request line may have `Limits.header_line` bytes; one more gets 414 before it ends."""
    fits = b"GET /" + b"a" * (64 - 14) + b" HTTP/1.1"
    assert 64 == len(fits)

    assert (fits + b"\r\n\r\n", b"") == request(fits + b"\r\n\r\n", SMALL)
    assert request(b"GET /" + b"a" * 61, SMALL) is None
    assert Refusal(414, "line over 64 bytes") == request(b"GET /" + b"a" * 62, SMALL)
    assert Refusal(414, "line over 64 bytes") == request(fits.replace(b"/", b"/a", 1) + b"\r\n\r\n", SMALL)


@pytest.mark.row(3)
def test_a_header_line_is_bounded() -> None:
    """A header line may have `Limits.header_line` bytes; one more gets 431 before it ends."""
    begin = b"GET / HTTP/1.1\r\n"
    fits = begin + b"x: " + b"a" * 61 + b"\r\n\r\n"

    assert (fits, b"") == request(fits, SMALL)
    assert request(begin + b"x" * 66, SMALL) is None
    assert Refusal(431, "line over 64 bytes") == request(begin + b"x" * 67, SMALL)
    assert Refusal(431, "line over 64 bytes") == request(fits.replace(b"x", b"xx"), SMALL)


@pytest.mark.row(3)
def test_the_number_of_headers_is_bounded() -> None:
    """`Limits.header_count` headers pass; the end of the next one's line gets 431."""
    lines = [f"x-{number}: y" for number in range(6)]

    assert isinstance(request(head("GET / HTTP/1.1", *lines), SMALL), tuple)
    assert Refusal(431, "more than 6 headers") == request(head("GET / HTTP/1.1", *lines, "x: y")[:-2], SMALL)


@pytest.mark.row(3)
def test_the_whole_head_is_bounded() -> None:
    """A head may have `Limits.head_size` bytes, its empty line included; one more gets 431."""
    lines = [b"x: " + b"a" * 61] * 4
    rest = 300 - len(head("GET / HTTP/1.1", *lines, "x: "))
    fits = head("GET / HTTP/1.1", *lines, b"x: " + b"a" * rest)
    assert 300 == len(fits)

    assert (fits, b"more") == request(fits + b"more", SMALL)
    too_large = head("GET / HTTP/1.1", *lines, b"x: " + b"a" * (rest + 1))
    assert request(too_large[:300], SMALL) is None
    assert Refusal(431, "head over 300 bytes") == request(too_large[:301], SMALL)


@pytest.mark.row(3)
def test_a_head_smaller_than_a_line_is_bounded_too() -> None:
    """The two sizes do not depend on each other."""
    for size in (32, 65):
        limits = Limits(header_line=64, head_size=size)
        assert request(b"GET /" + b"a" * (size - 5), limits) is None
        assert Refusal(431, f"head over {size} bytes") == request(b"GET /" + b"a" * (size - 4), limits)

    limits = Limits(header_line=64, head_size=66)
    assert Refusal(414, "line over 64 bytes") == request(b"GET /" + b"a" * 62, limits)


@pytest.mark.row(3)
def test_the_default_sizes_are_those_of_the_catalogue() -> None:
    """8 KiB a line, 100 headers, 32 KiB in all."""
    assert Refusal(414, "line over 8192 bytes") == read(RequestHead(Limits()), [b"GET /" + b"a" * 8190])
    assert Refusal(431, "line over 8192 bytes") == read(RequestHead(Limits()), [upgrade("x: " + "a" * 8190)])
    assert Refusal(431, "more than 100 headers") == read(RequestHead(Limits()), [upgrade(*["x: y"] * 96)])
    assert isinstance(read(RequestHead(Limits()), [upgrade(*["x: y"] * 95)]), tuple)
    assert Refusal(431, "head over 32768 bytes") == read(RequestHead(Limits()), [upgrade(*["x: " + "a" * 8000] * 5)])


def test_an_answers_head_passes() -> None:
    """An answer has a status line; its words may be missing or strange."""
    assert (switch(), b"\x81\0") == answer(switch() + b"\x81\0")
    for line in ("HTTP/1.1 200 OK", "HTTP/1.1 200 ", "HTTP/1.1 200", "HTTP/1.1 999 What?\tHm."):
        assert (head(line), b"") == answer(head(line))


@pytest.mark.row(14)
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"HTTP/1.0", "the answer is not HTTP/1.1"),
        (b"HTTP/2", "the answer is not HTTP/1.1"),
        (b"HTTP/1.1\r", "the answer is not HTTP/1.1"),
        (b"HTTP/1.11", "the answer is not HTTP/1.1"),
        (b"http", "the answer is not HTTP/1.1"),
        (b"\r\n", "the answer is not HTTP/1.1"),
        (b"SSH-2.0-x\r\n", "the answer is not HTTP/1.1"),
        (b"\x15\3\3\0\2\2\x50", "TLS where plain HTTP is spoken"),
        (b"HTTP/1.1 \r\n", "the answer has no valid status line"),
        (b"HTTP/1.1 20\r\n", "the answer has no valid status line"),
        (b"HTTP/1.1 2000\r\n", "the answer has no valid status line"),
        (b"HTTP/1.1 099 x\r\n", "the answer has no valid status line"),
        (b"HTTP/1.1  200 OK\r\n", "the answer has no valid status line"),
        (b"HTTP/1.1 200OK\r\n", "the answer has no valid status line"),
        (b"HTTP/1.1 +20 OK\r\n", "the answer has no valid status line"),
        (b"HTTP/1.1 200 \xe9\r\n", "byte outside ASCII"),
        (switch("x: \xe9"), "byte outside ASCII"),
        (switch("x : y"), "space before the colon of a header"),
        (switch().replace(b"\r\n", b"\n"), "line that ends with LF alone"),
    ],
)
def test_what_is_no_answer_is_refused(data: bytes, reason: str) -> None:
    """Other versions, other protocols and badly written heads are not read on."""
    refusal = answer(data)
    assert isinstance(refusal, Refusal)
    assert reason == refusal.reason


def test_an_answers_head_has_the_same_bounds() -> None:
    """An endless head ends the reading; there is no other status for its first line."""
    assert Refusal(431, "line over 64 bytes") == answer(b"HTTP/1.1 200 " + b"a" * 60, SMALL)
    assert Refusal(431, "more than 6 headers") == answer(head("HTTP/1.1 200 OK", *["x: y"] * 7), SMALL)
    assert Refusal(431, "head over 300 bytes") == answer(head("HTTP/1.1 200 OK", *["x: " + "a" * 60] * 5), SMALL)


@pytest.mark.row(3, 4, 6, 7)
@given(mutated(upgrade(), upgrade("x: y", first="HEAD /a?b HTTP/1.1")), cuts(), st.sampled_from([SMALL, Limits()]))
@example(b"GE\rX", [1, 2, 3], SMALL)
@example(b"GET / HTTP/1.1\r\n\rx", [16, 17], SMALL)
@example(b"GET /" + b"a" * 60 + b"\rx", [64, 65, 66], SMALL)
def test_reads_do_not_change_the_verdict_on_a_request(data: bytes, ends: list[int], limits: Limits) -> None:
    """The same bytes get the same verdict in one read, in a few, and byte by byte."""
    assert read(RequestHead(limits), [data] if data else []) == read(RequestHead(limits), pieces(data, ends))


@pytest.mark.row(14)
@given(mutated(switch(), head("HTTP/1.1 200", "x: y")), cuts(), st.sampled_from([SMALL, Limits()]))
def test_reads_do_not_change_the_verdict_on_an_answer(data: bytes, ends: list[int], limits: Limits) -> None:
    """The same for the head of an answer."""
    assert read(AnswerHead(limits), [data] if data else []) == read(AnswerHead(limits), pieces(data, ends))


@pytest.mark.row(4, 6, 7)
@given(st.binary(max_size=200), cuts())
def test_any_bytes_get_a_verdict(data: bytes, ends: list[int]) -> None:
    """Whatever a stranger sends is awaited further or refused; neither depends on the reads."""
    assert read(RequestHead(SMALL), [data] if data else []) == read(RequestHead(SMALL), pieces(data, ends))


LINE = "GET / HTTP/1.1"


@pytest.mark.row(77)
@pytest.mark.parametrize(
    ("data", "offence"),
    [
        (b"\x01\x02", True), (b"SSH-2.0-x\r\n", True), (b"GET / HTTP/1.1\n", True), (head(LINE, "a: b", " c"), True),
        (head(LINE, "a : b"), True), (b"GET / HTTP/1.1\r\na: \0", True), (b"\x16\x03\x01", False), (b"\x15", False),
        (b"POST / HTTP/1.1\r\n", False), (b"GET / HTTP/1.0\r\n", False), (b"GET /" + b"x" * 10_000, False),
        (head(LINE, "a: " + "b" * 10_000), False),
    ],
)  # fmt: skip
def test_what_no_browser_can_be_made_to_send_is_an_offence(data: bytes, offence: bool) -> None:
    """Counted against its address; what a link on any page brings about, or too many cookies, is not."""
    refused = request(data)
    assert isinstance(refused, Refusal)
    assert offence == refused.offence


def test_a_head_has_begun_until_it_is_whole() -> None:
    """A peer that said nothing is told from one that does not finish."""
    reader = RequestHead(Limits())
    assert not reader.begun
    reader.receive(b"GET")
    assert reader.begun
    reader.receive(b" / HTTP/1.1\r\n\r\nrest")
    assert not reader.begun
