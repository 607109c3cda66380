"""The protocol's own paths: who a node is, what it serves, and what it remembers of its peers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.running import PATIENCE, connected, running, wait_for
from webmesh.exceptions import InvalidArgument, RouteNotFound
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, StandardJsonSerializer
from webmesh.mounting import as_handler
from webmesh.observer import NO_OBSERVER
from webmesh.options import Limits, Timeouts
from webmesh.routing import Router
from webmesh.sessions import Sessions
from webmesh.system_routes import SystemRoutes
from webmesh.testing import connection_pair
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer
from webmesh.websocket.websocket_connection import WebSocketConnection


@contextmanager
def node(
    router: Router | None = None, *, name: str | None = None, serializer: Any = MessagePackSerializer, **options: Any
) -> Iterator[tuple[WebSocketConnection, WebSocketConnection]]:
    """A connection to a node with these routes, and the node's end of it."""
    served = router or Router()
    limits, timeouts = options.get("limits", Limits()), options.get("timeouts", Timeouts())
    routes = SystemRoutes(served, name, "1.2", limits=limits, timeouts=timeouts)
    routes.register()
    with connection_pair(server=served, serializer_type=serializer) as ends:
        routes.sessions = Sessions(ends[1]._home, limits=limits, timeouts=timeouts, observer=NO_OBSERVER)
        yield ends


# ------------------------------------------------------------------------ $hello


@pytest.mark.parametrize("payload", [None, {}, {"node": {"name": "me"}}, {"unknown": 1, "token": "t"}])
def test_hello_tells_who_the_node_is(payload: Any) -> None:
    """Whatever a peer adds; and of a session that is new, that nothing was resumed."""
    with node(name="shop") as (client, server):
        answer = client.call("$hello", payload, timeout=PATIENCE)

    assert {"node", "session", "epoch", "resumed", "limits", "ping_ms"} == set(answer)
    assert ("shop", "1.2") == (answer["node"]["name"], answer["node"]["version"])
    assert server.session is not None and server.session.id == answer["session"] != server.id
    assert answer["resumed"] is False


def test_hello_tells_the_limits_of_this_node() -> None:
    """In the units of the protocol, as they were configured."""
    limits, timeouts = Limits(message_size=4096, in_flight=7, stream_credit=3), Timeouts(ping_interval=1.5)
    with node(limits=limits, timeouts=timeouts) as (client, _):
        answer = client.call("$hello", timeout=PATIENCE)

    assert {
        "message_size": 4096, "in_flight": 7, "stream_credit": 3, "session_backlog": 2**20, "session_ms": 30_000
    } == answer["limits"]  # fmt: skip
    assert 1500 == answer["ping_ms"]


def test_hello_remembers_who_the_peer_says_it_is() -> None:
    """For handlers, in the connection's metadata; what it is, nobody has verified."""
    with node() as (client, server):
        client.call("$hello", {"node": {"id": "x", "name": "cart"}}, timeout=PATIENCE)
        assert {"id": "x", "name": "cart"} == server.metadata["node"]
        client.call("$hello", timeout=PATIENCE)
        assert {} == server.metadata["node"]


@pytest.mark.row(36)
@pytest.mark.parametrize("payload", ["me", 7, [], [{"node": {}}], {"node": "me"}, {"node": []}, {"node": 0}])
def test_a_hello_that_makes_no_sense_is_refused(payload: Any) -> None:
    """With what it takes; the connection lives."""
    with node() as (client, _):
        with pytest.raises(InvalidArgument, match="map"):
            client.call("$hello", payload, timeout=PATIENCE)
        client.call("$hello", timeout=PATIENCE)


def test_two_nodes_have_two_ids() -> None:
    """Also of the same name; one node has one."""
    ids, epochs = set(), set()
    for _ in range(2):
        with node(name="shop") as (client, _server):
            answers = [client.call("$hello", timeout=PATIENCE) for _ in range(2)]
        ids.update(answer["node"]["id"] for answer in answers)
        epochs.update(answer["epoch"] for answer in answers)
    assert (2, 2) == (len(ids), len(epochs))


def test_goodbye_is_noted() -> None:
    """It is a notification: nothing comes back."""
    with node() as (client, server):
        client.notify("$goodbye", {"reason": "deploy"})
        assert client.call("$info", timeout=PATIENCE)["name"] == ""
        assert wait_for(lambda: "goodbye" in server.metadata)
        assert {"reason": "deploy"} == server.metadata["goodbye"]


