"""The server's handshake: which requests are upgrades, what the others get, and the answers' bytes."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request

from tests.protocol.heads import ACCEPT, KEY, cuts, head, mutated, pieces, switch, upgrade
from webmesh.exceptions import ConfigurationError, LocalProtocolError
from webmesh.options import Limits
from webmesh.protocol.handshake import HttpRequest, Refusal, ServerHandshake, UpgradeRequest, choose_subprotocol

Outcome = UpgradeRequest | HttpRequest | Refusal | None
VERSION_13 = Refusal(426, "Sec-WebSocket-Version must be 13", (("Sec-WebSocket-Version", "13"),))
BAD_KEY = Refusal(400, "Sec-WebSocket-Key must be base64 of 16 bytes, once")
SMALL = Limits(header_line=128, header_count=12, head_size=600)


class Agreed:
    """An extension as far as the handshake sees one."""

    def __init__(self, text: str) -> None:
        self._text = text

    def response(self) -> str:
        return self._text


def outcome(data: bytes, limits: Limits = Limits()) -> Outcome:
    return ServerHandshake(limits).receive(data)


def begun(data: bytes = upgrade()) -> ServerHandshake:
    handshake = ServerHandshake(Limits())
    handshake.receive(data)
    return handshake


def parsed(answer: bytes) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of a whole answer, as an HTTP client sees it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.receive_data(answer)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    data = client.next_event()
    body = bytes(data.data) if isinstance(data, h11.Data) else b""
    return response.status_code, {name.decode(): value.decode() for name, value in response.headers}, body.decode()


def test_an_upgrade_is_understood() -> None:
    """Path, query, headers and offers come back decoded, each in its own place."""
    request = outcome(
        upgrade(
            "Origin: https://shop.example", "Sec-WebSocket-Protocol: b, a", "Sec-WebSocket-Protocol: c",
            "Sec-WebSocket-Extensions: x; y=1", "Sec-WebSocket-Extensions: z", "X-Two: 1", "x-two: 2", "X-Empty:",
            first="GET /caf%C3%A9?q=%31 HTTP/1.1",
        )
    )  # fmt: skip

    assert isinstance(request, UpgradeRequest)
    assert ("/café", "q=%31", "/caf%C3%A9?q=%31") == (request.path, request.query, request.target)
    assert ("shop.example:4269", "https://shop.example") == (request.host, request.origin)
    assert ("b", "a", "c") == request.subprotocols
    assert "x; y=1, z" == request.extensions
    assert "1, 2" == request.headers["x-two"]
    assert "" == request.headers["x-empty"]
    assert "websocket" == request.headers["upgrade"]


def test_what_an_upgrade_need_not_have() -> None:
    """Origin, subprotocols, extensions and a query may all be missing."""
    request = outcome(upgrade())

    assert isinstance(request, UpgradeRequest)
    assert ("/", "", None, (), "") == (
        request.path, request.query, request.origin, request.subprotocols, request.extensions
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Upgrade", "WebSocket"),
        ("Upgrade", "h2c, websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Connection", "UPGRADE"),
        ("Sec-WebSocket-Key", "AQIDBAUGBwgJCgsMDQ4PEC=="),
        ("Sec-WebSocket-Key", "++++//////////////////=="),
        ("Host", "127.0.0.1"),
        ("Host", "[2001:db8::1]:4269"),
        ("Host", "my_service:80"),
        ("Host", "shop.example."),
    ],
)
def test_forms_that_browsers_and_proxies_use(name: str, value: str) -> None:
    """Words in lists have no case, and a key may have spare bits set, as the one in RFC 6455 section 4.1."""
    assert isinstance(outcome(upgrade(f"{name}: {value}", without=[name])), UpgradeRequest)


def test_a_request_shows_no_secrets() -> None:
    """Tokens travel in queries, cookies and headers: none of them reaches a log by a repr."""
    upgraded = outcome(upgrade("Cookie: hunter2", first="GET /a?token=hunter2 HTTP/1.1"))
    plain = outcome(head("GET /a?token=hunter2 HTTP/1.1", "Host: a", "Authorization: hunter2"))

    for request in (upgraded, plain):
        assert "path='/a'" in repr(request)
        assert "hunter2" not in repr(request)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_no_upgrade_is_plain_http(method: str) -> None:
    """A request for a page, with or without offers to speak another protocol, is handed on as one."""
    request = outcome(
        head(f"{method} /livez?verbose HTTP/1.1", "Host: a", "Content-Length: 0", "Upgrade: h2c", "Connection: Upgrade")
    )

    assert isinstance(request, HttpRequest)
    assert (method, "/livez", "verbose") == (request.method, request.path, request.query)
    assert "h2c" == request.headers["upgrade"]


FRAMED_BADLY = "bad Content-Length or Transfer-Encoding"


@pytest.mark.row(5)
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Content-Length: 0", "upgrade with a body"),
        ("Content-Length: 5", "upgrade with a body"),
        ("Content-Length: 5, 5", "upgrade with a body"),
        ("Transfer-Encoding: chunked", "upgrade with a body"),
        ("Content-Length: 5, 6", FRAMED_BADLY),
        ("Content-Length: x", FRAMED_BADLY),
        ("Content-Length: -1", FRAMED_BADLY),
        ("Content-Length: " + "9" * 30, FRAMED_BADLY),
        ("Content-Length:", FRAMED_BADLY),
        ("Transfer-Encoding: gzip", FRAMED_BADLY),
        ("Transfer-Encoding: gzip, chunked", FRAMED_BADLY),
    ],
)
def test_an_upgrade_has_no_body(line: str, reason: str) -> None:
    """Bytes that one reader takes for a body and another for frames are how requests are smuggled."""
    handshake = ServerHandshake(Limits())

    assert Refusal(400, reason) == handshake.receive(upgrade(line) + b"\x81\0\0\0\0")
    assert b"" == handshake.trailing


@pytest.mark.row(5)
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Content-Length: 1", "request with a body"),
        ("Content-Length: 10", "request with a body"),
        ("Transfer-Encoding: chunked", "request with a body"),
        ("Content-Length: x", FRAMED_BADLY),
        ("Transfer-Encoding: x", FRAMED_BADLY),
    ],
)
def test_plain_requests_have_no_body_either(line: str, reason: str) -> None:
    """Nothing that is served here reads one, and the connection ends after the answer."""
    assert Refusal(400, reason) == outcome(head("GET / HTTP/1.1", "Host: a", line))


@pytest.mark.row(6)
def test_an_upgrade_by_head_gets_405() -> None:
    """RFC 6455 section 4.1 has GET alone."""
    assert Refusal(405, "an upgrade needs GET", (("Allow", "GET"),)) == outcome(upgrade(first="HEAD / HTTP/1.1"))


@pytest.mark.row(3, 4, 6, 7)
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 9000, 414),
        (upgrade("x: " + "a" * 9000), 431),
        (upgrade(*["x: y"] * 100), 431),
        (upgrade(b"Origin: \xff"), 400),
        (b"\x16\x03\x01\x02", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.0\r\n", 505),
        (b"POST / HTTP/1.1\r\n", 405),
        (upgrade("x : y"), 400),
    ],
)
def test_a_bad_head_is_refused(data: bytes, status: int) -> None:
    """What `http_head` refuses becomes a refusal, once and for all; later bytes change nothing."""
    handshake = ServerHandshake(Limits())

    refusal = handshake.receive(data)

    assert isinstance(refusal, Refusal)
    assert status == refusal.status
    assert refusal is handshake.receive(upgrade())
    assert b"" == handshake.trailing


@pytest.mark.row(8)
@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Sec-WebSocket-Key:"],
        ["Sec-WebSocket-Key: dGhlIHNhbXBsZQ=="],
        ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZTE="],
        ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"],
        ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ==="],
        ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j-_=="],
        ["Sec-WebSocket-Key: dGhl HNhbXBsZSBub25jZQ=="],
        ["Sec-WebSocket-Key: ========================"],
        [f"Sec-WebSocket-Key: {KEY}", f"Sec-WebSocket-Key: {KEY}"],
        [f"Sec-WebSocket-Key: {KEY}, {KEY}"],
    ],
)
def test_the_key_is_one_base64_of_16_bytes(lines: list[str]) -> None:
    """A missing, short, long, repeated or non-base64 key gets 400."""
    assert BAD_KEY == outcome(upgrade(*lines, without=["Sec-WebSocket-Key"]))


@pytest.mark.row(8)
@pytest.mark.parametrize(
    "lines",
    [
        [], ["Sec-WebSocket-Version:"], ["Sec-WebSocket-Version: 8"], ["Sec-WebSocket-Version: 14"],
        ["Sec-WebSocket-Version: 013"], ["Sec-WebSocket-Version: 13, 8"],
        ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"],
    ],
)  # fmt: skip
def test_the_version_is_13(lines: list[str]) -> None:
    """A missing, wrong or repeated version gets 426, with the version that is spoken."""
    assert VERSION_13 == outcome(upgrade(*lines, without=["Sec-WebSocket-Version"]))


@pytest.mark.row(8)
@pytest.mark.parametrize("lines", [[], ["Connection: keep-alive"], ["Connection: upgrades"], ["Connection:"]])
def test_connection_says_upgrade(lines: list[str]) -> None:
    """`Upgrade` without `Connection: Upgrade` may come from a proxy that does not know what it passes on."""
    assert Refusal(400, "no 'Connection: Upgrade'") == outcome(upgrade(*lines, without=["Connection"]))


@pytest.mark.row(8)
@pytest.mark.parametrize("lines", [[], ["Upgrade: h2c"], ["Upgrade: websockets"]])
def test_an_upgrade_that_a_proxy_stripped_is_told_so(lines: list[str]) -> None:
    """A key without `Upgrade: websocket` is the mark of a proxy that swallowed it."""
    expected = Refusal(426, "no Upgrade: websocket; a proxy in between must pass it on", (("Upgrade", "websocket"),))

    assert expected == outcome(upgrade(*lines, without=["Upgrade"]))


@pytest.mark.row(9)
@pytest.mark.parametrize(
    "lines", [[], ["Host: a", "Host: a"], ["Host: a", "host: b"], ["Host: a", "X: y", "HOST: b"]]
)
def test_there_is_exactly_one_host(lines: list[str]) -> None:
    """No Host, or two, gets 400, whether it is an upgrade or not."""
    expected = Refusal(400, "there must be exactly one Host")

    assert expected == outcome(upgrade(*lines, without=["Host"]))
    assert expected == outcome(head("GET / HTTP/1.1", *lines))


@pytest.mark.row(9)
@pytest.mark.parametrize(
    "host",
    ["", "a b", "a/b", "a@b", "a:b", "a:", "a:123456", "a, b", "::1", "[::1", "[::1]x", "[g]", "a?b", "a%20b", "a#"],
)
def test_a_malformed_host_is_refused(host: str) -> None:
    """A Host is a name or an address and perhaps a port; nothing that could pass for more."""
    assert Refusal(400, "malformed Host") == outcome(upgrade(f"Host: {host}", without=["Host"]))


@pytest.mark.row(11)
@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; server_max_window_bits=abc", "permessage-deflate; client_max_window_bits=\"8\"", ";;;=,,",
        "permessage-deflate; server_max_window_bits=99; server_max_window_bits=8",
        ", ".join(["permessage-deflate"] * 200),
    ],
)  # fmt: skip
def test_offers_of_extensions_are_handed_on_unread(offer: str) -> None:
    """Whether one is accepted is for `deflate` to say: no offer spoils the handshake."""
    handshake = begun(upgrade(f"Sec-WebSocket-Extensions: {offer}"))

    request = handshake.receive(b"")

    assert isinstance(request, UpgradeRequest)
    assert offer == request.extensions
    assert switch() == handshake.accept(subprotocol=None)


@pytest.mark.row(12)
@pytest.mark.parametrize("offer", ["", " ", ",", "a,", ",a", "a,,b", "a b", "a;b", 'a, "b"', "a/b", "<script>"])
def test_malformed_subprotocols_are_refused(offer: str) -> None:
    """Empty and malformed names get 400, and nothing of them comes back."""
    expected = Refusal(400, "malformed Sec-WebSocket-Protocol")

    assert expected == outcome(upgrade(f"Sec-WebSocket-Protocol: {offer}"))


@pytest.mark.row(12)
def test_the_number_of_subprotocols_is_bounded() -> None:
    """64 may be offered; 65 or 1,000 get 400, in one header or in many."""
    names = [f"s{number}" for number in range(1000)]
    refusal = Refusal(400, "more than 64 subprotocols")

    most = outcome(upgrade("Sec-WebSocket-Protocol: " + ",".join(names[:64])))

    assert isinstance(most, UpgradeRequest)
    assert tuple(names[:64]) == most.subprotocols
    assert refusal == outcome(upgrade("Sec-WebSocket-Protocol: " + ",".join(names[:65])))
    assert refusal == outcome(upgrade("Sec-WebSocket-Protocol: " + ",".join(names)))
    assert refusal == outcome(upgrade(*[f"Sec-WebSocket-Protocol: {name}" for name in names[:65]]))


@pytest.mark.row(12)
def test_a_subprotocol_is_offered_once() -> None:
    """RFC 6455 section 4.1 wants unique names; they differ by case."""
    assert Refusal(400, "a subprotocol is offered twice") == outcome(upgrade("Sec-WebSocket-Protocol: a, b, a"))
    assert isinstance(outcome(upgrade("Sec-WebSocket-Protocol: a, A")), UpgradeRequest)


@pytest.mark.row(12)
def test_the_clients_preference_chooses_the_subprotocol() -> None:
    """The first that both know, in the client's order; none when there is none."""
    assert "b" == choose_subprotocol(("x", "b", "a"), ["a", "b"])
    assert choose_subprotocol(("x", "y"), ["a", "b"]) is None
    assert choose_subprotocol((), ["a", "b"]) is None
    assert choose_subprotocol(("A",), ["a"]) is None


