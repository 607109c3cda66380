"""Copies of what the leader of a mesh keeps, at other nodes: nothing leaves the leader before they have it.

Decides who has one, and how far each has come. Everything here runs in the leader's hub.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from webmesh.brokers.mesh_messages import fitting
from webmesh.brokers.mesh_port import MeshPort
from webmesh.deadline import Deadline
from webmesh.exceptions import ReplyLost, WebMeshError

if TYPE_CHECKING:
    from webmesh.brokers.copied_storage import CopiedStorage, Operation
    from webmesh.protocol.leadership import Leadership

COPIES = 2
"""Nodes that have a copy besides the leader: two may be killed in the same moment."""
PART = 64
"""Operations in one message at most; see `PART_SIZE`."""
ANSWER = 2.0
"""Seconds for the answer to one; who takes longer has no copy any more."""
MOST_WAITING = 10_000
"""Operations that wait for one node; one that is so far behind gets a copy anew, or another node does."""
SAFE = 5.0
"""Seconds in which an operation must be safe; as long as whoever asks waits for the answer."""
LOOK = 0.05
"""Seconds between two looks whether a change of those who have one is known to a majority."""

logger = logging.getLogger("webmesh.mesh")


class _Follower:
    """One node: what it has yet to get."""

    def __init__(self) -> None:
        self.waiting: deque[Operation] = deque()
        self.wake = Event()
        self.sent = 0
        self.synced = False
        self.job: gevent.Greenlet[..., None] | None = None


class MeshCopies:
    """See above; for one term of one leader.

    Args:
        storage: What is copied.
    """

    def __init__(self, port: MeshPort, leadership: Leadership, storage: CopiedStorage) -> None:
        self._port = port
        self._leadership = leadership
        self._storage = storage
        self._followers: dict[str, _Follower] = {}
        self._done = 0
        self._held: deque[tuple[int, Callable[[], None]]] = deque()
        self._moved = Event()
        self._stopped = False
        storage.changed = self._changed

    @property
    def _safe(self) -> int:
        """How many operations all have that should; nobody knows once another node may lead."""
        if self._stopped or not self._leadership.settled:
            return -1
        return min((self._done - len(one.waiting) - one.sent for one in self._followers.values() if one.synced),
                   default=self._done)  # fmt: skip

    def _changed(self, operation: Operation) -> None:
        self._done += 1
        for node, follower in tuple(self._followers.items()):
            follower.waiting.append(operation)
            follower.wake.set()
            if len(follower.waiting) > MOST_WAITING:
                self._drop(node)

    def after(self, act: Callable[[], None]) -> None:
        """Call *act* once everything so far is safe; in the order of these calls."""
        if self._held or self._safe < self._done:
            self._held.append((self._done, act))
        else:
            act()

    def wait(self) -> None:
        """Wait until everything so far is safe.

        Raises:
            ReplyLost: This node leads no more, or it took too long: nobody knows what will become of it.
        """
        done, deadline = self._done, Deadline(SAFE)
        while self._safe < done:
            if self._stopped or deadline.expired:
                raise ReplyLost("$engine", started=True, code=1012, reason="another node may lead now")
            self._moved.clear()
            self._moved.wait(LOOK)
            self.look()

    def look(self) -> None:
        """Something may have changed: links, the council, or how far a copy has come."""
        if self._stopped:
            return
        voters, reachable = self._leadership.council.voters, self._port.view().reachable
        for node in [node for node in self._followers if node not in reachable]:
            self._drop(node)
        wanted = [node for node in voters if node in reachable and node not in self._followers]
        for node in wanted[: COPIES - len(self._followers)]:
            self._followers[node] = follower = _Follower()
            follower.job = gevent.spawn(self._follow, node, follower)
        self._keepers()
        self._moved.set()
        while self._held and self._held[0][0] <= self._safe:
            self._held.popleft()[1]()

    def stop(self) -> None:
        """This node leads no more. What was held is told by nobody: who follows tells of the gap."""
        self._stopped = True
        self._storage.changed = None
        self._held.clear()
        self._moved.set()
        gevent.killall([one.job for one in self._followers.values() if one.job is not None], block=False)

    # ---------------------------------------------------------------------- one copy

    def _follow(self, node: str, follower: _Follower) -> None:
        try:
            follower.waiting.clear()  # what has changed since it was chosen is in the whole, too
            self._send(node, list(self._storage.whole()), reset=True)
            while True:
                while follower.waiting:
                    self._send_on(node, follower)
                if not follower.synced:
                    follower.synced = True
                    self.look()
                follower.wake.wait()
                follower.wake.clear()
        except WebMeshError as error:
            logger.info("a copy was lost", extra={"node": node, "error": type(error).__name__})
            if self._followers.get(node) is follower:
                self._drop(node)
                self.look()

    def _send_on(self, node: str, follower: _Follower) -> None:
        part = fitting(list(islice(follower.waiting, PART)))
        for _ in part:
            follower.waiting.popleft()
        follower.sent = len(part)
        self._send(node, part, reset=False)
        follower.sent = 0
        self.look()

    def _send(self, node: str, operations: list[Operation], *, reset: bool) -> None:
        whole = reset
        while operations:
            part = fitting(operations[:PART])
            operations = operations[len(part) :]
            said = {"term": self._leadership.term, "reset": reset, "operations": part}
            if whole and not operations:
                said["whole"] = True
            self._port.ask(node, "$copy", said, ANSWER)
            reset = False

    def _drop(self, node: str) -> None:
        """It has no copy any more: what it lacks is safe only when a majority knows that, or it might lead without."""
        follower = self._followers.pop(node)
        if follower.job is not None and follower.job is not gevent.getcurrent():
            follower.job.kill(block=False)
        self._keepers()

    def _keepers(self) -> None:
        keepers = (self._port.me, *(node for node, one in self._followers.items() if one.synced))
        if set(keepers) != set(self._leadership.council.keepers):
            self._leadership.keep_with(keepers)
