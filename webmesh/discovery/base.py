"""What a source of nodes' addresses is asked for.

A mesh may have several. What they find is whom to dial, no more: who is there and lives, the nodes tell each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from webmesh.protocol.node_record import NodeRecord


@dataclass(frozen=True, slots=True)
class Found:
    """A node that may be there: it is to be dialled before anything is believed.

    Attributes:
        urls: Where; one after the other.
        record: What it has said of itself, where the source knows that.
    """

    urls: tuple[str, ...]
    record: NodeRecord | None = None


Told = Callable[[list[Found]], None]
"""Told of all that is found, each time that it is something else than before; must not switch."""


class Discovery(ABC):
    """One source. All its methods are called in the hub of the node, and may switch.

    Attributes:
        dropped: Entries that were not believed: malformed, or with an address that is not allowed.
    """

    dropped: int = 0

    @abstractmethod
    def start(self, found: Told) -> None:
        """Begin to look, and tell what is found, now or soon, until `stop`. An outage is logged and outlasted."""

    def announce(self, record: NodeRecord) -> None:
        """This node says *record* of itself; again whenever that changes. Sources that keep no register ignore it."""

    @abstractmethod
    def stop(self) -> None:
        """Look no longer, and take back what was announced."""