@pytest.mark.row(13)
@pytest.mark.parametrize(
    "target", ["//", "/../a", "/%2e%2e/a", "/%00", "a", "@host", "http://a/", "*", "/a#b", "/%zz", "/%ff"]
)
def test_a_bad_path_is_refused(target: str) -> None:
    """The router sees one decoded form of a path, and what has none gets 400, upgrade or not."""
    for data in (upgrade(first=f"GET {target} HTTP/1.1"), head(f"GET {target} HTTP/1.1", "Host: a")):
        refusal = outcome(data)
        assert isinstance(refusal, Refusal)
        assert 400 == refusal.status


@pytest.mark.row(16)
def test_frames_behind_the_head_are_kept() -> None:
    """What came in the same packet, and what comes before the answer, stays in order."""
    handshake = ServerHandshake(Limits())

    assert handshake.receive(upgrade()[:-1]) is None
    assert b"" == handshake.trailing
    request = handshake.receive(upgrade()[-1:] + b"\x81\x85")
    assert request is handshake.receive(b"\0\0\r\n\r\n")

    assert b"\x81\x85\0\0\r\n\r\n" == handshake.trailing


def test_a_connection_that_ends_inside_the_head() -> None:
    """The end of the stream is an outcome: there will be no request."""
    handshake = ServerHandshake(Limits())
    handshake.receive(b"GET / HT")

    assert Refusal(400, "the connection ended inside the head") == handshake.receive(b"")


