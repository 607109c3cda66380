"""What a client keeps while its connections come and go: its session, its streams, its login."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from tests.running import wait_for
from tests.session_node import PATIENCE, Node, node
from webmesh.client_session import ClientSession
from webmesh.exceptions import (
    ConnectionClosed, HandlerFailed, InvalidArgument, NotFound, Overloaded, PermissionDenied, RemoteError,
    ReplyLost, RequestTimeout, RouteNotFound, Unauthenticated, Unavailable,
)  # fmt: skip
from webmesh.execution import Executor
from webmesh.options import Timeouts
from webmesh.routing import Router
from webmesh.testing import connection_pair


def counting() -> Router:
    router = Router()

    @router.on("/count")
    def count(payload: int, path: str, client: Any) -> Iterator[int]:
        yield from range(payload)

    @router.on("/wait", blocking=False)
    def wait(payload: Any, path: str, client: Any) -> None:
        gevent.sleep(PATIENCE)

    return router


class Server:
    """What a peer answers to `$hello` that is not ours: whatever it is told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.said: list[Any] = []
        self.router = Router()
        self.router.add("$hello", self.hello, reserved=True, blocking=False)

    def hello(self, payload: Any, path: str, client: Any) -> Any:
        self.said.append(payload)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(payload) if callable(self.answer) else self.answer


def greet(session: ClientSession, connection: Any, seconds: float = PATIENCE) -> Any:
    return connection._home.run(session.greet, connection, seconds)


# ------------------------------------------------------------------------ greeting


def test_a_greeting_tells_who_the_server_is() -> None:
    """Its session is new; the id is a secret, which no log shows."""
    with node() as mesh:
        _, server, greeting = mesh.greeted(mesh.client())

        assert (False, "node") == (greeting.resumed, greeting.node["name"])
        assert mesh.of(server).id == greeting.session
        assert greeting.session not in repr(greeting)
        assert {"id": "c", "name": "client"} == server.metadata["node"]
        assert 30_000 == greeting.limits["session_ms"]


def test_wills_that_the_server_does_not_take_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """In the log and to the link; whatever else stands there is none."""
    answer = {"session": "s", "epoch": "e", "resumed": True, "refused_wills": ["mine", 7, "x" * 99]}
    with connection_pair(server=Server(answer).router) as (client, _):
        greeting = greet(ClientSession({}), client)
    assert ("mine", "x" * 64) == greeting.refused_wills
    assert [greeting.refused_wills] == [record.wills for record in caplog.records if hasattr(record, "wills")]


@pytest.mark.parametrize("answer", [None, 7, [], {}, {"session": 9, "resumed": "yes", "limits": 3, "streams": 4}])
def test_a_server_without_sessions_is_used_without(answer: Any) -> None:
    """Whatever it makes of the path; a stream that was lost there fails at once, as ever."""
    server = Server(answer)
    session = ClientSession({})
    with connection_pair(server=server.router) as (client, accepted):
        assert ("", False) == ((greeting := greet(session, client)).session, greeting.resumed)
        accepted.abort()
        client.wait_closed(PATIENCE)
        assert not session.waiting


def test_a_server_that_does_not_know_the_path_is_used_without_sessions() -> None:
    """As every program that does not speak of sessions."""
    with connection_pair(server=Router()) as (client, _):
        assert "" == greet(ClientSession({}), client).session


@pytest.mark.parametrize("refusal", [Unauthenticated("no"), PermissionDenied("no")])
def test_a_refused_login_is_told(refusal: Exception) -> None:
    """As the error that it is: trying again with the same token is of no use."""
    with connection_pair(server=Server(refusal).router) as (client, _), pytest.raises(type(refusal)):
        greet(ClientSession({}, "token"), client)


@pytest.mark.parametrize(
    "refusal", [InvalidArgument("a will"), HandlerFailed("oops"), Overloaded("too many wills", retryable=False)]
)
def test_a_server_that_refuses_what_is_said_is_not_used_without_sessions(refusal: RemoteError) -> None:
    """The program would have no session, no login and no wills, and not know it."""
    with connection_pair(server=Server(refusal).router) as (client, _), pytest.raises(type(refusal)):
        greet(ClientSession({}), client)


@pytest.mark.parametrize("refusal", [NotFound("no such thing"), RouteNotFound("what?")])
def test_a_server_that_finds_no_such_path_is_used_without_sessions(refusal: RemoteError) -> None:
    """However it says so."""
    with connection_pair(server=Server(refusal).router) as (client, _):
        assert "" == greet(ClientSession({}), client).session


