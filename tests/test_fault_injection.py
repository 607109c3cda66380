"""The fault injector: which calls it harms, how, and how it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

from tests.running import PATIENCE, connected, wait_for
from webmesh.call import Call
from webmesh.exceptions import (
    BadPattern, ConfigurationError, Overloaded, RemoteError, ReplyLost, RequestTimeout, Unavailable,
)  # fmt: skip
from webmesh.fault_injection import FaultInjector
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer


def called(injector: FaultInjector, path: str = "/a", seconds: float | None = None) -> str:
    """What a client's call through it ends with."""
    call = Call(path, None, {}, None, seconds=seconds)  # type: ignore[arg-type]
    try:
        result: str = injector(call, lambda call: "through")
    except RemoteError as error:
        return error.code
    return result


@contextmanager
def serving(injector: FaultInjector) -> Iterator[tuple[WebMeshServer, WebMeshClient, list[str]]]:
    """A server with the injector, a client of it, and the paths that reached handlers."""
    server, reached = WebMeshServer(), []
    server.middleware(injector)

    @server.on("/a/<path:rest>")
    def handle(payload: Any, path: str, client: Any, rest: str) -> str:
        reached.append(path)
        return "done"

    with connected(server) as client:
        yield server, client, reached


def test_it_is_off_until_it_is_enabled() -> None:
    """It may stay in a program."""
    injector = FaultInjector(abort="unavailable")
    assert "through" == called(injector)
    with injector:
        assert injector.enabled
        assert "unavailable" == called(injector)
    assert "through" == called(injector)
    assert "unavailable" == called(FaultInjector(abort="unavailable", enabled=True))


def test_without_a_fault_it_does_nothing() -> None:
    """Enabled or not."""
    assert "through" == called(FaultInjector(enabled=True))


def test_the_protocols_own_paths_are_left_alone() -> None:
    """Else no client could even say hello; a pattern can name them."""
    assert "through" == called(FaultInjector(abort="internal", enabled=True), "$hello")
    assert "internal" == called(FaultInjector(abort="internal", enabled=True, routes="$hello"), "$hello")


def test_only_named_routes_are_harmed() -> None:
    """Named by patterns as routes are."""
    injector = FaultInjector(abort="aborted", routes=["/orders/<int:id>", "/b"], enabled=True)
    assert ["aborted", "aborted"] == [called(injector, path) for path in ("/orders/7", "/b")]
    assert ["through", "through"] == [called(injector, path) for path in ("/orders/seven", "/c")]


def test_a_percentage_of_calls_is_harmed_and_a_seed_chooses_the_same_ones() -> None:
    """A failure that was found can be found again."""

    def chosen(seed: int) -> list[str]:
        injector = FaultInjector(abort="internal", percentage=25, seed=seed, enabled=True)
        ends = [called(injector) for _ in range(1000)]
        assert injector.counts == {"aborted": ends.count("internal"), "spared": ends.count("through")}
        assert 150 < ends.count("internal") < 350
        return ends

    assert chosen(1) == chosen(1) != chosen(2)
    assert "through" == called(FaultInjector(abort="internal", percentage=0, enabled=True))


