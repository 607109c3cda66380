"""Story: a program that knows nothing but docs/PROTOCOL.md calls a server, and is called by it."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import msgpack
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.integration.foreign import BODIES, WIRES, Foreign, talking
from tests.running import PATIENCE, running, wait_for
from webmesh.call import current_call
from webmesh.exceptions import Cancelled, NotFound, RemoteError
from webmesh.message_serializers import MessagePackSerializer, StandardJsonSerializer
from webmesh.options import Limits
from webmesh.testing import RecordingObserver
from webmesh.webmesh_server import WebMeshServer

WAYS = [(wire, body) for wire in WIRES for body in BODIES]


class Service:
    """A server with something of each kind on it."""

    def __init__(self) -> None:
        self.observer = RecordingObserver()
        self.entered, self.release, self.cancelled = (threading.Event() for _ in range(3))
        self.server = WebMeshServer(observer=self.observer, limits=Limits(message_size=65536), name="shop")
        on = self.server.on
        on("/")(lambda payload, path, client: payload)
        on("/headers")(lambda payload, path, client: dict(current_call().headers))
        on("/count")(self.count)
        on("/sum")(lambda payload, path, client: sum(current_call().items))
        on("/double")(self.double)
        on("/missing")(self.missing)
        on("/broken")(lambda payload, path, client: {}["secret"])
        on("/odd")(self.odd)
        on("/wait", blocking=False)(self.wait)
        on("/late-sum", blocking=False)(self.late_sum)
        on("/back")(lambda payload, path, client: client.call("/yours", payload, timeout=PATIENCE))
        on("/tell")(lambda payload, path, client: client.notify("/yours", payload) or "too slow")

    def count(self, payload: int, path: str, client: Any) -> Iterator[int]:
        yield from range(payload)
        return "counted"

    def double(self, payload: Any, path: str, client: Any) -> Iterator[int]:
        for item in current_call().items:
            yield 2 * item

    def missing(self, payload: Any, path: str, client: Any) -> None:
        raise NotFound("there is none", details={"id": 7}, retryable=True, retry_after=1.5)

    def odd(self, payload: Any, path: str, client: Any) -> None:
        raise RemoteError("of our own", code="teapot")

    def late_sum(self, payload: Any, path: str, client: Any) -> int:
        self.wait(payload, path, client)
        return sum(current_call().items)

    def wait(self, payload: Any, path: str, client: Any) -> str:
        self.entered.set()
        try:
            while not self.release.is_set():
                gevent.sleep(0.002)
        except Cancelled:
            self.cancelled.set()
            raise
        return "waited"


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    with running(service.server):
        yield service
        service.release.set()


@pytest.fixture(params=WAYS, ids=["-".join(way) for way in WAYS])
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    way: tuple[str, str] = request.param
    return way


@pytest.fixture
def peer(service: Service, way: tuple[str, str]) -> Iterator[Foreign]:
    """A foreign client, in each body over each wire."""
    with talking(service.server.url, *way) as peer:
        yield peer


def in_order(peer: Foreign, count: int) -> list[Any]:
    return [peer.hear() for _ in range(count)]


# -------------------------------------------------------------- request and reply


@pytest.mark.parametrize("id", [0, 1, 2**53 - 1, "", "a", "ü" * 32])
def test_a_request_is_replied_to_under_its_id(peer: Foreign, id: Any) -> None:
    """Whichever the asking side has chosen."""
    assert {"id": id, "data": {"x": [1, None, "ü", True, 1.5]}} == peer.ask("/", id, {"x": [1, None, "ü", True, 1.5]})


def test_optional_keys_may_be_absent_null_or_unknown(peer: Foreign) -> None:
    """Absent data is null; what is not known is ignored."""
    for keys in ({}, {"data": None}, {"timeout_ms": None, "headers": None, "credit": None}, {"colour": "red"}):
        peer.say(path="/", id=1, **keys)
        assert {"id": 1, "data": None} == peer.hear()


def test_answers_come_as_they_are_ready(peer: Foreign, service: Service) -> None:
    """A slow call holds up no other one, and no ping."""
    peer.say(path="/wait", id="slow")
    assert wait_for(service.entered.is_set)
    assert {"id": "quick", "data": 1} == peer.ask("/", "quick", 1)
    peer.wire.ping()
    service.release.set()
    assert {"id": "slow", "data": "waited"} == peer.hear()


def test_large_bodies_come_whole(peer: Foreign) -> None:
    """Compressed or not."""
    text = "".join(chr(97 + number * number % 26) for number in range(20_000))
    assert {"id": 1, "data": text} == peer.ask("/", 1, text)


def test_headers_reach_the_handler(peer: Foreign) -> None:
    """Text to text."""
    assert {"traceparent": "00-x"} == peer.ask("/headers", 1, headers={"traceparent": "00-x"})["data"]


@pytest.mark.row(36, 72)
def test_an_answer_to_nothing_is_dropped(peer: Foreign, service: Service) -> None:
    """And counted; the connection lives."""
    for message in ({"id": 9, "data": 1}, {"id": 9, "error": {"code": "internal", "message": ""}},
                    {"id": 9, "item": 1, "seq": 0}, {"id": 9, "end": True}, {"id": 9, "cancel": True},
                    {"id": 9, "credit": 1}):  # fmt: skip
        peer.say_raw(message)
    assert {"id": 1, "data": 2} == peer.ask("/", 1, 2)
    assert 6 == len([kind for kind, reason in service.observer.named("refused") if reason.startswith("late")])


# -------------------------------------------------------------------- notifications


def test_a_notification_is_echoed_by_hand(peer: Foreign) -> None:
    """Without an id; and null is not answered."""
    peer.say(path="/", data=None)
    peer.say(path="/", data="hi")
    assert {"path": "/", "data": "hi"} == peer.hear()


@pytest.mark.parametrize("path", ["/broken", "/missing", "/nowhere", "$nowhere"])
def test_a_notification_that_fails_is_not_answered(
    peer: Foreign, service: Service, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its failure stays on the answering side."""
    peer.say(path=path, data=1)
    assert {"id": 1, "data": 2} == peer.ask("/", 1, 2)


