"""The login of a server: what is read before it, by when it has to be there, and how each way of it ends."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import gevent
import pytest
from gevent.event import Event
from websockets.exceptions import ConnectionClosed as PeerClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.running import PATIENCE, connected, native_threads, running, wait_for
from webmesh.auth import Credentials, Identity
from webmesh.exceptions import ConnectionClosed as PeerLost
from webmesh.exceptions import (
    ConfigurationError, HandlerFailed, HandshakeRejected, Overloaded, PermissionDenied, ReplyLost, Unauthenticated,
    Unavailable,
)  # fmt: skip
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.options import Limits, Timeouts
from webmesh.testing import RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

TOKENS = {"t-ann": "ann", "t-ann-2": "ann", "t-eve": "eve"}
SHORT = Timeouts(login=0.3)
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Authorization: Bearer t-ann\r\n\r\n"
)


def by_table(credentials: Credentials) -> Identity | str | None:
    """An authenticator as a program may write one; "boom" crashes it, "no" and "never" are refused."""
    token = credentials.token
    if token == "boom":
        raise KeyError(token)
    if token == "no":
        raise Unauthenticated("go away")
    if token == "never":
        raise PermissionDenied("banned")
    return TOKENS.get(token or "")


def guarded_server(authenticate: Any = by_table, **options: Any) -> WebMeshServer:
    server = WebMeshServer(authenticate=authenticate, serializer_type=StandardJsonSerializer, **options)
    server.on("/who")(lambda payload, path, client: client.identity.subject)
    return server


@contextmanager
def peer(server: WebMeshServer, token: str | None = None, path: str = "", **options: Any) -> Iterator[ClientConnection]:
    """A foreign client, that says nothing by itself."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with connect(f"{server.url}{path}", additional_headers=headers, open_timeout=PATIENCE, **options) as one:
        yield one


def ended(one: ClientConnection) -> tuple[int, str]:
    """Code and reason with which the server closes, after whatever else it says."""
    with pytest.raises(PeerClosed) as closed:
        while True:
            one.recv(PATIENCE)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def hello(one: ClientConnection, token: str | None) -> str:
    one.send('{"path": "$hello", "id": 1, "data": {"token": "%s"}}' % token if token else '{"path": "$hello", "id": 1}')
    return str(one.recv(PATIENCE))


def try_to_connect(server: WebMeshServer, **options: Any) -> None:
    """What `WebMeshClient.connect` raises; nothing of the client is left."""
    with closing(WebMeshClient(server.url, **options)) as client:
        client.connect()


# ------------------------------------------------------------------- before a login


@pytest.mark.row(53)
def test_a_silent_peer_is_closed_in_time() -> None:
    """Within `Timeouts.login`, and counted."""
    observer = RecordingObserver()
    with running(guarded_server(timeouts=SHORT, observer=observer)) as server, peer(server) as one:
        assert (4500, "no login in time") == ended(one)
    assert ["no login in time"] == [outcome for _, outcome in observer.named("login_finished")]


@pytest.mark.row(53)
@pytest.mark.parametrize(
    "message",
    ['{"path": "/who", "id": 1}', '{"path": "/who"}', '{"path": "$info", "id": 1}', '{"path": "$goodbye"}',
     '{"id": 1, "data": 1}', '{"id": 1, "cancel": true}', '{"topic": "a", "data": 1}', '{"path": "$hello/", "id": 1}',
     "{}", "[]", "null", '"$hello"'],
)  # fmt: skip
def test_nothing_but_hello_is_acted_on_before_a_login(message: str) -> None:
    """Whatever else comes ends the connection; no handler runs, and nothing is answered."""
    ran: list[str] = []
    server = guarded_server()
    server.middleware(lambda call, call_next: ran.append(call.path))
    with running(server), peer(server) as one:
        one.send(message)
        with suppress(PeerClosed):  # the server may have been quicker
            one.send('{"path": "/who", "id": 2}')

        assert (4500, "log in first, by $hello") == ended(one)
    assert [] == ran


