"""What keeps a link up: when it dials again, when it stops, and what those who wait get; without a network."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from tests.running import PATIENCE, wait_for
from webmesh.exceptions import (
    ConfigurationError, ConnectFailed, ConnectionClosed, HandshakeRejected, LinkRefused, RequestTimeout,
    Unauthenticated,
)  # fmt: skip
from webmesh.link_keeper import LinkKeeper
from webmesh.link_states import LinkEvent
from webmesh.options import Backoff
from webmesh.protocol.backoff import BackoffSeries
from webmesh.testing import FakeClock

QUICK = Backoff(first=0.001, maximum=0.005)
NEVER = Backoff(first=PATIENCE * 100, maximum=PATIENCE * 100)
DOWN = ConnectFailed("x", ["refused"])


class Connection:
    """What the keeper sees of one."""

    def __init__(self) -> None:
        self.ending: ConnectionClosed | None = None
        self.idle = True

    @property
    def requests(self) -> tuple[int, int]:
        return 1, 0 if self.idle else 1

    @property
    def open(self) -> bool:
        return self.ending is None

    def close(self, code: int, *, timeout: float) -> None:
        self.ending = self.ending or ConnectionClosed(code)


class World:
    """A keeper, and everything that it deals with."""

    def __init__(self, backoff: Backoff | None = QUICK, *, greeter: Any = None) -> None:
        self.url, self.alone, self.asked = "ws://x", True, None
        self.answer: Any = None
        self.gate: gevent.event.Event | None = None
        self.dialled = self.left = 0
        self.suggested: list[Any] = []
        self.events: list[LinkEvent] = []
        self.clock = FakeClock()
        series = None if backoff is None else BackoffSeries(backoff, lambda: 0.999)
        self.keeper = LinkKeeper(
            self, lambda upgraded: upgraded, greeter, series,  # type: ignore[arg-type, return-value]
            SimpleNamespace(change=self.events.append), seconds=PATIENCE, clock=self.clock,  # type: ignore[arg-type]
        )  # fmt: skip

    def dial(self, seconds: float) -> Any:
        self.dialled += 1
        if self.gate is not None:
            self.gate.wait(PATIENCE)
        if self.answer is not None:
            raise self.answer
        return Connection()

    def leave(self) -> None:
        self.left += 1

    def suggest(self, urls: Any) -> bool:
        self.suggested += urls
        return True

    @property
    def states(self) -> list[str]:
        return [event.state for event in self.events]

    def wait(self, seconds: float = PATIENCE, fail_fast: bool = False) -> Any:
        return self.keeper.wait(seconds, fail_fast=fail_fast)

    def lose(self, code: int = 1006) -> None:
        connection: Any = self.keeper.connection
        connection.ending = ConnectionClosed(code)
        self.keeper.ended(connection)


def catch(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return function(*args, **options)
    except Exception as error:
        return error


def test_a_lost_connection_is_made_again_without_anybody_asking() -> None:
    """After a delay, and the program is told of each step."""
    world = World()
    first = world.wait()
    world.lose()
    assert wait_for(lambda: world.keeper.connection is not None)
    assert first is not world.keeper.connection
    assert ["connecting", "connected", "lost", "waiting", "connecting", "connected"] == world.states
    lost, waiting = world.events[2:4]
    assert ("closed with 1006", 1006) == (lost.reason, lost.error.code)  # type: ignore[union-attr]
    assert (1, pytest.approx(0.001, rel=0.01)) == (waiting.attempt, waiting.delay)


def test_without_a_background_nobody_dials_by_himself() -> None:
    """Each use tries once and fails at once."""
    world = World(None)
    world.wait()
    world.lose()
    world.answer = DOWN
    gevent.sleep(0.01)
    assert 1 == world.dialled
    assert DOWN is catch(world.wait)
    assert 2 == world.dialled


@pytest.mark.row(77)
def test_quick_losses_wait_longer_and_longer() -> None:
    """Although each attempt succeeds."""
    world = World(Backoff(first=0.0001, maximum=0.002))
    for _ in range(8):
        world.wait()
        world.lose()
    delays = [event.delay for event in world.events if event.delay is not None]
    assert wait_for(lambda: len([event for event in world.events if event.delay is not None]) == 8)
    delays = [event.delay for event in world.events if event.delay is not None]
    assert delays == sorted(delays)
    assert 0.002 == pytest.approx(delays[-1], rel=0.01)


@pytest.mark.row(75)
def test_a_stable_connection_shortens_the_delay_again() -> None:
    """By the clock that was given."""
    world = World(Backoff(first=0.0001, maximum=0.002))
    for _ in range(5):
        world.wait()
        world.lose()
    world.wait()
    world.clock.advance(61)
    world.lose()
    assert wait_for(lambda: world.events[-1].state == "connected")
    assert 1 == [event for event in world.events if event.state == "waiting"][-1].attempt


@pytest.mark.parametrize("code", [4500, 4503, 4505])
def test_a_close_code_that_is_final_stops_it(code: int) -> None:
    """Who calls is told at once, until the program connects by itself."""
    world = World()
    world.wait()
    world.lose(code)
    for _ in range(2):
        with pytest.raises(LinkRefused) as caught:
            world.wait()
        assert (code, 0) == (caught.value.code, caught.value.status)
        assert isinstance(caught.value.__cause__, ConnectionClosed)
    assert ["lost", "gave_up"] == world.states[-2:]
    assert 1 == world.dialled
    assert world.keeper.connect(PATIENCE) is world.wait()


@pytest.mark.parametrize("answer, status", [
    (HandshakeRejected(401, "who?"), 401), (HandshakeRejected(403, "you?"), 403), (HandshakeRejected(404, "?"), 404),
])  # fmt: skip
def test_a_refusal_of_the_upgrade_stops_it(answer: HandshakeRejected, status: int) -> None:
    """One attempt, however many call; `connect` shows what the server said, and tries each time."""
    world = World()
    world.answer = answer
    for _ in range(3):
        assert status == catch(world.wait).status
    assert 1 == world.dialled
    for _ in range(2):
        assert answer is catch(world.keeper.connect, PATIENCE)
    assert 3 == world.dialled
    assert isinstance(catch(world.wait), LinkRefused)


def test_a_mistake_of_the_program_stops_it() -> None:
    """What cannot be dialled cannot be dialled later."""
    world = World()
    world.answer = ConfigurationError("a header")
    assert ["a header"] * 2 == [str(catch(world.wait)) for _ in range(2)]
    assert 1 == world.dialled


@pytest.mark.row(76)
def test_a_delay_that_was_asked_for_is_obeyed() -> None:
    """It is not undercut; with several addresses they know when the first may be tried."""
    for alone, expected in ((True, 77), (False, 55)):
        world = World()
        world.alone, world.asked = alone, 55  # type: ignore[assignment]
        world.answer = HandshakeRejected(503, "busy", retry_after=77)
        waiting = gevent.spawn(catch, world.wait, 0.05)
        assert wait_for(lambda world=world: "waiting" in world.states)
        assert expected <= world.events[-1].delay <= expected + 30  # type: ignore[operator]
        assert isinstance(waiting.get(timeout=PATIENCE), ConnectFailed)
        world.keeper.stop()


@pytest.mark.parametrize("code, left", [(1000, 1), (4001, 1), (1013, 1), (1006, 0)])
def test_a_server_that_goes_is_left(code: int, left: int) -> None:
    """Another address first, where there is one."""
    world = World()
    world.wait()
    world.lose(code)
    assert left == world.left
    world.wait()


def test_it_gives_up_after_so_long() -> None:
    """Calls fail at once from then on; `connect` begins anew."""
    world = World(Backoff(first=0.001, maximum=0.005, give_up_after=60))
    world.answer = DOWN
    waiting = gevent.spawn(catch, world.wait)
    assert wait_for(lambda: world.dialled > 2)
    assert not waiting.ready()
    world.clock.advance(60)
    error = waiting.get(timeout=PATIENCE)
    assert isinstance(error, ConnectFailed)
    assert "given up" in str(error)
    assert "gave_up" == world.states[-1]
    dialled = world.dialled
    assert isinstance(catch(world.wait), ConnectFailed)
    assert dialled == world.dialled
    world.answer = None
    assert world.keeper.connect(PATIENCE) is world.wait()


def test_who_wants_no_waiting_fails_at_once() -> None:
    """At the first use one attempt is made for him; after it there is the background."""
    world = World(NEVER)
    world.answer = DOWN
    assert DOWN is catch(world.wait, fail_fast=True)
    for _ in range(2):
        with pytest.raises(ConnectFailed, match="no connection now .unreachable.; refused"):
            world.wait(fail_fast=True)
    assert 1 == world.dialled
    world.keeper.stop()


def test_asking_for_a_connection_does_not_wait_for_the_delay() -> None:
    """And ends it for all."""
    world = World(NEVER)
    world.answer = DOWN
    waiting = gevent.spawn(world.wait)
    assert wait_for(lambda: "waiting" in world.states)
    assert DOWN is catch(world.keeper.connect, PATIENCE)
    assert "waiting" == world.states[-1]
    world.answer = None
    assert world.keeper.connect(PATIENCE) is waiting.get(timeout=PATIENCE)
    assert wait_for(lambda: not world.keeper.busy and world.keeper._greenlet is None)


def test_a_connection_that_is_closing_is_not_given_out() -> None:
    """It is replaced before its last word is said."""
    world = World()
    first = world.wait()
    first.ending = ConnectionClosed(4001)
    second = world.wait()
    assert second is not first
    world.keeper.ended(first)
    assert second is world.keeper.connection


def test_an_attempt_that_its_caller_gives_up_is_no_state() -> None:
    """Nobody dials any more, and it says so."""
    world = World(NEVER)
    world.gate = gevent.event.Event()
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        world.keeper.connect(PATIENCE)
    assert ["connecting", "lost"] == world.states


# ------------------------------------------------------------------------- hello


class Greeter:
    """Says hello as it is told."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.log: list[Any] = []

    def greet(self, connection: Any, seconds: float) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            self.answer(connection)
        return SimpleNamespace(resumed=True, refused_wills=["w"])

    def lost(self, connection: Any, why: ConnectionClosed) -> None:
        self.log.append(why.code)

    def ended(self, error: Exception) -> None:
        self.log.append(type(error))


