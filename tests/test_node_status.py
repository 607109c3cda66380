"""`$stats` and `$peers`: what a node tells those who watch over it."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from tests.running import PATIENCE, connected, running, wait_for
from webmesh.auth import Credentials, Identity
from webmesh.call_counts import BUCKETS
from webmesh.exceptions import DeadlineExceeded, InvalidArgument, NotFound, PermissionDenied, RequestTimeout
from webmesh.message_serializers import MessagePackSerializer, StandardJsonSerializer
from webmesh.node_status import gather_stats
from webmesh.routing import Router
from webmesh.testing import connection_pair
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer


def shop(**options: Any) -> WebMeshServer:
    """A server with a route that answers, one that fails and one that waits."""
    server = WebMeshServer(name="shop", **options)
    server.on("/ok/<int:id>")(lambda payload, path, client, id: payload)
    server.on("/waits", blocking=False)(lambda payload, path, client: gevent.sleep(payload))

    @server.on("/fails")
    def fails(payload: Any, path: str, client: Any) -> None:
        raise NotFound("no such thing")

    return server


def other(number: int, **more: Any) -> dict[str, Any]:
    """What a mesh knows of another node."""
    return {"node": {"id": f"n{number}", "epoch": 1, "version": 1, "services": ["cart"]}, "state": "ok"} | more


# ------------------------------------------------------------------------ $stats


@pytest.mark.parametrize("serializer", [MessagePackSerializer, StandardJsonSerializer])
def test_calls_are_counted_by_route_without_any_extra(serializer: Any) -> None:
    """How they ended, and how long they took."""
    with connected(shop(), serializer_type=serializer) as client:
        for number in range(3):
            client.call(f"/ok/{number}", timeout=PATIENCE)
        with pytest.raises(NotFound):
            client.call("/fails", timeout=PATIENCE)
        stats = client.call("$stats", timeout=PATIENCE)

    route = stats["routes"]["/ok/<int:id>"]
    assert (3, {"ok": 3}, 0, 3) == (route["count"], route["codes"], route["in_flight"], sum(route["latency"]))
    assert {"not_found": 1} == stats["routes"]["/fails"]["codes"]
    assert list(BUCKETS) == pytest.approx(stats["buckets"])
    assert ("shop", True) == (stats["node"]["name"], stats["node"]["epoch"] > 0)
    assert 1 == stats["gauges"]["connections_open"]
    assert "/waits" not in stats["routes"]


def test_calls_that_wait_are_in_flight() -> None:
    """Until they end; then they are timed, each of them."""
    with connected(shop()) as client:
        waiting = client.spawn("/waits", 0.2, timeout=PATIENCE)
        told = lambda: client.call("$stats", timeout=PATIENCE)["routes"].get("/waits", {})  # noqa: E731
        assert wait_for(lambda: told().get("in_flight") == 1)
        assert 0 == told()["count"]
        waiting.result(PATIENCE)
        ended = told()
        assert (1, 0, 1) == (ended["count"], ended["in_flight"], sum(ended["latency"]))
        assert 0.15 < ended["seconds"]


def test_counts_are_for_operators() -> None:
    """From anywhere by their role; others need an address that is let in."""
    known = {"o": Identity("olga", {"operator"}), "c": Identity("carl", {"clerk"})}

    def authenticate(credentials: Credentials) -> Identity | None:
        return known.get(credentials.token or "")

    with running(shop(authenticate=authenticate, metrics_allow=[])) as server:
        with WebMeshClient(server.url, headers={"Authorization": "Bearer o"}) as operator:
            for path in ("$stats", "$peers"):
                assert operator.call(path, timeout=PATIENCE)
        with WebMeshClient(server.url, headers={"Authorization": "Bearer c"}) as clerk:
            for path in ("$stats", "$peers"):
                with pytest.raises(PermissionDenied):
                    clerk.call(path, timeout=PATIENCE)


# ------------------------------------------------------------------------ $peers


def test_a_node_alone_knows_itself() -> None:
    """As the first and only one."""
    with connected(server := shop()) as client:
        (own,) = client.call("$peers", timeout=PATIENCE)
        assert server.url == own["address"]
        assert client.call("$info", timeout=PATIENCE)["id"] == own["node"]["id"]
    assert (True, "ok", None) == (own["self"], own["state"], own["link"])
    assert ("shop", ["shop"]) == (own["node"]["name"], own["node"]["services"])
    assert "stats" not in own


def test_a_node_of_a_mesh_tells_whom_it_knows() -> None:
    """What the mesh says of itself is no second entry."""
    server = shop()
    server.system.record = lambda: {"id": "me", "epoch": 5, "version": 3, "services": []}
    server.system.peers = lambda: [other(1), other(2, state="lost"), {"node": {"id": "me"}, "state": "ok"}]
    with connected(server) as client:
        listed = client.call("$peers", timeout=PATIENCE)
    assert ["me", "n1", "n2"] == [one["node"]["id"] for one in listed]
    assert ["ok", "ok", "lost"] == [one["state"] for one in listed]
    assert 3 == listed[0]["node"]["version"]


def test_counts_of_all_nodes_come_with_them() -> None:
    """An error of one is a value, and its code tells why."""
    server = shop()
    asked: list[float] = []

    def peer_stats(seconds: float) -> dict[str, Any]:
        asked.append(seconds)
        return {"n1": {"seconds": 7}, "n2": RequestTimeout("$stats", 1), "n3": PermissionDenied("no")}

    server.system.peers = lambda: [other(number) for number in (1, 2, 3, 4)]
    server.system.peer_stats = peer_stats
    with connected(server) as client:
        own, *others = client.call("$peers", {"stats": True}, timeout=1.0)

    assert "$peers" in own["stats"]["routes"]
    assert {"seconds": 7} == others[0]["stats"]
    codes = [one["error"]["code"] for one in others[1:]]
    assert ["deadline_exceeded", "permission_denied", "unavailable"] == codes
    assert 0 < asked[0] <= 0.8


@pytest.mark.parametrize("payload", ["stats", [], {"stats": 1}, {"stats": None}])
def test_a_question_for_peers_that_makes_no_sense_is_refused(payload: Any) -> None:
    """With what it takes."""
    with connected(shop()) as client, pytest.raises(InvalidArgument, match="stats must be"):
        client.call("$peers", payload, timeout=PATIENCE)


def test_a_node_that_closes_says_so() -> None:
    """To whoever is still connected and asks before it is told to go."""
    status = shop()._status
    status.attend(dict, lambda: "ws://a", lambda: True)
    assert "draining" == status._own()["state"]


# ------------------------------------------------------------------------ gather


def test_links_are_asked_all_at_once_and_within_a_time() -> None:
    """Who does not answer in it is told as late."""
    quick, hangs = Router(), Router()
    quick.add("$stats", lambda payload, path, client: {"seconds": 1}, reserved=True, blocking=False)
    hangs.add("$stats", lambda payload, path, client: gevent.sleep(60), reserved=True, blocking=False)
    with connection_pair(server=quick) as (first, _), connection_pair(server=hangs) as (second, _):
        found = gather_stats({"a": first, "b": second}, 1.0)
    assert {"seconds": 1} == found["a"]
    assert isinstance(found["b"], RequestTimeout | DeadlineExceeded)  # ours, or what its node says of itself
