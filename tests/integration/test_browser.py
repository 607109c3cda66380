"""Story: a page in a real browser calls a server and is called by it, with nothing but docs/PROTOCOL.md to go by."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import gevent
import pytest

from tests.integration.browser import BINARY, NAMES, Browser, opened_browser
from tests.running import PATIENCE, running, wait_for
from webmesh import (
    Cancelled, MessagePackSerializer, NotFound, RemoteError, StandardJsonSerializer, WebMeshServer, current_call,
)  # fmt: skip
from webmesh.testing import RecordingObserver

pytestmark = pytest.mark.skipif(BINARY is None, reason=f"needs a browser on PATH: {', '.join(NAMES)}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The one browser of this file: to start it takes longer than all that it is asked."""
    with opened_browser() as browser:
        yield browser


class Wire(NamedTuple):
    """A way of speaking to a server, and the server's own serializer."""

    protocol: str | None
    codec: str
    serializer_type: type


WIRES = {
    "json": Wire("webmesh.v1.json", "json", MessagePackSerializer),
    "json-by-hand": Wire(None, "json", StandardJsonSerializer),
    "msgpack": Wire("webmesh.v1.msgpack", "msgpack", StandardJsonSerializer),
}


@pytest.fixture(params=list(WIRES.values()), ids=list(WIRES))
def wire(request: pytest.FixtureRequest) -> Wire:
    """Each way in turn; where a subprotocol is named it is not what the server would take by itself."""
    wire: Wire = request.param
    return wire


@pytest.fixture
def server(wire: Wire, browser: Browser) -> WebMeshServer:
    """A server, not started, with an echo at `/`; the page may connect to it."""
    return echo_server(serializer_type=wire.serializer_type, allowed_origins=[browser.origin])


@pytest.fixture
def talk(server: WebMeshServer, wire: Wire, browser: Browser) -> Callable[..., Any]:
    """Start the server and run a script with a `mesh` that is connected to it."""
    return lambda script, **values: talk_to(browser, server, wire, script, **values)


def echo_server(**options: Any) -> WebMeshServer:
    """A server, not started, with an echo at `/`."""
    server = WebMeshServer(**options)
    server.on("/")(lambda payload, path, client: payload)
    return server


def talk_to(browser: Browser, server: WebMeshServer, wire: Wire, script: str, **values: object) -> Any:
    """What *script* returned of its talk with *server*."""
    opening = """
        const mesh = new Mesh(url, protocol, codec);
        const opened = (await mesh.next()).opened;
        if (opened !== (protocol ?? "")) throw new Error("opened with " + opened);
    """
    with running(server):
        return browser.run(opening + script, url=server.url, protocol=wire.protocol, codec=wire.codec, **values)


# --------------------------------------------------------------------------------- what both sides may say


def test_a_call_is_answered_with_its_id(talk: Callable[..., Any]) -> None:
    """Whatever JavaScript and the wire both know comes back as it went; ids are integers or text."""
    value: object = {"text": "Grüße 🌍", "list": [0, -1, 200, -70000, 1.5, True, False, None], "map": {"": {"a": []}}}
    largest = 2**53 - 1

    answers = talk(
        """
        return [
          await mesh.ask({path: "/", id: 0, data: value}),
          await mesh.ask({path: "/", id: "first", data: [largest, -largest]}),
          await mesh.ask({path: "/", id: largest}),
        ];
        """,
        value=value, largest=largest,
    )  # fmt: skip

    assert [
        {"id": 0, "data": value},
        {"id": "first", "data": [largest, -largest]},
        {"id": largest, "data": None},
    ] == answers  # fmt: skip


def test_a_program_that_only_calls_may_say_hello(server: WebMeshServer, talk: Callable[..., Any]) -> None:
    """`$hello` tells a page whom it talks to; `$routes` what it may call."""
    hello, routes = talk("""
        return [await mesh.ask({path: "$hello", id: 1, data: {node: {id: "page", name: "page", version: "1"}}}),
                await mesh.ask({path: "$routes", id: 2})];
    """)

    assert {"node", "session", "epoch", "resumed", "limits", "ping_ms"} <= hello["data"].keys()
    assert ["/"] == [route["path"] for route in routes["data"]]


def test_a_notification_to_an_echo_comes_back(talk: Callable[..., Any]) -> None:
    """What one types by hand needs no id: the result goes back to the same path."""
    assert {"path": "/", "data": "hi"} == talk('return mesh.ask({path: "/", data: "hi"});')


