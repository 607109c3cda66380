"""A call to a service, sent to as many of its instances as it needs and may.

Decides who is asked next and whether another one may be asked at all; which instance is best is `balancing`'s, what may
be sent again `retries`'. Picks in the caller's own thread: only connections cross to theirs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from webmesh.breaker import NODE_FAULTS
from webmesh.call import CURRENT, follow_current
from webmesh.call_policy import BALANCES
from webmesh.deadline import Clock, Deadline
from webmesh.exceptions import (
    NOT_STARTED, Cancelled, ConnectionClosed, Overloaded, RemoteError, RequestTimeout, ServiceNotFound, TransportError,
    Unavailable,
)  # fmt: skip
from webmesh.hedged_call import HedgedCall
from webmesh.instances import Instance, usable
from webmesh.outliers import ejection, ejection_time
from webmesh.retries import RETRIABLE, RetryTokens, exhausted, retry_delay, retry_reason, surely_not_begun
from webmesh.websocket.hub import Completion

if TYPE_CHECKING:
    from webmesh.observer import Observer
    from webmesh.options import RetryBudget
    from webmesh.service_directory import Directory
    from webmesh.service_request import ServiceRequest
    from webmesh.service_routes import RouteState

LOOK_AGAIN = 0.5
"""Seconds after which a call that finds nobody looks again, if it is told of no change: a rest may be over."""
ANY = tuple(balance for balance in BALANCES if balance != "key")
"""Ways to choose that have no say where there is one instance. The others: one needs a key, one is the caller's own."""
REFUSED_REST = 0.5
"""Seconds for which an instance gets nothing new that has refused a call without saying how long, as one that drains.
By then the news of that is here."""


