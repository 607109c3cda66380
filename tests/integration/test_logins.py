"""Story: strangers stay out, and who has logged in may do what it may, for as long as that counts."""

from __future__ import annotations

import json
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed as PeerClosed
from websockets.sync.client import ClientConnection, connect

from tests.running import PATIENCE, running, wait_for
from tests.websocket.loopback import Authority
from webmesh.auth import CertificateAuthenticator, Identity, SharedSecretAuthenticator
from webmesh.exceptions import HandshakeRejected, LinkRefused, PermissionDenied, TransportError, Unauthenticated
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.options import Timeouts
from webmesh.testing import RecordingObserver
from webmesh.tickets import TicketAuthenticator
from webmesh.tokens import JwtAuthenticator
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer
from webmesh.websocket.tls import ServerTLS, client_context

ROOT = Path(__file__).parent.parent.parent
KEY = secrets.token_hex(32)


def token(subject: str = "ann", *, key: str = KEY, seconds: float = 60, algorithm: str = "HS256", **claims: Any) -> str:
    whole = {"sub": subject, "exp": time.time() + seconds, "aud": "shop", "roles": ["staff"]} | claims
    return jwt.encode(whole, key, algorithm=algorithm)


def shop(**options: Any) -> WebMeshServer:
    """A server that knows its peers by JSON Web Tokens."""
    given: dict[str, Any] = {"authenticate": JwtAuthenticator(KEY, ["HS256"], audience="shop")}
    server = WebMeshServer(serializer_type=StandardJsonSerializer, **(given | options))
    server.on("/who")(lambda payload, path, client: client.identity.subject)
    server.on("/staff", requires="staff")(lambda payload, path, client: "welcome")
    server.on("/boss", requires="boss")(lambda payload, path, client: "welcome")
    return server


@contextmanager
def page(server: WebMeshServer) -> Iterator[ClientConnection]:
    """What a browser's page has: no headers of its own, text messages."""
    url = server.url.replace("127.0.0.1", "localhost")
    origin: Any = f"http://localhost:{server.port}"
    spoken: Any = ["webmesh.v1.json"]
    with connect(url, subprotocols=spoken, origin=origin) as one:
        yield one


def ask(one: ClientConnection, path: str, data: Any = None, number: int = 1) -> dict[str, Any]:
    one.send(json.dumps({"path": path, "id": number, "data": data}))
    answer: dict[str, Any] = json.loads(one.recv(PATIENCE))
    return answer


def code_of(one: ClientConnection) -> int:
    with pytest.raises(PeerClosed) as closed:
        while True:
            one.recv(PATIENCE)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def try_to_connect(server: WebMeshServer, **options: Any) -> None:
    """What `WebMeshClient.connect` raises; nothing of the client is left."""
    with closing(WebMeshClient(server.url, **options)) as client:
        client.connect()


@pytest.mark.row(53)
def test_a_page_logs_in_by_its_first_message() -> None:
    """And then calls what it may."""
    with running(shop()) as server, page(server) as one:
        answer = ask(one, "$hello", {"node": {"name": "page"}, "token": token()})

        assert 0 < answer["data"]["expires_ms"] <= 60_000
        assert ["ann", "welcome"] == [ask(one, path)["data"] for path in ("/who", "/staff")]
        assert "permission_denied" == ask(one, "/boss")["error"]["code"]


@pytest.mark.row(55)
@pytest.mark.parametrize(
    "wrong",
    [token(seconds=-5), token(nbf=time.time() + 900), token(aud="till"), token(key=KEY[::-1]),
     token(algorithm="HS384"), token().rpartition(".")[0] + ".", "x" * 3000],
    ids=["expired", "not yet", "other audience", "other key", "other algorithm", "no signature", "no token"],
)  # fmt: skip
def test_a_token_that_is_wrong_lets_nobody_in(wrong: str) -> None:
    """Neither by `$hello` nor by a header; nothing was run."""
    ran: list[str] = []
    server = shop()
    server.middleware(lambda call, call_next: (ran.append(call.path), call_next(call))[1])
    with running(server):
        with page(server) as one:
            assert "unauthenticated" == ask(one, "$hello", {"token": wrong})["error"]["code"]
            assert 4500 == code_of(one)
        with pytest.raises(HandshakeRejected, match="401"):
            try_to_connect(server, headers={"Authorization": f"Bearer {wrong}"}, reconnect=False)
    assert [] == [path for path in ran if not path.startswith("$")]


