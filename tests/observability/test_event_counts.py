"""What every server counts without being asked."""

from __future__ import annotations

from webmesh.observability.event_counts import OTHER, SERIES, EventCounts
from webmesh.observer import paired
from webmesh.testing import RecordingObserver


def test_requests_are_not_timed_for_it() -> None:
    """Nothing of it happens for each call; but for a program's own observer they are timed."""
    counts = EventCounts()
    assert not counts.wants_requests
    assert paired(counts, RecordingObserver()).wants_requests


def test_events_are_told_with_their_labels() -> None:
    """As an object that any serializer can carry."""
    counts = EventCounts()
    counts.connection_opened(None)
    counts.connection_closed(None, 4000 + 77, "a peer's own")
    counts.hub_held("/a", 0.25, "the stack")
    counts.gauge("engine_up", "Up.", lambda: 1.0)
    assert {
        "counters": {
            "connections_closed": {OTHER: 1}, "connections_opened": {"": 1},
            "hub_holds": {"/a": 1}, "hub_held_seconds": {"/a": 0.25},
        },
        "gauges": {"connections_open": 0, "peers_stalled": 0, "engine_up": 1.0},
    } == counts.events()  # fmt: skip


def test_labels_have_a_bound() -> None:
    """Beyond it there is one for all."""
    counts = EventCounts()
    for number in range(SERIES + 10):
        counts.refused("message", f"reason {number}")
    table = counts.tables["refused"]
    assert (SERIES + 1, 10) == (len(table), table[OTHER, OTHER])
