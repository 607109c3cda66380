"""A call: one request or notification on its way through middleware to what answers it.

The same object on both sides: a server's middleware gets it before the handler, a client's before the
wire. Knows nothing of how a call is run or sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Protocol

from webmesh.deadline import Deadline
from webmesh.exceptions import Cancelled, ConfigurationError, WebMeshError

if TYPE_CHECKING:
    from webmesh.routing import Route
    from webmesh.websocket.hub import Completion
    from webmesh.websocket.websocket_connection import WebSocketConnection

NO_HEADERS: Mapping[str, str] = {}
NO_ITEMS: Iterator[Any] = iter(())
"""Exhausted for good, so all calls can share it."""
CALL_CHAIN = "call-chain"
"""Reserved header: names of the services that a call has passed through (docs/PROTOCOL.md section 2)."""
IDEMPOTENCY_KEY = "idempotency-key"
"""Reserved header: calls that bear the same one run once (docs/PROTOCOL.md section 2)."""

INNER_CALLS = 16
"""Calls made for another one that are noted before those that have ended are looked for."""


class Interruptible(Protocol):
    """A call on its way to another node."""

    def done(self) -> bool:
        """Whether it has ended."""

    def cancel(self) -> None:
        """End it; nothing where it has."""


class Call:
    """One call, as middleware and handlers see it.

    Attributes:
        path: The path as it stands on the wire.
        payload: The user's object; middleware may replace it.
        headers: Text to text; on the asking side middleware may add to it.
        connection: The connection that it came by or goes by.
        route: The route that matched; `None` on the asking side.
        arguments: The path arguments, by name.
        request_id: `None` for a notification.
        items: What the asking side streams to the handler; empty when it announced nothing.
        cancelled: The asking side has gone or no longer wants the answer.
    """

    __slots__ = (
        "_deadline", "_inner", "arguments", "cancelled", "connection", "headers", "items", "path", "payload",
        "request_id", "route", "seconds",
    )  # fmt: skip

    def __init__(
        self,
        path: str,
        payload: Any,
        headers: Mapping[str, str],
        connection: WebSocketConnection,
        *,
        seconds: float | None = None,
        route: Route | None = None,
        arguments: Mapping[str, Any] = NO_HEADERS,
        request_id: int | str | None = None,
    ) -> None:
        self.path = path
        self.payload = payload
        self.headers = headers
        self.connection = connection
        self.route = route
        self.arguments = arguments
        self.request_id = request_id
        self.seconds = seconds
        self.items: Iterator[Any] = NO_ITEMS
        self.cancelled = False
        self._deadline: Deadline | None = None
        self._inner: list[Interruptible] | tuple[()] | None = None

    @property
    def deadline(self) -> Deadline:
        """When the answer is worthless; its clock starts when it is first asked for, at the latest when a
        handler switches. `deadline.cancelled` turns true when the asking side gives up."""
        deadline = self._deadline
        if deadline is None:
            deadline = self._deadline = Deadline(self.seconds)
            deadline.cancelled = self.cancelled
        return deadline

    def cancel(self) -> None:
        """Note that nobody wants the answer any more; running code sees it in `deadline.cancelled`."""
        self.cancelled = True
        if self._deadline is not None:
            self._deadline.cancelled = True

    def follow(self, inner: Interruptible) -> None:
        """Let a call that a thread makes for this one end with it, since nothing can be thrown into the thread."""
        if self._inner is None:
            self._inner = []
        if isinstance(self._inner, list):
            if len(self._inner) >= INNER_CALLS:
                self._inner[:] = [one for one in self._inner if not one.done()]
            self._inner.append(inner)
        if self._inner == ():  # interrupted, perhaps just now
            inner.cancel()

    def interrupt(self) -> list[Interruptible]:
        """What `follow` was given and has not ended, to be cancelled; from now on it cancels by itself."""
        inner, self._inner = self._inner, ()
        return [one for one in inner or () if not one.done()]

    def __repr__(self) -> str:
        return f"<Call {self.path} id={self.request_id!r}>"


CallNext = Callable[[Call], Any]
Middleware = Callable[[Call, CallNext], Any]
"""`def middleware(call, call_next): return call_next(call)`, on servers around handlers, on clients
around outgoing calls."""

CURRENT: ContextVar[Call | None] = ContextVar("webmesh_call", default=None)
"""The call that the running code handles; set in each handler's own context."""


SERVED_BY: ContextVar[frozenset[object]] = ContextVar("webmesh_served_by", default=frozenset())
"""The servers and clients whose handlers and callbacks the running code belongs to. It cannot wait for their
end, since that waits for it."""


def serving_context(owner: object) -> Context:
    """A copy of the caller's context, for handlers and callbacks of *owner* to get copies of."""
    context = copy_context()
    context.run(SERVED_BY.set, SERVED_BY.get() | {owner})
    return context


class Waiting:
    """What a call's handler waits for before it makes a call of its own."""

    __slots__ = ("_outcome",)

    def __init__(self, outcome: Completion[Any]) -> None:
        self._outcome = outcome

    def done(self) -> bool:
        """Whether it is there."""
        return self._outcome.done

    def cancel(self) -> None:
        """Whoever waits gets `Cancelled`."""
        self._outcome.fail(Cancelled("given up by the asking side"))


def follow_current(outcome: Completion[Any]) -> None:
    """Let the wait for *outcome* end with the call that is being handled here, if one is."""
    call = CURRENT.get()
    if call is not None:
        call.follow(Waiting(outcome))


def current_call() -> Call:
    """The call that is being handled here: its headers, deadline, items.

    Raises:
        WebMeshError: Outside of a handler, or in a greenlet or thread that did not take over its context.
    """
    call = CURRENT.get()
    if call is None:
        raise WebMeshError("no call is being handled here")
    return call


def check_callable(what: str, function: object) -> None:
    """Refuse at registration what could not be called later.

    Raises:
        ConfigurationError: It is no callable.
    """
    if not callable(function):
        raise ConfigurationError(f"{what} takes a function, not {function!r}")


def chained(middleware: list[Middleware], last: CallNext) -> CallNext:
    """*last* inside all of *middleware*; the first one is outermost."""
    for function in reversed(middleware):
        last = _link(function, last)
    return last


def _link(function: Middleware, call_next: CallNext) -> CallNext:
    def link(call: Call) -> Any:
        return function(call, call_next)

    return link


def service_chain(service: str | None, limit: int) -> str | None:
    """The `call-chain` header for a call made now by *service*.

    Returns:
        `None` when no service has a name, as in a client program.

    Raises:
        RecursionError: The chain would be longer than *limit* services.
    """
    call = CURRENT.get()
    names = call.headers.get(CALL_CHAIN, "").split(",") if call is not None else []
    chain = [name for name in names if name]
    if service:
        chain.append(service)
    if len(chain) > limit:
        raise RecursionError(f"the call passes through {len(chain)} services, {limit} is the limit: {','.join(chain)}")
    return ",".join(chain) or None
