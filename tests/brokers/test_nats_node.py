"""The thread's side of a node on NATS: what nodes hand to each other."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.brokers.contract import WORK
from tests.brokers.nats_server import InLoop, NatsServer, new_prefix
from webmesh.brokers.asyncio_bridge import AsyncioBridge
from webmesh.brokers.nats_address import read_address
from webmesh.brokers.nats_link import Message
from webmesh.brokers.nats_marks import MARK
from webmesh.brokers.nats_node import NatsNode

RAW = Message("jobs.1", "", b"body", {MARK: "1 e 0 - n."})


class Hub:
    """What a node tells."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *told: self.told.append((name, *told))

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [told for told in self.told if told[0] == name]


@pytest.fixture
def nodes(nats_server: NatsServer) -> Iterator[Any]:
    """Makes nodes that tell at once: `node, hub = nodes()`."""
    prefix, made = new_prefix(), []
    bridge = AsyncioBridge(lambda thing: None, lost=lambda: None, failed=lambda error: None)
    bridge.start()

    def make() -> tuple[NatsNode, Hub]:
        hub = Hub()
        node = NatsNode(
            read_address(nats_server.url), hub, hub, lambda told, size=0, must=False: told(), prefix=prefix, lease=5.0,
            replicas=1, patience=2.0, timeout=0.2, tls=None, name="test", is_over=lambda *_: False, clock=time.time,
        )  # fmt: skip
        bridge.call(node.open, timeout=10)
        made.append(node)
        return node, hub

    make.call = lambda function, *args: bridge.call(function, *args, timeout=10)
    make.post = bridge.post
    yield make
    for node in made:
        bridge.call(node.close, timeout=10)
    bridge.stop()


def test_an_offer_goes_to_a_node_with_room_only(nodes: Any, in_loop: InLoop):
    """Who has none does not listen; who listens may still say no."""
    one, _ = nodes()
    assert not nodes.call(one.offer, WORK, RAW)
    other, hub = nodes()
    nodes.call(other.join, WORK, 1, False)
    for taken in (True, False):
        hub.on_offer = lambda group, topic, message: nodes.post(other.answer, message.reply, taken)  # noqa: B023
        assert taken == nodes.call(one.offer, WORK, RAW)
    nodes.post(other.listen, WORK, False)
    nodes.call(other.link.settle)
    assert not nodes.call(one.offer, WORK, RAW)


def test_an_offer_without_an_answer_counts_as_taken(nodes: Any):
    """Better lost than done twice: nobody acknowledges such messages."""
    (one, _), (other, hub) = nodes(), nodes()
    nodes.call(other.join, WORK, 1, False)
    assert nodes.call(one.offer, WORK, RAW)
    (offered,) = hub.named("on_offer")
    assert (WORK, "jobs.1", b"body", RAW.headers[MARK]) == (*offered[1:3], offered[3].data, offered[3].headers[MARK])


def test_what_is_handed_over_goes_to_one_other_node(nodes: Any):
    """With its topic and its mark."""
    (one, _), (other, hub) = nodes(), nodes()
    nodes.call(other.join, WORK, 1, False)
    nodes.post(one.hand_over, WORK, RAW)
    nodes.call(one.link.settle)
    while not hub.named("on_group"):
        nodes.call(other.link.settle)
    (handed,) = hub.named("on_group")
    assert (WORK, "jobs.1", b"body", RAW.headers[MARK]) == (*handed[1:3], handed[3].data, handed[3].headers[MARK])


@pytest.mark.row(97)
def test_what_is_not_sent_is_counted(nodes: Any):
    """As without a connection."""
    node, _ = nodes()
    nodes.call(node.link.close)
    nodes.post(node.send_live, "a", b"xyz")
    nodes.call(node.link.settle)
    assert (1, 3) == (node.unsent, node.taken_bytes)
