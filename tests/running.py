"""What tests of whole servers and clients share: starting, stopping, waiting, and counting what is left."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool

from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds after which a test gives up: far more than anything here takes."""

PATCHED = bool(monkey.is_module_patched("threading"))
NATIVE_THREAD: Callable[[], int] = monkey.get_original("_thread", "get_ident")
"""Which native thread runs, in every process."""
NATIVE_SLEEP: Callable[[float], None] = monkey.get_original("time", "sleep")
"""Blocks its native thread in every process, as code in C does."""


@contextmanager
def running(server: WebMeshServer, **listen: Any) -> Iterator[WebMeshServer]:
    """The server, listening; on a free port unless told otherwise."""
    server.listen(**({"port": 0} | listen))
    try:
        server.await_started()
        yield server
    finally:
        server.close(0)


@contextmanager
def connected(server: WebMeshServer, **options: Any) -> Iterator[WebMeshClient]:
    """A client of *server*, which is started and closed with it."""
    with running(server), WebMeshClient(server.url, **options) as client:
        yield client


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether *condition* became true in time."""
    with gevent.Timeout(seconds, False):
        while not condition():
            gevent.sleep(0.005)
        return True
    return bool(condition())


@contextmanager
def native_threads(count: int) -> Iterator[Callable[..., Any]]:
    """`spawn(function, *args)`, which runs it in a native thread, in a patched process too, and returns a result to
    `get()`. Errors of the function are raised by `get`."""
    pool = ThreadPool(count)

    def spawn(function: Callable[..., T], *args: Any) -> Any:
        return pool.spawn(_outcome, function, args)

    try:
        yield lambda function, *args: _Outcome(spawn(function, *args))
    finally:
        pool.kill()


class _Outcome:
    def __init__(self, job: Any) -> None:
        self._job = job

    def get(self) -> Any:
        """What the function returned or raised."""
        error, value = self._job.get(timeout=PATIENCE)
        if error is not None:
            raise error
        return value


def _outcome(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[BaseException | None, Any]:
    try:
        return None, function(*args)
    except BaseException as error:  # raised where it is asked for; gevent would print it
        return error, None


class Census:
    """Threads, descriptors and living greenlets of this process."""

    def __init__(self) -> None:
        gevent.sleep(0)  # makes the hub of this thread, which stays
        self._before = self._count()

    @staticmethod
    def _count() -> dict[str, int]:
        gc.collect()
        resolvers = gevent.get_hub().threadpool.size  # gevent's own, which stay for some seconds
        greenlets = [one for one in gc.get_objects() if issubclass(type(one), gevent.Greenlet) and one]
        return {
            # Not those that only stand for a native thread which has logged something: "tasks" counts that.
            "threads": sum(not isinstance(one, threading._DummyThread) for one in threading.enumerate()),
            "tasks": len(os.listdir("/proc/self/task")) - resolvers,
            "descriptors": len(os.listdir("/proc/self/fd")),
            "greenlets": len(greenlets),
        }

    def grown(self) -> dict[str, int]:
        """What there is more of than before, once what was ending has ended; empty when nothing is left."""
        more: dict[str, int] = {}

        def settled() -> bool:
            now = self._count()
            more.clear()
            more.update({name: now[name] - before for name, before in self._before.items() if now[name] > before})
            return not more

        wait_for(settled, 5.0)
        return more
