"""What a client learns of the routes of its server, and what it makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.running import PATIENCE, running, wait_for
from webmesh import known_routes
from webmesh.exceptions import ReplyLost, RequestTimeout
from webmesh.known_routes import KnownRoutes
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer


def knowing(*listing: Any) -> KnownRoutes:
    routes = KnownRoutes()
    routes.learn(list(listing))
    return routes


def route(path: str, idempotent: Any = True) -> dict[str, Any]:
    return {"path": path, "idempotent": idempotent, "signature": "()", "doc": ""}


def test_before_it_has_learnt_nothing_is_idempotent() -> None:
    """Sending twice on a guess could do harm."""
    assert not KnownRoutes().idempotent("/a")


def test_paths_are_matched_as_the_server_does() -> None:
    """A fixed path wins over a parameter, whichever of them is idempotent."""
    routes = knowing(route("/a"), route("/b", False), route("/x/<name>"), route("/x/fixed", False), route("/y/<int:n>"))
    expected = {"/a": True, "/b": False, "/c": False, "/x/1": True, "/x/fixed": False, "/y/1": True, "/y/z": False}
    assert expected == {path: routes.idempotent(path) for path in expected}


OWN_KIND = [
    ([route("/x/<hex:n>")], "/x/1", True),
    ([route("/x/<hex:n>"), route("/x/<name>", False)], "/x/1", False),  # it may be no such kind
    ([route("/x/<hex:n>"), route("/<path:rest>", False)], "/x/1", False),
    ([route("/x/<hex:n>/y"), route("/x/<name>/z", False)], "/x/1/y", True),
    ([route("/x/<hex:n>"), route("/x/<name>/<path:rest>", False)], "/x/1", True),
    ([route("/x/<hex:n>/y"), route("/<str:a>/<str:b>/y", False)], "/x/1/y", False),
    ([route("/x/<hex:n>"), route("/x/<int:n>", False)], "/x/a", True),  # which would win there, too
    ([route("/x/<hex:n>"), route("/x/<int:n>", False)], "/x/1", False),
    ([route("/x/<hex:n>"), route("/x/fixed", False)], "/x/fixed", False),
    ([route("/x/<name>"), route("/x/<hex:n>", False)], "/x/1", False),
    ([route("/x/<hex:n>"), route("/x/<code:c>", False)], "/x/1", False),
    ([route("/x/<h-x:n>"), route("/y/<name>")], "/y/1", False),
]


@pytest.mark.parametrize(("listing", "path", "idempotent"), OWN_KIND)
def test_a_kind_of_parameter_that_only_the_server_knows(listing: list[Any], path: str, idempotent: bool) -> None:
    """It is taken for any segment; a path counts as idempotent only if all routes are that it may lead to."""
    assert idempotent is knowing(route("/a"), *listing).idempotent(path)
    assert knowing(route("/a"), *listing).idempotent("/a")


def test_more_patterns_than_can_be_held_against_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of them then: the hub has better things to do."""
    monkeypatch.setattr(known_routes, "MOST_COMPARED", 1)
    routes = knowing(route("/a"), route("/x/<hex:n>"), route("/y/<name>", False), route("/z/<name>", False))
    assert [True, False] == [routes.idempotent(path) for path in ("/a", "/x/1")]


@pytest.mark.parametrize("listing", [None, 7, "text", {}, [None, 7, {}, {"path": 7}, {"path": "/a"}, route("/a", 1)]])
def test_an_answer_that_makes_no_sense_is_no_knowledge(listing: Any) -> None:
    """And no error."""
    routes = knowing(route("/a"))
    routes.learn(listing)
    assert not routes.idempotent("/a")


def test_a_client_learns_from_the_server_that_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the background, once a call was made."""
    monkeypatch.setattr(known_routes, "LEARN_AFTER", 0.001)
    server = WebMeshServer()
    server.on("/a", idempotent=True)(lambda payload, path, client: payload)
    server.on("/b")(lambda payload, path, client: payload)
    with running(server):
        client = WebMeshClient(server.url)
        client.call("/b", timeout=PATIENCE)
        knows = client._attempts._routes
        assert wait_for(lambda: knows.idempotent("/a"))
        assert not knows.idempotent("/b")
        client.close()


def test_a_connection_that_is_not_used_is_not_asked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with ten thousand idle clients has better things to do."""
    monkeypatch.setattr(known_routes, "LEARN_AFTER", 0.001)
    asked: list[int] = []

    class Connection:
        open = True

        @property
        def requests(self) -> tuple[int, int]:
            asked.append(1)
            self.open = len(asked) < 3
            return 7, 0

        def call(self, path: str) -> Any:
            return called.append(path)

    called: list[str] = []
    routes = KnownRoutes()
    routes._learn(Connection(), 7)  # type: ignore[arg-type]
    assert (3, ["$routes"]) == (len(asked), called)


@pytest.mark.parametrize(("error", "asks"), [
    (ReplyLost("$routes", started=True, code=1006), 2), (RequestTimeout("$routes", 1), 2),
    (ReplyLost("$routes", started=True, code=1009), 1),
])  # fmt: skip
def test_only_an_answer_that_ends_the_connection_is_never_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception, asks: int
) -> None:
    """What else goes wrong says nothing of the next connection."""
    monkeypatch.setattr(known_routes, "LEARN_AFTER", 0)
    outcomes: list[Any] = [error, [route("/a")]]

    class Connection:
        open, requests = True, (0, 0)

        def call(self, path: str) -> Any:
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

    routes = KnownRoutes()
    for _ in range(2):
        connection: Any = Connection()
        routes.opened(connection)
        connection.requests = (1, 0)
        if routes._learning is not None:
            routes._learning.join(PATIENCE)
    assert (2 - asks, asks == 2) == (len(outcomes), routes.idempotent("/a"))