def test_the_answer_to_an_upgrade() -> None:
    """101 carries the key's answer, the chosen subprotocol, the extensions' own words and further headers."""
    handshake = begun(upgrade("Sec-WebSocket-Protocol: a, b"))

    answer = handshake.accept(
        subprotocol="b", extensions=[Agreed("x; y=1"), Agreed("z")], headers=[("Set-Cookie", "a=b"), ("X", "")]
    )

    agreed = ["Sec-WebSocket-Protocol: b", "Sec-WebSocket-Extensions: x; y=1, z"]
    assert switch(*agreed, "Set-Cookie: a=b", "X: ") == answer


def test_the_shortest_answer_to_an_upgrade() -> None:
    """Without agreements 101 says nothing of them."""
    answer = begun(upgrade("Sec-WebSocket-Protocol: a")).accept(subprotocol=None)

    assert switch() == answer
    assert f"Sec-WebSocket-Accept: {ACCEPT}\r\n".encode() in answer


def test_wsproto_gives_the_same_answer() -> None:
    """wsproto is the judge: for the same valid request its own 101 has the same bytes."""
    data = upgrade("Sec-WebSocket-Protocol: a, b")
    judge = WSConnection(ConnectionType.SERVER)
    judge.receive_data(data)
    assert isinstance(next(judge.events()), Request)

    assert judge.send(AcceptConnection(subprotocol="b")) == begun(data).accept(subprotocol="b")


