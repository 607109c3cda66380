"""Endpoints: which upgrade request leads where, and as what."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

import pytest

from webmesh.endpoints import Endpoints, checked_mount, checked_names
from webmesh.exceptions import ConfigurationError
from webmesh.execution import Executor
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, StandardJsonSerializer
from webmesh.options import Limits
from webmesh.plain_routes import PlainRegistration, PlainRoutes
from webmesh.protocol.handshake import HttpRequest, Refusal, UpgradeRequest
from webmesh.websocket.http import text_answer
from webmesh.websocket.upgraded import Acceptance


def plain_routes(*registered: PlainRegistration, executor: Executor | None = None) -> PlainRoutes:
    return PlainRoutes(registered, executor or Executor(1, 0), copy_context(), blocking=True, seconds=1.0)


def plain(path: str, *, blocking: bool | None = None, subprotocols: tuple[str, ...] = ()) -> PlainRegistration:
    return PlainRegistration(path, lambda connection, **arguments: None, blocking, subprotocols)


def endpoints(
    *registered: PlainRegistration,
    executor: Executor | None = None,
    mount: str = "/",
    default: type[AbstractMessageSerializer] = MessagePackSerializer,
    **options: Any,
) -> Endpoints:
    settings: dict[str, Any] = {"compression": False, "allowed_hosts": None, "allowed_origins": None}
    return Endpoints(mount, plain_routes(*registered, executor=executor), default, Limits(), **(settings | options))


def upgrade(path: str = "/", **fields: Any) -> UpgradeRequest:
    known: dict[str, Any] = {
        "path": path, "query": "", "headers": {}, "host": "example.com", "origin": None, "subprotocols": (),
        "extensions": "", "target": path,
    }  # fmt: skip
    return UpgradeRequest(**(known | fields))


def decide(ends: Endpoints, path: str = "/", **fields: Any) -> Acceptance | Refusal:
    return ends.decide(upgrade(path, **fields), "10.0.0.2:51724", None)


def accepted(ends: Endpoints, path: str = "/", **fields: Any) -> Acceptance:
    decision = decide(ends, path, **fields)
    assert isinstance(decision, Acceptance), decision
    return decision


def refused(ends: Endpoints, path: str = "/", **fields: Any) -> int:
    decision = decide(ends, path, **fields)
    assert isinstance(decision, Refusal), decision
    return decision.status


# ---------------------------------------------------------------------- the mesh


class Upper(StandardJsonSerializer):
    """A program's own."""

    name = "upper"


class OtherJson(StandardJsonSerializer):
    """A program's own that stands for a built-in one."""


@pytest.mark.parametrize(
    ("offered", "agreed", "serializer"),
    [
        (("webmesh.v1.msgpack",), "webmesh.v1.msgpack", MessagePackSerializer),
        (("webmesh.v1.json",), "webmesh.v1.json", StandardJsonSerializer),
        (("webmesh.v1.json", "webmesh.v1.msgpack"), "webmesh.v1.json", StandardJsonSerializer),
        (("soap", "webmesh.v2.json", "webmesh.v1.upper"), "webmesh.v1.upper", Upper),
    ],
)
def test_the_clients_first_known_subprotocol_is_agreed(
    offered: tuple[str, ...], agreed: str, serializer: type[AbstractMessageSerializer]
) -> None:
    """The built-in ones are always known, besides the server's own."""
    decision = accepted(endpoints(default=Upper), subprotocols=offered)
    assert agreed == decision.subprotocol
    assert serializer is type(decision.tag)


def test_a_client_that_offers_none_gets_the_servers() -> None:
    """And no subprotocol is named in the answer, since none was offered."""
    decision = accepted(endpoints(default=Upper))
    assert decision.subprotocol is None
    assert Upper is type(decision.tag)


def test_an_own_serializer_can_stand_for_a_built_in_one() -> None:
    """It bears its name, so clients that ask for that get it."""
    assert OtherJson is type(accepted(endpoints(default=OtherJson), subprotocols=("webmesh.v1.json",)).tag)


def test_one_serializer_serves_all_connections() -> None:
    """They have no state of a connection, and making one for each would cost."""
    ends = endpoints()
    assert accepted(ends).tag is accepted(ends).tag


