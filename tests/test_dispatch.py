"""Dispatch: from a request to its answer, over a socket pair."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import gevent
import pytest
from gevent.event import Event

from webmesh.call import current_call
from webmesh.exceptions import (
    AlreadyExists, ConfigurationError, DeadlineExceeded, HandlerFailed, InvalidArgument, Overloaded, RemoteError,
    ReplyLost, RouteNotFound,
)  # fmt: skip
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.options import Limits
from webmesh.routing import Router
from webmesh.testing import RecordingObserver, connection_pair
from webmesh.websocket.hub import Completion
from webmesh.websocket.websocket_connection import WebSocketConnection

VARIABLE: ContextVar[str] = ContextVar("variable", default="unset")


class Service:
    """Routes on one end of a pair, calls from the other."""

    def __init__(self, router: Router, **options: Any) -> None:
        self.observer = RecordingObserver()
        self._pair = connection_pair(server=router, observer=self.observer, **options)

    def __enter__(self) -> WebSocketConnection:
        return self._pair.__enter__()[0]

    def __exit__(self, *error: Any) -> None:
        self._pair.__exit__(*error)


def routed(handler: Callable[..., Any], path: str = "/", **options: Any) -> Service:
    router = Router()
    router.add(path, handler, **options)
    return Service(router)


def in_greenlet(handler: Callable[..., Any], path: str = "/", **options: Any) -> Service:
    """Served in greenlets also in a plain process, for handlers that use gevent."""
    return routed(handler, path, blocking=False, **options)


# ------------------------------------------------------------------- plain calls


@pytest.mark.parametrize("blocking", [None, True, False])
def test_what_a_handler_returns_is_the_reply(blocking: bool | None):
    """Wherever it runs."""
    with routed(lambda payload, path, client: [payload, path], "/a", blocking=blocking) as client:
        assert [{"x": 1}, "/a"] == client.call("/a", {"x": 1}, timeout=10)


def test_path_arguments_are_handed_over_by_name():
    """Typed, as the pattern says."""

    def handler(payload: Any, path: str, client: Any, user: int, rest: str) -> list[Any]:
        return [payload, path, user, rest]

    with routed(handler, "/users/<int:user>/<path:rest>") as client:
        assert ["p", "/users/7/a/b", 7, "a/b"] == client.call("/users/7/a/b", "p", timeout=10)


def test_a_handler_gets_the_connection_and_can_call_back():
    """Peers are symmetric."""
    served, asking = Router(), Router()
    served.add("/", lambda payload, path, client: client.call("/back", payload, timeout=10))
    asking.add("/back", lambda payload, path, client: payload + 1)

    with connection_pair(server=served, client=asking) as (client, _):
        assert 8 == client.call("/", 7, timeout=10)


@pytest.mark.row(47)
def test_a_path_without_a_route_is_unimplemented():
    """gRPC's word for it."""
    with routed(lambda payload, path, client: 1, "/a") as client, pytest.raises(RouteNotFound) as caught:
        client.call("/b", timeout=10)

    assert "unimplemented" == caught.value.code
    assert "/b" == caught.value.path


def test_a_remote_error_that_a_handler_raises_is_the_answer():
    """With its code, details and retry advice."""

    def handler(payload: Any, path: str, client: Any) -> None:
        raise AlreadyExists("there is one", details={"id": 7}, retryable=True, retry_after=1.5)

    with routed(handler) as client, pytest.raises(AlreadyExists) as caught:
        client.call("/", timeout=10)

    error = caught.value
    assert ("there is one", {"id": 7}, True, 1.5) == (error.message, error.details, error.retryable, error.retry_after)


def raises_error(payload: Any, path: str, client: Any) -> None:
    raise ZeroDivisionError("secret")


def exits(payload: Any, path: str, client: Any) -> None:
    sys.exit(3)


def kills_itself(payload: Any, path: str, client: Any) -> None:
    raise gevent.GreenletExit


def recurses(payload: Any, path: str, client: Any) -> None:
    recurses(payload, path, client)


