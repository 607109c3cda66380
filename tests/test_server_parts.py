"""What a server is made of: put together in the context that handlers inherit, and refused as a whole."""

from __future__ import annotations

from contextvars import ContextVar, copy_context
from typing import Any

import gevent
import pytest
from gevent import monkey

from tests.running import PATCHED, PATIENCE, Census
from webmesh.exceptions import ConfigurationError, DuplicateRoute
from webmesh.execution import Executor
from webmesh.message_serializers import MessagePackSerializer
from webmesh.observer import NO_OBSERVER
from webmesh.options import Limits, Timeouts
from webmesh.plain_routes import PlainRegistration
from webmesh.routing import Router
from webmesh.server_parts import Registered, ServerParts
from webmesh.websocket.doors import Doors

VARIABLE: ContextVar[str] = ContextVar("variable", default="unset")


def parts_of(router: Router | None = None, registered: Registered | None = None, **options: Any) -> ServerParts:
    settings: dict[str, Any] = {
        "service": None, "mount": "/", "tls": None, "compression": False, "allowed_hosts": None,
        "allowed_origins": None, "slow_peer": "wait", "doors": Doors(), "limits": Limits(), "timeouts": Timeouts(),
        "observer": NO_OBSERVER,
    }  # fmt: skip
    return ServerParts(router or Router(), registered or Registered(), MessagePackSerializer, **(settings | options))


def plain(path: str, handler: Any = lambda connection: None) -> PlainRegistration:
    return PlainRegistration(path, handler, None, ())


def test_nothing_runs_yet() -> None:
    """Building starts no thread and opens no descriptor: what is refused leaves nothing behind."""
    census = Census()
    parts = parts_of()
    assert {} == census.grown()
    assert {} == parts.connections


def test_the_router_is_frozen() -> None:
    """What is registered later would be served by nobody."""
    router = Router()
    parts_of(router)
    with pytest.raises(ConfigurationError):
        router.add("/late", lambda payload, path, client: None)


def test_the_context_is_the_builders() -> None:
    """Handlers find what was set when the server was started, whatever is set afterwards."""
    VARIABLE.set("before")
    parts = parts_of()
    VARIABLE.set("after")
    assert "before" == parts.context.run(VARIABLE.get)


def test_plain_routes_run_where_the_process_says() -> None:
    """In threads exactly when the process is not patched, unless they say otherwise."""
    parts = parts_of(registered=Registered(plain=[plain("/a"), PlainRegistration("/b", print, True, ())]))
    unsaid, said = parts.plain.router.match("/a"), parts.plain.router.match("/b")

    assert unsaid is not None and said is not None
    assert [not PATCHED, True] == [parts.plain.blocks(unsaid), parts.plain.blocks(said)]


@pytest.mark.parametrize(
    ("registered", "error"),
    [
        (Registered(plain=[plain("/a"), plain("/a")]), DuplicateRoute),
        (Registered(plain=[plain("/a", lambda: None)]), ConfigurationError),
        (Registered(plain=[plain("/a", 7)]), ConfigurationError),
    ],
    ids=["twice", "no connection", "no function"],
)
def test_what_makes_no_sense_is_refused(registered: Registered, error: type[Exception]) -> None:
    """With the routes' own errors."""
    with pytest.raises(error):
        parts_of(registered=registered)


def test_a_route_option_that_makes_no_sense_is_refused() -> None:
    """A router of the program's own knows no options until here."""
    router = Router()
    router.add("/a", lambda payload, path, client: None, timeout=-1)
    with pytest.raises(ConfigurationError, match="timeout"):
        parts_of(router)


@pytest.mark.row(83)
def test_threads_are_not_shared_between_kinds_of_work() -> None:
    """Plain handlers last as long as their connections and callbacks must run when handlers have taken everything."""
    limits = Limits(threads=2, thread_queue=3, websocket_threads=4, connections=5)
    parts = parts_of(limits=limits)
    executors = {"calls": parts.executor, "plain": parts.websocket_executor, "callbacks": parts.callback_executor}

    assert {"calls": 5, "plain": 4, "callbacks": 7} == {name: room_in(one) for name, one in executors.items()}


def room_in(executor: Executor) -> int:
    """How many functions it takes before it refuses one."""
    gate = monkey.get_original("_thread", "allocate_lock")()
    waiting = []
    with gate:
        while not executor.full:
            waiting.append(gevent.spawn(executor.run, copy_context(), pass_through, gate))
            gevent.sleep(0)
    gevent.joinall(waiting)
    executor.close(PATIENCE)
    return len(waiting)


def pass_through(gate: Any) -> None:
    with gate:
        pass
