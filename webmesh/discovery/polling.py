"""`PolledDiscovery`: a source that is looked at from time to time, outages outlasted.

During an outage what was found last still holds. Delays are jittered, so that nodes do not ask in one moment.
"""

from __future__ import annotations

import logging
import random
import time
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace

import gevent
from gevent.event import Event

from webmesh.discovery.allowed import AllowedAddresses
from webmesh.discovery.base import Discovery, Found, Told
from webmesh.exceptions import ConfigurationError, RegistryUnavailable
from webmesh.options import Backoff
from webmesh.protocol.backoff import BackoffSeries
from webmesh.protocol.node_record import NodeRecord

logger = logging.getLogger("webmesh.discovery")

JITTER = 0.2
"""Part of the interval by which looks are moved at random."""

MOST_FOUND = 1024
"""Entries of one source that are believed: four times the nodes that a mesh has by default."""


class PolledDiscovery(Discovery):
    """See above.

    Args:
        place: What is looked at, for logs; no password in it.
        interval: Seconds between two looks.
        timeout: Seconds for one.
        allow: See `AllowedAddresses`.
    """

    def __init__(
        self, place: str, *, interval: float, timeout: float, allow: Iterable[str] = (), backoff: Backoff | None = None
    ) -> None:
        for name, seconds in (("interval", interval), ("timeout", timeout)):
            if not 0 < seconds < 86400:
                raise ConfigurationError(f"{name} is a number of seconds above 0, not {seconds!r}")
        self.place = place
        self.timeout = timeout
        self.me: NodeRecord | None = None
        self._interval = interval
        self._allowed = AllowedAddresses(allow)
        self._series = BackoffSeries(backoff or Backoff(first=0.5), random.random)
        self._wake = Event()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._told: list[Found] | None = None
        self._down = False

    @abstractmethod
    def look(self) -> list[Found]:
        """All that is there now, checked for form only.

        Raises:
            RegistryUnavailable: It cannot be told.
        """

    def close(self) -> None:
        """Take back what was announced, and let go of connections; no exception leaves it."""

    def start(self, found: Told) -> None:
        """See `Discovery.start`."""
        if self._greenlet is not None:
            raise ConfigurationError(f"the discovery by {self.place} is started already")
        self._told = None
        self._greenlet = gevent.spawn(self._watch, found)

    def announce(self, record: NodeRecord) -> None:
        """See `Discovery.announce`. Load alone is told with the next look."""
        before, self.me = self.me, record
        self._allowed.listens_at(record.addresses)
        if before is None or _lasting(before) != _lasting(record):
            self._wake.set()

    def stop(self) -> None:
        """See `Discovery.stop`."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()
            self.close()

    def _watch(self, found: Told) -> None:
        while True:
            self._wake.clear()
            try:
                entries = self._look_in_time()
            except RegistryUnavailable as error:
                self._missed(error)
                delay = self._series.next_delay()
            else:
                self._reached()
                delay = self._interval * (1 + JITTER * (random.random() - 0.5))
                believed = self._believed(entries)
                if believed != self._told:
                    self._told = believed
                    found(list(believed))
            self._wake.wait(delay)

    def _look_in_time(self) -> list[Found]:
        timer = gevent.Timeout(self.timeout)
        try:
            with timer:
                return self.look()
        except gevent.Timeout as expired:
            if expired is not timer:
                raise
            raise RegistryUnavailable(f"{self.place} does not answer within {self.timeout:g} s") from None

    def _believed(self, entries: list[Found]) -> list[Found]:
        """Those that may be dialled, each once and in an order that does not change by itself."""
        kept: dict[Found, None] = {}
        dropped = max(0, len(entries) - MOST_FOUND)
        for entry in entries[:MOST_FOUND]:
            urls = tuple(url for url in entry.urls if self._allowed.admits(url))
            dropped += len(entry.urls) - len(urls)
            if urls:
                kept[replace(entry, urls=urls)] = None
        if dropped:
            self.drop(dropped, "their addresses are not allowed")
        return sorted(kept, key=lambda entry: entry.urls)

    def drop(self, count: int, reason: str) -> None:
        """So many entries are not believed."""
        self.dropped += count
        logger.debug("entries of a register are not believed", extra={
            "place": self.place, "count": count, "reason": reason,
        })  # fmt: skip

    def _missed(self, error: RegistryUnavailable) -> None:
        if not self._down:
            self._down = True
            logger.warning("discovery fails; what was found last still holds", extra={
                "place": self.place, "reason": str(error),
            })  # fmt: skip
        self._series.failed(time.monotonic())

    def _reached(self) -> None:
        if self._down:
            self._down = False
            logger.warning("discovery works again", extra={"place": self.place})
        self._series.reset()


def _lasting(record: NodeRecord) -> NodeRecord:
    return replace(record, version=1, load=None)