def test_a_connection_is_given_out_after_its_greeting() -> None:
    """Whose result is told; the greeter hears of the loss, and of the end."""
    greeter = Greeter()
    world = World(greeter=greeter)
    world.wait()
    assert (True, ("w",)) == (world.events[-1].resumed, world.events[-1].refused_wills)
    world.lose(1006)
    world.wait()
    world.lose(4503)
    assert [1006, 4503, LinkRefused] == greeter.log
    world.keeper.stop()
    assert ConnectionClosed is greeter.log[-1]


def test_a_refused_login_stops_it() -> None:
    """With one error for `connect` and for calls."""
    world = World(greeter=Greeter(Unauthenticated("who?")))
    for use in (world.wait, lambda: world.keeper.connect(PATIENCE), world.wait):
        error = catch(use)
        assert isinstance(error, LinkRefused)
        assert "login refused" == error.reason
        assert isinstance(error.__cause__, Unauthenticated)
    assert 2 == world.dialled


@pytest.mark.parametrize("answer", [
    RequestTimeout("$hello", 1.0), ConnectionClosed(1006), OSError("no token to be had"),
    lambda connection: connection.close(1006, timeout=0),
])  # fmt: skip
def test_a_greeting_that_fails_is_a_failed_attempt(answer: Any) -> None:
    """Tried again with backoff."""
    greeter = Greeter(answer)
    world = World(greeter=greeter)
    waiting = gevent.spawn(world.wait)
    assert wait_for(lambda: world.dialled > 2)
    greeter.answer = None
    assert waiting.get(timeout=PATIENCE).open


