"""A group's work, as NATS hands it out."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.brokers.contract import WORK
from tests.brokers.nats_server import InLoop, new_prefix
from webmesh.brokers.base import GroupName
from webmesh.brokers.jetstream import Delivery, JetStream
from webmesh.brokers.nats_topics import Topics
from webmesh.brokers.nats_work import WorkFeed, group_key


class Feeds:
    """Feeds of one group, and what they got."""

    def __init__(self, in_loop: InLoop) -> None:
        self.in_loop, self.prefix = in_loop, new_prefix()
        self.js = JetStream(in_loop.link, 1)
        self.topics = Topics(self.js, self.prefix)
        self.opened: list[WorkFeed] = []

    def open(
        self, window: int, *, lease: float = 60.0, group: GroupName = WORK
    ) -> tuple[WorkFeed, list[tuple[bytes, Delivery]]]:
        given: list[tuple[bytes, Delivery]] = []
        feed = WorkFeed(
            self.js, self.topics.work, self.prefix, group, window=window, lease=lease,
            make_stream=self.topics.make_work, give=lambda message, delivery: given.append((message.data, delivery)),
        )  # fmt: skip
        self.in_loop(feed.open())
        self.opened.append(feed)
        return feed, given

    def publish(self, *bodies: bytes) -> None:
        for body in bodies:
            self.in_loop(self.js.publish(self.topics.work, f"{self.prefix}.work.jobs.1", body, {}))

    def held(self) -> int:
        return self.in_loop(self.js.api(f"STREAM.INFO.{self.topics.work}"))["state"]["messages"]


@pytest.fixture
def feeds(in_loop: InLoop) -> Iterator[Feeds]:
    made = Feeds(in_loop)
    yield made
    for feed in made.opened:
        in_loop(feed.close())


def test_no_more_is_asked_for_than_there_is_room(feeds: Feeds, in_loop: InLoop):
    """What is done makes room; what is done is kept no longer."""
    feed, given = feeds.open(2)
    feeds.publish(b"a", b"b", b"c")
    in_loop.until(lambda: len(given) == 2)
    in_loop.do(feed.done, given[0][1])
    in_loop.until(lambda: len(given) == 3)
    assert [b"a", b"b", b"c"] == [body for body, _ in given]
    for _, delivery in given[1:]:
        in_loop.do(feed.done, delivery)
        in_loop.do(feed.done, delivery)
    in_loop(in_loop.link.request(f"$JS.API.CONSUMER.INFO.{feeds.topics.work}.g_{group_key(WORK)}"))
    while feeds.held():
        pass


def test_what_comes_back_goes_to_the_others_the_oldest_first(feeds: Feeds, in_loop: InLoop):
    """Without waiting for the lease."""
    one, given = feeds.open(3)
    feeds.publish(b"a", b"b", b"c")
    in_loop.until(lambda: len(given) == 3)
    _, taken = feeds.open(3)
    in_loop.do(one.done, given[1][1])
    in_loop(one.close())
    in_loop.until(lambda: len(taken) == 2)
    assert [b"a", b"c"] == [body for body, _ in taken]


def test_what_is_held_is_not_given_to_others(feeds: Feeds, in_loop: InLoop):
    """However long it takes, for as long as the node lives."""
    _, given = feeds.open(1, lease=0.3)
    feeds.publish(b"a")
    in_loop.until(lambda: given)
    _, taken = feeds.open(1, lease=0.3)
    in_loop(asyncio.sleep(1.0))
    assert ([], 1) == (taken, len(given))


def test_what_comes_again_while_it_is_held_is_held_once(feeds: Feeds, in_loop: InLoop):
    """As after a pause of the node that was longer than its lease."""
    feed, given = feeds.open(2, lease=0.3)
    feeds.publish(b"a")
    in_loop.until(lambda: given)
    feed._tasks[1].cancel()
    old = feed._held[given[0][1]]
    in_loop.until(lambda: feed._held[given[0][1]] != old)
    assert 1 == len(given)
    in_loop.do(feed.done, given[0][1])
    in_loop(in_loop.link.settle())
    while feeds.held():
        pass


def test_what_is_refused_does_not_come_again(feeds: Feeds, in_loop: InLoop):
    """A stranger's message would be delivered for ever."""
    feed, given = feeds.open(1)
    feeds.publish(b"strange", b"b")
    in_loop.until(lambda: given)
    in_loop.do(feed.refuse, given[0][1])
    in_loop.until(lambda: len(given) == 2)
    assert b"b" == given[1][0]


def test_a_consumer_that_was_deleted_is_made_again(feeds: Feeds, in_loop: InLoop):
    """By an operator, or with its server."""
    feed, given = feeds.open(2)
    in_loop(feeds.js.api(f"CONSUMER.DELETE.{feeds.topics.work}.{feed._consumer}"))
    in_loop.do(feed.renew_connection)

    async def publish_until_given() -> None:
        while not given:
            await feeds.js.publish(feeds.topics.work, f"{feeds.prefix}.work.jobs.1", b"a", {})
            await asyncio.sleep(0.05)

    in_loop(publish_until_given())


@pytest.mark.row(96)
def test_a_server_that_has_forgotten_how_far_a_group_was_leaves_nothing_out(feeds: Feeds, in_loop: InLoop):
    """As after a kill: what it still has is given from where the group began, and not what came before that."""
    other = GroupName(("**",), "other")
    feeds.open(1, group=other)
    feeds.publish(b"before")
    feed, given = feeds.open(1)
    feeds.publish(b"a", b"b")
    in_loop.until(lambda: given)
    settings = in_loop(feeds.js.api(f"CONSUMER.INFO.{feeds.topics.work}.{feed._consumer}"))["config"]
    in_loop(feed.close())
    in_loop(feeds.js.api(f"CONSUMER.DELETE.{feeds.topics.work}.{feed._consumer}"))
    verb = f"CONSUMER.DURABLE.CREATE.{feeds.topics.work}.{feed._consumer}"
    in_loop(feeds.js.api(verb, stream_name=feeds.topics.work, config=settings))
    _, again = feeds.open(2)
    in_loop.until(lambda: len(again) == 2)
    assert [b"a", b"b"] == [body for body, _ in again]


def test_a_group_has_the_lease_of_the_last_node_that_came(feeds: Feeds, in_loop: InLoop):
    """Those before it say more often that they live than they need to, or it is corrected when they come back."""
    for lease in (60.0, 30.0, 30.0):
        feed, _ = feeds.open(1, lease=lease)
        settings = in_loop(feeds.js.api(f"CONSUMER.INFO.{feeds.topics.work}.{feed._consumer}"))["config"]
        assert lease * 1e9 == settings["ack_wait"]


def test_a_groups_key_is_its_own():
    """Whatever its name and its pattern are made of."""
    names = [GroupName(("a", "b"), "c"), GroupName(("a",), "c"), GroupName(("a", "b"), "ü d"), GroupName(("a/b",), "c")]
    keys = {group_key(name) for name in names}
    assert len(names) == len(keys)
    assert all(key.isalnum() and key.isascii() for key in keys)