def test_the_server_tells_us(peer: Foreign) -> None:
    """A notification from its side, with the name of the service; what the handler then returns is the reply."""
    peer.say(path="/tell", id=1, data="news")
    told = {"path": "/yours", "data": "news", "headers": {"call-chain": "shop"}}
    assert [told, {"id": 1, "data": True}] == in_order(peer, 2)


# --------------------------------------------------------------------------- errors


def test_errors_are_told_by_their_codes(peer: Foreign, caplog: pytest.LogCaptureFixture) -> None:
    """Those of handlers as they raised them, failures with an incident and no secret."""
    assert {
        "id": 1,
        "error": {"code": "not_found", "message": "there is none", "retryable": True, "retry_after_ms": 1500,
                  "details": {"id": 7}},
    } == peer.ask("/missing", 1)  # fmt: skip
    assert {"id": 2, "error": {"code": "teapot", "message": "of our own"}} == peer.ask("/odd", 2)
    failed = peer.ask("/broken", 3)["error"]
    assert ("internal", {"incident"}) == (failed["code"], set(failed["details"]))
    assert "secret" not in str(failed)
    assert "unimplemented" == peer.ask("/nowhere", 4)["error"]["code"]


@pytest.mark.parametrize("timeout_ms", [20, 0.5, 0])
def test_a_deadline_is_kept_by_the_answering_side(peer: Foreign, timeout_ms: float) -> None:
    """Also one that has passed when it comes."""
    answer = peer.ask("/wait", 1, timeout_ms=timeout_ms)
    assert (1, "deadline_exceeded") == (answer["id"], answer["error"]["code"])


