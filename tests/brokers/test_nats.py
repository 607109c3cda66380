"""The engine on NATS: the contract, against a real server, and what outages do."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.brokers.contract import (
    KEPT, PLAIN, WORK, BrokerContract, RecordingSink, TwoNodeContract, message, until,
)  # fmt: skip
from tests.brokers.nats_server import InLoop, NatsServer, new_prefix
from webmesh.brokers import nats, nats_link
from webmesh.brokers import jetstream
from webmesh.brokers.base import Keep, Since
from webmesh.brokers.nats import NatsBroker
from webmesh.brokers.nats_bodies import Bodies
from webmesh.brokers.opening import open_broker
from webmesh.exceptions import BrokerError, BrokerUnavailable, ConfigurationError, PublishDoubtful
from webmesh.protocol.publication import Publication


class OnNats:
    """By the real clock: another program's would not be ours."""

    @pytest.fixture(autouse=True)
    def _place(self, nats_server: NatsServer):
        self.server, self.prefix = nats_server, new_prefix()

    def open_broker(self, number: int) -> NatsBroker:
        return NatsBroker(self.server.url, prefix=self.prefix, lease=1.0)

    def url(self) -> str:
        return f"{self.server.url}?prefix={self.prefix}&lease=1.0"


class TestNats(OnNats, BrokerContract):
    """One node."""


class TestNodesOnNats(OnNats, TwoNodeContract):
    """Several."""


@pytest.fixture
def server(nats_server: NatsServer, tmp_path: Path) -> Iterator[NatsServer]:
    """A server that a test may kill."""
    made = NatsServer(tmp_path)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def node(server: NatsServer) -> Iterator[Any]:
    """Makes nodes on that server."""
    with ExitStack() as stack:

        def make(**options: Any) -> tuple[NatsBroker, RecordingSink]:
            defaults = {"patience": 0.5, "publish_timeout": 1.0, "lease": 1.0}
            broker, sink = NatsBroker(server.url, **defaults | options), RecordingSink()
            broker.start(sink)
            stack.callback(broker.stop)
            return broker, sink

        yield make


@pytest.mark.row(96, 97)
def test_no_acknowledged_publication_is_lost_when_the_server_is_killed(node, server: NatsServer):
    """Again and again, under load from two nodes: all are in history, once each, and in their publishers' order."""
    keep, taken, stopping = Keep(history=100_000), [], []
    nodes = [node(), node()]

    def publish(name: int, broker: NatsBroker) -> None:
        for number in itertools.count():
            if stopping:
                return
            while True:  # with an id, as who must not lose it does
                try:
                    accepted = broker.publish(message("a/b", [name, number], dedupe_id=f"{name}-{number}"), keep)
                    break
                except BrokerUnavailable:
                    gevent.sleep(0.01)
            taken.append((accepted.offset, [name, number]))

    publishers = [gevent.spawn(publish, name, broker) for name, (broker, _) in enumerate(nodes * 2)]
    for _ in range(3):
        count = len(taken)
        until(lambda: len(taken) > count + 50)  # noqa: B023
        server.kill()
        server.start()
    count = len(taken)
    until(lambda: len(taken) > count + 50)
    stopping.append(True)
    gevent.joinall(publishers, raise_error=True)
    found = nodes[0][0].history("a/b", Since())
    kept = [(one.offset, one.payload) for one in found.items]
    assert [offset for offset, _ in kept] == list(range(1, found.offset + 1))
    assert sorted(taken) == kept
    for name in range(4):
        mine = [number for _, (publisher, number) in kept if publisher == name]
        assert list(range(len(mine))) == mine


@pytest.mark.row(96)
def test_an_outage_is_told_and_ends_with_the_server_there(node, server: NatsServer, caplog):
    """Down at once, then up with a gap; who wants what meanwhile gets it afterwards."""
    broker, sink = node()
    broker.want(("a",))
    broker.join(WORK, 5, durable=False)
    server.kill()
    until(lambda: sink.healths == [False])
    assert not broker.up
    assert "lost" in caplog.text
    broker.want(("b",))
    broker.unwant(("a",))
    server.start()
    until(lambda: sink.healths == [False, True] and sink.gaps)
    for topic in ("a", "b", "jobs/1"):
        broker.publish(message(topic), PLAIN)
    until(lambda: sink.delivered and sink.given)
    assert ["b"] == [one.topic for one in sink.delivered]
    assert 1 == len(sink.gaps)