def times_out(payload: Any, path: str, client: Any) -> None:
    raise gevent.Timeout(1)


@pytest.mark.row(49)
@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("handler", [raises_error, exits, kills_itself, recurses, times_out])
def test_a_handler_that_fails_is_answered_with_an_incident(
    handler: Callable[..., Any], blocking: bool, caplog: pytest.LogCaptureFixture
):
    """One internal error with an id that stands in the log; no traceback to the peer, and the node serves on."""
    router = Router()
    router.add("/fails", handler, blocking=blocking)
    router.add("/works", lambda payload, path, client: "yes", blocking=blocking)

    with Service(router) as client:
        with pytest.raises(HandlerFailed) as caught:
            client.call("/fails", timeout=10)
        assert "yes" == client.call("/works", timeout=10)

    incident = caught.value.details["incident"]
    assert "secret" not in str(caught.value)
    assert [incident] == [record.incident for record in caplog.records if record.message == "handler failed"]


@pytest.mark.row(49)
@pytest.mark.parametrize("result", [object(), {1, 2}, 2**70, float("nan"), "\ud800", [[object()]]])
def test_a_result_that_cannot_be_sent_is_an_internal_error(result: object, caplog: pytest.LogCaptureFixture):
    """The caller is not left waiting."""
    with routed(lambda payload, path, client: result) as client, pytest.raises(HandlerFailed):
        client.call("/", timeout=10)


@pytest.mark.row(49)
def test_details_that_cannot_be_sent_are_an_internal_error(caplog: pytest.LogCaptureFixture):
    """An error answer is an answer in any case."""

    def handler(payload: Any, path: str, client: Any) -> None:
        raise InvalidArgument("no", details=object())

    with routed(handler) as client, pytest.raises(HandlerFailed):
        client.call("/", timeout=10)


def test_a_converter_that_fails_is_an_internal_error(caplog: pytest.LogCaptureFixture):
    """Converters are user code: only their ValueError means that the path does not match."""
    router = Router()

    def fails(text: str) -> object:
        raise KeyError(text)

    router.converter("odd", fails)
    router.add("/<odd:x>", lambda payload, path, client, x: x)

    with Service(router) as client, pytest.raises(HandlerFailed):
        client.call("/a", timeout=10)


# ----------------------------------------------------------------- notifications


def test_a_notification_is_answered_when_its_handler_returns_something():
    """So that a bare echo works by hand; and null answers nothing."""
    seen: list[Any] = []
    arrived = Event()
    served, asking = Router(), Router()
    served.add("/echo", lambda payload, path, client: payload, blocking=False)

    def note(payload: Any, path: str, client: Any) -> None:
        seen.append(payload)
        arrived.set()

    asking.add("/echo", note, blocking=False)
    with connection_pair(server=served, client=asking) as (client, _):
        client.notify("/echo", None)
        client.notify("/echo", "hi")
        client.call("/echo", timeout=10)
        with gevent.Timeout(10):
            while not seen:
                gevent.sleep(0.01)

    assert ["hi"] == seen


def test_a_notification_that_fails_sends_nothing(caplog: pytest.LogCaptureFixture):
    """Its failure is logged and counted on the answering side."""
    router = Router()
    router.add("/fails", raises_error, blocking=False)
    router.add("/ok", lambda payload, path, client: payload, blocking=False)
    service = Service(router)
    with service as client:
        client.notify("/fails", 1)
        client.notify("/nowhere", 1)
        assert 2 == client.call("/ok", 2, timeout=10)

    assert 1 == len(service.observer.named("handler_failed"))
    assert ("request", "unimplemented") in service.observer.named("refused")


# --------------------------------------------------------------------- deadlines


def test_a_handler_past_its_routes_timeout_is_interrupted():
    """Unmodified code in a greenlet is bounded; what it held is given back."""
    left = []

    def handler(payload: Any, path: str, client: Any) -> None:
        try:
            gevent.sleep(30)
        finally:
            left.append(path)

    with in_greenlet(handler, timeout=0.05) as client, pytest.raises(DeadlineExceeded, match="within 0.05 s"):
        client.call("/", timeout=10)

    assert ["/"] == left


