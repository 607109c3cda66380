"""Story: calls over TLS, with certificates on both sides, and with new ones while everything runs."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent.ssl
import pytest
from gevent.socket import create_connection
from websockets.sync.client import connect

from tests.running import PATIENCE, Census, native_threads, running, wait_for
from tests.websocket.loopback import Authority
from webmesh.exceptions import ConfigurationError, ConnectFailed, TransportError
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.options import Timeouts
from webmesh.testing import RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer
from webmesh.websocket.tls import ServerTLS, client_context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One for all: making its key is slow."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def certfile(authority: Authority, tmp_path: Path) -> str:
    """Of a server on this machine, in a file that a test may overwrite."""
    path = tmp_path / "server.pem"
    shutil.copy(authority.issue("localhost", "127.0.0.1"), path)
    return str(path)


def tls_server(tls: Any, **options: Any) -> WebMeshServer:
    server = WebMeshServer(tls=tls, **options)
    server.on("/")(lambda payload, path, client: payload)
    server.on("/who")(lambda payload, path, client: client.peer_certificate)
    server.on("/count")(lambda payload, path, client: iter(range(payload)))
    return server


@contextmanager
def secure_client(server: WebMeshServer, context: ssl.SSLContext | None, **options: Any) -> Iterator[WebMeshClient]:
    with running(server), WebMeshClient(server.url, tls=context, **options) as client:
        yield client


def test_everything_works_over_tls(authority: Authority, certfile: str) -> None:
    """Calls small and large, streams, many at once, from threads; `url` says wss."""
    server = tls_server(ServerTLS(certfile))
    with secure_client(server, client_context(authority.file)) as client, native_threads(3) as spawn:
        assert server.url.startswith("wss://127.0.0.1:")
        large = bytes(range(256)) * 3000
        assert large == client.call("/", large, timeout=PATIENCE)
        assert list(range(300)) == list(client.stream("/count", 300, credit=8, timeout=PATIENCE))
        futures = [client.spawn("/", large[:60_000], timeout=PATIENCE) for _ in range(20)]
        jobs = [spawn(client.call, "/", number) for number in range(3)]
        assert [0, 1, 2] == [job.get() for job in jobs]
        assert {60_000} == {len(future.result()) for future in futures}


def test_foreign_clients_and_plain_routes_work_too(authority: Authority, certfile: str) -> None:
    """With the standard library's TLS at the other end."""
    server = tls_server(ServerTLS(certfile), serializer_type=StandardJsonSerializer)
    server.websocket("/plain")(lambda connection: connection.send(connection.receive()))
    context = ssl.create_default_context(cafile=authority.file)
    with running(server):
        with connect(server.url, ssl=context) as peer:
            peer.send('{"path": "/", "id": 1, "data": "hi"}')
            assert '{"id":1,"data":"hi"}' == peer.recv(PATIENCE)
        with connect(f"{server.url}/plain", ssl=context) as peer:
            peer.send(b"x" * 100_000)
            assert 100_000 == len(peer.recv(PATIENCE))


def test_the_ends_of_tls_connections_leave_nothing(authority: Authority, certfile: str) -> None:
    """However they end."""
    server, context = tls_server(ServerTLS(certfile)), client_context(authority.file)
    with running(server):
        with WebMeshClient(server.url, tls=context) as client:
            client.call("/", timeout=PATIENCE)
        assert wait_for(lambda: not server.connections)
        census = Census()
        for way in ("close", "abort here", "abort there"):
            with WebMeshClient(server.url, tls=context) as client:
                connection = client.connect()
                assert wait_for(lambda: len(server.connections) == 1)
                if way != "close":
                    (connection if "here" in way else server.connections[0]).abort()
        assert wait_for(lambda: not server.connections)
        assert {} == census.grown()


@pytest.mark.parametrize("make", [ssl.SSLContext, gevent.ssl.SSLContext], ids=["ssl", "gevent.ssl"])
def test_a_ready_context_serves_as_well(authority: Authority, certfile: str, make: Any) -> None:
    """Of the standard library or of gevent, in a patched process and in a plain one."""
    ready, trusting = make(ssl.PROTOCOL_TLS_SERVER), make(ssl.PROTOCOL_TLS_CLIENT)
    ready.load_cert_chain(certfile)
    trusting.load_verify_locations(authority.file)
    with secure_client(tls_server(ready), trusting) as client:
        assert 1 == client.call("/", 1, timeout=PATIENCE)


# ------------------------------------------------------------------------- trust


@pytest.mark.row(60)
def test_a_server_that_nobody_vouches_for_is_refused(certfile: str) -> None:
    """By default, with the reason; only a loud name switches it off."""
    with running(tls_server(ServerTLS(certfile))) as server:
        stranger = WebMeshClient(server.url)
        with pytest.raises(ConnectFailed, match="certificate"):
            stranger.connect()
        stranger.close()
        with WebMeshClient(server.url, tls=client_context(insecure_skip_verify=True)) as careless:
            assert 1 == careless.call("/", 1, timeout=PATIENCE)


@pytest.mark.row(60)
def test_a_certificate_for_another_name_is_refused(authority: Authority) -> None:
    """Although the authority is right."""
    with running(tls_server(ServerTLS(authority.issue("shop.example")))) as server:
        client = WebMeshClient(server.url, tls=client_context(authority.file))
        with pytest.raises(ConnectFailed, match="certificate"):
            client.connect()
        client.close()


