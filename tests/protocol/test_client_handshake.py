"""The client's handshake: what is sent, and which answers open a WebSocket."""

from __future__ import annotations

import os
from collections.abc import Iterable

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request

from tests.protocol.heads import ACCEPT, KEY, cuts, head, mutated, pieces, switch
from webmesh.exceptions import ConfigurationError, HandshakeRejected, RemoteProtocolError
from webmesh.options import Limits
from webmesh.protocol.client_handshake import Accepted, ClientHandshake
from webmesh.protocol.deflate import BoundedDeflate, negotiate_deflate
from webmesh.protocol.handshake import ServerHandshake, UpgradeRequest

SMALL = Limits(header_line=128, header_count=8, head_size=400, rejected_body=60, informational_responses=2)


class Wish:
    """An extension as far as the handshake sees one; takes any parameters but 'bad'."""

    def __init__(self, name: str, offer: str = "") -> None:
        self.name = name
        self.agreed: str | None = None
        self._offer = offer or name

    def offer(self) -> str:
        return self._offer

    def accept(self, params: str) -> None:
        if params == "bad":
            raise RemoteProtocolError("no such parameter")
        self.agreed = params


def known_key(size: int) -> bytes:
    """The 16 bytes of RFC 6455's example, whose answer is known."""
    assert size == 16
    return b"the sample nonce"


def handshake(
    *, host: str = "shop.example:4269", target: str = "/", subprotocols: Iterable[str] = (),
    headers: Iterable[tuple[str, str]] = (), extensions: Iterable[Wish] = (), limits: Limits = Limits(),
) -> ClientHandshake:  # fmt: skip
    return ClientHandshake(
        host=host, target=target, subprotocols=tuple(subprotocols), headers=headers, extensions=tuple(extensions),
        limits=limits, key_bytes=known_key,
    )  # fmt: skip


def rejected(client: ClientHandshake, data: bytes) -> HandshakeRejected:
    with pytest.raises(HandshakeRejected) as caught:
        client.receive(data)
    return caught.value


def test_the_request() -> None:
    """Every header that RFC 6455 wants, once, then offers, then what the caller adds, in order."""
    client = handshake(
        target="/a%20b?c", subprotocols=["b", "a"], headers=[("Authorization", "Bearer x"), ("X", "1"), ("X", "2")],
        extensions=[Wish("x", "x; y=1, x"), Wish("z")],
    )  # fmt: skip

    assert head(
        "GET /a%20b?c HTTP/1.1", "Host: shop.example:4269", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: b, a",
        "Sec-WebSocket-Extensions: x; y=1, x, z", "Authorization: Bearer x", "X: 1", "X: 2",
    ) == client.request()  # fmt: skip
    assert client.request() == client.request()


def test_the_shortest_request() -> None:
    """Nothing is offered when there is nothing to offer."""
    assert head(
        "GET / HTTP/1.1", "Host: shop.example:4269", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13",
    ) == handshake().request()  # fmt: skip


def test_keys_are_random() -> None:
    """Without a source of its own each handshake draws another key from the system."""
    first, second = (ClientHandshake(host="a", target="/", limits=Limits()).request() for _ in range(2))

    assert first != second


@pytest.mark.row(15)
@pytest.mark.parametrize(
    "text", ["/\r\nX: 1", "/a\n", "/\r", "/a b", "/a\0", "/é", "", "a", "*", "http://a/", "?a", "/a#b", None]
)
def test_a_bad_target_is_refused(text: str) -> None:
    """A path holds neither line ends nor anything else that must be escaped."""
    with pytest.raises(ConfigurationError, match="^target .* is not an absolute path of escaped ASCII"):
        handshake(target=text)


@pytest.mark.row(15)
@pytest.mark.parametrize(
    "text", ["a\r\nX: 1", "a\n", "a b", "a\0", "é", "", "a/b", "u@a", "::1", "a:", "a:b", "a,b", None]
)
def test_a_bad_host_is_refused(text: str) -> None:
    """A Host is a name or an address, and perhaps a port."""
    with pytest.raises(ConfigurationError, match="^host .* is not a name or address with an optional port"):
        handshake(host=text)


