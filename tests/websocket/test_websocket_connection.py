"""What handlers and programs can do with a connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.running import wait_for
from webmesh.call import CALL_CHAIN, current_call
from webmesh.exceptions import (
    Cancelled, ConfigurationError, ConnectionClosed, EncodeError, FailedPrecondition, InvalidArgument,
    LocalProtocolError, Overloaded, ReplyLost, RequestTimeout,
)  # fmt: skip
from webmesh.options import Limits, Timeouts
from webmesh.routing import Router
from webmesh.testing import RecordingObserver, connection_pair
from webmesh.websocket.connection_stats import ConnectionStats


def router_of(**handlers: Callable[..., Any]) -> Router:
    router = Router()
    for name, handler in handlers.items():
        router.add(f"/{name}", handler, blocking=False)
    return router


def echo(payload: Any, path: str, client: Any) -> Any:
    return payload


def sleep(payload: Any, path: str, client: Any) -> None:
    gevent.sleep(30)


def headers(payload: Any, path: str, client: Any) -> dict[str, str]:
    return dict(current_call().headers)


SERVED = {"echo": echo, "sleep": sleep, "headers": headers}


def test_calls_from_many_threads_and_greenlets_get_their_own_replies():
    """One connection is shared safely."""
    wrong: list[Any] = []
    with connection_pair(server=router_of(**SERVED)) as (client, _):

        def ask(who: int) -> None:
            for number in range(50):
                if client.call("/echo", [who, number], timeout=20) != [who, number]:
                    wrong.append((who, number))

        threads = [threading.Thread(target=ask, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        greenlets = [gevent.spawn(ask, who) for who in range(10, 14)]
        gevent.joinall(greenlets, 30, raise_error=True)
        for thread in threads:
            thread.join(30)

    assert [] == wrong


def test_a_call_without_an_answer_times_out():
    """With the path and the time in its text, whichever side notices first."""
    with connection_pair(server=router_of(**SERVED)) as (client, _):
        with pytest.raises(TimeoutError, match=r"'?/sleep'? .*within 0.05 s"):
            client.call("/sleep", timeout=0.05)


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_call_without_time_is_not_sent(timeout: float):
    """At or below zero nothing goes out."""
    observer = RecordingObserver()
    with connection_pair(server=router_of(**SERVED), observer=observer) as (client, _):
        with pytest.raises(RequestTimeout):
            client.call("/echo", timeout=timeout)
        client.call("/echo", timeout=10)

    assert 1 == len(observer.named("request_finished"))


def test_a_spawned_call_goes_on_while_others_are_made():
    """A future tells when it is done, and calls back."""
    with connection_pair(server=router_of(**SERVED)) as (client, _):
        slow = client.spawn("/sleep", timeout=20)
        quick = client.spawn("/echo", 1, timeout=20)
        done: list[Any] = []
        quick.when_done(lambda future: done.append(future.path))

        assert 1 == quick.result()
        assert not slow.done()
        assert quick.done()
        with pytest.raises(TimeoutError):
            slow.result(timeout=0.01)
        assert not slow.done()
        slow.cancel()
        with pytest.raises(Cancelled):
            slow.result()
    assert ["/echo"] == done


def test_a_spawned_call_expires_although_nobody_waits():
    """It would hold its place among the open requests for ever."""
    with connection_pair(server=router_of(**SERVED)) as (client, _):
        future = client.spawn("/sleep", timeout=0.02)
        with gevent.Timeout(10):
            while not future.done():
                gevent.sleep(0.005)

        with pytest.raises(TimeoutError):
            future.result()


@pytest.mark.row(71)
def test_everybody_who_waits_is_woken_once_when_the_connection_ends():
    """With the doubt that the handler may have run."""
    with connection_pair(server=router_of(**SERVED)) as (client, server):
        futures = [client.spawn("/sleep", timeout=20) for _ in range(100)]
        client.call("/echo", timeout=10)
        server.abort()

        for future in futures:
            with pytest.raises(ReplyLost) as caught:
                future.result()
            assert caught.value.started
        with pytest.raises(ConnectionClosed):
            client.call("/echo", timeout=10)
        assert client.wait_closed(10) is client.close_reason


@pytest.mark.row(51)
def test_open_requests_are_bounded():
    """The next one fails at once, and places come back."""
    with connection_pair(server=router_of(**SERVED), limits=Limits(open_requests=3)) as (client, _):
        futures = [client.spawn("/sleep", timeout=20) for _ in range(3)]
        with pytest.raises(Overloaded):
            client.call("/echo", timeout=10)
        futures[0].cancel()
        assert 1 == client.call("/echo", 1, timeout=10)


def test_a_payload_that_cannot_be_sent_is_the_callers_error():
    """Nothing was sent, and the connection goes on."""
    with connection_pair(server=router_of(**SERVED)) as (client, _):
        for ask in (client.call, client.notify, client.stream):
            with pytest.raises(EncodeError):
                ask("/echo", object())
        assert 1 == client.call("/echo", 1, timeout=10)


@pytest.mark.row(18, 19)
def test_a_payload_over_the_limit_is_the_callers_error():
    """The sender learns it, instead of losing its connection to a 1009."""
    with connection_pair(server=router_of(**SERVED), limits=Limits(message_size=1000)) as (client, _):
        with pytest.raises(EncodeError, match="1000"):
            client.call("/echo", noise(2000), timeout=10)
        assert 1 == client.call("/echo", 1, timeout=10)


def noise(size: int) -> bytes:
    """Bytes that no compression makes smaller."""
    import os

    return os.urandom(size)


def test_headers_travel_with_a_call():
    """And a service's name in the chain of calls."""
    with connection_pair(server=router_of(**SERVED)) as (client, _):
        assert {"k": "v"} == client.call("/headers", headers={"k": "v"}, timeout=10)


