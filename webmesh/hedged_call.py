"""A call that goes to a second instance when the first one takes long: the first reply counts, the other call ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from webmesh.arrivals import Arrivals
from webmesh.deadline import Clock
from webmesh.exceptions import Cancelled, ConnectionClosed, RequestTimeout

if TYPE_CHECKING:
    from webmesh.instances import Instance
    from webmesh.service_request import ServiceRequest
    from webmesh.websocket.future import Future

Ended = Callable[["Instance", "ServiceRequest", float, "BaseException | None"], None]
"""Told of the end of each of the two: when it was begun, and with which error."""


class HedgedCall:
    """One attempt at a call, on up to two instances.

    Args:
        second: The other instance, when it is time for it; `None`: there is to be none.
    """

    __slots__ = ("_arrivals", "_began", "_clock", "_ended", "_futures", "_request", "_second")

    def __init__(
        self, request: ServiceRequest, second: Callable[[], Instance | None], ended: Ended, clock: Clock
    ) -> None:
        self._request = request
        self._second = second
        self._ended = ended
        self._clock = clock
        self._arrivals: Arrivals[Instance] = Arrivals()
        self._futures: dict[Instance, Future] = {}
        self._began: dict[Instance, float] = {}

    def run(self, first: Instance, delay: float) -> Any:
        """The first reply of either; an error only when there is no reply to wait for.

        Raises:
            ConnectionClosed: Nothing was sent.
            RequestTimeout, ReplyLost, RemoteError: As any call; of two errors the later one.
        """
        try:
            self._begin(first)
            left = self._request.deadline.remaining()
            arrived = self._arrivals.take(delay if left is None else min(left, delay))
            if arrived is None:
                second = self._second()
                if second is not None:
                    self._begin_second(second)
                arrived = self._arrivals.take(self._request.deadline.remaining())
            return self._first_reply(arrived)
        finally:
            self._give_up()

    def _begin(self, instance: Instance) -> None:
        request = self._request
        self._began[instance] = self._clock()
        future = instance.connection.start_call(
            request.path, request.payload, request.deadline.remaining(), request.headers
        )
        self._futures[instance] = future
        instance.calls.add(self)
        self._arrivals.expect(future, instance)

    def _begin_second(self, instance: Instance) -> None:
        try:
            self._begin(instance)
        except (ConnectionClosed, RequestTimeout):
            pass  # then the first one is all there is

    def _first_reply(self, arrived: Instance | None) -> Any:
        while arrived is not None:
            try:
                value = self._futures[arrived].result(0)
            except (Exception, Cancelled) as error:
                self._over(arrived, error)
                if not self._futures:
                    raise
            else:
                self._over(arrived, None)
                return value
            arrived = self._arrivals.take(self._request.deadline.remaining())
        late = RequestTimeout(self._request.path, None)
        for instance in tuple(self._futures):
            self._futures[instance].cancel()
            self._over(instance, late)
        raise late

    def _over(self, instance: Instance, error: BaseException | None) -> None:
        del self._futures[instance]
        instance.calls.discard(self)
        self._ended(instance, self._request, self._began[instance], error)

    def _give_up(self) -> None:
        """End what is still on its way: it was overtaken, or nobody wants it any more."""
        for instance, future in tuple(self._futures.items()):
            future.cancel()
            self._over(instance, Cancelled("overtaken"))
