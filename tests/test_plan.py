"""Plans: what the options of a route mean in a process, and what a call of it must hold."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from webmesh.call import Call
from webmesh.exceptions import InvalidArgument, Overloaded
from webmesh.lanes import Lanes
from webmesh.plan import Plan
from webmesh.route_options import RouteOptions
from webmesh.routing import Router

ROUTE = Router().add("/<name>", lambda payload, path, client, name: (name, payload))


def plan_for(*, blocking: bool = False, **options: Any) -> Plan:
    return Plan(ROUTE, RouteOptions(**options), [], blocking=blocking, seconds=30)


def call_of(payload: Any = None) -> Any:
    return Call("/a", payload, {}, None, route=ROUTE, arguments={"name": "a"})  # type: ignore[arg-type]


@pytest.mark.parametrize("blocking", [True, False])
def test_the_process_decides_where_a_route_runs_that_says_nothing(blocking: bool) -> None:
    """In a thread, or right where the request was read; what the route says comes first."""
    assert (blocking, not blocking) == (plan_for(blocking=blocking).blocking, plan_for(blocking=blocking).simple)
    assert not plan_for(blocking=True, **{"isolate": False}).simple
    assert RouteOptions(blocking=False).blocking is False
    assert Plan(ROUTE, RouteOptions(blocking=not blocking), [], blocking=blocking, seconds=1).blocking is not blocking


def test_the_time_of_a_route_bounds_its_calls() -> None:
    """One that names none gets the process's, which bounds no stream."""
    assert (30, False) == (plan_for().seconds, plan_for().bounded)
    assert (2, True) == (plan_for(timeout=2).seconds, plan_for(timeout=2).bounded)


def test_a_place_is_held_for_as_long_as_the_call() -> None:
    """And the call beyond the bound is refused."""
    plan, held = plan_for(max_in_flight=1), ExitStack()

    plan.hold(call_of(), Lanes(), held)
    with pytest.raises(Overloaded), ExitStack() as second:
        plan.hold(call_of(), Lanes(), second)
    held.close()

    assert 0 == plan.in_flight


@pytest.mark.parametrize("key", ["name", "user"])
def test_a_lane_is_held_for_what_the_route_keeps_order_by(key: str) -> None:
    """A path argument, or an entry of the payload."""
    lanes = Lanes()
    with ExitStack() as held:
        plan_for(order=f"key:{key}").hold(call_of({"user": 7}), lanes, held)
        assert 1 == len(lanes)
    assert 0 == len(lanes)


def test_a_payload_without_the_key_is_refused() -> None:
    """Nothing is held then."""
    with pytest.raises(InvalidArgument), ExitStack() as held:
        plan_for(order="key:user").hold(call_of([1]), Lanes(), held)
