"""Publications that NATS keeps: their numbers, whatever gets in between."""

import asyncio
from typing import Any

import pytest

from tests.brokers.nats_server import InLoop, new_prefix
from webmesh.brokers import one_node
from webmesh.brokers.base import Accepted, Keep
from webmesh.brokers.jetstream import JetStream
from webmesh.brokers.nats_link import NoReply
from webmesh.brokers.nats_topics import Topics
from webmesh.exceptions import BrokerUnavailable, Overloaded, PublishDoubtful

KEPT = Keep(history=5)
PATIENCE = 10.0


class Nodes:
    """Several `Topics` on one prefix."""

    def __init__(self, in_loop: InLoop) -> None:
        self.in_loop, self.prefix = in_loop, new_prefix()
        self.js = JetStream(in_loop.link, 1)

    def make(self, **options: Any) -> Topics:
        return Topics(JetStream(self.in_loop.link, 1), self.prefix, **options)

    def publish(
        self, topics: Topics, body: bytes, keep: Keep = KEPT, subject: str = "a", dedupe_id: str | None = None
    ) -> Accepted:
        return self.in_loop(topics.publish(subject, body, keep, dedupe_id, PATIENCE))

    def history(self, topics: Topics, subject: str = "a") -> list[tuple[int, bytes]]:
        found = self.in_loop(topics.newest_of(subject))
        items = [] if isinstance(found, str) else self.in_loop(topics.part(subject, found[0], 1, None))
        return [(mark.last, body) for body, mark in items]


@pytest.fixture
def nodes(in_loop: InLoop) -> Nodes:
    return Nodes(in_loop)


@pytest.mark.row(99)
def test_nodes_that_count_at_the_same_time_give_no_number_twice(nodes: Nodes, in_loop: InLoop):
    """Who loses the race counts again; nothing is left out."""
    several = [nodes.make() for _ in range(4)]

    async def publish_all() -> list[Accepted]:
        return await asyncio.gather(*(
            topics.publish("a", b"%d" % number, Keep(history=100), None, PATIENCE)
            for number in range(10) for topics in several
        ))  # fmt: skip

    assert list(range(1, 41)) == sorted(one.offset for one in in_loop(publish_all()))
    assert list(range(1, 41)) == [number for number, _ in nodes.history(several[0])]
    assert all(not topics._turns for topics in several)


@pytest.mark.row(97)
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("followed", [0, 1])
def test_what_was_not_answered_is_published_once(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, stored: bool, followed: int
):
    """Whether it was kept before the answer was lost or not, and whether another node came after it or not."""
    one, other = nodes.make(), nodes.make()
    nodes.publish(one, b"first")
    publish = one._js.publish

    async def lose_answer(*args: Any) -> Any:
        monkeypatch.undo()
        if stored:
            await publish(*args)
        for _ in range(followed):
            await other.publish("a", b"other", KEPT, None, PATIENCE)
        raise NoReply("lost")

    monkeypatch.setattr(one._js, "publish", lose_answer)
    accepted = nodes.publish(one, b"mine")
    wanted = [b"first", b"mine", *[b"other"] * followed] if stored else [b"first", *[b"other"] * followed, b"mine"]
    assert list(enumerate(wanted, 1)) == nodes.history(one)
    assert (wanted.index(b"mine") + 1, False) == (accepted.offset, accepted.duplicate)
    assert nodes.publish(one, b"next").offset == len(wanted) + 1


def test_what_is_in_doubt_and_kept_no_longer_is_not_published_again(nodes: Nodes, monkeypatch: pytest.MonkeyPatch):
    """It may have been there, so its publisher is told that nobody knows."""
    one, other = nodes.make(), nodes.make()
    nodes.publish(one, b"first")
    publish = one._js.publish

    async def lose_answer(*args: Any) -> Any:
        monkeypatch.undo()
        await publish(*args)
        await other.publish("a", b"other", KEPT, None, PATIENCE)
        await other._js.trim(other._log, f"{nodes.prefix}.log.a", 1)
        raise NoReply("lost")

    monkeypatch.setattr(one._js, "publish", lose_answer)
    with pytest.raises(PublishDoubtful):
        nodes.publish(one, b"mine")
    assert [(3, b"other")] == nodes.history(one)