def test_the_callers_time_bounds_the_handler_too():
    """Both sides stop at about the same moment."""
    stopped = Event()

    def handler(payload: Any, path: str, client: Any) -> None:
        try:
            gevent.sleep(30)
        finally:
            stopped.set()

    with in_greenlet(handler) as client:
        with pytest.raises(TimeoutError):
            client.call("/", timeout=0.05)
        assert wait_for(stopped.is_set)


def test_a_call_made_while_handling_gets_what_is_left():
    """A chain of calls never outlives its first deadline."""
    served, asking = Router(), Router()
    served.add("/", lambda payload, path, client: client.call("/back", timeout=60), blocking=False)
    asking.add("/back", lambda payload, path, client: current_call().deadline.remaining(), blocking=False)

    with connection_pair(server=served, client=asking) as (client, _):
        assert client.call("/", timeout=5) <= 5


def test_a_thread_past_its_deadline_is_answered_for():
    """It cannot be interrupted, but its caller is freed and its result dropped."""
    router = Router()
    router.add("/", lambda payload, path, client: native_sleep(0.3), blocking=True, timeout=0.05)

    with Service(router) as client, pytest.raises(DeadlineExceeded):
        client.call("/", timeout=10)


# ----------------------------------------------------------------------- cancels


def cancelled_handler(log: list[str], started: list[int], done: Event) -> Callable[..., Any]:
    def handler(payload: Any, path: str, client: Any) -> str:
        call = current_call()
        started.append(1)
        try:
            gevent.sleep(0.3)
            log.append(f"ran, cancelled={call.deadline.cancelled}")
        except RemoteError as error:
            log.append(error.code)
            raise
        finally:
            done.set()
        return "x"

    return handler


@pytest.mark.row(73)
@pytest.mark.parametrize(
    ("mode", "outcome"),
    [("raise", "cancelled"), ("flag", "ran, cancelled=True"), ("never", "ran, cancelled=False")],
)
def test_a_cancel_reaches_the_handler_as_its_route_says(mode: str, outcome: str):
    """Interrupted, told, or left alone; the caller is freed at once in any case."""
    log: list[str] = []
    started: list[int] = []
    done = Event()
    with in_greenlet(cancelled_handler(log, started, done), cancel=mode) as client:
        future = client.spawn("/", timeout=10)
        assert wait_for(lambda: started)
        future.cancel()
        assert wait_for(done.is_set)

    assert [outcome] == log


@pytest.mark.row(73)
def test_a_connection_that_ends_cancels_what_it_asked_for():
    """Nobody can get the answer any more."""
    log: list[str] = []
    started: list[int] = []
    done = Event()
    with in_greenlet(cancelled_handler(log, started, done)) as client:
        future = client.spawn("/", timeout=10)
        assert wait_for(lambda: started)
        client.abort()
        assert wait_for(done.is_set)
        with pytest.raises(ReplyLost):
            future.result()

    assert ["cancelled"] == log


# ----------------------------------------------------------------------- streams


@pytest.mark.parametrize("blocking", [True, False])
def test_a_generator_is_a_stream_and_its_value_the_reply(blocking: bool):
    """More items than the credit, so credit must go back and forth."""

    def handler(payload: int, path: str, client: Any) -> Iterator[int]:
        yield from range(payload)
        return "the end"

    with routed(handler, blocking=blocking) as client:
        stream = client.stream("/", 300, credit=8, timeout=20)
        assert list(range(300)) == list(stream)
        assert "the end" == stream.result