@pytest.mark.row(15)
@pytest.mark.parametrize("text", ["a\r\nX: 1", "a\n", "a b", "a\0", "é", "", "a,b", "a;b", '"a"', None])
def test_a_bad_subprotocol_is_refused(text: str) -> None:
    """A subprotocol is a token: no separator can make two of it."""
    with pytest.raises(ConfigurationError, match="^subprotocol .* is not a token of ASCII characters$"):
        handshake(subprotocols=["fine", text])


def test_subprotocols_are_different_names() -> None:
    """RFC 6455 section 4.1 wants unique names; one text is not a list of its letters."""
    with pytest.raises(ConfigurationError, match="different names"):
        handshake(subprotocols=["a", "b", "a"])
    with pytest.raises(ConfigurationError, match="different names"):
        ClientHandshake(host="a", target="/", subprotocols="ab", limits=Limits())


@pytest.mark.row(15)
@pytest.mark.parametrize(
    "field", [("X", "a\r\nb"), ("X\r\n", "a"), ("X", "a\0"), ("X", "é"), ("X y", "a"), ("", "a"), ("Host", "a"),
              ("sec-websocket-key", "a"), ("Content-Length", "1"), ("Transfer-Encoding", "chunked"), ("Upgrade", "x")],
)  # fmt: skip
def test_a_bad_header_is_refused(field: tuple[str, str]) -> None:
    """A header can neither break its line nor replace or frame what the handshake writes; all is ValueError, too."""
    with pytest.raises(ConfigurationError) as caught:
        handshake(headers=[("fine", "x"), field])

    assert isinstance(caught.value, ValueError)


@pytest.mark.row(15)
@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_whatever_is_asked_for_stays_in_its_place(
    host: str, target: str, subprotocol: str, name: str, value: str
) -> None:
    """Any arguments are refused, or written so that a strict server finds them where they belong."""
    try:
        client = handshake(host=host, target="/" + target, subprotocols=[subprotocol], headers=[(name, value)])
    except ConfigurationError:
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(client.request())
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert 7 == len(request.headers)
    assert (b"host", host.encode()) == request.headers[0]
    assert (name.lower().encode(), value.encode()) == request.headers[-1]
    assert ("/" + target).encode() == request.target


def test_an_answer_opens_the_websocket() -> None:
    """101 with the key's answer is what was agreed, and what follows it are frames."""
    client = handshake(subprotocols=["a", "b"])

    accepted = client.receive(switch("Sec-WebSocket-Protocol: b", "Set-Cookie: hunter2") + b"\x81\0\r\n\r\n")

    assert isinstance(accepted, Accepted)
    assert ("b", []) == (accepted.subprotocol, accepted.extensions)
    assert "hunter2" == accepted.headers["set-cookie"]
    assert "hunter2" not in repr(accepted)
    assert accepted is client.receive(b"\x82")
    assert b"\x81\0\r\n\r\n\x82" == client.trailing


def test_an_answer_need_not_choose() -> None:
    """Whether no subprotocol and no extension will do is for the caller to say."""
    accepted = handshake(subprotocols=["a"], extensions=[Wish("x")]).receive(switch())

    assert accepted is not None
    assert (None, []) == (accepted.subprotocol, accepted.extensions)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Upgrade", "UPGRADE: WebSocket"),
        ("Connection", "connection: keep-alive, upgrade"),
        ("Connection", "connection: UPGRADE"),
        ("X", "Content-Length: 0"),
    ],
)
def test_forms_that_servers_use(name: str, line: str) -> None:
    """Names and words of lists have no case."""
    assert handshake().receive(switch(line, without=[name])) is not None


@pytest.mark.row(14)
@pytest.mark.parametrize(
    ("without", "lines"),
    [
        (["Upgrade"], []),
        (["Connection"], []),
        (["Upgrade"], ["Upgrade: h2c"]),
        (["Upgrade"], ["Upgrade: websocket, h2c"]),
        ([], ["Upgrade: websocket"]),
        (["Connection"], ["Connection: close"]),
        (["Connection"], ["Connection: upgraded"]),
    ],
)
def test_a_101_to_something_else_is_refused(without: list[str], lines: list[str]) -> None:
    """101 must switch to WebSocket and to nothing beside it."""
    error = rejected(handshake(), switch(*lines, without=without))

    assert "upgrade rejected with status 101: the answer does not switch to WebSocket" == str(error)


