"""What tests of engines share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.brokers.nats_server import SERVER, InLoop, NatsServer


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One NATS server for all tests that leave it alive; each takes names of its own there."""
    if SERVER is None:
        pytest.skip("there is no nats-server (Debian: apt install nats-server)")
    pytest.importorskip("nats", reason="nats-py is not installed: pip install 'webmesh-gevent[nats]'")
    made = NatsServer(tmp_path_factory.mktemp("nats"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def in_loop(nats_server: NatsServer) -> Iterator[InLoop]:
    """A loop in which coroutines run, with a connection to the server."""
    made = InLoop(nats_server.url)
    yield made
    made.close()
