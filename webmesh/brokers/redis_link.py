"""The link to Redis: finds the server, holds both connections to it, and comes back when they are lost.

What is to be done anew on a new connection is the engine's to say. Delays have full jitter, so that nodes that lost
the same Redis do not all come back in one moment.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from typing import Any, Protocol

import gevent
from gevent.event import Event

from webmesh.brokers.redis_feed import Feed
from webmesh.brokers.redis_line import Line, RedisRefused, ask_once, open_socket
from webmesh.brokers.redis_places import Address, Finder, Place
from webmesh.brokers.redis_scripts import SCRIPTS
from webmesh.exceptions import BrokerError, BrokerUnavailable, WebMeshError
from webmesh.options import Backoff
from webmesh.protocol.backoff import BackoffSeries

logger = logging.getLogger("webmesh.broker")

MOST_PATIENT = 1000
"""Callers that may wait at a time for the link to come back; others are told at once that it is down."""

_DIGESTS = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SCRIPTS.items()}


class LinkOwner(Protocol):
    """Whom the link tells."""

    def opened(self) -> None:
        """Both connections are new: do what belongs at their beginning. A `BrokerError` closes them again."""

    def back(self, reason: str) -> None:
        """The link is up again that was lost for *reason*."""

    def down(self, reason: str) -> None:
        """The link is lost."""

    def told(self, name: bytes, data: Any) -> None:
        """Something was sent to a name that the feed has."""

    def beat(self) -> None:
        """It is time again to say that this node is alive."""


class RedisLink:
    """See above.

    Args:
        name: Of this node, for CLIENT LIST.
        key: Any key of the engine's.
        timeout: Seconds for an answer, and for connecting to one server.
        interval: Seconds between two beats.
    """

    def __init__(
        self, place: Place, owner: LinkOwner, *, name: str, key: str, timeout: float, interval: float, backoff: Backoff,
    ) -> None:  # fmt: skip
        self.place = place
        self.timeout = timeout
        self._owner = owner
        self._name = name
        self._interval = interval
        self._finder = Finder(place, self._ask_once, key)
        self._series = BackoffSeries(backoff, random.random)
        self._line: Line | None = None
        self.feed: Feed | None = None
        self._lost = Event()
        self._up = Event()
        self._patient = 0
        self._reason = ""
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    @property
    def up(self) -> bool:
        """Whether both connections are there."""
        return self._up.is_set()

    def start(self) -> None:
        """Connect.

        Raises:
            BrokerError: It cannot be done; nothing goes on.
        """
        self._connect()
        self._greenlets = [gevent.spawn(self._stay), gevent.spawn(self._beat)]

    def stop(self) -> None:
        """Disconnect."""
        for greenlet in self._greenlets:
            if greenlet is not gevent.getcurrent():
                greenlet.kill(block=False)
        self._disconnect()

    # ------------------------------------------------------------------- commands

    def ask(self, *command: Any) -> Any:
        """What Redis answers; see `Line.ask`."""
        if self._line is None:
            raise BrokerUnavailable(f"no connection to Redis at {self.place}: {self._reason}")
        return self._line.ask(*command)

    def run(self, script: str, keys: list[str], *arguments: Any) -> Any:
        """What a script returns; see `Line.ask` for errors."""
        try:
            return self.ask("EVALSHA", _DIGESTS[script], len(keys), *keys, *arguments)
        except RedisRefused as error:
            # An operator's SCRIPT FLUSH. redis-py cuts the word off in some versions, and nothing was done.
            if "NOSCRIPT" not in str(error) and "No matching script" not in str(error):
                raise
        return self.ask("EVAL", SCRIPTS[script], len(keys), *keys, *arguments)

    def wait_up(self, seconds: float) -> bool:
        """Wait so long for the link to be up; whether it is."""
        if self.up or seconds <= 0 or self._patient >= MOST_PATIENT:
            return self.up
        self._patient += 1
        try:
            return bool(self._up.wait(seconds))
        finally:
            self._patient -= 1

    # ---------------------------------------------------------------- connections

    def _ask_once(self, address: Address, login: Any, *command: Any) -> Any:
        return ask_once(address, login, *command, timeout=self.timeout)

    def _connect(self) -> None:
        self._lost.clear()
        try:
            address, login = self._finder.find(), self.place.login
            self._line = Line(open_socket(address, login, self._name, self.timeout), self._lose, self.timeout)
            self.feed = Feed(open_socket(address, login, self._name, self.timeout), self._lose, self._owner.told)
            for text in SCRIPTS.values():
                self._line.ask("SCRIPT", "LOAD", text)
            self._owner.opened()
            if self._lost.is_set():
                raise BrokerUnavailable(f"Redis at {address}: {self._reason}")
        except BaseException:
            self._disconnect()
            raise
        self._series.opened(time.monotonic())
        self._up.set()

    def _disconnect(self) -> None:
        self._up.clear()
        line, self._line = self._line, None
        feed, self.feed = self.feed, None
        if line is not None:
            line.close()
        if feed is not None:
            feed.close()

    def _lose(self, reason: str) -> None:
        if not self._lost.is_set():
            self._reason = reason
            self._up.clear()
            self._lost.set()

    def _stay(self) -> None:
        while True:
            self._lost.wait()
            reason = self._reason
            self._disconnect()
            self._series.ended(time.monotonic())
            logger.error("the link to Redis is lost", extra={"place": str(self.place), "reason": reason})
            self._owner.down(reason)
            self._come_back()
            logger.warning("the link to Redis is back", extra={"place": str(self.place)})
            self._owner.back(reason)

    def _come_back(self) -> None:
        while True:
            gevent.sleep(self._series.next_delay())
            try:
                self._connect()
            except WebMeshError as error:
                self._reason = str(error)
                logger.warning("Redis cannot be reached", extra={"place": str(self.place), "reason": str(error)})
            else:
                return

    def _beat(self) -> None:
        while True:
            gevent.sleep(self._interval)
            feed = self.feed
            if self.up and feed is not None:
                try:
                    feed.check(self.timeout)
                    self._owner.beat()
                except BrokerError as error:
                    told = {"place": str(self.place), "reason": str(error)}
                    logger.warning("Redis was not told that this node lives", extra=told)
