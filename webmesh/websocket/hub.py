"""Which hub owns a set of sockets, and how other threads get work done in it.

gevent objects belong to one hub, one hub to one native thread. `HubThread` gives a server or a client
its hub; `Completion` is the one way in which a result travels between greenlets, hubs and threads.
In a patched process `threading.Thread` is a greenlet, so the same lines run in the one hub.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, TypeVar

import gevent
from gevent import getcurrent, monkey
from gevent.hub import Hub, Waiter, get_hub

from webmesh.deadline import Deadline
from webmesh.exceptions import ConnectionClosed, LocalProtocolError, WebMeshError

try:
    from gevent._hub_local import get_hub_if_exists  # gevent exports no public name for it
except ImportError:  # pragma: no cover - a later gevent that moved it
    get_hub_if_exists = get_hub

T = TypeVar("T")
_thread_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
_native_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")

JOIN_TIMEOUT = 5.0
"""Seconds that `HubThread.stop` waits for the thread: it has nothing to do but to give back its loop."""

SIGNAL_CHECK = 0.3
"""Seconds between two moments at which a waiting main thread can handle signals; a hub's loop takes the same."""


class Completion(Generic[T]):
    """A result that is set once and that any greenlet or native thread can wait for.

    A waiter in a thread that runs a hub switches to that hub; one in a plain thread blocks its thread.

    Args:
        hub: The hub in whose thread it will mostly be set: waiting there costs less.
    """

    __slots__ = ("_hub", "_outcomes", "_wakers")

    def __init__(self, hub: Hub | None = None) -> None:
        self._hub = hub
        # Only the first counts. A list, since two threads may set it at once and `append` is atomic.
        self._outcomes: list[tuple[T | None, BaseException | None, TracebackType | None]] = []
        self._wakers: list[Callable[[], object]] = []  # a deque would take 700 bytes more for each connection

    @property
    def done(self) -> bool:
        """Whether a value or an error is there."""
        return bool(self._outcomes)

    @property
    def error(self) -> BaseException | None:
        """The error that it ended with, if it did."""
        return self._outcomes[0][1] if self._outcomes else None

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for the result, or is to be called back."""
        return bool(self._wakers)

    def succeed(self, value: T) -> None:
        """Set the value; does nothing when a result is there already."""
        if not self._outcomes:
            self._outcomes.append((value, None, None))
            self._wake_all()

    def fail(self, error: BaseException) -> None:
        """Set the error that waiters get; does nothing when a result is there already."""
        if not self._outcomes:
            self._outcomes.append((None, error, error.__traceback__))
            self._wake_all()

    def _wake_all(self) -> None:
        # No lock: a waiter first leaves its waker and then looks for the outcome, we do it the other way
        # round, so one of the two sees the other. Waking twice is harmless.
        while self._wakers:
            try:
                waker = self._wakers.pop(0)
            except IndexError:  # another thread took it
                break
            waker()

    def when_done(self, callback: Callable[[], object]) -> None:
        """Call *callback* once, soon after there is a result, in the completion's hub; it must not block.

        Raises:
            LocalProtocolError: The completion was made without a hub.
        """
        if self._hub is None:
            raise LocalProtocolError("a completion without a hub has nowhere to call back")
        # By the hub, so that whoever sets the result does not get what a callback raises.
        waker = functools.partial(call_soon, self._hub, callback)
        self._wakers.append(waker)
        if self._outcomes and self._forget(waker):
            waker()

    def wait(self, timeout: float | None = None) -> T:
        """The value, or the error raised.

        Args:
            timeout: Seconds; `None` waits for ever.

        Raises:
            TimeoutError: Nothing was set in time; the completion stays usable.
            LocalProtocolError: Called by a hub itself, which would wait for what only it can bring about.
        """
        if not self._outcomes:
            hub = get_hub_if_exists()
            if hub is None:
                self._wait_native(timeout)
            elif getcurrent() is not hub:
                self._wait_in(hub, timeout)
            elif timeout is not None and timeout <= 0:
                self._check_late(timeout)
            else:
                raise LocalProtocolError("a callback of the hub must not wait: spawn a greenlet")
        value, error, trace = self._outcomes[0]
        if error is not None:
            # Each raise adds to the traceback, which would grow, and hold frames, with every waiter.
            raise error.with_traceback(trace)
        return value  # type: ignore[return-value]

    def _wait_native(self, timeout: float | None) -> None:
        lock = _native_lock()
        lock.acquire()

        def waker() -> None:
            if lock.locked():
                lock.release()

        self._wakers.append(waker)
        if not self._outcomes and not _acquired(lock, timeout):
            self._forget(waker)
            self._check_late(timeout)

    def _wait_in(self, hub: Hub, timeout: float | None) -> None:
        waiter: Waiter[None] = Waiter(hub)
        bell = None
        waker: Callable[[], object]
        if hub is self._hub:
            waker = functools.partial(_switch, hub, waiter.switch)
        else:
            # The watcher also keeps this loop turning: without it a hub that has nothing else to
            # watch would end the wait with LoopExit.
            bell = hub.loop.async_()
            bell.start(waiter.switch, None)
            waker = functools.partial(_ring, bell)
        self._wakers.append(waker)
        timer = None
        if timeout is not None:  # not gevent's Timeout, an exception that every call would make
            timer = hub.loop.timer(timeout, priority=-1)  # what arrives in the same turn comes first
            timer.start(waiter.switch, None, update=True)  # else its time began when this loop last turned
        try:
            if not self._outcomes:
                waiter.get()
        finally:
            self._forget(waker)
            waiter.clear()
            if bell is not None:
                bell.close()
            if timer is not None:
                timer.close()
        if timer is not None:
            self._check_late(timeout)

    def _check_late(self, timeout: float | None) -> None:
        """The time is up. A result that came in the same moment counts."""
        if not self._outcomes:
            raise TimeoutError(f"nothing within {timeout:g} s") from None

    def _forget(self, waker: Callable[[], object]) -> bool:
        """Take back a waker; False when it was called meanwhile."""
        try:
            self._wakers.remove(waker)
        except ValueError:
            return False
        return True


def _acquired(lock: Any, timeout: float | None) -> bool:
    """Whether a native lock was acquired in time."""
    if _thread_ident() != threading.main_thread().ident:
        return bool(lock.acquire(True, -1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)))
    # Linux may let another thread take a signal, while this one is woken for it and finds nothing. Python's handlers
    # run here only, once this thread does something: with several signals in a row that was seen to be never.
    deadline = Deadline(timeout)
    while not deadline.expired:
        left = deadline.remaining()
        if lock.acquire(True, SIGNAL_CHECK if left is None else min(left, SIGNAL_CHECK)):
            return True
    return bool(lock.acquire(False))


def call_soon(hub: Hub, function: Callable[..., object], *args: object) -> bool:
    """Call *function* in *hub*, from whichever thread; False when that hub is gone."""
    loop = hub.loop
    if loop is None:  # destroyed by its thread
        return False
    try:
        if hub.thread_ident == _thread_ident():
            loop.run_callback(function, *args)
        else:
            loop.run_callback_threadsafe(function, *args)
    except ValueError:  # destroyed just now
        return False
    return True


def _switch(hub: Hub, switch: Callable[[None], object]) -> None:
    """Wake a greenlet of *hub*: the hub itself mostly does. What `call_soon` does, and every call pays for."""
    if hub.thread_ident == _thread_ident():
        hub.loop.run_callback(switch, None)
    else:
        call_soon(hub, switch, None)


def _ring(bell: Any) -> None:
    """Wake a hub of another thread."""
    try:
        bell.send()
    except ValueError:
        pass  # its thread has ended, and its loop with it


_main_hub: list[Hub] = []
"""The hub of a patched process, once it is known."""
_running: weakref.WeakSet[HubThread] = weakref.WeakSet()
"""What has been started and has not ended, in this process."""


class HubThread:
    """The hub in which the sockets of one server or client live.

    Args:
        name: Name of the thread, for debuggers.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._patched = bool(monkey.is_module_patched("threading"))
        if self._patched and get_hub().main_hub:
            _main_hub[:] = [get_hub()]
        self._hub: Hub | None = None
        self._outcomes: set[Completion[Any]] = set()
        self._stop: Completion[None] = Completion()
        self._ready: Completion[None] = Completion()
        self._ended: Completion[None] = Completion()
        self._thread: threading.Thread | None = None
        self.inherited = False
        """Whether this process is a fork of the one that started it, to which it belongs."""
        self.on_fork: Callable[[bool], object] | None = None
        """Called in a forked child, to let go of what the processes share, without a word to any peer. Told whether
        the hub, and what runs in it, lives on there."""

    def start(self) -> None:
        """Start the thread; returns once its hub turns."""
        # Without it the thread would still turn its hub while the interpreter is torn down: seen to crash.
        atexit.register(self.stop)
        _running.add(self)
        if self._patched and _main_hub and _main_hub[0].thread_ident != _thread_ident():
            # Called in a native thread of a pool, whose hub turns only while that waits: "threads" made there are
            # greenlets of it, and would stand still when it has gone on to something else.
            call_soon(_main_hub[0], gevent.spawn, self._main)
        else:
            # daemon: a program that forgot to close must still be able to end.
            self._thread = threading.Thread(target=_in_thread, args=([self],), name=self.name, daemon=True)
            self._thread.start()
        self._ready.wait()

    def _main(self) -> Hub | None:
        """Until it is stopped; the hub to destroy then, if there is one that was this thread's own."""
        try:
            self._hub = hub = get_hub()
        except BaseException as error:  # as without descriptors; `start` waits and raises it
            self._ready.fail(error)
            return None
        self._ready.succeed(None)
        while not self._stop.done:
            try:
                self._stop.wait()
            except (KeyboardInterrupt, SystemExit, SystemError):
                # gevent throws what it takes for the end of the process into the thread's main greenlet. One
                # handler's sys.exit() is not the end of everybody's connections, and this is no main thread.
                if self._patched:
                    raise
        if self._patched:
            atexit.unregister(self.stop)
        else:
            self._wind_up()
        _running.discard(self)
        self._ended.succeed(None)
        return None if self._patched else hub

    def _wind_up(self) -> None:
        """In the native thread, at its end: nothing runs in this hub any more."""
        self._hub = None  # first: whoever enters its outcome after the sweep looks at this
        for outcome in tuple(self._outcomes):
            outcome.fail(self._closed())

    @property
    def hub(self) -> Hub:
        """The hub; only while started.

        Raises:
            ConnectionClosed: It was stopped.
            LocalProtocolError: It has not been started, or by the process that this one was forked from.
        """
        hub = self._hub
        if hub is None:
            if self.inherited:
                raise LocalProtocolError(f"{self.name} belongs to the process that this was forked from: make another")
            if self._stop.done:
                raise self._closed()
            raise LocalProtocolError(f"{self.name} has not been started")
        return hub

    def _closed(self) -> ConnectionClosed:
        return ConnectionClosed(1001, f"{self.name} was closed")

    def inside(self) -> bool:
        """Whether the caller runs in this hub's thread."""
        hub = self._hub
        return hub is not None and hub.thread_ident == _thread_ident()

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Call *function* in the hub soon, from any thread; it must not block. Nothing comes back.

        Raises:
            ConnectionClosed: The hub was stopped.
        """
        if not call_soon(self.hub, function, *args):
            raise self._closed()

    def run(
        self,
        function: Callable[..., T],
        *args: Any,
        timeout: float | None = None,
        begun: Callable[[Completion[T]], object] | None = None,
    ) -> T:
        """Call *function*, which may block cooperatively, in this hub, and return or raise what it does.

        Args:
            timeout: Seconds that a caller from another thread waits; the function goes on.
            begun: Called, where that caller is about to wait, with what it waits for: to fail it ends the waiting.

        Raises:
            TimeoutError: It has not returned in time.
            LocalProtocolError: Called by the hub itself, where nothing may block.
            ConnectionClosed: The hub was stopped before the function returned.
        """
        if self.inside():
            if getcurrent() is self._hub:
                raise LocalProtocolError("a callback of the hub must not wait: spawn a greenlet")
            return function(*args)
        outcome: Completion[T] = Completion()
        self._outcomes.add(outcome)
        try:
            self.post(gevent.spawn, _fulfil, outcome, function, args)
            if self._hub is None:
                outcome.fail(self._closed())
            if begun is not None:
                begun(outcome)
            return outcome.wait(timeout)
        finally:
            self._outcomes.discard(outcome)

    def oversee(self, outcome: Completion[Any]) -> None:
        """Fail *outcome*, which is of this hub, when the hub ends before it is there."""
        self._outcomes.add(outcome)
        outcome.when_done(functools.partial(self._outcomes.discard, outcome))

    def leave(self) -> None:
        """In a forked child: it is the parent's from now on."""
        alive = self.inside()
        self._hub = None
        self.inherited = True
        if self.on_fork is not None:
            self.on_fork(alive)

    def _thread_is_current(self) -> bool:
        """Whether this is its thread, whose hub may be destroyed already: what that unwinds may call `stop`."""
        return not self._patched and self._thread is not None and self._thread.ident == _thread_ident()

    def stop(self) -> None:
        """End the thread; what still runs in its hub is given up. Safe to call twice and from anywhere."""
        if self.inherited:
            return
        self._stop.succeed(None)
        if not self._ready.done or self.inside() or self._thread_is_current():
            return  # whoever else calls, the end of the process at the latest, joins the thread
        atexit.unregister(self.stop)
        if self._patched:
            # The thread is a greenlet, and its join() often wakes a native thread only when the time is up.
            with suppress(TimeoutError):
                self._ended.wait(JOIN_TIMEOUT)
        elif self._thread is not None:
            self._thread.join(JOIN_TIMEOUT)


def _in_thread(homes: list[HubThread]) -> None:
    """A native thread's life, with the one home in *homes*."""
    hub = homes.pop()._main()
    if hub is not None:
        # Gives back the loop's descriptors. gevent keeps the frames that call it, so none of them may know anything.
        hub.destroy(destroy_loop=True)


def _leave_all() -> None:
    running = tuple(_running)
    _running.clear()
    for home in running:
        home.leave()


os.register_at_fork(after_in_child=_leave_all)


def _fulfil(outcome: Completion[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Put what *function* returns or raises into *outcome*."""
    try:
        outcome.succeed(function(*args))
    except gevent.GreenletExit:
        outcome.fail(WebMeshError("the hub was stopped"))
        raise
    except BaseException as error:  # the caller in the other thread is who must see it
        outcome.fail(error)
