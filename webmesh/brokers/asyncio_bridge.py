"""An asyncio event loop in one native thread, and the way between it and the greenlets of one hub.

What is written for asyncio cannot run in a greenlet: in a patched process its "thread" would be one of ours, and all
greenlets would share the mark of the running loop. So it gets a real thread, also in a patched process. Nothing in that
thread may take a lock that greenlets take, and it may not log: in a patched process those are gevent's locks, and two
native threads that meet at one may wait for ever.

Into the loop: `call` and `post`. Out of it: what `call` returns, and `tell`, which is bounded.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar, cast

import gevent
from gevent.event import AsyncResult, Event
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from webmesh.exceptions import BrokerUnavailable

T = TypeVar("T")

MOST_WAITING = 10_000
"""Things told that wait for the hub. Some seconds of a busy node; beyond it they are dropped and counted."""

MOST_WAITING_BYTES = 64 * 1024 * 1024
"""Bytes of them."""

TURN = 64
"""Things told that are handled before other greenlets have their turn."""

STOPPING = 5.0
"""Seconds that the loop's thread may take to end."""

_get_address_info: Callable[..., Any] = get_original("socket", "getaddrinfo")
_start_thread: Callable[..., Any] = get_original("_thread", "start_new_thread")


class NoAnswer(BrokerUnavailable):
    """What was asked of the loop may have been done."""


class AsyncioBridge:
    """Runs once, from `start` to `stop`; everything but `tell` is called by greenlets of one hub.

    Args:
        handle: Called in that hub, in a greenlet of the bridge's own, with each thing that is told, in order.
        lost: Called in its place where things were dropped.
        failed: Called with what *handle* raises.
    """

    def __init__(
        self,
        handle: Callable[[Any], None],
        *,
        lost: Callable[[], None],
        failed: Callable[[Exception], None],
        most: int = MOST_WAITING,
        most_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        self._handle, self._lost, self._failed = handle, lost, failed
        self._most, self._most_bytes = most, most_bytes
        self.dropped = 0
        """Things that were told and found no room."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._stopped = False
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._calls_announced = False
        self._finished: deque[tuple[_Call, Any, BaseException | None]] = deque()
        self._open: set[_Call] = set()
        self._told: deque[tuple[Any, int]] = deque()
        # Two counters with one writer each, instead of one with a lock.
        self._bytes_in = self._bytes_out = 0
        self._drop_marked = False

    def start(self) -> None:
        """Start the thread and its loop."""
        hub = gevent.get_hub()
        self._process = os.getpid()
        self._bell = hub.loop.async_()
        self._bell.start(self._on_bell)
        self._something_told = Event()
        self._pump = gevent.spawn(self._pump_told)
        self._pool = ThreadPool(1, hub=hub)
        started: AsyncResult[asyncio.AbstractEventLoop] = AsyncResult()
        ready = hub.loop.async_()
        made: list[asyncio.AbstractEventLoop] = []
        ready.start(lambda: started.set(made[0]))
        try:
            self._thread = self._pool.spawn(_run_loop, made.append, ready.send, self._tell_failure)
            self._loop = started.get()
        finally:
            ready.stop()
            ready.close()

    @property
    def running(self) -> bool:
        """Between `start` and `stop`, in the process that started it."""
        return self._loop is not None and self._process == os.getpid()

    def stop(self) -> None:
        """End the loop, what runs in it, and its thread; who waits in `call` gets `BrokerUnavailable`."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        self._stopped = True
        inherited = self._process != os.getpid()  # by fork: its thread is the parent's, and so are the sockets
        if not inherited:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.wait(STOPPING)
            self._pool.kill()
        self._bell.stop()
        self._bell.close()
        for call in list(self._open):
            call.outcome.set_exception(BrokerUnavailable("the engine has been stopped"))
        self._something_told.set()  # the pump ends with what it has in hand

    # ------------------------------------------------------------- into the loop

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, timeout: float) -> T:
        """Run a coroutine in the loop and wait for it; other greenlets go on.

        It is cancelled when the time is over or the waiting greenlet is killed.

        Raises:
            NoAnswer: It took more than *timeout* seconds.
            BrokerUnavailable: The bridge does not run.
        """
        call, expiry = _Call(), gevent.Timeout(timeout)
        self._open.add(call)
        try:
            self.post(self._begin, call, function, args)
            with expiry:
                return cast(T, call.outcome.get())
        except gevent.Timeout as expired:
            if expired is not expiry:  # one of the caller's own
                raise
            raise NoAnswer(f"no answer within {timeout:g} seconds") from None
        finally:
            self._open.discard(call)
            if not call.outcome.ready() and self.running:
                self.post(call.cancel)

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Have *function* called in the loop, in the order in which things were posted, and wait for nothing.

        Raises:
            BrokerUnavailable: The bridge does not run.
        """
        if not self.running:
            raise BrokerUnavailable("the engine is not started in this process")
        self._calls.append((function, args))
        if not self._calls_announced:  # one write to the loop's pipe for many calls
            self._calls_announced = True
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._run_calls)

    def _run_calls(self) -> None:
        self._calls_announced = False  # before looking: what comes from now on announces itself
        while self._calls:
            function, args = self._calls.popleft()
            try:
                function(*args)
            except Exception as error:  # of one; the others are to run
                self._tell_failure(error)

    def _tell_failure(self, error: BaseException | None) -> None:
        if error is not None:
            self.tell(_Failure(error), must=True)

    def _begin(self, call: _Call, function: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> None:
        if not call.cancelled:
            call.task = asyncio.get_running_loop().create_task(function(*args))
            call.task.add_done_callback(partial(self._on_done, call))

    def _on_done(self, call: _Call, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            outcome: tuple[Any, BaseException | None] = (None, BrokerUnavailable("the engine has been stopped"))
        else:
            error = task.exception()
            outcome = (None, error) if error is not None else (task.result(), None)
        call.task = None
        self._finished.append((call, *outcome))
        self._bell.send()

    # ----------------------------------------------------------- out of the loop

    def tell(self, thing: Any, size: int = 0, *, must: bool = False) -> bool:
        """Hand *thing* to the hub; called in the loop's thread.

        Args:
            must: It is told even without room: whoever tells it bounds such things.

        Returns:
            Whether there was room; if not, it is dropped, and the hub is told that something was.
        """
        if not must and (
            len(self._told) >= self._most or self._bytes_in - self._bytes_out + size > self._most_bytes > 0
        ):
            self.dropped += 1
            if self._drop_marked:
                return False
            self._drop_marked = True
            thing, size = _DROPPED, 0
        self._bytes_in += size
        self._told.append((thing, size))
        self._bell.send()
        return thing is not _DROPPED

    def catch_up(self, seconds: float) -> None:
        """Wait until what has been told up to now is handled, at most so long; not where that would wait for itself."""
        if gevent.getcurrent() is not self._pump:
            handled = Event()
            self.post(lambda: None if self.tell(handled, must=True) else None)
            handled.wait(seconds)

    def _on_bell(self) -> None:
        """In the hub: nothing here may switch."""
        while self._finished:
            call, value, error = self._finished.popleft()
            if call not in self._open:
                continue  # nobody waits any more
            if error is None:
                call.outcome.set(value)
            else:
                call.outcome.set_exception(error)
        if self._told:
            self._something_told.set()

    def _pump_told(self) -> None:
        turn = 0
        while not self._stopped:
            self._something_told.wait()
            self._something_told.clear()
            while self._told and not self._stopped:
                thing, size = self._told.popleft()
                self._bytes_out += size
                self._handle_one(thing)
                turn += 1
                if turn % TURN == 0:
                    gevent.sleep(0)

    def _handle_one(self, thing: Any) -> None:
        # Whatever a node does with one thing, the next ones are to arrive.
        try:
            if isinstance(thing, _Failure):
                raise thing.error
            if isinstance(thing, Event):
                thing.set()
                return
            if thing is _DROPPED:
                self._drop_marked = False  # before telling: what is dropped from now on is another loss
                self._lost()
            else:
                self._handle(thing)
        except Exception as error:
            self._failed(error)


_DROPPED = object()


class _Failure:
    """What went wrong in the loop, on its way to where it may be logged."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Call:
    """One coroutine for which a greenlet waits."""

    __slots__ = ("cancelled", "outcome", "task")

    def __init__(self) -> None:
        self.outcome: AsyncResult[Any] = AsyncResult()
        self.task: asyncio.Task[Any] | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """In the loop."""
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()


