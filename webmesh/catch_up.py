"""`CatchUp`: a subscription from its answer on until it has what came before.

Decides the order: first the answer, then what is replayed, then what was published meanwhile, then what is live. The
past is read in pages, and topics change between them: a retained value that was published since the subscription began
is not replayed but comes in its turn among what was published meanwhile, so that nothing is lost, doubled or overtaken
within its topic. Lives in the node's hub.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import gevent

from webmesh.brokers.base import give_way_in
from webmesh.exceptions import BrokerError, ConnectionClosed, EncodeError
from webmesh.observer import Observer
from webmesh.peer_subscriber import delivered, expiry
from webmesh.protocol import messages

if TYPE_CHECKING:
    from webmesh.deadline import Clock
    from webmesh.peer_subscriber import PeerSubscriber, PeerSubscription
    from webmesh.protocol.publication import Publication

logger = logging.getLogger("webmesh.topics")

MOST_WAITING = 10_000
"""Publications that may come while one subscriber catches up; beyond it the oldest are lost to it, and it is told."""


_Mark = tuple[str, float, int | None, str | None]


def _mark(publication: Publication) -> _Mark:
    return publication.topic, publication.at, publication.offset, publication.epoch


class CatchUp:
    """One subscription that catches up; a `Taker`.

    Args:
        now: Reads the clock of `Publication.at`.
        acknowledged: Sends a publication, when there is room, that must be acknowledged; false where it need not.
    """

    def __init__(
        self,
        peer: PeerSubscriber,
        subscription: PeerSubscription,
        observer: Observer,
        *,
        now: Clock = time.monotonic,
        acknowledged: Callable[[PeerSubscriber, Publication, list[int]], bool] = lambda *_: False,
    ) -> None:
        self._now = now
        self._acknowledged = acknowledged
        self._peer = peer
        self._subscription = subscription
        self._observer = observer
        self._replay: Iterable[Publication] = ()
        self._values = False
        self._came: set[_Mark] = set()
        self._waiting: deque[Publication] = deque()
        self._had: dict[str, tuple[float, int | None, str | None]] = {}
        self._begun = False
        self._over = False

    def replay(self, publications: Iterable[Publication], *, values: bool = False) -> None:
        """What comes first, read as it is sent; to be given before `begin`.

        Args:
            values: Whether it is only the newest of each topic.
        """
        self._replay, self._values = publications, values

    def take(self, publication: Publication) -> None:
        """`Taker.take`."""
        if publication.exclude_self and publication.publisher == self._peer.name:
            return
        if len(self._waiting) >= MOST_WAITING:
            lost = self._waiting.popleft()
            self._came.discard(_mark(lost))
            self._peer.lose(lost, [self._subscription.id], "slow")
        self._waiting.append(publication)
        self._came.add(_mark(publication))

    def gap(self, reason: str) -> None:
        """`Taker.gap`."""
        self._peer.send(messages.pattern_gap(self._subscription.entry.pattern, reason, [self._subscription.id]))

    def begin(self) -> None:
        """The answer is on its way, or was lost with its connection: a greenlet sends what follows. Once only."""
        if not self._begun:
            self._begun = True
            gevent.spawn(self._follow)

    def _follow(self) -> None:
        self.run()
        if self._subscription.seat is not None:
            self._subscription.seat.begin()

    def run(self) -> None:
        """Send what comes before what is live."""
        try:
            self._send_replay()
            while self._waiting:
                publication = self._waiting.popleft()
                if not self._has_had(publication):
                    self._send(publication)
        except ConnectionClosed:
            pass  # without a session: it ends with the connection
        finally:
            if not self._peer.over:
                self._go_live()

    def _send_replay(self) -> None:
        try:
            for one in give_way_in(self._replay):
                if self._peer.over or self._over:
                    break
                if (self._values or one.retained) and _mark(one) in self._came:
                    continue
                self._had[one.topic] = (one.at, one.offset, one.epoch)
                self._send(one)
        except BrokerError as error:  # its answer has gone, with which this could have been told
            logger.warning("a replay was cut off", extra={"error": str(error)})
            self.gap("the engine was lost")
        self._replay = ()

    def _send(self, publication: Publication) -> None:
        peer = self._peer
        if peer.conversation is not None:
            peer.conversation.stream.drain()
        if peer.over or self._over:
            return
        now = self._now()
        if publication.expired(now):
            self._observer.refused("delivery", "expired")
            return
        if self._acknowledged(peer, publication, [self._subscription.id]):
            return
        try:
            subs = [self._subscription.id]
            wire = delivered(publication, subs, now=now)
            peer.send(wire, None if publication.ttl is None else expiry(publication, subs))
        except EncodeError:
            self._observer.refused("delivery", "not encodable")
            peer.lose(publication, [self._subscription.id], "encoding")

    def _has_had(self, publication: Publication) -> bool:
        """Whether it was among what was replayed: it had been published already when that was read."""
        had = self._had.get(publication.topic)
        if had is None:
            return False
        at, offset, epoch = had
        if offset is not None and publication.offset is not None and epoch == publication.epoch:
            return publication.offset <= offset
        return publication.at <= at

    def _go_live(self) -> None:
        """In the same turn of the hub in which nothing waited any more."""
        subscription = self._subscription
        subscription.entry.takers.pop(self, None)
        if not self._over:
            form = (self._peer.serializer, subscription.id)
            subscription.entry.peers.setdefault(form, {})[self._peer] = None
            subscription.catching_up = None

    def stop(self) -> None:
        """It was given up."""
        self._over = True
        self._subscription.entry.takers.pop(self, None)
        self._waiting.clear()
