"""A snapshot of a connection's way out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.websocket.line import Line
from tests.websocket.loopback import Authority
from tests.websocket.wires import Wires
from webmesh.exceptions import ConnectionClosed
from webmesh.websocket.connection_stats import ConnectionStats, connection_stats


@pytest.fixture
def wires(authority: Authority) -> Iterator[Wires]:
    made = Wires("unix", authority)
    yield made
    made.close()


def test_a_connection_that_keeps_up_has_nothing_to_tell(wires: Wires):
    """Nothing is counted for it."""
    line = Line(wires).read_on()

    assert ConnectionStats(queued=0, dropped=0, conflated=0, stalled=False) == connection_stats(line.stream)
    line.stream.abort(ConnectionClosed(1000))


def test_what_a_slow_peer_was_not_sent_is_counted(wires: Wires):
    """And stays so when it has caught up."""
    line = Line(wires, small=True).read_on()
    message = line.clog()
    for number in range(3):
        line.stream.offer(f"{number}", "drop_oldest", "key")
    line.stream.offer(bytes(9_000_000), "drop_newest")
    stats = connection_stats(line.stream)
    assert (1, 2, False) == (stats.dropped, stats.conflated, stats.stalled)
    assert stats.queued == line.stream.queued > 1_000_000

    assert [message, "2"] == line.hear(2)
    assert 1 == connection_stats(line.stream).dropped
    line.stream.abort(ConnectionClosed(1000))
    assert ConnectionStats(0, 1, 2, False) == connection_stats(line.stream)
