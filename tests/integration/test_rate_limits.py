"""Story: some addresses take too much, or come in crowds; they are told to wait, and all others notice nothing."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from gevent.socket import SO_LINGER, SOL_SOCKET, socket

from tests.integration.strangers import (
    CLOSE, UPGRADE, answer, connect, dial, json_server, retry_after, status, upgrade, who,
)  # fmt: skip
from tests.running import running, wait_for
from tests.websocket.loopback import Authority
from webmesh.exceptions import HandshakeRejected
from webmesh.options import Limits, Timeouts
from webmesh.testing import RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer
from webmesh.websocket.tls import ServerTLS, client_context

RUDE, HONEST = "127.0.0.2", "127.0.0.3"
GARBAGE = b"\x01\x02\x03\x04"
TURN = bytes.fromhex("000100002112a442") + bytes(12)
NOWHERE = upgrade(path="/none")


@contextmanager
def served(
    *, ban: float = 60.0, patience: float = 5.0, **limits: int
) -> Iterator[tuple[WebMeshServer, RecordingObserver]]:
    """A server that counts the addresses of this machine as if they were strangers'."""
    observer = RecordingObserver()
    server = json_server(
        observer=observer, exempt_addresses=[], limits=Limits(**limits), timeouts=Timeouts(ban=ban, upgrade=patience)
    )
    with running(server):
        yield server, observer


def refusals(observer: RecordingObserver) -> list[tuple[int, str]]:
    return [(code, reason) for _, code, reason in observer.named("handshake_refused")]


def reset(sock: socket) -> None:
    """Break a connection off without any goodbye."""
    sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_who_connects_too_often_is_told_when_to_come_back() -> None:
    """429, spread over some seconds; then closed unheard. Others, and the connections that it has, go on."""
    with served(address_rate=4) as (server, observer), ExitStack() as open_:
        early = [open_.enter_context(connect(server, RUDE)) for _ in range(4)]
        answers = [answer(server, RUDE, NOWHERE) for _ in range(40)]
        later = open_.enter_context(connect(server, HONEST))

        told = [head for head in answers if head]
        waits = [retry_after(head) for head in told if status(head) == 429]
        assert {status(head) for head in told} <= {404, 429}  # a slow machine lets some in meanwhile
        assert 4 <= len(waits) <= len(told) < 40
        assert len(set(waits)) > 1 and set(waits) <= {*range(1, 31)}
        assert (429, "address connects too often") in refusals(observer)
        assert (0, "address connects too often") in refusals(observer)
        assert all(who(sock).startswith(f"{RUDE}:") for sock in early)
        assert who(later).startswith(f"{HONEST}:")


def test_pages_are_counted_as_well() -> None:
    """A flood of plain HTTP is a flood."""
    page = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with served(address_rate=2) as (server, _):
        assert 200 == status(answer(server, RUDE, page))
        assert any(status(answer(server, RUDE, page)) == 429 for _ in range(50))
        assert 200 == status(answer(server, HONEST, page))


def test_one_address_has_so_many_connections() -> None:
    """The next one is told 429; when one has gone there is room again."""
    with served(connections_per_address=2) as (server, observer):
        with connect(server, RUDE) as first, connect(server, RUDE), connect(server, HONEST):
            head = answer(server, RUDE)
            assert (429, 5) == (status(head), retry_after(head))
            assert [(429, "address has too many connections")] == refusals(observer)
            first.sendall(CLOSE)
            assert wait_for(lambda: len(server.connections) == 2)
            connect(server, RUDE).close()


