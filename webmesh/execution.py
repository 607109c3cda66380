"""Native threads for blocking handlers: a bounded pool with a bounded queue.

The pool is the server's own. gevent's default one has ten threads and resolves names too: ten slow
handlers would delay every look-up. Everything here is called in the hub that owns the pool, but what it
runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator
from contextvars import Context
from typing import Any, TypeVar, cast

import gevent
from gevent.event import AsyncResult
from gevent.hub import get_hub
from gevent.threadpool import ThreadPool

from webmesh.call import SERVED_BY
from webmesh.exceptions import Overloaded
from webmesh.lanes import Lanes
from webmesh.websocket.hub import HubThread

T = TypeVar("T")
_Outcome = tuple[bool, Any]


class Executor:
    """Runs functions in native threads and lets the calling greenlet wait.

    Args:
        threads: Functions that may run at once; threads start when they are needed.
        queue: Functions that may wait for a thread.
        share: Threads that one holder may have; its further functions wait while those of others get theirs.
    """

    def __init__(self, threads: int, queue: int, share: int | None = None) -> None:
        self._threads = threads
        self._shares = Lanes(share) if share is not None and share < threads else None
        self._capacity = threads + queue
        self._pool: ThreadPool | None = None
        self._taken = 0
        self._ending: gevent.Greenlet[[], None] | None = None
        self.abandoned = 0
        """Functions whose caller stopped waiting while they ran; their results were dropped."""

    @property
    def taken(self) -> int:
        """Functions that run or wait for a thread now."""
        return self._taken

    @property
    def full(self) -> bool:
        """Whether the next function would be refused."""
        return self._taken >= self._capacity

    def run(
        self,
        context: Context,
        function: Callable[..., T],
        *args: Any,
        ended: Callable[[], object] | None = None,
        late: Callable[[], object] | None = None,
        holder: Hashable = None,
    ) -> T:
        """What *function* returns or raises, run in *context* by one of the threads.

        A caller that is killed or times out leaves; the function runs to its end and keeps its thread.

        Args:
            ended: Called once, in the hub, when the function has ended or it is sure that it never begins.
            late: Called, in the hub, when the function ends after its caller has left.
            holder: Whose share of the threads it takes; `None` takes nobody's.

        Raises:
            Overloaded: All threads are busy and the queue is full.
        """
        if self.full:
            if ended is not None:
                ended()
            raise Overloaded(
                f"{self._threads} threads are busy and {self._capacity - self._threads} calls wait for one, the limit"
            )
        job = self._begin(context, function, args, None if self._shares is None else holder, ended)
        try:
            succeeded, value = cast(_Outcome, job.get())
        except BaseException:
            self.abandoned += 1
            if late is not None:
                job.rawlink(lambda _: late())
            raise
        if not succeeded:
            raise value
        return value  # type: ignore[no-any-return]

    def _begin(
        self,
        context: Context,
        function: Callable[..., T],
        args: tuple[Any, ...],
        holder: Hashable,
        ended: Callable[[], object] | None,
    ) -> AsyncResult[_Outcome]:
        """Have it run, when there is a thread; whatever it takes is given back when it has ended, or never begins."""
        self._taken += 1
        shared, job = False, None
        try:
            if holder is not None and self._shares is not None:
                self._shares.enter(holder)
                shared = True
            if self._pool is None:
                self._pool = ThreadPool(self._threads, hub=get_hub())
            job = self._pool.spawn(_outcome, context, function, args)  # waits while all threads are busy
        finally:
            if job is None:
                self._release(holder if shared else None, ended)
        job.rawlink(lambda _: self._release(holder, ended))
        return job

    def _release(self, holder: Hashable, ended: Callable[[], object] | None) -> None:
        self._taken -= 1
        if holder is not None and self._shares is not None:
            self._shares.leave(holder)
        if ended is not None:
            ended()

    def close(self, timeout: float) -> None:
        """Let the threads go. One that still runs a function ends after it; nobody waits longer than *timeout*."""
        pool, self._pool = self._pool, None
        if pool is not None:
            self._ending = gevent.spawn(pool.kill)
            self._ending.join(timeout)

    @property
    def ended(self) -> bool:
        """Whether there are no threads any more; after `close`."""
        return self._ending is None or self._ending.ready()

    def wait_ended(self) -> None:
        """Wait until there are no threads any more; after `close`."""
        if self._ending is not None:
            self._ending.join()


def ends_itself(owner: object, home: HubThread) -> bool:
    """Whether the running code must not wait for the end of *owner*, which waits for it.

    That is so in its handlers and callbacks; and in a signal handler of a patched process, which may have
    interrupted any greenlet of ours, or the hub.
    """
    served_by = SERVED_BY.get()
    if served_by:
        return owner in served_by
    frame = sys._getframe(1)  # the one that asks, as a greenlet may have been made to run just that
    if not home.inside() or frame.f_back is None:
        return False
    while frame.f_back is not None:
        frame = frame.f_back
    # What a greenlet was made to run: something of ours, a loop of gevent's, or something of the program's.
    return str(frame.f_globals.get("__name__")).partition(".")[0] in ("webmesh", "gevent")


def stop_home(home: HubThread, *executors: Executor) -> bool:
    """Stop *home*, in which these executors were closed. In its hub.

    A thread that still runs a function hands its result to the hub: then that stops after the last one.

    Returns:
        Whether it stops at once.
    """
    busy = [executor for executor in executors if not executor.ended]
    if busy:
        gevent.spawn(_stop_later, home, busy)
    else:
        home.stop()
    return not busy


def _stop_later(home: HubThread, busy: list[Executor]) -> None:
    for executor in busy:
        executor.wait_ended()
    home.stop()


def _outcome(context: Context, function: Callable[..., Any], args: tuple[Any, ...]) -> _Outcome:
    """In a pool thread: an error is a result too, or gevent would print it as its own."""
    try:
        return True, context.run(function, *args)
    except BaseException as error:  # sys.exit in a handler must not end the pool's thread
        return False, error


def feed(iterator: Iterator[Any], put: Callable[[Any], None]) -> Any:
    """In a pool thread: give all items to *put*; returns the iterator's own value.

    The whole series stays in one thread: database cursors and thread-locals demand it.
    """
    try:
        while True:
            try:
                item = next(iterator)
            except StopIteration as stop:
                return stop.value
            put(item)
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def in_own_greenlet(function: Callable[[], T]) -> T:
    """What *function* returns or raises, run in a fresh greenlet that ends with it."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((True, function()))
        except BaseException as error:  # raised again in the greenlet that waits
            outcome.extend((False, error))

    greenlet = gevent.spawn(run)
    try:
        greenlet.join()
    finally:
        greenlet.kill()
    succeeded, value = outcome
    if not succeeded:
        raise value
    return value  # type: ignore[no-any-return]