def test_a_cancel_ends_the_handler(peer: Foreign, service: Service) -> None:
    """Nothing more comes under that id, which may be used again."""
    peer.say(path="/wait", id=1)
    assert wait_for(service.entered.is_set)
    peer.say(id=1, cancel=True)
    assert wait_for(service.cancelled.is_set)
    assert {"id": 1, "data": "again"} == peer.ask("/", 1, "again")


@pytest.mark.row(72)
def test_an_id_in_use_is_refused(peer: Foreign, service: Service) -> None:
    """Only the second request is."""
    peer.say(path="/wait", id=1)
    assert wait_for(service.entered.is_set)
    service.entered.clear()
    refused = peer.ask("/wait", 1)
    assert (1, "invalid_argument") == (refused["id"], refused["error"]["code"])
    service.release.set()
    assert {"id": 1, "data": "waited"} == peer.hear()


@pytest.mark.row(71)
def test_a_connection_that_goes_cancels_what_it_asked(service: Service, way: tuple[str, str]) -> None:
    """Nobody can get the answer any more."""
    with talking(service.server.url, *way) as peer:
        peer.say(path="/wait", id=1)
        assert wait_for(service.entered.is_set)
    assert wait_for(service.cancelled.is_set)


# -------------------------------------------------------------------------- streams


def test_a_stream_without_credit_just_comes(peer: Foreign) -> None:
    """Bounded by TCP only; then the reply."""
    peer.say(path="/count", id=7, data=100)
    assert [{"id": 7, "item": n, "seq": n} for n in range(100)] == in_order(peer, 100)
    assert {"id": 7, "data": "counted"} == peer.hear()


def test_credit_is_what_may_be_on_its_way(peer: Foreign) -> None:
    """Not one more, until more is granted."""
    peer.say(path="/count", id=7, data=5, credit=2)
    assert [0, 1] == [message["item"] for message in in_order(peer, 2)]
    for expected, granted in (([2], 1), ([3, 4], 10)):
        assert {"id": "between", "data": None} == peer.ask("/", "between")
        peer.say(id=7, credit=granted)
        assert expected == [message["item"] for message in in_order(peer, len(expected))]
    assert {"id": 7, "data": "counted"} == peer.hear()


def test_a_stream_can_be_given_up(peer: Foreign) -> None:
    """What is on its way may still come; then nothing does."""
    peer.say(path="/count", id=7, data=1000, credit=1)
    assert 0 == peer.hear()["item"]
    peer.say(id=7, cancel=True)
    assert {"id": 8, "data": 1} == peer.ask("/", 8, 1)


def test_items_of_ours_go_within_the_credit_that_is_granted(peer: Foreign) -> None:
    """None before the first grant; an end follows the last."""
    peer.say(path="/sum", id=7, stream=True)
    granted = peer.hear()
    assert 7 == granted["id"]
    left, total = granted["credit"], 0
    for seq in range(200):
        while not left:
            left = peer.hear()["credit"]
        peer.say(id=7, item=seq, seq=seq)
        left, total = left - 1, total + seq
    peer.say(id=7, end=True)
    heard = peer.hear()
    while "credit" in heard:
        heard = peer.hear()
    assert {"id": 7, "data": total} == heard


@pytest.mark.parametrize("seqs", [[0, 2], [1], [0, 1, 1], [*range(65), 0]])
def test_items_out_of_order_are_data_loss(peer: Foreign, seqs: list[int]) -> None:
    """Left out or twice: never silently a wrong result."""
    peer.say(path="/sum", id=7, stream=True)
    assert {"id": 7, "credit": 64} == peer.hear()
    for seq in seqs:
        peer.say(id=7, item=1, seq=seq)
    heard = peer.hear()
    while "credit" in heard:
        heard = peer.hear()
    assert (7, "data_loss") == (heard["id"], heard["error"]["code"])


