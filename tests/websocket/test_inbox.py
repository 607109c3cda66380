"""What has arrived and waits to be taken, in order, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from tests.websocket.interleaving import NativeThread, at_every_step, native
from tests.websocket.loopback import PATIENCE, until
from webmesh.exceptions import WebMeshError
from webmesh.websocket.inbox import Inbox


@pytest.fixture
def inbox() -> Inbox[Any]:
    return Inbox(get_hub())


def test_items_come_out_in_order(inbox: Inbox[Any]):
    """Whatever they are, falsy ones included."""
    items = [0, None, "", b"a", [1]]
    for item in items:
        inbox.put(item)

    assert 5 == len(inbox)
    assert items == [inbox.take(0) for _ in items]
    assert 0 == len(inbox)


def test_iteration_ends_with_the_series(inbox: Inbox[Any]):
    """What came before the end is delivered; the series' own value is what the last StopIteration carries."""
    inbox.put(1)
    inbox.put(2)
    assert inbox.value is None
    inbox.end("result")

    assert inbox.over
    assert [1, 2] == list(inbox)
    assert "result" == inbox.value
    for _ in range(2):
        with pytest.raises(StopIteration) as stopped:
            inbox.take()
        assert "result" == stopped.value.value


def test_an_error_comes_after_the_items(inbox: Inbox[Any]):
    """As often as somebody asks, without growing: a traceback keeps the frames of all that raised it."""
    inbox.put(1)
    lost = WebMeshError("gone")
    inbox.fail(lost)

    assert lost is inbox.error
    assert 1 == inbox.take()
    for _ in range(20):
        with pytest.raises(WebMeshError) as raised:
            next(inbox)
        assert lost is raised.value
    length, trace = 0, lost.__traceback__
    while trace is not None:
        length, trace = length + 1, trace.tb_next
    assert 5 > length


def test_after_the_end_nothing_changes(inbox: Inbox[Any]):
    """Items are dropped, and the first end counts."""
    inbox.end("first")
    inbox.put(1)
    inbox.end("second")
    inbox.fail(WebMeshError("third"))

    assert ("first", None, 0) == (inbox.value, inbox.error, len(inbox))
    failed: Inbox[Any] = Inbox(get_hub())
    failed.fail(WebMeshError("first"))
    failed.end("second")
    failed.fail(WebMeshError("third"))
    assert ("None", "first") == (str(failed.value), str(failed.error))


@pytest.mark.parametrize("seconds", [0, 0.01, -1])
def test_a_wait_is_bounded(inbox: Inbox[Any], seconds: float):
    """The series goes on after it."""
    with pytest.raises(TimeoutError):
        inbox.take(seconds)
    with pytest.raises(TimeoutError):
        native(inbox.take, seconds)
    inbox.put(1)

    assert 1 == inbox.take(seconds)


def test_the_time_is_the_takers_own(inbox: Inbox[Any]):
    """Items that others snatch away do not start it anew."""
    waits: list[float] = []

    class Snatched:
        """A bell that rings although nothing is left."""

        def wait(self, timeout: float) -> None:
            waits.append(timeout)
            if len(waits) == 3:
                raise TimeoutError

    inbox._bell = Snatched()  # type: ignore[assignment]
    with pytest.raises(TimeoutError):
        inbox.take(60)

    assert 60 >= waits[0] > waits[1] > waits[2] > 0


def test_a_waiter_is_woken_by_an_item_an_end_and_an_error(inbox: Inbox[Any]):
    """In greenlets and in native threads."""
    for arrive, outcome in (
        (lambda box: box.put(1), 1),
        (lambda box: box.end(2), StopIteration),
        (lambda box: box.fail(WebMeshError("gone")), WebMeshError),
    ):
        for start in (lambda box: gevent.spawn(attempt, box), lambda box: NativeThread(attempt, box)):
            box: Inbox[Any] = Inbox(get_hub())
            waiter = start(box)
            until(lambda: box._bell.awaited)
            arrive(box)
            waiter.join()
            seen = waiter.value if isinstance(waiter, gevent.Greenlet) else waiter.join()

            assert outcome == seen if outcome == 1 else isinstance(seen, outcome)  # type: ignore[arg-type]


