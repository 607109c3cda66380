"""The contract of discovery."""

from __future__ import annotations

from webmesh.discovery.base import Discovery, Found, Told
from webmesh.protocol.node_record import NodeRecord


class Least(Discovery):
    """A source of a program's own: what it has to write."""

    def start(self, found: Told) -> None:
        found([Found(("ws://10.0.0.2:4269",))])

    def stop(self) -> None:
        pass


def test_a_source_that_keeps_no_register_needs_two_methods() -> None:
    """Announcing goes nowhere."""
    told: list[list[Found]] = []
    source = Least()

    source.start(told.append)
    source.announce(NodeRecord(id="n1", epoch=1))
    source.stop()

    assert [[Found(("ws://10.0.0.2:4269",))]] == told
    assert 0 == source.dropped
