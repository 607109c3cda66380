"""One run of a server: the order in which it starts and ends, and what it makes of each connection."""

from __future__ import annotations

import threading
from typing import Any

import gevent
import pytest
from gevent.socket import create_connection

from tests.running import PATIENCE, Census, wait_for
from tests.test_server_parts import parts_of
from webmesh.exceptions import ConnectionClosed, LocalProtocolError, TransportError
from webmesh.options import Timeouts
from webmesh.plain_routes import PlainRegistration
from webmesh.routing import Router
from webmesh.server_parts import Registered
from webmesh.serving import Serving
from webmesh.testing import RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.websocket.upgraded import TcpAddress


class Run:
    """A server's run on a free port, and its end."""

    def __init__(self, router: Router | None = None, registered: Registered | None = None, **options: Any) -> None:
        self.serving = Serving(parts_of(router, registered, **options), TcpAddress(port=0))

    def __enter__(self) -> Serving:
        self.serving.start()
        self.serving.started.wait(PATIENCE)
        return self.serving

    def __exit__(self, *error: Any) -> None:
        end(self.serving)


def end(serving: Serving, seconds: float = 0.0) -> None:
    serving.close(seconds)
    serving.stopped.wait(PATIENCE)
    serving.home.stop()


def client_of(serving: Serving) -> WebMeshClient:
    return WebMeshClient(f"ws://{serving.listener.address}", session=False)


def ask(serving: Serving, request: str) -> str:
    """The status line of the answer to a raw HTTP request."""
    with create_connection(("127.0.0.1", serving.listener.port), timeout=PATIENCE) as sock:
        sock.sendall(request.encode())
        return sock.recv(4096).decode().partition("\r\n")[0]


READY = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def test_started_means_that_connections_are_accepted() -> None:
    """And not that the port is merely bound."""
    with Run() as serving:
        assert "HTTP/1.1 200 OK" == ask(serving, READY)
        assert not serving.closing
        assert not serving.stopped.done


def test_a_start_that_fails_has_stopped_as_well() -> None:
    """Whoever waits for the end, as a blocking `listen` does, is told too; nothing runs any more."""
    census = Census()
    with Run() as serving:
        second = Serving(parts_of(), TcpAddress(port=serving.listener.port or 0))
        second.start()
        with pytest.raises(TransportError, match="cannot listen"):
            second.started.wait(PATIENCE)
        second.stopped.wait(PATIENCE)
        end(second)
    assert {} == census.grown()


def test_the_end_comes_once_however_often_it_is_asked_for() -> None:
    """From any number of threads at the same time: all see the same end."""
    census = Census()
    with Run() as serving, client_of(serving):
        enders = [threading.Thread(target=end, args=(serving,)) for _ in range(8)]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join(PATIENCE)
        assert [] == [ender for ender in enders if ender.is_alive()]
        assert serving.stopped.done
    assert {} == census.grown()


def test_a_server_that_is_closed_before_it_started_says_so() -> None:
    """Not that it timed out."""
    serving = Serving(parts_of(), TcpAddress(port=0))
    serving.listener.start = lambda: gevent.sleep(PATIENCE)  # type: ignore[method-assign]
    serving.start()
    end(serving)
    with pytest.raises(LocalProtocolError, match="before it had started"):
        serving.started.wait(0)


@pytest.mark.row(92)
def test_while_it_drains_newcomers_are_told_to_come_back() -> None:
    """By 503 for upgrades and for the readiness probe: the port answers until the last call is done."""
    entered, release, router = threading.Event(), threading.Event(), Router()

    def slow(payload: Any, path: str, client: Any) -> str:
        entered.set()
        release.wait(PATIENCE)
        return "finished"

    router.add("/slow", slow)
    with Run(router) as serving, client_of(serving) as client:
        future = client.spawn("/slow", timeout=PATIENCE)
        assert wait_for(entered.is_set)

        serving.close(PATIENCE)
        assert wait_for(lambda: serving.closing)

        assert "HTTP/1.1 503 Service Unavailable" == ask(serving, READY)
        assert "HTTP/1.1 503 Service Unavailable" == ask(serving, UPGRADE)
        assert not serving.stopped.done
        release.set()
        assert "finished" == future.result()
        serving.stopped.wait(PATIENCE)
        with pytest.raises(OSError, match="refused"):
            ask(serving, READY)