@pytest.mark.parametrize(
    "options",
    [
        {"delay": -1}, {"delay": "1"}, {"delay": (2, 1)}, {"delay": (1,)}, {"delay": float("nan")}, {"delay": True},
        {"abort": "nonsense"}, {"abort": 503}, {"abort": "internal", "drop": True}, {"drop": True, "disconnect": True},
        {"percentage": 101}, {"percentage": -1}, {"percentage": "5"}, {"percentage": float("nan")},
        {"max_active": 0}, {"max_active": 1.5}, {"max_active": True}, {"abort": ["internal"]},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    """When it is made and when it is changed; then nothing changes."""
    with pytest.raises(ConfigurationError):
        FaultInjector(**options)
    injector = FaultInjector(abort="aborted", enabled=True)
    with pytest.raises(ConfigurationError):
        injector.change(**{"abort": None, **options})
    assert "aborted" == called(injector)


def test_unknown_faults_and_bad_patterns_are_refused() -> None:
    """With a text that names them."""
    with pytest.raises(ConfigurationError, match="explode"):
        FaultInjector().change(explode=True)
    with pytest.raises(BadPattern):
        FaultInjector(routes="/<")
    with pytest.raises(ConfigurationError, match="routes"):
        FaultInjector(routes=5)  # type: ignore[arg-type]


def test_it_can_be_changed_while_it_runs() -> None:
    """For calls that come."""
    injector = FaultInjector(abort="aborted", enabled=True)
    injector.change(abort="unavailable")
    assert "unavailable" == called(injector)
    injector.change(percentage=0)
    assert "through" == called(injector)


def test_no_more_calls_are_held_than_allowed() -> None:
    """The others go through; a place is given back."""
    injector = FaultInjector(delay=PATIENCE, max_active=1, enabled=True)
    ends: list[str] = []
    thread = threading.Thread(target=lambda: ends.append(called(injector)))
    thread.start()
    assert wait_for(lambda: injector.counts["delayed"] == 1)

    assert "through" == called(injector)
    assert 1 == injector.counts["spared"]
    injector.disable()  # releases at once
    thread.join(PATIENCE)
    assert ["through"] == ends

    injector.change(delay=0.001)
    injector.enable()
    assert ["through"] * 3 == [called(injector) for _ in range(3)]
    assert 4 == injector.counts["delayed"]


def test_a_delay_ends_with_the_call() -> None:
    """No call is held longer than it has, and a late one does not go on."""
    with pytest.raises(RequestTimeout), gevent.Timeout(PATIENCE):
        called(FaultInjector(delay=1000.0, enabled=True), seconds=0.01)


def test_a_server_that_aborts() -> None:
    """The caller gets the typed error, and the handler does not run."""
    with serving(FaultInjector(abort="resource_exhausted", routes="/a/x", enabled=True)) as (_, client, reached):
        with pytest.raises(Overloaded, match="injected fault"):
            client.call("/a/x", timeout=PATIENCE)
        assert "done" == client.call("/a/y", timeout=PATIENCE)
        assert ["/a/y"] == reached


def test_a_server_that_delays() -> None:
    """Others are served meanwhile, in threads and in greenlets."""
    with serving(FaultInjector(delay=PATIENCE, routes="/a/x", enabled=True)) as (_, client, reached):
        with pytest.raises(TimeoutError):
            client.call("/a/x", timeout=0.05)
        future = client.spawn("/a/x", timeout=PATIENCE)
        assert "done" == client.call("/a/y", timeout=PATIENCE)
        assert ["/a/y"] == reached
        future.cancel()


def test_a_server_that_does_not_answer() -> None:
    """The call times out, and nothing is left of it on the server."""
    with serving(FaultInjector(drop=True, routes="/a/x", enabled=True)) as (_, client, reached):
        with pytest.raises(RequestTimeout):
            client.call("/a/x", timeout=0.1)
        assert "done" == client.call("/a/y", timeout=PATIENCE)
        assert ["/a/y"] == reached


def test_a_server_that_drops_the_connection() -> None:
    """The caller's reply is lost; the next call finds a new connection."""
    with serving(FaultInjector(disconnect=True, routes="/a/x", enabled=True)) as (_, client, reached):
        with pytest.raises(ReplyLost):
            client.call("/a/x", timeout=PATIENCE)
        assert "done" == client.call("/a/y", timeout=PATIENCE)
        assert ["/a/y"] == reached


def test_a_client_harms_its_own_calls() -> None:
    """Before they are sent."""
    injector = FaultInjector(abort="unavailable")
    server = WebMeshServer()
    server.on("/a")(lambda payload, path, client: "done")
    server.listen(port=0)
    server.await_started()
    client = WebMeshClient(server.url)
    client.middleware(injector)
    with server, client:
        assert "done" == client.call("/a", timeout=PATIENCE)
        with injector:
            with pytest.raises(Unavailable):
                client.call("/a", timeout=PATIENCE)
            injector.change(abort=None, drop=True)
            with pytest.raises(RequestTimeout):
                client.call("/a", timeout=0.05)
            injector.change(drop=False, disconnect=True)
            with pytest.raises(ReplyLost) as lost:
                client.call("/a", timeout=PATIENCE)
            assert not lost.value.started
        assert "done" == client.call("/a", timeout=PATIENCE)


def test_a_stream_that_a_server_drops_hears_nothing() -> None:
    """Not even that it was given up, though its session would keep an answer for it."""
    injector = FaultInjector(drop=True, enabled=True)
    server = WebMeshServer()
    server.middleware(injector)

    @server.on("/numbers", blocking=False)
    def numbers(payload: Any, path: str, peer: Any) -> Iterator[int]:
        yield 1

    with connected(server) as client:
        with pytest.raises(RequestTimeout):
            list(client.stream("/numbers", timeout=0.2))
        assert 1 == injector.counts["dropped"]
        injector.disable()
        assert [1] == list(client.stream("/numbers", timeout=PATIENCE))


def test_what_a_client_has_dropped_is_answered_by_nobody() -> None:
    """Its time runs out, also when the injector is switched off meanwhile."""
    injector = FaultInjector(drop=True, enabled=True)
    server = WebMeshServer()
    server.on("/a")(lambda payload, path, client: "done")
    server.listen(port=0)
    server.await_started()
    client = WebMeshClient(server.url)
    client.middleware(injector)
    with server, client:
        timer = gevent.spawn_later(0.05, injector.disable)
        started = time.monotonic()
        with pytest.raises(RequestTimeout):
            client.call("/a", timeout=0.3)
        assert time.monotonic() - started >= 0.3
        timer.join(PATIENCE)