def test_a_chain_of_calls_grows_by_each_service():
    """`call-chain` carries the services passed through; too long a one is refused before it is sent."""
    limits = Limits(call_chain=3)

    def onward(payload: int, path: str, client: Any) -> Any:
        if payload == 0:
            return current_call().headers.get(CALL_CHAIN)
        return client.call("/onward", payload - 1, timeout=10)

    routers = [router_of(onward=onward) for _ in range(2)]
    with connection_pair(client=routers[0], server=routers[1], limits=limits) as (client, server):
        client._service, server._service = "shop", "stock"
        assert "shop,stock,shop" == client.call("/onward", 2, timeout=10)
        with pytest.raises(FailedPrecondition, match="4 services, 3 is the limit"):
            client.call("/onward", 3, timeout=10)


def test_a_mesh_connection_does_not_take_plain_messages():
    """Its serializer owns them."""
    with connection_pair() as (client, _):
        for use in (lambda: client.send("x"), lambda: client.receive(1), lambda: list(client)):
            with pytest.raises(LocalProtocolError, match="use call or notify"):
                use()


def test_closing_tells_the_peer_why():
    """The closing handshake, and both ends know the code."""
    with connection_pair() as (client, server):
        server.close(4503, "kicked")

        assert 4503 == client.wait_closed(10).code
        assert "kicked" == client.wait_closed(10).reason
        assert not client.open
        server.close()  # again: nothing happens


def test_a_ping_is_bounded():
    """RFC 6455 section 5.5."""
    with connection_pair() as (client, _):
        client.ping(b"x" * 125)
        with pytest.raises(LocalProtocolError, match="125"):
            client.ping(b"x" * 126)


def test_a_repr_shows_identity_and_state_only():
    """Never a payload."""
    with connection_pair(server=router_of(**SERVED)) as (client, _):
        future = client.spawn("/sleep", "secret", timeout=10)
        client.call("/echo", timeout=10)
        assert "open pending=1" in repr(client)
        assert "secret" not in repr(client)
        future.cancel()


# ----------------------------------------------------------------------- streams


def count(payload: int, path: str, client: Any) -> Any:
    yield from range(payload)
    return "end"


def test_a_stream_of_no_time_is_not_opened():
    """As with calls."""
    with connection_pair(server=router_of(count=count)) as (client, _), pytest.raises(RequestTimeout):
        client.stream("/count", 1, timeout=0)


def test_a_stream_past_its_time_fails():
    """Its own `timeout` bounds the whole of it."""

    def endless(payload: Any, path: str, client: Any) -> Any:
        while True:
            gevent.sleep(0.01)
            yield 1

    with connection_pair(server=router_of(endless=endless)) as (client, _):
        stream = client.stream("/endless", timeout=0.1)
        with pytest.raises(TimeoutError):
            for _ in stream:
                pass


def test_a_stream_without_a_time_outlives_the_request_timeout():
    """The default bounds calls; a subscription-like stream may last."""
    def slow(payload: Any, path: str, client: Any) -> Any:
        for number in range(4):
            gevent.sleep(0.1)
            yield number

    timeouts = Timeouts(request=0.15)
    with connection_pair(server=router_of(slow=slow), timeouts=timeouts) as (client, _):
        assert [0, 1, 2, 3] == list(client.stream("/slow"))


@pytest.mark.parametrize("credit", [0, -1])
def test_a_stream_needs_credit(credit: int):
    """Otherwise nothing could ever come."""
    with connection_pair(server=router_of(count=count)) as (client, _):
        with pytest.raises(LocalProtocolError, match="at least 1"):
            client.stream("/count", 1, credit=credit)


def test_sending_on_a_stream_that_takes_nothing_is_refused():
    """It was opened without items."""
    with connection_pair(server=router_of(count=count)) as (client, _), client.stream("/count", 3) as stream:
        with pytest.raises(LocalProtocolError, match="takes no items"):
            stream.send(1)


