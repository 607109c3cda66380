"""`NodeTopics`: the topics of one run of a server, with the program's own subscriptions."""

from __future__ import annotations

from webmesh.acknowledged_subscriber import LocalDeliveries
from webmesh.brokers.base import Broker
from webmesh.deadline import Deadline
from webmesh.group_members import LocalMember
from webmesh.local_subscriber import LocalRunner, LocalSubscriber, LocalSubscription
from webmesh.node_lease import NodeLease
from webmesh.node_presence import NodePresence
from webmesh.observer import Observer
from webmesh.options import Limits
from webmesh.protocol.topics import read_topic_pattern
from webmesh.pubsub import Topics
from webmesh.topic_access import TopicAccess
from webmesh.topic_options import TopicTable


class NodeTopics(Topics):
    """Topics, and the functions of the program that subscribe.

    Args:
        subscriptions: What the program has registered.

    Attributes:
        lease: By which other nodes know this one.
    """

    def __init__(
        self,
        broker: Broker,
        table: TopicTable,
        subscriptions: list[LocalSubscription],
        runner: LocalRunner,
        *,
        limits: Limits,
        observer: Observer,
        access: TopicAccess,
    ) -> None:
        super().__init__(broker, table, limits=limits, observer=observer, access=access)
        self.lease = NodeLease(broker)
        self._acknowledging: list[LocalDeliveries] = []
        self.presence = NodePresence(broker, table, self.lease, limits=limits, observer=observer)
        self._local = [LocalSubscriber(one, runner) for one in subscriptions]

    def start(self) -> None:
        """Begin what needs the engine: this node's lease, and the program's subscriptions.

        Raises:
            BrokerError: It cannot be used.
        """
        self.lease.start()
        for one in self._local:
            pattern, group = read_topic_pattern(one.subscription.pattern), one.subscription.group
            if group is None:
                self._acknowledging.append(deliveries := LocalDeliveries(one, self.table, self.desk))
                self.attach(pattern, deliveries)
            else:
                work = self.groups.of(pattern, group)
                work.join(LocalMember(one, work))
                self.groups.settle(work)

    def stop(self) -> None:
        """Disconnect from it, as one that leaves on purpose."""
        self.lease.stop()
        super().stop()

    def end_local(self, seconds: float) -> None:
        """End the program's subscriptions; what they handle now gets *seconds* together to end."""
        for deliveries in self._acknowledging:
            deliveries.end()
        deadline = Deadline(seconds)
        for one in self._local:
            one.stop(deadline.remaining() or 0.0)
