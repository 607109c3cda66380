"""Extensions: what lives in a server's hub, what it hears, and that the server does not depend on its luck."""

from __future__ import annotations

import logging
from typing import Any

import gevent
import pytest

from tests.running import PATIENCE, running, wait_for
from webmesh.exceptions import ConfigurationError
from webmesh.message_serializers import MessagePackSerializer
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer
from webmesh.websocket.dialer import dial


class Recorder:
    """Writes down what it is told, and in which greenlet's hub."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.serving: Any = None
        self.ended_ids: list[str] = []

    def start(self, serving: Any) -> None:
        self.told.append("start")
        assert serving.home.hub is gevent.get_hub()
        self.serving = serving

    def ended(self, connection: Any) -> None:
        self.ended_ids.append(connection.id)

    def drain(self) -> None:
        self.told.append("drain")

    def keeps(self, connection: Any) -> bool:
        return False

    def stop(self) -> None:
        self.told.append("stop")


def test_it_hears_of_the_start_the_drain_and_the_end_in_that_order() -> None:
    """All of it in the server's hub; and of connections that have ended."""
    server, recorder = WebMeshServer(), Recorder()
    server.extend(recorder)
    server.on("/")(lambda payload, path, client: client.id)
    with running(server), WebMeshClient(server.url) as client:
        name = client.call("/")
        assert ["start"] == recorder.told
        client.close()
        assert wait_for(lambda: [name] == recorder.ended_ids)
    assert ["start", "drain", "stop"] == recorder.told


def test_it_comes_too_late_once_the_server_listens() -> None:
    """As everything that is registered."""
    with running(WebMeshServer()) as server, pytest.raises(ConfigurationError, match="too late"):
        server.extend(Recorder())


def test_one_that_cannot_start_keeps_the_server_from_starting() -> None:
    """Whoever awaits the start learns why."""

    class Wrong(Recorder):
        def start(self, serving: Any) -> None:
            raise ConfigurationError("no seed")

    server = WebMeshServer()
    server.extend(Wrong())
    server.listen(port=0)
    with pytest.raises(ConfigurationError, match="no seed"):
        server.await_started()


def test_one_that_fails_at_the_end_is_logged_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """The server closes all the same."""

    class Wrong(Recorder):
        def drain(self) -> None:
            raise RuntimeError("of its own")

    server, recorder = WebMeshServer(), Recorder()
    server.extend(Wrong())
    server.extend(recorder)
    with caplog.at_level(logging.ERROR, "webmesh.server"), running(server):
        pass
    assert ["start", "drain", "stop"] == recorder.told
    assert ["an extension failed"] == [record.getMessage() for record in caplog.records]


def test_an_adopted_connection_is_served_like_one_that_came() -> None:
    """The peer that was dialled calls our routes, its end is told, and it is closed with the server."""
    dialled, other = WebMeshServer(name="dialled"), WebMeshServer(name="dialling")
    recorder = Recorder()
    other.extend(recorder)
    other.on("/who")(lambda payload, path, client: "the one that dialled")
    dialled.on("/back")(lambda payload, path, client: client.call("/who"))

    def adopt() -> Any:
        upgraded = dial(dialled.url, timeout=PATIENCE, limits=other.limits, subprotocols=("webmesh.v1.msgpack",))
        return recorder.serving.adopt(upgraded, MessagePackSerializer(other.limits), None)

    with running(dialled):
        with running(other):
            connection = recorder.serving.home.run(adopt)
            assert "the one that dialled" == connection.call("/back", timeout=PATIENCE)
            assert connection in other.connections
        assert wait_for(lambda: not dialled.connections)
    assert [connection.id] == recorder.ended_ids
