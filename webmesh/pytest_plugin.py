"""Fixtures for pytest: `webmesh_server` and `webmesh_client`.

Imports nothing of WebMesh before a fixture is used: pytest loads plugins early, and a test run that
wants to be monkey-patched must still be able to patch after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from webmesh.webmesh_client import WebMeshClient
    from webmesh.webmesh_server import WebMeshServer


@pytest.fixture
def webmesh_server() -> Iterator[WebMeshServer]:
    """A server to register routes on. It listens, on a free port, with the first `webmesh_client()`.

    Override the fixture to test your own: return a server that has not been started.
    """
    from webmesh.webmesh_server import WebMeshServer

    server = WebMeshServer()
    yield server
    server.close(timeout=0.0)


@pytest.fixture
def webmesh_client(webmesh_server: WebMeshServer) -> Iterator[Callable[..., WebMeshClient]]:
    """A function that starts the server, if need be, and returns a connected client.

    Its keyword arguments are those of `WebMeshClient`. Clients, then the server, are closed after the test.
    """
    from webmesh.webmesh_client import WebMeshClient

    with ExitStack() as opened:
        opened.callback(webmesh_server.close, timeout=0.0)

        def connect(**options: Any) -> WebMeshClient:
            if not webmesh_server.listening:
                webmesh_server.listen(port=0)
                webmesh_server.await_started()
            return opened.enter_context(WebMeshClient(webmesh_server.url, **options))

        yield connect