@pytest.mark.row(53)
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_message_of_5_kib_before_a_login_ends_it(compression: str | None) -> None:
    """Inflated, that is: what a stranger can make us decode is small."""
    padding = "x" * 5120
    with running(guarded_server(compression=True)) as server, peer(server, compression=compression) as one:
        one.send('{"path": "$hello", "id": 1, "data": {"token": "t-ann", "x": "%s"}}' % padding)

        assert 1009 == ended(one)[0]


@pytest.mark.row(30)
def test_a_bomb_before_a_login_is_not_inflated() -> None:
    """The serializer's own compression is held to the same 4 KiB."""
    server = WebMeshServer(authenticate=by_table)
    with running(server), WebMeshClient(server.url, session=False) as client:
        with pytest.raises(ReplyLost, match="1009"):
            client.call("$hello", {"token": "t-ann", "x": "0" * 100_000}, timeout=PATIENCE)


@pytest.mark.row(53)
def test_after_the_login_all_is_as_without_one() -> None:
    """Large messages too, whichever the serializer."""
    server = WebMeshServer(authenticate=by_table)
    server.on("/size")(lambda payload, path, client: len(payload))
    with running(server), WebMeshClient(server.url, session=False) as client:
        client.call("$hello", {"token": "t-ann"}, timeout=PATIENCE)

        assert 500_000 == client.call("/size", "0" * 500_000, timeout=PATIENCE)


@pytest.mark.row(53)
def test_the_program_does_not_know_of_those_who_wait() -> None:
    """Connections are listed, and told to `on_connect` and `on_disconnect`, once they have logged in."""
    told: list[tuple[str, Any]] = []
    server = guarded_server()
    server.on_connect(lambda connection: told.append(("came", connection.identity)))
    server.on_disconnect(lambda connection, why: told.append(("went", connection.identity)))
    with running(server):
        with peer(server) as one, peer(server) as stranger:
            stranger.ping().wait(PATIENCE)
            assert () == server.connections
            hello(one, "t-ann")
            assert ["ann"] == [connection.identity.subject for connection in server.connections]
        assert wait_for(lambda: len(told) == 2)

    assert [("came", Identity("ann")), ("went", Identity("ann"))] == told


@pytest.mark.row(53)
def test_who_has_not_logged_in_makes_place_for_others() -> None:
    """The oldest of them goes when the server is full; who has logged in stays."""
    with running(guarded_server(limits=Limits(connections=3))) as server:
        with peer(server, "t-ann") as ann, peer(server) as first, peer(server) as second:
            second.ping().wait(PATIENCE)
            with peer(server, "t-eve") as eve:
                for one in (ann, eve):
                    one.send('{"path": "/who", "id": 1}')
                    assert '"id":1' in str(one.recv(PATIENCE)).replace(" ", "")
                with pytest.raises(PeerClosed):
                    first.recv(PATIENCE)
                assert '"session"' in hello(second, "t-ann")
                with pytest.raises(InvalidStatus, match="503"), peer(server, "t-ann"):
                    pass


# --------------------------------------------------------------------- by $hello


@pytest.mark.parametrize("token", ["wrong", "no", None, "never"])
def test_a_hello_that_nobody_knows_is_answered_and_the_connection_closed(token: str | None) -> None:
    """With 4500: come back with another token or not at all."""
    with running(guarded_server()) as server, peer(server) as one:
        answer = hello(one, token)

        assert ("permission_denied" if token == "never" else "unauthenticated") in answer
        assert (4500, "login refused") == ended(one)


def test_a_token_must_be_a_text() -> None:
    """Which is told; the deadline goes on."""
    with running(guarded_server()) as server, peer(server) as one:
        one.send('{"path": "$hello", "id": 1, "data": {"token": ["t-ann"]}}')
        assert "invalid_argument" in str(one.recv(PATIENCE))
        assert '"session"' in hello(one, "t-ann")