def test_items_that_fail_while_they_are_made_fail_the_stream():
    """Whoever reads it sees the error of the iterable."""

    def broken() -> Any:
        yield 1
        raise InvalidArgument("broken iterable")

    def total(payload: Any, path: str, client: Any) -> int:
        return sum(current_call().items)

    with connection_pair(server=router_of(total=total)) as (client, _):
        with pytest.raises(InvalidArgument, match="broken iterable"):
            _ = client.stream("/total", items=broken(), timeout=10).result


@pytest.mark.row(71)
def test_a_stream_ends_with_its_connection():
    """Reader and sender both learn it."""
    ready = Event()

    def hold(payload: Any, path: str, client: Any) -> Any:
        yield 1
        ready.set()
        gevent.sleep(30)

    with connection_pair(server=router_of(hold=hold)) as (client, server):
        stream = client.stream("/hold", items=True, timeout=20)
        assert 1 == next(stream)
        server.abort()
        with pytest.raises(ReplyLost):
            next(stream)
        with pytest.raises((ReplyLost, ConnectionClosed)):
            while True:
                stream.send(1)


def test_a_handler_that_ends_early_frees_who_still_sends():
    """The reply ends the stream in both directions."""
    with connection_pair(server=router_of(echo=echo)) as (client, _):
        with client.stream("/echo", "done", items=True, timeout=10) as stream:
            assert [] == list(stream)
            assert "done" == stream.result
            with pytest.raises(ConnectionClosed, match="has ended the stream"):
                for _ in range(1000):
                    stream.send(1)


@pytest.mark.parametrize("policy", ["wait", "close", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("key", [None, "key"])
def test_a_notification_to_a_peer_that_keeps_up_is_taken(policy: Any, key: Any):
    """Whatever was said for others; from the hub and from elsewhere."""
    got: list[Any] = []
    router = Router()
    router.add("/tell", lambda payload, path, client: got.append(payload), blocking=False)
    with connection_pair(server=router) as (client, _):
        assert client.notify("/tell", 1, slow_peer=policy, conflate_key=key)
        assert client.notify("/tell", 2, slow_peer=policy, conflate_key=key)
        assert client.call("/tell", 3) is None

        assert [1, 2, 3] == got
        assert ConnectionStats(queued=0, dropped=0, conflated=0, stalled=False) == client.stats
        assert not client.stalled


def test_a_policy_that_does_not_exist_is_refused():
    """Before anything is sent, and not only when the peer is slow."""
    with connection_pair() as (client, _):
        with pytest.raises(ConfigurationError, match="slow_peer must be one of"):
            client.notify("/tell", slow_peer="drop")  # type: ignore[arg-type]
        client.close()
        for policy in ("wait", "close", "drop_oldest"):
            with pytest.raises(ConnectionClosed):
                client.notify("/tell", slow_peer=policy, conflate_key=1)  # type: ignore[arg-type]


@pytest.mark.row(71)
def test_a_request_that_never_left_is_told_from_one_that_may_have_run():
    """What was asked in the turn in which the connection ended is surely not sent; what was flushed before may be."""
    router = Router()
    entered = threading.Event()
    router.add("/", lambda payload, path, client: (entered.set(), gevent.sleep(60)), blocking=False)
    with connection_pair(server=router) as (client, _):
        sent = client.spawn("/", timeout=60)
        assert wait_for(entered.is_set)

        def ask_and_end() -> Any:
            unsent = client.start_call("/", None, 60, None)
            client.abort()
            return unsent

        unsent = client._home.run(ask_and_end)
        lost = []
        for future in (sent, unsent):
            with pytest.raises(ReplyLost) as caught:
                future.result()
            lost.append(caught.value.started)
    assert [True, False] == lost


@pytest.mark.parametrize("key", ["", "x" * 65, "\u00e4" * 33, 7, b"x", False])
def test_a_key_that_is_none_is_refused(key: Any):
    """Before anything is sent; a server would refuse it later."""
    with connection_pair() as (client, _), pytest.raises(ConfigurationError, match="idempotency key"):
        client.call("/", idempotency_key=key)


def test_a_key_goes_as_a_header():
    """The caller's own, or a random one, beside the other headers."""
    router, seen = Router(), []
    router.add("/", lambda payload, path, client: seen.append(dict(current_call().headers)), blocking=False)
    with connection_pair(server=router) as (client, _):
        client.call("/", headers={"a": "b"}, idempotency_key="mine")
        client.spawn("/", idempotency_key=True).result()
        client.call("/", 1, idempotency_key=True)
    assert {"a": "b", "idempotency-key": "mine"} == seen[0]
    assert 3 == len({headers["idempotency-key"] for headers in seen})
