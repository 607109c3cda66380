"""Authorisation: which calls get through, on servers and in policies; checked for each call."""

from __future__ import annotations

import time
from typing import Any

import pytest
from gevent.event import Event
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.running import PATIENCE, connected, running, wait_for
from webmesh.auth import Credentials, Identity
from webmesh.authorisation import Policy, Requirement, requirement
from webmesh.call import Call
from webmesh.exceptions import ConfigurationError, PermissionDenied, RemoteError, Unauthenticated
from webmesh.routing import Router
from webmesh.testing import RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

ADMIN = {"Authorization": "Bearer ann:admin,staff"}
NOBODY = {"Authorization": "Bearer bob:"}


def by_roles(credentials: Credentials) -> Identity | None:
    """`subject:role,role`: a token that anybody can make, for tests."""
    subject, _, roles = (credentials.token or "").partition(":")
    return Identity(subject, frozenset(filter(None, roles.split(",")))) if subject else None


class Clock:
    """An object to be mounted."""

    def hour(self) -> int:
        """It stands still."""
        return 12


def server_with(**options: Any) -> WebMeshServer:
    return WebMeshServer(authenticate=by_roles, **options)


def answer(payload: Any, path: str, client: Any, **arguments: Any) -> str:
    return "done"


def outcome(client: WebMeshClient, path: str) -> str:
    """What a call is answered with, or the code of its error."""
    try:
        return str(client.call(path, timeout=PATIENCE))
    except RemoteError as error:
        return error.code


# ------------------------------------------------------------------------ routes


@pytest.mark.parametrize("requires", ["admin", ["admin"], ("root", "admin"), {"admin"}, frozenset({"admin"})])
def test_any_of_the_roles_suffices(requires: Any) -> None:
    """However they are written down; whoever has none of them is told so."""
    server = server_with()
    server.on("/a", requires=requires)(answer)
    with running(server):
        with WebMeshClient(server.url, headers=ADMIN) as admin, WebMeshClient(server.url, headers=NOBODY) as nobody:
            assert ("done", "permission_denied") == (outcome(admin, "/a"), outcome(nobody, "/a"))


def test_a_function_of_the_call_may_decide() -> None:
    """It sees whose call it is, and what it asks for; only True lets it through."""
    server = server_with()
    own = server.on("/users/<name>", requires=lambda call: call.arguments["name"] == call.connection.identity.subject)
    own(answer)
    for number, verdict in enumerate([1, "yes", None, object(), (step for step in (True,))]):
        server.on(f"/odd/{number}", requires=lambda call, verdict=verdict: verdict)(answer)
    with connected(server, headers=ADMIN) as client:
        assert "done" == outcome(client, "/users/ann")
        assert "permission_denied" == outcome(client, "/users/bob")
        assert ["permission_denied"] * 5 == [outcome(client, f"/odd/{number}") for number in range(5)]


def test_a_policy_that_crashes_lets_nobody_through() -> None:
    """It is an incident like any; one that raises an error of the wire has answered."""

    def failing(call: Call) -> bool:
        raise KeyError("x")

    def refusing(call: Call) -> bool:
        raise PermissionDenied("after hours")

    server = server_with()
    server.on("/crash", requires=failing)(answer)
    server.on("/late", requires=refusing)(answer)
    with connected(server, headers=ADMIN) as client:
        assert "internal" == outcome(client, "/crash")
        with pytest.raises(PermissionDenied, match="after hours"):
            client.call("/late", timeout=PATIENCE)


def test_what_is_denied_reaches_neither_middleware_nor_handler() -> None:
    """And a notification is dropped like any that fails."""
    ran: list[str] = []
    server = server_with()
    server.middleware(lambda call, call_next: (ran.append(call.path), call_next(call))[1])
    server.on("/a", requires="root")(lambda payload, path, client: ran.append("handler"))
    server.on("/last")(answer)
    with connected(server, headers=ADMIN) as client:
        client.notify("/a")
        assert "permission_denied" == outcome(client, "/a")
        assert "done" == outcome(client, "/last")
    assert ["/last"] == ran


@pytest.mark.row(56, 57)
def test_what_is_remembered_is_for_those_who_may_ask_now() -> None:
    """A repeat of a keyed call is refused like any other once the role is gone, and answered again when it is back."""
    server, ran = server_with(), []
    server.on("/a", requires="admin")(lambda payload, path, client: ran.append(payload))

    with connected(server, headers=ADMIN, session=False) as client:
        client.call("/a", 1, idempotency_key="k", timeout=PATIENCE)
        (connection,) = server.connections
        allowed, connection.identity = connection.identity, Identity("ann", frozenset())
        with pytest.raises(PermissionDenied):
            client.call("/a", 1, idempotency_key="k", timeout=PATIENCE)
        connection.identity = allowed
        client.call("/a", 1, idempotency_key="k", timeout=PATIENCE)
    assert [1] == ran


