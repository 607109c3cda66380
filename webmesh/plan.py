"""Plans: how the calls of each route are run.

Made once, when serving begins, so that a call only has to look. Running them is `dispatch`'s business.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from webmesh.authorisation import Requirement, requirement
from webmesh.call import CURRENT, Call, CallNext, Middleware, chained
from webmesh.call_counts import CallCounts
from webmesh.exceptions import InvalidArgument, Overloaded
from webmesh.handled_call import HandledCall
from webmesh.lanes import Lanes
from webmesh.route_options import RouteOptions

if TYPE_CHECKING:
    from webmesh.auth import Identity
    from webmesh.routing import Route


class Plan:
    """How calls of one route are run: its options, with the defaults of this process filled in.

    Attributes:
        enter: Runs a call through the middleware and its handler; to be run in the call's own context.
        check: Runs only the question whether the caller may; `None` where anybody may.
        counts: What is counted of its calls.
        simple: Whether that happens right in the greenlet that read the request, and nothing must be held.
    """

    __slots__ = (
        "_asked", "_by_roles", "blocking", "bounded", "cancel", "check", "counts", "enter", "in_flight", "isolate",
        "max_in_flight", "options", "own", "route", "seconds", "simple",
    )  # fmt: skip

    def __init__(
        self, route: Route, options: RouteOptions, middleware: list[Middleware], *, blocking: bool, seconds: float,
        requires: Requirement | None = None,
    ) -> None:  # fmt: skip
        self.route = route
        self.counts = CallCounts()
        self.options = options
        # The protocol's own routes have rules of their own; strangers may call one of them, so nothing is kept of it.
        self.own = route.pattern.startswith("$")
        asked = None if self.own else requirement(options.requires, requires)
        self.enter = _entrance(route, middleware if asked is None else [asked, *middleware])
        self.check = None if asked is None else chained([asked], _enter_nothing)
        self._asked = asked
        self._by_roles = asked if asked is not None and asked.by_roles else None
        self.blocking = blocking if options.blocking is None else options.blocking
        self.isolate = options.isolate and not self.blocking
        self.seconds = seconds if options.timeout is None else options.timeout
        self.bounded = options.timeout is not None
        self.cancel = options.cancel
        self.max_in_flight = options.max_in_flight
        self.in_flight = 0
        self.simple = not (self.blocking or self.isolate or self.max_in_flight or options.order != "none")

    def hold(self, call: HandledCall, lanes: Lanes, held: ExitStack) -> None:
        """Take the places that the route's options ask for; *held* gives them back.

        Raises:
            Overloaded: There is none.
            Unauthenticated, PermissionDenied: The caller lacks the role that the route asks for.
        """
        if self._by_roles is not None:  # a function of the program's may block, so it is asked where the handler runs
            self._by_roles.check(call)
        if self.max_in_flight is not None:
            if self.in_flight >= self.max_in_flight:
                raise Overloaded(f"{self.in_flight} calls of {self.route.pattern} are running, the limit")
            self.in_flight += 1
            held.callback(self._leave)
        if self.options.order == "peer":
            held.enter_context(lanes.turn((self.route, call.conversation)))
        elif self.options.order_key is not None:
            held.enter_context(lanes.turn((self.route, _lane_key(self.options.order_key, call))))

    def still_allows(self, identity: Identity | None, path: str) -> bool:
        """Whether a call that runs may go on with these rights."""
        return self._asked is None or self._asked.still_allows(identity, path)

    def _leave(self) -> None:
        self.in_flight -= 1


def _entrance(route: Route, middleware: list[Middleware]) -> CallNext:
    handler = route.handler
    if route.names or middleware:
        chain = chained(middleware, _run_handler)

        def enter(call: Call) -> Any:
            CURRENT.set(call)
            return chain(call)

        return enter

    def enter_handler(call: Call) -> Any:
        """The same with nothing between; most routes are so, and each step costs every call."""
        CURRENT.set(call)
        return handler(call.payload, call.path, call.connection)

    return enter_handler


def _enter_nothing(call: Call) -> None:
    """In the place of the handler, where only what stands before it is wanted."""


def _run_handler(call: Call) -> Any:
    """The innermost link: the handler itself."""
    return call.route.handler(call.payload, call.path, call.connection, **call.arguments)  # type: ignore[union-attr]


def _lane_key(name: str, call: HandledCall) -> Any:
    """The value by which a route keeps order."""
    if name in call.arguments:
        return call.arguments[name]
    value = call.payload.get(name) if isinstance(call.payload, dict) else None
    if not isinstance(value, str | int | bytes):
        raise InvalidArgument(f"the payload must be a map with a text or integer {name!r}: the route keeps order by it")
    return value
