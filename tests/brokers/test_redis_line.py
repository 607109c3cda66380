"""One connection that many share: answers, refusals, and what is known when it ends."""

from __future__ import annotations

import gevent
import pytest

from tests.brokers.contract import until
from tests.brokers.redis_servers import FakeRedis, RedisServer, needs_redis
from webmesh.brokers import redis_line
from webmesh.brokers.redis_line import Line, RedisRefused, ask_once, open_socket
from webmesh.brokers.redis_places import Address, Login
from webmesh.exceptions import BrokerUnavailable, Overloaded, PublishDoubtful


def open_line(address: Address, timeout: float = 5.0) -> tuple[Line, list[str]]:
    lost: list[str] = []
    return Line(open_socket(address, Login(), "test", timeout), lost.append, timeout), lost


def test_each_gets_its_own_answer():
    """Commands of many greenlets go by one connection and are not mixed up."""
    with FakeRedis(lambda words: b"$%d\r\n%s\r\n" % (len(words[1]), words[1])) as address:
        line, lost = open_line(address)
        asking = [gevent.spawn(line.ask, "ECHO", str(number) * 100) for number in range(200)]
        gevent.joinall(asking, raise_error=True)
        assert [str(number).encode() * 100 for number in range(200)] == [one.value for one in asking]
        line.close()
        assert [] == lost


@pytest.mark.parametrize(
    ("answer", "error", "ends"),
    [
        (b"-ERR no\r\n", RedisRefused, False),
        (b"-WRONGTYPE x\r\n", RedisRefused, False),
        (b"-OOM command not allowed\r\n", Overloaded, False),
        (b"-READONLY You can't write against a read only replica.\r\n", BrokerUnavailable, True),
        (b"-MOVED 5 127.0.0.1:7\r\n", BrokerUnavailable, True),
        (b"-ASK 5 127.0.0.1:7\r\n", BrokerUnavailable, True),
        (b"-CLUSTERDOWN The cluster is down\r\n", BrokerUnavailable, True),
        (b"-TRYAGAIN later\r\n", BrokerUnavailable, True),
    ],
)
def test_refusals(answer: bytes, error: type[Exception], ends: bool):
    """Of a command, of memory that is full, or of a server that is not the one any more: that ends the connection."""
    with FakeRedis(lambda words: answer) as address:
        line, lost = open_line(address)
        with pytest.raises(error) as caught:
            line.ask("SET", "a", "b")
        assert not isinstance(caught.value, PublishDoubtful)
        assert ends is bool(lost) is line.closed
        line.close()


def test_a_connection_that_ends_leaves_doubt():
    """What had been sent may have been done; what is asked afterwards was not."""
    with FakeRedis(lambda words: None) as address:
        line, lost = open_line(address)
        with pytest.raises(PublishDoubtful):
            line.ask("SET", "a", "b")
        with pytest.raises(BrokerUnavailable) as caught:
            line.ask("SET", "a", "b")
        assert not isinstance(caught.value, PublishDoubtful)
        assert 1 == len(lost)


@pytest.mark.row(96)
def test_silence_ends_a_connection():
    """After its timeout, for all who wait."""
    with FakeRedis(lambda words: b"") as address:
        line, lost = open_line(address, timeout=0.2)
        asking = [gevent.spawn(line.ask, "PING") for _ in range(3)]
        gevent.joinall(asking)
        assert [PublishDoubtful] * 3 == [type(one.exception) for one in asking]
        assert 1 == len(lost)


@pytest.mark.row(96)
def test_who_accepts_and_says_nothing_is_not_there():
    """Connecting has one deadline, the login included."""

    class Mute(FakeRedis):
        def _serve(self, sock, address):
            gevent.sleep(5)

    with Mute(lambda words: b"") as address, pytest.raises(BrokerUnavailable, match="0.2 s"):
        open_socket(address, Login(password="s3cret"), "test", 0.2)


def test_nobody_listens():
    """The place is named, nothing else."""
    for address in (Address("127.0.0.1", 1), Address("/no/such.sock", 0)):
        with pytest.raises(BrokerUnavailable, match=str(address)):
            open_socket(address, Login(), "test", 5.0)


def test_too_many_that_wait_are_refused(monkeypatch: pytest.MonkeyPatch):
    """Whoever asks first is served; nothing grows without a bound."""
    monkeypatch.setattr(redis_line, "MOST_WAITING", 2)
    with FakeRedis(lambda words: b"") as address:
        line, _ = open_line(address)
        asking = [gevent.spawn(line.ask, "PING") for _ in range(2)]
        gevent.sleep(0)
        with pytest.raises(Overloaded):
            line.ask("PING")
        line.close()
        gevent.joinall(asking)
        assert all(isinstance(one.exception, BrokerUnavailable) for one in asking)


@needs_redis
def test_a_wrong_password_is_told(tmp_path):
    """Clearly, and without repeating it."""
    server = RedisServer(tmp_path, requirepass="right").start()
    try:
        for login in (Login(password="s3cret"), Login("me", "s3cret")):
            with pytest.raises(BrokerUnavailable, match="(?i)password|pass") as caught:
                open_socket(server.address, login, "test", 5.0)
            assert "s3cret" not in str(caught.value)
        with pytest.raises(BrokerUnavailable, match="(?i)auth"):
            ask_once(server.address, Login(), "PING", timeout=5.0)
    finally:
        server.stop()


def test_what_the_receiver_raises_ends_nothing(caplog: pytest.LogCaptureFixture):
    """It is logged, and the next answer is read."""
    got = []

    class Touchy(Line):
        def received(self, answer):
            got.append(answer)
            super().received(answer)
            if len(got) == 1:
                raise ValueError("of the node")

    with FakeRedis(lambda words: b"+OK\r\n") as address:
        line = Touchy(open_socket(address, Login(), "test", 5.0), lambda reason: None, 5.0)
        assert b"OK" == line.ask("PING") == line.ask("PING")
        until(lambda: "could not be delivered" in caplog.text)
        line.close()


def test_bytes_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch):
    """A Redis that reads nothing does not fill this process."""
    monkeypatch.setattr(redis_line, "OUTBOX_SIZE", 1000)
    with FakeRedis(lambda words: b"+OK\r\n") as address:
        line, _ = open_line(address)
        with pytest.raises(Overloaded):
            line.ask("SET", "a", "x" * 1000)
        assert b"OK" == line.ask("SET", "a", "x" * 500) == line.ask("SET", "a", "x" * 500)
        line.close()


def test_a_flood_leaves_the_hub_its_turn():
    """However much there is to read."""
    turns, seen = [], []

    class Flooded(Line):
        def received(self, answer):
            seen.append(len(turns))

    def tick():
        while True:
            turns.append(None)
            gevent.sleep(0)

    with FakeRedis(lambda words: b"+OK\r\n" * 5000) as address:
        line = Flooded(open_socket(address, Login(), "test", 5.0), lambda reason: None, 5.0)
        ticking = gevent.spawn(tick)
        line.send("PING")
        until(lambda: len(seen) == 5000)
        ticking.kill()
        line.close()
    assert len(set(seen)) > 20
