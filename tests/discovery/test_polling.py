"""A source that is looked at from time to time."""

from __future__ import annotations

import logging
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.discovery.finding import PATIENCE, Running
from webmesh.discovery.base import Found
from webmesh.discovery.polling import MOST_FOUND, PolledDiscovery
from webmesh.exceptions import ConfigurationError, RegistryUnavailable
from webmesh.options import Backoff
from webmesh.protocol.node_record import NodeRecord

HERE, THERE = Found(("ws://10.0.0.1",)), Found(("ws://10.0.0.2",))


class Scripted(PolledDiscovery):
    """Finds what the test says; each look can be awaited."""

    def __init__(self, *found: Found, **options: Any) -> None:
        options = {"interval": 0.01, "timeout": PATIENCE, "backoff": Backoff(first=0.001, maximum=0.01), **options}
        super().__init__("the test", **options)
        self.entries: list[Found] | Exception = list(found)
        self.looks = self.closes = 0
        self.looked = Event()

    def look(self) -> list[Found]:
        self.looks += 1
        self.looked.set()
        if isinstance(self.entries, Exception):
            raise self.entries
        return list(self.entries)

    def close(self) -> None:
        self.closes += 1

    def await_looks(self, count: int) -> None:
        """So many more."""
        for _ in range(count):
            self.looked.clear()
            assert self.looked.wait(PATIENCE)


def test_what_is_found_is_told_when_it_changes() -> None:
    """Once for each change, however often it is looked at; in an order that does not change by itself."""
    source = Scripted(THERE, HERE, HERE)
    with Running(source) as told:
        told.wait(lambda told: told.found == [HERE, THERE])
        source.entries = [HERE, THERE]
        source.await_looks(3)
        assert 1 == told.times
        source.entries = []
        told.wait(lambda told: told.times == 2)
        assert [] == told.found


def test_an_outage_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What was found last still holds; it is logged once, and its end too."""
    source = Scripted(HERE)
    with caplog.at_level(logging.WARNING, "webmesh.discovery"), Running(source) as told:
        told.wait(lambda told: told.found == [HERE])
        source.entries = RegistryUnavailable("gone")
        source.await_looks(4)
        assert (1, [HERE]) == (told.times, told.found)
        source.entries = [THERE]
        told.wait(lambda told: told.found == [THERE])

    assert ["discovery fails; what was found last still holds", "discovery works again"] == [
        record.message for record in caplog.records
    ]


def test_a_source_that_does_not_answer_is_an_outage() -> None:
    """Its look is ended in time, and there is another."""

    class Hanging(Scripted):
        def look(self) -> list[Found]:
            found = super().look()
            if self.looks < 3:
                gevent.sleep(3600)
            return found

    with Running(Hanging(HERE, timeout=0.01)) as told:
        told.wait(lambda told: told.found == [HERE])


def test_a_changed_record_is_told_at_once() -> None:
    """Without waiting for the interval; its load alone does wait."""
    source = Scripted(interval=3600.0)
    record = NodeRecord(id="n1", epoch=1)
    with Running(source) as told:
        told.wait(lambda told: told.times == 1)
        source.announce(record)
        source.await_looks(1)
        gevent.idle()
        looks = source.looks
        source.announce(record.changed(load=3.0))
        gevent.idle()
        assert looks == source.looks
        source.announce(record.changed(state="draining"))
        source.await_looks(1)


@pytest.mark.row(100)
def test_entries_that_are_not_allowed_are_dropped_and_counted() -> None:
    """URL by URL; a node that listens at such an address itself takes them."""
    source = Scripted(Found(("ws://127.0.0.1:1", "ws://10.0.0.1")), Found(("ws://169.254.169.254",)))
    with Running(source) as told:
        told.wait(lambda told: told.found == [HERE])
        assert 2 <= source.dropped
        source.announce(NodeRecord(id="n1", epoch=1, addresses=("ws://127.0.0.1:4269",)))
        told.wait(lambda told: told.urls == ["ws://127.0.0.1:1", "ws://10.0.0.1"])


@pytest.mark.row(100)
def test_a_register_is_believed_so_many_entries() -> None:
    """However many somebody has put there."""
    source = Scripted(*(Found((f"ws://10.0.{number // 256}.{number % 256}",)) for number in range(MOST_FOUND + 5)))
    with Running(source) as told:
        told.wait(lambda told: told.times == 1)
        assert MOST_FOUND == len(told.found)
        assert 5 <= source.dropped


def test_it_is_closed_once_and_can_be_started_again() -> None:
    """A second start while it runs is a mistake."""
    source = Scripted(HERE)
    with Running(source) as told:
        told.wait(lambda told: told.times == 1)
        with pytest.raises(ConfigurationError):
            source.start(told)
    source.stop()
    assert 1 == source.closes
    with Running(source) as told:
        told.wait(lambda told: told.found == [HERE])


@pytest.mark.parametrize("options", [{"interval": 0}, {"timeout": -1}, {"interval": float("nan")}, {"allow": ["x"]}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    """At once."""
    with pytest.raises(ConfigurationError):
        Scripted(**options)