@pytest.mark.row(12)
def test_a_subprotocol_that_was_not_offered_cannot_be_chosen() -> None:
    """A client that is answered with one must end the connection."""
    with pytest.raises(LocalProtocolError, match="'c' was not offered"):
        begun(upgrade("Sec-WebSocket-Protocol: a, b")).accept(subprotocol="c")


@pytest.mark.parametrize("data", [b"", upgrade()[:-1], upgrade("x : y"), head("GET / HTTP/1.1", "Host: a")])
def test_only_an_upgrade_can_be_accepted(data: bytes) -> None:
    """Before the head is whole, after a refusal and for plain HTTP there is nothing to accept."""
    with pytest.raises(LocalProtocolError, match="^there is no upgrade request to accept$"):
        begun(data).accept(subprotocol=None)


@pytest.mark.parametrize(
    "field", [("X", "a\r\nb"), ("X\n", "a"), ("X", "é"), ("Upgrade", "x"), ("sec-websocket-accept", "x")]
)
def test_headers_of_the_answer_are_checked(field: tuple[str, str]) -> None:
    """What a program adds to 101 can neither break its lines nor replace the handshake's own."""
    with pytest.raises(ConfigurationError):
        begun().accept(subprotocol=None, headers=[field])


@pytest.mark.parametrize(
    "data", [b"", b"GET / HT", upgrade(), b"\x16\3", upgrade("Content-Length: 3"), head("GET / HTTP/1.1")]
)
def test_a_refusal_is_a_whole_answer(data: bytes) -> None:
    """At any time a refusal is one short text that no browser takes for more, and the connection ends."""
    refusal = Refusal(503, "the server is full", (("Retry-After", "5"),))

    answer = begun(data).refuse(refusal) if data else ServerHandshake(Limits()).refuse(refusal)

    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert (
        503,
        {
            "retry-after": "5",
            "content-type": "text/plain; charset=utf-8",
            "content-length": "19",
            "x-content-type-options": "nosniff",
            "connection": "close",
        },
        "the server is full\n",
    ) == parsed(answer)


