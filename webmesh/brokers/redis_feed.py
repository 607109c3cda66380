"""Live messages from Redis' pub/sub: one connection, whatever its node wants.

Pub/sub loses what is sent while nobody listens, so whatever ends the connection is a gap, and is told as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gevent.event import Event

from webmesh.brokers.redis_line import RedisSocket, Writer
from webmesh.deadline import Deadline

BATCH = 500
"""Names in one command that subscribes to them again."""

_ANSWERS = (b"subscribe", b"psubscribe")


class Feed(Writer):
    """Subscriptions of one connection.

    Args:
        told: Gets a name and the bytes that were sent there; each time once, however many subscriptions match.
    """

    def __init__(
        self, connection: RedisSocket, lost: Callable[[str], None], told: Callable[[bytes, Any], None]
    ) -> None:
        self._told = told
        self._last: tuple[bytes, Any] = (b"", b"")
        self._expected: dict[bytes, Event] = {}
        self._pong = Event()
        super().__init__(connection, lost)

    def add(self, names: Iterable[str], patterns: Iterable[str], timeout: float) -> None:
        """Subscribe; returns when Redis has confirmed it, or the connection is lost."""
        awaited = []
        for command, wanted in (("SUBSCRIBE", list(names)), ("PSUBSCRIBE", list(patterns))):
            for start in range(0, len(wanted), BATCH):
                batch = wanted[start : start + BATCH]
                self.send(command, *batch)
                awaited += [self._expected.setdefault(name.encode(), Event()) for name in batch]
        deadline = Deadline(timeout)
        if not all(event.wait(deadline.remaining()) for event in awaited):
            self.end(f"no answer within {timeout:g} s")

    def remove(self, name: str, *, pattern: bool) -> None:
        """Subscribe no longer."""
        if not self.closed:
            self.send("PUNSUBSCRIBE" if pattern else "UNSUBSCRIBE", name)

    def check(self, timeout: float) -> None:
        """See whether it is alive; `lost` is told when it is not."""
        self._pong.clear()
        self.send("PING")
        if not self._pong.wait(timeout) and not self.closed:
            self.end(f"no answer within {timeout:g} s")

    def received(self, answer: Any) -> None:
        """See `Writer`."""
        if isinstance(answer, Exception):  # not allowed to subscribe: without it nothing would ever come
            self.end(f"Redis refuses a subscription: {answer}")
            return
        kind = answer[0] if isinstance(answer, list) and answer else b"pong"
        if kind in (b"message", b"pmessage"):
            # Redis sends the copies for several subscriptions of one connection one right after the other, that for
            # the plain name first; and each message has a name of its own in it.
            name, data = answer[-2:]
            if kind == b"message" or (name, data) != self._last:
                self._last = name, data
                self._told(name, data)
        elif kind in _ANSWERS:
            event = self._expected.pop(answer[1], None)
            if event is not None:
                event.set()
        elif kind == b"pong":
            self._pong.set()

    def close(self) -> None:
        """See `Writer`; whoever waits goes on."""
        super().close()
        self._pong.set()
        for event in self._expected.values():
            event.set()
