"""A subscriber and publisher of another maker, written from docs/PROTOCOL.md alone: nothing of WebMesh is used here."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.integration.foreign import Foreign, talking

Message = dict[str, Any]


class Refused(Exception):
    """An error that came as an answer; its `args` are code and message."""

    @property
    def code(self) -> str:
        return str(self.args[0])


class TopicSpeaker:
    """One connection, by which topics are spoken of.

    Attributes:
        counted: Deliveries that count in a session, since its beginning.
        session: What `$hello` was answered with.
    """

    def __init__(self, foreign: Foreign, *, first_id: int = 0) -> None:
        self.foreign = foreign
        self.counted = 0
        self.session: Message = {}
        self._ids = itertools.count(first_id)
        self._heard: deque[Message] = deque()

    # ------------------------------------------------------------------ what it asks

    def ask(self, path: str, data: Any = None) -> Any:
        """The reply to a request."""
        return self._exchange(path=path, data=data)

    def hello(self, **said: Any) -> Message:
        """Greet; the answer. Goes on with *resume*, the session of another connection, by `resume_of`."""
        self.session = self.ask("$hello", {"node": {"id": "f", "name": "foreign", "version": "0"}, **said})
        return self.session

    def resume_of(self, lost: TopicSpeaker) -> Message:
        """Greet as the one whose connection is lost, and go on counting where it was."""
        known = {"session": lost.session["session"], "epoch": lost.session["epoch"], "messages": lost.counted}
        answer = self.hello(resume=known)
        self.counted += lost.counted if answer["resumed"] else 0
        return answer

    def subscribe(self, pattern: str, **more: Any) -> Message:
        """The answer to a subscription."""
        answer: Message = self.ask("$subscribe", {"pattern": pattern, **more})
        return answer

    def publish(self, topic: str, data: Any = None, **headers: str) -> Message:
        """The reply to a publication; an argument `dedupe_id` is the header `dedupe-id`."""
        options = {name.replace("_", "-"): value for name, value in headers.items()}
        answer: Message = self._exchange(topic=topic, data=data, headers=options)
        return answer

    def _exchange(self, **message: Any) -> Any:
        number = next(self._ids)
        self.foreign.say(id=number, **message)
        while True:
            heard = self.foreign.hear()
            if "topic" not in heard and "path" not in heard and heard.get("id") == number:
                if "error" in heard:
                    raise Refused(heard["error"]["code"], heard["error"]["message"])
                return heard["data"]
            self._heard.append(heard)

    # ------------------------------------------------------------------ what it hears

    def next(self) -> Message:
        """The next topic message; what else came before it is passed over."""
        while True:
            message = self._heard.popleft() if self._heard else self.foreign.hear()
            if "topic" in message:
                loose = message.get("loose")
                self.counted += "id" not in message and not loose
                return message

    def payloads(self, count: int) -> list[Any]:
        """What the next so many carry."""
        return [self.next()["data"] for _ in range(count)]

    def acknowledge(self, delivery: Message) -> None:
        """It is handled."""
        self.foreign.say(id=delivery["id"], data=None)

    def refuse(self, delivery: Message) -> None:
        """It is not."""
        self.foreign.say(id=delivery["id"], error={"code": "internal", "message": "the handler failed"})

    def silence(self) -> bool:
        """Whether nothing more has come: everything that was sent before this call's answer would have."""
        self.ask("$info")
        return not any("topic" in message for message in self._heard)

    # ------------------------------------------------------------------- how it goes

    def drop(self) -> None:
        """Lose the connection without a word."""
        self.foreign.wire.close()  # type: ignore[attr-defined]

    def goodbye(self) -> None:
        """Leave on purpose."""
        self.foreign.say(path="$goodbye", data={"reason": "done"})


@contextmanager
def speaking(url: str, body: str, *, first_id: int = 0) -> Iterator[TopicSpeaker]:
    """A connection to the server at *url*, in JSON or msgpack."""
    with talking(url, "websockets", body) as foreign:
        yield TopicSpeaker(foreign, first_id=first_id)