# ----------------------------------------------------------------------- goodbye


def test_a_goodbye_moves_to_an_alternate_before_the_old_link_ends() -> None:
    """What is open there may end; then it is closed."""
    world = World()
    old = world.wait()
    old.idle = False
    world.keeper.goodbye(old, {"reason": "drain", "alternates": ["ws://y"]})
    new = world.wait()
    assert (True, True, 1, ["ws://y"]) == (old.open, new is not old, world.left, world.suggested)
    assert "lost" not in world.states
    old.idle = True
    assert wait_for(lambda: not old.open)
    world.keeper.ended(old)
    assert new is world.keeper.connection


@pytest.mark.parametrize("payload", [None, 7, {}, {"alternates": "ws://y"}, {"alternates": None}])
def test_a_goodbye_without_alternates_comes_back_after_a_delay(payload: Any) -> None:
    """The only address is that of a server that takes nobody in for the moment; with more there is no delay."""
    for alone in (True, False):
        world = World()
        old = world.wait()
        world.alone = alone
        world.keeper.goodbye(old, payload)
        assert old is not world.wait()
        assert ["waiting"] * alone == [state for state in world.states if state == "waiting"]
        assert [] == world.suggested


def test_a_goodbye_of_an_old_link_means_nothing() -> None:
    """Nor one where nobody dials in the background."""
    world = World()
    old = world.wait()
    world.lose()
    new = world.wait()
    world.keeper.goodbye(old, {})
    assert new is world.keeper.connection
    alone = World(None)
    connection = alone.wait()
    alone.keeper.goodbye(connection, {})
    assert connection is alone.keeper.connection


