"""What a server keeps for one peer: messages in order, receipts, and streams that wait."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator
from typing import Any

import gevent
import pytest

from tests.running import wait_for
from tests.session_node import PATIENCE, Node, node
from webmesh.exceptions import ConnectionClosed, EncodeError, OutOfRange, RemoteError
from webmesh.options import Limits, Timeouts
from webmesh.routing import Router
from webmesh.server_session import ServerSession
from webmesh.websocket.websocket_connection import WebSocketConnection


class Heard:
    """A client's routes, which note what comes."""

    def __init__(self) -> None:
        self.payloads: list[Any] = []
        self.router = Router()
        self.router.add("/news", self.news, blocking=False)

    def news(self, payload: Any, path: str, client: Any) -> None:
        self.payloads.append(payload)


def greeted(mesh: Node, heard: Heard, **said: Any) -> tuple[WebSocketConnection, ServerSession, dict[str, Any]]:
    client, server = mesh.link(heard.router)
    answer = client.call("$hello", said or None, timeout=PATIENCE)
    return client, mesh.of(server), answer


def resume(answer: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"session": answer["session"], "epoch": answer["epoch"], **more}


# ------------------------------------------------------------------ kept messages


def test_what_is_sent_while_the_peer_is_away_is_kept() -> None:
    """It comes after the answer to the resume, in order, and then what is live."""
    heard = Heard()
    with node() as mesh:
        client, session, answer = greeted(mesh, heard)
        session.notify("/news", 1)
        assert wait_for(lambda: heard.payloads == [1])
        mesh.cut(client)
        for number in range(2, 6):
            session.notify("/news", number)

        _, again, resumed = greeted(mesh, heard, resume=resume(answer))
        session.notify("/news", 6)

        assert again is session and resumed["resumed"]
        assert wait_for(lambda: len(heard.payloads) == 6)
        assert [1, 2, 3, 4, 5, 6] == heard.payloads


@pytest.mark.row(72)
@pytest.mark.parametrize(("received", "heard_again"), [(0, [1, 2, 3]), (2, [3]), (3, [])])
def test_a_peer_tells_what_it_has_received(received: int, heard_again: list[int]) -> None:
    """Then it gets what it has missed, which may be more than what was sent after its loss was noticed."""
    heard, second = Heard(), Heard()
    with node() as mesh:
        client, session, answer = greeted(mesh, heard)
        for number in (1, 2, 3):
            session.notify("/news", number)
        assert wait_for(lambda: len(heard.payloads) == 3)
        mesh.cut(client)
        greeted(mesh, second, resume=resume(answer, received=received))
        session.notify("/news", "live")

        assert wait_for(lambda: "live" in second.payloads)
        assert [*heard_again, "live"] == second.payloads


@pytest.mark.parametrize("received", [4, 2**53 - 1])
def test_a_peer_that_has_received_too_much_is_not_believed(received: int) -> None:
    """Its session and ours are not the same."""
    heard = Heard()
    with node() as mesh:
        client, session, answer = greeted(mesh, heard)
        session.notify("/news", 1)
        mesh.cut(client)

        assert not greeted(mesh, Heard(), resume=resume(answer, received=received))[2]["resumed"]
        assert session.over


@pytest.mark.row(66, 86)
def test_beyond_the_backlog_a_peer_cannot_resume() -> None:
    """It gets a new session, none of the old messages, and the loss is counted."""
    heard = Heard()
    with node(limits=Limits(session_backlog=1000)) as mesh:
        client, session, answer = greeted(mesh, heard)
        mesh.cut(client)
        for _ in range(30):
            session.notify("/news", "x" * 50)
        second = Heard()
        _, again, resumed = greeted(mesh, second, resume=resume(answer, received=0))
        again.notify("/news", "live")

        assert wait_for(lambda: second.payloads)
        assert (False, ["live"]) == (resumed["resumed"], second.payloads)
        assert again is not session and session.over
        assert ("session", "backlog full") in mesh.observer.named("refused")


def test_a_session_that_is_over_sends_nothing() -> None:
    """It says so."""
    heard = Heard()
    with node() as mesh:
        client, session, _ = greeted(mesh, heard)
        mesh.run(mesh.sessions.close)

        with pytest.raises(ConnectionClosed):
            session.notify("/news", 1)


def test_what_cannot_be_encoded_takes_no_number() -> None:
    """The next message follows the last one."""
    heard = Heard()
    with node() as mesh:
        client, session, answer = greeted(mesh, heard)
        mesh.cut(client)
        with pytest.raises(EncodeError):
            session.notify("/news", object())
        session.notify("/news", "good")
        greeted(mesh, heard, resume=resume(answer, received=0))

        assert wait_for(lambda: heard.payloads == ["good"])


