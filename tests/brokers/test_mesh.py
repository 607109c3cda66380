"""The engine of a mesh: the contract for one node and for several, and what becomes of it when nodes go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.brokers.contract import WORK, BrokerContract, TwoNodeContract, message, until
from tests.brokers.mesh_net import Net
from webmesh.brokers.base import Keep
from webmesh.brokers.mesh import MeshBroker
from webmesh.testing import FakeClock


class TestOneNode(BrokerContract):
    """By a clock that does not wait."""

    @pytest.fixture(autouse=True)
    def _net(self) -> None:
        self.clock, self.net = FakeClock(), Net()

    def open_broker(self, number: int) -> MeshBroker:
        broker = MeshBroker(self.clock)
        self.net.add(broker)
        return broker

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)


class TestSeveralNodes(TwoNodeContract):
    """Without a network; over real links in `test_mesh`."""

    @pytest.fixture(autouse=True)
    def _net(self) -> Iterator[None]:
        self.net = Net()
        yield
        for port in self.net.ports.values():
            port.reader.kill()

    def open_broker(self, number: int) -> MeshBroker:
        broker = MeshBroker()
        port = self.net.add(broker)
        start, stop = broker.start, broker.stop

        def started(sink) -> None:
            start(sink)
            self.net.changed()
            until(lambda: broker.council.leader is not None)

        def stopped() -> None:
            stop()
            self.net.leave(port.me)

        broker.start, broker.stop = started, stopped
        return broker

    def test_a_node_that_dies_hands_its_work_on(self, node) -> None:
        """As soon as its link is lost, but for what it had done."""
        (one, given), (other, taken) = node(), node()
        other.join(WORK, 10, durable=True)
        for number in range(3):
            one.publish(message(f"jobs/{number}", number), Keep(history=9, ack=True))
        until(lambda: 3 == len(taken.given))
        other.done(WORK, taken.given[0][2])
        one.join(WORK, 10, durable=True)
        until(lambda: ("n0", "$done") in self.net.ports["n1"].sent)
        assert [] == given.given
        self.net.leave("n1")
        until(lambda: 2 == len(given.given))
        assert [1, 2] == sorted(publication.payload for _, publication, _ in given.given)
