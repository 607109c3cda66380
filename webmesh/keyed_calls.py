"""Calls that carry an idempotency key: each runs once, however often it comes.

Decides what a repeat gets. What is remembered, and for how long, is `idempotency`'s; running the handler is
`dispatch`'s. Everything here runs in the hub, but for the store, which has a thread of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any

import gevent
from gevent import GreenletExit
from gevent.hub import get_hub

from webmesh.call import IDEMPOTENCY_KEY, Call, CallNext
from webmesh.exceptions import (
    Aborted, Cancelled, ConnectionClosed, EncodeError, InvalidArgument, Overloaded, PermissionDenied, RemoteError,
    Unauthenticated, Unavailable, error_from_wire,
)  # fmt: skip
from webmesh.execution import Executor
from webmesh.failures import Failures
from webmesh.handled_call import HandledCall
from webmesh.idempotency import (
    NOT_KEPT, Entry, IdempotencyStore, IdempotencyWindow, Key, Remembered, fingerprint_of,
)  # fmt: skip
from webmesh.message_serializers import MessagePackSerializer
from webmesh.observer import Observer
from webmesh.options import Limits, Timeouts
from webmesh.protocol.envelope import Request
from webmesh.websocket.hub import Completion

KEY_SIZE = 64
"""Bytes of a key: a UUID takes 36, a SHA-256 in hexadecimal digits 64."""

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.1
"""Seconds between two looks whether a call that another process runs has ended."""

_DENIED = PermissionDenied.code, Unauthenticated.code
"""What a handler, or a middleware before it, says when nothing was done, though the same caller may be let in later."""

logger = logging.getLogger("webmesh.server")


class KeyedCalls:
    """The keyed calls of one server or client.

    Attributes:
        store: Remembers beyond the end of the process; `None` does not. To be set before the first call.
    """

    def __init__(self, limits: Limits, timeouts: Timeouts, observer: Observer) -> None:
        self._observer = observer
        self._failures = Failures(observer)
        self._window = IdempotencyWindow(
            limits.idempotency_keys, limits.idempotency_size, timeouts.idempotency, self._dropped
        )
        self._serializer = MessagePackSerializer(limits)
        self.store: IdempotencyStore | None = None
        # One thread, so that what concerns a key happens in the order in which it was asked for.
        self._executor = Executor(1, 2 * limits.idempotency_keys)

    def run(
        self,
        call: HandledCall,
        enter: CallNext,
        execute: Callable[[CallNext], Any],
        check: Callable[[], object] = lambda: None,
    ) -> Any:
        """The result of *call*, or the error that it ended with, now or when it came before.

        Args:
            enter: Runs its handler.
            execute: Has the function that it is given called where the handler runs, and returns what that does.
            check: Raises when the caller may not have an outcome that it had to wait for.

        Raises:
            InvalidArgument: The key is none, came with another payload, or is a stream's.
            Aborted: It began before, and how it ended is not known.
            Unavailable: The store cannot be asked.
        """
        key, fingerprint = _key_of(call), fingerprint_of(call.payload)
        entry = self._window.find(key, time.monotonic())
        if entry is not None:
            return self._again(call, entry, fingerprint, check if entry.outcome is None else None)
        entry = self._window.begin(key, fingerprint, Completion(get_hub()))
        return self._first(call, key, entry, enter, execute, check)

    def close(self, timeout: float) -> None:
        """Close the store, when what was asked of it is done. Nobody waits longer than *timeout*, for each of both."""
        store, self.store = self.store, None
        if store is not None:
            gevent.with_timeout(timeout, self._executor.run, Context(), store.close, timeout_value=None)
        self._executor.close(timeout)

    @property
    def executor(self) -> Executor:
        """The store's thread; see `execution.stop_home`."""
        return self._executor

    def _dropped(self) -> None:
        self._observer.refused("idempotency key", "dropped for room")

    # ---------------------------------------------------------------- the first one

    def _first(
        self, call: HandledCall, key: Key, entry: Entry, enter: CallNext, execute: Callable[[CallNext], Any],
        check: Callable[[], object],
    ) -> Any:  # fmt: skip
        fingerprint, attempt = entry.fingerprint, _Attempt()
        try:
            known = self._recall(key, fingerprint, attempt)
            if known is None:
                return self._carry_out(attempt, call, key, enter, execute)
            entry.fingerprint, attempt.outcome = known.fingerprint, known.outcome or NOT_KEPT
        finally:
            if attempt.told is None:
                self._settle(key, entry, attempt)
            else:
                gevent.spawn(self._end_late, call, key, entry, attempt)
        return self._again(call, entry, fingerprint, check)

    def _recall(self, key: Key, fingerprint: bytes, attempt: _Attempt) -> Remembered | None:
        """What the store knows; `None` when the call is the first one, which it has noted. Waits for one that another
        process runs."""
        if self.store is None:
            return None
        pause = FIRST_PAUSE
        try:
            while True:
                known = self._executor.run(Context(), self.store.begin, key.digest, fingerprint)
                if known is None or not known.running:
                    return known
                if known.fingerprint != fingerprint:
                    raise InvalidArgument(f"the {IDEMPOTENCY_KEY} was used before, with another payload")
                attempt.refusal = Unavailable("it runs in another process; ask again")  # if this wait is cut short
                gevent.sleep(pause)
                attempt.refusal, pause = None, min(2 * pause, LONGEST_PAUSE)
        except (Unavailable, Overloaded, InvalidArgument) as error:
            attempt.refusal = error
            raise

    def _carry_out(
        self, attempt: _Attempt, call: HandledCall, key: Key, enter: CallNext, execute: Callable[[CallNext], Any]
    ) -> Any:
        def enter_once(entered: Call) -> Any:
            if not _claimed(attempt.unbegun):  # in a thread, after its caller was told that it never began
                raise Cancelled("nobody waits for it any more")
            try:
                result = enter(entered)
            except BaseException as error:
                attempt.ended.succeed((False, error))
                raise
            attempt.ended.succeed((True, result))
            return result

        try:
            result = execute(enter_once)
        except BaseException as error:  # what the handler raised is remembered, and raised again as what it is told
            began = not _claimed(attempt.unbegun)
            if began and isinstance(error, GreenletExit | KeyboardInterrupt):
                raise  # it was cut off, and nobody knows how far it came
            answer = self._answer_for(call, error)
            if began and call.expired_with(error) and attempt.succeeded:  # just when the time was up
                attempt.outcome = self._encoded({"data": attempt.ended.wait()[1]})
            elif began and not attempt.ended.done:
                attempt.told = answer
                raise answer from error
            else:
                self._note(attempt, answer, again=not began or _may_run_again(error))
            self._record(key, attempt)
            raise answer from (None if answer is error else error)
        attempt.outcome = self._encoded({"data": result})
        self._record(key, attempt)
        return result

    def _end_late(self, call: HandledCall, key: Key, entry: Entry, attempt: _Attempt) -> None:
        """Its caller has gone, as its time was up, and its thread worked on: repeats get what comes of that."""
        succeeded, value = attempt.ended.wait()
        if succeeded:
            attempt.outcome = self._encoded({"data": value})
        elif isinstance(value, RemoteError) and not isinstance(value, Cancelled):
            self._note(attempt, self._failures.error_for(call, value), again=_may_run_again(value))
        elif attempt.told is not None:  # it was made to end, or failed because of that
            self._note(attempt, attempt.told, again=False)
        self._record(key, attempt)
        self._settle(key, entry, attempt)

    def _note(self, attempt: _Attempt, answer: RemoteError, *, again: bool) -> None:
        if again:
            attempt.refusal = answer
        else:
            attempt.outcome = self._encoded({"error": answer.to_wire()})

    def _answer_for(self, call: HandledCall, error: BaseException) -> RemoteError:
        if isinstance(error, ConnectionClosed):  # its own caller's, perhaps; no reason to run the handler again
            return self._failures.incident(call.conversation, str(call.route), error)
        return self._failures.error_for(call, error)

    def _encoded(self, outcome: dict[str, Any]) -> bytes:
        try:
            return self._serializer.serialize(outcome)
        except EncodeError:  # only a serializer of the program's own can carry it, if any can
            return NOT_KEPT

    def _record(self, key: Key, attempt: _Attempt) -> None:
        if self.store is None:
            return
        try:
            if attempt.refusal is not None:
                self._executor.run(Context(), self.store.forget, key.digest)
            else:
                self._executor.run(Context(), self.store.end, key.digest, attempt.outcome)
        except (Unavailable, Overloaded) as error:
            # It is remembered here; after the end of this process a repeat is told that nobody knows.
            logger.error("the outcome of a keyed call was not recorded", extra={"reason": str(error)})
            self._observer.refused("idempotency key", "not recorded")

    def _settle(self, key: Key, entry: Entry, attempt: _Attempt) -> None:
        """Tell those who wait, and those who will come."""
        waiting, entry.waiting = entry.waiting, None
        if attempt.refusal is not None:
            self._window.forget(key)
            waiting.fail(attempt.refusal)
        else:
            self._window.end(key, attempt.outcome, time.monotonic())
            waiting.succeed(entry.outcome)

    # ------------------------------------------------------------------ the repeats

    def _again(
        self, call: HandledCall, entry: Entry, fingerprint: bytes, check: Callable[[], object] | None
    ) -> Any:
        if entry.fingerprint != fingerprint:
            raise InvalidArgument(f"the {IDEMPOTENCY_KEY} was used before, with another payload")
        if call.request_id is None:
            self._observer.refused("notification", "repeated")
            return None
        self._observer.refused("request", "repeated")
        outcome = entry.waiting.wait() if entry.outcome is None else entry.outcome
        if check is not None:  # much may have changed while it waited
            check()
        if not outcome:
            text = "it began before, and how it ended is not known here"
            raise Aborted(text, retryable=False, details={"outcome": "unknown"})
        known: Any = self._serializer.deserialize(outcome)
        if "error" in known:
            raise error_from_wire(known["error"])
        return known["data"]