@pytest.mark.row(12)
def test_only_unknown_subprotocols_are_refused_with_the_known_ones() -> None:
    """So that whoever wrote the client sees what is spoken; what was offered is not repeated."""
    decision = decide(endpoints(default=Upper), subprotocols=("secret\x1b[0m",))
    assert isinstance(decision, Refusal)
    assert 400 == decision.status
    assert "webmesh.v1.msgpack, webmesh.v1.json, webmesh.v1.upper" in decision.reason
    assert "secret" not in decision.reason


def test_a_mount_is_the_only_path_of_the_mesh() -> None:
    """Nothing below it and nothing like it."""
    ends = endpoints(mount="/mesh")
    accepted(ends, "/mesh")
    assert [404, 404, 404, 404] == [refused(ends, path) for path in ("/", "/mesh/", "/mesh/x", "/Mesh")]


# ------------------------------------------------------------------ plain routes


def test_a_plain_route_is_found_with_its_arguments() -> None:
    """Its match is what the connection is served by."""
    decision = accepted(endpoints(plain("/rooms/<int:room>")), "/rooms/7")
    route, arguments = decision.tag  # type: ignore[misc]
    assert ("/rooms/<int:room>", {"room": 7}) == (route.pattern, arguments)


@pytest.mark.row(13)
@pytest.mark.parametrize("path", ["/nowhere", "/rooms/x", "/rooms", "/rooms/7/8"])
def test_any_other_path_is_404(path: str) -> None:
    """Nothing is looked up anywhere else."""
    assert 404 == refused(endpoints(plain("/rooms/<int:room>")), path)


@pytest.mark.parametrize(
    ("offered", "agreed"), [((), None), (("chat",), "chat"), (("talk", "chat"), "talk"), (("other",), None)]
)
def test_a_plain_route_agrees_to_its_own_subprotocols(offered: tuple[str, ...], agreed: str | None) -> None:
    """Where none fits it is accepted without: what the messages are is the handler's own business."""
    ends = endpoints(plain("/a", subprotocols=("chat", "talk")))
    assert agreed == accepted(ends, "/a", subprotocols=offered).subprotocol


@pytest.mark.row(83)
def test_a_plain_route_without_a_free_thread_is_busy() -> None:
    """It says when to come back; a route that needs no thread is not affected."""
    executor = Executor(1, 0)
    executor._taken = 1
    ends = endpoints(plain("/thread"), plain("/greenlet", blocking=False), executor=executor)

    decision = decide(ends, "/thread")

    assert isinstance(decision, Refusal)
    assert (503, "Retry-After") == (decision.status, decision.headers[0][0])
    accepted(ends, "/greenlet")


# ----------------------------------------------------------------- who may enter


@pytest.mark.row(92)
@pytest.mark.parametrize("path", ["/", "/a", "/nowhere"])
def test_nothing_is_accepted_while_it_closes(path: str) -> None:
    """503 with the time to come back, the one that calls are told too: the address is all right, the moment is not."""
    ends = endpoints(plain("/a"))
    ends.closing = True
    decision = decide(ends, path)
    assert isinstance(decision, Refusal)
    assert (503, ("Retry-After", "1")) == (decision.status, decision.headers[0])


@pytest.mark.row(9)
@pytest.mark.parametrize("path", ["/", "/a"])
def test_only_listed_hosts_are_served(path: str) -> None:
    """On every endpoint (DNS rebinding)."""
    ends = endpoints(plain("/a"), allowed_hosts=("example.com",))
    accepted(ends, path, host="example.com:4269")
    assert 403 == refused(ends, path, host="evil.example")


@pytest.mark.row(10)
@pytest.mark.parametrize("path", ["/", "/a"])
def test_only_listed_origins_are_served(path: str) -> None:
    """On every endpoint; no Origin at all is no browser, and the server's own pages may."""
    ends = endpoints(plain("/a"), allowed_origins=("https://app.example",))
    for origin in (None, "https://app.example", "https://example.com"):
        accepted(ends, path, origin=origin)
    for origin in ("https://evil.example", "null", "https://app.example.evil.example", "http://app.example"):
        assert 403 == refused(ends, path, origin=origin)


@pytest.mark.row(10)
def test_foreign_origins_are_refused_by_default() -> None:
    """A web page cannot use a server that never heard of it."""
    assert 403 == refused(endpoints(), origin="https://evil.example")


# ------------------------------------------------------------------- compression


