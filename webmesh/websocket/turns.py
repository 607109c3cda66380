"""Leader and followers: which greenlet of a connection reads, and which run handlers.

The greenlet that read a message handles it itself. Before it does, it leaves a callback with the hub.
If handling ends without a switch the callback is taken back and nothing was spawned; if handling
switches, the hub runs the callback and another greenlet takes over reading. So a slow handler never
holds up its connection, and a quick one costs no spawn (docs/ARCHITECTURE.md, "Hot path").
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeAlias, TypeVar

import gevent
from gevent import Greenlet, GreenletExit, Timeout, getcurrent
from gevent.hub import Waiter, get_hub

HOLD = 0.01
"""Seconds for which one connection's messages may hold the hub before others are served: gevent's own loop gives its
callbacks 5 ms, and twice that is not felt. A handler that takes longer by itself cannot be interrupted."""

T = TypeVar("T")
_Place: TypeAlias = "tuple[Any, Waiter[bool]]"
"""A greenlet without anything to do, and what wakes it: with True to lead, with False to leave."""


class _Relieved(BaseException):
    """Thrown into a follower that waits for the next message, when the resident is to wait for it instead."""


class Turns(Generic[T]):
    """The greenlets of one connection.

    Args:
        read: The next items, or `None` at the end; blocks.
        handle: Acts on one item; may switch.
        flush: Writes what handling produced; called when a turn is over. May switch.
        on_switch: Called in the hub, with the greenlet, when handling the current item has switched for the first time.
        on_failure: Called when a follower died of something else than the end.
        on_done: Called by a greenlet whose handling had switched and is over, before it rests. May switch.
        on_over: Called once, when nobody reads or handles any more. Whatever was given here is let go before it: its
            owners are met again from there, and what has ended would have to wait for the garbage collector.

    Attributes:
        in_flight: Items whose handling has switched and is not over, the leader's own left out; only read by others.
        since: When what is handled now was read, if several items came; else `None`, until somebody notes it. Nobody
            else reads the clock for one item that comes alone: that would cost a call half a per cent.
    """

    def __init__(
        self,
        read: Callable[[], list[T] | None],
        handle: Callable[[T], None],
        flush: Callable[[], None],
        on_switch: Callable[[Any], None],
        on_failure: Callable[[], None],
        on_done: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        on_over: Callable[[], None] | None = None,
    ) -> None:
        self._read = read
        self._handle = handle
        self._flush = flush
        self._on_switch = on_switch
        self._on_failure = on_failure
        self._on_done = on_done
        self._on_over = on_over
        self._clock = clock
        self._hub = get_hub()
        self._todo: list[T] = []  # the next one last
        self._leader: Any = None
        self._resting: list[_Place] = []  # the resident, when it has nothing to do
        self._parked: list[_Place] = []  # followers likewise
        self._handover: Any = None
        self.in_flight = 0
        self.since: float | None = None
        self._paused = False
        self._ended = False

    def run(self) -> None:
        """Lead and follow until the connection has ended and this greenlet's handler has returned.

        The calling greenlet is the one that stays while the connection is idle.
        """
        me = self._leader = getcurrent()
        try:
            self._live(me, self._resting)
        finally:
            self._end()
            self._release()

    def dismiss(self) -> None:
        """Come back to one greenlet where nobody has anything to do; called now and then, not after each message."""
        while self._parked:
            self._hub.loop.run_callback(self._parked.pop()[1].switch, False)
        if self._resting:
            self._hub.loop.run_callback(self._relieve)

    def pause(self, wait: Callable[[], bool]) -> bool:
        """While an item is handled, before anything has switched: what *wait* returns, and nobody reads meanwhile."""
        if self._leader is not getcurrent() or self._handover is None:
            return False
        self._handover.stop()
        self._paused = True
        try:
            return wait()
        finally:
            self._paused = False
            self._handover = self._hub.loop.run_callback(self._switched)

    def _live(self, me: Any, parked: list[_Place]) -> None:
        waiter: Waiter[bool] | None = None
        while True:
            self._lead(me)
            waiter = self._park(me, waiter, parked)
            if waiter is None:
                return

    def _park(self, me: Any, waiter: Waiter[bool] | None, parked: list[_Place]) -> Waiter[bool] | None:
        """Wait until the lead is handed on to *me*; returns with what it has waited, for the next time, or `None` when
        it is to leave."""
        while not self._ended:
            waiter = waiter or Waiter(self._hub)
            place: _Place = (me, waiter)
            parked.append(place)
            try:
                return waiter if waiter.get() else None
            except BaseException as thrown:
                waiter = None  # somebody may be about to call it
                with suppress(ValueError):
                    parked.remove(place)
                if isinstance(thrown, GreenletExit):
                    return None  # killed: nothing is lost with it
                if not isinstance(thrown, Timeout):  # a timer that a handler has forgotten
                    raise
        return None

    def _lead(self, me: Any) -> None:
        """Read and handle until the lead is lost or the connection has ended."""
        todo, handle, clock = self._todo, self._handle, self._clock
        run_callback, switched = self._hub.loop.run_callback, self._switched
        until = 0.0
        while True:
            if not todo and not self._read_on():
                return
            self._handover = run_callback(switched)
            if len(todo) > 1:
                self.since = now = clock()
                until = now + HOLD
            else:
                self.since = None
            while todo:
                handle(todo.pop())
                if self._leader is not me:
                    self._retire()
                    return
                if todo and clock() > until:
                    break
            self._handover.stop()
            if todo:
                self._give_way()

    def _give_way(self) -> None:
        """Let the hub serve others in the middle of a batch; nothing is being handled, so nobody else is to lead."""
        with suppress(Timeout):  # a timer that a handler has forgotten
            self._flush()
            gevent.sleep(0)

    def _read_on(self) -> bool:
        """Write what there is, and read what comes next; False at the end."""
        while True:
            try:
                self._flush()
                items = self._read()
            except Timeout:  # a timer that a handler has forgotten
                continue
            if items is None:
                self._end()
                return False
            if items:
                break
        if len(items) > 1:
            items.reverse()
        self._todo += items
        return True

    def _switched(self) -> None:
        """In the hub: the leader's handler has switched, so someone else must read."""
        self._handover = None
        self._on_switch(self._leader)
        self.in_flight += 1
        if self._resting or self._parked:
            self._leader, waiter = (self._resting or self._parked).pop()
            waiter.switch(True)
        else:
            # Switched to at once: one that only was to start could be killed unseen, and nobody would read.
            self._leader = follower = Greenlet(self._follow)
            follower.switch()

    def _relieve(self) -> None:
        """In the hub: give the lead back to the resident, if the leader does nothing but wait for what comes next.

        Without it a connection with one slow handler would keep two greenlets ever after.
        """
        # A leader that handles has a handover waiting, or has handed on.
        handles = self._handover is not None and self._handover.pending
        if self._ended or self._paused or handles or not self._resting:
            return
        follower = self._leader
        self._leader, waiter = self._resting.pop()
        follower.throw(_Relieved)
        waiter.switch(True)

    def _follow(self) -> None:
        try:
            self._live(getcurrent(), self._parked)
        except _Relieved:
            pass
        except BaseException:
            # Handlers' errors never come here: this is a kill, or a fault of ours. Without a reader the
            # connection would hang, so it ends.
            self._end()
            self._on_failure()
            raise

    def _retire(self) -> None:
        """A handler that had lost the lead is over."""
        try:
            self._flush()
            self._on_done()
        finally:
            self.in_flight -= 1
            if self._ended:
                self._release()

    def _end(self) -> None:
        self._ended = True
        if self._handover is not None:
            self._handover.stop()
        for parked in (self._resting, self._parked):
            while parked:
                self._hub.loop.run_callback(parked.pop()[1].switch, False)

    def _release(self) -> None:
        """Let go of whoever runs this, once nothing is left to do for them."""
        if self.in_flight or self._todo:
            return
        over, self._on_over = self._on_over, None
        self._flush = self._on_failure = self._on_done = _nothing
        self._read, self._handle, self._on_switch = _nothing, _nobody, _nobody
        self._leader = None
        if over is not None:
            over()


def _nothing() -> None:
    return None


def _nobody(_: object) -> None:
    return None
