"""How threads meet: real native threads in either kind of process, and one operation inside another.

A race between two native threads is seldom hit by starting two of them. `at_every_step` runs one
operation and lets the other happen at each of its byte codes in turn, so that every place where the
first may be interrupted is tried, every time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import gevent
from gevent import monkey

from tests.websocket.loopback import until

_start: Callable[..., int] = monkey.get_original("_thread", "start_new_thread")
_sleep: Callable[[float], None] = monkey.get_original("time", "sleep")


class NativeThread:
    """A function that runs in a native thread, also in a patched process, and has no hub unless it makes one."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._function = function
        self._args = args
        self._outcome: list[tuple[Any, BaseException | None]] = []
        _start(self._run, ())

    def _run(self) -> None:
        try:
            self._outcome.append((self._function(*self._args), None))
        except BaseException as error:  # for whoever joins
            self._outcome.append((None, error))

    @property
    def over(self) -> bool:
        """Whether the function has returned or raised."""
        return bool(self._outcome)

    def join(self) -> Any:
        """What the function returned or raised; this thread's hub turns meanwhile."""
        until(lambda: self.over)
        value, error = self._outcome[0]
        if error is not None:
            raise error
        return value


def hold(seconds: float) -> None:
    """Keep this thread, and its hub, from anything else for so long, as code that computes does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def native(function: Callable[..., Any], *args: Any) -> Any:
    """What *function* returns or raises in a native thread of its own."""
    return NativeThread(function, *args).join()


class _Intruder:
    """Calls *action* before the byte code number *step* that is run of a module of the package."""

    def __init__(self, action: Callable[[], object], step: int) -> None:
        self._action = [action]
        self._step = step
        self._over = False
        self.steps = 0

    @property
    def came(self) -> bool:
        """Whether the step was reached."""
        return self.steps > self._step

    def trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        """See `sys.settrace`."""
        if not frame.f_globals["__name__"].startswith("webmesh."):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.steps += 1
            if self.steps == self._step + 1:
                self.act()
        return self.trace

    def act(self) -> None:
        """Do it, unless it was done."""
        with suppress(IndexError):
            self._action.pop()()

    def rescue(self) -> None:
        """In a native thread: do it once the operation has come to a stop before the step."""
        before = -1
        while not self._over and before != self.steps:
            before = self.steps
            _sleep(0.02)
        if not self._over:
            self.act()

    def end(self) -> None:
        """The operation is over."""
        self._over = True


def at_every_step(
    scenario: Callable[[], tuple[Callable[[], object], Callable[[], object]]], *, waits: bool = False
) -> Iterator[None]:
    """Let two operations meet in every way, then hand back to the caller, who looks at what has become of it.

    Args:
        scenario: Sets the stage anew; returns the operation that is interrupted, and the one that
            happens meanwhile, which must not wait.
        waits: The first one waits for the second.
    """
    step = 0
    while True:
        first, second = scenario()
        intruder = _Intruder(second, step)
        rescuer = NativeThread(intruder.rescue) if waits else None
        before = sys.gettrace()
        sys.settrace(intruder.trace)
        try:
            first()
        finally:
            sys.settrace(before)
            intruder.end()
        while rescuer is not None and not rescuer.over:
            _sleep(0.001)
        if not intruder.came:
            assert step > 3, "the operation that was to be interrupted ran no code of the package"
            return
        yield
        step += 1


def in_callback(function: Callable[[], Any]) -> Any:
    """What *function* returns or raises when this thread's hub itself calls it."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:  # gevent would only print it
            outcome.append((None, error))

    gevent.get_hub().loop.run_callback(run)
    until(lambda: bool(outcome))
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