@pytest.mark.row(92)
def test_the_end_tells_each_kind_of_peer() -> None:
    """A mesh peer may come back elsewhere (4001); a plain one knows only that the server goes (1001)."""
    ends: list[Any] = []
    registered = Registered(plain=[PlainRegistration("/plain", list, None, ())])
    registered.closed.append(lambda connection, why: ends.append((connection.is_mesh, why.code)))
    with Run(registered=registered) as serving, client_of(serving) as client:
        with create_connection(("127.0.0.1", serving.listener.port)) as plain:
            plain.sendall(UPGRADE.replace("GET /", "GET /plain", 1).encode())
            assert wait_for(lambda: len(serving.parts.connections) == 2)
            connection = client.connect()
            # The plain peer never answers our close, so its place is taken back after Timeouts.close.
            plain.shutdown(1)
            end(serving)
        assert 4001 == connection.wait_closed(PATIENCE).code
        assert wait_for(lambda: len(ends) == 2)

    assert (True, 4001) in ends


@pytest.mark.row(92)
def test_a_connection_that_is_accepted_during_the_end_is_closed_with_the_others() -> None:
    """It had its answer when nothing was closing yet, and `on_connect` took its time."""
    entered, release, registered = threading.Event(), threading.Event(), Registered()
    registered.opened.append(lambda connection: (entered.set(), release.wait(PATIENCE)))
    with Run(registered=registered, timeouts=Timeouts(close=PATIENCE)) as serving:
        with client_of(serving) as client:
            connection = client.connect()
            assert wait_for(entered.is_set)
            serving.close(0)
            assert wait_for(lambda: serving._draining and serving._draining._closed_all)
            release.set()
            assert 4001 == connection.wait_closed(PATIENCE).code
            serving.stopped.wait(PATIENCE)


@pytest.mark.row(95)
def test_a_fault_inside_a_connection_ends_it_properly(caplog: pytest.LogCaptureFixture) -> None:
    """As of an observer: the peer sees an end, and whoever is told of ends is told."""

    class Broken(RecordingObserver):
        def connection_opened(self, connection: object) -> None:
            raise ZeroDivisionError("in the observer")

    ends: list[ConnectionClosed] = []
    observer, registered = Broken(), Registered()
    registered.closed.append(lambda connection, why: ends.append(why))
    with Run(registered=registered, observer=observer) as serving:
        client = client_of(serving)
        assert 1006 == client.connect().wait_closed(PATIENCE).code
        client.close()
        assert wait_for(lambda: ends)
        assert {} == serving.parts.connections

    assert [1011] == [why.code for why in ends]
    assert 1 == len(observer.named("connection_closed"))
    assert ["connection failed"] == [record.message for record in caplog.records]


@pytest.mark.row(86)
def test_connections_that_come_and_go_leave_nothing() -> None:
    """No entry, no greenlet, no descriptor, however they end."""
    router = Router()
    router.add("/", lambda payload, path, client: payload)
    with Run(router) as serving:
        with client_of(serving) as client:
            client.call("/", timeout=PATIENCE)  # a handler's thread starts, and stays for a while
        assert wait_for(lambda: not serving.parts.connections)
        census = Census()
        for number in range(30):
            client = client_of(serving)
            assert number == client.call("/", number, timeout=PATIENCE)
            if number % 3 == 0:
                client.connect().abort()
            elif number % 3 == 1:
                serving.home.run(next(iter(serving.parts.connections.values())).abort)
            client.close()
        assert wait_for(lambda: not serving.parts.connections)
        assert {} == census.grown()


def test_whatever_goes_wrong_at_the_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever awaits it does not wait in vain, and the address is free again."""
    serving = Run().serving
    monkeypatch.setattr(serving.parts.pulse, "start", lambda: 1 / 0)
    serving.start()
    with pytest.raises(ZeroDivisionError):
        serving.started.wait(PATIENCE)
    serving.stopped.wait(PATIENCE)
    with pytest.raises(OSError):
        create_connection(("127.0.0.1", serving.listener.port), timeout=PATIENCE)
    serving.home.stop()
