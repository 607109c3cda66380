"""The mesh protocol over one stream: decoded, acted on, encoded; seen from a raw end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import gevent.socket
import pytest

from webmesh.exceptions import ConnectionClosed
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, StandardJsonSerializer
from webmesh.options import Limits, Timeouts
from webmesh.protocol.frames import CloseReceived, Frames
from webmesh.testing import RecordingObserver
from webmesh.websocket.conversation import Conversation
from webmesh.websocket.stream import MessageStream
from webmesh.websocket.upgraded import Upgraded

LIMITS = Limits(invalid_messages=3, message_size=4096)


class Answers:
    """An answerer that notes what it is asked, and echoes."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []

    def serve(self, request: Any, conversation: Conversation, greenlet: Any = None) -> None:
        self.log.append(("serve", request.path, request.data))
        if request.path == "/begin":
            conversation.session.begin(request, "owner")
        elif hasattr(request, "id"):
            conversation.say({"id": request.id, "data": request.data})

    def topic(self, message: Any, conversation: Conversation) -> None:
        self.log.append(("topic", message.topic, message.id))

    def switched(self, conversation: Conversation, greenlet: Any) -> None:
        self.log.append(("switched",))

    def cancel(self, owner: Any) -> None:
        self.log.append(("cancel", owner))

    def item(self, owner: Any, item: Any) -> None:
        self.log.append(("item", owner, item))

    def end_items(self, owner: Any, error: Any) -> None:
        self.log.append(("end", owner, None if error is None else error.code))

    def credited(self, owner: Any) -> None:
        self.log.append(("credited", owner))