def test_what_a_token_source_raises_is_quoted_nowhere() -> None:
    """Its text may hold a token: errors and events tell the type, and have the cause for whoever looks for it."""
    world = World()
    world.answer = RuntimeError("refused refresh_token=hush")
    first = catch(world.keeper.connect, PATIENCE)
    later = catch(world.wait, 0.05)
    world.keeper.stop()
    texts = [f"{first!r} {first}", f"{later!r} {later}", *map(str, world.events)]
    assert "RuntimeError" in texts[0]
    assert [] == [text for text in texts if "hush" in text]
    causes = [event.error.__cause__ for event in world.events if event.error is not None]
    assert causes and set(causes) == {world.answer}


@pytest.mark.row(77)
def test_goodbyes_one_after_another_are_followed_ever_more_slowly() -> None:
    """A server could send us to itself without end; after a stable connection the next one counts as the first."""
    world = World(Backoff(first=0.001, maximum=1, stable_after=60))
    for _ in range(4):
        world.keeper.goodbye(world.wait(), {"alternates": ["ws://y"]})
    world.wait()
    expected = [pytest.approx(delay, rel=0.01) for delay in (0.001, 0.002, 0.004)]
    assert expected == [event.delay for event in world.events if event.state == "waiting"]
    world.clock.advance(60)
    world.keeper.goodbye(world.wait(), {"alternates": ["ws://y"]})
    world.wait()
    assert 3 == world.states.count("waiting")


def test_a_failed_attempt_of_the_program_does_not_hide_the_delay_of_the_background() -> None:
    """What is left of it is told with the failure, and which delay it is."""
    world = World(NEVER)
    world.answer = DOWN
    assert isinstance(catch(world.wait, 0.01), ConnectFailed)
    assert wait_for(lambda: "waiting" in world.states)
    world.clock.advance(PATIENCE)
    assert DOWN is catch(world.keeper.connect, PATIENCE)
    first, second = [event for event in world.events if event.state == "waiting"]
    world.keeper.stop()
    assert first.delay is not None
    assert (1, 1, first.delay - PATIENCE, DOWN) == (first.attempt, second.attempt, second.delay, second.error)