def test_a_refusal_of_a_head_request_has_no_body() -> None:
    """What would be its body is what the client would take for the next answer."""
    handshake = begun(head("HEAD / HTTP/1.1", "Host: a", "Content-Length: 7"))

    answer = handshake.refuse(Refusal(400, "bad"))

    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 4\r\n" in answer


def test_a_refusal_in_other_letters_is_sent_as_utf_8() -> None:
    """A program's own reason need not be ASCII; its length is counted in bytes."""
    status, headers, body = parsed(ServerHandshake(Limits()).refuse(Refusal(499, "geschloßen")))

    assert (499, "12", "geschloßen\n") == (status, headers["content-length"], body)


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(101, "x"),
        Refusal(200, "x"),
        Refusal(304, "x"),
        Refusal(399, "x"),
        Refusal(600, "x"),
        Refusal(400, "x", (("X", "a\r\nb"),)),
        Refusal(400, "x", (("Content-Length", "3"),)),
        Refusal(400, "x", (("transfer-encoding", "chunked"),)),
        Refusal(400, "x", (("Connection", "keep-alive"),)),
        Refusal(400, "x", (("Content-Type", "text/html"),)),
    ],
)
def test_a_refusal_that_is_none_cannot_be_written(refusal: Refusal) -> None:
    """A refusal has an error's status, and no header that changes where the answer ends."""
    with pytest.raises(ConfigurationError):
        begun().refuse(refusal)