class ServiceAttempts:
    """Sends the calls of one node to services.

    Args:
        budget: `None` sends nothing twice.
        zone: Where this node is.
    """

    def __init__(
        self, directory: Directory, budget: RetryBudget | None, observer: Observer, *, zone: str | None, clock: Clock
    ) -> None:
        self._directory = directory
        self._tokens = None if budget is None else RetryTokens(budget)
        self._observer = observer
        self._zone = zone
        self._clock = clock

    # ------------------------------------------------------------------- one call

    def run(self, request: ServiceRequest) -> Any:
        """The reply to a call, within its route's bounds."""
        route = request.state.route(request.path)
        breaker = route.breaker
        route.enter(request, request.path, request.deadline)
        try:
            permit = breaker.enter(self._clock())
            if permit is None:
                raise exhausted(Unavailable(
                    f"calls of {route.name} have failed too often", details=NOT_STARTED,
                    retry_after=breaker.wait(self._clock()),
                ))  # fmt: skip
            try:
                value = self._attempt(request, route)
            except BaseException as error:
                self._judge(request, route, permit, error)
                raise
        finally:
            route.leave(request)
        if breaker.succeeded(permit, self._clock()):
            self._observer.breaker_changed(request.service, route.name, "closed")
        return value

    def _judge(self, request: ServiceRequest, route: RouteState, permit: int, error: BaseException) -> None:
        """Tell the breaker what a call has ended with."""
        now = self._clock()
        if isinstance(error, NODE_FAULTS):
            if route.breaker.failed(permit, now):
                self._observer.breaker_changed(request.service, route.name, "open")
        elif isinstance(error, RemoteError) and not isinstance(error, Cancelled):
            if route.breaker.succeeded(permit, now):
                self._observer.breaker_changed(request.service, route.name, "closed")
        else:
            route.breaker.left(permit)

    def _attempt(self, request: ServiceRequest, route: RouteState) -> Any:
        """Send it as often as it needs and may."""
        tokens = self._tokens
        if tokens is not None and tokens.left < tokens.most:
            tokens.made(1)
        error: Exception | None = None
        attempt = 1
        while True:
            try:
                instance = self._find(request)
            except (ServiceNotFound, Unavailable, RequestTimeout) as none:
                if error is not None:  # what became of the call is the graver news
                    raise exhausted(error) from none
                raise
            try:
                return self._send(instance, request, route)
            except ConnectionClosed as closed:  # it ended since that look, and nothing was sent
                if instance in request.tried:
                    self._wait(request, retry_delay(None, 1, random.random))
                request.tried += (instance,)
                if request.deadline.expired:
                    raise closed if error is None else error from closed
            except RETRIABLE as failure:
                error = failure
                self._before_next(instance, request, error, attempt)
                attempt += 1

    def _before_next(self, instance: Instance, request: ServiceRequest, error: Exception, attempt: int) -> None:
        """Wait before the next attempt, or raise *error* if there is to be none."""
        may_repeat = self._may_repeat(instance, request)
        reason = retry_reason(error, repeatable=may_repeat or request.keyed)
        tokens = self._tokens
        if tokens is None or reason is None:
            raise error if attempt == 1 and tokens is not None else exhausted(error)
        if attempt >= request.state.policy.attempts or not tokens.failed():
            raise exhausted(error)
        if may_repeat or surely_not_begun(error):
            request.tried += (instance,)
        else:  # only the process that knows the key can tell a repeat from a new call
            request.pinned = (instance.node, instance.epoch)
        delay = self._delay(request, error, attempt)
        left = request.deadline.remaining()
        if left is not None and delay >= left:
            raise exhausted(error)
        self._observer.call_retried(request.path, reason)
        self._wait(request, delay)

    def _may_repeat(self, instance: Instance, request: ServiceRequest) -> bool:
        """Whether another instance may run what this one may have run."""
        if request.keyed and request.state.policy.shared_keys:
            return True
        if request.idempotent is None:
            return request.state.idempotent(request.path, instance)
        return request.idempotent

    def _delay(self, request: ServiceRequest, error: Exception, attempt: int) -> float:
        now = self._clock()
        others = request.pinned is None and any(
            one.ready(now) and one not in request.tried for one in self._candidates(request)
        )
        if not others:  # those who were asked are asked again, and not before they wish
            return retry_delay(getattr(error, "retry_after", None), attempt, random.random)
        # At once the first time: somebody else's trouble is no concern of theirs, unless they all are in trouble.
        return 0.0 if attempt == 1 else retry_delay(None, attempt - 1, random.random)

    def _wait(self, request: ServiceRequest, seconds: float) -> None:
        if seconds <= 0:
            return
        pause = Completion[None]()  # not gevent's sleep, which would make a hub for a thread that has none
        follow_current(pause)
        with suppress(TimeoutError):
            pause.wait(seconds)

    # ------------------------------------------------------------------ who is asked

    def _candidates(self, request: ServiceRequest) -> Sequence[Instance]:
        node = request.node if request.pinned is None else request.pinned[0]
        if node is None:
            return self._directory.instances(request.service)
        if request.node is not None:
            found = self._directory.node(node)
            known: Sequence[Instance] = () if found is None else (found,)
        else:
            known = [one for one in self._directory.instances(request.service) if one.node == node]
        return known if request.pinned is None else [one for one in known if one.epoch == request.pinned[1]]

    def _find(self, request: ServiceRequest) -> Instance:
        """The instance that is asked next; waits where there is none.

        Raises:
            ServiceNotFound, Unavailable: There is none, or none that can be reached.
            RequestTimeout: There was none in time.
        """
        known = self._candidates(request)
        if len(known) == 1 and not request.tried and request.balance in ANY and known[0].ready(self._clock()):
            return known[0]  # there is nothing to choose
        return self._choose(request, known) or self._find_later(request)

    def _choose(self, request: ServiceRequest, known: Sequence[Instance]) -> Instance | None:
        """The best of those that are *known*; `None` where none of them can be reached."""
        state, balance = request.state, request.balance
        zone = None if balance == "key" else self._zone
        found = usable(known, self._clock(), zone=zone, share=state.policy.same_zone, without=request.tried)
        return state.balancer.choose(found, balance, request.key, random.random) if found else None

    def _find_later(self, request: ServiceRequest) -> Instance:
        patience: Deadline | None = None
        while True:
            change = self._directory.changed()  # before the look, or news that comes between the two would be missed
            known = self._candidates(request)
            if request.deadline.expired:
                raise RequestTimeout(request.path, None)
            instance = self._choose(request, known)
            if instance is not None:
                return instance
            if known:
                patience = None
            elif patience is None:
                patience = request.deadline.tightened(request.state.policy.find_wait)
            self._await_change(request, change, patience or request.deadline, known=bool(known))

    def _await_change(
        self, request: ServiceRequest, change: Completion[None], until: Deadline, *, known: bool
    ) -> None:
        left = until.remaining()
        if request.fail_fast or until.expired:
            if known:
                raise Unavailable(f"no instance of {request.target} can be reached", details=NOT_STARTED)
            raise ServiceNotFound(f"no instance of {request.target} is known")
        with suppress(TimeoutError):
            change.wait(LOOK_AGAIN if left is None else min(left, LOOK_AGAIN))
        handled = CURRENT.get()
        if handled is not None and handled.cancelled:  # nothing can be thrown into a thread that waits with others
            raise Cancelled("given up by the asking side")

    def send_once(self, request: ServiceRequest, send: Callable[[Instance], Any]) -> Any:
        """What *send* returns for the first instance that takes it."""
        while True:
            instance = self._find(request)
            try:
                return send(instance)
            except ConnectionClosed:  # nothing was sent
                request.tried += (instance,)
                if request.deadline.expired:
                    raise

    # -------------------------------------------------------------------- one attempt

    def _send(self, instance: Instance, request: ServiceRequest, route: RouteState) -> Any:
        deadline, began = request.deadline, self._clock()
        left = deadline.at - began
        if left <= 0:
            raise RequestTimeout(request.path, None)
        if instance.routes is None:
            request.state.learn(instance)
        hedge = request.state.policy.hedge
        if hedge is not False:
            delay = self._hedge_after(instance, request, route)
            if delay is not None:
                second = partial(self._second, request, route, instance)
                return HedgedCall(request, second, self._ended, self._clock).run(instance, delay)
        instance.calls.add(request)
        try:
            reply = instance.connection.start_call(
                request.path, request.payload, left, request.headers, None, deadline
            ).result()
        except BaseException as error:
            self._ended(instance, request, began, error)
            raise
        finally:
            instance.calls.discard(request)
        now = self._clock()
        instance.answered(now - began, now)
        if hedge is True:
            route.hedging.took(now - began)
        return reply

    def _hedge_after(self, instance: Instance, request: ServiceRequest, route: RouteState) -> float | None:
        delay = route.hedging.delay()
        if delay is None:
            return None
        may = request.idempotent
        if may is None:
            may = request.state.idempotent(request.path, instance)
        return delay if may else None

    def _second(self, request: ServiceRequest, route: RouteState, first: Instance) -> Instance | None:
        """Who gets a call that *first* has not answered yet; `None`: nobody."""
        now = self._clock()
        without = (*request.tried, first)
        others = [one for one in self._candidates(request) if one.ready(now) and one not in without]
        if not others or not route.hedging.afford():
            return None
        self._observer.call_hedged(request.path)
        return request.state.balancer.choose(others, request.balance, request.key, random.random)

    def _ended(self, instance: Instance, request: ServiceRequest, began: float, error: BaseException | None) -> None:
        """Note what an attempt tells of its instance."""
        now = self._clock()
        seconds = now - began
        if error is None:
            instance.answered(seconds, now)
            if request.state.policy.hedge is True:
                request.state.route(request.path).hedging.took(seconds)
        elif isinstance(error, TransportError):
            pass  # nothing was sent
        elif isinstance(error, Unavailable | Overloaded) and (
            error.retry_after is not None or error.details == NOT_STARTED or isinstance(error, Overloaded)
        ):
            # Too much to do is no fault: left out, it would be for longer than it wants, and more each time.
            asked = REFUSED_REST if error.retry_after is None else error.retry_after
            instance.rest(now + min(asked, request.state.policy.rest_longest))
        elif isinstance(error, NODE_FAULTS):
            instance.took_at_least(seconds, now)
            self._failed(instance, request, now)
        elif isinstance(error, RemoteError) and not isinstance(error, Cancelled):
            instance.succeeded(now)
        else:
            instance.took_at_least(seconds, now)  # given up, or overtaken by another one

    def _failed(self, instance: Instance, request: ServiceRequest, now: float) -> None:
        instance.failed(now)
        policy = request.state.policy
        why = ejection(instance, self._directory.instances(request.service), policy, now)
        if why is not None:
            seconds = ejection_time(instance, policy, now)
            instance.eject(now + seconds)
            self._observer.instance_ejected(request.service, instance.node, why, seconds)
