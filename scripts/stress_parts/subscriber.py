"""Subscriptions whose books survive a SIGKILL: `subscriber URL LEDGER history|work TOPIC…`, until its input ends.

With `history` each topic is subscribed to from the position where the ledger ends, by this process or by one that was
killed before it. With `work` the topics are patterns, each a group's, and a message is done when it is in the ledger.

Once it has subscribed, there is a file of the ledger's name with `.ready` after it. A line of the ledger is a list in
JSON: [topic, offset, epoch, payload], or [topic, "gap"] where some are known to be lost.
"""

import sys

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402
import select  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from webmesh import Backoff, Message, Position, WebMeshClient  # noqa: E402

ALL = 86400.0
"""Seconds: everything that there is, for the first subscriber of all."""
GAP = "gap"
QUEUE = 100_000
TIMEOUT = 60.0
TOIL = 0.004
"""Seconds of work on a message, before it is in the ledger and after: so that a killed process has begun some."""


def read_ledger(path: Path) -> Iterator[list[Any]]:
    """Its lines, but for one that was never finished."""
    for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
        if line.endswith("\n"):
            yield json.loads(line)


class Subscriber:
    """All subscriptions of this process."""

    def __init__(self, url: str, path: str, mode: str, *topics: str) -> None:
        self.client = WebMeshClient(url, backoff=Backoff(maximum=0.5))
        positions = {line[0]: Position(line[1], line[2]) for line in read_ledger(Path(path)) if line[1] != GAP}
        self.ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for topic in topics:
            if mode == "work":
                self.client.subscribe(topic, self.toil, group="workers", queue=QUEUE, timeout=TIMEOUT)
                continue
            since = positions.get(topic)
            made = self.client.subscribe(topic, self.take, since=since or ALL, queue=QUEUE, timeout=TIMEOUT)
            if since is not None and made.recovered is False:
                self.write(topic, GAP)
        Path(f"{path}.ready").touch()

    def toil(self, payload: Any, topic: str, message: Message) -> None:
        """Work on one message; it is acknowledged when this returns."""
        time.sleep(TOIL)
        self.take(payload, topic, message)
        time.sleep(TOIL)

    def take(self, payload: Any, topic: str, message: Message) -> None:
        """Enter one message, in one system call."""
        if message.event == GAP:
            self.write(topic, GAP)
        else:
            self.write(topic, message.offset, message.epoch, payload)

    def write(self, *line: Any) -> None:
        """Enter a line."""
        os.write(self.ledger, (json.dumps(line) + "\n").encode())


def main() -> None:
    """Subscribe until the input ends."""
    subscriber = Subscriber(*sys.argv[1:])
    select.select([sys.stdin], [], [])  # the patched one; a plain read would hold the hub
    subscriber.client.close()
    print("{}")


if __name__ == "__main__":
    main()
