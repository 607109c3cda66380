"""The engine on Redis: the contract by one node and by two, and what happens when Redis does not do its part."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
from pathlib import Path

import gevent
import pytest
import trustme

from tests.brokers.contract import (
    KEPT,
    PLAIN,
    RETAINED,
    WORK,
    BrokerContract,
    HistoryBytesContract,
    RecordingSink,
    TwoNodeContract,
    message,
    until,
)
from tests.brokers.redis_servers import RedisServer, free_port, needs_redis
from tests.processes import run_program
from webmesh.brokers import one_node
from webmesh.brokers.base import Keep, Since
from webmesh.brokers.opening import open_broker
from webmesh.brokers.redis import RedisBroker
from webmesh.exceptions import BrokerUnavailable, ConfigurationError, Overloaded, PublishDoubtful
from webmesh.options import Backoff
from webmesh.websocket.hub import HubThread

pytestmark = needs_redis


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    made = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield made
    made.stop()


class OnRedis:
    """Each test has a prefix of its own on the server of the module."""

    @pytest.fixture(autouse=True)
    def _place(self, server: RedisServer):
        self.server = server
        self.prefix = os.urandom(4).hex()

    def url(self) -> str:
        return f"{self.server.url}?prefix={self.prefix}&lease=1"

    def open_broker(self, number: int) -> RedisBroker:
        return RedisBroker(self.url())


class TestRedis(OnRedis, BrokerContract, HistoryBytesContract):
    """One node."""

    def test_a_bound_in_bytes_may_come_later_and_go(self, node):
        """It holds for what is published while it is there."""
        broker, _ = node()
        for number in range(4):
            broker.publish(message(payload=[number, os.urandom(1000)]), Keep(history=100))
        for number in range(4, 14):
            broker.publish(message(payload=[number, os.urandom(1000)]), Keep(history=100, history_bytes=5000))
        assert [10, 11, 12, 13] == [p.payload[0] for p in broker.history("a/b", Since()).items]
        for number in range(14, 18):
            broker.publish(message(payload=[number, os.urandom(1000)]), Keep(history=100, history_bytes=None))
        assert 17 == broker.history("a/b", Since()).items[-1].payload[0]


class TestRedisNodes(OnRedis, TwoNodeContract):
    """Two nodes."""


# ------------------------------------------------------------------ an engine of its own


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def opened(server: RedisServer):
    """Makes engines with a prefix of the test's own: `broker = opened(sink, "lease=1")`."""
    prefix, running = os.urandom(4).hex(), []

    def make(sink: RecordingSink, query: str = "", at: RedisServer = server) -> RedisBroker:
        broker = RedisBroker(f"{at.url}?prefix={prefix}&{query}", backoff=Backoff(first=0.02, maximum=0.2))
        broker.start(sink)
        running.append(broker)
        return broker

    yield make
    for broker in running:
        broker.stop()


@pytest.fixture
def own_server(tmp_path: Path):
    """A server that the test may harm; what it has acknowledged is on its disk."""
    made = RedisServer(tmp_path / "redis", appendonly="yes", appendfsync="always").start()
    yield made
    made.stop()


def key(broker: RedisBroker, name: str) -> str:
    return broker._keys.key(name)


def test_it_is_found_by_its_url(server: RedisServer) -> None:
    """With the options that stand there."""
    broker = open_broker(f"{server.url}?prefix=shop&timeout=2", lease=3)
    assert isinstance(broker, RedisBroker)
    assert "{shop}:topics" == broker._keys.topics


@pytest.mark.parametrize("query", ["prefix=a*", "lease=0", "timeout=-1", "patience=-1", "timeout=nan", "lease=inf"])
def test_options_are_checked(query: str) -> None:
    """Before anything is connected."""
    with pytest.raises(ConfigurationError):
        RedisBroker(f"redis://127.0.0.1:1?{query}")


