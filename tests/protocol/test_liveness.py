"""What a peer's silence means: asked, stalled, lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from webmesh.options import Timeouts
from webmesh.protocol.liveness import SAME_MACHINE, Decision, Silence, TcpState, ask_after
from webmesh.testing import FakeClock

TIMES = Timeouts(ping_interval=20, stalled=5, liveness=45)
TAKEN = TcpState(outstanding=False, acknowledged=1000, since_ack=0.1, retransmits=0)
LOST_ON_THE_WAY = TcpState(outstanding=True, acknowledged=1000, since_ack=8.0, retransmits=3)
NO_ROOM = TcpState(outstanding=True, acknowledged=1000, since_ack=3.0, retransmits=0)


class Asked:
    """A peer that was heard at 0 and pinged at 20; time goes by in steps of a second."""

    def __init__(self) -> None:
        self.clock = FakeClock(0.0)
        self.silence = Silence(TIMES, heard_at=self.clock.now, asked_at=self.clock.advance(20))

    def decisions(self, seconds: int, tcp: TcpState | None) -> dict[float, Decision]:
        """What was to be done in that time, and when."""
        seen = {}
        for _ in range(seconds):
            decision = self.silence.look(self.clock.advance(1), tcp)
            if decision is not Decision.WAIT:
                seen[self.clock.now] = decision
        return seen


def test_somebody_who_waits_has_the_peer_asked_sooner():
    """An idle connection is left alone for the whole interval; and it is never longer for a busy one."""
    assert 20 == ask_after(TIMES, busy=False)
    assert 5 == ask_after(TIMES, busy=True)
    assert 2 == ask_after(Timeouts(ping_interval=2, stalled=5, liveness=45), busy=True)


@pytest.mark.parametrize("tcp", [TAKEN, NO_ROOM, SAME_MACHINE], ids=["taken", "no room", "same machine"])
def test_a_peer_whose_machine_acknowledges_is_stalled_long_before_it_is_lost(tcp: TcpState):
    """Told once; it is pinged on, and lost after the same time as any other."""
    asked = Asked()

    assert {25: Decision.STALLED, 40: Decision.PING, 45: Decision.LOST} == asked.decisions(25, tcp)
    assert asked.silence.stalled


@pytest.mark.row(68)
@pytest.mark.parametrize("tcp", [LOST_ON_THE_WAY, replace(NO_ROOM, since_ack=9.0), None], ids=["cut", "old", "unknown"])
def test_a_peer_whose_machine_does_not_acknowledge_is_never_called_stalled(tcp: TcpState | None):
    """Nor is anybody where the system tells nothing."""
    asked = Asked()

    assert {40: Decision.PING, 45: Decision.LOST} == asked.decisions(25, tcp)
    assert not asked.silence.stalled


def test_a_link_that_comes_back_shows_the_stall():
    """As soon as the machine acknowledges what it was sent meanwhile."""
    asked = Asked()
    assert {} == asked.decisions(12, LOST_ON_THE_WAY)

    assert {33: Decision.STALLED} == asked.decisions(1, replace(TAKEN, acknowledged=1002))


@pytest.mark.row(79)
def test_a_peer_that_is_still_taking_what_was_sent_before_was_not_asked_yet():
    """Over a slow link the ping comes last; both times run from the last byte that moved before it."""
    asked = Asked()
    for second in range(100):
        moving = TcpState(outstanding=True, acknowledged=1000 + 8000 * second, since_ack=0.1, retransmits=0)
        assert asked.silence.look(asked.clock.advance(1), moving) in (Decision.WAIT, Decision.PING)
    last = asked.clock.now
    arrived = TcpState(outstanding=False, acknowledged=10**6, since_ack=0.1, retransmits=0)

    seen = asked.decisions(45, arrived)

    assert last + 5 == min(when for when, what in seen.items() if what is Decision.STALLED)
    assert last + 45 == min(when for when, what in seen.items() if what is Decision.LOST)


def test_acknowledging_the_ping_itself_is_no_life():
    """Only bytes behind which others wait tell that the peer takes any."""
    asked = Asked()
    assert {} == asked.decisions(1, TAKEN)

    assert Decision.LOST is asked.decisions(24, replace(TAKEN, acknowledged=1002))[45]