def test_a_failure_is_answered_with_an_error(server: WebMeshServer, talk: Callable[..., Any]) -> None:
    """The page learns the code, the text and the details that are meant for it, and of a crash only a number."""

    @server.on("/missing")
    def missing(payload: object, path: str, client: object) -> None:
        raise NotFound("no item 7", details={"item": 7})

    server.on("/crash")(lambda payload, path, client: 1 / 0)
    asked, crashed, lost, malformed = talk("""
        return [await mesh.ask({path: "/missing", id: 1}), await mesh.ask({path: "/crash", id: 2}),
                await mesh.ask({path: "/nowhere", id: 3}), await mesh.ask({id: 4})];
    """)

    assert {"id": 1, "error": {"code": "not_found", "message": "no item 7", "details": {"item": 7}}} == asked
    assert (2, "internal") == (crashed["id"], crashed["error"]["code"])
    assert ["incident"] == list(crashed["error"]["details"])
    assert "ZeroDivision" not in str(crashed)
    assert (3, "unimplemented") == (lost["id"], lost["error"]["code"])
    assert (4, "invalid_argument") == (malformed["id"], malformed["error"]["code"])


def test_items_come_as_far_as_the_credit_goes(server: WebMeshServer, talk: Callable[..., Any]) -> None:
    """After them the stream waits, and nothing else does; the reply is what the generator returned."""

    @server.on("/count")
    def counting(payload: int, path: str, client: object) -> Generator[int, None, str]:
        yield from range(10, 10 + payload)
        return "counted"

    met = talk("""
        const met = [await mesh.ask({path: "/count", id: 5, data: 5, credit: 2}), await mesh.next()];
        met.push(await mesh.ask({path: "/", id: 6, data: "between"}));
        met.push(await mesh.ask({id: 5, credit: 1}));
        met.push(await mesh.ask({path: "/", id: 7, data: "again"}));
        met.push(await mesh.ask({id: 5, credit: 100}), await mesh.next(), await mesh.next());
        return met;
    """)

    assert [
        {"id": 5, "item": 10, "seq": 0}, {"id": 5, "item": 11, "seq": 1},
        {"id": 6, "data": "between"},
        {"id": 5, "item": 12, "seq": 2},
        {"id": 7, "data": "again"},
        {"id": 5, "item": 13, "seq": 3}, {"id": 5, "item": 14, "seq": 4}, {"id": 5, "data": "counted"},
    ] == met  # fmt: skip


def test_a_page_streams_items_to_a_handler(server: WebMeshServer, talk: Callable[..., Any]) -> None:
    """It is granted credit first; the end of its items ends the handler's loop."""
    server.on("/sum")(lambda payload, path, client: sum(current_call().items))

    granted, reply = talk("""
        const granted = await mesh.ask({path: "/sum", id: 1, stream: true});
        for (let seq = 0; seq < 3; seq++) await mesh.send({id: 1, item: 10 * seq, seq});
        return [granted, await mesh.ask({id: 1, end: true})];
    """)

    assert 1 == granted["id"] and granted["credit"] >= 3
    assert {"id": 1, "data": 30} == reply


def test_a_handler_calls_the_page_back(server: WebMeshServer, talk: Callable[..., Any]) -> None:
    """The page answers a call as a server does: with a reply or with an error, by the id that it was given."""

    @server.on("/twice")
    def twice(payload: object, path: str, client: Any) -> list[object]:
        width = client.call("/width", {"of": payload})
        try:
            return [width, client.call("/depth")]
        except RemoteError as error:
            return [width, type(error) is NotFound, error.message, error.details]

    width, depth, reply = talk("""
        const width = await mesh.ask({path: "/twice", id: 1, data: "window"});
        const depth = await mesh.ask({id: width.id, data: 800});
        const error = {code: "not_found", message: "no depth", details: {flat: true}};
        return [width, depth, await mesh.ask({id: depth.id, error})];
    """)

    assert ("/width", {"of": "window"}, "/depth") == (width["path"], width["data"], depth["path"])
    assert 2**52 <= width["id"] < depth["id"] < 2**53
    assert {"id": 1, "data": [800, True, "no depth", {"flat": True}]} == reply


