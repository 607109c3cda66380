"""Story: a proxy stands in front of the server; it is believed, strangers are not, and limits are about the clients."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.socket import AF_UNIX, create_connection, socket

from tests.integration.strangers import (
    HEAD, answer, connect, dial, json_server, read_head, retry_after, status, upgrade, who,
)  # fmt: skip
from tests.running import PATIENCE, running, wait_for
from tests.websocket.loopback import Authority
from webmesh.exceptions import ConfigurationError
from webmesh.options import Limits, Timeouts
from webmesh.testing import RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer
from webmesh.websocket.tls import ServerTLS, client_context, wrap_client

PROXY, STRANGER, CLIENT = "127.0.0.1", "127.0.0.9", "192.0.2.7"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
VERSION_1 = f"PROXY TCP4 {CLIENT} 127.0.0.1 51000 4269\r\n".encode()
VERSION_2 = SIGNATURE + b"\x21\x11\0\x0c" + bytes([192, 0, 2, 7, 127, 0, 0, 1]) + b"\xc7\x38\x10\xad"
LOCAL = SIGNATURE + b"\x20\0\0\0"


@contextmanager
def behind(**options: Any) -> Iterator[tuple[WebMeshServer, RecordingObserver]]:
    """A server that trusts one address of this machine, and counts all of them."""
    observer = RecordingObserver()
    settings: dict[str, Any] = {"trusted_proxies": [PROXY], "exempt_addresses": [], "observer": observer}
    with running(json_server(**settings | options)) as server:
        yield server, observer


def forwarded(*clients: str) -> str:
    return "".join(f"X-Forwarded-For: {client}\r\n" for client in clients)


@pytest.mark.row(59)
@pytest.mark.parametrize(
    ("hops", "said", "address"),
    [
        (1, forwarded(CLIENT), CLIENT),
        (1, forwarded(f"203.0.113.9, {CLIENT}:81"), f"{CLIENT}:81"),
        (1, forwarded("203.0.113.9", "2001:db8::7"), "[2001:db8::7]"),
        (1, forwarded(f"{CLIENT}, 127.0.0.1"), "127.0.0.1"),
        (2, forwarded(f"203.0.113.9, {CLIENT}, 127.0.0.1"), CLIENT),
        (2, forwarded(f"203.0.113.9, {CLIENT}"), CLIENT),
    ],
)
def test_a_listed_proxy_is_believed(hops: int, said: str, address: str) -> None:
    """As far as the hops go, from the right, over any number of header lines."""
    with behind(forwarded_hops=hops) as (server, _), connect(server, PROXY, more=said) as sock:
        assert address == who(sock)


@pytest.mark.row(59)
def test_strangers_and_what_is_no_address_are_not_believed() -> None:
    """Whoever connects is then the peer; the header that was not chosen is not read either."""
    with behind() as (server, _):
        cases = [
            (STRANGER, forwarded(CLIENT)), (PROXY, forwarded("unknown")), (PROXY, ""),
            (PROXY, f"Forwarded: for={CLIENT}\r\n"),
        ]  # fmt: skip
        for source, said in cases:
            with connect(server, source, more=said) as sock:
                assert who(sock).startswith(f"{source}:")
    with behind(forwarded_header="forwarded") as (server, _):
        with connect(server, PROXY, more=f'{forwarded("203.0.113.9")}Forwarded: for="{CLIENT}:81"\r\n') as sock:
            assert f"{CLIENT}:81" == who(sock)


def test_a_proxy_may_come_by_a_unix_socket(tmp_path: Path) -> None:
    """Where that is listed; else its peers have the socket's name."""
    for trusted, expected in ([], f"unix:{tmp_path}"), (["unix"], CLIENT):
        path = str(tmp_path / f"{len(trusted)}.sock")
        with running(json_server(trusted_proxies=trusted), unix=path), socket(AF_UNIX) as sock:
            sock.connect(path)
            sock.sendall(upgrade(forwarded(CLIENT)))
            read_head(sock)
            assert who(sock).startswith(expected)


@pytest.mark.row(59)
def test_limits_and_logs_are_about_the_client(caplog: pytest.LogCaptureFixture) -> None:
    """One client of the proxy that takes too much does not use up what others may have."""
    with behind(limits=Limits(connections_per_address=1)) as (server, observer):
        with connect(server, PROXY, more=forwarded(CLIENT)):
            refused = answer(server, PROXY, upgrade(forwarded(CLIENT)))
            connect(server, PROXY, more=forwarded("192.0.2.8")).close()

        assert (429, 5) == (status(refused), retry_after(refused))
        assert [(CLIENT, 429, "address has too many connections")] == observer.named("handshake_refused")
        assert [CLIENT] == [record.address for record in caplog.records if record.message == "handshake refused"]


