"""Hostile and broken peers, byte by byte: each costs itself its connection, and nobody else anything."""

from __future__ import annotations

import ssl

import gevent
import pytest
from gevent.socket import SHUT_WR, socket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.websocket.loopback import (
    PATIENCE,
    Witness,
    accept_all,
    exchange,
    listening,
    peer,
    read_head,
    read_to_end,
    reset,
    status_of,
    until,
    upgrade,
)
from webmesh.options import Limits, Timeouts
from webmesh.websocket.listener import Listener
from webmesh.websocket.refusals import FIELD_SIZE
from webmesh.websocket.tls import ServerTLS, client_context, wrap_client

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME = b"\x81\x85\0\0\0\0hello"
SMALL = Limits(header_line=200, header_count=10, head_size=1000)


class Server:
    """A listener that notes whom it was asked about and what it served."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.served: list[bytes] = []

    def decide(self, request, address, certificate):
        self.asked.append(request.target)
        return accept_all(request, address, certificate)

    def serve(self, upgraded):
        self.served.append(upgraded.trailing)

    @property
    def untouched(self) -> bool:
        """Whether nothing that a peer sent got further than the handshake."""
        return not self.asked and not self.served

    def hooks(self) -> dict[str, object]:
        return {"decide": self.decide, "serve": self.serve}


@pytest.fixture
def server() -> Server:
    return Server()


def healthy(listener: Listener) -> bool:
    """Whether the next client gets an answer."""
    return 200 == status_of(exchange(listener, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"))


def in_pieces(listener: Listener, data: bytes) -> bytes:
    """As `exchange`, but one byte at a time, as far as the server lets us."""
    with peer(listener) as sock:
        try:
            for byte in data:
                sock.sendall(bytes([byte]))
                gevent.sleep(0)
            sock.shutdown(SHUT_WR)
        except OSError:
            pass
        return read_to_end(sock)


@pytest.mark.row(5)
@pytest.mark.parametrize("header", ["Content-Length: 11", "Content-Length: 0", "Transfer-Encoding: chunked"])
def test_an_upgrade_with_a_body_is_refused(server, witness, server_log, header):
    """A proxy in front may take those bytes for a body and we for frames: whoever knows that smuggles requests."""
    with listening(observer=witness, **server.hooks()) as listener:
        answer = exchange(listener, upgrade("/", header) + FRAME)

        assert 400 == status_of(answer)
        assert server.untouched
        assert healthy(listener)


@pytest.mark.row(6)
@pytest.mark.parametrize(
    ("greeting", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", 505),
        (upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
        (upgrade().replace(b"HTTP/1.1", b"HTTP/0.9"), 505),
        (b"GET /\r\n\r\n", 400),
        (PREFACE, 505),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000, 405),
        (b"CONNECT evil.test:443 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300), 400),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 400),
        (b"EHLO mail.test\r\n", 400),
        (b"*1\r\n$4\r\nPING\r\n", 400),
        (b"\x00\x00\x00\x17AMQP", 400),
        (b"\r\n\r\n\r\n", 400),
    ],
    ids=[
        "1.0", "upgrade 1.0", "0.9", "no version", "HTTP/2", "POST", "CONNECT", "TLS", "SSH", "SMTP", "Redis", "AMQP",
        "CRLF",
    ],
)  # fmt: skip
def test_other_protocols_get_a_short_answer(server, witness, server_log, greeting, status):
    """Whatever they meant, they learn that this is HTTP/1.1; one counter, one line, no traceback."""
    with listening(observer=witness, **server.hooks()) as listener:
        answer = exchange(listener, greeting)

        assert status == status_of(answer)
        assert len(answer) < 500
        assert [status] == [refused for refused, _ in witness.reasons]
        assert server.untouched
        assert healthy(listener)
    assert 1 == len([record for record in server_log.records if record.levelname == "WARNING"])


@pytest.mark.row(6)
def test_a_greeting_that_waits_for_an_answer_gets_one_at_once(witness, server_log):
    """TLS bytes on the plain port have no line ends; their client must not wait for our deadline."""
    with listening(timeouts=Timeouts(upgrade=PATIENCE * 10), observer=witness) as listener, peer(listener) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert 400 == status_of(sock.recv(1000))


@pytest.mark.row(3)
@pytest.mark.parametrize("send", [exchange, in_pieces], ids=["one read", "many reads"])
@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (upgrade("/" + "x" * 300), 414),
        (upgrade("/", "x-long: " + "x" * 300), 431),
        (upgrade("/", *(f"x-{number}: y" for number in range(20))), 431),
        (upgrade("/", *(f"x-{number}: " + "y" * 180 for number in range(5))), 431),
        (b"x" * 5000, 400),
    ],
    ids=["target", "line", "count", "whole", "no line end"],
)
def test_heads_over_a_limit(server, witness, server_log, send, request_bytes, status):
    """In one read or in many: the same status, and no more is kept than the limits say."""
    with listening(limits=SMALL, observer=witness, **server.hooks()) as listener:
        assert status == status_of(send(listener, request_bytes))
        assert server.untouched


@pytest.mark.row(4, 7)
@pytest.mark.parametrize(
    "request_bytes",
    [
        upgrade("/caf\xe9"),
        upgrade("/", "Origin: http://caf\xe9"),
        upgrade("/", "Sec-WebSocket-Protocol: \xff"),
        upgrade("/", "Sec-WebSocket-Extensions: \xff"),
        upgrade(host="caf\xe9"),
        upgrade().replace(b"\r\n", b"\n"),
        upgrade("/", "x-a: b\r\n folded"),
        upgrade("/", "x-a: b\0c"),
        upgrade("/", "x-a : b"),
        upgrade("/", "x-a: b\rx-evil: c"),
    ],
)
def test_heads_that_are_written_badly(server, witness, server_log, request_bytes):
    """400, and not a word of theirs comes back or raises anything."""
    with listening(observer=witness, **server.hooks()) as listener:
        answer = exchange(listener, request_bytes)

        assert 400 == status_of(answer)
        assert answer.isascii() and b"evil" not in answer
        assert server.untouched
    assert all(record.getMessage().isascii() for record in server_log.records)


@pytest.mark.row(46)
def test_no_peer_writes_its_own_text_into_the_log(witness, server_log):
    """Control characters, colours and formats of a request stay out of the log, and so do its secrets."""
    with listening(observer=witness) as listener:
        for evil in ("/\x1b[31m", "/%0aERROR", "/%s{0.__class__}", "/?token=secret"):
            exchange(listener, upgrade(evil, "Content-Length: 1"))
    for record in server_log.records:
        texts = [value for value in vars(record).values() if isinstance(value, str)]
        assert not [text for text in texts if "\x1b" in text or "__class__" in text or "secret" in text]
        assert max(len(text) for text in (record.reason, record.address)) <= FIELD_SIZE


@pytest.mark.row(62)
def test_a_silent_peer_on_the_tls_port(authority, witness, server_log):
    """Closed at the deadline of TLS; gevent alone would keep it, and its place, for ever."""
    tls = ServerTLS(authority.issue("localhost"))
    with listening(tls=tls, timeouts=Timeouts(tls=0.2), observer=witness) as listener:
        silent = [peer(listener) for _ in range(10)]
        for sock in silent:
            assert b"" == read_to_end(sock)
            sock.close()
        assert [(0, "TLS not done in time")] * 10 == witness.wait_for(10)
        until(lambda: listener.newcomers == 0)
    assert 10 == len(server_log.records)


@pytest.mark.row(62)
def test_a_slow_tls_handshake_has_the_same_deadline(authority, witness, server_log):
    """A ClientHello that comes byte by byte gains no time."""
    tls = ServerTLS(authority.issue("localhost"))
    with listening(tls=tls, timeouts=Timeouts(tls=0.2), observer=witness) as listener, peer(listener) as sock:
        with pytest.raises(OSError), gevent.Timeout(PATIENCE):
            for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500):
                sock.sendall(bytes([byte]))
                gevent.sleep(0.01)

    assert [(0, "TLS not done in time")] == witness.reasons


@pytest.mark.row(62)
def test_a_peer_that_is_silent_after_tls(authority, witness, server_log):
    """Encrypted silence is silence: the deadline of the upgrade ends it."""
    tls = ServerTLS(authority.issue("localhost"))
    with listening(tls=tls, timeouts=Timeouts(upgrade=0.2), observer=witness) as listener:
        with wrap_client(peer(listener), client_context(authority.file), "localhost") as sock:
            sock.do_handshake()
            assert b"" == read_to_end(sock)

    assert [(0, "no whole request in time")] == witness.reasons


@pytest.mark.row(62)
@pytest.mark.parametrize("data", [upgrade(), b"\0" * 100, b"SSH-2.0-x\r\n", b"\x16"])
def test_no_tls_on_the_tls_port(authority, server, witness, server_log, data):
    """One line with the reason, no traceback, the next client is served."""
    tls = ServerTLS(authority.issue("localhost"))
    with listening(tls=tls, observer=witness, **server.hooks()) as listener:
        exchange(listener, data)

        assert [(0, "TLS failed")] == witness.wait_for(1)
        assert server.untouched
    assert ["handshake refused"] == [record.message for record in server_log.records]
    assert server_log.records[0].detail


@pytest.mark.row(63)
def test_bytes_before_the_tls_handshake_are_no_request(authority, server, witness, server_log):
    """A whole request in clear text ahead of TLS, and then a proper client on the same socket."""
    tls = ServerTLS(authority.issue("localhost"))
    with listening(tls=tls, observer=witness, **server.hooks()) as listener, peer(listener) as sock:
        sock.sendall(upgrade() + FRAME)
        with pytest.raises(OSError), wrap_client(sock, client_context(authority.file), "localhost") as secured:
            secured.do_handshake()
            secured.sendall(upgrade())
            read_head(secured)
        witness.wait_for(1)

    assert server.untouched


@pytest.mark.row(63)
def test_bytes_sent_before_a_reset_are_no_request(authority, server, witness, server_log):
    """CVE-2023-40217: a socket that is gone before TLS begins must not hand out what it had received in clear text."""
    tls = ServerTLS(authority.issue("localhost"))
    with listening(tls=tls, observer=witness, **server.hooks()) as listener:
        for _ in range(20):
            sock = peer(listener)
            sock.sendall(upgrade())
            reset(sock)
        witness.wait_for(20)
        until(lambda: listener.newcomers == 0)

    assert server.untouched


class Relay:
    """Speaks TLS through memory, so that a test can put bytes of its own between the records."""

    def __init__(self, sock: socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def step(self, function, glued: bytes = b""):
        """Do *function*, with *glued* in clear text behind the records that it sends first."""
        while True:
            try:
                result = function()
            except ssl.SSLWantReadError:
                self._sock.sendall(self._outgoing.read() + glued)
                glued = b""
                data = self._sock.recv(65536)
                if not data:
                    raise ConnectionResetError("the server has closed") from None
                self._incoming.write(data)
            else:
                self._sock.sendall(self._outgoing.read())
                return result


@pytest.mark.row(63)
def test_clear_text_glued_to_the_tls_handshake_is_no_request(authority, server, witness, server_log):
    """Behind the ClientHello, in the same packet: the handshake fails, whatever stands there."""
    tls = ServerTLS(authority.issue("localhost"))
    with listening(tls=tls, observer=witness, **server.hooks()) as listener, peer(listener) as sock:
        relay = Relay(sock, client_context(authority.file))
        with pytest.raises(OSError):
            relay.step(relay.tls.do_handshake, glued=upgrade() + FRAME)
            relay.step(lambda: relay.tls.write(upgrade()))
            relay.step(lambda: relay.tls.read(1000))
        assert [(0, "TLS failed")] == witness.wait_for(1)

    assert server.untouched


@pytest.mark.row(16, 63)
def test_encrypted_frames_glued_to_the_upgrade_are_kept(authority, server):
    """The same inside TLS is what an eager client does: kept, in order, and given to the connection."""
    with listening(tls=ServerTLS(authority.issue("localhost")), **server.hooks()) as listener, peer(listener) as sock:
        relay = Relay(sock, client_context(authority.file))
        relay.step(relay.tls.do_handshake)
        relay.step(lambda: relay.tls.write(upgrade("/eager") + FRAME))
        assert relay.step(lambda: relay.tls.read(1000)).startswith(b"HTTP/1.1 101")

    assert (["/eager"], [FRAME]) == (server.asked, server.served)


@pytest.mark.row(63)
def test_bytes_before_the_request_are_part_of_the_request(server, witness, server_log):
    """On the plain port too: frames, or anything, ahead of the head make it no head."""
    with listening(observer=witness, **server.hooks()) as listener:
        assert 400 == status_of(exchange(listener, FRAME + upgrade()))
        assert 400 == status_of(exchange(listener, b"\r\n" + upgrade()))

    assert server.untouched


@pytest.mark.row(64)
@pytest.mark.parametrize("sent", [upgrade()[:-1], upgrade()[:-30], b"G"])
def test_tls_cut_off_in_the_request(authority, server, witness, server_log, sent):
    """TCP ends without TLS's own end: half a request is no request."""
    with listening(tls=ServerTLS(authority.issue("localhost")), observer=witness, **server.hooks()) as listener:
        with peer(listener) as sock:
            relay = Relay(sock, client_context(authority.file))
            relay.step(relay.tls.do_handshake)
            relay.step(lambda: relay.tls.write(sent))
        assert 1 == len(witness.wait_for(1))
        until(lambda: listener.newcomers == 0)

    assert server.untouched