def test_items_over_the_credit_are_data_loss(peer: Foreign, service: Service) -> None:
    """A handler that has read none of them has granted no more; it finds out when it reads on."""
    peer.say(path="/late-sum", id=7, stream=True)
    assert {"id": 7, "credit": 64} == peer.hear()
    for seq in range(65):
        peer.say(id=7, item=1, seq=seq)
    assert {"id": 8, "data": None} == peer.ask("/", 8)
    service.release.set()
    heard = peer.hear()
    while "credit" in heard:
        heard = peer.hear()
    assert (7, "data_loss") == (heard["id"], heard["error"]["code"])


def test_both_directions_at_once(peer: Foreign) -> None:
    """Each item is answered as it comes."""
    peer.say(path="/double", id=7, stream=True, credit=4)
    assert 64 == peer.hear()["credit"]
    for seq in range(10):
        peer.say(id=7, item=seq, seq=seq)
        assert {"id": 7, "item": 2 * seq, "seq": seq} == peer.hear()
        peer.say(id=7, credit=1)
    peer.say(id=7, end=True)
    assert {"id": 7, "data": None} == peer.hear()


# ------------------------------------------------------------------- the other side


def test_the_server_calls_us(peer: Foreign) -> None:
    """Ids of the two directions do not clash; the error of ours arrives at its handler."""
    peer.say(path="/back", id=1, data="x")
    asked = peer.hear()
    assert ("/yours", "x") == (asked["path"], asked["data"])
    assert asked["id"] >= 2**52
    assert asked["timeout_ms"] <= PATIENCE * 1000
    peer.say(id=asked["id"], data="y")
    assert {"id": 1, "data": "y"} == peer.hear()

    peer.say(path="/back", id=2)
    peer.say(id=peer.hear()["id"], error={"code": "not_found", "message": "not here"})
    assert {"id": 2, "error": {"code": "not_found", "message": "not here"}} == peer.hear()


def test_hello_and_the_other_paths_of_the_protocol(peer: Foreign) -> None:
    """Who it is, and what it serves."""
    hello = peer.ask("$hello", 1, {"node": {"id": "x", "name": "foreign", "version": "0"}})["data"]
    assert ("shop", False, 65536) == (hello["node"]["name"], hello["resumed"], hello["limits"]["message_size"])
    assert {"id", "name", "version"} == set(peer.ask("$info", 2)["data"])
    assert "/count" in [route["path"] for route in peer.ask("$routes", 3)["data"]]
    peer.say(path="$goodbye", data={"reason": "done"})
    assert ["ok"] == [entry["state"] for entry in peer.ask("$peers", 4)["data"]]
    assert "unimplemented" == peer.ask("$nothing", 5)["error"]["code"]


# --------------------------------------------------------------------------- faults


@pytest.mark.row(36)
def test_what_is_no_message_is_answered_and_the_tenth_ends_it(peer: Foreign) -> None:
    """With its id where it has one."""
    for number, message in enumerate([
        {}, {"id": 5}, {"id": True, "path": "/"}, {"path": ""}, {"path": 7, "id": 5}, {"id": 5, "item": 1},
        {"path": "/", "id": -1}, {"path": "/", "id": 5, "headers": {"a": 1}}, {"path": "/", "id": "x" * 65},
    ]):  # fmt: skip
        peer.say_raw(message)
        answer = peer.hear()
        assert "invalid_argument" == answer["error"]["code"], (number, message)
        assert (message.get("id") == 5) is ("id" in answer), (number, message)
    peer.say_raw({"nothing": "known"})
    assert "invalid_argument" == peer.hear()["error"]["code"]
    assert 4501 == peer.end()[0]


@pytest.mark.row(36)
@pytest.mark.parametrize("message", [7, "text", None, [], [{"path": "/"}]])
def test_what_is_no_map_is_no_message(peer: Foreign, message: Any) -> None:
    """It is answered like one: it could be decoded."""
    peer.say_raw(message)
    try:
        answer = peer.hear()
    except Exception as end:
        assert end.args[0] in (1007, 4501)
    else:
        assert "invalid_argument" == answer["error"]["code"]


@pytest.mark.row(29)
def test_the_wrong_opcode_ends_it(peer: Foreign, way: tuple[str, str]) -> None:
    """1003: text where binary is agreed, or the reverse."""
    peer.wire.send(b"{}" if way[1] == "json" else "{}")
    assert 1003 == peer.end()[0]


