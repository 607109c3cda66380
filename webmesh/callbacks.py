"""Functions of the program that are told of something, as of a connection's end.

Decides where they run and for how long, and that nothing they do ends anything else.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context

import gevent

from webmesh.call import CURRENT
from webmesh.exceptions import Cancelled
from webmesh.execution import Executor

EVENTS = 1024
"""Things to tell that wait for a slow function of the program; beyond it the oldest are left out."""

logger = logging.getLogger("webmesh.server")


class Callbacks:
    """Runs such functions.

    Args:
        executor: Native threads for them; not the handlers', which may all be busy when a connection ends.
        context: They get copies of it.
        blocking: Whether they run in native threads.
        seconds: After them a function is interrupted; in a thread it is left behind.
    """

    def __init__(self, executor: Executor, context: Context, *, blocking: bool, seconds: float) -> None:
        self._executor = executor
        self._context = context
        self._blocking = blocking
        self._seconds = seconds

    def tell(self, functions: Iterable[Callable[..., object]], *args: object) -> None:
        """Call each of them in turn. What goes wrong is logged, and the next one is called."""
        for function in functions:
            try:
                # A BaseException of gevent's own, which no `except Exception` of the function's swallows.
                with gevent.Timeout(self._seconds):
                    self._call(function, args)
            except (gevent.GreenletExit, KeyboardInterrupt):
                raise  # the connection's greenlet is being ended, or the program
            except Cancelled as error:
                call = CURRENT.get()
                if call is None or not call.cancelled:
                    self._failed(function, error)  # of a call that the function has made
                # Otherwise the connection has ended whose handler tells it, as `$hello`: nothing has failed.
            except BaseException as error:  # the edge around user code: sys.exit() must not end the hub's thread
                self._failed(function, error)

    @staticmethod
    def _failed(function: Callable[..., object], error: BaseException) -> None:
        logger.error("callback failed", exc_info=error, extra={"callback": repr(function)})

    def _call(self, function: Callable[..., object], args: tuple[object, ...]) -> None:
        context = self._context.copy()
        if self._blocking:
            self._executor.run(context, function, *args)
        else:
            context.run(function, *args)


class Teller:
    """Tells of one thing after another, in a greenlet of its own.

    Args:
        callbacks: Gives those that do it, once there is something to tell.
    """

    def __init__(self, callbacks: Callable[[], Callbacks]) -> None:
        self._callbacks = callbacks
        self._events: deque[tuple[tuple[Callable[..., object], ...], tuple[object, ...]]] = deque(maxlen=EVENTS)
        self._greenlet: gevent.Greenlet[[], None] | None = None

    def tell(self, functions: Iterable[Callable[..., object]], *args: object) -> None:
        """Have each of them called in turn; never waits."""
        if len(self._events) == EVENTS:
            logger.warning("events left out: a function of the program is too slow for them")
        self._events.append((tuple(functions), args))
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        try:
            while self._events:
                functions, args = self._events.popleft()
                self._callbacks().tell(functions, *args)
        finally:
            self._greenlet = None