@pytest.mark.once
def test_without_its_package_it_says_what_to_install() -> None:
    """And everything else works."""
    printed = run_program(
        "import sys\n"
        "sys.modules['redis'] = None\n"
        "from webmesh.brokers.opening import open_broker\n"
        "try:\n    open_broker('redis://')\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    assert printed.startswith("ConfigurationError") and "webmesh-gevent[redis]" in printed


def test_its_clock_is_that_of_redis(opened, sink, server: RedisServer) -> None:
    """Whatever this machine's says, and also after a while."""
    broker = opened(sink)
    broker._offset_of_clock += 1000
    broker.beat()
    before, now, after = int(server.ask("TIME")[0]), broker.clock(), int(server.ask("TIME")[0]) + 1
    assert before - 5 < now < after + 5


def test_special_characters_mean_nothing_to_redis(opened, sink) -> None:
    """What is a wildcard there is a letter here."""
    broker = opened(sink)
    for pattern in [("a[bc]", "*"), ("x?", "**"), ("q\\", "*")]:
        broker.want(pattern)
    for topic in ("ab/1", "a[bc]/1", "xy/1", "x?/1", "q\\/1", "q/1", "a[bc]/1/2", "x?/2/3"):
        broker.publish(message(topic), PLAIN)
    until(lambda: sink.delivered and sink.delivered[-1].topic == "x?/2/3")
    assert ["a[bc]/1", "x?/1", "q\\/1", "x?/2/3"] == [p.topic for p in sink.delivered]


# --------------------------------------------------------------------------- bounds


@pytest.mark.row(86)
def test_its_tables_are_bounded(opened, sink, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics are refused, dedupe ids forgotten."""
    monkeypatch.setattr(one_node, "MOST_TOPICS", 2)
    monkeypatch.setattr(one_node, "DEDUPE_MOST", 2)
    broker = opened(sink)
    for name in "abcd":
        broker.publish(message("a", dedupe_id=name), KEPT)
    assert [2, 2] == [server.ask("ZCARD", key(broker, "seen")), server.ask("HLEN", key(broker, "answers"))]
    assert not broker.publish(message("a", dedupe_id="a"), KEPT).duplicate
    broker.publish(message("b"), Keep(history=1, retain=True))
    broker.publish(message("a"), RETAINED)
    for keep in (KEPT, RETAINED):
        with pytest.raises(Overloaded):
            broker.publish(message("c"), keep)
    assert 6 == broker.publish(message("a"), KEPT).offset


@pytest.mark.row(86)
def test_topics_that_ended_with_their_time_make_room(opened, sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no number is used twice: who stood at one of them is told that it has missed something."""
    monkeypatch.setattr(one_node, "MOST_TOPICS", 2)
    broker = opened(sink)
    brief = Keep(history=5, ttl=0.05)
    first = [broker.publish(message("a"), brief) for _ in range(3)][-1]
    broker.publish(message("b"), brief)
    gevent.sleep(0.1)
    for topic in ("c", "a"):
        broker.publish(message(topic), Keep(history=5, ttl=60.0))
    assert ["a", "c"] == sorted(broker.topics(("*",)))
    assert not broker.history("a", Since(first.offset - 1, first.epoch)).complete
    assert broker.history("a", Since()).offset > first.offset


def test_a_dedupe_id_is_forgotten_with_time(opened, sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Redis' own clock."""
    monkeypatch.setattr(one_node, "DEDUPE_WINDOW", 0.05)
    broker = opened(sink)
    broker.publish(message(dedupe_id="a"), KEPT)
    gevent.sleep(0.1)
    assert not broker.publish(message(dedupe_id="a"), KEPT).duplicate


def test_memory_that_is_full_refuses(own_server: RedisServer, opened, sink) -> None:
    """As an overload, and nothing of the publication is there."""
    broker = opened(sink, at=own_server)
    broker.publish(message(payload=1), KEPT)
    own_server.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(Overloaded):
        broker.publish(message(payload=2), KEPT)
    own_server.ask("CONFIG", "SET", "maxmemory", "0")
    assert 2 == broker.publish(message(payload=3), KEPT).offset
    assert [1, 3] == [p.payload for p in broker.history("a/b", Since()).items]


# ------------------------------------------------------------------------- strangers


@pytest.mark.row(98)
def test_what_strangers_write_is_dropped(opened, sink, server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Counted and told, wherever it stands; everything else goes on."""
    broker = opened(sink)
    broker.want(("**",))
    broker.join(WORK, 5, durable=True)
    server.ask("PUBLISH", key(broker, "live:a/b"), "nonsense")
    server.ask("PUBLISH", key(broker, "live:a//b"), b"- - 5 a.1\n\x81\xa1p\xc0")
    server.ask("XADD", key(broker, "work:jobs/*\x1fworkers"), "*", "t", "x", "m", "nonsense")
    server.ask("HSET", key(broker, "groups"), b"\xff", "1", "nonsense", "1")
    server.ask("HINCRBY", key(broker, "groups"), "", "1")
    server.ask("HSET", key(broker, "records:wills"), "bad", b"9999999999999 \xc1", "worse", "x")
    broker.publish(message("jobs/1", "good"), PLAIN)
    broker.put("wills", "good", 1, 60.0)
    until(lambda: sink.given and sink.delivered)
    assert ["good"] == [p.payload for p in sink.delivered] == [p.payload for _, p, _ in sink.given]
    assert {"good": 1} == dict(broker.records("wills"))
    assert 6 == broker.refused
    assert "none of ours" in caplog.text


def test_a_node_that_fails_at_one_message_gets_the_next(opened) -> None:
    """The engine does not know what the node's code raises."""

    class Touchy(RecordingSink):
        def deliver(self, publication):
            super().deliver(publication)
            raise ValueError("of the node")

        def work(self, group, publication, token):
            super().work(group, publication, token)
            raise ValueError("of the node")

    sink = Touchy()
    broker = opened(sink)
    broker.want(("**",))
    broker.join(WORK, 5, durable=False)
    for _ in range(2):
        broker.publish(message("jobs/1"), PLAIN)
    until(lambda: [2, 2] == [len(sink.given), len(sink.delivered)])


# -------------------------------------------------------------------------- outages


@pytest.mark.row(96)
def test_the_hub_turns_while_redis_stands_still(own_server: RedisServer, opened, sink) -> None:
    """Whoever asks is answered in time; the rest of the process does not notice, patched or not."""
    broker = opened(sink, "timeout=0.5&patience=0.1", at=own_server)
    broker.want(("**",))
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while True:
            gevent.sleep(0.005)
            ticks += 1

    ticking = gevent.spawn(tick)
    own_server.send_signal(signal.SIGSTOP)
    before = ticks
    with pytest.raises(PublishDoubtful):
        broker.publish(message(), KEPT)
    assert ticks - before > 20  # a hub that stood still would have none
    with pytest.raises(BrokerUnavailable):
        broker.publish(message(), KEPT)
    until(lambda: sink.healths == [False])
    assert not broker.up
    ticking.kill()
    own_server.send_signal(signal.SIGCONT)
    until(lambda: broker.up and sink.gaps)
    assert [False, True] == sink.healths
    broker.publish(message(payload="after"), KEPT)
    until(lambda: sink.delivered and sink.delivered[-1].payload == "after")


@pytest.mark.row(96)
def test_kills_of_redis_lose_nothing_that_was_acknowledged(own_server: RedisServer, opened, sink) -> None:
    """Under load: each kill is told as a gap, the node is subscribed again, numbers go on where they were."""
    broker = opened(sink, "timeout=2&patience=0", at=own_server)
    broker.want(("**",))
    keep, taken, stop = Keep(history=10_000), {}, []

    def publish(name: str) -> None:
        for number in itertools.count():
            if stop:
                return
            try:
                accepted = broker.publish(message(payload=[name, number]), keep)
                taken[accepted.offset] = [name, number]
            except BrokerUnavailable:
                gevent.sleep(0.005)

    publishing = [gevent.spawn(publish, str(name)) for name in range(4)]
    for kills in range(1, 4):
        enough = len(taken) + 100
        until(lambda: len(taken) >= enough)  # noqa: B023
        own_server.kill()
        until(lambda: not broker.up)
        own_server.start()
        until(lambda: broker.up and len(sink.gaps) == kills)  # noqa: B023
    stop.append(True)
    gevent.joinall(publishing, raise_error=True)
    last = broker.publish(message(payload="end"), keep)
    until(lambda: sink.delivered[-1].payload == "end")
    found = broker.history("a/b", Since(0, last.epoch))
    assert found.complete
    assert list(range(1, last.offset + 1)) == [p.offset for p in found.items]
    kept = {p.offset: p.payload for p in found.items}
    assert {} == {offset: payload for offset, payload in taken.items() if kept.get(offset) != payload}
    assert [False, True] * 3 == sink.healths


@pytest.mark.row(97)
def test_publishing_during_an_outage(own_server: RedisServer, opened, sink) -> None:
    """Fails at once without patience; with it, waits as long for Redis to come back."""
    hasty = opened(sink, "patience=0", at=own_server)
    patient = opened(sink, "patience=20", at=own_server)
    own_server.kill()
    until(lambda: not hasty.up and not patient.up)
    for call in (
        lambda: hasty.publish(message(), KEPT), lambda: hasty.history("a/b", Since()),
        lambda: hasty.join(WORK, 1, durable=True), lambda: hasty.put("wills", "a", 1, 5.0),
        lambda: list(hasty.retained(("a", "*"))),
    ):  # fmt: skip
        with pytest.raises(BrokerUnavailable) as caught:
            call()
        assert not isinstance(caught.value, PublishDoubtful)
    waiting = gevent.spawn(patient.publish, message(), KEPT)
    own_server.start()
    assert 1 == waiting.get(timeout=20).offset


@pytest.mark.row(97)
def test_what_has_an_id_is_sent_again(own_server: RedisServer, opened, sink) -> None:
    """When nobody can say whether it was published, once more with the same id makes sure that it was, once."""
    broker = opened(sink, "timeout=0.3&patience=20", at=own_server)
    own_server.send_signal(signal.SIGSTOP)
    publishing = gevent.spawn(broker.publish, message(dedupe_id="x"), KEPT)
    until(lambda: sink.healths == [False])
    own_server.send_signal(signal.SIGCONT)
    assert 1 == publishing.get(timeout=20).offset
    assert 1 == len(broker.history("a/b", Since()).items)


def test_what_is_wanted_during_an_outage_comes_after_it(own_server: RedisServer, opened, sink) -> None:
    """And what is unwanted does not."""
    broker = opened(sink, at=own_server)
    broker.want(("a",))
    own_server.kill()
    until(lambda: not broker.up)
    broker.want(("b", "*"))
    broker.unwant(("a",))
    own_server.start()
    until(lambda: broker.up)
    for topic in ("a", "b/c"):
        broker.publish(message(topic), PLAIN)
    until(lambda: sink.delivered)
    assert ["b/c"] == [p.topic for p in sink.delivered]


def test_work_goes_on_after_an_outage(own_server: RedisServer, opened, sink) -> None:
    """What was done meanwhile is not given again, what is with the node stays there."""
    broker = opened(sink, at=own_server)
    keep = Keep(ack=True)
    broker.join(WORK, 2, durable=True)
    for number in range(4):
        broker.publish(message("jobs/1", number), keep)
    until(lambda: len(sink.given) == 2)
    own_server.kill()
    until(lambda: not broker.up)
    broker.done(WORK, sink.given[0][2])
    own_server.start()
    until(lambda: len(sink.given) == 3)
    for position in (1, 2):
        broker.done(WORK, sink.given[position][2])
    until(lambda: len(sink.given) == 4)
    assert [0, 1, 2, 3] == [publication.payload for _, publication, _ in sink.given]


def test_who_was_taken_for_dead_works_on(server: RedisServer, opened) -> None:
    """Its work has gone to another, what comes next is shared again."""
    sinks = RecordingSink(), RecordingSink()
    one, other = (opened(sink) for sink in sinks)
    one.join(WORK, 5, durable=True)
    one.publish(message("jobs/1", 1), PLAIN)
    until(lambda: sinks[0].given)
    server.ask("HDEL", key(one, "nodes"), one._node)
    other.join(WORK, 5, durable=True)
    until(lambda: sinks[1].given)
    other.leave(WORK)
    one.beat()
    until(lambda: len(sinks[0].given) == 1)
    one.publish(message("jobs/1", 2), PLAIN)
    until(lambda: {1, 2} == {publication.payload for _, publication, _ in sinks[0].given})


def test_a_stop_hands_work_on_at_once(opened, sink, server: RedisServer) -> None:
    """Without waiting for a lease."""
    broker = opened(RecordingSink(), "lease=1000")
    broker.join(WORK, 5, durable=True)
    broker.publish(message("jobs/1", 1), PLAIN)
    until(lambda: broker._sink.given)
    broker.stop()
    assert 0 == server.ask("HLEN", key(broker, "nodes"))
    opened(sink, "lease=1000").join(WORK, 5, durable=True)
    until(lambda: sink.given)


@pytest.mark.row(99)
def test_a_redis_that_has_lost_something_counts_anew(opened, sink, server: RedisServer) -> None:
    """In another epoch, so that whoever recovers learns that something is missing."""
    broker = opened(sink)
    for number in range(3):
        epoch = broker.publish(message(payload=number), KEPT).epoch
    server.ask("HSET", key(broker, "topics"), "a/b", "1")
    server.ask("XTRIM", key(broker, "log:a/b"), "MAXLEN", "0")
    again = broker.publish(message(payload=9), KEPT)
    assert again.epoch != epoch
    assert not broker.history("a/b", Since(3, epoch)).complete


@pytest.mark.row(96)
def test_a_wrong_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Is told with what Redis says, and never repeated."""
    guarded = RedisServer(tmp_path, requirepass="right").start()
    try:
        broker = RedisBroker(guarded.url.replace("right", "s3cret"))
        with pytest.raises(BrokerUnavailable, match="(?i)pass") as caught:
            broker.start(RecordingSink())
        assert not broker.up
        assert "s3cret" not in str(caught.value) + caplog.text
    finally:
        guarded.stop()


def test_nobody_there(sink) -> None:
    """Starting says so, and where."""
    with pytest.raises(BrokerUnavailable, match="127.0.0.1:1"):
        RedisBroker("redis://127.0.0.1:1").start(sink)


def test_by_a_unix_socket(tmp_path: Path, opened, sink) -> None:
    """As by TCP."""
    path = Path(tempfile.mkdtemp()) / "s"
    made = RedisServer(tmp_path, unixsocket=str(path)).start()
    try:
        broker = RedisBroker(f"unix://{path}?db=3")
        broker.start(sink)
        assert 1 == broker.publish(message(), KEPT).offset
        broker.stop()
        assert [b"db3"] == [line.split(b":")[0] for line in made.ask("INFO", "keyspace").split() if b"db" in line]
    finally:
        made.stop()


def test_in_a_hub_of_its_own(server: RedisServer, sink) -> None:
    """Where a plain process has its node: in a native thread, while others ask for their own."""
    home = HubThread("test-redis")
    home.start()
    try:
        broker = RedisBroker(f"{server.url}?prefix={os.urandom(4).hex()}")
        home.run(broker.start, sink)
        home.run(broker.want, ("**",))
        assert 1 == home.run(broker.publish, message(), KEPT).offset
        until(lambda: sink.delivered)
        home.run(broker.stop)
    finally:
        home.stop()


def test_by_tls(tmp_path: Path, sink) -> None:
    """Verified: who has another certificate is not talked to, and why is told."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    for name, issuer in (("ca.pem", authority), ("other.pem", trustme.CA())):
        issuer.cert_pem.write_to_path(tmp_path / name)
    port = free_port()
    made = RedisServer(
        tmp_path, tls_port=str(port), tls_cert_file=str(tmp_path / "cert.pem"), tls_key_file=str(tmp_path / "key.pem"),
        tls_ca_cert_file=str(tmp_path / "ca.pem"), tls_auth_clients="no",
    ).start()  # fmt: skip
    try:
        broker = RedisBroker(f"rediss://127.0.0.1:{port}?ca_file={tmp_path}/ca.pem")
        broker.start(sink)
        broker.want(("**",))
        assert 1 == broker.publish(message(payload="x" * 100_000), KEPT).offset
        until(lambda: sink.delivered)
        broker.stop()
        with pytest.raises(BrokerUnavailable, match="certificate refused"):
            RedisBroker(f"rediss://127.0.0.1:{port}?ca_file={tmp_path}/other.pem").start(sink)
    finally:
        made.stop()