def test_any_message_without_an_answer_can_be_kept() -> None:
    """As those of topics; the caller's map stays as it is."""
    heard = Heard()
    message = {"path": "/news", "data": 1}
    with node() as mesh:
        _, session, _ = greeted(mesh, heard)
        session.send_kept(message)

        assert wait_for(lambda: heard.payloads == [1])
    assert {"path": "/news", "data": 1} == message


def test_the_resume_is_told_when_what_was_kept_is_on_its_way() -> None:
    """So what a callback sends comes after it; the first hello is no resume."""
    heard = Heard()
    with node() as mesh:
        client, session, answer = greeted(mesh, heard)
        session.on_resume.append(lambda resumed: gevent.spawn(resumed.notify, "/news", "after"))
        mesh.cut(client)
        session.notify("/news", "kept")
        greeted(mesh, heard, resume=resume(answer))

        assert wait_for(lambda: len(heard.payloads) == 2)
    assert ["kept", "after"] == heard.payloads


# ------------------------------------------------------------------------ receipts


@pytest.mark.row(86)
def test_what_has_arrived_is_not_kept() -> None:
    """A ping asks for a receipt after so many bytes, and after some time."""
    heard = Heard()
    with node() as mesh:
        _, session, _ = greeted(mesh, heard)
        for _ in range(40):
            session.notify("/news", "x" * 4096)
        session.notify("/news", "last")
        assert session in mesh.sessions.unsettled
        mesh.later(30)

        assert wait_for(lambda: session not in mesh.sessions.unsettled)
        room = session._room
        assert room is not None and 0 == room.taken


@pytest.mark.row(24)
def test_pongs_that_were_not_asked_for_change_nothing() -> None:
    """Of whatever form."""
    heard = Heard()
    with node() as mesh:
        client, session, answer = greeted(mesh, heard)
        session.notify("/news", 1)
        for payload in (b"", b"kept", b"x" * 20, b"kept" + b"\xff" * 17):
            mesh.run(session._receipt, payload)
        mesh.cut(client)
        second = Heard()
        greeted(mesh, second, resume=resume(answer, received=0))

        assert wait_for(lambda: second.payloads == [1])


# ------------------------------------------------------------------------- streams


class Numbers:
    """A route whose handler yields numbers, and notes how it ended."""

    def __init__(self) -> None:
        self.router = Router()
        self.router.add("/numbers", self.numbers)
        for name in ("whole", "broken", "single", "calling"):
            self.router.add(f"/{name}", getattr(self, name))
        self.go_on = threading.Event()
        self.ends: list[str] = []
        self.made = 0
        self.entered: list[int] = []

    def numbers(self, payload: int, path: str, client: Any) -> Iterator[int]:
        try:
            for number in range(payload):
                self.made = number + 1
                yield number
            self.ends.append("whole")
            return
        except GeneratorExit:
            self.ends.append("closed")
            raise

    def whole(self, payload: Any, path: str, client: Any) -> Generator[int, None, str]:
        yield 1
        self._wait()
        return "end"

    def broken(self, payload: Any, path: str, client: Any) -> Iterator[int]:
        yield 1
        self._wait()
        raise OutOfRange("on purpose")

    def single(self, payload: Any, path: str, client: Any) -> str:
        self._wait()
        return "end"

    def calling(self, payload: Any, path: str, client: WebSocketConnection) -> Iterator[int]:
        yield 1
        self._wait()
        client.call("/news")

    def _wait(self) -> None:
        self.entered.append(1)
        self.go_on.wait(PATIENCE)


@pytest.mark.row(71)
def test_a_stream_goes_on_after_a_loss() -> None:
    """Its reader notices nothing: no item is missing, none comes twice, and the value at the end is there."""
    numbers = Numbers()
    with node(numbers.router) as mesh:
        session = mesh.client()
        client, server, _ = mesh.greeted(session)
        stream = client.stream("/numbers", 500)
        got = [stream.take(PATIENCE) for _ in range(100)]
        mesh.cut(client)
        assert session.waiting
        _, _, greeting = mesh.greeted(session)
        got += list(stream)

    assert greeting.resumed
    assert list(range(500)) == got
    assert ["whole"] == numbers.ends


def test_a_stream_whose_reader_is_away_waits() -> None:
    """As without credit: its handler stands still, and is not cancelled."""
    numbers = Numbers()
    with node(numbers.router) as mesh:
        client, _, _ = mesh.greeted(mesh.client())
        stream = client.stream("/numbers", 500, credit=8)
        stream.take(PATIENCE)
        mesh.cut(client)
        mesh.later(29)
        gevent.sleep(0.05)

        assert numbers.made <= 10
        assert [] == numbers.ends


