"""Dialling: addresses in turn, one deadline for all, and one class for each way to fail."""

from __future__ import annotations

import datetime
import errno
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socket import has_dualstack_ipv6

import gevent
import pytest
from gevent.server import StreamServer
from gevent.socket import AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM, gaierror, socket

from tests.websocket.loopback import (
    PATIENCE,
    Authority,
    accept_all,
    descriptors,
    echo,
    listening,
    no_more_than,
    read_head,
    reset,
    until,
    upgrade,
)
from webmesh.exceptions import ConfigurationError, ConnectFailed, HandshakeRejected
from webmesh.options import Limits
from webmesh.protocol.deflate import BoundedDeflate, negotiate_deflate
from webmesh.protocol.handshake import ServerHandshake
from webmesh.websocket import dialer
from webmesh.websocket.dialer import dial
from webmesh.websocket.tls import ServerTLS, client_context
from webmesh.websocket.upgraded import Acceptance, TcpAddress, UnixAddress, Upgraded

LIMITS = Limits()
needs_ipv6 = pytest.mark.skipif(not has_dualstack_ipv6(), reason="needs IPv6 on this machine")


def dialled(url: str, *, timeout: float = PATIENCE, **options: object) -> Upgraded:
    return dial(url, timeout=timeout, limits=options.pop("limits", LIMITS), **options)


@contextmanager
def raw_server(handle: Callable[[socket], object], host: str = "127.0.0.1") -> Iterator[str]:
    """A server that does with each connection what a test says; yields its ws:// URL."""

    def handle_and_close(sock: socket, address: object) -> None:
        with suppress(OSError):
            handle(sock)

    with StreamServer((host, 0), handle_and_close) as server:
        server.start()
        yield f"ws://127.0.0.1:{server.server_port}/"


def answering(*pieces: bytes) -> Callable[[socket], None]:
    """A handler that reads the request and then sends *pieces*, and waits for the client to leave."""

    def handle(sock: socket) -> None:
        read_head(sock)
        for piece in pieces:
            sock.sendall(piece)
        sock.recv(1)

    return handle


def silent(sock: socket) -> None:
    """A handler that never says anything."""
    while sock.recv(1_000_000):
        pass


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket(AF_INET) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def resolver(*addresses: tuple[str, int]) -> Callable[..., list[tuple]]:
    """A `getaddrinfo` that knows one answer to everything."""
    return lambda *args: [
        (AF_INET6 if ":" in host else AF_INET, SOCK_STREAM, 6, "", (host, port)) for host, port in addresses
    ]


def test_both_sides_know_what_was_agreed():
    """Subprotocol, extensions, headers and bytes arrive; the socket is ready for messages."""
    seen = []

    def decide(request, address, certificate):
        seen.append((request.target, request.headers["authorization"], request.host))
        return Acceptance("b", [negotiate_deflate(request.extensions, limits=LIMITS)])

    with listening(decide=decide) as listener:
        upgraded = dialled(
            f"ws://localhost:{listener.port}/path?q=1",
            subprotocols=["a", "b"],
            headers=[("Authorization", "Bearer x")],
            extensions=[BoundedDeflate(LIMITS)],
        )
        with upgraded.sock:
            upgraded.sock.sendall(b"ping")
            assert b"ping" == upgraded.sock.recv(4)
            assert upgraded.sock.gettimeout() is None

    assert [("/path?q=1", "Bearer x", f"localhost:{listener.port}")] == seen
    assert ("b", listener.address, None) == (upgraded.subprotocol, upgraded.address, upgraded.peer_certificate)
    assert ["permessage-deflate"] == [extension.name for extension in upgraded.extensions]


def test_an_extension_that_was_not_accepted_is_not_used():
    """Only what the answer names is in the result."""
    with listening() as listener:
        upgraded = dialled(f"ws://{listener.address}/", extensions=[BoundedDeflate(LIMITS)])
        upgraded.sock.close()

    assert ([], None, None) == (upgraded.extensions, upgraded.subprotocol, upgraded.request)