def test_a_page_takes_a_call_back(server: WebMeshServer, talk: Callable[..., Any]) -> None:
    """A cancel ends the handler; it is not answered, and the connection goes on."""
    seen = threading.Event()

    @server.on("/long", blocking=False)
    def long(payload: object, path: str, client: Any) -> None:
        try:
            client.notify("/begun")
            gevent.sleep(PATIENCE)
        except Cancelled:
            seen.set()
            raise

    begun, after = talk("""
        const begun = await mesh.ask({path: "/long", id: 1});
        await mesh.send({id: 1, cancel: true});
        return [begun, await mesh.ask({path: "/", id: 2, data: "after"})];
    """)

    assert "/begun" == begun["path"] and "id" not in begun
    assert {"id": 2, "data": "after"} == after
    assert seen.wait(PATIENCE)


def test_a_handler_takes_its_call_to_the_page_back(server: WebMeshServer, talk: Callable[..., Any]) -> None:
    """The page learns that its answer is not wanted any more; if it answers all the same, that harms nothing."""
    asked = threading.Event()

    @server.on("/undecided")
    def undecided(payload: object, path: str, client: Any) -> str:
        future = client.spawn("/slow", timeout=PATIENCE)
        assert asked.wait(PATIENCE)
        future.cancel()
        return "thought better of it"

    @server.on("/asked")
    def note(payload: object, path: str, client: Any) -> None:
        asked.set()

    slow, cancel, reply, after = talk("""
        const slow = await mesh.ask({path: "/undecided", id: 1});
        await mesh.send({path: "/asked"});
        const [cancel, reply] = [await mesh.next(), await mesh.next()];
        await mesh.send({id: slow.id, data: "late"});
        return [slow, cancel, reply, await mesh.ask({path: "/", id: 2, data: "after"})];
    """)

    assert "/slow" == slow["path"] and 0 < slow["timeout_ms"] <= 1000 * PATIENCE
    assert {"id": slow["id"], "cancel": True} == cancel
    assert [{"id": 1, "data": "thought better of it"}, {"id": 2, "data": "after"}] == [reply, after]


def test_the_server_learns_that_a_page_leaves(server: WebMeshServer, talk: Callable[..., Any]) -> None:
    """A page that closes its socket is told so by 1000, and the server's callbacks run."""
    left: list[int | None] = []
    server.on_disconnect(lambda connection, reason: left.append(reason.code))

    closed = talk("mesh.socket.close(1000, 'bye'); return mesh.next();")

    assert {"closed": 1000} == closed
    assert wait_for(lambda: left == [1000])


# ------------------------------------------------------------------------------------- what is on the wire


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("json", '"{"', 1007),
        ("json", "new Uint8Array([0x80])", 1003),
        ("msgpack", "new Uint8Array([0xc1])", 1007),
        ("msgpack", '"{}"', 1003),
    ],
)
def test_a_page_sees_why_it_is_closed(browser: Browser, name: str, body: str, code: int) -> None:
    """A body that cannot be decoded, or the other opcode, closes with the code that the protocol names."""
    server = echo_server(allowed_origins=[browser.origin])

    closed = talk_to(browser, server, WIRES[name], f"mesh.socket.send({body}); return mesh.next();")

    assert {"closed": code} == closed


def test_bytes_and_compressed_bodies_pass_both_ways(browser: Browser) -> None:
    """msgpack carries bytes; long bodies are zlib streams, which the browser's own streams read and write."""
    server = echo_server(allowed_origins=[browser.origin])

    small, large, compressed = talk_to(browser, server, WIRES["msgpack"], """
        const small = await mesh.ask({path: "/", id: 1, data: new Uint8Array([0, 120, 255])});
        mesh.socket.send(await deflated(await pack({path: "/", id: 2, data: "é".repeat(30000)})));
        const large = await mesh.next();
        return [small, large, isDeflated(mesh.body)];
    """)

    assert {"id": 1, "data": [0, 120, 255]} == small
    assert {"id": 2, "data": "é" * 30000} == large
    assert compressed


def test_the_browser_and_the_server_agree_on_deflate(browser: Browser) -> None:
    """Every browser offers permessage-deflate; a server with `compression` takes the offer."""
    server = echo_server(allowed_origins=[browser.origin], compression=True)

    extensions, answers = talk_to(browser, server, WIRES["json"], """
        const answers = [];
        for (let id = 0; id < 3; id++) answers.push(await mesh.ask({path: "/", id, data: "again ".repeat(5000)}));
        return [mesh.socket.extensions, answers];
    """)

    assert extensions.startswith("permessage-deflate")
    assert [{"id": number, "data": "again " * 5000} for number in range(3)] == answers


