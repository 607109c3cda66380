"""What a caller has said of one call to a service, and what has become of it so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webmesh.call_policy import Balance
    from webmesh.deadline import Deadline
    from webmesh.instances import Instance
    from webmesh.service_routes import ServiceState


@dataclass(slots=True, eq=False)
class ServiceRequest:
    """One call on its way; itself the mark of it where calls in progress are counted."""

    service: str
    """Empty for a call to one node."""
    node: str | None
    path: str
    payload: Any
    deadline: Deadline
    headers: Mapping[str, str] | None
    key: str | None
    balance: Balance
    idempotent: bool | None
    keyed: bool
    fail_fast: bool
    state: ServiceState
    tried: tuple[Instance, ...] = ()
    """Who has not taken it, or not answered."""
    pinned: tuple[str, int] | None = None
    """Node and epoch of the only process that may get it again."""

    @property
    def target(self) -> str:
        """Who is wanted, for people."""
        return f"service {self.service!r}" if self.node is None else f"node {self.node!r}"
