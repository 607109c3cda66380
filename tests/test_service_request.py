"""What a caller has said of one call."""

from __future__ import annotations

import pytest

from webmesh.call_policy import CallPolicy
from webmesh.deadline import Deadline
from webmesh.service_request import ServiceRequest
from webmesh.service_routes import ServiceState


@pytest.mark.parametrize(("node", "target"), [(None, "service 'stock'"), ("a", "node 'a'")])
def test_it_can_name_its_target(node: str | None, target: str) -> None:
    """For errors."""
    request = ServiceRequest(
        "" if node else "stock", node, "/", None, Deadline(1.0), None, None, "round-robin", None, False, False,
        ServiceState(CallPolicy()),
    )  # fmt: skip
    assert (target, (), None) == (request.target, request.tried, request.pinned)