@pytest.mark.row(16)
def test_frames_in_the_packet_of_the_answer_are_kept():
    """A server may speak first, and TCP may deliver it all at once."""
    def handle(sock):
        handshake = ServerHandshake(LIMITS)
        handshake.receive(read_head(sock))
        sock.sendall(handshake.accept(subprotocol=None) + b"first frame")
        sock.recv(1)

    with raw_server(handle) as url:
        upgraded = dialled(url)
        upgraded.sock.close()

    assert b"first frame" == upgraded.trailing


@pytest.mark.parametrize("form", ["ws+unix://{escaped}/echo?x=1", "ws+unix://{path}?x=1"])
def test_unix_sockets(form, tmp_path, monkeypatch):
    """By the escaped path or by the plain one."""
    monkeypatch.chdir("/")
    path, targets = str(tmp_path / "s"), []

    def decide(request, address, certificate):
        targets.append((request.target, request.host))
        return Acceptance(None)

    with listening(UnixAddress(path), decide=decide):
        upgraded = dialled(form.format(path=path, escaped=path.replace("/", "%2F")))
        upgraded.sock.close()

    assert [("/echo?x=1" if "echo" in form else "/?x=1", "localhost")] == targets
    assert f"unix:{path}" == upgraded.address


def test_a_busy_unix_server_is_waited_for(tmp_path, monkeypatch):
    """Its queue is full: there is no event for that, so it is tried again until there is room, or no time."""
    monkeypatch.chdir(tmp_path)
    server = socket(AF_UNIX)
    server.bind("s")
    server.listen(0)
    waiting: list[socket] = []
    while not waiting or waiting[-1].connect_ex("s") == 0:
        waiting.append(socket(AF_UNIX))
        waiting[-1].setblocking(False)

    with pytest.raises(ConnectFailed, match="unix:s: TCP: nothing within 0."):
        dialled("ws+unix://s", timeout=0.1)
    dialling = gevent.spawn(dialled, "ws+unix://s")
    before = time.process_time()
    gevent.sleep(0.3)
    used = time.process_time() - before
    with listening(server):
        upgraded = dialling.get(timeout=PATIENCE)

    assert used < 0.15  # it waits, and does not spin
    assert "unix:s" == upgraded.address
    for sock in (*waiting, upgraded.sock):
        sock.close()


def test_nobody_listens():
    """The reason is told for the address that was tried."""
    port = closed_port()

    with pytest.raises(ConnectFailed, match="Connection refused") as caught:
        dialled(f"ws://127.0.0.1:{port}/secret?token=secret")

    assert [f"127.0.0.1:{port}: TCP: Connection refused"] == caught.value.attempts
    assert f"127.0.0.1:{port}" == caught.value.address
    assert "secret" not in str(caught.value)


@pytest.mark.row(78)
def test_the_next_address_is_tried(monkeypatch):
    """A name with a dead address and a living one is a living service."""
    with listening() as listener:
        monkeypatch.setattr(dialer, "getaddrinfo", resolver(("127.0.0.1", closed_port()), ("127.0.0.1", listener.port)))
        upgraded = dialled("ws://shop.test/")
        upgraded.sock.close()

    assert listener.address == upgraded.address


@pytest.mark.row(78)
@pytest.mark.parametrize("dead", ["silent", "closing"])
def test_a_dead_address_does_not_use_up_the_time_of_the_next(dead, monkeypatch):
    """Each gets its share of what is left; one that hangs after TCP is as dead as one that refuses."""
    monkeypatch.setattr(dialer, "LEAST_SHARE", 0.05)
    with raw_server(silent if dead == "silent" else lambda sock: None) as url, listening() as listener:
        port = int(url.rpartition(":")[2].strip("/"))
        monkeypatch.setattr(dialer, "getaddrinfo", resolver(("127.0.0.1", port), ("127.0.0.1", listener.port)))
        upgraded = dialled("ws://shop.test/", timeout=2.0)
        upgraded.sock.close()

    assert listener.address == upgraded.address


@pytest.mark.row(78)
@pytest.mark.parametrize("order", ["first", "last"])
def test_an_address_that_worked_or_went_has_its_place(order, monkeypatch):
    """What worked last time is asked first, what has just gone last; so one is asked that the system would not."""
    with listening() as one, listening() as other:
        monkeypatch.setattr(dialer, "getaddrinfo", resolver(("127.0.0.1", one.port), ("127.0.0.1", other.port)))
        place = {"first": other.address} if order == "first" else {"last": one.address}
        upgraded = dialled("ws://shop.test/", **place)
        upgraded.sock.close()

    assert other.address == upgraded.address


