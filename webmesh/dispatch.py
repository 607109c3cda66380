"""Dispatch: a request finds its route, runs through middleware to its handler, and is answered.

Decides where a handler runs (in the greenlet that read the request, in one of its own, or in a native
thread) and what each of its ends means on the wire. The one place where user code is caught.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event
from gevent.hub import get_hub

from webmesh.authorisation import Requirement
from webmesh.call import IDEMPOTENCY_KEY, NO_HEADERS, CallNext, Middleware
from webmesh.exceptions import (
    NOT_STARTED, Cancelled, DeadlineExceeded, InvalidArgument, PermissionDenied, RemoteError, RouteNotFound,
    Unavailable,
)  # fmt: skip
from webmesh.execution import Executor, feed, in_own_greenlet
from webmesh.failures import Failures
from webmesh.handled_call import HandledCall
from webmesh.keyed_calls import KeyedCalls
from webmesh.lanes import Lanes
from webmesh.observer import Observer
from webmesh.options import Limits, Timeouts
from webmesh.plan import Plan
from webmesh.protocol import envelope
from webmesh.protocol.envelope import Notification, Request, TopicMessage
from webmesh.route_options import read_options
from webmesh.routing import NO_ARGUMENTS, Route, Router
from webmesh.websocket.inbox import Inbox
from webmesh.websocket.item_stream import ITEMS_BEFORE_SWITCH

if TYPE_CHECKING:
    from webmesh.call_counts import CallCounts
    from webmesh.websocket.conversation import Conversation
    from webmesh.websocket.hub import HubThread
    from webmesh.websocket.roles import TopicReceiver
    from webmesh.websocket.websocket_connection import WebSocketConnection

_PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, dict, tuple})
"""Results that are surely no iterators; asking each for `__next__` would cost more."""


_CLOSING = Unavailable("this node is closing", retry_after=1.0)
"""For whoever may go elsewhere at once, or come back when another process listens here."""
_TO_THE_END = frozenset(
    {"$goodbye", "$gossip", "$news", "$lead", "$resign", "$engine", "$interest", "$topic", "$deliver", "$work", "$done",
     "$lost", "$copy"}
)
"""Paths that a node answers until it closes: other nodes would take it for dead, and its own topics need them."""
_CLOSED = Unavailable(_CLOSING.message, retry_after=_CLOSING.retry_after, details=NOT_STARTED)
"""For what comes after that."""


class Dispatcher:
    """Answers the requests of all connections of one server or client; see `roles.Answerer`.

    Args:
        router: The routes; frozen with the first connection.
        blocking: Whether routes that say nothing run in native threads.
        home: The hub that all of it lives in.
        keyed: Remembers calls with an idempotency key; `None` makes one that has no store.
        requires: Of routes that say nothing themselves.

    Attributes:
        topics: Acts on topic messages; set before the first connection, `None` where nobody does.
    """

    topics: TopicReceiver | None = None

    def __init__(
        self,
        router: Router,
        middleware: list[Middleware],
        home: HubThread,
        executor: Executor,
        *,
        limits: Limits,
        timeouts: Timeouts,
        observer: Observer,
        blocking: bool,
        keyed: KeyedCalls | None = None,
        requires: Requirement | None = None,
    ) -> None:
        self._router = router
        self._requires = requires
        self._match = router.match
        self._middleware = middleware
        self._home = home
        self._executor = executor
        self._limits = limits
        self._timeouts = timeouts
        self._observer = observer
        self._failures = Failures(observer)
        self._keyed = KeyedCalls(limits, timeouts, observer) if keyed is None else keyed
        self._timed = observer.wants_requests
        self._blocking = blocking
        self._plans: dict[Route, Plan] = {}
        self._fixed: dict[str, Plan] = {}
        self._lanes = Lanes()
        self._switched: set[HandledCall] = set()
        self._context = Context()
        self._draining = False
        self._told: set[WebSocketConnection] = set()
        self._told_all = False
        self._cut: set[WebSocketConnection] = set()
        self._idle: Event | None = None

    def freeze(self) -> None:
        """End registration and fix how each route runs. Handlers see copies of the caller's context.

        Raises:
            ConfigurationError: A route's options make no sense.
        """
        self._router.freeze()
        self._context = copy_context()
        for route in self._router.routes():
            options = read_options(route.options)
            # The protocol's own paths are no calls of the program's, and say nothing to its middleware.
            middleware = [] if route.pattern.startswith("$") else self._middleware
            plan = self._plans[route] = Plan(
                route, options, middleware, blocking=self._blocking, seconds=self._timeouts.request,
                requires=self._requires,
            )
            if not route.names:
                self._fixed[route.pattern] = plan

    def refuse(self, connection: WebSocketConnection) -> None:
        """Answer the requests of this one as unavailable from now on."""
        self._draining = True
        self._told.add(connection)

    def refuse_all(self) -> None:
        """Answer all requests as unavailable from now on."""
        self._draining = self._told_all = True
        self._told.clear()

    def wait_idle(self, seconds: float) -> None:
        """Wait until the calls in progress have ended, or *seconds*."""
        gevent.sleep(0)  # those that began in this turn of the hub are in the table after it
        idle = self._idle = Event()
        if self._switched and seconds > 0:
            idle.wait(seconds)

    def busy(self, connection: WebSocketConnection) -> bool:
        """Whether calls of this one are in progress, or have been cut off: what its peer still waits for may have
        run, although nothing of it may be left here."""
        return connection in self._cut or any(call.connection is connection for call in self._switched)

    def cut_off(self) -> int:
        """End what is still in progress, as far as it can be ended from outside.

        Returns:
            Calls whose callers wait in vain. Readers of streams are told that they may go on elsewhere.
        """
        cut = 0
        for call in tuple(self._switched):
            if call.streams:
                self._failures.answer(call, _CLOSING, _CLOSING)
            elif call.request_id is not None and call.wanted:
                self._observer.refused("call", "cut off")
                self._cut.add(call.connection)
                cut += 1
            self.cancel(call)
        return cut

    @property
    def in_progress(self) -> int:
        """Calls whose handlers have waited and have not ended."""
        return len(self._switched)

    def counted(self) -> dict[str, dict[str, Any]]:
        """What is counted of each route that was called, by its pattern."""
        running = Counter(call.route.pattern for call in self._switched)  # type: ignore[union-attr]
        plans = self._plans.values()
        return {
            plan.route.pattern: plan.counts.to_wire(running[plan.route.pattern]) for plan in plans if plan.counts.begun
        }

    def stop(self, seconds: float) -> None:
        """End the handlers that run although their connections have ended; wait at most *seconds* for that."""
        stuck = [call.greenlet for call in self._switched if call.greenlet is not None]
        gevent.killall(stuck, block=False)
        if seconds > 0:
            gevent.joinall(stuck, seconds)

    # ----------------------------------------------------------------- the calls

    def serve(self, request: Request | Notification, conversation: Conversation, greenlet: Any = None) -> None:
        """Answer one request; `Answerer.serve`."""
        plan, arguments = self._fixed.get(request.path), NO_ARGUMENTS
        if plan is None or self._draining:
            found = self._find(request, conversation)
            if found is None:
                return
            plan, arguments = found
        seconds, bounded = plan.seconds, plan.bounded
        if request.timeout_ms is not None:
            if request.timeout_ms <= 0:
                self._failures.refuse(request, conversation, DeadlineExceeded("no time was left when the request came"))
                return
            asked = request.timeout_ms / 1000
            seconds = min(asked, seconds) if bounded else asked
            bounded = True
        call = HandledCall(request, conversation, plan.route, arguments, seconds, bounded)
        counts = plan.counts
        counts.left = left = counts.left - 1
        if left < 0:
            _note_time(conversation)
        if greenlet is None:
            conversation.current = call
        else:
            self._arm(call, greenlet, time.monotonic())
        started = time.monotonic() if self._timed else 0.0
        code = "ok"
        try:
            headed = call.headers is not NO_HEADERS
            result = self._run_headed(plan, call) if headed else self._run(plan, call, plan.enter)
            if conversation.stream.full:
                call.await_room()
            if call.armed:
                self._disarm(call)
            if request.id is None:
                if result is not None:
                    conversation.send(envelope.notification(call.path, result, None))
            elif call.armed:
                call.answer(envelope.reply(request.id, result))
            else:
                conversation.send(envelope.reply(request.id, result))
        except BaseException as error:  # the edge around user code: whatever it raises is answered
            code = self._fail(call, error)
            counts.fail(code)
        finally:
            if conversation.current is call:
                conversation.current = None
        if left < 0 and not call.armed:
            _count_quick(counts, conversation)
        if self._timed:
            self._observer.request_finished(plan.route.pattern, code, time.monotonic() - started)

    def _find(
        self, request: Request | Notification, conversation: Conversation
    ) -> tuple[Plan, dict[str, object]] | None:
        """The plan and path arguments for a path that is no fixed one; `None` when it has been refused."""
        if self._draining and (self._told_all or conversation.connection in self._told):
            if request.path not in _TO_THE_END:
                self._failures.refuse(request, conversation, _CLOSED)
                return None
        try:
            match = self._match(request.path)
        except Exception as error:  # the edge around user code: a converter of the program's own
            self._failures.refuse(request, conversation, self._failures.incident(conversation, request.path, error))
            return None
        if match is None:
            self._failures.refuse(request, conversation, RouteNotFound(f"no route matches {request.path[:200]!r}"))
            return None
        return self._plans[match[0]], match[1]

    def _disarm(self, call: HandledCall) -> None:
        if call.armed and call.since is not None:
            self._plans[call.route].counts.slow(time.monotonic() - call.since)  # type: ignore[index]
            call.since = None
        call.disarm()
        self._switched.discard(call)
        if self._idle is not None and not self._switched:
            self._idle.set()

    def _run_headed(self, plan: Plan, call: HandledCall) -> Any:
        if plan.own or IDEMPOTENCY_KEY not in call.headers:
            return self._run(plan, call, plan.enter)
        run = functools.partial(self._run, plan, call)
        if plan.check is None:
            return self._keyed.run(call, plan.enter, run)
        check = functools.partial(run, plan.check)
        check()  # what is remembered is for those who may ask now
        return self._keyed.run(call, plan.enter, run, check)

    def _run(self, plan: Plan, call: HandledCall, enter: CallNext) -> Any:
        if call.request.stream:
            call.unbound()
            call.open_items(self._home, self._limits.stream_credit)
        context = self._context.copy()
        if plan.simple:
            result = context.run(enter, call)
            return result if type(result) in _PLAIN else self._finish(call, context, result)
        with ExitStack() as held:
            plan.hold(call, self._lanes, held)
            if plan.blocking:
                # What it holds is given back when the thread is through, not when its caller leaves.
                ended = held.pop_all().close
                run, holder = self._executor.run, call.conversation
                return run(
                    context, self._run_in_thread, enter, call, ended=ended, late=self._late, holder=holder
                )
            if plan.isolate:
                return in_own_greenlet(lambda: self._finish(call, context, context.run(enter, call)))
            return self._finish(call, context, context.run(enter, call))

    def _late(self) -> None:
        self._observer.refused("result", "late")

    def _finish(self, call: HandledCall, context: Context, result: Any) -> Any:
        """A result as it is, or what a stream ends with."""
        return self._stream(call, context, result) if _is_series(result) else result

    def _run_in_thread(self, enter: CallNext, call: HandledCall) -> Any:
        """In a pool thread, in the handler's context."""
        result = enter(call)
        if not _is_series(result):
            return result
        self._home.run(self._open_stream, call)
        return feed(result, lambda item: self._home.run(call.put, item))

    def _open_stream(self, call: HandledCall) -> None:
        if IDEMPOTENCY_KEY in call.headers:
            raise InvalidArgument(f"{call.path[:200]} answers with a stream, which cannot carry an {IDEMPOTENCY_KEY}")
        if call.begin() is not None:
            call.unbound()

    def _stream(self, call: HandledCall, context: Context, items: Iterator[Any]) -> Any:
        """Send what a handler yields; returns the generator's own value."""
        self._open_stream(call)
        number = 0
        try:
            while True:
                try:
                    item = context.run(next, items)
                except StopIteration as stop:
                    return stop.value
                call.put(item)
                number += 1
                if number % ITEMS_BEFORE_SWITCH == 0:
                    gevent.sleep(0)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                context.run(close)

    def _fail(self, call: HandledCall, error: BaseException) -> str:
        """Answer with what *error* means; returns the wire code."""
        answer = self._failures.error_for(call, error)
        call.fail_items(answer)
        self._disarm(call)
        self._failures.answer(call, error, answer)
        call.forsake()  # a pool thread that still runs for it must learn that nobody listens
        if isinstance(error, KeyboardInterrupt):
            raise error
        return answer.code

    def topic(self, message: TopicMessage, conversation: Conversation) -> None:
        """`Answerer.topic`."""
        if self.topics is not None:
            self.topics.topic(message, conversation)
            return
        self._observer.refused("message", "topic message")
        if message.id is not None:
            conversation.say(envelope.error(message.id, RouteNotFound("nobody takes topic messages here").to_wire()))

    # ------------------------------------------------- what else a peer may say of it

    def switched(self, conversation: Conversation, greenlet: Any) -> None:
        """`Answerer.switched`: from now on the call can be interrupted."""
        call, conversation.current = conversation.current, None
        self._arm(call, greenlet, _read_at(conversation))

    def _arm(self, call: HandledCall, greenlet: Any, since: float) -> None:
        self._switched.add(call)
        call.arm(greenlet, call.conversation.hub.loop, since)

    def look_at(self, connection: WebSocketConnection) -> None:
        """The rights of this one have changed: streams that its peer may not have any more end, those that its session
        has kept among them, and what is kept of them. In the hub; does not switch."""
        session, identity = connection.session, connection.identity
        for call in tuple(self._switched):
            answering = call.answering
            if answering is None or answering.receiver is None and call.request.credit is None:
                continue
            own = call.connection is connection or session is not None and answering.keeper is session
            if own and not self._plans[call.route].still_allows(identity, call.path):  # type: ignore[index]
                self._observer.refused("call", PermissionDenied.code)
                call.deny(get_hub().loop)

    def cancel(self, owner: HandledCall) -> None:
        """`Answerer.cancel`."""
        plan = self._plans[owner.route]  # type: ignore[index]
        if isinstance(owner.items, Inbox):
            owner.items.fail(Cancelled("the asking side has given up"))
        # A keyed call runs to its end: whoever asks again wants its outcome, and only once.
        mode = "never" if IDEMPOTENCY_KEY in owner.headers and not plan.own else plan.cancel
        get_hub().loop.run_callback(owner.give_up, mode)

    def item(self, owner: HandledCall, item: Any) -> None:
        """`Answerer.item`."""
        if isinstance(owner.items, Inbox):
            owner.items.put(item)

    def end_items(self, owner: HandledCall, error: RemoteError | None) -> None:
        """`Answerer.end_items`."""
        if not isinstance(owner.items, Inbox):
            return
        if error is None:
            owner.items.end()
        else:
            owner.items.fail(error)

    def credited(self, owner: HandledCall) -> None:
        """`Answerer.credited`."""
        owner.credited()


def _read_at(conversation: Conversation) -> float:
    """When the request that is handled now was read, as far as that was noted."""
    turns = conversation.turns
    return time.monotonic() if turns is None or turns.since is None else turns.since


def _note_time(conversation: Conversation) -> None:
    """The request that is handled now is to be timed from here on, unless it came with others and was timed before."""
    turns = conversation.turns
    if turns is not None and turns.since is None:
        turns.since = time.monotonic()


def _count_quick(counts: CallCounts, conversation: Conversation) -> None:
    """The request that is handled now has ended, and never waited."""
    now = time.monotonic()
    counts.quick(now - _read_at(conversation), now)


def _is_series(result: object) -> bool:
    """Whether a handler's result is an iterator, that is a stream."""
    return type(result) not in _PLAIN and hasattr(type(result), "__next__")
