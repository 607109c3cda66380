"""What a subscriber did not get and has yet to be told of: bounded, whoever publishes on however many topics.

Decides what it is told: of each topic up to where something is missing, and beyond a number of topics that something
may be missing on any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from webmesh.protocol import messages

if TYPE_CHECKING:
    from webmesh.protocol.publication import Publication

MOST_TOPICS = 256
"""Topics that one subscriber is told of one by one."""

_Loss = tuple[int | None, str | None, str]
"""Offset, epoch and reason."""


class Losses:
    """Those of one subscriber."""

    __slots__ = ("_patterns", "_topics")

    def __init__(self) -> None:
        self._topics: dict[str, dict[int, _Loss]] = {}  # the last one of each subscription
        self._patterns: dict[int, str] | None = None

    def add(self, publication: Publication, subs: list[int], reason: str) -> None:
        """Its subscriptions *subs* do not get this one."""
        if len(self._topics) < MOST_TOPICS or publication.topic in self._topics:
            loss = publication.offset, publication.epoch, reason
            self._topics.setdefault(publication.topic, {}).update(dict.fromkeys(subs, loss))
            return
        if self._patterns is None:
            self._patterns = {}
        self._patterns.update(dict.fromkeys(subs, reason))

    def forget(self, sub: int) -> None:
        """It has ended, and is told nothing."""
        for losses in self._topics.values():
            losses.pop(sub, None)

    def events(self, pattern_of: Callable[[int], Sequence[str] | None]) -> list[messages.Wire]:
        """What it is told.

        Args:
            pattern_of: The pattern of a subscription; `None` when it has ended.
        """
        told: list[messages.Wire] = []
        for topic, losses in self._topics.items():
            alike: dict[_Loss, list[int]] = {}
            for sub, loss in losses.items():
                alike.setdefault(loss, []).append(sub)
            for (offset, epoch, reason), subs in alike.items():
                told.append(messages.gap(topic, reason, subs, offset, epoch))
        for sub, reason in (self._patterns or {}).items():
            pattern = pattern_of(sub)
            if pattern is not None:
                told.append(messages.pattern_gap(pattern, reason, [sub]))
        return told
