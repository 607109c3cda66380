"""What is kept for each route of a service: its breaker, its latencies, its calls in progress.

Decides which route a path counts for, since paths hold ids, and whether there is a place for one more call. Used from
any thread without a lock: calls in progress are a set, whose operations are whole.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from webmesh.balancing import Balancer
from webmesh.breaker import Breaker
from webmesh.call import follow_current
from webmesh.call_policy import CallPolicy
from webmesh.deadline import Deadline
from webmesh.exceptions import NOT_STARTED, ConnectionClosed, Overloaded, ReplyLost, RequestTimeout, WebMeshError
from webmesh.hedging import Hedging
from webmesh.instances import Instance
from webmesh.websocket.hub import Completion

if TYPE_CHECKING:
    from webmesh.known_routes import KnownRoutes
    from webmesh.websocket.future import Future

ROUTES = 1000
"""Routes of one service that are kept apart; all further ones count as one. Nobody writes as many, but a service whose
routes are not known yet is told apart by the beginnings of paths, which may be anything."""
OTHER = "other"
UNREADABLE = (1007, 1009)
"""How our side closes on an answer that is too large, or none of ours: it is not asked for again."""
LEARN_SECONDS = 10.0
"""For the question which routes an instance has."""


class RouteState:
    """One route of one service."""

    __slots__ = ("_limit", "_wait", "_waiters", "breaker", "calls", "hedging", "name")

    def __init__(self, name: str, policy: CallPolicy) -> None:
        self.name = name
        self.breaker = Breaker(policy)
        self.hedging = Hedging(policy)
        self.calls: set[object] = set()
        self._limit = policy.in_flight
        self._wait = policy.in_flight_wait
        self._waiters: deque[Completion[None]] = deque()

    def enter(self, mark: object, path: str, deadline: Deadline) -> None:
        """Take a place for the call *mark*; `leave` gives it back.

        Raises:
            Overloaded: There is none, and nothing was sent.
            RequestTimeout: There was none in time.
        """
        if not self._waiters:
            self.calls.add(mark)
            if len(self.calls) <= self._limit:
                return
            self.calls.discard(mark)
        if not self._wait:
            raise Overloaded(f"{self._limit} calls of {self.name} are in progress", details=NOT_STARTED)
        bell = Completion[None]()
        self._waiters.append(bell)
        if self._taken(mark):  # somebody left before there was a bell
            self._forget(bell)
            return
        follow_current(bell)
        try:
            bell.wait(deadline.remaining())
        except TimeoutError:
            self._forget(bell)
            raise RequestTimeout(path, None) from None
        except BaseException:
            self._forget(bell)
            raise
        self.calls.add(mark)
        self.calls.discard(bell)

    def _taken(self, mark: object) -> bool:
        self.calls.add(mark)
        if len(self.calls) <= self._limit:
            return True
        self.calls.discard(mark)
        return False

    def _forget(self, bell: Completion[None]) -> None:
        try:
            self._waiters.remove(bell)
        except ValueError:
            self.leave(bell)  # it was given a place, which it does not take

    def leave(self, mark: object) -> None:
        """The call has ended: its place goes to the one that has waited longest, and to nobody who comes just now."""
        bell = self._next_waiter() if self._waiters else None
        if bell is None:
            self.calls.discard(mark)
            if self._waiters:  # since that look
                self.leave(mark)
            return
        self.calls.add(bell)
        self.calls.discard(mark)
        bell.succeed(None)

    def _next_waiter(self) -> Completion[None] | None:
        try:
            return self._waiters.popleft()
        except IndexError:  # another thread took it
            return None


class ServiceState:
    """One service, as its callers here see it."""

    __slots__ = ("_routes", "balancer", "known", "policy")

    def __init__(self, policy: CallPolicy) -> None:
        self.policy = policy
        self.balancer = Balancer()
        self.known: KnownRoutes | None = None
        self._routes: dict[str, RouteState] = {}

    def route(self, path: str) -> RouteState:
        """What is kept for the route of *path*."""
        state = self._routes.get(path)
        if state is not None:  # it has no parameters, as most
            return state
        name = self.known.route(path) if self.known is not None else None
        if name is None:
            name = "/".join(path.split("/", 2)[:2])  # all of "/stock/…" is one until more is known
        state = self._routes.get(name)
        if state is None:
            if len(self._routes) >= ROUTES:
                name = OTHER
            state = self._routes.setdefault(name, RouteState(name, self.policy))
        return state

    def idempotent(self, path: str, instance: Instance) -> bool:
        """Whether calls of *path* are known to do no harm when they run twice: by what *instance* says of it, or
        before that was learnt, by what another one of its service says."""
        own: KnownRoutes | None = instance.routes
        if own is not None and own.route(path) is not None:
            return own.idempotent(path)
        return self.known is not None and self.known.idempotent(path)

    def learn(self, instance: Instance) -> None:
        """Ask *instance* for its routes, without waiting for the answer."""
        from webmesh.known_routes import KnownRoutes  # with all of routing behind it: only for those who make calls

        instance.routes = routes = KnownRoutes(every=True)
        try:
            instance.connection.spawn("$routes", timeout=LEARN_SECONDS).when_done(
                lambda future: self._learnt(instance, routes, future)
            )
        except WebMeshError:
            instance.routes = None  # the next call asks again

    def _learnt(self, instance: Instance, routes: KnownRoutes, future: Future) -> None:
        try:
            listing: Any = future.result(0)
        except (ReplyLost, ConnectionClosed) as lost:
            if lost.code not in UNREADABLE:
                instance.routes = None  # the next call asks again
        except WebMeshError:
            pass  # it does not tell, so nothing is known
        else:
            routes.learn(listing)
            self.known = routes