@pytest.mark.row(76, 78)
def test_a_server_that_is_busy_is_left_for_the_next_address(monkeypatch):
    """A 503 is one machine's answer; a 401 is the service's. Where all are busy, the first one's delay is told."""
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 7\r\n\r\n"
    refusing = b"HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n"
    with raw_server(answering(busy)) as a, raw_server(answering(refusing)) as b, listening() as listener:
        busy_port, refusing_port = (int(url.rpartition(":")[2].strip("/")) for url in (a, b))
        where = {"up": listener.port, "busy": busy_port, "refusing": refusing_port}

        def dial_all(*names: str) -> Upgraded:
            found = resolver(*(("127.0.0.1", where[name]) for name in names))
            monkeypatch.setattr(dialer, "getaddrinfo", found)
            return dialled("ws://shop.test/")

        upgraded = dial_all("busy", "up")
        upgraded.sock.close()
        with pytest.raises(HandshakeRejected) as all_busy:
            dial_all("busy", "busy")
        with pytest.raises(HandshakeRejected) as refused:
            dial_all("refusing", "up")

    assert listener.address == upgraded.address
    assert (503, 7.0) == (all_busy.value.status, all_busy.value.retry_after)
    assert 401 == refused.value.status


@pytest.mark.row(78)
def test_all_addresses_fail_within_one_deadline(monkeypatch):
    """However many there are; the exception names each that was tried, and how many there was no time for."""
    monkeypatch.setattr(dialer, "LEAST_SHARE", 0.1)
    with raw_server(silent, "0.0.0.0") as url:
        port = int(url.rpartition(":")[2].strip("/"))
        hosts = [f"127.0.0.{number}" for number in (1, 1, 2, 3, 4, 5)]
        monkeypatch.setattr(dialer, "getaddrinfo", resolver(*((host, port) for host in hosts)))
        with pytest.raises(ConnectFailed) as caught, gevent.Timeout(PATIENCE):
            dialled("ws://shop.test/", timeout=0.2)

    first, *_, last = caught.value.attempts
    assert first.startswith(f"127.0.0.1:{port}: upgrade: nothing within 0.")
    assert "no time left for" in last
    assert 1 == str(caught.value).count("127.0.0.1:")


@pytest.mark.row(78)
def test_a_slow_resolver_ends_at_the_deadline_and_holds_up_nobody(monkeypatch):
    """Names are resolved off the hub: other greenlets run meanwhile."""
    monkeypatch.setattr(dialer, "getaddrinfo", lambda *args: gevent.sleep(PATIENCE * 10))
    other = gevent.spawn(gevent.sleep, 0.01)

    with pytest.raises(ConnectFailed, match="name not resolved in time"):
        dialled("ws://shop.test/", timeout=0.2)

    assert other.ready()


@pytest.mark.row(78)
def test_the_caller_s_own_timeout_ends_the_resolution_too(monkeypatch):
    """It is not taken for ours."""
    monkeypatch.setattr(dialer, "getaddrinfo", lambda *args: gevent.sleep(PATIENCE * 10))
    own = gevent.Timeout(0.02)

    with pytest.raises(gevent.Timeout) as caught, own:
        dialled("ws://shop.test/")

    assert caught.value is own


@pytest.mark.row(78)
@pytest.mark.parametrize("error", [gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
def test_a_name_that_does_not_resolve(error, monkeypatch):
    """The resolver's own words, in our class."""
    def fail(*args):
        raise error

    monkeypatch.setattr(dialer, "getaddrinfo", fail)

    with pytest.raises(ConnectFailed, match="name not resolved: (Name or service|label too long)"):
        dialled("ws://shop.test/")


@pytest.mark.row(78)
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("[::1]", marks=needs_ipv6)])
def test_an_address_needs_no_resolver(host, monkeypatch):
    """It is dialled though no name server answers."""
    monkeypatch.setattr(dialer, "getaddrinfo", lambda *args: gevent.sleep(PATIENCE * 10))
    with listening(TcpAddress(host.strip("[]"), 0)) as listener:
        dialled(f"ws://{host}:{listener.port}/").sock.close()


