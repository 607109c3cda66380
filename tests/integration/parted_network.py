"""Three nodes of a mesh, each in a network namespace of its own, one of which is cut off for a while.

`python -m tests.integration.parted_network both|out SECONDS` prints what came of it, in JSON; needs root, `ip`
and `tc`.
"both": nothing gets to the node or from it; "out": it hears the others, which do not hear it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.mesh_processes import MeshProcess, NodeError

HEALING = 10.0
"""Seconds in which all must know the same again."""
NOTHING = ("tbf", "rate", "8kbit", "burst", "10", "limit", "10")
"""A queue that no packet fits into."""


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True)


class Network:
    """A bridge, and a namespace with an address for each node."""

    def __init__(self, count: int, stack: ExitStack) -> None:
        mark = f"wm{os.getpid()}"
        self.hub, self.spaces = f"{mark}-hub", [f"{mark}-{number}" for number in range(count)]
        for space in (self.hub, *self.spaces):
            ip("netns", "add", space)
            stack.callback(subprocess.run, ["ip", "netns", "del", space])
        ip("-n", self.hub, "link", "add", "br0", "type", "bridge")
        ip("-n", self.hub, "link", "set", "br0", "up")
        for number, space in enumerate(self.spaces):
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "link", "add", "e0", "type", "veth", "peer", "name", f"v{number}", "netns", self.hub)
            ip("-n", self.hub, "link", "set", f"v{number}", "master", "br0", "up")
            ip("-n", space, "addr", "add", f"192.0.2.{number + 1}/24", "dev", "e0")
            ip("-n", space, "link", "set", "e0", "up")

    def _queue(self, number: int, do: str, how: str, *queue: str) -> None:
        ends = [(self.spaces[number], "e0")] + ([(self.hub, f"v{number}")] if how == "both" else [])
        for space, device in ends:
            ip("netns", "exec", space, "tc", "qdisc", do, "dev", device, "root", *queue)

    def cut(self, number: int, how: str) -> None:
        """Cut one off."""
        self._queue(number, "add", how, *NOTHING)

    def heal(self, number: int, how: str) -> None:
        """Undo it."""
        self._queue(number, "del", how)


class Load(threading.Thread):
    """One node publishes, and calls what may run once only, until it is told to stop."""

    def __init__(self, node: MeshProcess, number: int, service: str) -> None:
        super().__init__(daemon=True)
        self.node, self.number, self.service = node, number, service
        self.stopped = False
        self.acknowledged: list[str] = []
        self.errors: Counter[str] = Counter()

    def run(self) -> None:
        """The thread."""
        count = 0
        while not self.stopped:
            count += 1
            token = f"{self.number}-{count}"
            if self._try("publish", topic="kept/x", payload=token):
                self.acknowledged.append(token)
            self._try("call", service=self.service, path="/once", payload=token, timeout=2)
            time.sleep(0.02)

    def _try(self, do: str, **arguments: Any) -> bool:
        try:
            self.node.ask(do, **arguments)
        except NodeError as error:
            self.errors[str(error.args[0])] += 1
            return False
        except TimeoutError:
            self.errors["hung"] += 1
            return False
        return True


def until(condition: Callable[[], object], seconds: float) -> float | None:
    """After how many seconds it held."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(0.05)
    return time.monotonic() - began


def part(how: str, seconds: float) -> dict[str, Any]:
    """The story: the leader is the one that is cut off."""
    with ExitStack() as stack:
        ledger = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "ledger"
        network, nodes = Network(3, stack), []
        for number, space in enumerate(network.spaces):
            node = MeshProcess(
                f"n{number}", ["ws://192.0.2.1:4270"][:number], ledger, prefix=["ip", "netns", "exec", space],
                host=f"192.0.2.{number + 1}", port=4270,
            )  # fmt: skip
            stack.callback(node.close)
            nodes.append(node)

        def settled() -> bool:
            states = [node.ask("state") for node in nodes]
            leaders = {state["leader"] for state in states}
            alike = all(3 == [state for _, state in one["nodes"]].count("ok") for one in states)
            return alike and len(leaders) == 1 and None not in leaders

        assert until(settled, 20) is not None, "they did not find each other"
        for node in nodes:
            node.ask("watch_lead")
        first = next(number for number, node in enumerate(nodes) if node.ask("state")["leads"])
        loads = [Load(node, number, f"n{(number + 1) % 3}") for number, node in enumerate(nodes)]
        for load in loads:
            load.start()
        time.sleep(0.5)
        network.cut(first, how)
        time.sleep(seconds)
        network.heal(first, how)
        healed = until(settled, 30)
        for load in loads:
            load.stopped = True
        for load in loads:
            load.join(30)
        return _outcome(nodes, loads, ledger) | {"healed": healed}


def _outcome(nodes: list[MeshProcess], loads: list[Load], ledger: Path) -> dict[str, Any]:
    spans = [(*span, number) for number, node in enumerate(nodes) for span in node.ask("leading")]
    pairs = [(one, other) for one in spans for other in spans if one[2] < other[2]]
    both = [pair for pair in pairs if max(pair[0][0], pair[1][0]) < min(pair[0][1], pair[1][1])]
    runs = Counter(line for line in ledger.read_text().splitlines() if line.startswith("once"))
    offset = nodes[0].ask("publish", topic="kept/x", payload="last")
    past = [node.ask("history", topic="kept/x") for node in nodes]
    acknowledged = {token for load in loads for token in load.acknowledged}
    silent = []
    for number, node in enumerate(nodes):
        took = node.ask("took")
        missed = acknowledged - {payload for _, payload, _ in took["heard"]}
        if missed and "gap" not in {event for _, event in took["events"]}:
            silent.append([number, len(missed)])
    return {
        "leaders": len({number for *_, number in spans}), "led at once": both, "runs": sum(runs.values()),
        "twice": [line for line, times in runs.items() if times > 1], "offset": offset,
        "same past": past[0] == past[1] == past[2] and past[0][-1:] == ["last"], "missed untold": silent,
        "errors": sorted({name for load in loads for name in load.errors}), "acknowledged": len(acknowledged),
        "lost": len(acknowledged - set(past[0])),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(part(sys.argv[1], float(sys.argv[2]))))
