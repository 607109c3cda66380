"""Functions of the program that are told of something, as of a connection's end.

Decides where they run and for how long, and that nothing they do ends anything else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextvars import Context

import gevent

from webmesh.execution import Executor

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
            except BaseException as error:  # the edge around user code: sys.exit() must not end the hub's thread
                logger.error("callback failed", exc_info=error, extra={"callback": repr(function)})

    def _call(self, function: Callable[..., object], args: tuple[object, ...]) -> None:
        context = self._context.copy()
        if self._blocking:
            self._executor.run(context, function, *args)
        else:
            context.run(function, *args)
