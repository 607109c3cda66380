"""Logins that failed, by address: who tries too often has to wait, and longer each time.

Decides how long. Knows no connection; time is handed in. Row 54 of docs/THREATS.md.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from webmesh.protocol.forwarded import parse_node
from webmesh.protocol.networks import subscriber

LONGEST_WAIT = 60.0
"""Seconds that one failure can cost: enough against guessing, and a user who mistyped comes back."""

MEMORY = 300.0
"""Seconds after its last failure that an address is forgotten."""

ADDRESSES = 4096
"""Addresses that are kept, about 1 MiB; beyond them the one that failed longest ago is forgotten first."""


_ZONE = re.compile(r"%[^\]]*")


class FailedLogins:
    """Failures of each address. IPv6 addresses count by their first 64 bits, which one customer has all of.

    Args:
        free: Failures that cost no wait.
        addresses: Addresses that are kept.
    """

    def __init__(self, free: int, addresses: int = ADDRESSES) -> None:
        self._free = free
        self._addresses = addresses
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def wait(self, address: str, now: float) -> float:
        """Seconds that the peer at *address* must still wait before it is asked who it is; 0 for most."""
        key = network_of(address)
        if key is None or key not in self._failures:
            return 0.0
        count, last = self._failures[key]
        if now - last >= MEMORY:
            del self._failures[key]
            return 0.0
        if count < self._free:
            return 0.0
        penalty: float = min(LONGEST_WAIT, 2.0 ** min(count - self._free, 16))
        return max(0.0, last + penalty - now)

    def spent(self, address: str, now: float) -> bool:
        """Whether each further failure of *address* costs it a wait."""
        count, last = self._failures.get(network_of(address) or "", (0, now))
        return count >= self._free and now - last < MEMORY

    def failed(self, address: str, now: float) -> None:
        """A login from *address* was refused. What is refused for its wait alone is none, or it would last for ever."""
        key = network_of(address)
        if key is None:
            return
        count, last = self._failures.pop(key, (0, now))
        self._failures[key] = (1 if now - last >= MEMORY else count + 1, now)
        if len(self._failures) > self._addresses:
            self._failures.popitem(last=False)


def network_of(address: str) -> str | None:
    """What stands for everybody who can use *address*, as `10.0.0.2:51724`; `None` for a Unix socket, whose peers are
    all the same to us."""
    if address.startswith("unix:"):
        return None
    peer = parse_node(_ZONE.sub("", address))
    if peer is None:
        return address
    # All neighbours on a link have the same first 64 bits there.
    return str(peer.address if peer.address.is_link_local else subscriber(peer.address))