def test_info_is_the_node() -> None:
    """Without a conversation about it."""
    with node(name="shop") as (client, _):
        assert client.call("$hello", timeout=PATIENCE)["node"] == client.call("$info", timeout=PATIENCE)


# ----------------------------------------------------------------------- $routes


def documented(payload: dict[str, int], path: str, client: Any, item: int, *, deep: bool = False) -> int:
    """Count what is there.

    The rest is for programmers.
    """
    return item


class Shop:
    def price(self, item: int, currency: str = "EUR") -> float:
        """What an item costs."""
        return math.nan

    def bare(self, *items: int, **options: Any) -> None:
        pass


@pytest.mark.parametrize("serializer", [MessagePackSerializer, StandardJsonSerializer])
def test_routes_tell_how_they_are_called(serializer: type[AbstractMessageSerializer]) -> None:
    """Pattern, signature as its author wrote it, first line of the documentation, whether it may be retried."""
    router = Router()
    router.add("/count/<int:item>", documented, idempotent=True)
    router.add("/price", as_handler(Shop().price))
    router.add("/bare", as_handler(Shop().bare))
    router.add("/partial", lambda payload, path, client: None)

    with node(router, serializer=serializer) as (client, _):
        listed = {entry["path"]: entry for entry in client.call("$routes", timeout=PATIENCE)}

    assert {
        "path": "/count/<int:item>",
        "signature": "(payload: 'dict[str, int]', path: 'str', client: 'Any', item: 'int', *, deep: 'bool' = False)"
                     " -> 'int'",
        "doc": "Count what is there.",
        "idempotent": True,
    } == listed["/count/<int:item>"]  # fmt: skip
    assert "(item: 'int', currency: 'str' = 'EUR') -> 'float'" == listed["/price"]["signature"]
    assert ("What an item costs.", "") == (listed["/price"]["doc"], listed["/bare"]["doc"])
    assert not listed["/price"]["idempotent"]
    assert ["/bare", "/count/<int:item>", "/partial", "/price"] == list(listed)


def test_a_signature_that_cannot_be_told_is_left_out() -> None:
    """As of functions in C, and of defaults whose repr fails: the listing is answered all the same."""

    class Hostile:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    def odd(payload: Any, path: str, client: Any, *, option: Any = Hostile()) -> None:  # noqa: B008
        """Odd."""

    router = Router()
    router.add("/max", max)
    router.add("/odd", odd)
    with node(router) as (client, _):
        listed = {entry["path"]: entry["signature"] for entry in client.call("$routes", timeout=PATIENCE)}

    assert {"/max": "(...)", "/odd": "(...)"} == listed


# ----------------------------------------------------------------- in whole nodes


def test_every_server_answers_them() -> None:
    """Also in a process whose handlers have no free thread; a program cannot take their place."""
    server = WebMeshServer(name="shop", limits=Limits(message_size=8192))
    server.on("/a")(lambda payload, path, client: None)
    with connected(server) as client:
        assert 8192 == client.call("$hello", timeout=PATIENCE)["limits"]["message_size"]
        assert "shop" == client.call("$info", timeout=PATIENCE)["name"]
        assert ["/a"] == [entry["path"] for entry in client.call("$routes", timeout=PATIENCE)]


def test_a_configured_server_tells_what_it_was_configured_to() -> None:
    """Not what its constructor was given."""
    server = WebMeshServer()
    server.configure(limits=Limits(in_flight=5), timeouts=Timeouts(ping_interval=2))
    with connected(server) as client:
        answer = client.call("$hello", timeout=PATIENCE)
    assert (5, 2000) == (answer["limits"]["in_flight"], answer["ping_ms"])


@pytest.mark.parametrize("path", ["$members", "$interest", "$nothing", "$"])
def test_paths_of_the_protocol_that_are_not_there_are_unimplemented(path: str) -> None:
    """docs/PROTOCOL.md says so of each that is marked as not there yet."""
    server = WebMeshServer()
    with running(server), WebMeshClient(server.url) as client, pytest.raises(RouteNotFound):
        client.call(path, timeout=PATIENCE)