@pytest.mark.row(54)
def test_a_crash_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    """The peer gets an incident's number; the log has it too, and the place, but no text that may quote the token."""
    with running(guarded_server()) as server, WebMeshClient(server.url, session=False) as client:
        connection = client.connect()
        with caplog.at_level(logging.DEBUG), pytest.raises(HandlerFailed) as failed:
            connection.call("$hello", {"token": "boom"}, timeout=PATIENCE)
        assert 1013 == connection.wait_closed(PATIENCE).code

    (record,) = [one for one in caplog.records if one.getMessage() == "authenticator failed"]
    fields: dict[str, Any] = vars(record)
    assert failed.value.details == {"incident": fields["incident"]}
    assert ("KeyError", True) == (fields["error"], "by_table" in fields["at"])
    assert "boom" not in caplog.text and "boom" not in str(fields)


@pytest.mark.row(93)
def test_an_authenticator_that_hangs_holds_up_only_its_peer() -> None:
    """It is given up after `Timeouts.login`; others log in meanwhile."""
    going_on = Event()

    def slow(credentials: Credentials) -> str | None:
        if credentials.token == "slow":
            going_on.wait(PATIENCE)
        return TOKENS.get(credentials.token or "")

    with running(guarded_server(slow, timeouts=Timeouts(login=0.4))) as server:
        with peer(server) as waits, peer(server) as one:
            waits.send('{"path": "$hello", "id": 1, "data": {"token": "slow"}}')
            assert '"session"' in hello(one, "t-ann")
            assert ended(waits)[0] in (4500, 1013)
            going_on.set()


@pytest.mark.row(93)
def test_an_authenticator_may_say_that_it_cannot_tell_now() -> None:
    """Any error of the wire is an answer; one that is retryable does not end a client for good."""

    def ill(credentials: Credentials) -> str:
        raise Unavailable("the directory is down")

    with running(guarded_server(ill)) as server, peer(server) as one:
        assert "the directory is down" in hello(one, "t-ann")
        assert 1013 == ended(one)[0]


# ---------------------------------------------------------------- at the upgrade


def test_a_header_decides_at_the_upgrade() -> None:
    """So such a client may call at once, without `$hello`."""
    with connected(guarded_server(), session=False, headers={"Authorization": "bearer  t-ann"}) as client:
        assert "ann" == client.call("/who", timeout=PATIENCE)


@pytest.mark.parametrize(
    ("token", "status"), [("wrong", 401), ("no", 401), ("never", 403), ("boom", 500), ("", 401), ("x" * 8000, 401)]
)
def test_a_header_that_is_no_login_is_refused(token: str, status: int) -> None:
    """With the status that fits; 401 says how to do it."""
    with running(guarded_server()) as server, pytest.raises(InvalidStatus) as refused, peer(server, token):
        pass

    response = refused.value.response
    assert status == response.status_code
    if status == 401:
        assert 'Bearer realm="webmesh", error="invalid_token"' == response.headers["WWW-Authenticate"]


def test_a_header_of_another_scheme_is_the_authenticators_to_read() -> None:
    """It gets all headers; what it does not know is refused."""

    def basic(credentials: Credentials) -> str | None:
        assert credentials.token is None
        return "ann" if credentials.headers.get("authorization") == "Basic YW5uOnB3" else None

    with running(guarded_server(basic)) as server:
        with WebMeshClient(server.url, session=False, headers={"Authorization": "Basic YW5uOnB3"}) as client:
            assert "ann" == client.call("/who", timeout=PATIENCE)
        with pytest.raises(HandshakeRejected, match="401"):
            try_to_connect(server, session=False, headers={"Authorization": "Basic eHg6eHg="})


