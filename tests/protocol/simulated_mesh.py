"""A simulated network of memberships: latency, loss, partitions and kills, on a clock of its own.

Links are datagrams: nothing tells of an end, so all that is noticed is noticed by gossip alone. What each node sends
is counted as it would stand on the wire: JSON, with envelope and frame.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from webmesh.options import GossipSettings
from webmesh.protocol.membership import Forward, Membership
from webmesh.protocol.node_record import NodeRecord
from webmesh.protocol.probing import Probe

TICK = 0.1
ENVELOPE = len('{"path":"$gossip","id":12345,"data":}') + 8
"""Bytes around the payload of a request: its envelope, and the head of a masked frame. A reply has fewer."""

Outcome = Callable[[Any], None]
"""Told of the answer to a request, or `None`."""


@dataclass
class Node:
    """One process."""

    id: str
    membership: Membership
    running: bool = True
    sent: int = 0
    sent_bytes: int = 0
    lost_seen: list[str] = field(default_factory=list)
    """Whom it has held for lost, in order."""
    late: list[Callable[[], None]] | None = None
    """What happens when it goes on, if it is stopped."""


class Mesh:
    """Nodes and what is between them.

    Args:
        loss: Part of the messages that get lost.
    """

    def __init__(self, *, seed: int = 1, loss: float = 0.0, settings: GossipSettings | None = None) -> None:
        self.now = 1000.0
        self.random = Random(seed)
        self.loss = loss
        self.settings = settings or GossipSettings()
        self.nodes: dict[str, Node] = {}
        self.cut: set[tuple[str, str]] = set()
        """Pairs of which the first does not get through to the second."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    # ------------------------------------------------------------------------ nodes

    def add(self, node: str, *, epoch: int = 1, known: str | None = None, **parts: Any) -> Node:
        """Start one; it joins by the node *known*."""
        record = NodeRecord(id=node, epoch=epoch, addresses=(f"ws://10.0.0.1:{4269 + len(self.nodes)}",), **parts)
        made = Node(node, Membership(record, self.settings, Random(self.random.random()), self.now))
        self.nodes[node] = made
        if known is not None:
            self.join(made, self.nodes[known])
        self._at(self.random.random() * TICK, lambda: self._tick(made))
        return made

    def join(self, one: Node, other: Node) -> None:
        """What a link's `$join` does: each learns of the other and of whom it knows."""
        for here, there in ((one, other), (other, one)):
            known = there.membership.full_state(self.now)
            here.sent_bytes += len(json.dumps(known))
            here.membership.joined(there.membership.me, self.now)
            here.membership.merge(known, self.now, there.membership.me.id)

    def fill(self, count: int, name: str = "shop") -> None:
        """So many nodes that know each other from the beginning."""
        for number in range(count):
            self.add(f"n{number:03}", name=name, zone="ab"[number % 2], release="1.4.2")
        for node in self.nodes.values():
            for other in self.nodes.values():
                if node is not other:
                    node.membership.joined(other.membership.me, self.now)
            node.membership._news._told.clear()  # all know: nothing to tell
            node.membership.changes()

    def kill(self, node: str) -> None:
        """It ends without a word."""
        self.nodes[node].running = False

    def stop(self, node: str) -> None:
        """It stands still, as by SIGSTOP: what is sent to it gets lost, and its own timers expire when it goes on."""
        self.nodes[node].running, self.nodes[node].late = False, []

    def go_on(self, node: str) -> None:
        """As by SIGCONT."""
        stopped = self.nodes[node]
        late, stopped.late, stopped.running = stopped.late or [], None, True
        for action in late:
            action()
        self._tick(stopped)

    def restart(self, node: str, known: str) -> Node:
        """It is there again, as another incarnation."""
        old = self.nodes[node]
        old.running = False
        for other in self.running:
            other.membership.link_lost(node, self.now)
        return self.add(node, epoch=old.membership.me.epoch + 1, known=known)

    @property
    def running(self) -> list[Node]:
        """Those that run."""
        return [node for node in self.nodes.values() if node.running]

    def partition(self, one: Iterable[str], other: Iterable[str], *, both: bool = True) -> None:
        """Cut *one* side off from the *other*: nothing gets there, and with *both* nothing back."""
        one, other = list(one), list(other)
        self.cut |= set(itertools.product(one, other))
        if both:
            self.cut |= set(itertools.product(other, one))

    # ------------------------------------------------------------------------ time

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, reached: Callable[[], bool], most: float) -> float | None:
        """The seconds until *reached*, looked at ten times a second; `None` if not within *most*."""
        start = self.now
        look_at = start
        while self._queue and self._queue[0][0] <= start + most:
            self.now, _, action = heapq.heappop(self._queue)
            action()
            if self.now >= look_at:
                look_at = self.now + 0.1
                if reached():
                    return self.now - start
        self.now = start + most
        return None

    def _at(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._numbers), action))

    # ------------------------------------------------------------------------ network

    def _tick(self, node: Node) -> None:
        if not node.running or self.nodes[node.id] is not node:
            return
        self._send_all(node, node.membership.tick(self.now))
        node.lost_seen += [change.record.id for change in node.membership.changes() if change.after == "lost"]
        self._at(TICK, lambda: self._tick(node))

    def _send_all(self, node: Node, probes: Iterable[Probe]) -> None:
        for probe in probes:
            self._send(node, probe)

    def _send(self, node: Node, probe: Probe) -> None:
        def ended(reply: Any) -> None:
            if reply is None:
                self._send_all(node, node.membership.failed(probe, self.now))
            else:
                self._send_all(node, node.membership.answered(probe, reply, self.now))

        self._request(node, probe.to, probe.message, probe.timeout, ended)

    def _request(self, node: Node, to: str, message: Any, timeout: float, ended: Outcome) -> None:
        waiting = [True]

        def end(reply: Any) -> None:
            if node.late is not None:
                node.late.append(lambda: end(reply))
            elif waiting and node.running:
                waiting.clear()
                ended(reply)

        self._at(timeout, lambda: end(None))
        self._carry(node, to, message, lambda: self._answer(node, self.nodes[to], message, end))

    def _answer(self, asker: Node, node: Node, message: Any, end: Outcome) -> None:
        answer = node.membership.received(asker.id, self._copied(message), self.now)
        if not isinstance(answer, Forward):
            self._reply(node, asker.id, answer, end)
            return

        def ended(reply: Any) -> None:
            self._reply(node, asker.id, node.membership.forwarded(answer, reply, self.now), end)

        self._request(node, answer.target, answer.message, answer.timeout, ended)

    def _reply(self, node: Node, to: str, reply: Any, end: Outcome) -> None:
        self._carry(node, to, reply, lambda: end(self._copied(reply)))

    def _carry(self, node: Node, to: str, message: Any, arrived: Callable[[], None]) -> None:
        node.sent += 1
        node.sent_bytes += len(json.dumps(message, separators=(",", ":"))) + ENVELOPE
        target = self.nodes[to]

        def arrive() -> None:
            if target.running and (node.id, to) not in self.cut:
                arrived()

        if self.random.random() >= self.loss:
            self._at(0.001 + self.random.random() * 0.02, arrive)

    @staticmethod
    def _copied(message: Any) -> Any:
        return json.loads(json.dumps(message))

    # ------------------------------------------------------------------------ looking

    def views(self) -> list[dict[str, str]]:
        """What each running node believes of all, itself included."""
        return [
            {node.id: "ok", **{other: member.state for other, member in node.membership.members.items()}}
            for node in self.running
        ]

    def all_hold(self, node: str, state: str | None) -> bool:
        """Whether all others that run hold *node* for this; `None`: know nothing of it."""
        others = [other for other in self.running if other.id != node]
        return all(_state(other, node) == state for other in others)

    def all_equal(self) -> bool:
        """Whether all that run know all that run as ok, by the same record, and agree about everything else."""
        views = self.views()
        records = [
            {other: member.record for other, member in node.membership.members.items()}
            | {node.id: node.membership.me}
            for node in self.running
        ]
        alive = all(view.get(node.id) == "ok" for view in views for node in self.running)
        return alive and all(view == views[0] for view in views) and all(r == records[0] for r in records)

    def reset_traffic(self) -> None:
        """Count what is sent from now on."""
        for node in self.nodes.values():
            node.sent = node.sent_bytes = 0

    def traffic(self, seconds: float) -> tuple[float, float, float]:
        """Messages and bytes a second that a node sends, on average, and bytes of the one that sends most."""
        nodes = self.running
        sent = sum(node.sent for node in nodes) / len(nodes) / seconds
        sizes = [node.sent_bytes / seconds for node in nodes]
        return sent, sum(sizes) / len(sizes), max(sizes)


def _state(node: Node, other: str) -> str | None:
    member = node.membership.members.get(other)
    return None if member is None else member.state
