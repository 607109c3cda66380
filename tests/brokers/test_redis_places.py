"""What the URLs of a Redis mean, and who among several servers is the one."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.brokers.redis_places import Address, Finder, Login, Place, read_url
from webmesh.exceptions import BrokerUnavailable, ConfigurationError


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://", Place("server", (Address("localhost", 6379),), Login())),
        ("redis://h", Place("server", (Address("h", 6379),), Login())),
        ("redis://h:1/2", Place("server", (Address("h", 1),), Login(db=2))),
        ("redis://h/?db=3", Place("server", (Address("h", 6379),), Login(db=3))),
        ("redis://[::1]:7", Place("server", (Address("::1", 7),), Login())),
        ("redis://[::1]", Place("server", (Address("::1", 6379),), Login())),
        ("redis://me:p%40ss%2F@h", Place("server", (Address("h", 6379),), Login("me", "p@ss/"))),
        ("redis://:pass@h", Place("server", (Address("h", 6379),), Login(None, "pass"))),
        ("unix:///run/a%20b.sock?db=4", Place("server", (Address("/run/a b.sock", 0),), Login(db=4))),
        ("unix://:x@/r.sock", Place("server", (Address("/r.sock", 0),), Login(None, "x"))),
        (
            "redis+sentinel://:p@a:1,b/main/2?sentinel_password=s",
            Place("sentinel", (Address("a", 1), Address("b", 26379)), Login(None, "p", 2), "main", Login(None, "s")),
        ),
        ("redis+cluster://a,b:2", Place("cluster", (Address("a", 6379), Address("b", 2)), Login())),
    ],
)
def test_urls(url: str, place: Place) -> None:
    """As redis-py writes them, and with several hosts for Sentinels and Clusters."""
    assert (place, {}) == read_url(url)


def test_options_stand_in_the_query() -> None:
    """As numbers where they are numbers."""
    _, options = read_url("redis://h?prefix=shop&timeout=2&patience=0.5&lease=3")
    assert {"prefix": "shop", "timeout": 2.0, "patience": 0.5, "lease": 3.0} == options


def test_rediss_has_tls() -> None:
    """With the system's authorities where none are named."""
    place, _ = read_url("rediss://h")
    assert place.login.tls is not None


@pytest.mark.parametrize(
    "url",
    [
        "http://h", "redis+other://h", "unix+cluster:///x", "unix://", "unix://h/x", "redis://h:0", "redis://h:99999",
        "redis://h:x", "redis://h/x", "redis://h/1?db=2", "redis://a,b", "redis+sentinel://a", "redis+sentinel://a/s/x",
        "redis+cluster://a/1", "redis://h?ca_file=/x", "redis://h?what=1", "redis://h?timeout=x",
        "rediss://h?ca_file=/no",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_redis(url: str) -> None:
    """Is refused before anything is connected."""
    with pytest.raises(ConfigurationError):
        read_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:s3cret@h:x", "redis://me:s3cret@a,b", "redis://:s3cret@h/x", "redis://:s3cret\u2100t@host",
        "redis://:s3cret@[::1", "redis://h?s3cret@host:1", "redis://h?timeout=s3cret@host:1",
    ],
)  # fmt: skip
def test_no_password_in_errors(url: str) -> None:
    """Nor in what a place is called."""
    with pytest.raises(ConfigurationError) as caught:
        read_url(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "s3cret" not in str(read_url("redis+sentinel://me:s3cret@a/s?sentinel_password=s3cret")[0])


class Servers:
    """What servers answer: `answers[address, first word]`."""

    def __init__(self, answers: dict[tuple[Address, str], Any]) -> None:
        self.answers = answers
        self.asked: list[Address] = []

    def __call__(self, address: Address, login: Login, *command: Any) -> Any:
        self.asked.append(address)
        answer = self.answers.get((address, " ".join(command[:2]) if command[0] == "CLUSTER" else command[0]))
        if answer is None:
            raise BrokerUnavailable("refused")
        return answer


A, B, C = (Address(name, 1) for name in "abc")


def test_sentinels_are_asked_in_turn() -> None:
    """The first that answers is asked first the next time; what it names must be a master."""
    place = Place("sentinel", (A, B), Login(), "main")
    servers = Servers({(B, "SENTINEL"): [b"c", b"1"], (C, "ROLE"): [b"master", 0, []]})
    finder = Finder(place, servers, "k")
    assert C == finder.find()
    assert [A, B, C] == servers.asked
    finder.find()
    assert [A, B, C, B, C] == servers.asked


@pytest.mark.parametrize(
    "answers", [{}, {(A, "SENTINEL"): []}, {(A, "SENTINEL"): [b"c", b"1"], (C, "ROLE"): [b"slave", b"x"]}]
)
def test_without_a_master_nobody_is_found(answers: dict[Any, Any]) -> None:
    """None is known, the service is not, or it has been told otherwise."""
    with pytest.raises(BrokerUnavailable, match="main"):
        Finder(Place("sentinel", (A,), Login(), "main"), Servers(answers), "k").find()


def test_a_cluster_names_the_server_of_our_slot() -> None:
    """And the servers that it names are asked when those of the URL have gone."""
    slots = [[0, 99, [b"a", 1, b"id"]], [100, 16383, [b"b", 1, b"id"], [b"", 2, b"id"]]]
    servers = Servers({(A, "CLUSTER KEYSLOT"): 100, (A, "CLUSTER SLOTS"): slots})
    finder = Finder(Place("cluster", (A,), Login()), servers, "k")
    assert B == finder.find()
    servers.answers = {(B, "CLUSTER KEYSLOT"): 100, (B, "CLUSTER SLOTS"): slots[:1]}
    with pytest.raises(BrokerUnavailable, match="slot 100"):
        finder.find()
    servers.answers = {(Address("a", 2), "CLUSTER KEYSLOT"): 5, (Address("a", 2), "CLUSTER SLOTS"): slots}
    assert A == finder.find()