@pytest.mark.row(67, 82)
@pytest.mark.parametrize("blocking", [True, False])
def test_a_stream_that_nobody_reads_waits_at_its_credit(blocking: bool):
    """A slow reader bounds the handler, and holds up nobody else."""
    made: list[int] = []

    def handler(payload: int, path: str, client: Any) -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    router = Router()
    router.add("/", handler, blocking=blocking)
    router.add("/other", lambda payload, path, client: payload, blocking=False)
    with Service(router) as client, client.stream("/", credit=4) as stream:
        assert 0 == next(stream)
        assert 1 == client.call("/other", 1, timeout=10)
        assert wait_for(lambda: len(made) >= 5)
        client.call("/other", 1, timeout=10)
        assert len(made) <= 7


@pytest.mark.parametrize("blocking", [True, False])
def test_a_closed_stream_ends_its_generator(blocking: bool):
    """Its `finally` runs, so cursors and files are given back."""
    closed = Event()

    def handler(payload: int, path: str, client: Any) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set() if not blocking else closed_flags.append(1)

    closed_flags: list[int] = []
    with routed(handler, blocking=blocking) as client:
        with client.stream("/", credit=4) as stream:
            next(stream)
        assert wait_for(lambda: closed.is_set() or closed_flags)


def test_an_error_ends_a_stream_after_its_items():
    """What was sent before it counts."""

    def handler(payload: int, path: str, client: Any) -> Iterator[int]:
        yield 1
        raise InvalidArgument("no more")

    with routed(handler) as client:
        stream = client.stream("/", timeout=10)
        assert 1 == next(stream)
        with pytest.raises(InvalidArgument, match="no more"):
            next(stream)


@pytest.mark.parametrize("blocking", [True, False])
def test_items_of_the_asking_side_reach_the_handler(blocking: bool):
    """More than the window, so the handler's reading must grant credit."""
    with routed(lambda payload, path, client: sum(current_call().items), blocking=blocking) as client:
        assert sum(range(500)) == client.stream("/", items=range(500), timeout=20).result


@pytest.mark.parametrize("blocking", [True, False])
def test_both_directions_at_once(blocking: bool):
    """A duplex stream: each item is answered as it comes."""

    def handler(payload: Any, path: str, client: Any) -> Iterator[int]:
        for item in current_call().items:
            yield item * 2

    with routed(handler, blocking=blocking) as client, client.stream("/", items=True, timeout=20) as stream:
        for number in range(20):
            stream.send(number)
            assert number * 2 == next(stream)
        stream.end()
        assert stream.result is None


def test_a_handler_without_announced_items_finds_none():
    """`current_call().items` is empty, not an error."""
    with routed(lambda payload, path, client: list(current_call().items)) as client:
        assert [] == client.call("/", timeout=10)


# ------------------------------------------------------------------------ places


@pytest.mark.row(83)
def test_a_routes_own_bound_refuses_at_once():
    """`max_in_flight` protects what stands behind the route."""
    release = Event()

    def handler(payload: Any, path: str, client: Any) -> str:
        release.wait(10)
        return "done"

    with in_greenlet(handler, max_in_flight=2) as client:
        running = [client.spawn("/", timeout=10) for _ in range(2)]
        with pytest.raises(Overloaded, match="2 calls of / are running"):
            client.call("/", timeout=10)
        set_in_hub(release)
        assert ["done", "done"] == [future.result() for future in running]
        assert "done" == client.call("/", timeout=10)


@pytest.mark.parametrize(
    ("order", "expected"), [("none", ["fast", "slow"]), ("peer", ["slow", "fast"]), ("key:k", ["slow", "fast"])]
)
def test_order_decides_who_waits_for_whom(order: str, expected: list[str]):
    """`none` overtakes; `peer` and an equal key do not."""
    log: list[str] = []

    def handler(payload: Any, path: str, client: Any) -> None:
        gevent.sleep(0.1 if payload["name"] == "slow" else 0)
        log.append(payload["name"])

    with in_greenlet(handler, order=order) as client:
        slow = client.spawn("/", {"name": "slow", "k": 1}, timeout=10)
        fast = client.spawn("/", {"name": "fast", "k": 1}, timeout=10)
        fast.result()
        slow.result()

    assert expected == log