def test_a_page_speaks_to_a_plain_route(browser: Browser) -> None:
    """Text stays text and bytes stay bytes; when the handler returns, the page sees the normal end."""
    server = WebMeshServer(allowed_origins=[browser.origin])

    @server.websocket("/plain/<name>")
    def plain(connection: Any, name: str) -> None:
        connection.send(f"hello {name}")
        for message in connection:
            connection.send(message)
            if message == b"\xff":
                return

    with running(server):
        met = browser.run("""
            const mesh = new Mesh(url, null, "raw");
            const met = [await mesh.next(), await mesh.next(), await mesh.ask("ä"), await mesh.ask("")];
            return [...met, await mesh.ask(new Uint8Array([255])), await mesh.next()];
        """, url=server.url.rstrip("/") + "/plain/page")  # fmt: skip

    assert [{"opened": ""}, "hello page", "ä", "", [255], {"closed": 1000}] == met


# ------------------------------------------------------------------------------------------ who may connect

OPEN = "const mesh = new Mesh(url, protocol, 'json'); return mesh.next();"
OPEN_IN_SANDBOX = "return openedInSandbox(url);"


def try_to_open(browser: Browser, server: WebMeshServer, script: str = OPEN, **values: Any) -> Any:
    """What a page met when it opened a socket, as soon as it met it."""
    with running(server):
        browser.pages.behind = server.port
        return browser.run(script, **({"url": server.url, "protocol": None} | values))


@pytest.mark.parametrize("script", [OPEN, OPEN_IN_SANDBOX], ids=["foreign", "null"])
@pytest.mark.parametrize("listed", [None, ["http://127.0.0.1:1", "http://localhost", "https://127.0.0.1"]])
def test_a_page_from_elsewhere_is_refused(browser: Browser, script: str, listed: list[str] | None) -> None:
    """Its browser gets 403 and shows it no more than that: another port of this host is elsewhere, too."""
    observer = RecordingObserver()
    server = echo_server(allowed_origins=listed, observer=observer)

    assert {"closed": 1006} == try_to_open(browser, server, script)
    assert wait_for(lambda: observer.named("handshake_refused"))
    assert [(403, "origin not allowed")] == [refusal[1:] for refusal in observer.named("handshake_refused")]


def test_a_page_whose_origin_is_listed_may_connect(browser: Browser) -> None:
    """The origin is listed as browsers write it; a document without one is still refused."""
    listed = [browser.origin]

    assert {"opened": ""} == try_to_open(browser, echo_server(allowed_origins=listed))
    assert {"closed": 1006} == try_to_open(browser, echo_server(allowed_origins=listed), OPEN_IN_SANDBOX)


def test_a_document_without_an_origin_may_connect_where_null_is_listed(browser: Browser) -> None:
    """Browsers write `null` for it; that word lets in no page that has an origin."""
    assert {"opened": ""} == try_to_open(browser, echo_server(allowed_origins=["null"]), OPEN_IN_SANDBOX)
    assert {"closed": 1006} == try_to_open(browser, echo_server(allowed_origins=["null"]))


def test_a_page_from_the_same_host_and_port_may_connect(browser: Browser) -> None:
    """Behind a proxy that serves the page as well, Origin and Host name the same: nothing needs to be listed."""
    url = browser.origin.replace("http:", "ws:") + "/"

    assert {"opened": "webmesh.v1.json"} == try_to_open(browser, echo_server(), url=url, protocol="webmesh.v1.json")


def test_a_page_that_offers_no_known_subprotocol_is_refused(browser: Browser) -> None:
    """Of several offers the first that is known is taken; none that is known is 400."""
    observer = RecordingObserver()
    options = {"allowed_origins": [browser.origin], "observer": observer}
    several = ["webmesh.v9.json", "webmesh.v1.json", "webmesh.v1.msgpack"]

    assert {"opened": "webmesh.v1.json"} == try_to_open(browser, echo_server(**options), protocol=several)
    assert {"closed": 1006} == try_to_open(browser, echo_server(**options), protocol=several[:1])
    assert wait_for(lambda: observer.named("handshake_refused"))
    assert [400] == [refusal[1] for refusal in observer.named("handshake_refused")]
