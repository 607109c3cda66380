"""Who leads the mesh's engine, carried out: ballots are sent, answers told, and whoever waits for a leader is woken.

The rules are `protocol.leadership`'s.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from webmesh.brokers.mesh_port import MeshPort
from webmesh.exceptions import WebMeshError
from webmesh.protocol.leadership import Ballot, Leadership

TICK = 0.1
"""Seconds between two looks."""
ANSWER = 1.0
"""Seconds for the answer to a ballot."""
ALONE = 3.0
"""Seconds in which a node that was told of others must have found one, before it begins without them."""

MET = 1.0
"""Seconds that a node with links waits for the leader, who tells new links at once, before it begins without one."""

logger = logging.getLogger("webmesh.mesh")


class MeshCouncil:
    """One node's part in it; everything in the hub.

    Args:
        changed: Called, without waiting, with the leader's id when it is another one than before, or none.
        looked: Called, likewise, whenever anything may have come of it.

    Attributes:
        leadership: The rules, and what they have come to.
    """

    def __init__(
        self,
        port: MeshPort,
        changed: Callable[[str | None], object],
        looked: Callable[[], object] = lambda: None,
    ) -> None:
        self._port = port
        self._changed = changed
        self._looked = looked
        alone_after = ALONE if port.expects else self._patience
        self.leadership = Leadership(port.me, port.founded, time.monotonic(), random.random, alone_after=alone_after)
        self._waits = port.expects
        self._told: tuple[str | None, int] = (None, 0)
        self._moved = Event()
        self._jobs: set[gevent.Greenlet[..., None]] = set()

    @property
    def leads(self) -> bool:
        """Whether this node leads now."""
        return self.leadership.leads(time.monotonic())

    @property
    def leader(self) -> str | None:
        """Who does, as far as this node knows."""
        return self.leadership.leader(time.monotonic())

    def has_keepers(self, count: int) -> bool:
        """Whether there is a leader, and *count* nodes that can be reached, or all of these, keep what it keeps."""
        near = {self._port.me, *self._port.linked()}
        keepers = near.intersection(self.leadership.council.keepers)
        return self.leader is not None and len(keepers) >= min(count, len(near))

    def start(self) -> None:
        """Begin to take part."""
        self._look()
        self._spawn(self._beat)

    def stop(self) -> None:
        """End; whoever follows need not wait."""
        for ballot in self.leadership.resign(time.monotonic(), self._port.view()):
            self._port.tell(ballot.to, "$resign", ballot.message)
        gevent.killall(list(self._jobs), block=False)

    def resigned(self, sender: str, payload: Any) -> None:
        """`$resign`."""
        self.received(sender, payload)

    def await_leader(self, seconds: float) -> str | None:
        """The leader, as soon as there is one within *seconds*."""
        until = time.monotonic() + seconds
        while (leader := self.leader) is None and time.monotonic() < until:
            self._moved.clear()
            self._moved.wait(min(TICK, max(0.0, until - time.monotonic())))
        return leader

    def received(self, sender: str, payload: Any) -> dict[str, Any]:
        """Answer a `$lead`."""
        reply = self.leadership.received(sender, payload, time.monotonic(), self._port.view())
        self._look()
        return reply

    @property
    def _patience(self) -> float:
        """Seconds until it begins alone, when it has looked for others: what it took meanwhile would be lost."""
        return MET if self._port.linked() else 0.0

    def _beat(self) -> None:
        while True:
            try:
                self._tick()
            except Exception as error:  # a supervisor's edge: without it nobody would lead again
                logger.error("the council could not be looked after", exc_info=error)
            gevent.sleep(TICK)

    def _tick(self) -> None:
        if self._waits and not self._port.expects:
            self._waits = False  # once: later on whoever asks too often keeps others from being chosen
            self.leadership.alone(time.monotonic() + self._patience)
        for ballot in self.leadership.tick(time.monotonic(), self._port.view()):
            self._spawn(self._send, ballot)
        self._look()

    def _send(self, ballot: Ballot) -> None:
        try:
            reply = self._port.ask(ballot.to, "$lead", ballot.message, ANSWER)
        except WebMeshError:
            return
        self.leadership.answered(ballot, reply, time.monotonic(), self._port.view())
        self._look()

    def _look(self) -> None:
        leader = self.leader
        now = (leader, self.leadership.term if leader == self._port.me else 0)
        if now != self._told:
            self._told = now
            self._moved.set()
            logger.info("the mesh is led", extra={"leader": leader})
            self._changed(leader)
        self._looked()

    def _spawn(self, job: Callable[..., None], *args: Any) -> None:
        greenlet = gevent.spawn(job, *args)
        self._jobs.add(greenlet)
        greenlet.rawlink(self._jobs.discard)
