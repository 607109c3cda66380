"""NodeDialler: when a node is dialled, and when it is let be."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

from tests.running import wait_for
from webmesh.exceptions import ConnectFailed, WebMeshError
from webmesh.node_dialler import NodeDialler
from webmesh.options import Backoff

QUICK = Backoff(first=0.001, maximum=0.002)


class World:
    """Nodes that may be dialled: URL → the id of whoever answers, or why nobody does."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.dialled: list[str] = []
        self.linked: set[str] = set()
        self.refused: list[str] = []

    def meet(self, url: str) -> tuple[str, None]:
        self.dialled.append(url)
        gevent.sleep(0)
        answer = self.answers[url.partition("://")[2]]
        if isinstance(answer, Exception):
            raise answer
        self.linked.add(answer)
        return answer, None

    @contextmanager
    def dialling(self, *names: str, node: str | None = None, **more: Any) -> Iterator[NodeDialler]:
        dialler = NodeDialler(
            [f"ws://{name}" for name in names], node, self.meet, self.linked.__contains__, self.refused.append,
            backoff=QUICK, **more,
        )  # fmt: skip
        dialler.start()
        try:
            yield dialler
        finally:
            dialler.stop()


def failed(*, refused: bool = False) -> WebMeshError:
    return ConnectFailed("a", ["why"], refused=refused)


def test_a_seed_is_dialled_until_somebody_answers_and_then_let_be() -> None:
    """Who that is it learns from the answer."""
    world = World(a=failed())
    with world.dialling("a") as dialler:
        assert wait_for(lambda: 3 <= len(world.dialled))
        world.answers["a"] = "node"
        assert wait_for(lambda: "node" == dialler.node)
        count = len(world.dialled)
        gevent.sleep(0.02)
        assert count == len(world.dialled)


def test_a_link_that_has_ended_is_dialled_anew() -> None:
    """As soon as it is woken."""
    world = World(a="node")
    with world.dialling("a") as dialler:
        assert wait_for(lambda: world.linked)
        world.linked.clear()
        dialler.wake()
        assert wait_for(lambda: 2 == len(world.dialled) and world.linked)


def test_a_node_that_has_dialled_us_is_not_dialled() -> None:
    """Its link serves both."""
    world = World(a="node")
    world.linked.add("node")
    with world.dialling("a", node="node"):
        gevent.sleep(0.02)
    assert [] == world.dialled


def test_the_next_url_is_tried_in_the_same_round() -> None:
    """A node may have several addresses."""
    world = World(a=failed(), b="node")
    with world.dialling("a", "b") as dialler:
        assert wait_for(lambda: "node" == dialler.node)
    assert ["ws://a", "ws://b"] == world.dialled


@pytest.mark.parametrize("other, told", [(True, True), (False, False)])
def test_it_is_told_when_all_addresses_say_that_nobody_listens(other: bool, told: bool) -> None:
    """One that says nothing may still be there."""
    world = World(a=failed(refused=True), b=failed(refused=other))
    with world.dialling("a", "b", node="node"):
        assert wait_for(lambda: 4 <= len(world.dialled))
    assert told == bool(world.refused)


def test_an_absent_node_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The same failure is told once in ten times; without the query, which may hold a secret."""
    world = World(**{"a?token=s3cret": failed()})
    with caplog.at_level(logging.WARNING, "webmesh.mesh"), world.dialling("a?token=s3cret"):
        assert wait_for(lambda: 12 <= len(world.dialled))
    assert len(world.dialled) // 10 <= len(caplog.records) <= len(world.dialled) // 10 + 1
    assert "s3cret" not in str([vars(record) for record in caplog.records])


def test_it_waits_as_it_was_told_before_the_first_attempt() -> None:
    """The other side may be quicker, and then there is nothing to do."""
    world = World(a="node")
    with world.dialling("a", node="node", delay=0.05):
        gevent.sleep(0)
        assert [] == world.dialled
        world.linked.add("node")
        gevent.sleep(0.08)
    assert [] == world.dialled