class _Attempt:
    """What became of the first call with a key.

    Attributes:
        unbegun: Holds one element until its handler begins, or until it is sure that it never will.
        outcome: What repeats get.
        refusal: It may run again: what only those get who wait for it.
        ended: Done when its handler has ended: whether it returned, and what it returned or raised.
        told: What its caller was told, where the handler's thread works on.
    """

    __slots__ = ("ended", "outcome", "refusal", "told", "unbegun")

    def __init__(self) -> None:
        self.unbegun = [True]
        self.outcome = NOT_KEPT  # and that it stays when anything throws us out in the middle
        self.refusal: RemoteError | None = None
        self.ended: Completion[tuple[bool, Any]] = Completion(get_hub())
        self.told: RemoteError | None = None

    @property
    def succeeded(self) -> bool:
        """Whether its handler has returned."""
        return self.ended.done and self.ended.wait()[0]


def _may_run_again(error: BaseException) -> bool:
    """Whether a handler has said by *error* that it may. One that came from a peer, or on the way there, bears the path
    that was called, and says nothing about what the handler had done before."""
    if not isinstance(error, RemoteError) or error.path is not None:
        return False
    return error.retryable or error.code in _DENIED


def _claimed(unbegun: list[bool]) -> bool:
    """Whether the caller is the first to take what *unbegun* holds; atomic, since the hub and a thread may ask."""
    try:
        return unbegun.pop()
    except IndexError:
        return False


def _key_of(call: HandledCall) -> Key:
    text = call.headers[IDEMPOTENCY_KEY]
    if not 0 < len(text.encode("utf-8", "surrogatepass")) <= KEY_SIZE:
        raise InvalidArgument(f"the {IDEMPOTENCY_KEY} must have 1 to {KEY_SIZE} bytes")
    if isinstance(call.request, Request) and (call.request.stream or call.request.credit is not None):
        raise InvalidArgument(f"a stream cannot carry an {IDEMPOTENCY_KEY}")
    identity = getattr(call.connection, "identity", None)
    return Key("" if identity is None else identity.subject, call.path, text)