def test_other_keys_overtake():
    """Order by key is order within the key."""
    log: list[str] = []

    def handler(payload: Any, path: str, client: Any, account: str) -> None:
        gevent.sleep(0.1 if account == "slow" else 0)
        log.append(account)

    with in_greenlet(handler, "/<account>", order="key:account") as client:
        futures = [client.spawn(f"/{name}", timeout=10) for name in ("slow", "fast")]
        for future in futures:
            future.result()

    assert ["fast", "slow"] == log


def test_a_payload_without_the_key_is_refused():
    """Rather than run out of order."""
    with in_greenlet(lambda payload, path, client: 1, order="key:k") as client, pytest.raises(InvalidArgument):
        client.call("/", {"other": 1}, timeout=10)


def test_isolation_gives_each_call_a_greenlet_of_its_own():
    """Greenlet-locals of legacy code end with the call."""
    seen: set[int] = set()

    def handler(payload: Any, path: str, client: Any) -> None:
        greenlets.append(gevent.getcurrent())
        seen.add(id(greenlets[-1]))

    greenlets: list[Any] = []
    with in_greenlet(handler, isolate=True) as client:
        for _ in range(5):
            client.call("/", timeout=10)

    assert 5 == len(seen)


def test_a_deadline_reaches_an_isolated_handler():
    """Its greenlet ends with the call."""
    stopped = Event()

    def handler(payload: Any, path: str, client: Any) -> None:
        try:
            gevent.sleep(30)
        finally:
            stopped.set()

    with in_greenlet(handler, isolate=True, timeout=0.05) as client:
        with pytest.raises(DeadlineExceeded):
            client.call("/", timeout=10)
        assert wait_for(stopped.is_set)


@pytest.mark.parametrize("blocking", [True, False])
def test_every_handler_has_a_context_of_its_own(blocking: bool):
    """What one sets the next does not see; what was set before serving all see."""
    VARIABLE.set("before")

    def handler(payload: Any, path: str, client: Any) -> str:
        found = VARIABLE.get()
        VARIABLE.set("from a handler")
        return found

    with routed(handler, blocking=blocking) as client:
        assert ["before", "before"] == [client.call("/", timeout=10) for _ in range(2)]


def test_the_current_call_is_known_to_its_handler_only():
    """Its path, headers and connection."""

    def handler(payload: Any, path: str, client: Any) -> list[Any]:
        call = current_call()
        return [call.path, dict(call.headers), call.connection is client, call.payload]

    with routed(handler) as client:
        assert ["/", {"k": "v"}, True, "p"] == client.call("/", "p", headers={"k": "v"}, timeout=10)
    with pytest.raises(Exception, match="no call is being handled"):
        current_call()


# --------------------------------------------------------------------- the edges


def test_unknown_options_are_refused_when_serving_begins():
    """A router is registered on before anything knows the options."""
    router = Router()
    router.add("/", lambda payload, path, client: 1, colour="red")

    with pytest.raises(ConfigurationError, match="colour"), connection_pair(server=router):
        pass


@pytest.mark.row(49)
def test_json_refuses_what_only_msgpack_can_carry(caplog: pytest.LogCaptureFixture):
    """Bytes survive msgpack only, and the caller learns that it failed."""
    router = Router()
    router.add("/", lambda payload, path, client: b"raw")
    with connection_pair(server=router, serializer_type=StandardJsonSerializer) as (client, _):
        with pytest.raises(HandlerFailed):
            client.call("/", timeout=10)


@pytest.mark.row(72, 36)
def test_an_id_that_is_used_twice_is_refused():
    """The first one goes on."""
    release = Event()

    def handler(payload: Any, path: str, client: Any) -> str:
        release.wait(10)
        return payload

    with in_greenlet(handler) as client:
        first = client.spawn("/", "first", timeout=10)
        gevent.sleep(0.05)
        client._home.run(client._conversation.session.__setattr__, "_next_id", 0)
        client._home.run(client._conversation.session._asked.pop, 0)
        with pytest.raises(InvalidArgument, match="open already"):
            client.call("/", "second", timeout=10)
        assert not first.done()
        set_in_hub(release)