def test_a_repetition_by_id_finds_the_first_number(nodes: Nodes):
    """At whichever node; and of one whose answer was lost it is not told that it was there already."""
    one, other = nodes.make(), nodes.make()
    first = nodes.publish(one, b"x", dedupe_id="d")
    nodes.publish(one, b"y")
    assert first._replace(duplicate=True) == nodes.publish(other, b"z", dedupe_id="d")
    assert first == nodes.publish(other, b"x", dedupe_id="d")
    assert not nodes.publish(other, b"z", subject="b", dedupe_id="d").duplicate


def test_topics_that_keep_nothing_know_what_they_had(nodes: Nodes):
    """Without being numbered or kept."""
    topics = nodes.make()
    keep = Keep()
    assert [False, True] == [nodes.publish(topics, b"x", keep, dedupe_id="d").duplicate for _ in range(2)]
    assert [] == nodes.history(topics)


def test_history_is_trimmed(nodes: Nodes, in_loop: InLoop):
    """To not much more than is asked for."""
    topics = nodes.make()
    for number in range(60):
        nodes.publish(topics, b"%d" % number, Keep(history=2))
    in_loop.until(lambda: not topics._trimming)
    assert 2 <= len(nodes.history(topics)) < 20
    assert (60, b"59") == nodes.history(topics)[-1]


@pytest.mark.row(86)
def test_the_number_of_topics_is_bounded(nodes: Nodes, monkeypatch: pytest.MonkeyPatch):
    """The next one is refused; those that have ended with their time make room, and what begins then counts anew."""
    monkeypatch.setattr(one_node, "MOST_TOPICS", 3)
    over: set[str] = set()
    topics = nodes.make(is_over=lambda subject, body, mark: subject in over)
    epoch = nodes.publish(topics, b"", subject="a").epoch
    for subject in "bc":
        nodes.publish(topics, b"", subject=subject)
    with pytest.raises(Overloaded):
        nodes.publish(topics, b"", subject="d")
    assert 2 == nodes.publish(topics, b"", subject="a").offset
    over.add("b")
    with pytest.raises(Overloaded):
        nodes.publish(topics, b"", subject="d")
    topics._swept_at -= 1000
    assert epoch != nodes.publish(topics, b"", subject="d").epoch
    assert (3, epoch, False) == nodes.publish(topics, b"", subject="a")
    assert [] == nodes.history(topics, "b")


@pytest.mark.row(98)
def test_a_topic_into_which_others_write_goes_on(nodes: Nodes, in_loop: InLoop):
    """Their messages are no publications, and what nodes wrote before them counts."""
    one, other = nodes.make(), nodes.make()
    nodes.publish(one, b"first")
    for headers in ({}, {"Webmesh-Mark": "nonsense"}):
        in_loop(nodes.js.publish(one._log, f"{nodes.prefix}.log.a", b"strange", headers))
    in_loop(nodes.js.publish(one._log, f"{nodes.prefix}.log.b", b"strange", {}))
    assert 2 == nodes.publish(other, b"second").offset
    assert 3 == nodes.publish(one, b"third").offset
    assert 1 == nodes.publish(one, b"first", subject="b").offset
    assert [(1, b"first"), (2, b"second"), (3, b"third")] == nodes.history(one)


