"""The topics of one run of a server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.running import running
from webmesh.brokers.memory import MemoryBroker
from webmesh.exceptions import BrokerUnavailable
from webmesh.webmesh_server import WebMeshServer


class AbsentBroker(MemoryBroker):
    """Cannot be reached from the beginning."""

    def start(self, sink: Any) -> None:
        raise BrokerUnavailable("nobody answers")


def test_a_server_whose_engine_cannot_be_reached_does_not_start():
    """Whoever waits for the start is told why."""
    server = WebMeshServer(broker=AbsentBroker())
    server.listen(port=0)
    with pytest.raises(BrokerUnavailable, match="nobody answers"):
        server.await_started()
    server.close()


def test_the_engine_is_stopped_with_the_server():
    """And was up while it served."""
    broker = MemoryBroker()
    with running(WebMeshServer(broker=broker)):
        assert broker.up
    assert not broker.up


def test_functions_of_the_program_get_what_is_published_before_any_peer_comes():
    """Their subscriptions begin with the run."""
    server = WebMeshServer()
    server.subscribe("a")(lambda payload, topic, message: None)
    with running(server):
        assert 1 == server.publish("a").receivers