def attempt(box: Inbox[Any]) -> Any:
    """What a taker gets, item or exception."""
    try:
        return box.take(PATIENCE)
    except (StopIteration, WebMeshError) as error:
        return error


def test_all_who_wait_learn_of_the_end(inbox: Inbox[Any]):
    """Not only the first of them."""
    waiters: list[Any] = [gevent.spawn(attempt, inbox) for _ in range(3)]
    threads = [NativeThread(attempt, inbox) for _ in range(3)]
    until(lambda: 6 == len(inbox._bell._wakers))
    inbox.end()

    gevent.joinall(waiters, PATIENCE)
    assert [StopIteration] * 3 == [type(waiter.value) for waiter in waiters]
    assert [StopIteration] * 3 == [type(thread.join()) for thread in threads]


@pytest.mark.row(95)
def test_a_taker_that_is_killed_takes_nothing(inbox: Inbox[Any]):
    """What comes next is for the others."""
    killed = gevent.spawn(inbox.take)
    gevent.sleep(0)
    inbox.put(1)
    killed.kill()

    assert 1 == len(inbox) + (killed.value == 1)
    killed = gevent.spawn(inbox.take)
    gevent.sleep(0)
    killed.kill()
    inbox.put(2)
    assert 2 == inbox.take(0) or 2 == inbox.take(0)


def test_whoever_takes_says_so():
    """In its own thread, once for each item; after the end nobody needs to know."""
    taken: list[int] = []
    inbox: Inbox[int] = Inbox(get_hub(), lambda: taken.append(1))
    for number in range(4):
        inbox.put(number)
    inbox.take()
    native(inbox.take)
    assert [1, 1] == taken

    inbox.end()

    assert [2, 3] == list(inbox)
    assert [1, 1] == taken


@pytest.mark.row(89)
def test_no_item_and_no_end_is_missed_by_a_native_thread():
    """The last item and the end of a series mostly come together, at any step of a take."""
    seen: list[Any] = []
    hub = get_hub()

    def scenario() -> tuple[Callable[[], object], Callable[[], object]]:
        inbox: Inbox[str] = Inbox(hub)
        seen[:] = [inbox]

        def arrive() -> None:
            inbox.put("last")
            inbox.end("value")

        return lambda: seen.append(inbox.take()), arrive

    def try_all() -> None:
        for _ in at_every_step(scenario, waits=True):
            inbox, item = seen
            assert "last" == item
            with pytest.raises(StopIteration):
                inbox.take()

    native(try_all)


@pytest.mark.row(89)
def test_two_takers_never_get_the_same_item():
    """Nor does one of them fail because the other was quicker."""
    seen: list[Any] = []
    hub = get_hub()

    def scenario() -> tuple[Callable[[], object], Callable[[], object]]:
        inbox: Inbox[str] = Inbox(hub)
        inbox.put("one")
        seen.clear()

        def take() -> None:
            try:
                seen.append(inbox.take(0))
            except TimeoutError:
                seen.append(None)

        return take, take

    def try_all() -> None:
        for _ in at_every_step(scenario):
            assert {"one", None} == set(seen)
            assert 2 == len(seen)

    native(try_all)


@pytest.mark.row(89)
def test_many_threads_take_everything_once(inbox: Inbox[Any]):
    """Whoever takes it, each item is taken in order, and none is lost."""
    threads = [NativeThread(lambda: list(inbox)) for _ in range(4)]
    greenlets = [gevent.spawn(lambda: list(inbox)) for _ in range(4)]
    for number in range(2000):
        inbox.put(number)
        if number % 100 == 0:
            gevent.sleep(0)
    inbox.end()

    taken = [thread.join() for thread in threads] + [greenlet.get(timeout=PATIENCE) for greenlet in greenlets]
    assert all(each == sorted(each) for each in taken)
    assert list(range(2000)) == sorted(number for each in taken for number in each)