@pytest.mark.row(78)
@needs_ipv6
def test_a_zone_is_looked_up():
    """Only the system knows which interface it names; an unknown one fails as a name does."""
    with listening(TcpAddress("::1", 0)) as listener:
        dialled(f"ws://[::1%251]:{listener.port}/").sock.close()
        with pytest.raises(ConnectFailed, match="name not resolved"):
            dialled(f"ws://[::1%nowhere0]:{listener.port}/")


@pytest.mark.row(78)
def test_a_name_is_resolved_anew_at_each_try(monkeypatch):
    """A service that has moved is found at its new place."""
    with listening() as first, listening() as second:
        found = []
        for listener in (first, second):
            monkeypatch.setattr(dialer, "getaddrinfo", resolver(("127.0.0.1", listener.port)))
            upgraded = dialled("ws://shop.test/")
            upgraded.sock.close()
            found.append(upgraded.address)

    assert [first.address, second.address] == found


def test_the_resolver_is_gevent_s():
    """In an unpatched process too, as the standard library's would stop the hub."""
    assert dialer.getaddrinfo.__module__.startswith("gevent")
    with listening(TcpAddress("localhost", 0)) as listener:
        dialled(f"ws://localhost:{listener.port}").sock.close()


@pytest.mark.row(60)
class TestCertificates:
    """A client refuses every server that it cannot be sure of, and says why."""

    def refused(self, certfile: str, context: ssl.SSLContext | None, host: str = "localhost") -> str:
        decided = []
        with listening(tls=ServerTLS(certfile), decide=lambda *args: decided.append(args)) as listener:
            with pytest.raises(ConnectFailed) as caught:
                dialled(f"wss://{host}:{listener.port}/", tls=context)
        assert [] == decided  # no request, and so no token, was sent
        return str(caught.value)

    def test_known_ones_are_accepted(self, authority: Authority):
        """By name and by address; the application can see whose certificate it was."""
        with listening(tls=ServerTLS(authority.issue("localhost", "127.0.0.1"))) as listener:
            for host in ("localhost", "127.0.0.1", "LOCALHOST"):
                upgraded = dialled(f"wss://{host}:{listener.port}/", tls=client_context(authority.file))
                with upgraded.sock:
                    upgraded.sock.sendall(b"ping")
                    assert b"ping" == upgraded.sock.recv(4)
                assert upgraded.peer_certificate is not None

    def test_unknown_authority(self, authority: Authority):
        """Self-signed, in the words of most people; also what the default context makes of a private authority."""
        for context in (None, client_context()):
            assert "certificate refused" in self.refused(authority.issue("localhost"), context)

    def test_wrong_host(self, authority: Authority):
        """A name or an address that the certificate is not for."""
        certfile = authority.issue("elsewhere.test", "127.0.0.9")
        for host in ("localhost", "127.0.0.1"):
            reason = self.refused(certfile, client_context(authority.file), host)
            assert "mismatch" in reason and "certificate refused" in reason

    def test_expired(self, authority: Authority):
        """By the certificate's own date."""
        yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
        certfile = authority.issue("localhost", not_after=yesterday)

        assert "certificate has expired" in self.refused(certfile, client_context(authority.file))

    def test_wrong_purpose(self, authority: Authority):
        """A certificate that was made for clients does not make a server."""
        certfile, ca_file = authority.issue_for_clients_only("localhost")

        assert "certificate purpose" in self.refused(certfile, client_context(ca_file))

    def test_a_server_that_speaks_no_tls(self, authority: Authority):
        """Plain HTTP on the port that should have had TLS."""
        def handle(sock):
            sock.recv(1)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        with raw_server(handle) as url, pytest.raises(ConnectFailed, match="TLS: wrong version number"):
            dialled(url.replace("ws:", "wss:"))

    def test_switched_off_by_a_loud_name(self, authority: Authority):
        """For tests and nothing else."""
        with listening(tls=ServerTLS(authority.issue("elsewhere.test"))) as listener:
            careless = client_context(insecure_skip_verify=True)
            dialled(f"wss://{listener.address}/", tls=careless).sock.close()

    def test_client_certificates(self, authority: Authority):
        """With one the server knows who it is; without one the reason arrives here."""
        seen = []

        def decide(request, address, certificate):
            seen.append(certificate["subjectAltName"])
            return accept_all(request, address, certificate)

        tls = ServerTLS(authority.issue("localhost"), client_ca=authority.file)
        with listening(tls=tls, decide=decide) as listener:
            url = f"wss://localhost:{listener.port}/"
            dialled(url, tls=client_context(authority.file, authority.issue("till.test"))).sock.close()
            with pytest.raises(ConnectFailed, match="certificate required"):
                dialled(url, tls=client_context(authority.file))

        assert [(("DNS", "till.test"),)] == seen


