"""Which hub owns a set of sockets, and how other threads get work done in it.

gevent objects belong to one hub, one hub to one native thread. `HubThread` gives a server or a client
its hub; `Completion` is the one way in which a result travels between greenlets, hubs and threads.
In a patched process `threading.Thread` is a greenlet, so the same lines run in the one hub.
"""

from __future__ import annotations

import atexit
import functools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gevent
from gevent import getcurrent, monkey
from gevent.hub import Hub, Waiter, get_hub

from webmesh.exceptions import ConnectionClosed, LocalProtocolError, WebMeshError

try:
    from gevent._hub_local import get_hub_if_exists  # gevent exports no public name for it
except ImportError:  # pragma: no cover - a later gevent that moved it
    get_hub_if_exists = get_hub

T = TypeVar("T")
_thread_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
_native_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")


class Completion(Generic[T]):
    """A result that is set once and that any greenlet or native thread can wait for.

    A waiter in a thread that runs a hub switches to that hub; one in a plain thread blocks its thread.

    Args:
        hub: The hub in whose thread it will be set, where that is sure: waiting there costs less.
    """

    __slots__ = ("_done", "_error", "_hub", "_value", "_wakers")

    def __init__(self, hub: Hub | None = None) -> None:
        self._hub = hub
        self._done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._wakers: deque[Callable[[], object]] = deque()

    @property
    def done(self) -> bool:
        """Whether a value or an error is there."""
        return self._done

    @property
    def error(self) -> BaseException | None:
        """The error that it ended with, if it did."""
        return self._error

    def succeed(self, value: T) -> None:
        """Set the value; does nothing when a result is there already."""
        if not self._done:
            self._value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        """Set the error that waiters get; does nothing when a result is there already."""
        if not self._done:
            self._error = error
            self._finish()

    def _finish(self) -> None:
        # No lock: a waiter first leaves its waker and then looks at _done, we do it the other way
        # round, so one of the two sees the other. Waking twice is harmless.
        self._done = True
        while self._wakers:
            try:
                waker = self._wakers.popleft()
            except IndexError:  # another thread took it
                break
            waker()

    def when_done(self, callback: Callable[[], object]) -> None:
        """Call *callback* once there is a result, in the thread that sets it; at once if it is there."""
        called = [callback]

        def once() -> None:
            if called:
                called.pop()()

        self._wakers.append(once)
        if self._done:
            once()

    def wait(self, timeout: float | None = None) -> T:
        """The value, or the error raised.

        Args:
            timeout: Seconds; `None` waits for ever.

        Raises:
            TimeoutError: Nothing was set in time; the completion stays usable.
        """
        if not self._done:
            hub = get_hub_if_exists()
            if hub is None or getcurrent() is hub:
                self._wait_native(timeout)
            else:
                self._wait_in(hub, timeout)
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def _wait_native(self, timeout: float | None) -> None:
        lock = _native_lock()
        lock.acquire()

        def waker() -> None:
            if lock.locked():
                lock.release()

        self._wakers.append(waker)
        if not self._done and not lock.acquire(True, -1 if timeout is None else max(0.0, timeout)):
            self._forget(waker)
            raise TimeoutError(f"nothing within {timeout:g} s")

    def _wait_in(self, hub: Hub, timeout: float | None) -> None:
        waiter: Waiter[None] = Waiter(hub)
        bell = None
        waker: Callable[[], object]
        if hub is self._hub:
            waker = functools.partial(hub.loop.run_callback, waiter.switch, None)
        else:
            # The watcher also keeps this loop turning: without it a hub that has nothing else to
            # watch would end the wait with LoopExit.
            bell = hub.loop.async_()
            bell.start(waiter.switch, None)
            waker = bell.send
        self._wakers.append(waker)
        timer = gevent.Timeout.start_new(timeout) if timeout is not None else None
        try:
            if not self._done:
                waiter.get()
        except gevent.Timeout as expired:
            if expired is not timer:
                raise
            raise TimeoutError(f"nothing within {timeout:g} s") from None
        finally:
            self._forget(waker)
            waiter.clear()
            if bell is not None:
                bell.close()
            if timer is not None:
                timer.close()

    def _forget(self, waker: Callable[[], object]) -> None:
        try:
            self._wakers.remove(waker)
        except ValueError:
            pass  # it was called meanwhile


class HubThread:
    """The hub in which the sockets of one server or client live.

    Args:
        name: Name of the thread, for debuggers.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._hub: Hub | None = None
        self._stop: Completion[None] = Completion()
        self._ready: Completion[None] = Completion()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; returns once its hub turns."""
        # daemon: a program that forgot to close must still be able to end.
        self._thread = threading.Thread(target=self._main, name=self.name, daemon=True)
        # Without it the thread would still turn its hub while the interpreter is torn down: seen to crash.
        atexit.register(self.stop)
        self._thread.start()
        self._ready.wait()

    def _main(self) -> None:
        self._hub = hub = get_hub()
        self._ready.succeed(None)
        self._stop.wait()
        if hub.thread_ident != threading.main_thread().ident and not monkey.is_module_patched("threading"):
            self._hub = None
            hub.destroy(destroy_loop=True)  # gives back the loop's descriptors with the thread

    @property
    def hub(self) -> Hub:
        """The hub; only while started.

        Raises:
            ConnectionClosed: It was stopped.
        """
        hub = self._hub
        if hub is None:
            if self._stop.done:
                raise ConnectionClosed(1001, f"{self.name} was closed")
            raise LocalProtocolError(f"{self.name} has not been started")
        return hub

    def inside(self) -> bool:
        """Whether the caller runs in this hub's thread."""
        return self._hub is not None and self._hub.thread_ident == _thread_ident()

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Call *function* in the hub soon, from any thread; it must not block. Nothing comes back."""
        if self.inside():
            self.hub.loop.run_callback(function, *args)
        else:
            self.hub.loop.run_callback_threadsafe(function, *args)

    def run(self, function: Callable[..., T], *args: Any, timeout: float | None = None) -> T:
        """Call *function*, which may block cooperatively, in this hub, and return or raise what it does.

        Args:
            timeout: Seconds that a caller from another thread waits; the function goes on.
        """
        if self.inside() and getcurrent() is not self._hub:
            return function(*args)
        outcome: Completion[T] = Completion()
        self.post(gevent.spawn, _fulfil, outcome, function, args)
        return outcome.wait(timeout)

    def stop(self) -> None:
        """End the thread; what still runs in its hub is given up. Safe to call twice and from anywhere."""
        self._stop.succeed(None)
        atexit.unregister(self.stop)
        if self._thread is not None and not self.inside():
            self._thread.join(5.0)


def _fulfil(outcome: Completion[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Put what *function* returns or raises into *outcome*."""
    try:
        outcome.succeed(function(*args))
    except gevent.GreenletExit:
        outcome.fail(WebMeshError("the hub was stopped"))
        raise
    except BaseException as error:  # the caller in the other thread is who must see it
        outcome.fail(error)