def test_numbers_that_were_lost_are_not_used_again(nodes: Nodes, in_loop: InLoop):
    """A log that somebody has emptied or deleted begins in another epoch."""
    topics = nodes.make()
    epochs = [nodes.publish(topics, b"").epoch]
    in_loop(nodes.js.purge(topics._log, f"{nodes.prefix}.log.a"))
    epochs.append(nodes.publish(topics, b"").epoch)
    for name in (topics._log, topics._records):
        in_loop(nodes.js.api(f"STREAM.DELETE.{name}"))
    epochs.append(nodes.publish(topics, b"").epoch)
    assert 3 == len(set(epochs))
    assert [(1, b"")] == nodes.history(topics)


def test_the_wait_for_one_topic_has_an_end(nodes: Nodes, in_loop: InLoop, monkeypatch: pytest.MonkeyPatch):
    """Who could not even begin knows that nothing was published; and no turn is left behind."""
    topics = nodes.make()
    nodes.publish(topics, b"")
    begun = asyncio.Event()

    async def hang(*args: Any) -> Any:
        begun.set()
        await asyncio.sleep(1000)

    monkeypatch.setattr(topics._js, "publish", hang)

    async def publish_two() -> list[Any]:
        first = asyncio.create_task(topics.publish("a", b"", KEPT, None, PATIENCE))
        await begun.wait()
        second = await asyncio.gather(topics.publish("a", b"", KEPT, None, 0.05), return_exceptions=True)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return second

    (error,) = in_loop(publish_two())
    assert type(error) is BrokerUnavailable
    assert not topics._turns


def test_what_a_node_left_half_is_made_whole_by_its_repetition(
    nodes: Nodes, in_loop: InLoop, monkeypatch: pytest.MonkeyPatch
):
    """A node that ends between the log and the work has answered nobody; who publishes again makes it work, once."""
    keep = Keep(history=5, ack=True)
    dying, other = nodes.make(), nodes.make()
    in_loop(dying.make_work())
    in_loop(nodes.js.api(f"CONSUMER.DURABLE.CREATE.{dying.work}.g", stream_name=dying.work, config={
        "durable_name": "g", "ack_policy": "explicit",
    }))  # fmt: skip
    publish = dying._js.publish

    async def die(stream: str, *rest: Any) -> tuple[int, bool]:
        if stream == dying.work:
            raise BrokerUnavailable("killed")
        return await publish(stream, *rest)

    monkeypatch.setattr(dying._js, "publish", die)
    with pytest.raises(PublishDoubtful):
        nodes.publish(dying, b"x", keep, dedupe_id="i")
    for _ in range(2):
        assert nodes.publish(other, b"x again", keep, dedupe_id="i").duplicate
    assert [(1, b"x")] == nodes.history(other)
    assert 1 == in_loop(nodes.js.api(f"STREAM.INFO.{dying.work}"))["state"]["messages"]


def test_a_part_is_read_alone_wherever_it_is(nodes: Nodes, in_loop: InLoop, monkeypatch: pytest.MonkeyPatch):
    """However long the log is, and whatever is between; the next part is known to begin where the last one ended."""
    topics = nodes.make()
    for number in range(1, 401):
        nodes.publish(topics, b"%d" % number, Keep(history=400))
        if number % 100 < 50:
            nodes.publish(topics, b"", Keep(history=400), "other")
    head, _ = in_loop(topics.newest_of("a"))
    api, asked = topics._js.api, []

    async def count(verb: str, **question: Any) -> dict[str, Any]:
        asked.append(verb)
        return await api(verb, **question)

    monkeypatch.setattr(topics._js, "api", count)
    for offset in (1, 2, 49, 50, 51, 130, 250, 301, 399, 400):
        part = in_loop(topics.part("a", head, offset, 2))
        assert [offset, offset + 1][: 401 - offset] == [mark.last for _, mark in part]
        assert all(int(body) == mark.last for body, mark in part)
    assert len(asked) < 10 * 12
    in_loop(topics.part("a", head, 200, 10))
    asked.clear()
    assert 210 == in_loop(topics.part("a", head, 210, 10))[0][1].last
    assert [f"CONSUMER.CREATE.{topics._log}"] == asked
