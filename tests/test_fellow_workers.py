"""Pages that tell of all workers of a service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gevent
import pytest

from tests.mesh_nodes import Node, meshed
from tests.running import PATIENCE, connected, native_threads, running, wait_for
from tests.test_oversight import get
from webmesh import fellow_workers
from webmesh.exceptions import InvalidArgument, PermissionDenied, RouteNotFound
from webmesh.fellow_workers import METRICS, Fellows, in_thread
from webmesh.routing import Router
from webmesh.testing import connection_pair
from webmesh.webmesh_server import WebMeshServer
from webmesh.websocket.websocket_connection import WebSocketConnection

pytest.importorskip("prometheus_client", reason="the extra metrics is not installed")

OPENMETRICS = "accept: application/openmetrics-text; version=1.0.0\r\n"


def parsed(content_type: str, body: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples of an exposition, by the parser of its format; each family stands there once."""
    from prometheus_client import parser
    from prometheus_client.openmetrics import parser as strict_parser

    strict = content_type.startswith("application/openmetrics-text")
    families = list((strict_parser if strict else parser).text_string_to_metric_families(body.decode()))
    assert len(families) == len({family.name for family in families})
    samples = [one for family in families for one in family.samples]
    found = {(one.name, tuple(sorted(one.labels.items()))): one.value for one in samples}
    assert len(samples) == len(found)
    return found


def counting(**options: Any) -> WebMeshServer:
    server = WebMeshServer(metrics=True, **options)
    server.on("/ok/<int:id>", blocking=False)(lambda payload, path, client, id: payload)
    return server


def links_of(node: Node, others: dict[str, str]) -> dict[str, WebSocketConnection]:
    """The links of a node, by the labels of the nodes with these ids."""
    return {others[link.node]: link.connection for link in node.node.links if link.node in others}


@contextmanager
def workers() -> Iterator[list[Node]]:
    """Three of them, labelled "1" to "3", each linked to the others."""
    first = Node("a", server=counting(name="a"))
    with meshed(first):
        nodes = [first, *(Node(name, first.url, server=counting(name=name)) for name in "bc")]
        labels = {node.id: str(number) for number, node in enumerate(nodes, 1)}
        for node in nodes:
            node.server.trust(node.node.trusts)
            node.server._oversight.fellows = Fellows(
                labels[node.id], lambda node=node: links_of(node, labels)  # type: ignore[misc]
            )
        with meshed(*nodes[1:]):
            assert wait_for(lambda: all(len(node.linked()) == 2 for node in nodes))
            yield nodes


def fellow_of(answer: Any) -> tuple[Router, list[Any]]:
    """Routes of a worker that answers with this, or with what a function returns; and what it was asked."""
    router, asked = Router(), []

    def tell(payload: Any, path: str, client: Any) -> Any:
        asked.append(payload)
        return answer() if callable(answer) else answer

    router.add(METRICS, tell, reserved=True, blocking=False)
    return router, asked


def worker(number: str) -> tuple[str, str]:
    return ("worker", number)


def test_each_worker_tells_of_all() -> None:
    """Whichever is asked, in both formats: every sample says whose it is."""
    with workers() as nodes:
        for node in nodes[1:]:
            nodes[0].ask(node.server.name or "", "/ok/7", 1)
        for number, headers in ((0, ""), (1, OPENMETRICS), (2, "")):
            found = parsed(*get(nodes[number].server, "/metrics", headers)[1:])
            assert {"1", "2", "3"} == {dict(labels)["worker"] for _, labels in found}
            assert [1, 1, 1] == [found["webmesh_worker_up", (worker(label),)] for label in "123"]
            labels = (("code", "ok"), ("route", "/ok/<int:id>"))
            assert [1, 1] == [found["webmesh_requests_total", (*labels, worker(label))] for label in "23"]
            bucket = (("le", "+Inf"), ("route", "/ok/<int:id>"))
            assert [1, 1] == [found["webmesh_request_seconds_bucket", (*bucket, worker(label))] for label in "23"]
            assert found["process_resident_memory_bytes", (worker("2"),)] > 0

        shown = json.loads(get(nodes[2].server, "/status")[2])
        assert {"1", "2", "3"} == set(shown["workers"])
        assert (2, {"ok": 2}) == (shown["routes"]["/ok/<int:id>"]["count"], shown["routes"]["/ok/<int:id>"]["codes"])
        assert all(line["up"] and line["pid"] > 0 for line in shown["workers"].values())
        assert 1 == shown["gauges"]["engine_up"]
        assert sum(line["connections"] for line in shown["workers"].values()) == shown["gauges"]["connections_open"]

        page = get(nodes[0].server, "/status", "accept: text/html\r\n")[2]
        assert b"<caption>Workers</caption>" in page


