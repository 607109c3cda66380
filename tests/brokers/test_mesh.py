"""The engine of a mesh: the contract for one node and for several, and what becomes of it when nodes go."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from tests.brokers.contract import WORK, BrokerContract, BytesContract, RecordingSink, TwoNodeContract, message, until
from tests.brokers.mesh_net import Net
from webmesh.brokers.base import Keep, Since
from webmesh.brokers.mesh import MeshBroker
from webmesh.exceptions import BrokerError, BrokerUnavailable, PublishDoubtful
from webmesh.testing import FakeClock


class TestOneNode(BrokerContract, BytesContract):
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

    def test_the_work_of_a_process_whose_place_another_takes_is_given_to_others(self, node) -> None:
        """The link to the old one was not seen to end, as when its machine was reset; and the new one is told all."""
        (one, given), (old, taken) = node(), node()
        one.want(("a",))
        old.join(WORK, 10, durable=True)
        for number in range(3):
            one.publish(message(f"jobs/{number}", number), Keep(history=9, ack=True))
        until(lambda: 3 == len(taken.given))
        one.join(WORK, 10, durable=True)
        assert [] == given.given
        new = MeshBroker()
        self.net.add(new, "n1")
        new.start(RecordingSink())
        self.net.changed()
        until(lambda: [0, 1, 2] == sorted(publication.payload for _, publication, _ in given.given))
        until(lambda: {"n0"} == new._interest.nodes(("a",)) and set() == new._interest.nodes(("b",)))
        new.stop()

    def test_an_answer_of_the_leader_that_makes_no_sense_is_a_failure_of_the_engine(self, node) -> None:
        """Not of who asked; and of a publication nobody knows."""
        (_, _), (one, _) = node(), node()
        self.net.ports["n0"].handlers["$engine"] = lambda node, said: {"items": [["a", 5]], "offset": "x"}
        with pytest.raises(PublishDoubtful, match="no sense"):
            one.publish(message("a"), Keep(history=9))
        for ask in (lambda: one.history("a", Since()), one.groups, lambda: list(one.retained(("**",)))):
            with pytest.raises(BrokerError, match="no sense"):
                ask()

    def test_what_no_single_message_holds_goes_in_parts(self, node) -> None:
        """Long histories, many retained values, large tables, and a copy of all of it."""
        (first, _), (one, _) = node(), node()
        keep = Keep(history=100, retain=True)
        for number in range(40):
            one.publish(message("big/log", [number, "x" * 50_000]), keep)
            one.publish(message(f"big/{number}", "y" * 50_000), Keep(retain=True))
            one.put("t", str(number), "z" * 50_000, 60.0)
        (late, _) = node()
        until(lambda: 3 == len(first.council.leadership.council.keepers), 20)
        self.net.leave("n0")
        until(lambda: late.council.leader in ("n1", "n2"))
        found = late.history("big/log", Since())
        assert list(range(40)) == [item.payload[0] for item in found.items]
        part = late.history("big/log", Since(5, found.epoch), most=10)
        assert list(range(5, 15)) == [item.payload[0] for item in part.items]
        assert 39 == late.history("big/log", Since(), most=9, reverse=True).items[0].payload[0]
        assert 41 == len(list(late.retained(("big", "*")))) and 40 == len(late.records("t"))
        assert ["big/log"] == late.topics(("**",))

    def test_another_leader_goes_on_where_the_first_was_killed(self, node) -> None:
        """With the same numbers, the past, retained values, groups' work and records: nothing acknowledged is lost."""
        (_, _), (one, sink), (other, _) = node(), node(), node()
        keep = Keep(history=100, retain=True, ack=True)
        one.want(("jobs", "*"))
        other.join(WORK, 2, durable=True)
        other.put("wills", "k", {"x": 1}, 60.0)
        until(lambda: 3 == len(other.council.leadership.council.keepers))
        accepted = [one.publish(message("jobs/a", number, dedupe_id=f"d{number}"), keep) for number in range(5)]
        self.net.leave("n0")
        until(lambda: one.council.leader in ("n1", "n2") and one.council.leader == other.council.leader)
        again = one.publish(message("jobs/a", 4, dedupe_id="d4"), keep)
        assert accepted[4]._replace(duplicate=True) == again
        further = one.publish(message("jobs/a", 5), keep)
        assert (6, accepted[0].epoch) == (further.offset, further.epoch)
        for broker in (one, other):
            found = broker.history("jobs/a", Since(0, further.epoch))
            assert found.complete and list(range(6)) == [item.payload for item in found.items]
            assert [5] == [item.payload for item in broker.retained(("jobs", "a"))]
            assert {"k": {"x": 1}} == dict(broker.records("wills"))
        assert {"x": 1} == one.claim("wills", "k") and other.claim("wills", "k") is None
        assert sink.gaps

    def test_a_copy_counts_when_it_is_whole(self, node) -> None:
        """A leader that is killed while it sends another one leaves the former one as it was."""
        (first, _), (one, _) = node(), node()
        until(lambda: 2 == len(first.council.leadership.council.keepers))
        first.put("t", "k", "kept", 60.0)
        said = {"term": first.council.leadership.term, "reset": True, "operations": [["begin", "another", 0]]}
        one._copied("n0", said)
        assert {"k": "kept"} == dict(one._copy.records("t", 0.0))
        one._copied("n0", said | {"reset": False, "operations": [], "whole": True})
        assert {} == dict(one._copy.records("t", 0.0))

    def test_work_that_was_not_done_is_given_again_by_the_next_leader(self, node) -> None:
        """What was done is not."""
        (_, _), (one, taken), (other, _) = node(), node(), node()
        one.join(WORK, 10, durable=True)
        until(lambda: 3 == len(other.council.leadership.council.keepers))
        for number in range(4):
            other.publish(message(f"jobs/{number}", number), Keep(ack=True))
        until(lambda: 4 == len(taken.given))
        one.done(WORK, taken.given[1][2])
        until(lambda: ("n0", "$done") in self.net.ports["n1"].sent)
        gevent.sleep(0.1)
        del taken.given[:]
        self.net.leave("n0")
        until(lambda: 3 == len(taken.given))
        assert [0, 2, 3] == [publication.payload for _, publication, _ in taken.given]

    def test_nothing_is_acknowledged_that_a_cut_off_leader_alone_has(self, node) -> None:
        """Its publishers are told that it is doubtful, or that nobody leads; the others go on, and it gives way."""
        (first, _), (one, _), (other, _) = node(), node(), node()
        keep = Keep(history=10)
        until(lambda: 3 == len(first.council.leadership.council.keepers))
        one.publish(message("a", 0), keep)
        self.net.cut |= {frozenset(("n0", "n1")), frozenset(("n0", "n2"))}
        self.net.changed()
        with pytest.raises(BrokerUnavailable):
            first.publish(message("a", "lost"), keep)
        assert 2 == one.publish(message("a", 1), keep).offset
        self.net.cut.clear()
        self.net.changed()
        until(lambda: first.council.leader == one.council.leader == other.council.leader)
        assert [0, 1] == [item.payload for item in first.history("a", Since()).items]