@pytest.mark.row(77)
def test_a_banned_client_of_a_proxy_is_told_so() -> None:
    """To close at once would be the proxy's fault in the eyes of its client: 429, and others go on."""
    with behind(limits=Limits(address_failures=2)) as (server, observer):
        for _ in range(3):
            with connect(server, PROXY, more=forwarded(CLIENT)) as sock:
                sock.sendall(b"\xff" * 10)  # no frame
                while sock.recv(1000):
                    pass
        assert wait_for(lambda: observer.named("refused"))
        head = answer(server, PROXY, upgrade(forwarded(CLIENT)))

        assert 429 == status(head) and 30 < retry_after(head) <= 60
        assert (CLIENT, 429, "address banned") in observer.named("handshake_refused")
        connect(server, PROXY, more=forwarded("192.0.2.8")).close()


@pytest.mark.row(9)
def test_a_forwarded_host_is_not_believed() -> None:
    """Only Host counts, which a proxy can pass on; for upgrades and pages alike."""
    with behind(allowed_hosts=["shop.example"]) as (server, _):
        for path in ("/", "/livez"):
            assert 403 == status(answer(server, PROXY, upgrade("X-Forwarded-Host: shop.example\r\n", path)))
        shop = upgrade("Origin: https://shop.example\r\n").replace(b"localhost", b"shop.example")
        with dial(server, PROXY) as sock:
            sock.sendall(shop)
            assert 101 == status(read_head(sock))


# ------------------------------------------------------------------ the PROXY protocol


@pytest.mark.row(59)
@pytest.mark.parametrize(
    ("header", "address"), [(VERSION_1, f"{CLIENT}:51000"), (VERSION_2, f"{CLIENT}:51000"), (LOCAL, PROXY)]
)
def test_a_proxy_says_before_all_else_for_whom_it_speaks(header: bytes, address: str) -> None:
    """In either version, in pieces or with the request in the same packet; what the client says is not believed."""
    with behind(proxy_protocol=True) as (server, _):
        with connect(server, PROXY, before=header, more=forwarded("203.0.113.9")) as sock:
            assert who(sock).startswith(address)
        with dial(server, PROXY) as sock:
            for byte in header + upgrade():
                sock.sendall(bytes([byte]))
                gevent.sleep(0)
            read_head(sock)
            assert who(sock).startswith(address)


@pytest.mark.row(59)
def test_a_proxy_of_http_before_one_of_tcp() -> None:
    """The first is the client of the second, and listed: then it is believed about its own clients."""
    header = b"PROXY TCP4 127.0.0.1 127.0.0.1 51000 4269\r\n"
    with behind(proxy_protocol=True) as (server, _):
        with connect(server, PROXY, before=header, more=forwarded(CLIENT)) as sock:
            assert CLIENT == who(sock)


@pytest.mark.row(59)
@pytest.mark.parametrize("sent", [upgrade(), b"PROXY TCP4 x\r\n", SIGNATURE + b"\x21\x11\xff\xff", b"PROXY TCP4 "])
def test_a_proxy_that_does_not_say_it_is_refused(sent: bytes) -> None:
    """Unheard, at once or at the deadline; a check that only connects is no fault."""
    with behind(proxy_protocol=True, timeouts=Timeouts(upgrade=0.2)) as (server, observer):
        assert b"" == answer(server, PROXY, sent)
        with dial(server, PROXY) as check:
            check.shutdown(1)
            assert b"" == check.recv(100)
        assert wait_for(lambda: len(observer.named("handshake_refused")) == 2)
        assert {0} == {code for _, code, _ in observer.named("handshake_refused")}


@pytest.mark.row(59)
def test_a_stranger_cannot_speak_for_others() -> None:
    """It is who it is, and its header is no HTTP."""
    with behind(proxy_protocol=True) as (server, observer):
        with connect(server, STRANGER) as sock:
            assert who(sock).startswith(f"{STRANGER}:")
        assert 400 == status(answer(server, STRANGER, VERSION_1 + upgrade()))
        assert observer.named("handshake_refused")[0][0].startswith(STRANGER)