@pytest.mark.row(61)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_server_of_old_protocols_is_refused(authority):
    """A client does not go below TLS 1.2 either."""
    def handle(sock):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        context.load_cert_chain(certfile)
        from gevent.ssl import SSLSocket

        with SSLSocket(sock=sock, server_side=True, do_handshake_on_connect=False, _context=context) as secured:
            secured.do_handshake()

    certfile = authority.issue("localhost")
    with raw_server(handle) as url, pytest.raises(ConnectFailed, match="TLS: .*protocol"):
        dialled(url.replace("ws://127.0.0.1", "wss://localhost"), tls=client_context(authority.file))


def test_contexts_are_for_wss_and_for_clients(authority):
    """Mistakes that would mean less security than was meant are told before anything is dialled."""
    with pytest.raises(ConfigurationError, match="write wss://"):
        dialled("ws://shop.test/", tls=client_context())
    with pytest.raises(ConfigurationError, match="for servers"):
        dialled("wss://shop.test/", tls=ServerTLS(authority.issue("localhost")).context)


@pytest.mark.row(15)
@pytest.mark.parametrize(
    "options",
    [
        {"headers": [("x-a", "b\r\nx-evil: c")]},
        {"headers": [("x-a\r\nx-evil", "c")]},
        {"headers": [("Host", "elsewhere")]},
        {"subprotocols": ["a\r\nx-evil: c"]},
        {"subprotocols": ["a", "a"]},
    ],
)
def test_nothing_is_sent_that_could_smuggle_a_line(options, monkeypatch):
    """It is refused before a name is looked up, let alone a connection made."""
    asked = []
    monkeypatch.setattr(dialer, "getaddrinfo", lambda *args: asked.append(args))

    with pytest.raises(ConfigurationError):
        dialled("ws://shop.test/", **options)

    assert [] == asked


@pytest.mark.row(14)
@pytest.mark.parametrize(
    ("answer", "status", "retry_after"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, None),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://evil.test/\r\nContent-Length: 0\r\n\r\n", 301, None),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", 401, None),
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", 503, 7.0),
        (b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 101, None),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 100, None),
        (b"HTTP/1.1 500 No\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 100_000, 500, None),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 0, None),
        (b"\x15\x03\x01\x00\x02\x02\x16", 0, None),
    ],
)
def test_other_answers_than_yes(answer, status, retry_after):
    """One class with the status and the delay that was asked for; no redirect is followed, no body read for ever."""
    before = descriptors()
    with raw_server(answering(answer)) as url, pytest.raises(HandshakeRejected) as caught:
        dialled(url)

    assert (status, retry_after) == (caught.value.status, caught.value.retry_after)
    until(lambda: no_more_than(before))


