"""Calls with an idempotency key: each runs once, wherever it runs and however it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

from tests.running import PATIENCE, connected, running, wait_for
from webmesh.exceptions import (
    Aborted, AlreadyExists, Cancelled, DeadlineExceeded, HandlerFailed, InvalidArgument, Overloaded,
    PermissionDenied, RemoteError, RequestTimeout, Unauthenticated, Unavailable,
)  # fmt: skip
from webmesh.idempotency import IdempotencyStore, Remembered
from webmesh.options import Limits, Timeouts
from webmesh.routing import Router
from webmesh.testing import RecordingObserver, connection_pair
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

pytestmark = pytest.mark.row(57, 74)
EACH_PLACE = pytest.mark.parametrize("blocking", [True, False], ids=["thread", "greenlet"])
KEY = {"idempotency-key": "k"}


class Counting:
    """A handler that counts its runs and does as it is told."""

    def __init__(self, act: Callable[[Any], Any] = lambda payload: payload) -> None:
        self.runs = 0
        self._act = act

    def __call__(self, payload: Any, path: str, client: Any) -> Any:
        self.runs += 1
        return self._act(payload)


@contextmanager
def served(handler: Callable[..., Any], observer: Any = None, **options: Any) -> Iterator[WebMeshClient]:
    server = WebMeshServer(observer=observer or RecordingObserver(), limits=Limits(idempotency_keys=100))
    server.on("/", **options)(handler)
    server.on("/other")(handler)
    with connected(server) as client:
        yield client


def ask(client: Any, payload: Any = None, headers: Any = KEY, path: str = "/", timeout: float = PATIENCE) -> Any:
    """The answer, or the error that came instead; by the connection, as a client sends keyed calls again by itself."""
    link = client.connect() if isinstance(client, WebMeshClient) else client
    try:
        return link.call(path, payload, headers=headers, timeout=timeout)
    except (RemoteError, RequestTimeout) as error:
        return error


@EACH_PLACE
def test_a_repeat_is_answered_from_memory(blocking: bool) -> None:
    """On another connection too. Another key, and another path, is another call."""
    handler, observer = Counting(lambda payload: [payload, handler.runs]), RecordingObserver()
    with served(handler, observer, blocking=blocking) as client, WebMeshClient(client.url) as other:
        assert [["p", 1]] * 3 == [ask(client, "p"), ask(client, "p"), ask(other, "p")]
        assert ["p", 2] == ask(client, "p", {"idempotency-key": "l"})
        assert ["p", 3] == ask(client, "p", path="/other")
        assert [["p", 4], ["p", 5]] == [ask(client, "p", {}), ask(client, "p", {"traceparent": "x"})]
        assert [("request", "repeated")] * 2 == observer.named("refused")


@EACH_PLACE
def test_a_repeat_waits_for_the_one_that_runs(blocking: bool) -> None:
    """And gets the same outcome; so do all others."""
    entered, release = threading.Event(), threading.Event()

    def act(payload: Any) -> int:
        entered.set()
        release.wait(PATIENCE)
        return handler.runs

    handler, observer = Counting(act), RecordingObserver()
    with served(handler, observer, blocking=blocking if blocking else None) as client:
        futures = [client.spawn("/", headers=KEY, timeout=PATIENCE) for _ in range(10)]
        assert wait_for(lambda: entered.is_set() and 9 == len(observer.named("refused")))
        release.set()
        assert [1] * 10 == [future.result() for future in futures]


@EACH_PLACE
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AlreadyExists("x", details=[7]), "already_exists"), (ZeroDivisionError(), "internal"),
        (SystemExit(3), "internal"),
    ],
)  # fmt: skip
def test_an_error_is_remembered_like_a_result(error: BaseException, code: str, blocking: bool) -> None:
    """With all that belongs to it; an incident stays the same one."""

    def act(payload: Any) -> None:
        raise error

    handler = Counting(act)
    with served(handler, blocking=blocking) as client:
        first, second = ask(client), ask(client)
    assert (1, code, code) == (handler.runs, first.code, second.code)
    assert first.details == second.details and first.details is not None


@EACH_PLACE
@pytest.mark.parametrize("error", [Unavailable("later"), Overloaded("full"), PermissionDenied("not you")])
def test_an_error_that_invites_to_try_again_is_not_remembered(error: RemoteError, blocking: bool) -> None:
    """The repeat runs."""

    def act(payload: Any) -> str:
        if handler.runs == 1:
            raise error
        return "second"

    handler = Counting(act)
    with served(handler, blocking=blocking) as client:
        assert [error.code, "second", "second"] == [ask(client).code, ask(client), ask(client)]


@EACH_PLACE
@pytest.mark.parametrize("kind", [Unavailable, Overloaded, PermissionDenied, Unauthenticated, Cancelled])
def test_an_error_of_another_node_is_remembered(kind: type[RemoteError], blocking: bool) -> None:
    """What the handler had done before it asked there is done."""

    def act(payload: Any) -> Any:
        return inner.call("/", timeout=PATIENCE)

    def refuse(payload: Any, path: str, client: Any) -> None:
        raise kind("there")

    handler, there = Counting(act), WebMeshServer()
    there.on("/")(refuse)
    with running(there), WebMeshClient(there.url, retries=None) as inner, served(handler, blocking=blocking) as client:
        assert [kind.code] * 2 == [ask(client).code, ask(client).code]
    assert 1 == handler.runs


def test_a_key_belongs_to_its_payload() -> None:
    """Another one under the same key is a mistake of the caller's, which must not pass for the first one's answer."""
    handler = Counting()
    with served(handler) as client:
        assert {"a": 1, "b": 2} == ask(client, {"a": 1, "b": 2})
        assert {"a": 1, "b": 2} == ask(client, {"b": 2, "a": 1})
        assert isinstance(ask(client, {"a": 1}), InvalidArgument)
    assert 1 == handler.runs


@pytest.mark.parametrize("text", ["", "x" * 65, "é" * 33])
def test_a_key_has_a_length(text: str) -> None:
    """Of 1 to 64 bytes."""
    handler = Counting()
    with served(handler) as client:
        assert isinstance(ask(client, headers={"idempotency-key": text}), InvalidArgument)
        assert 1 == ask(client, 1, {"idempotency-key": "x" * 64})
    assert 1 == handler.runs


def test_a_stream_takes_no_key() -> None:
    """Neither one that is asked for, nor one that turns out to be one: nothing of it runs."""
    begun: list[Any] = []

    def items(payload: Any, path: str, client: Any) -> Iterator[int]:
        begun.append(payload)
        yield 1

    for blocking in (True, False):
        with served(items, blocking=blocking) as client:
            for given in (None, [1]):
                with pytest.raises(InvalidArgument):
                    list(client.stream("/", items=given, headers=KEY, timeout=PATIENCE))
            assert isinstance(ask(client), InvalidArgument)
    assert [] == begun


@EACH_PLACE
def test_a_repeated_notification_is_dropped(blocking: bool) -> None:
    """And counted; what it would have sent back is not sent again."""
    handler, observer = Counting(), RecordingObserver()
    with served(handler, observer, blocking=blocking) as client:
        for _ in range(3):
            client.notify("/", 5, headers=KEY)
        assert wait_for(lambda: 2 == len(observer.named("refused")))
        assert 5 == ask(client, 5)
    assert (1, ("notification", "repeated")) == (handler.runs, observer.named("refused")[0])


@EACH_PLACE
@pytest.mark.parametrize("loss", ["abort", "cancel"])
def test_a_keyed_call_outlives_whoever_asked(loss: str, blocking: bool) -> None:
    """Its outcome is there for the one that asks again, by the next connection."""
    entered, release = threading.Event(), threading.Event()

    def act(payload: Any) -> int:
        entered.set()
        while not release.is_set():
            gevent.sleep(0.002)
        return handler.runs

    handler, observer = Counting(act), RecordingObserver()
    with served(handler, observer, blocking=blocking) as client, WebMeshClient(client.url) as other:
        future = client.spawn("/", headers=KEY, timeout=PATIENCE)
        assert wait_for(entered.is_set)
        client.connect().abort() if loss == "abort" else future.cancel()
        again = other.spawn("/", headers=KEY, timeout=PATIENCE)
        assert wait_for(lambda: ("request", "repeated") in observer.named("refused"))
        release.set()
        assert 1 == again.result() == ask(other)


def test_what_it_sends_to_a_caller_that_has_gone_is_its_failure() -> None:
    """No reason to run it a second time."""
    entered, gone = threading.Event(), threading.Event()

    def handler(payload: Any, path: str, client: Any) -> None:
        runs.append(payload)
        entered.set()
        while not gone.is_set():
            gevent.sleep(0.002)
        client.notify("/progress", 1)

    runs: list[Any] = []
    with served(handler) as client, WebMeshClient(client.url) as other:
        client.spawn("/", headers=KEY, timeout=PATIENCE)
        assert wait_for(entered.is_set)
        client.connect().abort()
        again = other.spawn("/", headers=KEY, timeout=PATIENCE)
        gevent.sleep(0.05)
        gone.set()
        with pytest.raises(HandlerFailed):
            again.result()
    assert 1 == len(runs)


@EACH_PLACE
def test_its_deadline_ends_it(blocking: bool) -> None:
    """That is its outcome. One that no thread had begun may run again."""
    release, handler = threading.Event(), Counting(lambda payload: wait_for(release.is_set))
    server = WebMeshServer(limits=Limits(threads=1))
    server.on("/", blocking=blocking, timeout=0.05)(handler)
    server.on("/full", blocking=True)(lambda payload, path, client: wait_for(release.is_set))
    server.on("/quick", blocking=True, timeout=0.05)(lambda payload, path, client: "ran")
    with connected(server) as client:
        assert [DeadlineExceeded] * 2 == [type(ask(client)), type(ask(client))]
        if blocking:
            assert isinstance(ask(client, path="/quick"), DeadlineExceeded)
            release.set()
            assert wait_for(lambda: "ran" == ask(client, path="/quick"))
        release.set()
    assert 1 == handler.runs


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("paid", "ok"), (AlreadyExists("it is"), "already_exists"), (ValueError(), "deadline_exceeded")],
)
def test_what_a_thread_does_after_its_deadline_is_remembered(outcome: Any, code: str) -> None:
    """Its caller is told that the time was up; whoever repeats it, what came of it. The store, too."""
    release, store = threading.Event(), Store()

    def act(payload: Any) -> Any:
        wait_for(release.is_set)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    handler = Counting(act)
    with stored(store, handler, blocking=True) as client:
        assert isinstance(ask(client, timeout=0.05), DeadlineExceeded | RequestTimeout)
        assert isinstance(ask(client, timeout=0.05), DeadlineExceeded | RequestTimeout)
        assert ["begin"] == store.steps
        release.set()
        assert [code] * 2 == [getattr(ask(client), "code", "ok"), getattr(ask(client), "code", "ok")]
        assert ["begin", "end"] == store.steps
    assert 1 == handler.runs


def test_a_result_that_cannot_be_kept_is_not_run_for_again() -> None:
    """Its repeat is told so."""
    handler = Counting(lambda payload: b"\x00".join(b"%d" % number for number in range(2000)))
    server = WebMeshServer(limits=Limits(idempotency_size=4096))
    server.on("/")(handler)
    with connected(server) as client:
        assert bytes is type(ask(client))
        again = ask(client)
    assert isinstance(again, Aborted) and not again.retryable and {"outcome": "unknown"} == again.details
    assert 1 == handler.runs


def test_a_client_remembers_too() -> None:
    """Peers are symmetric."""
    handler, router = Counting(lambda payload: handler.runs), Router()
    router.add("/", handler)
    with connection_pair(client=router) as (_, accepted):
        assert [1, 1] == [ask(accepted), ask(accepted)]


# ------------------------------------------------------------------------ its store


class Store:
    """One in memory, which notes what it is asked and fails when told to."""

    def __init__(self, known: dict[bytes, Remembered] | None = None) -> None:
        self.steps: list[str] = []
        self.known = known or {}
        self.fails: tuple[str, ...] = ()
        self.gate = threading.Event()
        self.gate.set()

    def _step(self, name: str) -> None:
        self.gate.wait(PATIENCE)
        self.steps.append(name)
        if name in self.fails:
            raise Unavailable("disk full")

    def begin(self, key: bytes, fingerprint: bytes) -> Remembered | None:
        self._step("begin")
        if key in self.known:
            return self.known[key]
        self.known[key] = Remembered(fingerprint, None)
        return None

    def end(self, key: bytes, outcome: bytes) -> None:
        self._step("end")
        self.known[key] = Remembered(self.known[key].fingerprint, outcome)

    def forget(self, key: bytes) -> None:
        self._step("forget")
        del self.known[key]

    def close(self) -> None:
        self._step("close")


@contextmanager
def stored(store: IdempotencyStore, handler: Callable[..., Any], **options: Any) -> Iterator[WebMeshClient]:
    server = WebMeshServer(timeouts=Timeouts(close=0.5))
    server.on("/", **options)(handler)
    with connected(server) as client:
        server._begun.parts.keyed.store = store
        yield client


@EACH_PLACE
def test_the_store_knows_first_and_the_caller_last(blocking: bool) -> None:
    """The beginning is recorded before the handler runs, the end before the reply leaves, both once."""
    store = Store()
    handler = Counting(lambda payload: store.steps.append("handler"))
    with stored(store, handler, blocking=blocking) as client:
        assert [None, None] == [ask(client), ask(client)]
        assert ["begin", "handler", "end"] == store.steps
    assert "close" == store.steps[-1]


def test_what_an_earlier_process_did_is_not_done_again() -> None:
    """Its outcome is told; where there is none, nobody knows, and nobody is invited to try again."""
    store, handler = Store(), Counting(lambda payload: "ran")
    with stored(store, handler) as client:
        assert "ran" == ask(client)
    with stored(Store(store.known), handler) as client:
        assert "ran" == ask(client)
        assert isinstance(ask(client, "another payload"), InvalidArgument)
    cut_off = Store({key: Remembered(known.fingerprint, None) for key, known in store.known.items()})
    with stored(cut_off, handler) as client:
        answers = [ask(client), ask(client)]
        assert [({"outcome": "unknown"}, False)] * 2 == [(one.details, one.retryable) for one in answers]
    assert 1 == handler.runs


def test_without_its_store_nothing_runs() -> None:
    """The call is refused, and may be tried again."""
    store, handler = Store(), Counting(lambda payload: "ran")
    store.fails = ("begin",)
    with stored(store, handler) as client:
        refused = ask(client)
        assert isinstance(refused, Unavailable) and refused.retryable and 0 == handler.runs
        store.fails = ()
        assert "ran" == ask(client)


def test_an_outcome_that_cannot_be_recorded_is_still_told(caplog: pytest.LogCaptureFixture) -> None:
    """And remembered here; the next process will say that nobody knows."""
    store, handler = Store(), Counting(lambda payload: "ran")
    store.fails = ("end",)
    with stored(store, handler) as client:
        assert ["ran", "ran"] == [ask(client), ask(client)]
    assert [None] == [known.outcome for known in store.known.values()]
    assert "not recorded" in caplog.text


def test_one_that_may_run_again_is_forgotten_by_the_store_too() -> None:
    """Otherwise the next process would refuse it."""
    def act(payload: Any) -> None:
        raise Unavailable("later")

    store = Store()
    with stored(store, Counting(act)) as client:
        assert isinstance(ask(client), Unavailable)
    assert {} == store.known


def test_a_handler_that_is_cut_off_stays_begun() -> None:
    """The server ends by force: whether it did its work is not known, and nobody may assume that it did not."""
    store, entered = Store(), threading.Event()

    def handler(payload: Any, path: str, client: Any) -> None:
        entered.set()
        while True:
            gevent.sleep(0.01)

    with stored(store, handler, blocking=False) as client:
        future = client.spawn("/", headers=KEY, timeout=PATIENCE)
        assert wait_for(entered.is_set)
    assert future.done
    assert [None] == [known.outcome for known in store.known.values()]


def test_the_end_of_the_time_while_the_outcome_is_recorded_loses_nothing() -> None:
    """The caller hears that the time was up; whoever repeats it gets the outcome."""
    store = Store()

    def act(payload: Any) -> str:
        store.gate.clear()
        return "ran"

    handler = Counting(act)
    with stored(store, handler, blocking=False, timeout=0.05) as client:
        assert isinstance(ask(client), DeadlineExceeded)
        store.gate.set()
        assert "ran" == ask(client)
    assert 1 == handler.runs