@pytest.mark.row(97)
@pytest.mark.parametrize("keep", [PLAIN, KEPT])
def test_what_is_published_in_an_outage_is_refused(node, server: NatsServer, keep: Keep):
    """At once, and nothing of it comes later; so is what asks for the past."""
    broker, sink = node()
    broker.want(("a",))
    server.kill()
    until(lambda: not broker.up)
    for asking in (
        lambda: broker.publish(message("a"), keep), lambda: broker.history("a", Since()), lambda: broker.topics(("a",)),
        lambda: list(broker.retained(("a",))), lambda: broker.put("t", "k", 1, 60.0), lambda: broker.claim("t", "k"),
        lambda: broker.records("t"),
    ):  # fmt: skip
        with pytest.raises(BrokerUnavailable, match="no connection"):
            asking()
    server.start()
    until(lambda: broker.up)
    broker.publish(message("a", "after"), keep)
    until(lambda: sink.delivered)
    assert ["after"] == [one.payload for one in sink.delivered]


@pytest.mark.row(96)
def test_a_server_that_stands_still_does_not_hold_the_hub(node, server: NatsServer):
    """Who publishes waits its time and is told that nobody knows; everyone else goes on."""
    broker, sink = node(patience=30.0, publish_timeout=0.3)
    broker.publish(message("a"), KEPT)
    server.freeze()
    waiting = gevent.spawn(lambda: pytest.raises(PublishDoubtful, broker.publish, message("a"), KEPT))
    turns = 0
    while not waiting.ready():
        gevent.sleep(0.001)  # not 0: a hub without a pause leaves other threads little time
        turns += 1
    waiting.get()
    assert turns > 5
    server.thaw()

    def goes_on() -> bool:
        with suppress(BrokerUnavailable):
            return broker.publish(message("a"), KEPT).offset > 1
        return False

    until(goes_on)


@pytest.mark.row(97)
def test_what_a_slow_server_does_not_take_is_bounded(node, server: NatsServer, monkeypatch: pytest.MonkeyPatch):
    """What is published faster is refused."""
    monkeypatch.setattr(nats, "MOST_UNSENT", 1_000_000)
    monkeypatch.setattr(nats_link, "MOST_UNSENT", 1_000_000)
    broker, _ = node(patience=30.0)
    server.freeze()
    with pytest.raises(BrokerUnavailable, match="does not take"):
        for _ in range(1000):
            broker.publish(message("a", "x" * 60_000), PLAIN)
            gevent.sleep(0)
    server.thaw()


def test_work_survives_the_server(node, server: NatsServer):
    """What a durable group has not done is there when the server is back, and what it is doing comes once."""
    broker, sink = node(lease=5.0)
    keep = Keep(history=9, ack=True)
    broker.join(WORK, 2, durable=True)
    for number in range(4):
        broker.publish(message("jobs/1", number), keep)
    until(lambda: len(sink.given) == 2)
    server.kill()
    server.start()
    until(lambda: broker.up)
    for position in range(4):
        until(lambda: len(sink.given) > position)  # noqa: B023
        broker.done(WORK, sink.given[position][2])
    assert [0, 1, 2, 3] == [one.payload for _, one, _ in sink.given]


@pytest.mark.row(98)
def test_what_strangers_send_is_dropped_counted_and_logged(node, server: NatsServer, caplog):
    """On subjects of topics, of groups, of work and of the streams."""
    broker, sink = node()
    keep = Keep(history=9, ack=True, retain=True)
    broker.want(("**",))
    broker.join(WORK, 5, durable=True)
    broker.publish(message("jobs/1", 1), keep)
    broker.put("t", "k", 1, 60.0)
    until(lambda: sink.given and sink.delivered)
    stranger = InLoop(server.url)
    for subject in ("t.jobs.1", "t.a.%x", "log.jobs.1", "work.jobs.1", "records.t.j", "over.x", "once.a"):
        stranger.do(stranger.link.send, f"webmesh.{subject}", b"\xc1 strange")
    stranger(stranger.link.settle())
    stranger.close()
    assert {"k": 1} == dict(broker.records("t"))
    assert [1] == [one.payload for one in broker.history("jobs/1", Since()).items]
    broker.publish(message("jobs/1", 2), keep)
    until(lambda: len(sink.given) == 2 and len(sink.delivered) == 2)
    assert [1, 2] == [one.payload for one in sink.delivered]
    assert broker.invalid >= 4
    assert "a message from NATS is dropped" in caplog.text
    assert "strange" not in caplog.text