@pytest.mark.row(40, 41, 43)
def test_what_cannot_be_decoded_ends_it(peer: Foreign, way: tuple[str, str]) -> None:
    """1007."""
    peer.wire.send("{" if way[1] == "json" else b"\xc1")
    assert 1007 == peer.end()[0]


@pytest.mark.row(18)
def test_what_is_too_big_ends_it(peer: Foreign, way: tuple[str, str]) -> None:
    """1009, and at once: nobody waits for the rest."""
    peer.wire.send("x" * 70_000 if way[1] == "json" else b"x" * 70_000)
    assert 1009 == peer.end()[0]


@pytest.mark.row(30)
def test_a_bomb_ends_it(service: Service) -> None:
    """1009 although the message is small: inflating stops at the limit."""
    with talking(service.server.url, "websockets", "msgpack") as peer:
        peer.wire.send(zlib.compress(msgpack.packb({"path": "/", "id": 1, "data": "x" * 10_000_000})))
        assert 1009 == peer.end()[0]


# ------------------------------------------------------------------------ handshake


def test_small_and_compressed_bodies_are_taken_and_told_apart(service: Service) -> None:
    """By the first byte; what is sent back is compressed only where it is large."""
    with talking(service.server.url, "websockets", "msgpack") as peer:
        peer.wire.send(zlib.compress(msgpack.packb({"path": "/", "id": 1, "data": "small"})))
        small = peer.wire.receive()
        assert {"id": 1, "data": "small"} == msgpack.unpackb(small)  # type: ignore[arg-type]
        peer.say(path="/", id=2, data="x" * 5000)
        large = peer.wire.receive()
        assert isinstance(large, bytes) and large[0] == 0x78 and len(large) < 1000


@pytest.mark.row(12)
@pytest.mark.parametrize("offered", [["soap"], ["webmesh.v2.json", "webmesh"], ["Webmesh.v1.json"]])
def test_only_unknown_subprotocols_are_refused(service: Service, offered: list[str]) -> None:
    """With 400 and the known ones."""
    with pytest.raises(InvalidStatus) as caught:
        connect(service.server.url, subprotocols=offered)  # type: ignore[arg-type]
    assert 400 == caught.value.response.status_code
    assert b"webmesh.v1.msgpack, webmesh.v1.json" in caught.value.response.body


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(["webmesh.v1.json"], "webmesh.v1.json"), (["soap", "webmesh.v1.msgpack"], "webmesh.v1.msgpack"),
     (["webmesh.v1.json", "webmesh.v1.msgpack"], "webmesh.v1.json"), (None, None)],
)  # fmt: skip
def test_the_first_known_subprotocol_is_agreed(service: Service, offered: Any, agreed: str | None) -> None:
    """And none where none was offered."""
    with connect(service.server.url, subprotocols=offered) as peer:
        assert agreed == peer.subprotocol


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("body", "serializer"), [("json", StandardJsonSerializer), ("msgpack", MessagePackSerializer)])
def test_without_a_subprotocol_the_servers_own_is_spoken(wire: str, body: str, serializer: Any) -> None:
    """So that any WebSocket tool can be used by hand."""
    server = WebMeshServer(serializer_type=serializer)
    server.on("/")(lambda payload, path, client: payload)
    with running(server), talking(server.url, wire, body, named=False) as peer:
        assert {"id": 1, "data": "hi"} == peer.ask("/", 1, "hi")


def test_a_hundred_foreign_clients_at_once(service: Service) -> None:
    """Each gets its own answers."""
    with ExitStack() as opened:
        peers = [opened.enter_context(talking(service.server.url, "websockets", "json")) for _ in range(100)]
        for number, peer in enumerate(peers):
            peer.say(path="/", id=1, data=number)
        assert [{"id": 1, "data": number} for number in range(100)] == [peer.hear() for peer in peers]
