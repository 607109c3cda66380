"""The streams of one session that outlive its connections: those that run, and those whose end may not have arrived.

Pure. Only streams without items from the asking side, and with credit: what is on its way is bounded then.
Wire form: docs/PROTOCOL.md section 6, "Resume".
"""

from __future__ import annotations

from collections.abc import Sequence

from webmesh.protocol.envelope import RequestId
from webmesh.protocol.retained import Retained, Room
from webmesh.protocol.session import Answering

Position = tuple[RequestId, int, int]
"""Of a stream, on its receiver's side: its id, how many items have come, how many more may come."""


class KeptStreams:
    """What a session keeps of its streams.

    Args:
        room: What their items take together with everything else of the session.
        limit: Streams that are kept at once; further ones end with their connection.

    Attributes:
        ended: Streams that have ended so far; the number of one says when its end was sent.
    """

    __slots__ = ("_ends", "_limit", "_room", "_streams", "ended")

    def __init__(self, room: Room, limit: int) -> None:
        self._room = room
        self._limit = limit
        self._streams: dict[RequestId, Answering] = {}
        self._ends: dict[RequestId, int] = {}
        self.ended = 0

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def unsettled(self) -> bool:
        """Whether a stream has ended, and its receiver may not know."""
        return bool(self._ends)

    def enter(self, answering: Answering) -> bool:
        """Keep a stream that begins; False when there are too many."""
        self.forget(answering.id)  # whoever uses an id again has had the end of what it named before
        if len(self._streams) >= self._limit:
            return False
        answering.sender.retained = Retained(self._room)
        self._streams[answering.id] = answering
        return True

    def forget(self, request_id: RequestId) -> Answering | None:
        """Keep nothing of this stream any more; returns it, where it was kept."""
        answering = self._streams.pop(request_id, None)
        self._ends.pop(request_id, None)
        if answering is not None and answering.sender.retained is not None:
            answering.sender.retained.clear()
            answering.sender.retained = None
        return answering

    def finish(self, answering: Answering, last: str | bytes) -> None:
        """It ends with *last*, its reply or error, which follows its items."""
        if answering.sender.retained is not None:
            answering.sender.retained.add(last)
            self.ended += 1
            self._ends[answering.id] = self.ended

    def acknowledge(self, ended: int) -> None:
        """The receiver knows that so many have ended."""
        while self._ends:
            request_id, number = next(iter(self._ends.items()))
            if number > ended:
                return
            self.forget(request_id)

    def leave(self, answering: list[Answering]) -> list[Answering]:
        """The connection is lost. Those of *answering* that are kept go on without it; returns the others."""
        for kept in self._streams.values():
            kept.away = True
        return [one for one in answering if self._streams.get(one.id) is not one]

    def resume(self, positions: Sequence[Position]) -> tuple[list[RequestId], list[Answering]]:
        """The receiver is back and tells where it is.

        Returns:
            The ids of the streams that go on, and the streams that nobody wants any more or that cannot go on.
        """
        going = [request_id for request_id, seq, credit in positions if self._resume(request_id, seq, credit)]
        wanted = set(going)
        return going, [one for request_id, one in tuple(self._streams.items())
                       if request_id not in wanted and self.forget(request_id)]  # fmt: skip

    def _resume(self, request_id: RequestId, seq: int, credit: int) -> bool:
        answering = self._streams.get(request_id)
        return answering is not None and answering.sender.resume(seq, credit)

    def missed(self, request_id: RequestId) -> tuple[Answering, list[str | bytes]] | None:
        """A stream that goes on, with everything that its receiver has not had, in order."""
        answering = self._streams.get(request_id)
        if answering is None or answering.sender.retained is None:
            return None
        return answering, list(answering.sender.retained)

    def running(self) -> list[Answering]:
        """Those whose handlers have not ended."""
        return [one for request_id, one in self._streams.items() if request_id not in self._ends]

    def let_go(self) -> None:
        """Retain no item: those that were sent cannot be had again."""
        for answering in self._streams.values():
            if answering.sender.retained is not None:
                answering.sender.retained.clear()

    def clear(self) -> None:
        """The session has ended."""
        for request_id in tuple(self._streams):
            self.forget(request_id)
