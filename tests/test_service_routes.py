"""Which route a path counts for, and whether there is a place for one more call of it."""

from __future__ import annotations

import gevent
import pytest

from tests.instance_fakes import instance
from webmesh.call_policy import CallPolicy
from webmesh.deadline import Deadline
from webmesh.exceptions import Overloaded, RequestTimeout
from webmesh.known_routes import KnownRoutes
from webmesh.service_routes import OTHER, ROUTES, RouteState, ServiceState

LISTING = [{"path": "/stock/<int:id>", "idempotent": True}, {"path": "/stock/<int:id>/take"}, {"path": "/sum"}]


def known() -> KnownRoutes:
    routes = KnownRoutes(every=True)
    routes.learn(LISTING)
    return routes


def test_paths_with_ids_are_one_route() -> None:
    """As the instance says; before that is known, by how they begin."""
    state = ServiceState(CallPolicy())
    assert state.route("/stock/1") is state.route("/stock/2/take")

    state.known = known()
    assert state.route("/stock/1") is state.route("/stock/2")
    assert {"/stock/<int:id>", "/stock/<int:id>/take", "/sum", "/none"} == {
        state.route(path).name for path in ("/stock/1", "/stock/1/take", "/sum", "/none/7")
    }


def test_the_number_of_routes_is_bounded() -> None:
    """Whatever is called."""
    state = ServiceState(CallPolicy())
    names = {state.route(f"/{number}").name for number in range(ROUTES + 50)}
    assert ROUTES + 1 == len(names)
    assert OTHER in names


def test_what_is_idempotent() -> None:
    """By the word of the instance; another one's counts before that, and for what it does not know nobody's."""
    state, one = ServiceState(CallPolicy()), instance()
    assert not state.idempotent("/stock/1", one)

    state.known = known()
    assert state.idempotent("/stock/1", one)
    assert not state.idempotent("/stock/1/take", one)

    one.routes = KnownRoutes(every=True)
    one.routes.learn([{"path": "/stock/<int:id>"}])  # of another release
    assert not state.idempotent("/stock/1", one)


def test_a_place_is_given_back() -> None:
    """To those that come later."""
    route = RouteState("/a", CallPolicy(in_flight=2))
    for mark in (1, 2):
        route.enter(mark, "/a", Deadline(1.0))
    with pytest.raises(Overloaded):
        route.enter(3, "/a", Deadline(1.0))
    route.leave(1)
    route.enter(3, "/a", Deadline(1.0))
    assert {2, 3} == route.calls


def test_those_who_wait_are_let_in_one_by_one() -> None:
    """In the order in which they came, and never more than there are places."""
    route, order, most = RouteState("/a", CallPolicy(in_flight=1, in_flight_wait=True)), [], []

    def call(number: int) -> None:
        route.enter(number, "/a", Deadline(10.0))
        order.append(number)
        most.append(len(route.calls))
        gevent.sleep(0)
        route.leave(number)

    gevent.joinall([gevent.spawn(call, number) for number in range(20)], timeout=10, raise_error=True)
    assert list(range(20)) == order
    assert (1, set()) == (max(most), route.calls)


def test_who_stops_waiting_takes_no_place() -> None:
    """And the next one gets it."""
    route = RouteState("/a", CallPolicy(in_flight=1, in_flight_wait=True))
    route.enter(1, "/a", Deadline(None))
    given_up = gevent.spawn(route.enter, 2, "/a", Deadline(10.0))
    waiting = gevent.spawn(route.enter, 3, "/a", Deadline(10.0))
    gevent.sleep(0)
    with pytest.raises(RequestTimeout):
        route.enter(4, "/a", Deadline(0.01))

    route.leave(1)
    given_up.kill(block=False)  # in the moment in which it was woken
    waiting.get(timeout=10)

    assert {3} == route.calls