@pytest.mark.row(53)
def test_silent_strangers_are_gone_in_time_while_others_work() -> None:
    """Whoever says nothing holds its place for `Timeouts.login` and no longer."""
    observer = RecordingObserver()
    with running(shop(timeouts=Timeouts(login=0.5), observer=observer)) as server:
        head = (
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        strangers = [socket.create_connection(("127.0.0.1", server.port or 0), PATIENCE) for _ in range(50)]
        for one in strangers:
            one.sendall(head)
        with WebMeshClient(server.url, headers={"Authorization": f"Bearer {token()}"}) as client:
            assert "ann" == client.call("/who", timeout=PATIENCE)
            assert wait_for(lambda: 50 == len([1 for _, why in observer.named("login_finished") if "in time" in why]))
            assert "ann" == client.call("/who", timeout=PATIENCE)
            assert 1 == len(server.connections)
        for one in strangers:
            one.close()


@pytest.mark.row(56)
def test_a_login_is_renewed_and_its_roles_with_it() -> None:
    """On the same connection, which goes on past the end of the first token."""
    with running(shop(timeouts=Timeouts(login=0.4))) as server, page(server) as one:
        first = token(seconds=1.2)
        ends = time.time() + 1.2
        ask(one, "$hello", {"token": first})
        assert "error" in ask(one, "/boss")
        ask(one, "$hello", {"token": token(roles=["boss"])})
        assert "data" in ask(one, "/boss")
        assert "error" in ask(one, "/staff")
        assert wait_for(lambda: time.time() > ends + 0.3)
        assert "data" in ask(one, "/boss")


@pytest.mark.row(56)
def test_whoever_is_kicked_does_not_go_on() -> None:
    """Neither with its connection nor with its session."""
    with running(shop()) as server, page(server) as one, page(server) as other:
        known = ask(one, "$hello", {"token": token()})["data"]
        ask(other, "$hello", {"token": token("bob")})
        assert 1 == server.kick("ann")
        assert 4503 == code_of(one)
        assert "bob" == ask(other, "/who")["data"]
        with page(server) as again:
            resume = {"session": known["session"], "epoch": known["epoch"]}
            assert ask(again, "$hello", {"token": token(), "resume": resume})["data"]["resumed"] is False


@pytest.mark.row(56)
def test_a_kick_ends_the_sessions_of_those_who_are_away() -> None:
    """Who comes back after it begins anew."""
    with running(shop()) as server:
        with page(server) as one:
            known = ask(one, "$hello", {"token": token()})["data"]
            one.socket.shutdown(socket.SHUT_RDWR)
            assert wait_for(lambda: not server.connections)
        assert 0 == server.kick("ann")
        with page(server) as again:
            resume = {"session": known["session"], "epoch": known["epoch"]}
            assert ask(again, "$hello", {"token": token(), "resume": resume})["data"]["resumed"] is False


def test_a_ticket_takes_a_page_from_the_site_to_the_mesh() -> None:
    """The site that knows who is logged in issues it; used once, it is worth nothing."""
    tickets = TicketAuthenticator(secrets.token_bytes(), max_age=30, single_use=True)
    with running(shop(authenticate=tickets)) as server:
        ticket = tickets.issue("ann", ["staff"])
        with page(server) as one:
            ask(one, "$hello", {"token": ticket})
            assert "welcome" == ask(one, "/staff")["data"]
        with page(server) as thief:
            assert "unauthenticated" == ask(thief, "$hello", {"token": ticket})["error"]["code"]


def test_several_ways_in_stand_side_by_side(tmp_path: Path) -> None:
    """Tokens for people, secrets for devices, certificates for services: the first that knows a peer decides."""
    authority = Authority(tmp_path)
    secret = secrets.token_urlsafe()
    ways = [
        JwtAuthenticator(KEY, ["HS256"], audience="shop"),
        SharedSecretAuthenticator({"till": secret}, {"till": ["staff"]}),
        CertificateAuthenticator({"email:cart@shop.example": Identity("cart", frozenset({"boss"}))}),
    ]
    tls = ServerTLS(authority.issue("127.0.0.1"), client_ca=authority.file)
    mine = client_context(authority.file, authority.issue("cart@shop.example"))
    others = client_context(authority.file, authority.issue("desk@shop.example"))
    with running(shop(authenticate=ways, tls=tls)) as server:
        found = []
        for context, headers in (
            (others, {"Authorization": f"Bearer {token()}"}),
            (others, {"Authorization": f"Bearer till:{secret}"}),
            (mine, {}),
        ):
            with WebMeshClient(server.url, tls=context, headers=headers) as client:
                found.append(client.call("/who", timeout=PATIENCE))
                if context is mine:
                    assert "welcome" == client.call("/boss", timeout=PATIENCE)
        with pytest.raises(LinkRefused):
            try_to_connect(server, tls=others)
    assert ["ann", "till", "cart"] == found


@pytest.mark.row(61)
def test_no_certificate_gets_no_further_than_tls(tmp_path: Path) -> None:
    """Where the server asks for one, a token does not help."""
    authority = Authority(tmp_path)
    tls = ServerTLS(authority.issue("127.0.0.1"), client_ca=authority.file)
    with running(shop(tls=tls)) as server, pytest.raises(TransportError):
        context = client_context(authority.file)
        headers = {"Authorization": f"Bearer {token()}"}
        with WebMeshClient(server.url, tls=context, headers=headers, reconnect=False) as client:
            client.call("/who", timeout=PATIENCE)


@pytest.mark.row(56)
@pytest.mark.parametrize("session", [True, False], ids=["by $hello", "by header"])
def test_a_client_logs_in_by_its_token(session: bool) -> None:
    """And is told for good when it is refused; the token stands in no text."""
    with running(shop()) as server:
        with WebMeshClient(server.url, token=token, session=session) as client:
            assert "ann" == client.call("/who", timeout=PATIENCE)
        stranger = WebMeshClient(server.url, token="hush", session=session)
        with pytest.raises((LinkRefused, HandshakeRejected)) as refused:
            stranger.connect()
        assert "gave_up" == stranger.state
        assert "hush" not in f"{refused.value!r} {refused.value.__cause__!r} {stranger!r}"
        stranger.close()


@pytest.mark.row(56)
def test_a_client_renews_its_login_by_itself() -> None:
    """With a function for a token it stays connected past the end of the first one."""
    made: list[float] = []

    def fresh() -> str:
        made.append(time.time() + 1.0)
        return token(seconds=1.0)

    with running(shop(timeouts=Timeouts(login=0.4))) as server, WebMeshClient(server.url, token=fresh) as client:
        connection = client.connect()
        assert wait_for(lambda: time.time() > made[0] + 0.5)
        assert "ann" == client.call("/who", timeout=PATIENCE)
        assert connection.open and connection is client.connect()
        assert len(made) >= 2


def test_errors_tell_a_login_from_a_right() -> None:
    """`Unauthenticated`: log in. `PermissionDenied`: that would not help."""
    with running(shop()) as server:
        with WebMeshClient(server.url, headers={"Authorization": f"Bearer {token()}"}) as client:
            with pytest.raises(PermissionDenied):
                client.call("/boss", timeout=PATIENCE)
            with pytest.raises(Unauthenticated):
                client.call("$hello", {"token": "x"}, timeout=PATIENCE)


# ------------------------------------------------------------ docs/SECURITY.md

PAGE = (ROOT / "docs" / "SECURITY.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = [text for kind, text in FENCE.findall(PAGE) if kind == "python"]


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_the_pages_programs_run(program: str, tmp_path: Path) -> None:
    """And print what it says, where they print."""
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=30, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout in PAGE