@pytest.mark.row(61)
def test_clients_show_who_they_are(authority: Authority, certfile: str) -> None:
    """Handlers find the verified certificate; a client without one, or with a stranger's, does not get in."""
    server = tls_server(ServerTLS(certfile, client_ca=authority.file))
    mine = authority.issue("cart@shop.example")
    with secure_client(server, client_context(authority.file, mine)) as client:
        certificate = client.call("/who", timeout=PATIENCE)
        assert [["email", "cart@shop.example"]] == certificate["subjectAltName"]
        stranger = Authority(Path(certfile).parent)
        for context in (client_context(authority.file),
                        client_context(authority.file, stranger.issue("cart@shop.example"))):  # fmt: skip
            refused = WebMeshClient(server.url, tls=context)
            with pytest.raises(TransportError):
                refused.call("/who", timeout=PATIENCE, fail_fast=True)
            refused.close()


def test_without_an_authority_nobody_is_asked(authority: Authority, certfile: str) -> None:
    """`peer_certificate` is `None`, over TLS and without."""
    shown = client_context(authority.file, authority.issue("cart@shop.example"))
    with secure_client(tls_server(ServerTLS(certfile)), shown) as client:
        assert client.call("/who", timeout=PATIENCE) is None
    with secure_client(tls_server(None), None) as client:
        assert client.call("/who", timeout=PATIENCE) is None


# ------------------------------------------------------------------------ rotation


@pytest.mark.row(65)
def test_certificates_change_while_connections_live(authority: Authority, certfile: str) -> None:
    """New connections see the new one after a reload; old ones go on, and a bad file changes nothing."""
    server, context = tls_server(ServerTLS(certfile)), client_context(authority.file)
    foreign = ssl.create_default_context(cafile=authority.file)
    with secure_client(server, context) as old:
        connection, before = old.connect(), serial(server, foreign)
        Path(certfile).write_text("no certificate")
        with pytest.raises(ConfigurationError):
            server.reload_certificates()
        assert before == serial(server, foreign)

        shutil.copy(authority.issue("localhost", "127.0.0.1"), certfile)
        assert before == serial(server, foreign)
        server.reload_certificates()

        assert before != serial(server, foreign)
        assert 1 == old.call("/", 1, timeout=PATIENCE)
        assert connection is old.connect()
        with WebMeshClient(server.url, tls=context) as new:
            assert 2 == new.call("/", 2, timeout=PATIENCE)


def serial(server: WebMeshServer, context: ssl.SSLContext) -> Any:
    """Which certificate a new connection is shown."""
    with connect(server.url, ssl=context) as peer:
        return peer.socket.getpeercert()["serialNumber"]


def test_a_server_without_files_has_nothing_to_reload(certfile: str) -> None:
    """It says so, with what to do instead."""
    with pytest.raises(ConfigurationError, match="does not use TLS"):
        WebMeshServer().reload_certificates()
    ready = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ready.load_cert_chain(certfile)
    with pytest.raises(ConfigurationError, match="load_cert_chain"):
        WebMeshServer(tls=ready).reload_certificates()


# -------------------------------------------------------------------------- faults


@pytest.mark.row(62, 63)
@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 100])
def test_what_is_no_tls_disturbs_nobody(authority: Authority, certfile: str, said: bytes) -> None:
    """Silence until the deadline, plain HTTP, garbage: closed and counted; calls go on meanwhile."""
    observer = RecordingObserver()
    server = tls_server(ServerTLS(certfile), timeouts=Timeouts(tls=0.2), observer=observer)
    with secure_client(server, client_context(authority.file)) as client:
        with create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as stranger:
            stranger.sendall(said)
            assert 1 == client.call("/", 1, timeout=PATIENCE)
            while stranger.recv(1000):
                pass  # an alert, perhaps
        assert wait_for(lambda: observer.named("handshake_refused"))
        assert 2 == client.call("/", 2, timeout=PATIENCE)
    assert 1 == len(observer.named("handshake_refused"))


@pytest.mark.parametrize("secure", [True, False])
def test_each_end_expects_the_same_kind_of_address(authority: Authority, certfile: str, secure: bool) -> None:
    """ws:// to a TLS port, wss:// to a plain one: an error, soon, and none that looks like a network's."""
    server = tls_server(ServerTLS(certfile) if secure else None)
    with running(server):
        other = f"{'ws' if secure else 'wss'}://127.0.0.1:{server.port}"
        client = WebMeshClient(other, tls=None if secure else client_context(authority.file))
        with pytest.raises(TransportError):
            client.connect(PATIENCE)
        client.close()


def test_options_that_do_not_go_together_are_refused(certfile: str) -> None:
    """At the first use at the latest, before anything is sent."""
    client = WebMeshClient("ws://127.0.0.1:1", tls=client_context())
    with pytest.raises(ConfigurationError, match="wss://"):
        client.connect()
    client.close()
    for wrong in ("cert.pem", True, ssl.create_default_context()):
        with pytest.raises(ConfigurationError):
            WebMeshServer(tls=wrong)  # type: ignore[arg-type]
