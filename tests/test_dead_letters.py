"""Dead letters: what they carry, where they go, and that an engine that is away only delays them."""

from __future__ import annotations

import gevent
import pytest

from tests.running import wait_for
from webmesh.acknowledged import Letter
from webmesh.dead_letters import MOST_HEADERS, DeadLetters, dead_letter
from webmesh.exceptions import Unavailable
from webmesh.protocol.deliveries import Redelivery
from webmesh.protocol.publication import Publication
from webmesh.testing import RecordingObserver
from webmesh.topic_options import TopicOptions

QUICK = Redelivery(first=0.001, most=0.001)


class Engine:
    """Takes publications after it has refused some."""

    def __init__(self, refuses: int = 0) -> None:
        self.got: list[Publication] = []
        self._refuses = refuses

    def publish(self, publication: Publication) -> None:
        if self._refuses:
            self._refuses -= 1
            raise Unavailable("not now")
        self.got.append(publication)


def letter(dead: str | None = "dead", **headers: str) -> Letter:
    options = TopicOptions(ack=True, dead_letter=dead, redelivery=QUICK)
    return Letter(Publication("a/b", 1, headers, key="k"), options, reason="no")


def test_it_says_where_it_is_from_and_why():
    """The publisher's own headers stay; what told how to deliver it does not, for it would hold for the dead letter."""
    headers = {"mine": "x", "ttl-ms": "5", "dedupe-id": "d", "conflate-key": "c", "exclude-self": "true"}
    dead = dead_letter("dead", Publication("a/b", 1, headers, ttl=0.005, dedupe_id="d", key="k"), "no", 3)
    assert ("dead", 1, "k") == (dead.topic, dead.payload, dead.key)
    assert (None, None, None, False) == (dead.ttl, dead.dedupe_id, dead.conflate_key, dead.exclude_self)
    told = {"dead-letter-topic": "a/b", "dead-letter-reason": "no", "dead-letter-attempts": "3"}
    assert {"mine": "x"} | told == dead.headers


def test_it_never_has_too_many_headers():
    """Or no peer could be sent it: its own last ones go."""
    headers = {f"h{number}": "" for number in range(MOST_HEADERS)}
    dead = dead_letter("dead", Publication("a/b", 1, headers), "no", 3)
    assert MOST_HEADERS == len(dead.headers)
    assert "a/b" == dead.headers["dead-letter-topic"]


def test_it_waits_for_the_engine():
    """Only when it is published is the letter done with: until then a group's engine keeps it."""
    engine, done, observer = Engine(refuses=2), [], RecordingObserver()
    letters = DeadLetters(engine.publish, observer)
    letters.bury(letter(), 3, lambda: done.append(len(engine.got)))
    assert [] == done
    assert wait_for(lambda: done)
    assert [1] == done
    assert ("refused", "delivery", "dead letter") in observer.events


@pytest.mark.parametrize(
    "given", [letter(dead=None), letter(**{"dead-letter-topic": "x"})], ids=["no topic", "dead before"]
)
def test_some_go_nowhere(given: Letter):
    """Where no topic is named; and those whose own delivery has failed, which would go round in circles."""
    engine, done = Engine(), []
    DeadLetters(engine.publish, RecordingObserver()).bury(given, 3, lambda: done.append(True))
    assert [True] == done
    assert [] == engine.got


def test_what_waits_when_the_node_stops_is_not_done():
    """It stays with the engine."""
    engine, done = Engine(refuses=10**9), []
    letters = DeadLetters(engine.publish, RecordingObserver())
    letters.bury(letter(), 3, lambda: done.append(True))
    gevent.sleep(0)
    letters.stop()
    assert wait_for(lambda: not letters.waiting)
    assert [] == done
