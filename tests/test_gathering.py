"""Answers of many; with real servers in test_service_calls.py."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from webmesh.deadline import Deadline
from webmesh.exceptions import EncodeError, InvalidArgument
from webmesh.gathering import Gathering
from webmesh.instances import Instance
from webmesh.websocket.future import Future
from webmesh.websocket.hub import Completion


class Asked:
    """A connection whose answers the test gives."""

    def __init__(self, refuses: Exception | None = None) -> None:
        self.completion: Completion[Any] = Completion(gevent.get_hub())
        self.cancelled = False
        self._refuses = refuses

    def start_call(self, path: str, payload: Any, timeout: float | None, headers: Any) -> Future:
        if self._refuses is not None:
            raise self._refuses
        return Future(path, self.completion, Deadline(timeout), timeout, self._cancel)

    def _cancel(self) -> None:
        self.cancelled = True


def gather(links: dict[str, Asked], **options: Any) -> Gathering:
    instances = [Instance(node, "stock", link) for node, link in links.items()]
    return Gathering("/a", None, instances, Deadline(10.0), None, **({"stall": None, "most": None} | options))


def test_answers_come_as_they_are_there() -> None:
    """Not as the nodes stand in the list; errors are answers too."""
    links = {name: Asked() for name in "abc"}
    gathering = gather(links)
    links["c"].completion.succeed(3)
    assert ("c", 3) == ((answer := next(gathering)).node, answer.value)
    assert ("a", "b") == gathering.missing
    links["a"].completion.fail(InvalidArgument())
    links["b"].completion.succeed(None)
    assert [("a", False), ("b", True)] == [(answer.node, answer.ok) for answer in gathering.all()]
    assert not any(link.cancelled for link in links.values())


def test_errors_are_not_enough() -> None:
    """Only replies count for that."""
    links = {name: Asked() for name in "abc"}
    links["a"].completion.fail(InvalidArgument())
    links["b"].completion.succeed(1)

    answers = gather(links, most=1).all()

    assert answers[-1].ok
    assert links["c"].cancelled


def test_whoever_stops_reading_leaves_nothing() -> None:
    """Closed, or left by an exception."""
    links = {name: Asked() for name in "ab"}
    with pytest.raises(KeyError), gather(links):
        raise KeyError
    assert [True, True] == [link.cancelled for link in links.values()]
    assert "<Gathering /a answered=0/2>" == repr(gather(links))


def test_a_payload_that_cannot_be_sent() -> None:
    """Nobody is asked then."""
    links = {"a": Asked(), "b": Asked(EncodeError("no"))}
    with pytest.raises(EncodeError):
        gather(links)
    assert links["a"].cancelled


def test_nobody_to_ask() -> None:
    """Is no error."""
    assert ([], ()) == ((gathering := gather({})).all(), gathering.missing)
