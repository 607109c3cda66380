"""Life and silence of a peer: when to ask it for a sign, when it is stalled, when it is lost.

Decides alone what silence means. Pure: the clock's reading, and what TCP tells, are handed in. A peer that talks
has no `Silence`, so an idle connection pays for one only between a ping and its pong.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webmesh.options import Timeouts


@dataclass(frozen=True, slots=True)
class TcpState:
    """What the system knows of a connection's other end, whoever may be asleep behind it.

    Attributes:
        outstanding: Something that we gave to TCP is not acknowledged yet.
        acknowledged: Bytes that were, so far.
        since_ack: Seconds since the last acknowledgement of any kind.
        retransmits: How often in a row the oldest of what is outstanding was sent again.
    """

    outstanding: bool
    acknowledged: int
    since_ack: float
    retransmits: int


SAME_MACHINE = TcpState(outstanding=False, acknowledged=0, since_ack=0.0, retransmits=0)
"""For a Unix socket: one system is both ends, so whatever was sent has arrived."""


class Decision(Enum):
    """What is to be done about a silence."""

    WAIT = "wait"
    PING = "ping"
    STALLED = "stalled"
    LOST = "lost"


def ask_after(timeouts: Timeouts, *, busy: bool) -> float:
    """Seconds of silence after which the peer is pinged.

    Args:
        busy: Somebody waits for this peer: for an answer, or for room in its queue. Then a stall is looked for sooner.
    """
    return min(timeouts.stalled, timeouts.ping_interval) if busy else timeouts.ping_interval


class Silence:
    """A peer that was asked for a sign of life and has not given one since. Any frame ends it, and makes a new one.

    Attributes:
        stalled: Its machine acknowledges, but it does not answer: it hangs, or is stopped.
    """

    __slots__ = ("_acknowledged", "_asked_at", "_life_at", "_ping_at", "_timeouts", "stalled")

    def __init__(self, timeouts: Timeouts, *, heard_at: float, asked_at: float) -> None:
        self._timeouts = timeouts
        self._life_at = heard_at
        self._asked_at = asked_at
        self._ping_at = asked_at + timeouts.ping_interval
        self._acknowledged: int | None = None
        self.stalled = False

    def look(self, now: float, tcp: TcpState | None) -> Decision:
        """What to do now.

        Args:
            tcp: `None` where the system tells nothing: then nobody is called stalled, and lost after the same time.
        """
        if tcp is not None:
            self._follow(now, tcp)
        if now - self._life_at >= self._timeouts.liveness:
            return Decision.LOST
        if not self.stalled and now - self._asked_at >= self._timeouts.stalled and self._answers(tcp):
            self.stalled = True
            return Decision.STALLED
        if now >= self._ping_at:
            self._ping_at = now + self._timeouts.ping_interval
            return Decision.PING
        return Decision.WAIT

    def _follow(self, now: float, tcp: TcpState) -> None:
        # A slow link: bytes of ours still arrive one after another, and our ping is behind them. It was not asked yet.
        moved = self._acknowledged is not None and tcp.acknowledged > self._acknowledged
        if moved and tcp.outstanding and not tcp.retransmits:
            self._life_at = self._asked_at = now
        self._acknowledged = tcp.acknowledged

    def _answers(self, tcp: TcpState | None) -> bool:
        """Whether the peer's machine is there: it has taken all, or it goes on saying that it has no room."""
        if tcp is None:
            return False
        return not tcp.outstanding or not tcp.retransmits and tcp.since_ack <= self._timeouts.stalled