def test_a_cookie_may_log_in() -> None:
    """As browsers send it; whose it is not may still say `$hello`."""

    def session(credentials: Credentials) -> str | None:
        return "ann" if credentials.headers.get("cookie") == "sid=1" else TOKENS.get(credentials.token or "")

    with running(guarded_server(session)) as server:
        with WebMeshClient(server.url, session=False, headers={"Cookie": "sid=1"}) as client:
            assert "ann" == client.call("/who", timeout=PATIENCE)
        with WebMeshClient(server.url, session=False, headers={"Cookie": "sid=2"}) as other:
            other.call("$hello", {"token": "t-eve"}, timeout=PATIENCE)
            assert "eve" == other.call("/who", timeout=PATIENCE)


def test_an_authenticator_that_is_too_slow_refuses_the_upgrade_for_now() -> None:
    """503 with Retry-After: it is not the peer's fault."""

    going_on = Event()

    def slow(credentials: Credentials) -> None:
        going_on.wait(PATIENCE)

    with running(guarded_server(slow, timeouts=SHORT)) as server:
        with pytest.raises(InvalidStatus) as refused, peer(server, "t-ann"):
            pass
        going_on.set()
    assert 503 == refused.value.response.status_code
    assert "Retry-After" in refused.value.response.headers


# ----------------------------------------------------------- guessing, and expiry


@pytest.mark.row(54)
def test_whoever_guesses_has_to_wait() -> None:
    """After some failures of one address nobody is asked any more; the right token does not help before the wait is
    over, and neither way in is a way around it."""
    asked: list[str | None] = []

    def counting(credentials: Credentials) -> Identity | str | None:
        asked.append(credentials.token)
        return by_table(credentials)

    with running(guarded_server(counting, limits=Limits(failed_logins=2))) as server:
        for token in ("wrong", "no"):
            with pytest.raises(HandshakeRejected, match="401"):
                try_to_connect(server, session=False, headers={"Authorization": f"Bearer {token}"})
        with pytest.raises(HandshakeRejected, match="429") as refused:
            try_to_connect(server, session=False, headers={"Authorization": "Bearer t-ann"})
        with WebMeshClient(server.url, session=False) as client, pytest.raises(Overloaded) as overloaded:
            client.call("$hello", {"token": "t-ann"}, timeout=PATIENCE)

    assert ["wrong", "no"] == asked
    assert refused.value.retry_after == 1
    assert overloaded.value.retry_after is not None and 0 < overloaded.value.retry_after <= 1


@pytest.mark.row(54)
@pytest.mark.parametrize("how", ["header", "cookie", "crash", "hello"])
def test_guesses_at_the_same_time_are_guesses_too(how: str) -> None:
    """No more are checked at once than may fail; a crash counts, and a cookie that is nobody's when nothing follows."""
    asked: list[str | None] = []

    def slow(credentials: Credentials) -> str | None:
        asked.append(credentials.token)
        gevent.sleep(0.02)
        if how == "crash":
            raise KeyError(credentials.token)
        return None

    def guess(server: WebMeshServer) -> None:
        with suppress(PeerClosed, InvalidStatus):
            if how == "hello":
                with peer(server) as one:
                    hello(one, "guess")
            elif how == "cookie":
                with connect(f"{server.url}", additional_headers={"Cookie": "sid=9"}, open_timeout=PATIENCE):
                    pass
            else:
                with peer(server, "guess"):
                    pass

    with running(guarded_server(slow, limits=Limits(failed_logins=3))) as server:
        with native_threads(1 if how == "cookie" else 12) as spawn:
            for outcome in [spawn(guess, server) for _ in range(12)]:
                outcome.get()
    assert 3 <= len(asked) < 12


