"""What each address has here now and did lately: connections, arrivals, failures, and whether it is banned.

Decides when one address has had enough; what it is told is `arrival`. An IPv6 /64 counts as one address. Some are
exempt: behind a proxy on the same machine all clients share one address, and a Unix socket has none.

Everything is bounded: an address with connections has an entry as long as they last, and of those without the
`Limits.addresses` that were here last are remembered.
"""

from __future__ import annotations

import math
import time
from functools import lru_cache

from webmesh.deadline import Clock
from webmesh.options import Limits, Timeouts
from webmesh.protocol.networks import IPAddress, Networks, parse_ip, subscriber
from webmesh.protocol.token_bucket import Appointments, TokenBucket
from webmesh.websocket.doors import bare

FAILURES_PERIOD = 60.0
"""Seconds over which `Limits.address_failures` are counted."""

QUICK = 5.0
"""Seconds: a connection that lasts no longer and then breaks was a failure of its address."""

# Ends that a peer brings about by breaking a rule. One that broke off (1006) may be flapping: it counts when quick.
_OFFENCES = frozenset({1002, 1003, 1007, 1008, 1009, 4500, 4501})
_BROKEN = 1006

_PARSED = 4096


HEAD_START = 1.0
"""Seconds in which those come who lost their server in the same moment: they try again after 0.1 s, then 0.2."""


class Visitor:
    """One address, as far as it is remembered; made and judged by `Addresses`."""

    __slots__ = ("_answers", "_arrivals", "_banned_until", "_failures", "connections", "key", "places")

    def __init__(self, key: IPAddress, rate: int, now: float) -> None:
        self.key = key
        self.places = 0
        """Sockets of it that are open here, connections included."""
        self.connections = 0
        """Its WebSocket connections."""
        self._arrivals = Appointments(rate, now)
        self._answers: TokenBucket | None = None
        self._failures: TokenBucket | None = None
        self._banned_until = 0.0

    def ban_left(self, now: float) -> float:
        """Seconds until it may come again; 0 when it is not banned."""
        return max(0.0, self._banned_until - now)


class Addresses:
    """All addresses that connect to one listener; used inside one hub.

    Args:
        exempt: Networks for which nothing here counts.
    """

    def __init__(
        self, limits: Limits, timeouts: Timeouts, *, exempt: Networks, clock: Clock = time.monotonic
    ) -> None:
        self._limits = limits
        self._timeouts = timeouts
        self._exempt = exempt
        self._clock = clock
        self._present: dict[IPAddress, Visitor] = {}
        self._remembered: dict[IPAddress, Visitor] = {}  # those that left longest ago come first
        self._appointments = Appointments(limits.accept_rate, clock(), head_start=HEAD_START)
        self._key = lru_cache(_PARSED)(self._find_key)

    def __len__(self) -> int:
        """Addresses that are known now."""
        return len(self._present) + len(self._remembered)

    def banned(self, host: str) -> bool:
        """Whether the address *host*, as a socket tells it, is banned now. Takes a microsecond and keeps nothing."""
        if not self._remembered and not self._present:
            return False
        key = self._key(host)
        if key is None:
            return False
        visitor = self._present.get(key) or self._remembered.get(key)
        return visitor is not None and visitor._banned_until > self._clock()

    def arrive(self, host: str) -> Visitor | None:
        """A socket of the address *host* was accepted; `leave` must follow. `None` for an exempt one, which needs no
        more of this."""
        key = self._key(host)
        if key is None:
            return None
        visitor = self._present.get(key)
        if visitor is None:
            visitor = self._remembered.pop(key, None) or Visitor(key, self._limits.address_rate, self._clock())
            self._present[key] = visitor
        visitor.places += 1
        return visitor

    def leave(self, visitor: Visitor) -> None:
        """A socket was closed."""
        visitor.places -= 1
        if visitor.places == 0:
            del self._present[visitor.key]
            self._remembered[visitor.key] = visitor
            if len(self._remembered) > self._limits.addresses:
                del self._remembered[next(iter(self._remembered))]

    def wait(self, visitor: Visitor) -> int:
        """Seconds after which one that has just arrived should come back; 0 when it is welcome."""
        now = self._clock()
        return math.ceil(visitor.ban_left(now)) or visitor._arrivals.ask(now)

    def is_banned(self, visitor: Visitor) -> bool:
        """Whether it is banned now."""
        return visitor.ban_left(self._clock()) > 0

    def worth_an_answer(self, visitor: Visitor) -> bool:
        """Whether one that came too fast is told so: beyond the same rate again it is not worth the work."""
        now = self._clock()
        if visitor._answers is None:
            visitor._answers = TokenBucket(self._limits.address_rate, now)
        return visitor._answers.take(now)

    def appointment(self) -> int:
        """0 when the server has time for one more connection; else seconds after which the client may come back."""
        return self._appointments.ask(self._clock())

    def connect(self, visitor: Visitor) -> bool:
        """One of its sockets becomes a connection, which `disconnect` ends; False when it has enough."""
        if visitor.connections >= self._limits.connections_per_address:
            return False
        visitor.connections += 1
        return True

    def disconnect(self, visitor: Visitor) -> None:
        """A connection has ended."""
        visitor.connections -= 1

    def fail(self, visitor: Visitor) -> bool:
        """It did what nobody does who means well; True when it is banned for it, from now on."""
        now = self._clock()
        if visitor._failures is None:
            most = self._limits.address_failures
            visitor._failures = TokenBucket(most / FAILURES_PERIOD, now, burst=most)
        if visitor._failures.take(now) or visitor.ban_left(now):
            return False
        visitor._banned_until = now + self._timeouts.ban
        visitor._failures = None
        return True

    def _find_key(self, host: str) -> IPAddress | None:
        address = parse_ip(bare(host))
        return None if address is None or address in self._exempt else subscriber(address)


def is_failure(close_code: int, seconds: float) -> bool:
    """Whether a connection that lasted *seconds* and closed so counts as a failure of its address."""
    return close_code in _OFFENCES or (close_code == _BROKEN and seconds < QUICK)