def test_the_proxy_protocol_needs_proxies() -> None:
    """Else nobody would be asked for it, and all would be let in."""
    with pytest.raises(ConfigurationError, match="trusted_proxies"):
        WebMeshServer(proxy_protocol=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One for all: making its key is slow."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.row(59)
@pytest.mark.parametrize("header", [VERSION_1, VERSION_2])
def test_tls_follows_the_header(authority: Authority, header: bytes) -> None:
    """Not one byte of it is lost, though both come in one packet or in many."""
    tls = ServerTLS(authority.issue("localhost"))
    with behind(proxy_protocol=True, tls=tls) as (server, _), dial(server, PROXY) as sock:
        sock.sendall(header)
        with wrap_client(sock, client_context(authority.file), "localhost") as secured:
            secured.do_handshake()
            secured.sendall(upgrade())
            read_head(secured)
            assert f"{CLIENT}:51000" == who(secured)


# ------------------------------------------------------- the configurations of docs/SECURITY.md

PAGE = (Path(__file__).parent.parent.parent / "docs" / "SECURITY.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def free_port() -> int:
    with socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def adapted(text: str, *changes: tuple[str, str]) -> str:
    """A configuration of the page with what is this machine's; everything that is to be changed must be there."""
    for old, new in changes:
        assert old in text, f"the page no longer says {old!r}"
        text = text.replace(old, new)
    return text


@contextmanager
def program(command: list[str], port: int) -> Iterator[None]:
    """A proxy that accepts connections at *port*."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert wait_for(lambda: process.poll() is not None or accepts(port))
        if process.poll() is not None:
            pytest.fail(f"{command[0]} ended: {process.communicate()[0]!r}")
        yield
    finally:
        process.terminate()
        process.communicate()


def accepts(port: int) -> bool:
    try:
        create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def needs(name: str) -> str:
    """The program, if it is there."""
    path = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@contextmanager
def nginx(server: WebMeshServer, certificate: str, folder: Path) -> Iterator[int]:
    """nginx as the page says, in front of *server*."""
    path, port = needs("nginx"), free_port()
    (snippet,) = snippets("nginx")
    text = adapted(
        snippet, ("listen 443", f"listen 127.0.0.1:{port}"), ("/etc/ssl/shop.pem", certificate),
        ("127.0.0.1:4269", f"127.0.0.1:{server.port}"),
    )  # fmt: skip
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{text}}}\n"
    )
    with program([path, "-p", str(folder), "-e", "stderr", "-c", str(config)], port):
        yield port


@contextmanager
def haproxy(server: WebMeshServer, certificate: str, folder: Path, *, tcp: bool) -> Iterator[int]:
    """HAProxy as the page says, in front of *server*."""
    path, port = needs("haproxy"), free_port()
    over_http, over_tcp = snippets("haproxy")
    changes = [("bind :443", f"bind 127.0.0.1:{port}"), ("127.0.0.1:4269", f"127.0.0.1:{server.port}")]
    text = adapted(over_tcp, *changes) if tcp else adapted(over_http, *changes, ("/etc/haproxy/shop.pem", certificate))
    config = folder / "haproxy.cfg"
    config.write_text(f"{text}\n")
    with program([path, "-db", "-f", str(config)], port):
        yield port


REAL = [
    pytest.param(nginx, {}, id="nginx"),
    pytest.param(lambda *args: haproxy(*args, tcp=False), {}, id="haproxy-http"),
    pytest.param(lambda *args: haproxy(*args, tcp=True), {"proxy_protocol": True}, id="haproxy-tcp"),
]


@pytest.mark.row(59)
@pytest.mark.parametrize(("proxy", "options"), REAL)
def test_real_proxies_as_the_page_configures_them(
    proxy: Callable[..., Any], options: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    """Calls and streams work, the server knows its clients, what they say of themselves is not believed, and pages of
    the same site pass the origin check."""
    certificate = authority.issue("shop.example", "localhost")
    tls = ServerTLS(certificate) if "proxy_protocol" in options else None
    context = client_context(authority.file)
    with ExitStack() as open_:
        server, _ = open_.enter_context(
            behind(allowed_hosts=["shop.example", "localhost"], exempt_addresses=["127.0.0.1"], tls=tls, **options)
        )
        server_port = open_.enter_context(proxy(server, certificate, tmp_path))
        client = open_.enter_context(WebMeshClient(f"wss://localhost:{server_port}", tls=context))
        assert client.call("/who", timeout=PATIENCE).startswith(PROXY)

        far = create_connection(("127.0.0.1", server_port), timeout=PATIENCE, source_address=(STRANGER, 0))
        secured = open_.enter_context(wrap_client(far, context, "shop.example"))
        secured.do_handshake()
        more = f"{forwarded(CLIENT)}Origin: https://shop.example:{server_port}\r\n"
        request = f"GET / HTTP/1.1\r\n{HEAD}{more}\r\n".replace("localhost", f"shop.example:{server_port}")
        secured.sendall(request.encode())
        assert 101 == status(read_head(secured))
        assert who(secured).partition(":")[0] == STRANGER
