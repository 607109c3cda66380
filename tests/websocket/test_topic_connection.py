"""Publishing by one connection."""

from __future__ import annotations

from typing import Any

import pytest

from tests.running import connected
from webmesh.exceptions import BadPattern, LocalProtocolError, RouteNotFound
from webmesh.messages import Published
from webmesh.testing import connection_pair
from webmesh.webmesh_server import WebMeshServer


class Topics:
    """Takes what is published, for a node without topics."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    def publish(self, publication: Any, connection: Any) -> Published:
        self.log.append((publication.topic, publication.payload, publication.exclude_self, connection))
        return Published(receivers=3)


def test_the_side_that_dialled_publishes_to_the_node() -> None:
    """And gets its answer, if it wants one."""
    server = WebMeshServer()
    server.topic("a", history=1)
    with connected(server) as client:
        connection = client.connect()
        subscription = client.subscribe("a")
        assert connection.publish("a", 1, confirm=False) is None
        published = connection.publish("a", 2)
        assert [1, 2] == [subscription.next(10).payload for _ in range(2)]
    assert published is not None
    assert (2, 1) == (published.offset, published.receivers)


def test_the_side_that_accepted_publishes_on_its_own_node() -> None:
    """As its peer, by what the node has set there."""
    topics = Topics()
    with connection_pair() as (dialled, accepted):
        accepted.topics = topics
        assert Published(receivers=3) == accepted.publish("a", 1, exclude_self=True)
        assert accepted.publish("b", 2, confirm=False) is None
        assert [("a", 1, True, accepted), ("b", 2, False, accepted)] == topics.log


def test_a_side_without_topics_says_so() -> None:
    """The accepting one at once, another one by its answer."""
    with connection_pair() as (dialled, accepted):
        with pytest.raises(LocalProtocolError):
            accepted.publish("a")
        with pytest.raises(RouteNotFound):
            dialled.publish("a")
        with pytest.raises(BadPattern):
            dialled.publish("a/*")
