"""What one accepted peer gets, step by step."""

from __future__ import annotations

import logging

import gevent
import pytest
from gevent.event import Event

from tests.websocket.loopback import (
    PATIENCE,
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
from webmesh.protocol.deflate import negotiate_deflate
from webmesh.protocol.handshake import Refusal
from webmesh.websocket.http import HttpAnswer
from webmesh.websocket.tls import ServerTLS, client_context, wrap_client
from webmesh.websocket.upgraded import Acceptance


def test_what_was_decided_is_handed_up():
    """The server gets the request, what was agreed, and whatever the decider wanted to find again."""
    served = []

    def decide(request, address, certificate):
        extension = negotiate_deflate(request.extensions, limits=Limits())
        return Acceptance("b", [extension], (("x-greeting", "hello"),), tag={"user": 7})

    with listening(decide=decide, serve=served.append) as listener, peer(listener) as sock:
        sock.sendall(upgrade(
            "/a%20b?c=d", "Sec-WebSocket-Protocol: a, b", "Sec-WebSocket-Extensions: permessage-deflate"
        ))  # fmt: skip
        answer = read_head(sock).lower()

    (upgraded,) = served
    assert b"sec-websocket-protocol: b\r\n" in answer and b"x-greeting: hello\r\n" in answer
    assert b"sec-websocket-extensions: permessage-deflate" in answer
    assert ("/a b", "c=d", "b", {"user": 7}) == (
        upgraded.request.path, upgraded.request.query, upgraded.subprotocol, upgraded.decision
    )  # fmt: skip
    assert ["permessage-deflate"] == [extension.name for extension in upgraded.extensions]


@pytest.mark.row(16)
def test_frames_in_the_packet_of_the_upgrade_are_kept():
    """They are the first bytes of the connection, in order, before anything that is read later."""
    with listening() as listener, peer(listener) as sock:
        sock.sendall(upgrade() + b"first ")
        read_head(sock)
        sock.sendall(b"second")
        received = b""
        while received != b"first second":
            received += sock.recv(100)
        assert listener.connections == 1


@pytest.mark.row(16)
def test_a_head_in_any_number_of_pieces_is_the_same_head():
    """A slow but honest client is served, within the deadline."""
    with listening() as listener, peer(listener) as sock:
        for byte in upgrade() + b"x":
            sock.sendall(bytes([byte]))
            gevent.sleep(0)
        read_head(sock)
        assert b"x" == sock.recv(1)


def test_a_refusal_is_answered_counted_and_frees_the_place(witness, server_log):
    """What `decide` turns down gets its status, and no connection is left."""
    def decide(request, address, certificate):
        return Refusal(403, "origin not allowed", (("x-hint", "docs"),))

    with listening(decide=decide, observer=witness) as listener:
        answer = exchange(listener, upgrade())

        assert 403 == status_of(answer)
        assert b"x-hint: docs" in answer.lower()
        assert [(403, "origin not allowed")] == witness.reasons
        until(lambda: (listener.connections, listener.newcomers) == (0, 0))
    assert ["handshake refused"] == [record.message for record in server_log.records]


def test_http_is_answered_and_is_no_refusal(witness, server_log):
    """A health check is what the port is there for, too."""
    with listening(observer=witness) as listener:
        request = b" /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        get, head = exchange(listener, b"GET" + request), exchange(listener, b"HEAD" + request)

    assert (200, 200) == (status_of(get), status_of(head))
    assert get.endswith(b"\r\n\r\nalive\n") and head.endswith(b"\r\n\r\n")
    assert ([], []) == (witness.handshakes, server_log.records)


@pytest.mark.parametrize("fails", ["decide", "http"])
def test_a_failure_of_ours_is_a_500_without_details(fails, caplog):
    """The log has the traceback, the peer has a status; the next peer is served."""
    def fail(*args):
        raise ZeroDivisionError("secret detail")

    with listening(**{fails: fail}) as listener:
        answer = exchange(listener, upgrade() if fails == "decide" else b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        again = exchange(listener, b"BAD\r\n\r\n")
        until(lambda: (listener.connections, listener.newcomers) == (0, 0))

    assert (500, 400) == (status_of(answer), status_of(again))
    assert b"secret" not in answer
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None


def test_an_acceptance_that_makes_no_sense_is_a_500(caplog):
    """A subprotocol that the client did not offer would break the client: it is a bug of the decider's."""
    with listening(decide=lambda *args: Acceptance("never-offered")) as listener:
        answer = exchange(listener, upgrade())
        until(lambda: listener.connections == 0)

    assert 500 == status_of(answer)
    assert "never-offered" in caplog.text


def test_a_served_connection_that_fails_is_closed_and_told(caplog, witness):
    """No HTTP is written into a WebSocket connection; the place is free again."""
    def serve(upgraded):
        raise ZeroDivisionError

    with listening(serve=serve, observer=witness) as listener, peer(listener) as sock:
        sock.sendall(upgrade())
        read_head(sock)
        assert b"" == read_to_end(sock)
        until(lambda: listener.connections == 0)

    assert [] == witness.handshakes  # its handshake was not refused
    assert ["connection failed"] == [record.message for record in caplog.records if record.exc_info]


def test_a_decision_that_takes_too_long_is_a_503(witness, server_log):
    """One deadline covers head, decision and answer: a decider that hangs does not hold a place for ever."""
    def decide(request, address, certificate):
        gevent.sleep(PATIENCE * 10)

    with listening(decide=decide, timeouts=Timeouts(upgrade=0.4), observer=witness) as listener:
        answer = exchange(listener, upgrade())
        until(lambda: listener.connections == 0)

    assert 503 == status_of(answer)
    assert b"retry-after:" in answer.lower()
    assert [(503, "no decision in time")] == witness.reasons


def test_a_page_that_takes_too_long_is_a_503(witness, server_log):
    """The same deadline holds for whatever answers HTTP."""
    def hang(request):
        gevent.sleep(PATIENCE * 10)

    with listening(http=hang, timeouts=Timeouts(upgrade=0.4), observer=witness) as listener:
        answer = exchange(listener, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")

    assert 503 == status_of(answer)


def test_a_refusal_that_cannot_be_written_is_a_500(caplog):
    """A decider's bug is told in the log; the peer gets a valid answer, and the place is free."""
    with listening(decide=lambda *args: Refusal(403, "no", (("x-a", "b\r\nx-evil: c"),))) as listener:
        answer = exchange(listener, upgrade())
        until(lambda: (listener.connections, listener.newcomers) == (0, 0))

    assert 500 == status_of(answer)
    assert b"evil" not in answer
    assert 1 == len([record for record in caplog.records if record.exc_info])


def test_a_stray_timeout_of_users_code_is_told_like_any_failure(caplog, capfd):
    """gevent's is no Exception; on its own it would end up on stderr."""
    def serve(upgraded):
        raise gevent.Timeout(1)

    with listening(serve=serve) as listener, peer(listener) as sock:
        sock.sendall(upgrade())
        read_head(sock)
        assert b"" == read_to_end(sock)

    assert ["connection failed"] == [record.message for record in caplog.records if record.exc_info]
    assert "" == capfd.readouterr().err


def test_a_peer_that_does_not_read_its_refusal_is_dropped(witness, server_log):
    """An answer is given for a bounded time, then the socket is closed."""
    with listening(timeouts=Timeouts(close=0.1), observer=witness) as listener, peer(listener) as sock:
        sock.sendall(b"BAD\r\n\r\n")
        witness.wait_for(1)
        until(lambda: listener.newcomers == 0)
        assert 400 == status_of(read_to_end(sock))


def test_a_refused_peer_that_goes_on_sending_is_dropped(witness, server_log):
    """What it sends is thrown away, and not for ever."""
    with listening(limits=Limits(head_size=1024), observer=witness) as listener, peer(listener) as sock:
        with pytest.raises(OSError):
            for _ in range(100_000):
                sock.sendall(b"x" * 4096)
                gevent.sleep(0)

    assert [(400, "not an HTTP request")] == witness.reasons


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_a_refused_peer_is_not_reset_while_it_reads(authority, witness, server_log, secure):
    """Closing on bytes that nobody has read resets a connection, and may eat the answer, or TLS's alert."""
    tls = ServerTLS(authority.issue("localhost")) if secure else None
    with listening(tls=tls, observer=witness) as listener, peer(listener) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20_000)
        received = b""
        while data := sock.recv(4096):  # a reset would raise here
            received += data
        sock.sendall(b"x" * 1000)
        gevent.sleep(0.01)
        sock.sendall(b"x" * 1000)

    assert secure or 405 == status_of(received)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_the_socket_is_closed_when_serving_ends(authority, secure):
    """Even if somebody has kept it."""
    kept = []
    tls = ServerTLS(authority.issue("localhost")) if secure else None
    with listening(tls=tls, serve=kept.append) as listener:
        sock = peer(listener)
        if secure:
            sock = wrap_client(sock, client_context(authority.file), "localhost")
            sock.do_handshake()
        with sock:
            sock.sendall(upgrade())
            read_head(sock)
            assert b"" == read_to_end(sock)

    assert -1 == kept[0].sock.fileno()


@pytest.mark.row(1)
def test_a_health_check_that_only_connects_writes_no_line(witness, server_log):
    """Load balancers do it each second: counted, and in the log only at DEBUG."""
    with listening(observer=witness) as listener:
        assert b"" == exchange(listener, b"")
        witness.wait_for(1)

    assert [(0, "closed without a request")] == witness.reasons
    assert [logging.DEBUG] == [record.levelno for record in server_log.records]


@pytest.mark.row(71)
@pytest.mark.parametrize("sent", [b"", b"GET / HT", upgrade()[:-2]], ids=["nothing", "a word", "nearly all"])
def test_a_reset_in_the_handshake_leaves_nothing_behind(witness, server_log, sent):
    """No place, no greenlet, no traceback: one counter."""
    with listening(observer=witness) as listener:
        sock = peer(listener)
        sock.sendall(sent)
        until(lambda: listener.newcomers == 1)
        reset(sock)

        assert [(0, "lost in the handshake")] == witness.wait_for(1)
        until(lambda: (listener.connections, listener.newcomers) == (0, 0))


@pytest.mark.row(71)
def test_a_reset_while_deciding_is_not_served(witness, server_log):
    """A peer that has gone before the answer may be found only later, and its place comes back."""
    deciding, go_on = Event(), Event()

    def decide(request, address, certificate):
        deciding.set()
        go_on.wait(PATIENCE)
        return Acceptance(None)

    with listening(decide=decide, observer=witness) as listener:
        sock = peer(listener)
        sock.sendall(upgrade())
        deciding.wait(PATIENCE)
        reset(sock)
        gevent.sleep(0.01)
        go_on.set()
        until(lambda: listener.connections == 0)
    assert (0, "lost in the handshake") in witness.reasons


@pytest.mark.row(62)
def test_the_whole_life_over_tls(authority):
    """TLS, upgrade, bytes, end: as over TCP."""
    with listening(tls=ServerTLS(authority.issue("localhost"))) as listener, peer(listener) as sock:
        with wrap_client(sock, client_context(authority.file), "localhost") as secured:
            secured.do_handshake()
            secured.sendall(upgrade() + b"ping")
            read_head(secured)
            assert b"ping" == secured.recv(4)


def test_a_page_of_any_size_is_sent_whole():
    """Answers may be larger than a socket's buffer; the deadline is for peers that do not read."""
    body = b"x" * (1 << 21)
    with listening(http=lambda request: HttpAnswer(200, (), body)) as listener:
        answer = exchange(listener, b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")

    assert answer.endswith(b"\r\n\r\n" + body)