def test_a_repeat_that_waited_is_checked_once_more() -> None:
    """Who has lost its role while the first call ran gets nothing of its outcome."""
    inside, going_on = Event(), Event()

    def wait(payload: Any, path: str, client: Any) -> str:
        inside.set()
        going_on.wait(PATIENCE)
        return "secret"

    observer = RecordingObserver()
    server = server_with(observer=observer)
    server.on("/a", requires="admin")(wait)
    with connected(server, headers=ADMIN) as client, WebMeshClient(server.url, headers=ADMIN) as other:
        first = client.spawn("/a", 1, idempotency_key="k", timeout=PATIENCE)
        assert inside.wait(PATIENCE)
        repeat = other.spawn("/a", 1, idempotency_key="k", timeout=PATIENCE)
        assert wait_for(lambda: ("request", "repeated") in observer.named("refused"))
        for connection in server.connections:
            connection.identity = Identity("ann")
        going_on.set()
        assert "secret" == first.result()
        with pytest.raises(PermissionDenied):
            repeat.result()


def test_streams_and_threads_are_checked_too() -> None:
    """Before the first item; wherever the handler would run."""
    server = server_with()
    server.on("/items", requires="root")(lambda payload, path, client: iter(range(3)))
    server.on("/isolated", requires="root", isolate=True, blocking=False)(answer)
    server.on("/queued", requires="root", order="peer", max_in_flight=1)(answer)
    with connected(server, headers=ADMIN) as client:
        with pytest.raises(PermissionDenied):
            list(client.stream("/items", timeout=PATIENCE))
        assert ["permission_denied"] * 4 == [outcome(client, path) for path in ("/isolated", "/queued") * 2]


def test_who_may_not_call_takes_no_place() -> None:
    """Roles are looked at before `max_in_flight`: the one place is for those who may have it."""
    inside, going_on = Event(), Event()

    def wait(payload: Any, path: str, client: Any) -> None:
        inside.set()
        going_on.wait(PATIENCE)

    server = server_with()
    server.on("/one", requires="admin", max_in_flight=1)(wait)
    with connected(server, headers=ADMIN) as client, WebMeshClient(server.url, headers=NOBODY) as other:
        running_now = client.spawn("/one", timeout=PATIENCE)
        assert inside.wait(PATIENCE)
        assert "permission_denied" == outcome(other, "/one")
        assert "resource_exhausted" == outcome(client, "/one")
        going_on.set()
        running_now.result()


@pytest.mark.row(56)
def test_a_role_that_was_taken_away_is_missing_at_once() -> None:
    """Each call is checked, by what its connection's identity is then; so is an identity that has expired since."""
    server = server_with()
    server.on("/a", requires="admin")(answer)
    with connected(server, headers=ADMIN) as client:
        assert "done" == outcome(client, "/a")
        (connection,) = server.connections
        connection.identity = Identity("ann", frozenset({"staff"}))
        assert "permission_denied" == outcome(client, "/a")
        connection.identity = Identity("ann", frozenset({"admin"}), expires_at=time.time() - 1)
        assert outcome(client, "/a") in ("unauthenticated", "ReplyLost")


def test_a_server_may_require_something_of_all_its_routes() -> None:
    """`mount` and `include` as well; a route's own word counts more, and an empty list asks for nothing."""
    server = server_with(requires="admin")
    server.on("/plain")(answer)
    server.on("/open", requires=[])(answer)
    server.on("/root", requires="root")(answer)
    server.mount("/clock", Clock())
    server.mount("/free", Clock(), requires=())
    included = Router()
    included.add("/own", answer, requires=())
    included.add("/default", answer)
    server.include("/sub", included)
    with running(server):
        with WebMeshClient(server.url, headers=NOBODY) as nobody, WebMeshClient(server.url, headers=ADMIN) as admin:
            denied = ["/plain", "/root", "/clock/hour", "/sub/default"]
            assert ["permission_denied"] * 4 == [outcome(nobody, path) for path in denied]
            assert ["done", "done", "12"] == [outcome(nobody, path) for path in ("/open", "/sub/own", "/free/hour")]
            assert ["done", "permission_denied"] == [outcome(admin, path) for path in ("/plain", "/root")]
            nobody.call("$info", timeout=PATIENCE)