@pytest.mark.row(54)
@pytest.mark.parametrize("error", [gevent.Timeout, gevent.GreenletExit])
@pytest.mark.parametrize("by_header", [True, False])
def test_what_an_authenticator_raises_is_its_own(
    error: type[BaseException], by_header: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where it is what gevent ends greenlets with: an incident like any other, and the token stays out of logs."""

    def crash(credentials: Credentials) -> None:
        raise error(f"asking for {credentials.token}")  # type: ignore[call-arg]

    with running(guarded_server(crash)) as server:
        if by_header:
            with pytest.raises(InvalidStatus) as refused, peer(server, "hush"):
                pass
            assert 500 == refused.value.response.status_code
        else:
            with peer(server) as one:
                assert "internal" in hello(one, "hush")
                assert 1013 == ended(one)[0]
    assert "authenticator failed" in caplog.text
    assert "hush" not in caplog.text


@pytest.mark.row(54)
def test_an_overload_of_the_programs_is_not_called_a_failed_login() -> None:
    """503: nobody has failed."""

    def busy(credentials: Credentials) -> None:
        raise Overloaded("too many tickets were used lately")

    with running(guarded_server(busy)) as server:
        with pytest.raises(InvalidStatus) as refused, peer(server, "t-ann"):
            pass
    response = refused.value.response
    assert (503, b"the login could not be checked\n") == (response.status_code, response.body)


@pytest.mark.row(55)
def test_an_identity_that_has_expired_is_none() -> None:
    """Whatever the authenticator thinks of it."""

    def late(credentials: Credentials) -> Identity:
        return Identity("ann", expires_at=time.time() - 1)

    with connected(guarded_server(late), session=False) as client, pytest.raises(Unauthenticated, match="expired"):
        client.call("$hello", {"token": "x"}, timeout=PATIENCE)


@pytest.mark.row(55)
@pytest.mark.parametrize("size", [8193, 900_000])
def test_a_token_that_is_too_long_is_not_looked_at(size: int) -> None:
    """Not even from somebody who is in."""
    asked: list[int] = []

    def counting(credentials: Credentials) -> str:
        asked.append(len(credentials.token or ""))
        return "ann"

    with connected(guarded_server(counting), session=False, headers={"Authorization": "Bearer x"}) as client:
        with pytest.raises(Unauthenticated, match="too long"):
            client.call("$hello", {"token": "x" * size}, timeout=PATIENCE)
        assert "ann" == client.call("/who", timeout=PATIENCE)
    assert [1] == asked


@pytest.mark.row(56)
def test_a_login_that_expires_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """With 4001: renew, and come back. Nothing goes wrong meanwhile."""

    def brief(credentials: Credentials) -> Identity:
        return Identity("ann", expires_at=time.time() + 0.5)

    with running(guarded_server(brief, timeouts=SHORT)) as server, peer(server, "x") as one:
        assert (4001, "login expired: renew") == ended(one)
    assert [] == [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.row(56)
def test_a_login_is_renewed_while_connected() -> None:
    """By `$hello` with a new token: the connection lives on, with what the new one says."""
    ends = {"first": time.time() + 1.0, "second": time.time() + 60}

    def renewing(credentials: Credentials) -> Identity:
        token = credentials.token or ""
        return Identity("ann", frozenset({token}), expires_at=ends[token])

    observer = RecordingObserver()
    server = guarded_server(renewing, timeouts=SHORT, observer=observer)
    server.on("/roles")(lambda payload, path, client: sorted(client.identity.roles))
    with running(server), WebMeshClient(server.url, session=False) as client:
        first = client.call("$hello", {"token": "first"}, timeout=PATIENCE)
        assert ["first"] == client.call("/roles", timeout=PATIENCE)
        second = client.call("$hello", {"token": "second"}, timeout=PATIENCE)
        assert ["second"] == client.call("/roles", timeout=PATIENCE)
        assert 0 < first["expires_ms"] <= 1000 < 50_000 < second["expires_ms"] <= 60_000
        gevent.sleep(max(0.0, ends["first"] - time.time()) + 0.3)  # past the first one's end, and a look at it
        assert ["second"] == client.call("/roles", timeout=PATIENCE)
    assert ["ok", "renewed"] == [outcome for _, outcome in observer.named("login_finished")]


@pytest.mark.row(56)
def test_a_renewal_that_fails_changes_nothing() -> None:
    """The login counts until its own end."""
    with connected(guarded_server(), session=False, headers={"Authorization": "Bearer t-ann"}) as client:
        with pytest.raises(Unauthenticated):
            client.call("$hello", {"token": "wrong"}, timeout=PATIENCE)
        assert "ann" == client.call("/who", timeout=PATIENCE)


def test_a_connection_does_not_change_hands() -> None:
    """What was begun as one subject is not gone on with as another."""
    with connected(guarded_server(), session=False, headers={"Authorization": "Bearer t-ann"}) as client:
        connection = client.connect()
        with pytest.raises(PermissionDenied, match="another subject"):
            connection.call("$hello", {"token": "t-eve"}, timeout=PATIENCE)
        assert 4500 == connection.wait_closed(PATIENCE).code


# ------------------------------------------------------------------------- kick


@pytest.mark.row(56)
def test_kicking_a_subject_ends_its_connections() -> None:
    """All of them and nobody else's; 4503 says not to come back."""
    with running(guarded_server()) as server:
        with peer(server, "t-ann") as one, peer(server, "t-ann-2") as two, peer(server, "t-eve") as other:
            assert 2 == server.kick("ann", "rights revoked")
            assert [(4503, "rights revoked")] * 2 == [ended(one), ended(two)]
            other.send('{"path": "/who", "id": 1}')
            assert '"eve"' in str(other.recv(PATIENCE))
            assert 0 == server.kick("nobody")
            assert 1 == server.kick(lambda connection: connection.identity.subject == "eve")


@pytest.mark.row(56)
def test_what_a_kicked_peer_still_sends_is_not_acted_on() -> None:
    """Although its close takes a while: it does not answer ours."""
    ran: list[object] = []
    server = guarded_server()
    server.on("/do")(lambda payload, path, client: ran.append(payload))
    with running(server), socket.create_connection(("127.0.0.1", server.port or 0), PATIENCE) as raw:
        raw.sendall(UPGRADE)
        assert b" 101 " in raw.recv(4096)
        assert wait_for(lambda: server.connections)
        (connection,) = server.connections
        server.kick("ann")
        raw.sendall(b"\x81\x9a\0\0\0\0" + b'{"path": "/do", "data": 1}')
        raw.sendall(b"\x88\x82\0\0\0\0\x03\xe8")
        raw.shutdown(socket.SHUT_WR)
        assert 4503 == connection.wait_closed(PATIENCE).code
    assert [] == ran


@pytest.mark.row(56)
def test_a_kicked_plain_peer_is_not_heard_either() -> None:
    """Its handler gets nothing that came before or after the kick, and is told the reason."""
    got: list[Any] = []
    going_on, heard = Event(), Event()

    def handler(connection: Any) -> None:
        got.append(connection.receive())
        heard.set()
        going_on.wait(PATIENCE)
        try:
            got.append(connection.receive(PATIENCE))
        except PeerLost as why:
            got.append(why.code)

    server = guarded_server()
    server.websocket("/plain")(handler)
    with running(server), peer(server, "t-ann", "/plain") as one:
        one.send("first")
        one.send("before")
        assert heard.wait(PATIENCE)
        server.kick("ann")
        with suppress(PeerClosed):
            one.send("after")
        going_on.set()
        assert wait_for(lambda: len(got) == 2)
    assert ["first", 4503] == got


@pytest.mark.row(56)
@pytest.mark.parametrize("by_header", [True, False])
@pytest.mark.parametrize("turn_away", ["close", "kick"])
def test_who_is_turned_away_in_on_connect_is_not_heard(by_header: bool, turn_away: str) -> None:
    """Neither what it sent before nor what it sends after; whichever way it logged in."""
    ran: list[object] = []
    server = guarded_server()
    server.on("/do")(lambda payload, path, client: ran.append(payload))

    def turn(connection: Any) -> None:
        if turn_away == "kick":
            server.kick("ann")
        else:
            connection.close(4503, "not you", timeout=0)

    server.on_connect(turn)
    upgrade = UPGRADE if by_header else UPGRADE.replace(b"Authorization: Bearer t-ann\r\n", b"")
    login = b"" if by_header else masked(b'{"path": "$hello", "id": 1, "data": {"token": "t-ann"}}')
    act = masked(b'{"path": "/do", "data": 1}')
    with running(server), socket.create_connection(("127.0.0.1", server.port or 0), PATIENCE) as raw:
        raw.sendall(upgrade + login + act)
        assert b" 101 " in raw.recv(4096)
        raw.sendall(act)
        assert wait_for(lambda: not server._begun.parts.connections or raw.recv(4096) == b"")
    assert [] == ran


def masked(text: bytes) -> bytes:
    """A text frame of a client."""
    return b"\x81" + bytes([0x80 | len(text)]) + bytes(4) + text


@pytest.mark.row(56)
@pytest.mark.parametrize("by_header", [True, False])
def test_a_kick_meets_logins_that_are_being_checked(by_header: bool) -> None:
    """The authenticator is asked again: what it read before may count no more."""
    table = dict(TOKENS)
    reading, going_on = Event(), Event()

    def slow(credentials: Credentials) -> str | None:
        known = table.get(credentials.token or "")
        reading.set()
        going_on.wait(PATIENCE)
        return known

    with running(guarded_server(slow)) as server:
        headers = {"Authorization": "Bearer t-ann"} if by_header else {}

        def log_in() -> object:
            try:
                with WebMeshClient(server.url, session=False, headers=headers) as client:
                    return client.call("$hello", {"token": "t-ann"}, timeout=PATIENCE)
            except (HandshakeRejected, Unauthenticated) as error:
                return error

        with native_threads(1) as spawn:
            outcome = spawn(log_in)
            assert reading.wait(PATIENCE)
            del table["t-ann"]
            assert 0 == server.kick("ann")
            going_on.set()
            assert isinstance(outcome.get(), HandshakeRejected if by_header else Unauthenticated)


def test_the_program_decides_over_roles_last() -> None:
    """What `on_connect` sets as the identity is not overwritten by the login that it was called for."""
    server = guarded_server(lambda credentials: Identity("ann", ["admin"]))
    server.on_connect(lambda connection: setattr(connection, "identity", Identity("ann")))
    server.on("/admin", requires="admin")(lambda payload, path, client: "in")
    with connected(server, session=False) as client:
        client.call("$hello", {"token": "x"}, timeout=PATIENCE)
        with pytest.raises(PermissionDenied):
            client.call("/admin", timeout=PATIENCE)


@pytest.mark.row(53)
def test_a_stranger_leaves_nothing_in_the_memory_of_keyed_calls() -> None:
    """The protocol's own paths take no idempotency key: a repeated `$hello` is looked at anew."""
    hello = '{"path": "$hello", "id": 1, "headers": {"idempotency-key": "k"}, "data": %s}'
    with running(guarded_server()) as server:
        for data in ("5", '{"token": "t-ann"}', '{"token": "t-ann"}'):
            with peer(server) as one:
                one.send(hello % data)
                one.recv(PATIENCE)
                assert (data != "5") == bool(server.connections)
            assert wait_for(lambda: not server.connections)
        assert 0 == len(server._begun.parts.keyed._window)


# ------------------------------------------------------------------- plain routes


def plain_server(**options: Any) -> WebMeshServer:
    server = guarded_server(**options)
    server.websocket("/plain")(lambda connection: connection.send(connection.identity.subject))
    return server


def test_plain_routes_need_a_login_at_the_upgrade() -> None:
    """They have no `$hello`."""
    with running(plain_server()) as server:
        with peer(server, "t-ann", "/plain") as one:
            assert "ann" == one.recv(PATIENCE)
        for token in (None, "wrong"):
            with pytest.raises(InvalidStatus) as refused, peer(server, token, "/plain"):
                pass
            assert 401 == refused.value.response.status_code


@pytest.mark.row(58)
def test_a_token_in_the_url_counts_only_where_that_was_said() -> None:
    """And handlers do not see it there: they may log the query."""
    seen: list[Any] = []
    for allowed in (False, True):
        server = plain_server(token_in_url=allowed)
        server.on_connect(lambda connection: seen.append((connection.request.query, connection.request.target)))
        with running(server):
            if not allowed:
                with pytest.raises(InvalidStatus), peer(server, path="/plain?token=t-ann"):
                    pass
            else:
                with peer(server, path="/plain?room=1&token=t-ann") as one:
                    assert "ann" == one.recv(PATIENCE)
    assert [("room=1", "/plain?room=1")] == seen


@pytest.mark.row(58)
@pytest.mark.parametrize("token", ["hush-right", "hush-wrong", "hush-boom"])
def test_no_token_is_ever_logged(token: str, caplog: pytest.LogCaptureFixture) -> None:
    """By whichever way it comes and however it ends: in no record, no field, no exception and no repr."""

    def knowing(credentials: Credentials) -> str | None:
        if credentials.token == "hush-boom":
            raise ValueError(credentials.token)
        return "ann" if credentials.token == "hush-right" else None

    texts: list[str] = []
    server = plain_server(authenticate=knowing, token_in_url=True, limits=Limits(failed_logins=99))
    server.on_connect(lambda connection: texts.append(f"{connection!r} {connection.request!r} {vars(connection)!r}"))
    with caplog.at_level(logging.DEBUG), running(server):
        for headers, query in (({"Authorization": f"Bearer {token}"}, ""), ({}, f"?token={token}")):
            try:
                with connect(f"{server.url}/plain{query}", additional_headers=headers, open_timeout=PATIENCE):
                    pass
            except InvalidStatus as error:
                texts.append(f"{error.response.headers} {error.response.body!r}")
        with WebMeshClient(server.url, session=False) as client:
            try:
                client.call("$hello", {"token": token}, timeout=PATIENCE)
            except (Unauthenticated, HandlerFailed) as error:
                texts.append(f"{error!r} {error} {vars(error)}")
            texts.append(repr(client))
        texts.append(repr(server))
    records = [one for one in caplog.records if one.name.startswith("webmesh")]
    texts += [f"{vars(record)!r} {record.getMessage()} {record.exc_text}" for record in records]

    assert records
    assert [] == [text for text in texts if "hush" in text]


# ------------------------------------------------------------------ configuration


def test_roles_without_logins_are_a_mistake() -> None:
    """Nobody could have any, so nobody could call that route."""
    for wrong in (WebMeshServer(), WebMeshServer(requires="admin")):
        wrong.on("/a", requires=None if wrong._access.requires else "admin")(lambda payload, path, client: None)
        with pytest.raises(ConfigurationError, match="authenticate="):
            wrong.listen(port=0)
    plain = WebMeshServer()
    plain.websocket("/a", requires="admin")(lambda connection: None)
    with pytest.raises(ConfigurationError, match="authenticate="):
        plain.listen(port=0)


def test_without_authenticators_nobody_is_asked() -> None:
    """A token in `$hello` is ignored, as ever."""
    server = WebMeshServer()
    server.on("/who")(lambda payload, path, client: client.identity)
    with connected(server, session=False, headers={"Authorization": "Bearer x"}) as client:
        client.call("$hello", {"token": "x"}, timeout=PATIENCE)
        assert client.call("/who", timeout=PATIENCE) is None
