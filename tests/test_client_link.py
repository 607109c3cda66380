"""The link of a client: who dials, who waits for that, and how it ends; over socket pairs in place of a network."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import gevent.socket
import pytest

from tests.running import PATIENCE, Census, native_threads, wait_for
from webmesh.client_link import ClientLink
from webmesh.exceptions import ConfigurationError, ConnectFailed, ConnectionClosed
from webmesh.link_states import LinkEvent
from webmesh.message_serializers import MessagePackSerializer
from webmesh.options import Backoff, Limits, Timeouts
from webmesh.routing import Router
from webmesh.testing import RecordingObserver
from webmesh.websocket.upgraded import Upgraded


QUICK = Backoff(first=0.001, maximum=0.01)


class Network:
    """Stands for the dialler: each connection is one end of a socket pair; `peers` are the others."""

    url = "ws://pair"
    alone = True
    asked: float | None = None

    def __init__(self) -> None:
        self.left = 0
        self.suggested: list[Any] = []
        self.peers: list[Any] = []
        self.times: list[float] = []
        self.failure: Exception | None = None
        self.hangs = False
        self.dialling = 0

    def leave(self) -> None:
        self.left += 1

    def suggest(self, urls: Any) -> bool:
        self.suggested += urls
        return bool(urls)

    def dial(self, seconds: float) -> Upgraded:
        self.times.append(seconds)
        self.dialling += 1
        try:
            # Whichever hub runs this: in a plain process it is the link's own.
            while self.hangs:
                gevent.sleep(0.002)
        finally:
            self.dialling -= 1
        if self.failure is not None:
            raise self.failure
        ours, theirs = socket.socketpair()
        self.peers.append(theirs)
        return Upgraded(gevent.socket.socket(fileno=ours.detach()), None, None, [], b"", "pair", None)


@contextmanager
def linked(**options: Any) -> Iterator[tuple[ClientLink, Network]]:
    network = Network()
    settings: dict[str, Any] = {
        "service": None, "limits": Limits(), "timeouts": Timeouts(close=0.1), "observer": RecordingObserver()
    }
    router = options.pop("router", Router())
    limits = (settings | options)["limits"]
    link = ClientLink(network, MessagePackSerializer(limits), router, **(settings | options))
    try:
        yield link, network
    finally:
        network.hangs = False
        link.close()
        for peer in network.peers:
            peer.close()


def catch(function: Callable[..., Any], *args: Any) -> Any:
    """What *function* returns or raises."""
    try:
        return function(*args)
    except Exception as error:
        return error


def test_nothing_runs_before_the_first_use() -> None:
    """And nothing after the end, used or not."""
    census = Census()
    with linked() as (link, network):
        assert {} == census.grown()
        assert not link.begun
        link.connect(PATIENCE)
        assert link.begun
    assert {} == census.grown()
    with linked() as (link, network):
        pass
    assert [] == network.times


def test_a_connection_is_kept_while_it_is_open() -> None:
    """And replaced when it is asked for and is not: lost, or closed by either side."""
    with linked() as (link, network):
        first = link.connect(PATIENCE)
        assert first is link.connect(PATIENCE) is link.keeper.connection
        first.abort()
        second = link.connect(PATIENCE)
        assert first is not second
        network.peers[1].close()
        second.wait_closed(PATIENCE)
        assert second is not link.connect(PATIENCE)
        assert 3 == len(network.peers)


def test_one_dials_and_the_others_wait_for_it() -> None:
    """Threads and greenlets; all get the same connection."""
    with linked() as (link, network), native_threads(3) as spawn:
        network.hangs = True
        jobs = [spawn(link.connect, PATIENCE) for _ in range(3)] + [gevent.spawn(link.connect, PATIENCE)]
        assert wait_for(lambda: network.dialling == 1 and link.keeper.busy)
        network.hangs = False
        assert 1 == len({job.get() for job in jobs})
        assert 1 == len(network.times)


def test_who_waits_for_another_dials_when_that_one_fails() -> None:
    """With the time that it has left, and its own error."""
    with linked() as (link, network):
        network.hangs, network.failure = True, ConnectFailed("pair", ["broken"])
        first = gevent.spawn(catch, link.connect, PATIENCE)
        assert wait_for(lambda: network.dialling == 1)
        second = gevent.spawn(catch, link.connect, PATIENCE / 2)
        gevent.sleep(0)
        network.hangs = False
        assert [ConnectFailed, ConnectFailed] == [type(job.get(timeout=PATIENCE)) for job in (first, second)]
        assert 2 == len(network.times)
        assert network.times[0] > PATIENCE / 2 >= network.times[1]
        network.failure = None
        assert link.connect(PATIENCE).open


def test_waiting_for_another_is_bounded() -> None:
    """By the time of who waits."""
    with linked() as (link, network):
        network.hangs = True
        first = gevent.spawn(catch, link.connect, PATIENCE)
        assert wait_for(lambda: network.dialling == 1)
        with pytest.raises(ConnectFailed, match="another attempt had not ended within 0.02 s"):
            link.connect(0.02)
        network.hangs = False
        assert first.get(timeout=PATIENCE).open


def test_a_timeout_of_the_callers_own_passes_through() -> None:
    """It is not taken for ours."""
    with linked() as (link, network):
        network.hangs = True
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
            link.connect(PATIENCE)


def test_a_caller_that_is_killed_leaves_the_turn_to_the_next() -> None:
    """Nobody waits for the dead."""
    with linked() as (link, network):
        network.hangs = True
        first = gevent.spawn(link.connect, PATIENCE)
        assert wait_for(lambda: network.dialling == 1)
        second = gevent.spawn(link.connect, PATIENCE)
        gevent.sleep(0)
        first.kill()
        network.hangs = False
        assert second.get(timeout=PATIENCE).open


@pytest.mark.row(93)
@pytest.mark.parametrize("hangs", [True, False])
def test_the_end_reaches_everybody(hangs: bool) -> None:
    """Who dials, who waits for that, and who comes later."""
    census = Census()
    with linked() as (link, network), native_threads(2) as spawn:
        network.hangs = hangs
        jobs = [spawn(catch, link.connect, PATIENCE), gevent.spawn(catch, link.connect, PATIENCE)]
        if hangs:
            assert wait_for(lambda: network.dialling == 1)
        else:
            assert all(job.get().open for job in jobs)
        link.close()
        link.close()
        assert link.closed
        if hangs:
            assert [ConnectionClosed] * 2 == [type(job.get()) for job in jobs]
        assert 0 == network.dialling
        with pytest.raises(ConnectionClosed, match="the client was closed"):
            link.connect(PATIENCE)
    assert {} == census.grown()


def test_the_peer_is_told_of_the_end() -> None:
    """By the closing handshake: the frame with 1000 is the last thing that comes."""
    with linked() as (link, network):
        link.connect(PATIENCE)
        link.close()
        said = b""
        while piece := network.peers[0].recv(100):
            said += piece
        assert 0x88 == said[0]
        mask, masked = said[2:6], said[6:8]
        assert 1000 == int.from_bytes(bytes(a ^ b for a, b in zip(masked, mask, strict=False)))


def test_a_start_that_fails_is_told_to_everybody() -> None:
    """As often as it is tried: a route that makes no sense stays so."""
    router = Router()
    router.add("/", lambda payload, path, client: None, colour="red")
    with linked(router=router) as (link, network):
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="colour"):
                link.connect(PATIENCE)
    assert [] == network.times


def test_an_observer_is_told_of_each_connection() -> None:
    """Once of its beginning and once of its end."""
    observer = RecordingObserver()
    with linked(observer=observer) as (link, _):
        connections = [link.connect(PATIENCE)]
        connections[0].abort(1006, "gone")
        connections.append(link.connect(PATIENCE))
        assert wait_for(lambda: len(observer.named("connection_opened")) == 2)

    assert [(connection,) for connection in connections] == observer.named("connection_opened")
    assert [(connections[0], 1006, "gone"), (connections[1], 1000, "")] == observer.named("connection_closed")


@pytest.mark.row(95)
def test_a_reader_that_is_ended_from_outside_ends_its_connection() -> None:
    """Nobody would hear the peer any more; the next use dials again."""
    observer = RecordingObserver()
    with linked(observer=observer) as (link, _):
        connection = link.connect(PATIENCE)
        assert wait_for(lambda: observer.named("connection_opened"))  # it has begun to read
        link.home.run(link._readers[connection].kill)
        assert 1001 == connection.wait_closed(PATIENCE).code
        assert connection is not link.connect(PATIENCE)


# ------------------------------------------------------------- with a background


def test_who_waits_gets_the_connection_that_is_there_at_last() -> None:
    """Threads and greenlets, from before the first attempt until one succeeds; all the same."""
    with linked(backoff=QUICK) as (link, network), native_threads(3) as spawn:
        network.failure = ConnectFailed("pair", ["nobody there"])
        jobs = [spawn(link.wait, PATIENCE) for _ in range(3)] + [gevent.spawn(link.wait, PATIENCE)]
        assert wait_for(lambda: len(network.times) > 3)
        network.failure = None
        assert 1 == len({job.get() for job in jobs})


def test_waiting_ends_with_what_the_last_attempt_met() -> None:
    """An error that says that nothing was sent, and why there was no connection."""
    with linked(backoff=QUICK) as (link, network):
        network.failure = ConnectFailed("pair", ["nobody there"])
        with pytest.raises(ConnectFailed, match="no connection within 0.1 s .unreachable.; nobody there") as caught:
            link.wait(0.1)
        assert network.failure is caught.value.__cause__


def test_the_end_reaches_who_waits_for_a_connection() -> None:
    """Whether it is being dialled, or the next attempt is awaited."""
    for backoff in (QUICK, Backoff(first=PATIENCE * 100, maximum=PATIENCE * 100)):
        census = Census()
        with linked(backoff=backoff) as (link, network), native_threads(1) as spawn:
            network.failure = ConnectFailed("pair", ["nobody there"])
            jobs = [spawn(catch, link.wait, PATIENCE), gevent.spawn(catch, link.wait, PATIENCE)]
            assert wait_for(lambda: link.states.state == "waiting")
            link.close()
            assert [ConnectionClosed] * 2 == [type(job.get()) for job in jobs]
        assert {} == census.grown()


def test_a_function_for_states_may_end_the_client() -> None:
    """It returns at once, and is told of the end as well."""
    census = Census()
    with linked(backoff=QUICK) as (link, _):
        told: list[str] = []

        def function(event: LinkEvent) -> None:
            told.append(event.state)
            if event.state == "connected":
                link.close()

        link.states.functions.append(function)
        link.connect(PATIENCE)
        assert wait_for(lambda: "closed" in told)
        link.close()
    assert ["connecting", "connected", "closed"] == told
    assert {} == census.grown()
