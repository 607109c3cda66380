"""What a command says of itself on standard error: the banner of a server, and why it cannot start.

In text they are lines for people, in JSON records like all others, so that whoever collects the log can
read every line. They are written whatever the log level is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from webmesh import __version__
from webmesh.observability.logs import QueuedHandler, escaped

logger = logging.getLogger("webmesh.serve")


class Routed(Protocol):
    """What is told of a route."""

    @property
    def pattern(self) -> str:
        """Its path."""

    @property
    def where(self) -> str:
        """Where its handler is."""


@dataclass(frozen=True, slots=True)
class ServedRoute:
    """A route of another process."""

    pattern: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Banner:
    """What is known once a server listens."""

    name: str
    url: str
    mode: str
    pid: int
    routes: Sequence[Routed]
    notice: str = ""
    workers: str = ""
    """How many, and which; empty where there are none."""


class Announcer:
    """Writes through *handler*, in its order with the records; *style* is text or json."""

    def __init__(self, handler: QueuedHandler, style: str, prog: str) -> None:
        self._handler = handler
        self._text = style == "text"
        self._prog = prog

    def serving(self, banner: Banner) -> None:
        """Say that the server listens, where, and what it serves."""
        if self._text:
            for line in _lines(banner):
                self._handler.writer.write(escaped(line))
            return
        routes = [{"path": route.pattern, "handler": route.where} for route in banner.routes]
        self._record(
            logging.INFO, "serving", target=banner.name, url=banner.url, mode=banner.mode, pid=banner.pid,
            version=__version__, routes=routes, **({"notice": banner.notice} if banner.notice else {}),
            **({"workers": banner.workers} if banner.workers else {}),
        )  # fmt: skip

    def failed(self, reason: str, traceback: str = "") -> None:
        """Say in one line why the command ends; above it the traceback of user code, if that is why."""
        if not self._text:
            self._record(logging.CRITICAL, reason, exc_text=traceback)
            return
        for line in traceback.splitlines():
            self._handler.writer.write(escaped(line))
        self._handler.writer.write(f"{self._prog}: error: {escaped(reason)}")

    def forced(self, name: str) -> None:
        """Say by which signal the command is ended at once. Takes no lock, as `logging` would: whoever has it may be
        the code that was interrupted."""
        if logger.getEffectiveLevel() <= logging.WARNING:
            self._record(logging.WARNING, "ended by a second signal", signal=name)

    def _record(self, level: int, message: str, *, exc_text: str = "", **fields: object) -> None:
        record = logger.makeRecord(logger.name, level, __file__, 0, message, (), None, extra=fields)
        record.exc_text = exc_text
        self._handler.handle(record)


def _lines(banner: Banner) -> list[str]:
    width = max([0, *(len(route.pattern) for route in banner.routes)])
    routes = [f"{route.pattern:{width}}  {route.where}" for route in banner.routes] or ["none"]
    first, *more = routes
    return [
        *([banner.notice] if banner.notice else []),
        f"WebMesh {__version__} serves {banner.name}",
        f"  url     {banner.url}",
        f"  mode    {banner.mode}",
        f"  pid     {banner.pid}",
        *([f"  workers {banner.workers}"] if banner.workers else []),
        f"  routes  {first}",
        *(f"          {line}" for line in more),
    ]
