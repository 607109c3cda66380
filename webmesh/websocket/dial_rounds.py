"""Which of a client's URLs is dialled, one round through them all being one attempt.

Decides the order, and how one deadline is shared among them. The addresses of one URL are `dialer`'s, which resolves
them anew each time; when the next round begins is decided by whoever dials.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from webmesh.deadline import Deadline
from webmesh.exceptions import ConfigurationError, ConnectFailed, HandshakeRejected
from webmesh.protocol.comeback import may_answer_elsewhere
from webmesh.websocket.dialer import LEAST_SHARE
from webmesh.websocket.target import parse_url
from webmesh.websocket.upgraded import Upgraded

MOST_ALTERNATES = 16
"""Alternates of one goodbye that are considered."""


class DialUrl(Protocol):
    """Connects to one URL; see `dialer.dial`."""

    def __call__(self, url: str, *, seconds: float, first: str, last: str) -> Upgraded:
        """Connect, or raise."""


def shown(url: str) -> str:
    """*url* without its query, which may hold secrets."""
    return url.partition("?")[0]


class DialRounds:
    """One client's URLs in the order in which they are worth trying.

    Args:
        urls: At least one, the preferred first.
        dial: Connects to one of them.

    Attributes:
        url: The last one that was dialled, without its query.

    Raises:
        ConfigurationError: There is none, or one cannot be used.
    """

    def __init__(self, urls: Sequence[str], dial: DialUrl, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._own = list(dict.fromkeys(urls))
        if not self._own:
            raise ConfigurationError("a client needs at least one URL")
        targets = [parse_url(url) for url in self._own]  # a wrong URL is told here
        self._secure = all(target.secure for target in targets)
        self._local = any(target.unix_path for target in targets)
        self._dial = dial
        self._clock = clock
        self._order = list(self._own)
        self._first: dict[str, str] = {}
        self._last: dict[str, str] = {}
        self._not_before: dict[str, float] = {}
        self._connected = ""
        self.url = shown(self._own[0])

    @property
    def alone(self) -> bool:
        """Whether there is only one URL to be tried now."""
        return len(self._order) == 1

    def __str__(self) -> str:
        return ", ".join(map(shown, self._own))

    def dial(self, seconds: float) -> Upgraded:
        """A connection to the first that takes us, within *seconds* for all together.

        Raises:
            ConnectFailed, HandshakeRejected, ConfigurationError: As `dialer.dial`. With several URLs,
                `HandshakeRejected` stands for all, or is a refusal that another server of the service would repeat.
        """
        deadline = Deadline(seconds, clock=self._clock)
        due = self._due()
        failures: list[str] = []
        rejections: list[HandshakeRejected] = []
        for index, url in enumerate(due):
            if deadline.expired and failures:
                failures.append(f"no time left for {len(due) - index} more")
                break
            try:
                return self._dial_one(url, _share(deadline, len(due) - index))
            except HandshakeRejected as error:
                self._rejected(url, error)
                if not may_answer_elsewhere(error):
                    raise
                failures.append(f"{shown(url)}: {error}")
                rejections.append(error)
            except ConnectFailed as error:
                if len(due) == 1:
                    raise
                self._forget(url)
                failures.extend(error.attempts)
        if len(rejections) == len(failures):
            raise max(rejections, key=lambda error: error.status)  # 503 before 404: one of them may take us later
        raise ConnectFailed(str(self), failures)

    def _due(self) -> list[str]:
        """All whose server has not asked us to wait longer; all of them where each has."""
        now = self._clock()
        return [url for url in self._order if self._not_before.get(url, now) <= now] or list(self._order)

    def _dial_one(self, url: str, seconds: float) -> Upgraded:
        self.url = shown(url)
        upgraded = self._dial(url, seconds=seconds, first=self._first.get(url, ""), last=self._last.get(url, ""))
        self._order = [url, *(other for other in self._order if other != url and other in self._own)]
        self._first[url] = upgraded.address
        self._last.pop(url, None)
        self._not_before.pop(url, None)
        self._connected = url
        for known in (self._first, self._last, self._not_before):
            for gone in known.keys() - set(self._order):  # suggested once, and not needed
                del known[gone]
        return upgraded

    def _rejected(self, url: str, error: HandshakeRejected) -> None:
        if error.retry_after:
            self._not_before[url] = self._clock() + error.retry_after
        self._forget(url)

    def _forget(self, url: str) -> None:
        """It has failed: no longer the first, and gone if it was only suggested."""
        self._first.pop(url, None)
        if url not in self._own:
            self._order.remove(url)
            self._last.pop(url, None)
            self._not_before.pop(url, None)
            self._order = self._order or list(self._own)

    @property
    def asked(self) -> float | None:
        """Seconds after which the first of the URLs may be tried again, where every one's server has asked for a
        delay; `None` where one may be tried at once."""
        now = self._clock()
        waits = [self._not_before.get(url, now) - now for url in self._order]
        return min(waits) if min(waits) > 0 else None

    def leave(self) -> None:
        """The server that we were connected to goes: whatever else there is comes before it."""
        url = self._connected
        if url in self._order:
            self._order.remove(url)
            self._order.append(url)
            self._last[url] = self._first.pop(url, "")

    def suggest(self, urls: Iterable[object]) -> bool:
        """Try these first, until one of all takes us; whether any can be used.

        What a peer suggests may be anything. A client of TLS never goes where there is none: it would show its
        credentials there.
        """
        usable = [url for url in list(urls)[:MOST_ALTERNATES] if isinstance(url, str) and self._usable(url)]
        self._order = list(dict.fromkeys([*usable, *self._order]))
        return bool(usable)

    def _usable(self, url: str) -> bool:
        try:
            target = parse_url(url)
        except ConfigurationError:
            return False
        return target.secure == self._secure and not target.unix_path and not self._local


def _share(deadline: Deadline, urls: int) -> float:
    """Seconds for the next of so many: an equal part of what is left, but no useless one."""
    left = deadline.remaining() or 0.0
    return max(left / urls, min(left, LEAST_SHARE))