DEFLATE = "permessage-deflate; client_max_window_bits"


@pytest.mark.parametrize(("compression", "offer", "agreed"), [(True, DEFLATE, 1), (True, "", 0), (False, DEFLATE, 0)])
@pytest.mark.parametrize("path", ["/", "/a"])
def test_compression_is_agreed_when_both_want_it(compression: bool, offer: str, agreed: int, path: str) -> None:
    """It is off by default."""
    ends = endpoints(plain("/a"), compression=compression)
    assert agreed == len(accepted(ends, path, extensions=offer).extensions)


@pytest.mark.row(11)
@pytest.mark.parametrize("offer", ["permessage-deflate; server_max_window_bits=99", "deflate", "x; y=\"", ","])
def test_a_bad_offer_is_declined_and_the_upgrade_succeeds(offer: str) -> None:
    """Without the extension."""
    assert [] == accepted(endpoints(compression=True), extensions=offer).extensions


# ------------------------------------------------------------------------ checks


@pytest.mark.parametrize(("mount", "path"), [("/", "/"), ("/a/b", "/a/b"), ("/e\u0301", "/\u00e9"), ("/a b?", "/a b?")])
def test_a_mount_is_written_as_requests_arrive(mount: str, path: str) -> None:
    """Decoded and in Unicode's form NFC."""
    assert path == checked_mount(mount)


@pytest.mark.parametrize("mount", ["", "a", "//", "/a//b", "/./a", "/a/..", "/\x00", "/a\\b", b"/a", None])
def test_a_mount_that_no_request_can_have_is_refused(mount: Any) -> None:
    """With what is wrong about it."""
    with pytest.raises(ConfigurationError, match="mount must be a path such as"):
        checked_mount(mount)


@pytest.mark.parametrize(
    ("names", "kept"), [(None, None), ([], ()), (["a", "b"], ("a", "b")), (iter("ab"), ("a", "b")), ({"a": 1}, ("a",))]
)
def test_names_are_kept_as_they_were(names: Any, kept: tuple[str, ...] | None) -> None:
    """An iterator, which could be asked only once, becomes a tuple; `None` is not the empty list."""
    assert kept == checked_names("things", names)


@pytest.mark.parametrize("names", ["a", "", b"a", [b"a"], ["a", None]])
def test_what_is_no_list_of_texts_is_refused(names: Any) -> None:
    """The text says which option it was."""
    with pytest.raises(ConfigurationError, match="things must be a list of texts"):
        checked_names("things", names)


# ------------------------------------------------------------------------- hosts


def page_status(ends: Endpoints, host: str) -> int:
    request = HttpRequest("GET", "/livez", "", {"host": host})
    return ends.page(lambda request: text_answer(200, "alive"))(request).status


@pytest.mark.row(9)
def test_pages_are_for_allowed_hosts_too() -> None:
    """What a page shows is not for a web page that has brought a name of its own."""
    ends = endpoints(allowed_hosts=("example.com",))
    assert (200, 403) == (page_status(ends, "example.com:4269"), page_status(ends, "evil.example"))


@pytest.mark.row(9)
@pytest.mark.parametrize(
    ("host", "allowed"), [("localhost:1", True), ("[::1]", True), ("box", True), ("evil.example", False)]
)
def test_a_local_server_goes_by_the_names_of_the_loopback(host: str, allowed: bool) -> None:
    """And by the one that it listens at; unless the program lists others."""
    ends = endpoints()
    assert 200 == page_status(ends, host)
    ends.local_names = ("box",)
    assert (200 if allowed else 403) == page_status(ends, host)

    listed = endpoints(allowed_hosts=("evil.example",))
    listed.local_names = ("box",)
    assert (403 if allowed else 200) == page_status(listed, host)


def test_all_hosts_are_allowed_in_so_many_words() -> None:
    """No list is not the same as a list of everything."""
    assert endpoints(allowed_hosts=("a", "*")).any_host
    assert not endpoints().any_host and not endpoints(allowed_hosts=("a",)).any_host


@pytest.mark.row(10)
def test_a_server_with_tls_takes_no_page_without_for_its_own() -> None:
    """Whoever is on the way can write one."""
    assert 403 == refused(endpoints(secure=True), "/", host="example.com", origin="http://example.com")
    accepted(endpoints(secure=True), "/", host="example.com", origin="https://example.com")
