"""A peer that speaks of topics in JSON, by hand, over a real connection; it knows nothing of WebMesh."""

from __future__ import annotations

import itertools
import json
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.running import PATIENCE
from webmesh.webmesh_server import WebMeshServer


class Refused(Exception):
    """An error that came as an answer."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code = error["code"]


class TopicPeer:
    """One connection. Messages that are no answers wait in `messages`, in the order in which they came."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.messages: deque[dict[str, Any]] = deque()
        self._ids = itertools.count()
        self.greeting: dict[str, Any] = {}

    def send(self, message: dict[str, Any]) -> None:
        self.socket.send(json.dumps(message))

    def _receive(self, seconds: float = PATIENCE) -> dict[str, Any]:
        received: dict[str, Any] = json.loads(self.socket.recv(timeout=seconds))
        return received

    def ask(self, path: str, payload: Any = None) -> Any:
        """The reply to a request."""
        return self._exchange({"path": path, "data": payload})

    def publish(self, topic: str, payload: Any = None, **headers: str) -> Any:
        """The reply to a publication; `dedupe_id` is the header `dedupe-id`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._exchange({"topic": topic, "data": payload, "headers": named})

    def _exchange(self, message: dict[str, Any]) -> Any:
        number = next(self._ids)
        self.send(message | {"id": number})
        while True:
            received = self._receive()
            if received.get("id") == number and "topic" not in received:
                if "error" in received:
                    raise Refused(received["error"])
                return received["data"]
            self.messages.append(received)

    def subscribe(self, pattern: str, **more: Any) -> dict[str, Any]:
        """The answer to a subscription."""
        answer: dict[str, Any] = self.ask("$subscribe", {"pattern": pattern} | more)
        return answer

    def hello(self, **said: Any) -> dict[str, Any]:
        """Greet; the answer."""
        self.greeting = self.ask("$hello", said)
        return self.greeting

    @property
    def resume(self) -> dict[str, Any]:
        """What another connection says to go on with this one's session."""
        return {"session": self.greeting["session"], "epoch": self.greeting["epoch"]}

    def next(self, seconds: float = PATIENCE) -> dict[str, Any]:
        """The next message that is no answer."""
        return self.messages.popleft() if self.messages else self._receive(seconds)

    def payloads(self, count: int) -> list[Any]:
        """What the next so many deliveries carry."""
        return [self.next()["data"] for _ in range(count)]

    def cut(self) -> None:
        """Lose the connection without a word."""
        self.socket.socket.close()


@contextmanager
def topic_peer(server: WebMeshServer, *, hello: bool = True, **said: Any) -> Iterator[TopicPeer]:
    """A peer of *server*, which has greeted unless told otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with connect(server.url, subprotocols=["webmesh.v1.json"], max_size=None) as socket:  # type: ignore[list-item]
            peer = TopicPeer(socket)
            if hello:
                peer.hello(**said)
            yield peer
