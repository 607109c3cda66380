"""Calls to a service of several instances, with real servers: `call`, `spawn`, `notify`, `stream`, `gather`."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from tests.fleet import SERVICE, Fleet, first, fleet
from tests.running import PATIENCE, native_threads, wait_for
from webmesh.call import current_call
from webmesh.call_policy import CallPolicy
from webmesh.exceptions import (
    ConfigurationError, InvalidArgument, Overloaded, RemoteError, RequestTimeout, ServiceNotFound, Unavailable,
)  # fmt: skip
from webmesh.instances import Instance
from webmesh.webmesh_server import WebMeshServer


def tell_name(server: WebMeshServer, name: str) -> None:
    """Routes that tell who has answered."""

    @server.on("/who")
    def who(payload: Any, path: str, client: object) -> Any:
        return name

    @server.on("/count")
    def count(payload: int, path: str, client: object) -> Any:
        for number in range(payload):
            yield f"{name}{number}"


def test_least_pending_is_the_default() -> None:
    """Who has fewer calls in progress is asked."""
    with fleet("ab", tell_name) as group:
        calls = group.calls()
        group.instances["a"].calls.add("one")

        assert {"b"} == {calls.call(SERVICE, "/who") for _ in range(5)}
        assert 0 == group.instances["b"].pending


def test_round_robin_and_a_balance_of_the_calls_own() -> None:
    """The policy says it for all calls, an argument for one."""
    with fleet("abc", tell_name) as group:
        calls = group.calls(CallPolicy(balance="round-robin"))

        assert {"a": 3, "b": 3, "c": 3} == Counter(calls.call(SERVICE, "/who") for _ in range(9))
        assert {"b"} == {calls.call(SERVICE, "/who", balance=first("b")) for _ in range(5)}


def test_calls_with_one_key_meet_one_instance() -> None:
    """Whoever calls; another one takes over while that one cannot be reached."""
    with fleet("abc", tell_name) as group:
        one, other = group.calls(), group.calls()
        owner = one.call(SERVICE, "/who", key="customer 7")
        assert {owner} == {calls.call(SERVICE, "/who", key="customer 7") for calls in (one, other) for _ in range(5)}

        group.cut(owner)
        assert len({calls.call(SERVICE, "/who", key="customer 7") for calls in (one, other)} - {owner}) == 1


def test_each_service_may_have_its_policy() -> None:
    """Others keep the common one."""
    with fleet("ab", tell_name) as group:
        calls = group.calls(policies={SERVICE: CallPolicy(balance=first("b"))})
        assert {"b"} == {calls.call(SERVICE, "/who") for _ in range(5)}


def test_one_node_by_its_id() -> None:
    """Whatever it offers, and nobody else."""
    with fleet("ab", tell_name) as group:
        calls = group.calls()
        assert "b" == calls.call(None, "/who", node="b")
        group.cut("b")
        with pytest.raises(Unavailable, match="no instance of node 'b' can be reached"):
            calls.call(None, "/who", node="b", fail_fast=True)
        with pytest.raises(ServiceNotFound, match="node 'z'"):
            calls.call(None, "/who", node="z", fail_fast=True)


@pytest.mark.parametrize("target", [{"service": None}, {"service": SERVICE, "node": "a"}])
def test_a_call_names_its_target(target: dict[str, Any]) -> None:
    """A service or a node, and not both."""
    with fleet("a", tell_name) as group, pytest.raises(ConfigurationError, match="a service or a node"):
        group.calls().call(path="/who", **target)


def test_the_own_zone_is_preferred() -> None:
    """While enough of it is there."""
    with fleet("ab", tell_name) as group:
        group.instances["a"].zone, group.instances["b"].zone = "north", "south"
        calls = group.calls(zone="south")
        assert {"b"} == {calls.call(SERVICE, "/who") for _ in range(5)}
        group.cut("b")
        assert "a" == calls.call(SERVICE, "/who")


def test_an_unknown_service() -> None:
    """Is told at once on request, else after `find_wait`, however long the call may take."""
    with fleet("a", tell_name) as group:
        with pytest.raises(ServiceNotFound, match="service 'prices'"):
            group.calls().call("prices", "/", fail_fast=True)
        with pytest.raises(ServiceNotFound):
            group.calls(CallPolicy(find_wait=0.05)).call("prices", "/", timeout=PATIENCE)


def test_a_call_waits_for_an_instance() -> None:
    """Within its own time."""
    with fleet("a", tell_name) as group:
        instance = group.instances["a"]
        group.directory.remove("a")
        future = group.calls().spawn(SERVICE, "/who")
        assert not future.done()

        group.directory.add(instance)

        assert "a" == future.result(PATIENCE)


def test_nobody_can_be_reached_in_time() -> None:
    """That is told as what it is: nothing was sent."""
    with fleet("a", tell_name) as group:
        group.cut("a")
        with pytest.raises((Unavailable, RequestTimeout)):
            group.calls().call(SERVICE, "/who", timeout=0.1)


def test_one_that_drains_gets_nothing_new() -> None:
    """Also when there is nobody else."""
    with fleet("ab", tell_name) as group:
        calls = group.calls()
        group.instances["a"].draining = True
        assert {"b"} == {calls.call(SERVICE, "/who") for _ in range(5)}
        group.instances["b"].draining = True
        with pytest.raises(Unavailable):
            calls.call(SERVICE, "/who", fail_fast=True)


def test_errors_of_the_handler_arrive() -> None:
    """Once, as they are, and are no fault of the instance."""

    def register(server: WebMeshServer, name: str) -> None:
        @server.on("/strict")
        def strict(payload: Any, path: str, client: object) -> Any:
            raise InvalidArgument("no")

    with fleet("ab", register) as group:
        calls = group.calls()
        for _ in range(30):
            with pytest.raises(InvalidArgument):
                calls.call(SERVICE, "/strict")
        assert (0, 30) == (
            sum(one.failures for one in group.instances.values()), sum(o.successes for o in group.instances.values())
        )  # fmt: skip


def test_a_call_from_native_threads() -> None:
    """Any thread may call; nothing stays counted."""
    with fleet("ab", tell_name) as group, native_threads(4) as spawn:
        calls = group.calls()

        def many() -> list[str]:
            return [calls.call(SERVICE, "/who") for _ in range(20)]

        jobs = [spawn(many) for _ in range(4)]
        assert 80 == sum(len(job.get()) for job in jobs)
        assert [0, 0] == [one.pending for one in group.instances.values()]


def test_spawned_calls() -> None:
    """Run side by side, and their futures tell what came of them."""
    with fleet("ab", tell_name) as group:
        futures = [group.calls(CallPolicy(balance="round-robin")).spawn(SERVICE, "/who") for _ in range(6)]
        assert 6 == len([future.result(PATIENCE) for future in futures])
        with pytest.raises(RemoteError):
            group.calls().spawn(SERVICE, "/none").result(PATIENCE)


def test_streams() -> None:
    """Come from one instance, which counts them as calls in progress while they last."""
    with fleet("ab", tell_name) as group:
        stream = group.calls().stream(SERVICE, "/count", 3, balance=first("b"), credit=1)
        assert 1 == group.instances["b"].pending
        assert ["b0", "b1", "b2"] == list(stream)
        assert wait_for(lambda: not group.instances["b"].pending)


def test_a_stream_finds_another_instance_before_it_has_begun() -> None:
    """And not after that."""
    with fleet("ab", tell_name) as group:
        group.cut("b")
        assert ["a0"] == list(group.calls().stream(SERVICE, "/count", 1, balance=first("b")))


def test_notifications() -> None:
    """Reach one instance."""
    got: list[str] = []

    def register(server: WebMeshServer, name: str) -> None:
        @server.on("/note")
        def note(payload: Any, path: str, client: object) -> None:
            got.append(name)

    with fleet("ab", register) as group:
        assert group.calls().notify(SERVICE, "/note", balance=first("b"))
        assert wait_for(lambda: got)
    assert ["b"] == got


# ------------------------------------------------------------------------------- gather


def test_gather_asks_all() -> None:
    """Each once; errors are values."""

    def register(server: WebMeshServer, name: str) -> None:
        @server.on("/check")
        def check(payload: Any, path: str, client: object) -> Any:
            if name == "b":
                raise InvalidArgument("not me")
            return payload + name

    with fleet("abc", register) as group:
        gathering = group.calls().gather("/check", "I am ")
        answers = {answer.node: answer for answer in gathering}

        assert ("I am a", "I am c") == (answers["a"].value, answers["c"].value)
        assert isinstance(answers["b"].error, InvalidArgument)
        assert (False, ()) == (answers["b"].ok, gathering.missing)


def blocked(release: threading.Event, busy: str) -> Any:
    """Routes where some do not answer until *release*."""

    def register(server: WebMeshServer, name: str) -> None:
        @server.on("/wait")
        def wait(payload: Any, path: str, client: object) -> Any:
            if name in busy:
                release.wait(PATIENCE)
            return name

    return register


@pytest.mark.parametrize(("options", "most"), [({"stall": 0.3}, 2), ({"timeout": 0.3}, 2), ({"max_n": 1}, 1)])
def test_gather_ends(options: dict[str, Any], most: int) -> None:
    """When nobody answers for so long, when the time is up, or with enough replies; and tells who is missing."""
    release = threading.Event()
    with fleet("abc", blocked(release, "b")) as group:
        try:
            gathering = group.calls().gather("/wait", service=SERVICE, **options)
            answers = gathering.all()
        finally:
            release.set()

        replied = {answer.node for answer in answers if answer.ok}
        assert most == len(replied)
        assert "b" not in replied  # with the time its server's own answer may come, that it was too long
        assert {"a", "b", "c"} == {*gathering.missing, *(answer.node for answer in answers)}


def test_gather_leaves_nothing_behind() -> None:
    """Whoever is still busy is told that nobody waits."""
    begun: list[str] = []
    told: list[bool] = []

    def register(server: WebMeshServer, name: str) -> None:
        @server.on("/wait")
        def wait(payload: Any, path: str, client: object) -> None:
            call = current_call()
            pause = threading.Event()
            begun.append(name)
            try:
                while not call.cancelled:
                    pause.wait(0.01)
            finally:
                told.append(call.cancelled)

    with fleet("ab", register) as group:
        with group.calls().gather("/wait") as gathering:
            assert wait_for(lambda: len(begun) == 2)
            assert ("a", "b") == gathering.missing
        assert wait_for(lambda: told == [True, True])
        assert wait_for(lambda: not any(one.connection.requests[1] for one in group.instances.values()))


def test_gather_tells_who_cannot_be_reached() -> None:
    """At once, as an error."""
    with fleet("ab", tell_name) as group:
        group.cut("b")
        group.directory.add(Instance("c", SERVICE))
        answers = {answer.node: answer for answer in group.calls().gather("/who")}
    assert ("a", None) == (answers["a"].value, answers["b"].value)
    assert isinstance(answers["b"].error, Unavailable)
    assert isinstance(answers["c"].error, Unavailable)


# ----------------------------------------------------------------------------- bulkhead


def test_the_bulkhead() -> None:
    """A slow route does not take more than its share: further calls fail at once, and other routes go on."""
    release = threading.Event()

    def register(server: WebMeshServer, name: str) -> None:
        blocked(release, "a")(server, name)
        tell_name(server, name)

    with fleet("a", register) as group:
        try:
            calls = group.calls(CallPolicy(in_flight=1))
            held = calls.spawn(SERVICE, "/wait")
            assert wait_for(lambda: group.instances["a"].pending)
            with pytest.raises(Overloaded, match="1 calls of /wait are in progress") as caught:
                calls.call(SERVICE, "/wait")
            assert (True, {"started": False}) == (caught.value.retryable, caught.value.details)
            assert "a" == calls.call(SERVICE, "/who")
        finally:
            release.set()
        assert "a" == held.result(PATIENCE)
        assert "a" == calls.call(SERVICE, "/wait")


def test_waiting_for_a_place() -> None:
    """If the policy says so, within the call's own time."""
    release = threading.Event()
    with fleet("a", blocked(release, "a")) as group:
        try:
            calls = group.calls(CallPolicy(in_flight=1, in_flight_wait=True))
            held = calls.spawn(SERVICE, "/wait")
            assert wait_for(lambda: group.instances["a"].pending)
            with pytest.raises(RequestTimeout):
                calls.call(SERVICE, "/wait", timeout=0.05)
            waiting = [calls.spawn(SERVICE, "/wait") for _ in range(3)]
        finally:
            release.set()
        assert ["a"] * 4 == [future.result(PATIENCE) for future in (held, *waiting)]


def test_a_call_within_a_handler_has_no_more_time_than_that() -> None:
    """Deadlines of nested calls hold over services too."""
    release, left = threading.Event(), []
    with fleet("a", blocked(release, "a")) as inner:
        calls = inner.calls()

        def register(server: WebMeshServer, name: str) -> None:
            @server.on("/outer")
            def outer(payload: Any, path: str, client: object) -> Any:
                try:
                    return calls.call(SERVICE, "/wait", timeout=PATIENCE)
                finally:
                    left.append(True)

        with fleet("x", register) as outer_group:
            try:
                with pytest.raises(TimeoutError):
                    outer_group.calls().call(SERVICE, "/outer", timeout=0.3)
                assert wait_for(lambda: left)
            finally:
                release.set()


def test_what_is_left_of_a_fleet() -> None:
    """Nothing is counted once all has ended."""
    with fleet("ab", tell_name) as group:
        calls = group.calls()
        calls.call(SERVICE, "/who")
        assert [set(), set()] == [one.calls for one in group.instances.values()]
        assert isinstance(group, Fleet)