def test_every_refusal_of_the_handshake_can_be_written() -> None:
    """What is refused can be said."""
    for refusal in (VERSION_13, BAD_KEY, outcome(b"POST / HTTP/1.1\r\n"), outcome(b"\xff")):
        assert isinstance(refusal, Refusal)
        assert refusal.status == parsed(begun().refuse(refusal))[0]


def check_reads_do_not_matter(data: bytes, ends: list[int], limits: Limits) -> None:
    whole, cut = ServerHandshake(limits), ServerHandshake(limits)
    expected: Outcome = whole.receive(data) if data else None

    found: Outcome = None
    for part in pieces(data, ends):
        found = cut.receive(part)

    assert expected == found
    assert whole.trailing == cut.trailing
    if isinstance(expected, UpgradeRequest):
        assert whole.accept(subprotocol=None).startswith(b"HTTP/1.1 101 ")
    elif isinstance(expected, Refusal):
        assert expected.reason.isascii() and expected.reason.isprintable()
        assert parsed(whole.refuse(expected))[0] == expected.status


VALID = [
    upgrade() + b"\x81\0",
    upgrade("Sec-WebSocket-Protocol: a, b", "Origin: null", first="GET /%61/b?c HTTP/1.1"),
    head("HEAD /livez HTTP/1.1", "Host: a", "Content-Length: 0"),
]


@pytest.mark.row(3, 4, 5, 6, 7, 8, 9, 12, 13, 16)
@given(mutated(*VALID), cuts(), st.sampled_from([SMALL, Limits()]))
@example(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", [], SMALL)
def test_a_damaged_request_never_raises(data: bytes, ends: list[int], limits: Limits) -> None:
    """Whatever becomes of a request on its way, it has one outcome, the same however reads cut it."""
    check_reads_do_not_matter(data, ends, limits)


@pytest.mark.row(4, 6, 7)
@given(st.binary(max_size=200), cuts())
def test_arbitrary_bytes_never_raise(data: bytes, ends: list[int]) -> None:
    """The same for bytes that never were a request."""
    check_reads_do_not_matter(data, ends, SMALL)


@pytest.mark.row(4, 8, 9, 11, 12, 13)
@given(
    st.sampled_from(["Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Origin",
                     "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Content-Length", "Transfer-Encoding"]),
    st.one_of(st.binary(max_size=30), st.text(st.characters(max_codepoint=0x7E), max_size=30).map(str.encode)),
    st.booleans(),
)  # fmt: skip
def test_any_value_of_a_header_that_matters_has_an_outcome(name: str, value: bytes, repeated: bool) -> None:
    """Each header takes any bytes, in place of the valid one or beside it."""
    data = upgrade(name.encode() + b": " + value, without=() if repeated else [name])

    check_reads_do_not_matter(data, [len(data) // 2], Limits())


def test_a_handshake_has_begun_until_its_request_is_whole() -> None:
    """With the first byte; not any more once it is understood or refused."""
    for end in (b"\r\n", b"\0"):
        handshake = ServerHandshake(Limits())
        assert not handshake.begun
        handshake.receive(upgrade()[:-2])
        assert handshake.begun
        handshake.receive(end)
        assert not handshake.begun