class Waiter:
    """Notes what comes for a request of ours."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []

    def succeed(self, value: Any) -> None:
        self.log.append(("succeed", value))

    def fail(self, error: Any) -> None:
        self.log.append(("fail", error.code if hasattr(error, "code") else error))

    def put(self, item: Any) -> None:
        self.log.append(("put", item))

    def credited(self) -> None:
        self.log.append(("credited", None))


class RawEnd:
    """A conversation on one end of a socket pair, bare frames on the other."""

    def __init__(self, serializer: AbstractMessageSerializer, sock: Any, raw: Any) -> None:
        self.observer = RecordingObserver()
        self.answers = Answers()
        self.ended: list[ConnectionClosed] = []
        self.stream = MessageStream(
            Upgraded(sock, None, None, [], b"", "pair", None),
            client=False, limits=LIMITS, timeouts=Timeouts(), on_closed=self.ended.append,
        )  # fmt: skip
        self.conversation = Conversation(
            self.stream, serializer, self.answers, limits=LIMITS, observer=self.observer, dialled=False
        )
        self._serializer = serializer
        self._raw = raw
        self._frames = Frames(client=True, limits=LIMITS)
        self._arrived: list[Any] = []
        self.reader = gevent.spawn(self._read)

    def _read(self) -> None:
        while (items := self.stream.read()) is not None:
            for item in items:
                self.conversation.handle(item)
            self.stream.flush()

    def send(self, message: Any) -> None:
        """One object as a message."""
        self.send_raw(self._serializer.serialize(message))

    def send_raw(self, message: str | bytes) -> None:
        """One message as it is."""
        self._raw.sendall(self._frames.encode(message))

    def receive(self) -> Any:
        """The next decoded message, or the close frame."""
        with gevent.Timeout(10):
            while not self._arrived:
                self._arrived += self._frames.receive(self._raw.recv(65536))
        item = self._arrived.pop(0)
        return self._serializer.deserialize(item) if isinstance(item, str | bytes) else item


@contextmanager
def raw_end(serializer_type: type[AbstractMessageSerializer] = MessagePackSerializer) -> Iterator[RawEnd]:
    sock, raw = gevent.socket.socketpair()
    end = RawEnd(serializer_type(LIMITS), sock, raw)
    try:
        yield end
    finally:
        raw.close()
        end.reader.join(10)
        assert end.reader.dead


def settle(condition: Any) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.001)


@pytest.mark.parametrize("serializer_type", [MessagePackSerializer, StandardJsonSerializer])
def test_a_request_reaches_the_answerer_and_its_answer_the_peer(serializer_type: type[AbstractMessageSerializer]):
    """In both serializers."""
    with raw_end(serializer_type) as end:
        end.send({"path": "/a", "id": 1, "data": {"x": [1, 2.5, None, "ü"]}})

        assert {"id": 1, "data": {"x": [1, 2.5, None, "ü"]}} == end.receive()
        assert [("serve", "/a", {"x": [1, 2.5, None, "ü"]})] == end.answers.log


@pytest.mark.row(29)
@pytest.mark.parametrize(
    ("serializer_type", "message"), [(MessagePackSerializer, "{}"), (StandardJsonSerializer, b"\x80")]
)
def test_the_wrong_opcode_closes_with_1003(
    serializer_type: type[AbstractMessageSerializer], message: str | bytes
):
    """Text where binary is agreed, or the reverse."""
    with raw_end(serializer_type) as end:
        end.send_raw(message)

        closing = end.receive()
        assert isinstance(closing, CloseReceived)
        assert 1003 == closing.code
        assert ("message", "wrong opcode") in end.observer.named("refused")


@pytest.mark.row(41, 43)
@pytest.mark.parametrize(
    ("serializer_type", "message"), [(MessagePackSerializer, b"\xc1"), (StandardJsonSerializer, "{nonsense")]
)
def test_what_cannot_be_decoded_closes_with_1007(
    serializer_type: type[AbstractMessageSerializer], message: str | bytes
):
    """There is no id to answer under."""
    with raw_end(serializer_type) as end:
        end.send_raw(message)

        assert 1007 == end.receive().code


@pytest.mark.row(30)
def test_an_inflated_message_over_the_limit_closes_with_1009():
    """A zlib bomb in a msgpack body is a message that is too big."""
    import zlib

    with raw_end() as end:
        end.send_raw(zlib.compress(b"\x81\xa1x" + b"\xdb\x00\x10\x00\x00" + b"x" * (1 << 20)))

        assert 1009 == end.receive().code


@pytest.mark.row(36)
def test_invalid_maps_are_answered_and_the_last_one_closes_with_4501():
    """With the id where there is one."""
    with raw_end() as end:
        end.send({"path": 5, "id": 3})
        assert {"id": 3, "error": "invalid_argument"} == with_code(end.receive())
        end.send({"nonsense": True})
        assert {"error": "invalid_argument"} == with_code(end.receive())
        end.send([1, 2])
        assert {"error": "invalid_argument"} == with_code(end.receive())

        assert 4501 == end.receive().code


def with_code(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "error": message["error"]["code"]}


def test_answers_reach_their_waiters():
    """Replies, errors, items and credit, each to the request with its id."""
    with raw_end() as end:
        waiter = Waiter()
        request = end.conversation.ask("/q", 1, waiter, timeout=1.5, credit=4, stream=True)
        asked = end.receive()
        keys = ("path", "data", "timeout_ms", "credit", "stream")
        assert ("/q", 1, 1500, 4, True) == tuple(asked[key] for key in keys)

        end.send({"id": request.id, "credit": 3})
        end.send({"id": request.id, "item": "a", "seq": 0})
        end.send({"id": request.id, "error": {"code": "not_found", "message": "no"}})
        settle(lambda: len(waiter.log) == 3)

        assert [("credited", None), ("put", "a"), ("fail", "not_found")] == waiter.log
        assert 0 == end.conversation.session.open_requests


@pytest.mark.row(72)
def test_a_broken_stream_is_told_to_both_ends():
    """The waiter gets data_loss, the peer a cancel."""
    with raw_end() as end:
        waiter = Waiter()
        request = end.conversation.ask("/q", None, waiter, credit=4)
        end.receive()

        end.send({"id": request.id, "item": "b", "seq": 1})

        assert {"id": request.id, "cancel": True} == end.receive()
        assert [("fail", "data_loss")] == waiter.log


def test_what_concerns_a_lasting_request_reaches_the_answerer():
    """Its owner is handed back as it was given."""
    with raw_end() as end:
        end.send({"path": "/begin", "id": 1, "stream": True, "credit": 1})
        end.send({"id": 1, "item": "x", "seq": 0})
        end.send({"id": 1, "credit": 2})
        end.send({"id": 1, "end": True})
        end.send({"id": 1, "cancel": True})
        settle(lambda: len(end.answers.log) == 5)

        assert [
            ("serve", "/begin", None), ("item", "owner", "x"), ("credited", "owner"), ("end", "owner", None),
            ("cancel", "owner"),
        ] == end.answers.log  # fmt: skip
        assert 0 == end.conversation.session.answering


def test_items_out_of_order_end_the_handlers_items():
    """The handler learns that some are missing."""
    with raw_end() as end:
        end.send({"path": "/begin", "id": 1, "stream": True})
        end.send({"id": 1, "item": "x", "seq": 4})
        settle(lambda: len(end.answers.log) == 2)

        assert ("end", "owner", "data_loss") == end.answers.log[1]


@pytest.mark.row(72, 73)
def test_what_is_late_is_dropped_and_counted():
    """It wakes nobody and closes nothing."""
    with raw_end() as end:
        late = ({"data": 1}, {"cancel": True}, {"credit": 1}, {"end": True})
        for message in ({"id": 9, **keys} for keys in late):
            end.send(message)
        end.send({"path": "/", "id": 1, "data": "still here"})

        assert {"id": 1, "data": "still here"} == end.receive()
        assert 4 == len([kind for kind, _ in end.observer.named("refused") if kind == "message"])


def test_topic_messages_are_the_answerers():
    """With or without an id that asks for an answer."""
    with raw_end() as end:
        end.send({"topic": "a/b", "data": 1})
        end.send({"topic": "a/b", "data": 1, "id": 4})
        end.send({"path": "/", "id": 1, "data": "through"})

        assert {"id": 1, "data": "through"} == end.receive()
        assert [("topic", "a/b", None), ("topic", "a/b", 4)] == end.answers.log[:2]


def test_abandoning_a_request_cancels_it():
    """Once; after the reply there is nothing to cancel."""
    with raw_end() as end:
        request = end.conversation.ask("/q", None, Waiter())
        end.receive()

        end.conversation.abandon(request)
        end.conversation.abandon(request)
        end.conversation.say({"path": "/mark"})

        assert {"id": request.id, "cancel": True} == end.receive()
        assert {"path": "/mark"} == end.receive()


def test_what_cannot_be_encoded_opens_nothing():
    """The caller gets the error, and no id is left behind."""
    with raw_end() as end:
        with pytest.raises(Exception, match="object"):
            end.conversation.ask("/q", object(), Waiter())

        assert 0 == end.conversation.session.open_requests


def test_the_end_gives_back_what_was_asked_and_cancels_what_was_answered():
    """Each once."""
    with raw_end() as end:
        end.send({"path": "/begin", "id": 1})
        request = end.conversation.ask("/q", None, Waiter())
        settle(lambda: end.conversation.session.answering == 1)

        asked, answering = end.conversation.end(ConnectionClosed())

        assert [request] == asked
        assert 1 == len(answering)
        assert ("cancel", "owner") == end.answers.log[-1]
        assert ([], []) == end.conversation.end(ConnectionClosed())


def test_saying_something_after_the_end_is_dropped():
    """Answers of the protocol's own need no error handling above."""
    with raw_end() as end:
        end.stream.abort(ConnectionClosed(1006, "gone"))

        end.conversation.say({"id": 1, "data": None})

        with pytest.raises(ConnectionClosed, match="gone"):
            end.conversation.send({"id": 1, "data": None})
