"""`WillCancels`: the wills of sessions whose peers have come back to this node, though another one had them.

Decides what becomes of those that the engine could not be told of: nobody but this node knows that they are for
nobody any more. Lives in the node's hub.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from gevent.lock import Semaphore
from gevent.pool import Pool

from webmesh.brokers.base import Broker
from webmesh.exceptions import BrokerError
from webmesh.will_records import KEPT, RESTS, WILLS, key_of, read_record, read_rest

MOST = 100_000
"""Cancellations that wait for the engine: so many peers a node may take over while it is away. The oldest go first."""
AT_ONCE = 16
"""Cancellations under way at a time: each waits for the engine, and others may take their node for dead in seconds."""

logger = logging.getLogger("webmesh.topics")


@dataclass(slots=True)
class Cancel:
    """One that is still to be done.

    Attributes:
        subject: Who has asked.
        taken: A record that turned out to be somebody else's, and is to be put back.
    """

    subject: str | None
    taken: Any = None


class WillCancels:
    """Cancels what peers have left elsewhere.

    Args:
        armed: Sessions that live here.
        forget: Called with each session whose wills are cancelled.
    """

    def __init__(self, broker: Broker, armed: Container[str], forget: Callable[[str], object]) -> None:
        self._broker = broker
        self._forget = forget
        self._armed = armed
        self._waiting: dict[str, Cancel] = {}
        self._unsure: dict[str, str | None] = {}  # whose record may have been in a node's hands just then; by whom
        self._turn = Semaphore()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._unsure)

    @property
    def busy(self) -> bool:
        """Whether `settle` is under way."""
        return self._turn.locked()

    def cancel(self, key: str, subject: str | None) -> None:
        """Cancel the wills of a session that was *subject*'s: now, or when the engine can be reached."""
        if key in self._armed:
            return
        one = Cancel(subject)
        try:
            self._cancel(key, one)
        except BrokerError as error:
            self._waiting[key] = one
            _shorten(self._waiting)
            logger.warning("former wills could not be cancelled yet", extra={"reason": str(error)})

    def settle(self) -> None:
        """Do all that waits.

        Raises:
            BrokerError: It cannot be done yet.
        """
        failed: list[BrokerError] = []

        def attempt(key: str, one: Cancel) -> None:
            if failed:  # the others would fail too, each after its time
                return
            try:
                if key not in self._armed:
                    self._cancel(key, one)
            except BrokerError as error:
                failed.append(error)
            else:
                if self._waiting.get(key) is one:
                    del self._waiting[key]

        with self._turn:
            pool = Pool(AT_ONCE)
            try:
                for key, one in tuple(self._waiting.items()):
                    pool.spawn(attempt, key, one)
                pool.join()
            finally:
                pool.kill(block=False)
            if failed:
                raise failed[0]
            if self._unsure:
                self._look_at_notes()

    def _look_at_notes(self) -> None:
        """Where a node had the record in hand, or has died with it, taking its note away keeps it from coming back."""
        unsure, self._unsure = self._unsure, {}
        try:
            for note, record in self._broker.records(RESTS).items():
                key, held = key_of(note), read_rest(record)
                if key not in unsure or key in self._armed or held is None or held[1].subject != unsure[key]:
                    continue
                self._waiting[key] = one = Cancel(unsure[key])
                self._broker.claim(RESTS, note)
                self._cancel(key, one)
                del self._waiting[key]
        except BrokerError:
            self._unsure = unsure | self._unsure
            raise

    def _cancel(self, key: str, one: Cancel) -> None:
        if one.taken is None:
            found = self._broker.claim(WILLS, key)
            self._unsure[key] = one.subject
            _shorten(self._unsure)
            stored = None if found is None else read_record(found)
            if stored is None:
                return
            if stored.subject == one.subject:
                self._forget(key)
                return
            one.taken = found
        self._broker.put(WILLS, key, one.taken, KEPT)


def _shorten(several: dict[str, Any]) -> None:
    if len(several) > MOST:
        del several[next(iter(several))]