def test_finished_requests_are_told_to_the_observer():
    """By route, not by path, so that metrics stay few."""
    service = routed(lambda payload, path, client, id: id, "/items/<int:id>")
    with service as client:
        client.call("/items/7", timeout=10)
        with pytest.raises(RouteNotFound):
            client.call("/items/x", timeout=10)

    assert [("/items/<int:id>", "ok")] == service.observer.named("request_finished")


@pytest.mark.row(51)
def test_calls_beyond_the_bound_of_handlers_wait_for_room():
    """Nothing is refused and nothing is lost."""
    release, running = Event(), []

    def handler(payload: int, path: str, client: Any) -> int:
        running.append(payload)
        release.wait(10)
        return payload

    router = Router()
    router.add("/", handler, blocking=False)
    with connection_pair(server=router, limits=Limits(in_flight=4)) as (client, _):
        futures = [client.spawn("/", number, timeout=20) for number in range(20)]
        assert wait_for(lambda: len(running) >= 4)
        gevent.sleep(0.05)
        assert 4 == len(running)
        set_in_hub(release)
        assert list(range(20)) == [future.result() for future in futures]


@pytest.mark.row(51)
@pytest.mark.parametrize("blocking", [True, False])
def test_what_handlers_wait_for_is_read_at_the_bound(blocking: bool):
    """Credit for streams and replies to their own calls come by the same connection; otherwise it would be stuck."""

    def items(payload: Any, path: str, client: Any) -> Iterator[int]:
        yield from range(5)

    served, asking = Router(), Router()
    served.add("/items", items, blocking=blocking)
    served.add("/back", lambda payload, path, client: client.call("/there", payload, timeout=10), blocking=blocking)
    asking.add("/there", lambda payload, path, client: payload, blocking=False)
    with connection_pair(server=served, client=asking, limits=Limits(in_flight=2)) as (client, _):
        futures = [client.spawn("/back", number, timeout=20) for number in range(6)]
        assert list(range(6)) == [future.result() for future in futures]
        streams = [client.stream("/items", credit=1, timeout=20) for _ in range(6)]
        assert [list(range(5))] * 6 == [list(stream) for stream in streams]


@pytest.mark.row(51, 83)
def test_more_than_may_wait_is_refused_at_once():
    """The peer is told, and what waits is served all the same."""
    release = Event()

    def handler(payload: int, path: str, client: Any) -> int:
        release.wait(10)
        return payload

    router = Router()
    router.add("/", handler, blocking=False)
    limits = Limits(in_flight=1, waiting_size=60)
    with connection_pair(server=router, limits=limits) as (client, _):
        futures = [client.spawn("/", number, timeout=20) for number in range(6)]
        with pytest.raises(Overloaded, match="too many wait"):
            futures[-1].result()
        set_in_hub(release)
        assert 0 == futures[0].result()
        assert 1 == futures[1].result()


@pytest.mark.row(51, 85)
def test_large_requests_wait_for_each_other():
    """So many bytes of one peer's are in handlers' hands at once; small ones go on, and each is served in the end."""
    release = Event()
    begun: list[int] = []

    def handler(payload: Any, path: str, client: Any) -> int:
        begun.append(len(payload))
        release.wait(10)
        return len(payload)

    router = Router()
    router.add("/", handler, blocking=False)
    noise = os.urandom(150_000)
    limits = Limits(in_flight_size=350_000, waiting_size=310_000)
    with connection_pair(server=router, limits=limits) as (client, _):
        futures = [client.spawn("/", noise, timeout=20) for _ in range(4)]
        small = client.spawn("/", b"small", timeout=20)
        late = client.spawn("/", noise, timeout=20)
        with pytest.raises(Overloaded):
            late.result()
        assert wait_for(lambda: 3 == len(begun))
        assert [5, 150_000, 150_000] == sorted(begun)
        set_in_hub(release)

        assert [150_000] * 4 + [5] == [future.result() for future in (*futures, small)]


