"""The events of a session are plain values."""

from __future__ import annotations

from webmesh.exceptions import DataLoss
from webmesh.protocol.events import Answered, Dropped, Failed, Refused
from webmesh.protocol.session import OpenRequest


def test_events_compare_by_what_they_say():
    """Tests, and programs that drive a session by hand, compare events as values."""
    request = OpenRequest(1, "/", None, None, None)

    assert Answered(request, "x") == Answered(request, "x")
    assert Answered(request, "x") != Answered(request, "y")
    assert Dropped("late reply") == Dropped("late reply")
    assert Refused({"error": {}}, fatal=False) != Refused({"error": {}}, fatal=True)


def test_a_failure_needs_no_notice():
    """Most errors come from the peer, who needs not be told of them."""
    assert Failed(OpenRequest(1, "/", None, None, None), DataLoss("x")).notice is None
