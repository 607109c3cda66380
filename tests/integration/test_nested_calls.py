"""Story: A calls B, which calls C. What A says of its call (so much time, or never mind) reaches C."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

from tests.running import PATIENCE, connected, running, wait_for
from webmesh.call import current_call
from webmesh.exceptions import (
    DeadlineExceeded, FailedPrecondition, Overloaded, RemoteError, ReplyLost, RequestTimeout, Unavailable,
)  # fmt: skip
from webmesh.options import Backoff, Limits
from webmesh.testing import FaultProxy, RecordingObserver
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

EACH_PLACE = pytest.mark.parametrize("blocking", [True, False], ids=["thread", "greenlet"])


class Far:
    """C: a slow route that notes what becomes of its calls."""

    def __init__(self, *, blocking: bool, cancel: str = "raise") -> None:
        self.server = WebMeshServer(name="c")
        self.entered, self.release = threading.Event(), threading.Event()
        self.left: float | None = None
        self.ends: list[str] = []
        self.server.on("/slow", blocking=blocking, cancel=cancel)(self.slow)

    def slow(self, payload: Any, path: str, client: Any) -> str:
        call = current_call()
        self.left = call.deadline.remaining()
        self.entered.set()
        try:
            while not (self.release.is_set() or call.deadline.cancelled):
                gevent.sleep(0.002)
        except BaseException as error:
            self.ends.append(type(error).__name__)
            raise
        self.ends.append("cancelled" if call.deadline.cancelled else "finished")
        return "from C"


@contextmanager
def chain(far: Far, *, blocking: bool) -> Iterator[WebMeshClient]:
    """A, which calls B, whose route `/` calls C."""
    near = WebMeshServer(name="b")
    with connected(far.server) as to_far:
        near.on("/", blocking=blocking)(lambda payload, path, client: to_far.call("/slow", payload))
        with connected(near) as client:
            try:
                yield client
            finally:
                far.release.set()


@pytest.mark.row(73)
@EACH_PLACE
@pytest.mark.parametrize("how", ["cancel", "timeout", "end of the link"])
def test_whoever_gives_up_frees_the_whole_chain(how: str, blocking: bool) -> None:
    """C learns of it though it has never heard of A; and A itself is free at once."""
    far = Far(blocking=blocking)
    with chain(far, blocking=blocking) as client:
        future = client.spawn("/", timeout=0.3 if how == "timeout" else PATIENCE)
        assert wait_for(far.entered.is_set)
        if how == "cancel":
            future.cancel()
        elif how == "end of the link":
            client.connect().abort()
        with pytest.raises((RequestTimeout, ReplyLost, RemoteError)):
            future.result()
        assert wait_for(lambda: far.ends)
    assert far.ends[0] in (["cancelled"] if blocking else ["Cancelled", "Timeout"])


@pytest.mark.row(73)
@EACH_PLACE
@pytest.mark.parametrize("cancel", ["raise", "flag", "never"])
def test_the_far_end_takes_it_as_its_route_says(cancel: str, blocking: bool) -> None:
    """An exception at its next switch, a flag to look at, or nothing; a thread can only look."""
    far = Far(blocking=blocking, cancel=cancel)
    with chain(far, blocking=blocking) as client:
        future = client.spawn("/", timeout=PATIENCE)
        assert wait_for(far.entered.is_set)
        future.cancel()
        if cancel == "never":
            assert wait_for(lambda: not client.connect().open or client.call("$info", timeout=PATIENCE))
            far.release.set()
        assert wait_for(lambda: far.ends)
    raised = "Cancelled" if not blocking else "cancelled"
    assert [{"raise": raised, "flag": "cancelled", "never": "finished"}[cancel]] == far.ends


@pytest.mark.row(73)
@EACH_PLACE
def test_what_is_left_of_the_time_is_passed_on(blocking: bool) -> None:
    """C gets no more of it than A gave, less what went by; and no less than that without need."""
    far = Far(blocking=blocking)
    far.release.set()
    with chain(far, blocking=blocking) as client:
        assert "from C" == client.call("/", timeout=PATIENCE)
        assert far.left is not None and 0 < far.left <= PATIENCE
        assert "from C" == client.call("/", timeout=1000)
        assert 30 >= far.left  # B's own bound, when that is less
    lone = Far(blocking=blocking)
    lone.release.set()
    with connected(lone.server) as client:
        client.call("/slow", timeout=1000)
        assert 30 < lone.left <= 1000  # type: ignore[operator]


@EACH_PLACE
def test_nothing_is_sent_when_no_time_is_left(blocking: bool) -> None:
    """The inner call ends at once, with no word to the far end."""
    far, near, ends = Far(blocking=blocking), WebMeshServer(), []
    with connected(far.server) as to_far:

        @near.on("/", blocking=blocking, cancel="never")
        def late(payload: Any, path: str, client: Any) -> None:
            call = current_call()
            while not call.deadline.expired:
                threading.Event().wait(0.01)
            try:
                to_far.call("/slow")
            except RequestTimeout as error:
                ends.append(error)

        with connected(near) as client:
            with pytest.raises((RequestTimeout, DeadlineExceeded)):
                client.call("/", timeout=0.05)
            if blocking:
                assert wait_for(lambda: ends)
    assert not far.entered.is_set()


@pytest.mark.row(102)
@EACH_PLACE
def test_a_chain_has_an_end(blocking: bool) -> None:
    """A service that calls itself without end is stopped at the limit, and everybody on the way is told."""
    server, depth = WebMeshServer(name="loop", limits=Limits(threads_per_connection=32)), []

    @server.on("/", blocking=blocking)
    def again(payload: int, path: str, client: Any) -> Any:
        depth.append(payload)
        return others[0].call("/", payload + 1, timeout=PATIENCE)

    others: list[WebMeshClient] = []
    with running(server), WebMeshClient(server.url, name="loop") as inner, WebMeshClient(server.url) as client:
        others.append(inner)
        with pytest.raises(FailedPrecondition, match="17 services, 16 is the limit"):
            client.call("/", 1, timeout=PATIENCE)
    assert list(range(1, 18)) == depth


@pytest.mark.row(73, 81)
def test_the_result_of_a_thread_that_nobody_waits_for_is_dropped_and_counted() -> None:
    """Its caller is free at once; the thread cannot be stopped, so it ends when it ends."""
    observer = RecordingObserver()
    server, entered, release = WebMeshServer(observer=observer), threading.Event(), threading.Event()

    @server.on("/", blocking=True, timeout=0.05)
    def slow(payload: Any, path: str, client: Any) -> str:
        entered.set()
        while not release.is_set():
            gevent.sleep(0.002)
        return "late"

    with connected(server) as client:
        with pytest.raises(DeadlineExceeded):
            client.call("/", timeout=PATIENCE)
        assert [] == [event for event in observer.named("refused") if event[0] == "result"]
        release.set()
        assert wait_for(lambda: ("result", "late") in observer.named("refused"))
        assert wait_for(lambda: 0 == server._begun.parts.executor.taken)


@pytest.mark.row(73)
@EACH_PLACE
def test_a_call_that_is_given_up_is_free_though_the_inner_one_waits_for_its_link(blocking: bool) -> None:
    """And what was not sent yet is never sent."""
    entered, ends, sent = threading.Event(), [], []  # type: ignore[var-annotated]
    refusing, near = WebMeshServer(), WebMeshServer()
    refusing.on("/pay")(lambda payload, path, client: sent.append(payload))
    with running(refusing), FaultProxy(refusing) as proxy:
        proxy.refuse()
        to_far = WebMeshClient(proxy.url, backoff=Backoff(first=0.01, maximum=0.01))

        @near.on("/", blocking=blocking)
        def pay(payload: Any, path: str, client: Any) -> None:
            entered.set()
            try:
                to_far.call("/pay", timeout=PATIENCE)
            except BaseException as error:
                ends.append(type(error).__name__)
                raise

        with connected(near) as client:
            future = client.spawn("/", timeout=PATIENCE)
            assert wait_for(entered.is_set)
            assert wait_for(lambda: to_far.state == "waiting")
            future.cancel()
            assert wait_for(lambda: ends == ["Cancelled"])
            proxy.heal()
            to_far.connect()
            assert [] == sent
        to_far.close()


@pytest.mark.row(73)
@EACH_PLACE
def test_a_call_that_is_given_up_is_free_though_the_inner_one_waits_for_its_next_attempt(blocking: bool) -> None:
    """There is none then."""
    far, near, ends, asked = WebMeshServer(), WebMeshServer(), [], []  # type: ignore[var-annotated]

    @far.on("/busy")
    def busy(payload: Any, path: str, client: Any) -> None:
        asked.append(payload)
        raise Overloaded("busy", retry_after=PATIENCE / 2)

    observer = RecordingObserver()
    with running(far):
        to_far = WebMeshClient(far.url, observer=observer)

        @near.on("/", blocking=blocking)
        def ask(payload: Any, path: str, client: Any) -> None:
            try:
                to_far.call("/busy", timeout=PATIENCE * 10, idempotent=True)
            except BaseException as error:
                ends.append(type(error).__name__)
                raise

        with connected(near) as client:
            future = client.spawn("/", timeout=PATIENCE * 10)
            assert wait_for(lambda: observer.named("call_retried"))
            future.cancel()
            assert wait_for(lambda: ends == ["Cancelled"], PATIENCE / 4)
            assert 1 == len(asked)
        to_far.close()


@EACH_PLACE
def test_retries_do_not_multiply_over_hops(blocking: bool) -> None:
    """The client next to the trouble sends again; what it gives up for is final for those behind it."""
    asked: list[Any] = []
    a, b, c = WebMeshServer(), WebMeshServer(), WebMeshServer()

    @a.on("/", idempotent=True)
    def busy(payload: Any, path: str, client: Any) -> None:
        asked.append(payload)
        raise Unavailable("busy")

    def ask(server: WebMeshServer, inner: list[WebMeshClient]) -> None:
        @server.on("/", blocking=blocking, idempotent=True)
        def pass_on(payload: Any, path: str, client: Any) -> Any:
            return inner[0].call("/", idempotent=True, timeout=PATIENCE)

    nearer: tuple[list[WebMeshClient], ...] = ([], [])
    ask(b, nearer[0])
    ask(c, nearer[1])
    with connected(a) as to_a, connected(b) as to_b, connected(c) as to_c:
        nearer[0].append(to_a)
        nearer[1].append(to_b)
        with pytest.raises(Unavailable) as raised:
            to_c.call("/", idempotent=True, timeout=PATIENCE)
    assert (5, False) == (len(asked), raised.value.retryable)
