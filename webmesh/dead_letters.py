"""Dead letters: publications that were delivered as often as they may be, and that nobody has acknowledged.

Decides what becomes of them: they are counted and logged, and published to the topic that their own topic names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent
from gevent.pool import Group

from webmesh.exceptions import RemoteError
from webmesh.observer import Observer
from webmesh.protocol.publication import CONFLATE, DEDUPE, EXCLUDE, TTL, WILL, Publication

if TYPE_CHECKING:
    from webmesh.acknowledged import Letter

TOPIC, REASON, ATTEMPTS = "dead-letter-topic", "dead-letter-reason", "dead-letter-attempts"
"""Headers of a dead letter: where it was published, why the last attempt failed, and how many there were."""

MOST_HEADERS = 64
"""Of one message (docs/PROTOCOL.md section 2)."""

MOST_WAITING = 1000
"""Dead letters that wait for an engine that does not take them; further ones are only counted and logged."""

NOT_KEPT = (TTL, DEDUPE, CONFLATE, EXCLUDE, WILL, TOPIC, REASON, ATTEMPTS)

logger = logging.getLogger("webmesh.topics")


class DeadLetters:
    """Those of one node.

    Args:
        publish: Publishes; may switch.
    """

    def __init__(self, publish: Callable[[Publication], object], observer: Observer) -> None:
        self._publish = publish
        self._observer = observer
        self._waiting: Group = Group()

    @property
    def waiting(self) -> int:
        """Those that have yet to be published."""
        return len(self._waiting)

    def bury(self, letter: Letter, attempts: int, then: Callable[[], object]) -> None:
        """Give a letter up; *then* is called when that is safe: until then a group's engine keeps it."""
        publication, target = letter.publication, letter.options.dead_letter
        self._observer.refused("delivery", "dead letter")
        names = {"topic": publication.topic, "attempts": attempts, "reason": letter.reason}
        logger.error("dead letter", extra=names)
        # One whose delivery fails as well goes nowhere: it would go round in circles.
        if target is None or TOPIC in publication.headers or len(self._waiting) >= MOST_WAITING:
            then()
        else:
            dead = dead_letter(target, publication, letter.reason, attempts)
            self._waiting.start(gevent.Greenlet(self._bury, dead, letter.options.redelivery.most, then))

    def _bury(self, dead: Publication, patience: float, then: Callable[[], object]) -> None:
        while True:
            try:
                self._publish(dead)
                break
            except RemoteError as error:
                logger.warning("dead letter waits", extra={"topic": dead.topic, "reason": str(error)})
                gevent.sleep(patience)
        then()

    def stop(self) -> None:
        """Those that wait are not published any more."""
        self._waiting.kill(block=False)


def dead_letter(topic: str, publication: Publication, reason: str, attempts: int) -> Publication:
    """*publication* as it goes to *topic*: its own headers and key, and what became of it."""
    own = [(name, text) for name, text in publication.headers.items() if name not in NOT_KEPT]
    headers = dict(own[: MOST_HEADERS - 3])
    headers |= {TOPIC: publication.topic, REASON: reason, ATTEMPTS: str(attempts)}
    return Publication(topic, publication.payload, headers, key=publication.key)