def test_plain_routes_are_checked_at_the_upgrade() -> None:
    """By roles or by a function; 403 for whoever may not."""
    server = server_with(requires="staff")
    server.websocket("/staff")(lambda connection: connection.send("hi"))
    server.websocket("/rooms/<name>", requires=lambda call: call.arguments["name"] == call.connection.identity.subject)(
        lambda connection, name: connection.send(name)
    )

    def status(path: str, headers: dict[str, str]) -> int | str:
        try:
            with connect(f"{server.url}{path}", additional_headers=headers, open_timeout=PATIENCE) as peer:
                return str(peer.recv(PATIENCE))
        except InvalidStatus as refused:
            return refused.response.status_code

    with running(server):
        assert ["hi", 403, 401] == [status("/staff", headers) for headers in (ADMIN, NOBODY, {})]
        assert ["bob", 403] == [status("/rooms/bob", headers) for headers in (NOBODY, ADMIN)]


def test_a_policy_works_without_logins_too() -> None:
    """As by address; of a plain route as well. Nobody is known, so a refusal says that a login is missing."""
    server = WebMeshServer(requires=lambda call: call.path != "/b" and call.connection.address.startswith("127."))
    server.on("/a")(answer)
    server.on("/b")(answer)
    server.websocket("/c")(lambda connection: connection.send("hi"))
    with connected(server) as client:
        assert ["done", "unauthenticated"] == [outcome(client, path) for path in ("/a", "/b")]
        with connect(f"{server.url}/c", open_timeout=PATIENCE) as peer:
            assert "hi" == peer.recv(PATIENCE)


@pytest.mark.parametrize("wrong", [7, b"admin", [1], [""], "", [None], True, {"a": 1, 2: 3}])
def test_what_is_no_requirement_is_refused_at_registration(wrong: Any) -> None:
    """A role that nobody can have would close a route for good."""
    with pytest.raises(ConfigurationError, match="requires"):
        WebMeshServer().on("/a", requires=wrong)
    with pytest.raises(ConfigurationError, match="requires"):
        WebMeshServer(requires=wrong)


def test_what_asks_for_nothing_is_no_requirement() -> None:
    """So it costs nothing."""
    assert [None, None, None] == [requirement(None), requirement([]), requirement((), Requirement("admin"))]
    assert isinstance(requirement(None, Requirement("admin")), Requirement)


# --------------------------------------------------------------------- policies

ANN = Identity("ann", frozenset({"staff"}))


@pytest.mark.parametrize(
    ("pattern", "allowed", "denied"),
    [
        ("/orders/**", ["/orders/1", "orders/1/lines"], ["/orders", "/other/1", "/"]),
        ("/orders/*", ["/orders/1"], ["/orders/1/lines", "/orders"]),
        ("/*/lines", ["/a/lines"], ["/lines", "/a/b/lines", "/a/lines/"]),
        ("/users/{subject}", ["/users/ann"], ["/users/bob", "/users/{subject}", "/users/"]),
        ("/**", ["/", "/a", "/a/b"], []),
        ("/a", ["/a", "a"], ["/A", "/a/", "//a"]),
    ],
)
def test_a_policy_allows_what_matches(pattern: str, allowed: list[str], denied: list[str]) -> None:
    """And nothing else."""
    policy = Policy().allow("subscribe", pattern, "staff", "admin")

    assert allowed == [name for name in allowed + denied if policy.allows(ANN, "subscribe", name)]


def test_a_policy_forbids_what_it_does_not_name() -> None:
    """Other actions, other roles, nobody, and whose login is over."""
    policy = Policy().allow("publish", "/news", "editor").allow("call", "/time")

    assert policy.allows(Identity("ed", frozenset({"editor"})), "publish", "/news")
    assert not policy.allows(Identity("ed", frozenset({"editor"})), "subscribe", "/news")
    assert not policy.allows(ANN, "publish", "/news")
    assert policy.allows(ANN, "call", "/time")
    assert not policy.allows(None, "call", "/time")
    assert not policy.allows(Identity("ann", expires_at=time.time() - 1), "call", "/time")


def test_a_policy_serves_as_requirement_of_a_whole_server() -> None:
    """By the paths of its calls."""
    server = server_with(requires=Policy().allow("call", "/users/{subject}").allow("call", "/admin/**", "admin"))
    for path in ("/users/<name>", "/admin/stop", "/other"):
        server.on(path)(answer)
    with connected(server, headers=NOBODY) as client:
        paths = ("/users/bob", "/users/ann", "/admin/stop", "/other")
        assert ["done", *["permission_denied"] * 3] == [outcome(client, path) for path in paths]


@pytest.mark.parametrize(("action", "pattern"), [("read", "/a"), ("call", "/**/a"), ("", "/a")])
def test_a_rule_that_makes_no_sense_is_refused(action: str, pattern: str) -> None:
    """Or it would silently never match."""
    with pytest.raises(ConfigurationError):
        Policy().allow(action, pattern)


def test_nobody_is_not_somebody() -> None:
    """Where no identity is known, roles are missing a login, not a role."""
    visitor: Any = type("Visitor", (), {"identity": None})()
    with pytest.raises(Unauthenticated):
        Requirement("admin").check(Call("/a", None, {}, visitor))