@pytest.mark.row(75)
def test_a_crowd_is_spread() -> None:
    """Beyond the rate of the whole server: 503 with different times to come back, and none beyond 30 s."""
    with served(accept_rate=6) as (server, observer), ExitStack() as open_:
        for number in range(6):
            open_.enter_context(connect(server, f"127.0.1.{number}"))
        heads = [answer(server, f"127.0.2.{number}", NOWHERE) for number in range(12)]

        refused = [head for head in heads if status(head) == 503]
        assert len(refused) >= 6
        assert len({retry_after(head) for head in refused}) > 1
        assert all(1 <= retry_after(head) <= 30 for head in refused)
        assert {(503, "too many connect at once")} == set(refusals(observer))
        assert 200 == status(answer(server, HONEST, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"))


@pytest.mark.row(75)
def test_a_client_is_told_when_to_come_back() -> None:
    """As a typed error that has the seconds."""
    with served(accept_rate=1) as (server, _), ExitStack() as open_:
        clients = [WebMeshClient(server.url) for _ in range(20)]
        for client in clients:
            open_.callback(client.close)
        with pytest.raises(HandshakeRejected) as caught:
            for client in clients:  # the second one, unless the machine is very slow
                client.connect()
        assert (503, True) == (caught.value.status, 1 <= (caught.value.retry_after or 0) <= 30)


@pytest.mark.row(77)
def test_who_fails_again_and_again_is_banned_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """Its connections are closed at once, with no line each; the one that it has, and those of others, go on."""
    caplog.set_level(logging.WARNING, "webmesh.server")
    with served(address_failures=3) as (server, observer), connect(server, RUDE) as early:
        assert [400] * 4 == [status(answer(server, RUDE, GARBAGE)) for _ in range(4)]
        assert wait_for(lambda: observer.named("refused"))

        assert [b""] * 5 == [answer(server, RUDE) for _ in range(5)]
        assert [("address", "address banned")] == observer.named("refused")
        assert 5 == refusals(observer).count((0, "address banned"))
        assert ["handshake refused"] * 4 + ["refused"] == [record.message for record in caplog.records]
        assert who(early).startswith(RUDE)
        connect(server, HONEST).close()


@pytest.mark.row(77)
def test_a_ban_ends_by_itself() -> None:
    """Whoever has mended what was wrong is let in again."""
    with served(address_failures=1, ban=0.2) as (server, observer):
        while not observer.named("refused"):
            answer(server, RUDE, GARBAGE)
        assert wait_for(lambda: answer(server, RUDE, NOWHERE).startswith(b"HTTP/1.1 404"))


@pytest.mark.row(77)
def test_a_flapping_client_is_banned() -> None:
    """Connections that break off at once, again and again; those that say goodbye can do it as often as they like."""
    with served(address_failures=3) as (server, observer):
        for number in range(4):
            reset(connect(server, RUDE))
            assert wait_for(lambda: not server.connections)
            with connect(server, HONEST) as polite:
                polite.sendall(CLOSE)
                polite.recv(100)
            assert wait_for(lambda: not server.connections)
        assert wait_for(lambda: observer.named("refused"))

        assert b"" == answer(server, RUDE)
        for _ in range(5):
            with connect(server, HONEST) as polite:
                polite.sendall(CLOSE)


@pytest.mark.row(77)
@pytest.mark.parametrize(
    "sent",
    [
        b"", upgrade("Origin: https://evil.example\r\n"), upgrade(path="/none"), upgrade("Content-Length: 5\r\n"),
        b"\x16\x03\x01\x02", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", TURN,
    ],
    ids=["nothing", "origin", "404", "body", "https", "POST", "turn"],
)  # fmt: skip
def test_what_a_web_page_can_make_browsers_do_bans_nobody(sent: bytes) -> None:
    """Else any page could lock its visitors out of a server."""
    with served(address_failures=1) as (server, observer):
        for _ in range(4):
            with dial(server, RUDE) as sock:
                sock.sendall(sent)
                sock.shutdown(1)
                sock.recv(1000)
        assert 101 == status(read_upgrade(server))
        assert [] == observer.named("refused")


def read_upgrade(server: WebMeshServer) -> bytes:
    with dial(server, RUDE) as sock:
        sock.sendall(UPGRADE)
        return sock.recv(1000)


@pytest.mark.row(1)
def test_silent_peers_of_one_address_push_out_only_each_other() -> None:
    """An honest one that has begun and is slow keeps its place, however many of the others come."""
    with served(handshakes=8) as (server, observer), ExitStack() as open_, dial(server, HONEST) as slow:
        slow.sendall(UPGRADE[:10])
        assert wait_for(lambda: server._begun.listener.newcomers == 1)
        for _ in range(20):
            open_.enter_context(dial(server, RUDE))
        assert wait_for(lambda: len(observer.named("handshake_refused")) == 13)

        slow.sendall(UPGRADE[10:])
        assert slow.recv(1000).startswith(b"HTTP/1.1 101 ")
        assert {RUDE} == {address.partition(":")[0] for address, _, _ in observer.named("handshake_refused")}


def test_this_machine_is_exempt_by_default() -> None:
    """A proxy in front of the server would make all clients one address."""
    limits: dict[str, Any] = {"address_rate": 1, "accept_rate": 1, "connections_per_address": 1, "address_failures": 1}
    with running(json_server(limits=Limits(**limits))) as server:
        with connect(server), connect(server), connect(server, RUDE):
            assert [400] * 3 == [status(answer(server, RUDE, GARBAGE)) for _ in range(3)]


@pytest.mark.row(9)
@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/none"])
def test_a_web_page_cannot_reach_a_local_server_by_a_name_of_its_own(path: str) -> None:
    """DNS rebinding: on the loopback only its own names are answered, upgrades and pages alike, or those listed."""
    foreign = upgrade("Origin: http://evil.example\r\n", path).replace(b"localhost", b"evil.example")
    page = f"GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode()
    with running(json_server()) as server:
        assert [403, 403] == [status(answer(server, sent=sent)) for sent in (foreign, page)]
    with running(json_server(allowed_hosts=["evil.example"])) as server:
        assert 403 != status(answer(server, sent=page))


@pytest.mark.row(9)
def test_to_answer_every_host_on_the_loopback_takes_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """And is written down; where other machines get in, nobody knows the names, so all are answered."""
    caplog.set_level(logging.WARNING, "webmesh.server")
    page = b"GET /livez HTTP/1.1\r\nHost: shop.example\r\n\r\n"
    with running(json_server(allowed_hosts=["*"])) as server:
        assert 200 == status(answer(server, sent=page))
    assert ["any web page can reach this server"] == [record.message for record in caplog.records]
    with running(json_server(), host="0.0.0.0") as server:
        assert 200 == status(answer(server, sent=page))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One for all: making its key is slow."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.row(62, 77)
@pytest.mark.parametrize(
    ("sent", "banned"),
    [(GARBAGE * 5, True), (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", False), (b"", False), (TURN, False)],
)
def test_what_is_no_tls_is_a_failure_unless_a_browser_may_have_sent_it(
    authority: Authority, sent: bytes, banned: bool
) -> None:
    """A banned address is closed before TLS, which costs more than all the rest."""
    observer = RecordingObserver()
    tls = ServerTLS(authority.issue("localhost"))
    limits = Limits(address_failures=2)
    with running(json_server(observer=observer, exempt_addresses=[], limits=limits, tls=tls)) as server:
        for _ in range(3):
            with dial(server, RUDE) as sock:
                sock.sendall(sent)
                sock.shutdown(1)
                while sock.recv(1000):
                    pass
        assert wait_for(lambda: len(observer.named("handshake_refused")) == 3)
        assert banned == wait_for(lambda: observer.named("refused"), 10 if banned else 0)
        answer(server, RUDE, GARBAGE * 5)
        assert wait_for(lambda: len(refusals(observer)) == 4)
        assert banned == ((0, "address banned") in refusals(observer))


@pytest.mark.row(62, 77)
def test_who_has_no_certificate_is_not_banned(authority: Authority) -> None:
    """A page that fetches from the server makes browsers come without one."""
    observer = RecordingObserver()
    tls = ServerTLS(authority.issue("localhost"), client_ca=authority.file)
    limits = Limits(address_failures=1)
    with running(json_server(observer=observer, exempt_addresses=[], limits=limits, tls=tls)) as server:
        for _ in range(3):
            with dial(server, RUDE) as sock, pytest.raises(OSError, match="certificate required"):
                client_context(authority.file).wrap_socket(sock, server_hostname="localhost").recv(1)
        context = client_context(authority.file, authority.issue("me"))
        with context.wrap_socket(dial(server, RUDE), server_hostname="localhost") as honest:
            honest.sendall(UPGRADE)
            assert honest.recv(1000).startswith(b"HTTP/1.1 101 ")
    assert [] == observer.named("refused")


@pytest.mark.row(1)
def test_who_never_finishes_its_request_fails_and_who_never_begins_does_not() -> None:
    """Browsers open connections that they may need; half a request is no browser's."""
    with served(address_failures=1, patience=0.1) as (server, observer):
        for sent in (b"", b"", b"GET /", b"GET /"):
            assert [] == observer.named("refused")
            assert b"" == answer(server, RUDE, sent)
        assert wait_for(lambda: observer.named("refused"))
