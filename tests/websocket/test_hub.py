"""Results that travel between greenlets, hubs and native threads; the hub that owns sockets."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent import monkey
from gevent.hub import get_hub

import webmesh.websocket.hub as hub_module
from tests.websocket.interleaving import NativeThread, at_every_step, hold, in_callback, native
from tests.websocket.loopback import PATIENCE, descriptors, each_mode, no_more_than, run_program, until
from webmesh.exceptions import ConnectionClosed, LocalProtocolError, WebMeshError
from webmesh.websocket.hub import Completion, HubThread

_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")


def waiting_in(completion: Completion[Any]) -> int:
    """How many wakers a completion still holds: what is left of waiters that went."""
    return len(completion._wakers)


@contextmanager
def running(name: str = "test") -> Iterator[HubThread]:
    home = HubThread(name)
    home.start()
    try:
        yield home
    finally:
        home.stop()


@contextmanager
def watched() -> Iterator[None]:
    """This hub has something to watch, as a home always has: gevent ends a wait in a hub that has not."""
    bell = get_hub().loop.async_()
    bell.start(print)
    try:
        yield
    finally:
        bell.close()


def own_hub(function: Callable[..., Any], *args: Any) -> NativeThread:
    """Run *function* in a native thread that has a hub of its own."""

    def run() -> Any:
        get_hub()
        try:
            return function(*args)
        finally:
            get_hub().destroy(destroy_loop=True)

    return NativeThread(run)


class TestCompletion:
    def test_a_result_that_is_there_is_not_waited_for(self):
        """From a greenlet, from a native thread, as often as one likes."""
        completion: Completion[int] = Completion()
        completion.succeed(7)

        assert completion.done
        assert completion.error is None
        assert [7, 7, 7] == [completion.wait(), completion.wait(0), native(completion.wait)]

    def test_an_error_is_raised_in_whoever_waits(self):
        """The very error, so that its attributes come along."""
        completion: Completion[int] = Completion()
        lost = WebMeshError("gone")
        completion.fail(lost)

        assert lost is completion.error
        for wait in (completion.wait, lambda: native(completion.wait)):
            with pytest.raises(WebMeshError) as raised:
                wait()
            assert lost is raised.value

    @pytest.mark.parametrize("home", [False, True], ids=["any", "home"])
    def test_the_first_result_counts(self, home: bool):
        """Whatever is set later changes nothing."""
        for first, later in (("succeed", "fail"), ("fail", "succeed"), ("succeed", "succeed")):
            completion: Completion[Any] = Completion(get_hub() if home else None)
            given = {"succeed": "value", "fail": WebMeshError("value")}
            getattr(completion, first)(given[first])
            getattr(completion, later)({"succeed": "later", "fail": WebMeshError("later")}[later])

            assert "value" == (completion.wait() if completion.error is None else str(completion.error))

    @pytest.mark.parametrize("home", [False, True], ids=["any", "home"])
    def test_a_greenlet_waits_while_others_run(self, home: bool):
        """It is woken by what sets the result, in the same hub."""
        completion: Completion[str] = Completion(get_hub() if home else None)
        waiter = gevent.spawn(completion.wait, PATIENCE)
        gevent.sleep(0)
        assert 1 == waiting_in(completion)

        completion.succeed("value")

        assert "value" == waiter.get(timeout=PATIENCE)
        assert 0 == waiting_in(completion)

    @pytest.mark.row(89)
    @pytest.mark.parametrize("home", [False, True], ids=["any", "home"])
    def test_all_who_wait_are_woken_wherever_they_are(self, home: bool):
        """Greenlets of the setter's hub, native threads without a hub, native threads with their own."""
        completion: Completion[str] = Completion(get_hub() if home else None)
        greenlets = [gevent.spawn(completion.wait, PATIENCE) for _ in range(3)]
        threads = [NativeThread(completion.wait, PATIENCE) for _ in range(3)]
        threads += [own_hub(completion.wait, PATIENCE) for _ in range(3)]
        until(lambda: 9 == waiting_in(completion))

        completion.succeed("value")

        assert ["value"] * 3 == [greenlet.get(timeout=PATIENCE) for greenlet in greenlets]
        assert ["value"] * 6 == [thread.join() for thread in threads]

    @pytest.mark.row(89)
    @pytest.mark.parametrize("home", [False, True], ids=["any", "home"])
    def test_a_native_thread_wakes_a_hub_that_sleeps(self, home: bool):
        """Also where the result was expected from this very hub: a call may be given up from anywhere."""
        completion: Completion[str] = Completion(get_hub() if home else None)
        waiter = gevent.spawn(completion.wait)
        gevent.sleep(0)

        # Nothing else wakes this hub: with a waker that only this thread may use, the join would hang.
        with watched(), gevent.Timeout(PATIENCE):
            NativeThread(completion.succeed, "value")
            waiter.join()

        assert "value" == waiter.value

    @pytest.mark.parametrize("home", [False, True], ids=["any", "home"])
    def test_a_wait_is_no_shorter_because_this_hub_was_held_before(self, home: bool):
        """A loop's clock stands still while code computes: a call after 8 s of that had timed out at once."""
        completion: Completion[str] = Completion(get_hub() if home else None)
        gevent.sleep(0.001)
        hold(0.2)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            completion.wait(0.15)
        assert 0.14 < time.monotonic() - began

    def test_a_hub_with_nothing_else_to_do_waits(self):
        """gevent ends a wait in a hub that nothing can wake; a completion may be set by another thread."""
        completion: Completion[str] = Completion()
        thread = own_hub(completion.wait, PATIENCE)
        until(lambda: 1 == waiting_in(completion))
        completion.succeed("value")

        assert "value" == thread.join()

    @pytest.mark.parametrize("seconds", [0.01, 0, -1])
    @pytest.mark.parametrize("where", ["here", "home", "native", "own hub"])
    def test_a_wait_is_bounded(self, where: str, seconds: float):
        """Nothing was set in time: the completion stays usable and holds nothing of the waiter."""
        completion: Completion[str] = Completion(get_hub() if where == "home" else None)
        wait = {
            "native": lambda: native(completion.wait, seconds),
            "own hub": lambda: own_hub(completion.wait, seconds).join(),
        }.get(where, lambda: completion.wait(seconds))

        with pytest.raises(TimeoutError, match="nothing within"):
            wait()

        assert 0 == waiting_in(completion)
        completion.succeed("value")
        assert "value" == completion.wait()

    @pytest.mark.parametrize("seconds", [math.inf, 1e12])
    def test_a_wait_may_be_longer_than_a_lock_can_count(self, seconds: float):
        """292 years are for ever."""
        completion: Completion[str] = Completion()
        threads = [NativeThread(completion.wait, seconds), own_hub(completion.wait, seconds)]
        until(lambda: 2 == waiting_in(completion))
        completion.succeed("value")

        assert ["value"] * 2 == [thread.join() for thread in threads]

    @pytest.mark.row(95)
    @pytest.mark.parametrize("home", [False, True], ids=["any", "home"])
    def test_a_waiter_that_is_killed_leaves_nothing(self, home: bool):
        """Neither a waker nor a watcher; others go on waiting."""
        completion: Completion[str] = Completion(get_hub() if home else None)
        other = gevent.spawn(completion.wait, PATIENCE)
        killed = gevent.spawn(completion.wait)
        gevent.sleep(0)
        killed.kill()
        assert 1 == waiting_in(completion)

        completion.succeed("value")

        assert "value" == other.get(timeout=PATIENCE)

    @pytest.mark.row(95)
    def test_a_timeout_of_the_caller_passes_through(self):
        """Only our own time limit becomes a TimeoutError."""
        completion: Completion[str] = Completion()
        with pytest.raises(gevent.Timeout) as raised, gevent.Timeout(0.01) as own:
            completion.wait(PATIENCE)

        assert own is raised.value
        assert 0 == waiting_in(completion)

    def test_the_hub_itself_must_not_wait(self):
        """It would wait for itself, and everything in it with it: the mistake is told at once."""
        completion: Completion[str] = Completion()
        with pytest.raises(LocalProtocolError, match="callback"):
            in_callback(completion.wait)
        with pytest.raises(TimeoutError):
            in_callback(lambda: completion.wait(0))
        completion.succeed("value")

        assert "value" == in_callback(completion.wait)

    def test_an_error_that_is_raised_often_does_not_grow(self):
        """Every raise adds to an exception's traceback, which keeps frames and all that they hold alive."""
        completion: Completion[str] = Completion()
        lost = WebMeshError("gone")
        completion.fail(lost)
        for _ in range(20):
            with pytest.raises(WebMeshError):
                completion.wait()

        length, trace = 0, lost.__traceback__
        while trace is not None:
            length, trace = length + 1, trace.tb_next
        assert 3 > length

    @pytest.mark.row(89)
    @pytest.mark.parametrize("where", ["native", "here", "home"])
    def test_no_wake_up_is_lost(self, where: str):
        """The result may come at any step of a wait."""
        results: list[str] = []

        def scenario() -> tuple[Callable[[], object], Callable[[], object]]:
            completion: Completion[str] = Completion(get_hub() if where == "home" else None)
            results.clear()
            return lambda: results.append(completion.wait()), lambda: completion.succeed("value")

        def try_all() -> None:
            for _ in at_every_step(scenario, waits=True):
                assert ["value"] == results

        if where == "native":
            native(try_all)
        else:
            with watched():
                try_all()

    @pytest.mark.parametrize("where", ["native", "here"])
    def test_a_result_that_meets_the_end_of_the_time_counts(self, where: str):
        """Who sees a timeout can be sure that there was nothing."""
        seen: list[Any] = []

        def scenario() -> tuple[Callable[[], object], Callable[[], object]]:
            completion: Completion[str] = Completion()
            seen.clear()

            def wait() -> None:
                try:
                    seen.append(completion.wait(0))
                except TimeoutError:
                    seen.append("nothing")

            def succeed() -> None:
                seen.append("too late" if seen else "set")
                completion.succeed("value")

            return wait, succeed

        def try_all() -> None:
            met = [tuple(seen) for _ in at_every_step(scenario)]
            # First it is set before the wait ends and counts, and from some step on it is not seen any more.
            assert [("set", "value")] * met.count(("set", "value")) == met[: met.count(("set", "value"))]
            assert {("set", "value"), ("set", "nothing")} >= set(met)
            assert 20 < met.count(("set", "value"))

        native(try_all) if where == "native" else try_all()

    @pytest.mark.row(89)
    def test_who_begins_to_wait_while_the_result_is_set_is_woken(self):
        """The other way round: a thread arrives at any step of the setting."""
        threads: list[NativeThread] = []

        def scenario() -> tuple[Callable[[], object], Callable[[], object]]:
            completion: Completion[str] = Completion()

            def arrive() -> None:
                thread = NativeThread(completion.wait, PATIENCE)
                threads.append(thread)
                while not (thread.over or waiting_in(completion)):
                    pass  # it is about to look, or has looked

            return lambda: completion.succeed("value"), arrive

        for _ in at_every_step(scenario):
            assert "value" == threads[-1].join()

    @pytest.mark.row(89)
    def test_two_threads_cannot_both_set_the_result(self):
        """Whoever has seen a result sees the same one for ever."""
        seen: list[Any] = []

        def look(completion: Completion[str]) -> str:
            try:
                return completion.wait(0)
            except WebMeshError as error:
                return str(error)

        def scenario(swap: bool = False) -> tuple[Callable[[], object], Callable[[], object]]:
            completion: Completion[str] = Completion()
            seen[:] = [completion]

            def succeed() -> None:
                completion.succeed("value")

            def fail() -> None:
                completion.fail(WebMeshError("error"))

            first, second = (fail, succeed) if swap else (succeed, fail)

            def meanwhile() -> None:
                second()
                seen.append(look(completion))

            return first, meanwhile

        for swap in (False, True):
            for _ in at_every_step(lambda: scenario(swap)):
                completion, early = seen
                assert early == look(completion)
                assert (completion.error is None) == (early == "value")

    def test_callbacks_are_called_once_in_the_hub(self):
        """Whether the result was there or comes later, from whichever thread."""
        for early in (False, True):
            completion: Completion[str] = Completion(get_hub())
            calls: list[tuple[int, bool]] = []

            def note() -> None:
                calls.append((_ident(), gevent.getcurrent() is get_hub()))

            if early:
                completion.succeed("value")
            native(completion.when_done, note)
            if not early:
                native(completion.succeed, "value")
            until(lambda: bool(calls))
            completion.succeed("again")
            gevent.sleep(0.01)

            assert [(_ident(), True)] == calls

    @pytest.mark.row(89)
    def test_a_callback_is_called_once_however_two_threads_meet(self):
        """The one that registers it, and the one that sets the result."""
        calls: list[int] = []
        register: list[Callable[[], object]] = []

        def scenario(swap: bool = False) -> tuple[Callable[[], object], Callable[[], object]]:
            completion: Completion[str] = Completion(get_hub())
            calls.clear()
            register[:] = [lambda: completion.when_done(lambda: calls.append(1)), lambda: completion.succeed("value")]
            return (register[1], register[0]) if swap else (register[0], register[1])

        for swap in (False, True):
            for _ in at_every_step(lambda: scenario(swap)):
                gevent.sleep(0)
                assert [1] == calls

    @pytest.mark.row(93)
    def test_a_callback_that_raises_harms_nobody(self, capsys: pytest.CaptureFixture[str]):
        """Neither who sets the result, nor who waits for it, nor the next callback."""
        completion: Completion[str] = Completion(get_hub())
        calls: list[str] = []
        completion.when_done(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        completion.when_done(lambda: calls.append("second"))
        waiter = gevent.spawn(completion.wait, PATIENCE)
        gevent.sleep(0)

        completion.succeed("value")

        assert "value" == waiter.get(timeout=PATIENCE)
        assert ["second"] == calls
        assert "ZeroDivisionError" in capsys.readouterr().err

    def test_callbacks_need_a_hub_to_run_in(self):
        """Nobody else could say where they run."""
        with pytest.raises(LocalProtocolError):
            Completion().when_done(print)

    @pytest.mark.parametrize("home", [False, True], ids=["any", "home"])
    def test_setting_a_result_survives_waiters_whose_hub_is_gone(self, home: bool):
        """A thread may end, with its hub, between being chosen and being woken; nor is anybody called back there."""
        completions: list[Completion[str]] = []
        kept: list[Any] = []

        def wait_and_be_destroyed() -> None:
            hub = get_hub()
            completion: Completion[str] = Completion(hub if home else None)
            completions.append(completion)
            kept.append((hub, gevent.spawn(completion.wait)))  # not collected: that would take the waker away
            gevent.sleep(0)
            hub.destroy(destroy_loop=True)

        native(wait_and_be_destroyed)
        [completion] = completions
        assert 1 == waiting_in(completion)

        completion.succeed("value")

        assert "value" == completion.wait()
        if home:
            completion.when_done(lambda: kept.append("called"))
        assert 1 == len(kept)


class TestHubThread:
    def test_functions_run_in_its_hub(self):
        """From here, where the process is not patched, that is another thread's."""
        with running() as home:
            here, there = (_ident(), get_hub()), home.run(lambda: (_ident(), get_hub()))

            assert home.hub is there[1]
            assert monkey.is_module_patched("threading") == (here == there)
            assert home.run(home.inside)
            assert not native(home.inside)

    def test_what_a_function_raises_is_raised_here(self):
        """Ordinary errors, and those that would end a greenlet or the process."""
        with running() as home:
            for error in (ValueError("one"), SystemExit(2), gevent.Timeout(3)):

                def fail(error: BaseException = error) -> None:
                    raise error

                with pytest.raises(type(error)) as raised:
                    home.run(fail)
                with pytest.raises(type(error)):
                    native(home.run, fail)
                assert error is raised.value
            assert 5 == home.run(lambda: 5)

    def test_a_function_that_is_killed_ends_its_callers_wait(self):
        """GreenletExit would otherwise pass for an ordinary end of the caller."""
        with running() as home:
            with pytest.raises(WebMeshError, match="stopped"):
                native(home.run, lambda: gevent.getcurrent().kill())

    def test_a_function_may_wait_and_others_run_meanwhile(self):
        """Each caller from another thread has a greenlet of its own there."""
        with running() as home:
            completion: Completion[str] = Completion()
            waiters = [NativeThread(home.run, completion.wait, PATIENCE) for _ in range(5)]
            until(lambda: 5 == waiting_in(completion))
            home.run(completion.succeed, "value")

            assert ["value"] * 5 == [waiter.join() for waiter in waiters]

    def test_inside_the_hub_a_function_is_simply_called(self):
        """In the same greenlet: no switch, no cost."""
        with running() as home:
            assert home.run(lambda: home.run(gevent.getcurrent) is gevent.getcurrent())

    @pytest.mark.row(89)
    def test_the_hub_itself_cannot_wait_for_what_runs_in_it(self):
        """Called back by the hub, `run` raises at once instead of stopping everything for ever."""
        with running() as home:
            ran: list[int] = []
            with pytest.raises(LocalProtocolError, match="callback"):
                home.run(in_callback, lambda: home.run(ran.append, 1))
            assert [] == ran

    def test_a_caller_waits_no_longer_than_it_said(self):
        """What it asked for goes on."""
        with running() as home:
            completion: Completion[str] = Completion()
            done: list[str] = []
            with pytest.raises(TimeoutError):
                native(lambda: home.run(lambda: done.append(completion.wait(PATIENCE)), timeout=0.01))
            home.run(completion.succeed, "value")
            until(lambda: ["value"] == done)

    @pytest.mark.row(89)
    def test_what_is_posted_runs_in_order(self):
        """From inside and from any thread; nobody waits."""
        with running() as home:
            seen: list[Any] = []
            ran_in: set[int] = set()

            def note(number: int) -> None:
                ran_in.add(_ident())
                seen.append(number)

            def post_all(first: int) -> None:
                for number in range(first, first + 100):
                    home.post(note, number)

            threads = [NativeThread(post_all, 1000 * index) for index in range(4)]
            home.run(post_all, 9000)
            for thread in threads:
                thread.join()
            until(lambda: 500 == len(seen))

            for first in (0, 1000, 2000, 3000, 9000):
                assert list(range(first, first + 100)) == [each for each in seen if first <= each < first + 100]
            assert {home.run(_ident)} == ran_in

    def test_there_is_no_hub_before_the_start(self):
        """The text names the thread."""
        home = HubThread("webmesh-test")

        assert not home.inside()
        with pytest.raises(LocalProtocolError, match="webmesh-test"):
            home.hub
        with pytest.raises(LocalProtocolError, match="webmesh-test"):
            home.post(print)
        home.stop()

    def test_a_thread_without_a_hub_is_no_start(self, monkeypatch: pytest.MonkeyPatch):
        """As when descriptors have run out: the caller is told, and does not wait for ever."""

        def none_left() -> None:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(hub_module, "get_hub", none_left)
        with pytest.raises(OSError, match="Too many"):
            HubThread("test").start()

    def test_stopping_twice_and_from_inside_is_safe(self):
        """From a greenlet of the hub itself nobody waits for the end."""
        for _ in range(3):
            with running() as home:
                home.run(home.stop)
                home.stop()
                home.stop()

    def test_the_thread_has_its_name_and_keeps_no_program_alive(self):
        """A program that forgot to close must still be able to end."""
        with running("webmesh-test") as home:
            [thread] = [each for each in threading.enumerate() if each.name == home.name]

            assert thread.daemon
        until(lambda: thread not in threading.enumerate())

    @pytest.mark.plain
    def test_a_stopped_thread_gives_back_its_descriptors(self):
        """A client that is made for each request must not use them up."""
        with running():
            pass
        before = descriptors()
        for _ in range(5):
            with running() as home:
                home.run(gevent.sleep, 0)
        until(lambda: no_more_than(before))

    @pytest.mark.plain
    @pytest.mark.row(89)
    def test_callers_do_not_wait_for_a_hub_that_has_stopped(self):
        """Those who waited are told, and those who come later."""
        with running() as home:
            callers = [NativeThread(home.run, gevent.sleep, 60) for _ in range(3)]
            until(lambda: 3 == len(home._outcomes))
        for caller in callers:
            with pytest.raises(ConnectionClosed, match="test was closed"):
                caller.join()

        ran: list[int] = []
        for call in (home.run, home.post):
            with pytest.raises(ConnectionClosed, match="test was closed"):
                call(ran.append, 1)
        with pytest.raises(ConnectionClosed, match="test was closed"):
            home.hub
        assert not home.inside()
        assert [] == ran

    @pytest.mark.plain
    @pytest.mark.row(89)
    def test_no_caller_is_forgotten_however_it_meets_the_stop(self):
        """A call either runs or is told that the hub has stopped, whichever step the stop comes at."""
        outcomes: list[Any] = []
        homes: list[HubThread] = []

        def scenario() -> tuple[Callable[[], object], Callable[[], object]]:
            home = HubThread("test")
            home.start()
            outcomes.clear()

            def call() -> None:
                try:
                    outcomes.append(home.run(lambda: "ran", timeout=PATIENCE))
                except ConnectionClosed as closed:
                    outcomes.append(closed.code)

            homes.append(home)
            return call, home.stop

        for _ in at_every_step(scenario):
            assert outcomes in (["ran"], [1001])
        homes[-1].stop()

    @pytest.mark.plain
    @pytest.mark.row(49)
    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, SystemError])
    def test_a_greenlet_that_would_end_the_process_does_not_end_the_hub(
        self, error: type[BaseException], capfd: pytest.CaptureFixture[str]
    ):
        """gevent throws such errors into the thread's main greenlet: the connections of all others live there."""
        with running() as home:

            def leave() -> None:
                raise error("enough")

            home.run(lambda: gevent.spawn(leave).join())
            home.run(gevent.sleep, 0.01)

            assert "still here" == home.run(lambda: "still here")

    @pytest.mark.row(88)
    @each_mode
    def test_a_fork_leaves_it_to_the_parent(self, patched: bool):
        """The child is told whose it is, stops nothing, and is asked to let go of what both have open."""
        program = run_program(FORKING, patched=patched)
        output, errors = program.communicate(timeout=PATIENCE)

        assert "" == errors
        assert [
            "LocalProtocolError: shop belongs to the process that this was forked from: make another",
            f"child [{patched}] False True False False",
            "parent [] True False still here",
        ] == output.splitlines()

    @pytest.mark.patched
    @pytest.mark.row(89)
    def test_started_in_a_pool_thread_it_lives_in_the_hub_that_turns(self):
        """The hub of a pool's thread stands still as soon as that thread has something else to do."""
        home = HubThread("test")
        get_hub().threadpool.apply(home.start)

        assert home.hub is get_hub()
        assert 5 == home.run(lambda: 5)
        assert 6 == native(home.run, lambda: 6)
        get_hub().threadpool.apply(home.stop)


FORKING = """
import warnings, os, time
from webmesh.websocket.hub import HubThread

shop, ended, fresh = HubThread("shop"), HubThread("ended"), HubThread("fresh")
told = []
shop.on_fork = ended.on_fork = fresh.on_fork = told.append
shop.start()
ended.start()
ended.stop()
time.sleep(0.01)  # in a patched process its thread is a greenlet, which ends in its turn
warnings.simplefilter("ignore")  # from Python 3.12 on, against just what is tried here
child = os.fork()
if not child:
    try:
        shop.run(print, "never")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    shop.stop()
    print("child", told, shop.inside(), shop.inherited, ended.inherited, fresh.inherited, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", told, shop.run(lambda: shop.inside()), shop.inherited, shop.run(lambda: "still here"))
shop.stop()
"""