class _Loop(asyncio.SelectorEventLoop):
    """Waits with the operating system's selector, and looks names up in native threads, whatever is patched."""

    def __init__(self) -> None:
        super().__init__(get_original("selectors", "DefaultSelector")())

    async def getaddrinfo(self, host: Any, port: Any, **options: int) -> Any:
        """The addresses of a host; see `socket.getaddrinfo`."""
        found = self.create_future()

        def settle(set_outcome: Callable[[Any], None], outcome: Any) -> None:
            if not found.done():
                set_outcome(outcome)

        def look_up() -> None:
            try:
                outcome = (found.set_result, _get_address_info(host, port, **options))
            except (OSError, UnicodeError) as error:
                outcome = (found.set_exception, error)
            if not self.is_closed():
                self.call_soon_threadsafe(settle, *outcome)

        _start_thread(look_up, ())
        return await found


def _run_loop(
    made: Callable[[asyncio.AbstractEventLoop], None],
    ready: Callable[[], None],
    failed: Callable[[BaseException | None], None],
) -> None:
    """The thread: until the loop is stopped, and all its tasks are cancelled."""
    loop = _Loop()
    made(loop)
    # asyncio would log what nobody handles, which this thread may not.
    loop.set_exception_handler(lambda _, context: failed(context.get("exception")))
    loop.call_soon(ready)
    try:
        loop.run_forever()
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
        loop.close()