@pytest.mark.parametrize("refusal", [Unavailable("closing"), Overloaded("full")])
def test_a_server_that_cannot_take_us_now_is_a_failed_attempt(refusal: Exception) -> None:
    """Another one may follow."""
    with connection_pair(server=Server(refusal).router) as (client, _), pytest.raises(ConnectionClosed) as raised:
        greet(ClientSession({}), client)
    assert 1013 == raised.value.code


@pytest.mark.row(1)
def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    """Longer than the attempt may take."""
    with connection_pair(server=Server(lambda _: gevent.sleep(PATIENCE)).router) as (client, _):
        with pytest.raises(RequestTimeout):
            greet(ClientSession({}), client, 0.05)


@pytest.mark.row(71)
def test_a_connection_that_ends_in_the_greeting_is_a_failed_attempt() -> None:
    """And what was kept stays kept."""
    def end(_: Any) -> None:
        accepted.abort()

    with connection_pair(server=Server(end).router) as (client, accepted), pytest.raises(ConnectionClosed):
        greet(ClientSession({}), client)


# --------------------------------------------------------------------------- tokens


def test_a_token_is_told_and_made_anew_each_time() -> None:
    """In a plain process by a thread: it may ask somebody else."""
    made: list[int] = []
    executor = Executor(1, 1)

    def token() -> str:
        made.append(len(made))
        return f"token {len(made)}"

    server = Server({})
    with connection_pair(server=server.router) as (client, _):
        session = ClientSession({}, token)
        session.executor = executor
        greet(session, client)
        greet(session, client)
        client._home.run(executor.close, 1)
    with connection_pair(server=server.router) as (client, _):
        greet(ClientSession({}, "fixed"), client)

    assert ["token 1", "token 2", "fixed"] == [said["token"] for said in server.said]


@pytest.mark.row(56)
def test_a_login_is_renewed_before_it_expires() -> None:
    """By the same connection, with a new token; as long as it lasts."""
    tokens = iter("abcdef")
    server = Server(lambda said: {"session": "s", "epoch": "e", "expires_ms": 20})
    with connection_pair(server=server.router) as (client, _):
        assert 0.02 == greet(ClientSession({}, lambda: next(tokens)), client).expires_in
        assert wait_for(lambda: len(server.said) >= 3)
    assert ["a", "b", "c"] == [said["token"] for said in server.said][:3]


def test_a_fixed_token_is_not_renewed() -> None:
    """There is no other."""
    server = Server({"session": "s", "expires_ms": 10})
    with connection_pair(server=server.router) as (client, _):
        session = ClientSession({}, "token")
        greet(session, client)
        assert session._renewal is None


@pytest.mark.row(93)
def test_a_token_that_cannot_be_made_anew_breaks_nothing() -> None:
    """The server decides what comes of a login that has not been renewed."""
    calls: list[int] = []

    def token() -> str:
        calls.append(1)
        if len(calls) > 1:
            raise ZeroDivisionError
        return "t"

    with connection_pair(server=Server({"session": "s", "expires_ms": 10}).router) as (client, _):
        greet(ClientSession({}, token), client)
        assert wait_for(lambda: len(calls) == 2)
        client.call("$hello", timeout=PATIENCE)


# -------------------------------------------------------------------- loss and end


def lost_stream(mesh: Node, session: ClientSession, count: int = 100) -> Any:
    client, _, _ = mesh.greeted(session)
    stream = client.stream("/count", count)
    assert 0 == stream.take(PATIENCE)
    mesh.cut(client)
    return stream


def taken(stream: Any) -> list[Any]:
    """What can still be taken before the stream has failed."""
    got = []
    with pytest.raises(ReplyLost):
        while True:
            got.append(stream.take(PATIENCE))
    return got


@pytest.mark.row(69)
def test_a_stream_fails_when_the_session_is_not_resumed() -> None:
    """Its handler may have run; what had come before can still be read."""
    with node(counting()) as mesh:
        session = mesh.client()
        stream = lost_stream(mesh, session)
        assert session.waiting
        mesh.run(mesh.sessions.close)
        _, _, greeting = mesh.greeted(session)

        assert not greeting.resumed
        assert not session.waiting
        taken(stream)


def test_a_stream_fails_when_there_is_no_connection_in_time() -> None:
    """After as long as the server keeps a session."""
    with node(counting(), timeouts=Timeouts(session=0.05)) as mesh:
        stream = lost_stream(mesh, mesh.client())
        taken(stream)