@pytest.mark.row(14)
@pytest.mark.parametrize(
    "lines",
    [
        [], ["Sec-WebSocket-Accept:"], [f"Sec-WebSocket-Accept: {ACCEPT.lower()}"], [f"Sec-WebSocket-Accept: {KEY}"],
        [f"Sec-WebSocket-Accept: {ACCEPT}", f"Sec-WebSocket-Accept: {ACCEPT}"], [f"Sec-WebSocket-Accept: {ACCEPT}="],
    ],
)  # fmt: skip
def test_an_answer_to_another_key_is_refused(lines: list[str]) -> None:
    """A missing, wrong or repeated Sec-WebSocket-Accept is no answer to this request: a cache's, perhaps."""
    error = rejected(handshake(), switch(*lines, without=["Sec-WebSocket-Accept"]))

    assert str(error).endswith(" 101: the answer is not to our key: Sec-WebSocket-Accept is wrong")


@pytest.mark.row(12, 14)
@pytest.mark.parametrize("lines", [["c"], [""], ["A"], ["a, b"], ["a", "a"], ["a,"]])
def test_a_subprotocol_that_was_not_offered_is_refused(lines: list[str]) -> None:
    """The server chooses one of those offered, by its exact name, once."""
    data = switch(*[f"Sec-WebSocket-Protocol: {line}" for line in lines])

    error = rejected(handshake(subprotocols=["a", "b"]), data)

    assert "upgrade rejected with status 101: the answer names a subprotocol that was not offered" == str(error)


def test_agreed_extensions_know_their_parameters() -> None:
    """Those accepted come in the answer's order, each told what stands after its name."""
    x, y, z = Wish("x"), Wish("y"), Wish("z")
    client = handshake(extensions=[x, y, z])

    accepted = client.receive(switch("Sec-WebSocket-Extensions: z;a=1; b ,\tx", "Sec-WebSocket-Extensions: y ;"))

    assert accepted is not None
    assert [z, x, y] == accepted.extensions
    assert ("a=1; b", "", "") == (z.agreed, x.agreed, y.agreed)


@pytest.mark.row(14)
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("y", "accepts an extension that was not offered"),
        ("X", "accepts an extension that was not offered"),
        ("", "accepts an extension that was not offered"),
        ("x,", "accepts an extension that was not offered"),
        ('x; a="1, 2"', "accepts an extension that was not offered"),
        ("x=1", "accepts an extension that was not offered"),
        ("x, x", "accepts x twice"),
        ("x; a, z, x; b", "accepts x twice"),
        ("z; bad", "accepts z badly: no such parameter"),
    ],
)
def test_a_wrong_answer_about_extensions_is_refused(answer: str, reason: str) -> None:
    """An extension that was not offered, one that comes twice, or with parameters that it refuses."""
    client = handshake(extensions=[Wish("x"), Wish("z")])

    error = rejected(client, switch(f"Sec-WebSocket-Extensions: {answer}"))

    assert f"upgrade rejected with status 101: the answer {reason}" == str(error)


@pytest.mark.row(14)
def test_informational_answers_are_skipped() -> None:
    """As many as `Limits.informational_responses`, with headers or without, in one read or in many."""
    steps = head("HTTP/1.1 100 Continue") + head("HTTP/1.1 103 Early Hints", "Link: </x>") * 9

    accepted = handshake().receive(steps + switch() + b"rest")
    client = handshake()
    assert client.receive(steps) is None

    assert accepted is not None
    assert client.receive(switch()) is not None


@pytest.mark.row(14)
def test_endless_informational_answers_are_not_read() -> None:
    """The eleventh ends it."""
    client = handshake()
    assert client.receive(head("HTTP/1.1 102 Processing") * 10) is None

    error = rejected(client, head("HTTP/1.1 103 Early Hints"))

    assert "upgrade rejected with status 103: more than 10 informational answers" == str(error)