@pytest.mark.row(70, 86)
def test_a_stream_does_not_wait_longer_than_its_session() -> None:
    """Then its handler is cancelled as ever."""
    numbers = Numbers()
    with node(numbers.router, timeouts=Timeouts(session=30)) as mesh:
        client, _, _ = mesh.greeted(mesh.client())
        stream = client.stream("/numbers", 500)
        stream.take(PATIENCE)
        mesh.cut(client)
        mesh.later(30)

        assert wait_for(lambda: numbers.ends == ["closed"])


@pytest.mark.row(74)
@pytest.mark.parametrize(
    ("path", "items", "end"),
    [("/whole", [1], "end"), ("/broken", [1], "out_of_range"), ("/single", [], "end"), ("/calling", [1], "cancelled")],
)
def test_a_stream_that_ends_while_its_reader_is_away_tells_it_later(path: str, items: list[int], end: str) -> None:
    """Be it by a value, by an error, by one that the loss has caused, or with a handler that was no stream at all."""
    numbers = Numbers()
    with node(numbers.router) as mesh:
        session = mesh.client()
        client, server, _ = mesh.greeted(session)
        stream = client.stream(path)
        assert wait_for(lambda: numbers.entered)
        mesh.cut(client)
        kept = mesh.of(server)
        numbers.go_on.set()
        assert wait_for(lambda: kept._streams is not None and kept._streams.unsettled)
        _, again, _ = mesh.greeted(session)

        assert items == [stream.take(PATIENCE) for _ in items]
        if end == "end":
            assert end == stream.result
        else:
            with pytest.raises(RemoteError) as raised:
                stream.take(PATIENCE)
            assert end == raised.value.code
        mesh.later(30)
        assert wait_for(lambda: len(kept._streams or ()) == 0)
        assert kept is again.session


def test_a_stream_that_its_reader_gave_up_while_away_is_cancelled() -> None:
    """The resume does not ask for it."""
    numbers = Numbers()
    with node(numbers.router) as mesh:
        session = mesh.client()
        client, _, _ = mesh.greeted(session)
        stream = client.stream("/numbers", 500)
        stream.take(PATIENCE)
        mesh.cut(client)
        stream.close()
        mesh.greeted(session)

        assert wait_for(lambda: numbers.ends == ["closed"])


@pytest.mark.row(73)
def test_a_stream_that_has_gone_on_can_be_cancelled() -> None:
    """And after it nothing is kept of it."""
    numbers = Numbers()
    with node(numbers.router) as mesh:
        session = mesh.client()
        client, server, _ = mesh.greeted(session)
        stream = client.stream("/numbers", 500)
        stream.take(PATIENCE)
        mesh.cut(client)
        mesh.greeted(session)
        stream.take(PATIENCE)
        stream.close()

        assert wait_for(lambda: numbers.ends == ["closed"])
        kept = mesh.of(server)
        assert wait_for(lambda: kept._room is not None and kept._room.taken == 0)


def test_items_larger_than_the_backlog_end_with_their_connection() -> None:
    """Memory comes first: such a stream works, and cannot be resumed."""
    router = Router()

    @router.on("/large")
    def large(payload: Any, path: str, client: Any) -> Iterator[str]:
        for _ in range(40):
            yield os.urandom(100).hex()

    with node(router, limits=Limits(session_backlog=500)) as mesh:
        client, server, answer = greeted(mesh, Heard())
        assert 40 == len(list(client.stream("/large")))
        stream = client.stream("/large", credit=8)
        assert 200 == len(stream.take(PATIENCE))
        request = stream._request
        assert request is not None and wait_for(lambda: request.receiver is not None and request.receiver.seq == 8)
        mesh.cut(client)
        positions = [[request.id, 1, 7]]
        _, _, resumed = greeted(mesh, Heard(), resume=resume(answer, received=0, streams=positions))

        assert resumed["resumed"]
        assert "streams" not in resumed


def test_a_connection_ends_although_its_streams_go_on() -> None:
    """It is off the server's list, and its callbacks are told."""
    numbers = Numbers()
    with node(numbers.router) as mesh:
        client, _, _ = mesh.greeted(mesh.client())
        stream = client.stream("/numbers", 500)
        stream.take(PATIENCE)
        mesh.cut(client)

        assert wait_for(lambda: all(reader.dead for reader in mesh._readers))
        assert [] == numbers.ends


def test_streams_of_a_client_without_session_end_as_ever() -> None:
    """Nothing is kept for it."""
    numbers = Numbers()
    with node(numbers.router) as mesh:
        client, _ = mesh.link()
        stream = client.stream("/numbers", 500)
        stream.take(PATIENCE)
        mesh.cut(client)

        assert wait_for(lambda: numbers.ends == ["closed"])