@contextmanager
def beside(*answers: Any) -> Iterator[tuple[WebMeshServer, list[Any]]]:
    """A worker "1" whose fellows "2" and so on answer with these; and what the last of them was asked."""
    server = counting()
    links: dict[str, WebSocketConnection] = {}
    asked: list[Any] = []
    with running(server), ExitStack() as stack:
        for number, answer in enumerate(answers, 2):
            router, asked = fellow_of(answer)
            links[str(number)] = stack.enter_context(connection_pair(server=router))[0]
        server._oversight.fellows = Fellows("1", lambda: links)
        yield server, asked


def silent() -> Any:
    gevent.sleep(60)


@pytest.mark.parametrize("headers", ["", OPENMETRICS])
def test_a_worker_that_does_not_answer_is_left_out(headers: str, monkeypatch: Any) -> None:
    """And a gauge says so."""
    monkeypatch.setattr(fellow_workers, "PATIENCE", 0.1)
    with beside(silent) as (server, _):
        found = parsed(*get(server, "/metrics", headers)[1:])
    assert (1, 0) == (found["webmesh_worker_up", (worker("1"),)], found["webmesh_worker_up", (worker("2"),)])
    assert {"webmesh_worker_up"} == {name for name, labels in found if worker("2") in labels}


@pytest.mark.parametrize("answer", [None, [], {"pid": 7}, {"families": [{}], "pid": 7, "status": {"seconds": 1}}])
def test_what_is_no_answer_counts_as_none(answer: Any) -> None:
    """The page tells of the others, and that this one said nothing."""
    with beside(answer) as (server, _):
        found = parsed(*get(server, "/metrics")[1:])
        shown = json.loads(get(server, "/status")[2])
    assert (1, 0) == (found["webmesh_worker_up", (worker("1"),)], found["webmesh_worker_up", (worker("2"),)])
    assert ({"up": False}, True) == (shown["workers"]["2"], shown["workers"]["1"]["up"])


def test_a_burst_of_scrapes_asks_once() -> None:
    """Who asks meanwhile gets the same answer; and others are served while it is waited for."""
    entered: list[object] = []

    def later() -> Any:
        assert wait_for(lambda: "all are served" in entered)
        return {"pid": 7, "families": []}

    class Watched(Fellows):
        def shared(self, key: object, make: Any) -> Any:
            entered.append(key)
            return super().shared(key, make)

    with beside(later) as (server, asked):
        assert server._oversight.fellows is not None
        server._oversight.fellows = fellows = Watched("1", server._oversight.fellows._links)
        with native_threads(9) as spawn:
            scrapes = [spawn(get, server, "/metrics", accept) for accept in ("", OPENMETRICS) * 4]
            assert wait_for(lambda: len([key for key in entered if key != "families"]) == 8)
            assert 200 == spawn(get, server, "/livez").get()[0]
            entered.append("all are served")
            answers = [scrape.get() for scrape in scrapes]
    assert [(200, 1.0)] * 8 == [(one[0], parsed(*one[1:])["webmesh_worker_up", (worker("2"),)]) for one in answers]
    assert ([{}], {}) == (asked, fellows._running)


def test_who_gives_up_takes_it_from_nobody() -> None:
    """The one that runs has a greenlet of its own; an error of it is everybody's."""
    fellows = Fellows("1", dict)
    made: list[int] = []

    def make() -> int:
        gevent.sleep(0.01)
        made.append(1)
        return 7

    impatient = gevent.spawn(fellows.shared, "a", make)
    patient = gevent.spawn(fellows.shared, "a", make)
    gevent.sleep(0)
    impatient.kill()
    assert 7 == patient.get(timeout=PATIENCE)
    assert ([1], {}) == (made, fellows._running)
    assert 7 == fellows.shared("a", make)
    assert [1, 1] == made


def test_it_asks_nobody_twice_nor_itself() -> None:
    """Where the links tell of it as well."""
    router, asked = fellow_of({"pid": 7})
    with connection_pair(server=router) as (link, _):
        assert {"2": {"pid": 7}} == Fellows("1", lambda: {"1": link, "2": link}).ask({"status": True})
    assert [{"status": True}] == asked


def test_long_work_is_done_in_a_thread() -> None:
    """Its result comes back, and its error."""
    assert 3 == in_thread(sum, [1, 2])
    with pytest.raises(ZeroDivisionError):
        in_thread(divmod, 1, 0)


def test_workers_and_operators_may_ask() -> None:
    """Nobody else; and there is nothing to ask for without metrics."""
    with connected(counting()) as client:
        answer = client.call(METRICS, timeout=PATIENCE)
        assert {"pid", "families"} == set(answer)
        assert {"pid", "status"} == set(client.call(METRICS, {"status": True}, timeout=PATIENCE))
        for payload in ([], {"status": 1}):
            with pytest.raises(InvalidArgument):
                client.call(METRICS, payload, timeout=PATIENCE)
    with connected(counting(metrics_allow=[])) as client, pytest.raises(PermissionDenied):
        client.call(METRICS, timeout=PATIENCE)
    with connected(WebMeshServer()) as client, pytest.raises(RouteNotFound):
        client.call(METRICS, timeout=PATIENCE)