def test_a_message_beyond_what_the_server_takes_is_refused(node, server: NatsServer):
    """The text says how much that is; nothing else is disturbed."""
    broker, _ = node()
    for keep in (PLAIN, KEPT):
        with pytest.raises(BrokerError, match="max_payload"):
            broker.publish(message("a", os.urandom(1_100_000)), keep)
    assert 1 == broker.publish(message("a"), KEPT).offset


def test_what_comes_faster_than_it_is_taken_is_told_as_a_gap(node):
    """It is dropped and counted, and the hub is not held by what came."""
    broker, sink = node()
    broker._bridge._most = 10
    broker.want(("a",))
    publisher, _ = node()
    blocked, go_on = gevent.event.Event(), gevent.event.Event()
    deliver = sink.deliver

    def wait(publication: Publication) -> None:
        deliver(publication)
        blocked.set()
        go_on.wait()

    sink.deliver = wait
    publisher.publish(message("a", -1), PLAIN)
    blocked.wait()
    for number in range(100):
        publisher.publish(message("a", number), PLAIN)
    until(lambda: broker.dropped > 50)
    go_on.set()
    until(lambda: sink.gaps)
    publisher.publish(message("a", "end"), PLAIN)
    until(lambda: sink.delivered[-1].payload == "end")
    assert [-1, *range(10)] == [one.payload for one in sink.delivered][:11]


def test_who_publishes_without_end_leaves_others_their_turn(node):
    """And gets all of its own messages back: it is no faster than the server."""
    broker, sink = node()
    broker.want(("a",))
    turns = []

    def turn() -> None:
        while True:
            turns.append(len(sink.delivered))
            gevent.sleep(0.001)

    other = gevent.spawn(turn)
    try:
        for number in range(15_000):
            broker.publish(message("a", number), PLAIN)
        until(lambda: len(sink.delivered) == 15_000)
    finally:
        other.kill()
    assert (list(range(15_000)), 0) == ([one.payload for one in sink.delivered], broker.dropped)
    assert 10 < len(set(turns))


@pytest.mark.parametrize(
    "wrong",
    [{"prefix": "a.b"}, {"prefix": ""}, {"lease": 0}, {"replicas": 9}, {"patience": -1.0}, {"publish_timeout": 1e9}],
)
def test_options_are_checked(wrong: dict[str, Any]):
    """Before anything is opened; those of URLs too."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        NatsBroker("nats://h", **wrong)
    (name, value), = wrong.items()
    with pytest.raises(ConfigurationError, match=name):
        open_broker(f"nats://u:s3cret@h?{name}={value}")


def test_a_url_holds_the_options():
    """And no description of the engine its password."""
    broker = open_broker("tls://u:s3cret@h?prefix=p&lease=2.5&replicas=3&patience=1&publish_timeout=9")
    assert "s3cret" not in repr(broker)
    assert ("p", 2.5, 3) == (broker._prefix, broker._lease, broker._replicas)
    with pytest.raises(ConfigurationError, match="not known"):
        open_broker("nats://h?nonsense=1")
    with pytest.raises(ConfigurationError, match="open_broker"):
        NatsBroker("nats://h?prefix=p")


def test_a_server_that_is_not_there_is_told_at_the_start():
    """Without a thread that stays; a later start may succeed."""
    before = len(list(Path("/proc/self/task").iterdir()))
    broker = NatsBroker("nats://127.0.0.1:1", patience=0.2)
    with pytest.raises(BrokerUnavailable, match="127.0.0.1:1"):
        broker.start(RecordingSink())
    assert not broker.up
    until(lambda: len(list(Path("/proc/self/task").iterdir())) <= before)


def test_the_newest_of_a_topic_is_read_alone(node: Any, monkeypatch: pytest.MonkeyPatch):
    """However long its history is: each new subscriber asks for it."""
    broker, _ = node()
    for number in range(9):
        last = broker.publish(message(payload=number), Keep(history=20))
    read, taken = Bodies.read, []
    monkeypatch.setattr(Bodies, "read", lambda self, *args: taken.append(args) or read(self, *args))
    found = broker.history("a/b", Since(), most=1, reverse=True)
    assert (8, last.offset, last.epoch) == (found.items[0].payload, found.offset, found.epoch)
    assert 1 == len(taken)


def test_the_newest_that_still_counts_is_found_behind_others(node: Any):
    """A newest one that has ended hides none that stays."""
    broker, _ = node()
    keep = Keep(history=20)
    broker.publish(message(payload="stays"), keep)
    last = broker.publish(message(payload="goes", ttl_ms="1"), keep)
    until(lambda: len(broker.history("a/b", Since()).items) == 1)
    found = broker.history("a/b", Since(), most=1, reverse=True)
    assert (["stays"], last.offset) == ([one.payload for one in found.items], found.offset)


RETAINED = Keep(history=0, retain=True)


def of_server(broker: NatsBroker, verb: str) -> dict[str, Any]:
    return broker._ask(broker._node._js.api, verb)


def read_in_batches_of_two(broker: NatsBroker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Publishes nine values; gets an item for each batch that is asked for."""
    for number in range(9):
        broker.publish(message(f"a/{number}", number), RETAINED)
        broker.put("table", f"key {number}", number, 100.0)
    asked: list[int] = []
    batch = jetstream.Reading.next
    monkeypatch.setattr(jetstream, "BATCH", 2)
    monkeypatch.setattr(jetstream.Reading, "next", lambda self, *args: asked.append(1) or batch(self, *args))
    return asked