@pytest.mark.row(65)
def test_a_certificate_is_changed_under_a_running_listener(authority, tmp_path):
    """The connection that is open goes on; the next one sees the new certificate."""
    import shutil

    certfile = str(tmp_path / "site.pem")
    shutil.copy(authority.issue("localhost"), certfile)
    tls, trusting = ServerTLS(certfile), client_context(authority.file)

    def connected(listener: Listener):
        sock = wrap_client(peer(listener), trusting, "localhost")
        sock.do_handshake()
        sock.sendall(upgrade())
        read_head(sock)
        return sock

    with listening(tls=tls) as listener:
        with connected(listener) as old:
            shutil.copy(authority.issue("localhost"), certfile)
            tls.reload()
            with connected(listener) as new:
                for sock in (old, new):
                    sock.sendall(b"ping")
                    assert b"ping" == sock.recv(4)
                assert old.getpeercert()["serialNumber"] != new.getpeercert()["serialNumber"]


@pytest.mark.row(71)
def test_resets_at_every_point_of_tls_and_upgrade(authority, server_log):
    """After each byte of a handshake that would have succeeded: nothing is left of any of them."""
    witness = Witness()
    tls, trusting = ServerTLS(authority.issue("localhost")), client_context(authority.file)
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        trusting.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    with listening(tls=tls, observer=witness) as secured, listening(observer=witness) as plain:
        attempts = [(secured, hello.read()), (plain, upgrade()[:-1])]
        count = 0
        for listener, data in attempts:
            for length in range(0, len(data), 7):
                sock = peer(listener)
                sock.sendall(data[:length])
                gevent.sleep(0)
                reset(sock)
                count += 1
        assert count == len(witness.wait_for(count))
        until(lambda: (secured.newcomers, plain.newcomers) == (0, 0))


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6), st.booleans())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_raise_anything(server_log, pieces, after_a_good_start):
    """Random bytes, alone or within a request, are answered or closed; never a traceback, never a place kept."""
    data = (upgrade()[:-2] if after_a_good_start else b"") + b"".join(pieces)
    with listening(serve=lambda upgraded: None) as listener:
        answer = exchange(listener, data)
        until(lambda: (listener.connections, listener.newcomers) == (0, 0))

    assert status_of(answer) in (101, 200, 400, 404, 405, 414, 426, 431, 505)
