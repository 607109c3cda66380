"""Members of groups: when a peer's subscription may have work, and be told anything."""

from __future__ import annotations

from tests.topic_fakes import CountingSerializer, fake_peer
from webmesh.acknowledged import Desk
from webmesh.brokers.base import GroupName
from webmesh.brokers.memory import MemoryBroker
from webmesh.group_members import PeerMember
from webmesh.group_work import GroupWorks
from webmesh.testing import FakeClock, RecordingObserver
from webmesh.topic_options import TopicTable


def test_a_peer_is_told_of_a_loss_after_its_answer():
    """What would go out before the answer to `$subscribe` would name a subscription that it does not know."""
    clock = FakeClock()
    desk = Desk(clock, RecordingObserver(), lambda letter, attempts, then: then(), clock=clock)
    groups = GroupWorks(MemoryBroker(clock), TopicTable(), desk)
    work = groups.of(("a", "*"), "g")
    peer, stream = fake_peer(CountingSerializer())
    member = PeerMember(peer, work, 7)
    work.join(member)
    groups.lost(GroupName(("a", "*"), "g"), 3)
    assert [] == stream.sent
    member.begin()
    data = {"reason": "not taken", "pattern": True, "lost": 3}
    assert [{"topic": "a/*", "event": "gap", "data": data, "subs": [7]}] == stream.sent