def test_what_is_retained_is_read_as_it_is_taken(node: Any, monkeypatch: pytest.MonkeyPatch):
    """A page at a time, also of records; who takes no more leaves nothing behind, neither here nor at the server."""
    broker, _ = node()
    asked = read_in_batches_of_two(broker, monkeypatch)
    for values in (broker.retained(("a", "*")), broker.pages("table", 2)):
        assert next(values) and 1 == len(asked)
        values.close()
        asked.clear()
    for stream in ("log", "records"):
        until(lambda stream=stream: 0 == of_server(broker, f"STREAM.INFO.webmesh_{stream}")["state"]["consumer_count"])
    until(lambda: 1 == len([subject for subject, _ in broker._node.link._takes if subject.startswith("_INBOX")]))
    assert list(range(9)) == sorted(value for page in broker.pages("table", 2) for value in page.values())


def test_what_changes_while_it_is_read_comes_once(node: Any, monkeypatch: pytest.MonkeyPatch):
    """One of the values that it had; also where the server has forgotten how far it was read."""
    broker, _ = node()
    asked = read_in_batches_of_two(broker, monkeypatch)
    values = broker.retained(("a", "*"))
    found = [next(values)]
    for number in (0, 5):
        broker.publish(message(f"a/{number}", 10 * number), RETAINED)
    (consumer,) = of_server(broker, "CONSUMER.NAMES.webmesh_log")["consumers"]
    of_server(broker, f"CONSUMER.DELETE.webmesh_log.{consumer}")
    found += values
    assert [f"a/{number}" for number in range(9)] == sorted(one.topic for one in found)
    assert {number: number for number in range(9)} | {0: 0, 5: 50} == {int(one.topic[2:]): one.payload for one in found}
    assert len(asked) > 5


def test_what_nobody_reads_on_ends_by_itself(node: Any, monkeypatch: pytest.MonkeyPatch):
    """Whoever took it may have been killed before it came."""
    broker, _ = node()
    read_in_batches_of_two(broker, monkeypatch)
    monkeypatch.setattr(jetstream, "UNREAD", 0.01)
    reading = broker._ask(broker._node.topics.begin, "a.*")
    until(lambda: reading.over)
    until(lambda: 0 == of_server(broker, "STREAM.INFO.webmesh_log")["state"]["consumer_count"])


def test_nodes_whose_clocks_differ_agree_when_something_ends(node: Any):
    """It is the server's clock that counts, as each has learnt it by a read: or one took the other for dead."""
    nodes = [node(clock=lambda ahead=ahead: time.time() + ahead)[0] for ahead in (100.0, 0.0, -100.0)]
    for broker in nodes:
        broker.records("t")
    for number, broker in enumerate(nodes):
        broker.put("t", str(number), number, 50.0)
    expected = {str(number): number for number in range(3)}
    assert [expected] * 3 == [dict(broker.records("t")) for broker in nodes]
    assert [0, 1, 2] == [nodes[number - 1].claim("t", str(number)) for number in range(3)]