@pytest.mark.row(14)
def test_a_rejection_whose_body_never_ends_counts_at_the_deadline():
    """The status has come, and no other address is asked: a server has spoken."""
    with raw_server(answering(b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\nna")) as url:
        with pytest.raises(HandshakeRejected) as caught:
            dialled(url, timeout=0.1)

    assert 403 == caught.value.status


@pytest.mark.row(14)
def test_a_rejection_that_is_cut_off_counts():
    """Whatever of the body is missing, the answer was no."""
    def handle(sock):
        read_head(sock)
        sock.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\nna")

    with raw_server(handle) as url, pytest.raises(HandshakeRejected) as caught:
        dialled(url)

    assert 403 == caught.value.status


@pytest.mark.row(71)
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 1", b"HTTP/1.1 101 Yes\r\nUpgr"], ids=["nothing", "a word", "half"])
@pytest.mark.parametrize("end", [reset, socket.close], ids=["reset", "close"])
def test_a_server_that_leaves_in_the_handshake(sent, end):
    """No answer is no answer, however it ends: ConnectFailed, and no descriptor is left."""
    before = descriptors()

    def handle(sock):
        read_head(sock)
        sock.sendall(sent)
        end(sock)

    with raw_server(handle) as url, pytest.raises(ConnectFailed, match="upgrade: "):
        dialled(url)
    until(lambda: no_more_than(before))


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_silent_server_ends_at_the_deadline(scheme):
    """In TLS and in the upgrade; the step is named."""
    before = descriptors()
    with raw_server(silent) as url:
        step = "TLS" if scheme == "wss" else "upgrade"
        with pytest.raises(ConnectFailed, match=f"{step}: nothing within 0."):
            dialled(url.replace("ws:", f"{scheme}:"), timeout=0.1)
    until(lambda: no_more_than(before))


def test_progress_does_not_move_the_deadline():
    """One byte after the other is as slow as silence."""
    def drip(sock):
        for byte in b"HTTP/1.1 101 " + b"x" * 8000:
            sock.sendall(bytes([byte]))
            gevent.sleep(0.01)

    with raw_server(drip) as url, gevent.Timeout(PATIENCE), pytest.raises(ConnectFailed, match="nothing within"):
        dialled(url, timeout=0.2)


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_no_time_at_all(timeout):
    """A caller whose own deadline has passed gets the same class."""
    with listening() as listener, pytest.raises(ConnectFailed):
        dialled(f"ws://{listener.address}/", timeout=timeout)


def test_the_caller_s_own_timeout_passes_through():
    """It is not taken for ours, and the socket is closed all the same."""
    before = descriptors()
    with raw_server(silent) as url:
        own = gevent.Timeout(0.05)
        with pytest.raises(gevent.Timeout) as caught, own:
            dialled(url)
        assert caught.value is own
    until(lambda: no_more_than(before))


def test_a_dialler_that_is_killed_leaves_nothing():
    """At whichever step it waits."""
    before = descriptors()
    with raw_server(silent) as url:
        for scheme in ("ws", "wss"):
            dialling = gevent.spawn(dialled, url.replace("ws:", f"{scheme}:"))
            gevent.sleep(0.02)
            dialling.kill()
    until(lambda: no_more_than(before))


def test_no_descriptor_left_to_dial_with(monkeypatch):
    """The reason is told like any other."""
    def no_socket(*args):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(dialer, "socket", no_socket)

    with pytest.raises(ConnectFailed, match="TCP: Too many open files"):
        dialled("ws://127.0.0.1:1/")


def test_a_thousand_failures_leave_nothing():
    """No descriptor and no greenlet stays behind, whatever the way to fail."""
    urls = []
    with raw_server(reset) as url, raw_server(answering(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")) as no:
        urls = [url, no, url.replace("ws:", "wss:"), f"ws://127.0.0.1:{closed_port()}/"]
        with suppress(ConnectFailed, HandshakeRejected):
            dialled(urls[2])  # the first wss loads the system's authorities
        before = descriptors()
        for count in range(1000):
            with pytest.raises((ConnectFailed, HandshakeRejected)):
                dialled(urls[count % 4])
        until(lambda: no_more_than(before))


@needs_ipv6
def test_echo_after_a_dial_through_every_family():
    """A dual-stack listener is reached by every kind of host."""
    with listening(TcpAddress("::", 0), serve=echo) as listener:
        for host in ("[::1]", "127.0.0.1", "localhost"):
            upgraded = dialled(f"ws://{host}:{listener.port}/")
            with upgraded.sock:
                upgraded.sock.sendall(upgrade())
                assert b"GET" == upgraded.sock.recv(3)


def test_a_failure_tells_whether_nobody_listens_there(tmp_path) -> None:
    """A refusal proves that there is no process; silence proves nothing."""
    with raw_server(silent) as quiet:
        urls = f"ws://127.0.0.1:{closed_port()}", f"ws+unix://{tmp_path}/none.sock", quiet
        failed = []
        for url in urls:
            with pytest.raises(ConnectFailed) as caught:
                dial(url, timeout=0.2, limits=Limits())
            failed.append(caught.value.refused)
    assert [True, True, False] == failed
