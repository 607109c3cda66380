"""What a node asks of the leader of its mesh, wherever that is.

Decides how long a leader is waited for, and what may be asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gevent

from webmesh.deadline import Deadline
from webmesh.exceptions import (
    NOT_STARTED, BrokerError, BrokerUnavailable, ConnectionClosed, HandlerFailed, PermissionDenied, ReplyLost,
    RequestTimeout, RouteNotFound, Unavailable,
)  # fmt: skip

if TYPE_CHECKING:
    from webmesh.brokers.mesh_council import MeshCouncil
    from webmesh.brokers.mesh_port import MeshPort

PATIENCE = 5.0
"""Seconds that what needs the leader waits for one: longer than a lease, after which there is another."""
ANSWER = 5.0
"""Seconds for its answer."""
AGAIN = 0.05
"""Seconds before a node that was no leader is asked again."""
NOT_THE_LEADER = {"leader": False}
"""Details of the answer of one that does not lead, or no more: nothing has happened there."""
DOUBTFUL = {"started": True}
"""Details of the answer of one that leads no more and cannot say what will become of it."""


class Doubtful(BrokerUnavailable):
    """The leader was lost before it answered, and may not be asked again."""


class LeaderQuestions:
    """See above.

    Args:
        own: Answers what this node asks while it leads itself.
    """

    def __init__(self, port: MeshPort, council: MeshCouncil, own: Callable[[str, Any], Any]) -> None:
        self._port = port
        self._council = council
        self._own = own

    def ask(self, said: dict[str, Any], *, repeatable: bool = True) -> Any:
        """What the leader answers; waits for one.

        Raises:
            BrokerUnavailable: There was none, and nothing has happened.
            Doubtful: It was lost before it answered, and may not be asked again; or it failed.
            RemoteError: It says no.
        """
        deadline = Deadline(PATIENCE)
        while True:
            leader = self._council.await_leader(deadline.remaining() or 0.0)
            if leader is None:
                raise BrokerUnavailable("no node leads the mesh: more than half of its nodes must see each other")
            try:
                return self._ask_one(leader, said)
            except (ConnectionClosed, Unavailable) as error:
                if isinstance(error, Unavailable) and error.details == DOUBTFUL and not repeatable:
                    raise Doubtful(error.message) from error
                if isinstance(error, Unavailable) and error.details not in (NOT_THE_LEADER, NOT_STARTED, DOUBTFUL):
                    raise
            except (RouteNotFound, PermissionDenied):
                pass  # it has no such engine, or does not know this node on that link: nothing has happened
            except HandlerFailed as failed:  # the same would come of asking again
                raise Doubtful(f"the node that leads the mesh failed: {failed.message}") from failed
            except (ReplyLost, RequestTimeout) as lost:
                if not repeatable and getattr(lost, "started", True):
                    raise Doubtful(str(lost)) from lost
            if deadline.expired:
                raise BrokerUnavailable("the node that leads the mesh cannot be reached")
            gevent.sleep(AGAIN)

    def _ask_one(self, leader: str, said: dict[str, Any]) -> Any:
        if leader == self._port.me:
            return self._own(leader, said)
        return self._port.ask(leader, "$engine", said, ANSWER)

    def ask_parts(self, said: dict[str, Any]) -> Iterator[list[Any]]:
        """Pairs of a key and what belongs to it, of which one message may not hold all.

        Raises:
            BrokerError: As `ask`; or what the leader says makes no sense.
        """
        after: str | None = None
        while True:
            items, more = _read_part(self.ask(said | {"after": after}), after)
            yield from items
            if not more:
                return
            after = items[-1][0]


def _read_part(part: object, after: str | None) -> tuple[list[Any], bool]:
    """The pairs of one message, and whether there are more behind them; they come in the order of their keys."""
    items = part.get("items") if isinstance(part, dict) else None
    if not isinstance(items, list) or not all(
        isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) for one in items
    ):
        raise BrokerError("the answer of the node that leads the mesh makes no sense")
    more = isinstance(part, dict) and part.get("more") is True
    if more and (not items or items[-1][0] <= (after or "")):
        raise BrokerError("the answers of the node that leads the mesh have no end")
    return items, more
