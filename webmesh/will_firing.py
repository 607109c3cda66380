"""`WillFiring`: publishes wills whose time has come, each once, whichever node of the engine gets to it.

First it notes on the engine what it is about to do, then it claims the session's record, which only one node gets,
and puts back what is left; then it publishes with a dedupe id of the will's own, and takes the notes away. Whoever
finds a note of a node that has died goes on from there. Lives in the node's hub.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
from gevent.pool import Group

from webmesh.exceptions import BrokerError, InvalidArgument, RemoteError, Unavailable
from webmesh.observer import Observer
from webmesh.protocol.publication import WILL, Publication, read_stored
from webmesh.will_records import (
    FIRING, FIRING_KEPT, KEPT, RESTS, WILLS, StoredWills, key_of, new_note, read_record, rest_record,
)  # fmt: skip

if TYPE_CHECKING:
    from webmesh.auth import Identity
    from webmesh.protocol.wills import FiredWill
    from webmesh.pubsub import Topics

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
"""Seconds before an engine that cannot be reached is tried again; doubled each time."""

T = TypeVar("T")

logger = logging.getLogger("webmesh.topics")


class WillFiring:
    """Fires wills of this node's sessions and of others'.

    Args:
        node: This node's name on the engine.

    Attributes:
        broker: The engine.
        holding: Notes of records that this node has in hand just now.
    """

    def __init__(self, topics: Topics, node: str, observer: Observer) -> None:
        self._topics = topics
        self.broker = topics.broker
        self._node = node
        self._observer = observer
        self._running = Group()
        self.holding: set[str] = set()

    def spawn(self, function: Callable[..., object], *args: Any) -> None:
        """Run something of the kind in a greenlet that `stop` waits for."""
        self._running.start(gevent.Greenlet(function, *args))

    def stop(self, seconds: float) -> None:
        """Wait for what is being fired; what has not ended by then other nodes finish."""
        self._running.join(seconds)
        self._running.kill(block=False)

    def fire(
        self, key: str, due: StoredWills, rest: StoredWills, identity: Identity | None, *, unsaved: bool = False
    ) -> bool:
        """Publish *due* and keep *rest*; waits for an engine that cannot be reached.

        Args:
            key: The session.
            identity: Whose rights decide.
            unsaved: The engine may have no record of it, so that not finding one says nothing.

        Returns:
            False when another node has fired or cancelled them.
        """
        note = new_note(key)
        with self._hold(note):
            if rest.wills:
                self._insist(lambda: self.broker.put(RESTS, note, rest_record(self._node, rest), KEPT))
            if due.wills:
                self._insist(lambda: self.broker.put(FIRING, note, due.to_record(), FIRING_KEPT))
            found, doubtful = self._claim(WILLS, key)
            known = None if found is None else read_record(found)
            if known is None and not (unsaved or doubtful):
                self._insist(lambda: self.broker.claim(FIRING, note))
                if rest.wills:
                    self._insist(lambda: self.broker.claim(RESTS, note))
                return False
            kept = not rest.wills or self._put_back(key, note, rest)
        still = None if known is None or unsaved else {will.number for will in known.wills}
        self.publish(key, [one for one in due.fired if still is None or one.will.number in still], identity)
        if due.wills:
            self._insist(lambda: self.broker.claim(FIRING, note))
        return kept

    def _put_back(self, key: str, note: str, rest: StoredWills) -> bool:
        """Whether *rest* is wanted still: who has cancelled it meanwhile has taken the note, for want of the record."""
        self._insist(lambda: self.broker.put(WILLS, key, rest.to_record(), KEPT))
        found, doubtful = self._claim(RESTS, note)
        if found is None and not doubtful:
            self._insist(lambda: self.broker.claim(WILLS, key))
            return False
        return True

    def restore(self, note: str, rest: StoredWills) -> bool:
        """Put back what a node had in hand when it died; False when that was done or cancelled since.

        Raises:
            BrokerError: It may have been done, or not; the note, or one of this node's own, is there still.
        """
        key, mine = key_of(note), new_note(key_of(note))
        with self._hold(mine):
            self.broker.put(RESTS, mine, rest_record(self._node, rest), KEPT)  # this node may die in its turn
            if self.broker.claim(RESTS, note) is None:
                self.broker.claim(RESTS, mine)
                return False
            self.broker.put(WILLS, key, rest.to_record(), KEPT)
            if self.broker.claim(RESTS, mine) is None:
                self.broker.claim(WILLS, key)
                return False
            return True

    @contextmanager
    def _hold(self, note: str) -> Iterator[None]:
        self.holding.add(note)
        try:
            yield
        finally:
            self.holding.discard(note)

    def publish(self, key: str, fired: list[FiredWill], identity: Identity | None) -> None:
        """Publish wills that nobody else publishes, or with the same dedupe ids."""
        for one in fired:
            try:
                self._publish(key, one, identity)
            except RemoteError as error:
                self._not_published(one, error.code)
            except Exception as error:  # the edge around user code: the rule of the topic
                self._not_published(one, "internal", error)

    def _publish(self, key: str, fired: FiredWill, identity: Identity | None) -> None:
        will = fired.will
        self._topics.access.check_publish(identity, tuple(will.topic.split("/")))
        publication = will_publication(key, fired)
        self._insist(lambda: self._topics.publish(publication))
        self._observer.will_fired(will.topic, fired.reason)
        logger.warning("a will was published", extra={"topic": will.topic, "will": will.id, "reason": fired.reason})

    def _not_published(self, fired: FiredWill, code: str, error: Exception | None = None) -> None:
        self._observer.refused("will", code)
        names = {"topic": fired.will.topic, "will": fired.will.id, "reason": code}
        logger.warning("a will was not published", exc_info=error, extra=names)

    def _claim(self, table: str, key: str) -> tuple[Any, bool]:
        """A record, and whether it may have been taken by an attempt of ours that failed."""
        with suppress(BrokerError):
            return self.broker.claim(table, key), False
        gevent.sleep(FIRST_PAUSE)
        return self._insist(lambda: self.broker.claim(table, key)), True

    def _insist(self, act: Callable[[], T]) -> T:
        """What *act* returns, when the engine can be reached."""
        pause = FIRST_PAUSE
        while True:
            try:
                return act()
            except (BrokerError, Unavailable):
                gevent.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)


def will_publication(key: str, fired: FiredWill) -> Publication:
    """The publication that a will is."""
    will = fired.will
    try:
        publication = read_stored(will.topic, will.payload, {**will.headers, WILL: fired.reason}, at=0.0)
    except InvalidArgument:  # cannot be: it was read when it was set. But then its message counts more than its options
        publication = Publication(will.topic, will.payload, {WILL: fired.reason})
    if publication.dedupe_id is None:
        publication.dedupe_id = f"will-{key}-{will.number}"
    return publication