FRAMED_BADLY = "upgrade failed: bad Content-Length or Transfer-Encoding in the answer"


@pytest.mark.row(14)
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (switch(first="HTTP/1.0 101 Switching Protocols"), "upgrade failed: the answer is not HTTP/1.1"),
        (switch(first="HTTP/2 101"), "upgrade failed: the answer is not HTTP/1.1"),
        (b"\x15\x03\x03\0\2\2\x50", "upgrade failed: TLS where plain HTTP is spoken"),
        (switch("x: \xff"), "upgrade failed: byte outside ASCII"),
        (switch("x: " + "a" * 9000), "upgrade failed: line over 8192 bytes"),
        (head("HTTP/1.1 200 OK", *["x: y"] * 101), "upgrade failed: more than 100 headers"),
        (head("HTTP/1.1 200 OK", "Content-Length: x"), FRAMED_BADLY),
        (head("HTTP/1.1 200 OK", "Content-Length: 1, 2"), FRAMED_BADLY),
        (head("HTTP/1.1 200 OK", "Transfer-Encoding: gzip"), FRAMED_BADLY),
    ],
)
def test_what_is_no_valid_http_is_refused(data: bytes, text: str) -> None:
    """It has no status, so the exception has 0."""
    error = rejected(handshake(), data)

    assert (0, text) == (error.status, str(error))


@pytest.mark.row(14)
def test_another_status_is_told_once_the_body_is_there() -> None:
    """Status, text and Retry-After of a 503 reach the caller."""
    client = handshake()
    answer = head("HTTP/1.1 503 x", "Content-Length: 7", "Retry-After: 30")
    assert client.receive(answer) is None
    assert client.receive(b"too ") is None

    error = rejected(client, b"man")

    assert (503, 30.0) == (error.status, error.retry_after)
    assert "upgrade rejected with status 503: Service Unavailable; too man" == str(error)
    assert str(error) == str(rejected(handshake(), answer + b"too man and more"))


@pytest.mark.row(14)
@pytest.mark.parametrize("status", [200, 301, 401, 403, 404, 426, 500])
def test_other_statuses_end_the_handshake(status: int) -> None:
    """Each is an exception with its status, and a redirect is no other."""
    answer = head(f"HTTP/1.1 {status} x", "Location: https://evil.example/", "Content-Length: 0")

    assert status == rejected(handshake(), answer).status


@pytest.mark.row(14)
def test_an_endless_body_is_not_read() -> None:
    """64 KiB, and the answer counts as whole."""
    client = handshake()
    assert client.receive(head("HTTP/1.1 401 x")) is None
    for _ in range(63):
        assert client.receive(b"a" * 1024) is None

    assert 401 == rejected(client, b"a" * 1024).status


@pytest.mark.row(14)
def test_the_end_of_the_stream_ends_the_handshake() -> None:
    """Inside a body the status is known; before, nothing is."""
    client = handshake()
    client.receive(head("HTTP/1.1 429 x", "Retry-After: 2") + b"slow down")

    error = rejected(client, b"")

    assert (429, 2.0) == (error.status, error.retry_after)
    assert str(error).endswith("; slow down")
    for begun in (b"", b"HTTP/1.1 10", head("HTTP/1.1 100 x")):
        client = handshake()
        assert not begun or client.receive(begun) is None
        assert "upgrade failed: the connection ended before the answer was whole" == str(rejected(client, b""))


def test_both_sides_of_ours_agree() -> None:
    """What the client asks for is what the server reads, and what the server answers is what the client gets."""
    deflate = BoundedDeflate(Limits())
    client = ClientHandshake(
        host="[::1]:4269", target="/caf%C3%A9?x=%20", subprotocols=["a", "b"], headers=[("Cookie", "c=d")],
        extensions=[deflate], limits=Limits(),
    )  # fmt: skip
    server = ServerHandshake(Limits())

    request = server.receive(client.request())
    assert isinstance(request, UpgradeRequest)
    agreed = negotiate_deflate(request.extensions, limits=Limits())
    assert agreed is not None
    accepted = client.receive(server.accept(subprotocol="b", extensions=[agreed], headers=[("X", "y")]) + b"\x81\0")

    assert ("/café", "x=%20", "[::1]:4269", ("a", "b")) == (
        request.path, request.query, request.host, request.subprotocols
    )  # fmt: skip
    assert "c=d" == request.headers["cookie"]
    assert accepted is not None
    assert ("b", [deflate], "y") == (accepted.subprotocol, accepted.extensions, accepted.headers["x"])
    assert deflate.enabled()
    assert b"\x81\0" == client.trailing


