"""Messages of plain WebSocket routes: read ahead so far, sent as they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from webmesh.exceptions import ConnectionClosed, LocalProtocolError
from webmesh.options import Limits
from webmesh.testing import FakeClock
from webmesh.websocket import plain_messages
from webmesh.websocket.hub import HubThread
from webmesh.websocket.plain_messages import PlainMessages
from webmesh.websocket.stream import OPEN


class Script:
    """A stream that reads what it is given, batch by batch, and notes what is sent."""

    def __init__(self, *batches: list[Any] | None) -> None:
        self.state = OPEN
        self.batches = list(batches)
        self.controlled: list[Any] = []
        self.sent: list[Any] = []
        self.asked = 0
        self.gone = False

    def ask(self) -> None:
        self.asked += 1

    def peer_has_ended(self) -> bool:
        return self.gone

    def read(self) -> list[Any] | None:
        return self.batches.pop(0) if self.batches else None

    def control(self, item: Any) -> None:
        self.controlled.append(item)

    def drain(self) -> None:
        """Nothing waits."""

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def flush_soon(self) -> None:
        """Nothing is kept."""


class Setting:
    def __init__(self, *batches: list[Any] | None, bound: int = 64) -> None:
        self.home = HubThread("test")
        self.home.start()
        self.stream = Script(*batches)
        self.messages = PlainMessages(self.stream, self.home, Limits(receive_queue=bound))  # type: ignore[arg-type]

    def __enter__(self) -> Setting:
        return self

    def __exit__(self, *error: Any) -> None:
        self.home.stop()


def test_messages_come_out_in_order_text_and_bytes():
    """What is no message goes to the stream."""
    with Setting(["a", b"b"], [("ping",), "c"]) as setting:
        setting.home.run(setting.messages.read)

        assert ["a", b"b", "c"] == [setting.messages.receive(5) for _ in range(3)]
        assert [("ping",)] == setting.stream.controlled


def test_iteration_ends_with_the_connection():
    """However it ended; everything that came before is delivered."""
    with Setting(["a", "b"]) as setting:
        setting.home.run(setting.messages.read)
        setting.home.run(setting.messages.end, ConnectionClosed(1006, "gone"))

        assert ["a", "b"] == list(setting.messages)
        with pytest.raises(ConnectionClosed, match="gone"):
            setting.messages.receive(5)


def test_receiving_can_be_bounded():
    """Nothing came in time."""
    with Setting() as setting, pytest.raises(TimeoutError):
        setting.messages.receive(0.01)


@pytest.mark.row(66)
def test_reading_pauses_when_the_handler_does_not_keep_up():
    """A peer cannot fill our memory; reading goes on as messages are taken."""
    with Setting(*[[str(number)] for number in range(20)], bound=3) as setting:
        reader = gevent.spawn(setting.home.run, setting.messages.read)
        gevent.sleep(0.05)
        assert 16 <= len(setting.stream.batches)

        assert [str(number) for number in range(20)] == [setting.messages.receive(5) for _ in range(20)]
        reader.join(5)
        assert reader.dead


def test_a_paused_reader_is_freed_by_the_end():
    """The greenlet that holds the connection's place must not stay."""
    with Setting(["a"], ["b"], ["c"], bound=1) as setting:
        reader = gevent.spawn(setting.home.run, setting.messages.read)
        gevent.sleep(0.05)
        setting.stream.state = "closed"
        setting.home.run(setting.messages.end, ConnectionClosed())
        reader.join(5)

        assert reader.dead


@pytest.mark.parametrize("message", ["text", b"bytes"])
def test_messages_are_sent_as_they_are(message: str | bytes):
    """Text for str, binary for bytes."""
    with Setting() as setting:
        setting.messages.send(message)

        assert [message] == setting.stream.sent


@pytest.mark.parametrize("message", [None, 1, ["x"], bytearray(b"x")])
def test_anything_else_cannot_be_sent(message: Any):
    """Serializing is the program's business here."""
    with Setting() as setting, pytest.raises(LocalProtocolError, match="str or bytes"):
        setting.messages.send(message)


@pytest.mark.row(66, 68)
def test_a_peer_that_ends_while_reading_pauses_is_noticed():
    """Then what it had sent is read to its end, beyond the bound, and so is the end; until then it is pinged."""
    with Setting(["a", "b", "c"], ["d"], bound=2) as setting:
        messages, run = setting.messages, setting.home.run
        run(messages.tick, 0.0, 20.0)
        assert 0 == setting.stream.asked  # nobody has paused
        reader = run(gevent.spawn, messages.read)
        run(gevent.sleep, 0.01)
        for now in (1000.0, 1001.0, 1019.0, 1020.0):
            run(messages.tick, now, 20.0)
        assert 2 == setting.stream.asked
        assert not reader.ready()

        setting.stream.gone = True
        run(messages.tick, 1021.0, 20.0)
        run(gevent.joinall, [reader], 5)
        assert reader.ready()
        assert ["a", "b", "c", "d"] == [messages.receive(1) for _ in range(4)]
        run(messages.tick, 1050.0, 20.0)
        assert 2 == setting.stream.asked


@pytest.mark.row(82)
def test_a_handler_that_is_quick_with_each_of_many_messages_gives_way(monkeypatch: pytest.MonkeyPatch):
    """After ten milliseconds of them others are served, in the middle of what one read brought."""
    clock = FakeClock()
    monkeypatch.setattr(plain_messages, "time", SimpleNamespace(monotonic=clock))
    with Setting([str(number) for number in range(40)]) as setting:
        taken: list[str] = []
        seen: list[int] = []

        def handle() -> None:
            setting.messages.own()
            for _ in range(40):
                taken.append(setting.messages.receive(None))
                clock.advance(0.002)

        def watch() -> None:
            while len(taken) < 40:
                seen.append(len(taken))
                gevent.sleep(0)

        def both() -> None:
            gevent.joinall([gevent.spawn(handle), gevent.spawn(watch)], 10, raise_error=True)

        setting.home.run(both)

    assert [str(number) for number in range(40)] == taken
    assert 5 <= len({count for count in seen if 0 < count < 40})