@pytest.mark.row(70)
def test_a_peer_that_is_gone_is_noticed_at_the_bound():
    """Its handlers end and its place is free."""
    ended: list[int] = []

    def handler(payload: int, path: str, client: Any) -> None:
        try:
            gevent.sleep(30)
        finally:
            ended.append(payload)

    router = Router()
    router.add("/", handler, blocking=False)
    with connection_pair(server=router, limits=Limits(in_flight=2)) as (client, server):
        for number in range(5):
            client.spawn("/", number, timeout=20)
        assert wait_for(lambda: server._turns is not None and server._turns.in_flight == 2)
        client.abort()
        server.wait_closed(10)
        assert wait_for(lambda: len(ended) >= 2)


@pytest.mark.row(83)
@pytest.mark.parametrize("option", [{"order": "key:k"}, {"max_in_flight": 1}])
def test_a_thread_holds_its_place_until_it_is_through(option: dict[str, Any]):
    """Its caller has left after the timeout, but it works on: the next one would not be alone."""
    running: list[int] = []
    most: list[int] = []

    def handler(payload: Any, path: str, client: Any) -> None:
        running.append(1)
        most.append(len(running))
        native_sleep(0.2)
        running.pop()

    router = Router()
    router.add("/", handler, blocking=True, timeout=0.05, **option)
    with Service(router) as client:
        futures = [client.spawn("/", {"k": 1}, timeout=10) for _ in range(3)]
        for future in futures:
            with pytest.raises(RemoteError):
                future.result()
        assert wait_for(lambda: not running)

    assert 1 == max(most)


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether *condition* became true in time."""
    with gevent.Timeout(seconds, False):
        while not condition():
            gevent.sleep(0.005)
        return True
    return False


def set_in_hub(event: Event) -> None:
    """Set an event whose waiters live in another thread's hub."""
    event.set()


def native_sleep(seconds: float) -> None:
    """Block the thread, also in a patched process."""
    from gevent import monkey

    monkey.get_original("time", "sleep")(seconds)


@pytest.mark.row(95)
@pytest.mark.parametrize("options", [{}, {"max_in_flight": 1}, {"order": "peer"}, {"isolate": True}])
@pytest.mark.parametrize("headers", [None, {"idempotency-key": "k"}])
def test_a_handler_that_is_killed_at_any_switch_leaves_nothing_behind(options: Any, headers: Any):
    """No lane, place or open request is held, and the next call is answered, wherever the kill comes."""

    def handler(payload: int, path: str, client: Any) -> str:
        for switch in range(5):
            if switch == payload:
                gevent.get_hub().loop.run_callback(gevent.getcurrent().throw, gevent.GreenletExit)
            gevent.sleep(0)
        return "done"

    for killed_at in range(5):
        router = Router()
        router.add("/", handler, blocking=False, **options)
        with connection_pair(server=router) as (client, accepted):
            with pytest.raises(HandlerFailed):
                client.call("/", killed_at, headers=headers, timeout=10)
            assert "done" == client.call("/", 5, timeout=10)
            dispatcher: Any = accepted.conversation.answerer
            held = [accepted.conversation.session.answering, len(dispatcher._lanes), len(dispatcher._switched)]
            assert ([0, 0, 0], 0) == (held, dispatcher._fixed["/"].in_flight)


# ---------------------------------------------------------------- topic messages


def test_a_publication_is_answered_that_nobody_takes_it():
    """Where there are no topics: one with an id must be answered, others are counted."""
    service = routed(lambda payload, path, client: payload)
    with service as client:
        answer: Completion[Any] = Completion()

        def publish() -> None:
            request, _ = client.conversation.session.ask("a/b", None, answer)
            client.conversation.say({"topic": "a/b", "data": 1})
            client.conversation.say({"topic": "a/b", "data": 1, "id": request.id})

        client._home.run(publish)
        with pytest.raises(RouteNotFound):
            answer.wait(10)
    assert [("message", "topic message")] * 2 == service.observer.named("refused")