def test_wsproto_takes_the_request() -> None:
    """wsproto's server is the judge of what the client writes."""
    judge = WSConnection(ConnectionType.SERVER)
    judge.receive_data(handshake(target="/a?b", subprotocols=["a"], headers=[("X", "y")]).request())

    request = next(judge.events())

    assert isinstance(request, Request)
    assert ("/a?b", ["a"], "shop.example:4269") == (request.target, request.subprotocols, request.host)


def test_the_key_comes_from_the_source_that_is_passed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a source of its own a handshake does not touch the system's."""
    monkeypatch.setattr(os, "urandom", None)

    assert KEY.encode() in handshake().request()


def result(reads: list[bytes], limits: Limits) -> tuple[object, ...]:
    """What a handshake makes of *reads*: agreement and frames, or the exception; `()` while it waits."""
    client = handshake(subprotocols=["a", "b"], extensions=[Wish("x")], limits=limits)
    accepted = None
    for data in reads:
        try:
            accepted = client.receive(data)
        except HandshakeRejected as error:
            return str(error), error.status, error.retry_after
    if accepted is None:
        return ()
    extensions = [(extension.name, extension.agreed) for extension in accepted.extensions]
    return accepted.subprotocol, extensions, accepted.headers, client.trailing


ANSWERS = [
    switch("Sec-WebSocket-Protocol: a", "Sec-WebSocket-Extensions: x; y=1") + b"\x81\x02hi",
    head("HTTP/1.1 100 x") + switch(),
    head("HTTP/1.1 503 x", "Retry-After: 3", "Content-Length: 12") + b"one moment, and so on",
    head("HTTP/1.1 404 x", "Transfer-Encoding: chunked") + b"3\r\nnot\r\n5\r\nfound\r\n0\r\nx: y\r\n\r\n",
    head("HTTP/1.1 301 x", "Location: /there") + b"gone",
]


@pytest.mark.row(4, 14)
@given(mutated(*ANSWERS), cuts(), st.sampled_from([SMALL, Limits()]))
def test_a_damaged_answer_is_accepted_or_rejected(data: bytes, ends: list[int], limits: Limits) -> None:
    """Nothing but `HandshakeRejected` is raised, and how reads cut an answer does not change what it says."""
    reads = pieces(data, ends)

    assert result([data] if data else [], limits) == result(reads, limits)
    assert result([data, b""] if data else [b""], limits) == result([*reads, b""], limits)


@pytest.mark.row(4, 14)
@given(st.binary(max_size=200), cuts())
def test_arbitrary_bytes_are_rejected(data: bytes, ends: list[int]) -> None:
    """The same for bytes that never were an answer."""
    assert result([data] if data else [], SMALL) == result(pieces(data, ends), SMALL)


@pytest.mark.row(4, 14)
@given(
    st.sampled_from(["Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol", "Retry-After", "Date",
                     "Sec-WebSocket-Extensions", "Content-Length", "Transfer-Encoding", "Location"]),
    st.one_of(st.binary(max_size=30), st.text(st.characters(max_codepoint=0x7E), max_size=30).map(str.encode)),
    st.sampled_from(["101 x", "503 x", "301 x"]),
)  # fmt: skip
def test_any_value_of_a_header_that_matters_is_survived(name: str, value: bytes, status: str) -> None:
    """Each header of an answer takes any bytes."""
    data = switch(name.encode() + b": " + value, first=f"HTTP/1.1 {status}", without=[name])

    assert result([data, b"x", b""], Limits()) == result([*pieces(data, [len(data) // 2]), b"x", b""], Limits())
