"""`FaultInjector`: middleware that makes calls slow, fail, vanish or lose their connection, some of them on purpose.

For servers and clients, to see what the rest of a system does about it. The idea is that of gRPC's proposal A33
(fault injection). What networks do to bytes is `webmesh.testing.FaultProxy`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from webmesh.call import Call, CallNext
from webmesh.exceptions import (
    REMOTE_ERRORS, Cancelled, ConfigurationError, DeadlineExceeded, RemoteError, ReplyLost, RequestTimeout,
    error_from_wire,
)  # fmt: skip
from webmesh.handled_call import HandledCall
from webmesh.routing import Router
from webmesh.websocket.hub import Completion

INJECTED = "injected fault"
"""The message of an error that is injected, so that nobody looks for its cause elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What is done to a call that is chosen; see `FaultInjector` for each."""

    delay: float | tuple[float, float] = 0.0
    abort: str | None = None
    drop: bool = False
    disconnect: bool = False
    percentage: float = 100.0
    max_active: int | None = None

    def __post_init__(self) -> None:
        low, high = self.delays
        if not 0 <= low <= high < float("inf"):
            raise ConfigurationError(f"delay must be seconds, or the least and the most of them, not {self.delay!r}")
        if self.abort is not None and self.abort not in (*REMOTE_ERRORS, RemoteError.code):
            raise ConfigurationError(f"abort must be one of {', '.join(REMOTE_ERRORS)}, not {self.abort!r}")
        if (self.abort is not None) + bool(self.drop) + bool(self.disconnect) > 1:
            raise ConfigurationError("a call can be aborted, dropped or disconnected, not several of them at once")
        if not _is_number(self.percentage) or not 0 <= self.percentage <= 100:
            raise ConfigurationError(f"percentage must be from 0 to 100, not {self.percentage!r}")
        if self.max_active is not None and (type(self.max_active) is not int or self.max_active < 1):
            raise ConfigurationError(f"max_active must be at least 1, not {self.max_active!r}")

    @property
    def delays(self) -> tuple[float, float]:
        """The least and the most seconds."""
        pair = self.delay if isinstance(self.delay, tuple) else (self.delay, self.delay)
        if len(pair) != 2 or not all(map(_is_number, pair)):
            raise ConfigurationError(f"delay must be seconds, or the least and the most of them, not {self.delay!r}")
        return pair


class FaultInjector:
    """Middleware: `server.middleware(injector)` or `client.middleware(injector)`. Off until it is enabled.

    So it may stay in a program: off, it costs a comparison a call. `with injector:` enables it for a block. Several
    injectors in a row each choose by themselves. The protocol's own paths, with `$`, are left alone unless named.

    Args:
        delay: Seconds that a chosen call waits first, or a pair: anything between them.
        abort: Wire code of the error that it ends with, as `unavailable`; its handler does not run.
        drop: It is not answered: on a server no answer is sent, on a client its time runs out.
        disconnect: Its connection is dropped without a word, before its handler runs or before it is sent.
        percentage: Of the calls that are chosen.
        routes: Patterns as in `on`, `/orders/<int:id>`; only calls whose path matches one. `None`: all.
        max_active: Calls that are held at once; others go through as if they had not been chosen.
        seed: The same seed chooses the same calls of a series; `None` chooses anew in every run.

    Attributes:
        counts: `delayed`, `aborted`, `dropped`, `disconnected`, and `spared`: looked at and let through.

    Raises:
        ConfigurationError: A value makes no sense.
        BadPattern: A pattern is malformed.
    """

    def __init__(
        self,
        *,
        delay: float | tuple[float, float] = 0.0,
        abort: str | None = None,
        drop: bool = False,
        disconnect: bool = False,
        percentage: float = 100.0,
        routes: str | Collection[str] | None = None,
        max_active: int | None = None,
        seed: int | None = None,
        enabled: bool = False,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._fault = Fault(
            delay=delay, abort=abort, drop=drop, disconnect=disconnect, percentage=percentage, max_active=max_active
        )
        self._patterns = None if routes is None else _router((routes,) if isinstance(routes, str) else routes)
        self._random = random.Random(seed)
        self._enabled = enabled
        # One element for each call that may be held. `pop` and `append` are atomic, in native threads too.
        self._places = [True] * (max_active or 0)
        self._release: Completion[None] = Completion()

    @property
    def enabled(self) -> bool:
        """Whether it does anything now."""
        return self._enabled

    def enable(self) -> None:
        """Begin; from any thread."""
        if not self._enabled:
            self._release = Completion()
            self._enabled = True

    def disable(self) -> None:
        """Let all calls through again, those that are being delayed at once; what was dropped stays so."""
        self._enabled = False
        self._release.succeed(None)

    def change(self, **fault: Any) -> None:
        """Set some of delay, abort, drop, disconnect, percentage and max_active anew, for calls that come.

        Raises:
            ConfigurationError: A name is unknown or a value makes no sense; then nothing changes.
        """
        try:
            changed = replace(self._fault, **fault)
        except TypeError as error:
            raise ConfigurationError(f"no such fault: {error}") from None
        if changed.max_active != self._fault.max_active:
            self._places = [True] * (changed.max_active or 0)
        self._fault = changed

    def __call__(self, call: Call, call_next: CallNext) -> Any:
        """Handle *call*, after or instead of doing something to it."""
        if not self._enabled or not self._chosen(call):
            return call_next(call)
        places = self._places if self._fault.max_active is not None else None
        if places is not None:
            try:
                places.pop()
            except IndexError:
                self.counts["spared"] += 1
                return call_next(call)
        try:
            self._harm(call, self._fault)
        finally:
            if places is not None:
                places.append(True)
        return call_next(call)

    def _chosen(self, call: Call) -> bool:
        patterns = self._patterns
        if patterns is None:
            if call.path.startswith("$"):
                return False
        elif patterns.match(call.path) is None:
            return False
        if self._random.random() * 100 < self._fault.percentage:
            return True
        self.counts["spared"] += 1
        return False

    def _harm(self, call: Call, fault: Fault) -> None:
        """Raise what the call is to end with; return when it is to go on."""
        low, high = fault.delays
        if high:
            self.counts["delayed"] += 1
            self._wait(call, self._random.uniform(low, high))
            if call.deadline.expired:  # late calls do not reach handlers, nor the wire
                raise _late(call)
        if fault.abort is not None:
            self.counts["aborted"] += 1
            raise error_from_wire({"code": fault.abort, "message": INJECTED})
        if fault.drop:
            self.counts["dropped"] += 1
            self._drop(call)
        if fault.disconnect:
            self.counts["disconnected"] += 1
            call.connection.abort(1006, INJECTED)
            if call.route is None:
                raise ReplyLost(call.path, started=False, reason=INJECTED)
            raise Cancelled(INJECTED)

    def _wait(self, call: Call, seconds: float | None) -> None:
        """Wait as the code around it does: its greenlet or its thread; never past the call's own end."""
        left = call.deadline.remaining()
        if left is not None:
            seconds = left if seconds is None else min(left, seconds)
        with suppress(TimeoutError):
            self._release.wait(seconds)

    def _drop(self, call: Call) -> None:
        if isinstance(call, HandledCall):
            call.go_unanswered()
            raise Cancelled(INJECTED)
        left = call.deadline.remaining()
        if left is None:  # a stream or a notification, for which nobody named a time
            self._release.wait()
            raise Cancelled(INJECTED)
        with suppress(TimeoutError):
            Completion[None]().wait(left)
        raise _late(call)

    def __enter__(self) -> FaultInjector:
        self.enable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disable()

    def __repr__(self) -> str:
        return f"<FaultInjector {'on' if self._enabled else 'off'} {self._fault.percentage:g} %>"


def _router(patterns: Collection[str]) -> Router:
    if not isinstance(patterns, Collection):
        raise ConfigurationError(f"routes must be patterns, not {patterns!r}")
    router = Router()
    for pattern in patterns:
        router.add(pattern, _chosen_path, reserved=isinstance(pattern, str) and pattern.startswith("$"))
    return router


def _late(call: Call) -> TimeoutError:
    """What a call ends with whose time has run out while it was held here."""
    if isinstance(call, HandledCall):
        return DeadlineExceeded(f"{call.path} was held for all of its time: {INJECTED}")
    return RequestTimeout(call.path, call.seconds)


def _chosen_path(payload: object, path: str, client: object, **arguments: object) -> None:
    """Stands for a pattern in a router; never called."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