def test_a_stream_fails_when_the_client_gives_up() -> None:
    """With what it gave up for."""
    with node(counting()) as mesh:
        session = mesh.client()
        stream = lost_stream(mesh, session)
        mesh.run(session.ended, ConnectionClosed(4503, "kicked"))
        with pytest.raises(ReplyLost) as raised:
            list(stream)

    assert 4503 == raised.value.code


def test_streams_end_with_their_connection_where_nobody_dials_the_next() -> None:
    """Their reader would wait for whatever else the program does; the session goes on when it does."""
    with node(counting()) as mesh:
        session = mesh.client(keeps_streams=False)
        stream = lost_stream(mesh, session)
        assert not session.waiting
        taken(stream)
        assert mesh.greeted(session)[2].resumed


@pytest.mark.row(71)
def test_calls_fail_at_once() -> None:
    """And so do streams with items of ours, and those of a peer that turns us away."""
    with node(counting()) as mesh:
        session = mesh.client()
        client, server, _ = mesh.greeted(session)
        future = client.spawn("/wait")
        duplex = client.stream("/wait", items=True)
        mesh.cut(client)
        with pytest.raises(ReplyLost):
            future.result()
        taken(duplex)
        assert not session.waiting
        client, server, _ = mesh.greeted(session)
        stream = client.stream("/wait")
        server.close(4503, "kicked", timeout=PATIENCE)
        taken(stream)


def test_leaving_ends_the_session() -> None:
    """The server keeps nothing for who has said goodbye."""
    with node(counting()) as mesh:
        session = mesh.client()
        client, server, _ = mesh.greeted(session)
        stream = client.stream("/count", 1000)
        mesh.run(session.leave, client)
        assert wait_for(lambda: mesh.of(server).over)
        mesh.cut(client)

        assert not session.waiting
        taken(stream)


def test_requests_are_counted_on() -> None:
    """No id of a stream that goes on is used again."""
    with node(counting()) as mesh:
        session = mesh.client()
        client, _, _ = mesh.greeted(session)
        streams = [client.stream("/count", 200) for _ in range(5)]
        mesh.cut(client)
        client, _, _ = mesh.greeted(session)
        streams += [client.stream("/count", 200) for _ in range(5)]

        assert 10 == len({stream._request.id for stream in streams if stream._request is not None})
        results = []
        for stream in streams:
            try:
                results.append(len(list(stream)))
            except ReplyLost:  # the request was cut before it had arrived
                results.append(200)
        assert [200] * 10 == results


@pytest.mark.row(73)
def test_a_stream_that_is_given_up_while_the_server_is_asked_is_cancelled() -> None:
    """The server goes on with it, so it has to be told."""
    closed: list[int] = []
    router = Router()

    @router.on("/count")
    def count(payload: int, path: str, client: Any) -> Iterator[int]:
        try:
            yield from range(payload)
        except GeneratorExit:
            closed.append(payload)
            raise

    with node(router) as mesh:
        session = mesh.client()
        stream = lost_stream(mesh, session, 1000)
        dialled, _ = mesh.link()

        def greet_and_give_up() -> None:
            greeting = gevent.spawn(session.greet, dialled, PATIENCE)
            gevent.sleep(0)
            stream.close()
            greeting.get(timeout=PATIENCE)

        mesh.run(greet_and_give_up)

        assert wait_for(lambda: closed == [1000])
        with pytest.raises(ConnectionClosed):
            list(stream)


@pytest.mark.row(70)
def test_what_is_read_while_the_server_is_asked_is_granted_when_it_has_answered() -> None:
    """The position that it was told of is older than that credit, and nothing else would ever tell it."""
    with node(counting()) as mesh:
        session = mesh.client()
        client, _, _ = mesh.greeted(session)
        stream = client.stream("/count", 12, credit=4)
        request = stream._request
        assert request is not None and request.receiver is not None
        receiver = request.receiver
        assert wait_for(lambda: receiver.seq == 4)
        mesh.cut(client)
        dialled, _ = mesh.link()

        def greet_and_read() -> None:
            greeting = gevent.spawn(session.greet, dialled, PATIENCE)
            gevent.sleep(0)
            assert [0, 1, 2, 3] == [stream.take(0) for _ in range(4)]
            greeting.get(timeout=PATIENCE)

        mesh.run(greet_and_read)
        assert list(range(4, 12)) == [stream.take(PATIENCE) for _ in range(8)]
