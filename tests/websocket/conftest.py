"""Fixtures of the transport's tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.websocket.loopback import Authority, Witness


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that issues certificates; making its key is slow, so one serves all tests."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def witness() -> Witness:
    """An observer that keeps what was refused."""
    return Witness()


def _says_of_peers(record: logging.LogRecord) -> bool:
    """Not what a watchdog says of a busy machine, which may be that of a server of another test."""
    return record.filename != "watchdog.py"


@pytest.fixture
def server_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[pytest.LogCaptureFixture]:
    """The log of the server; nothing but it may be written about bad peers: no traceback, nothing on stderr."""
    caplog.set_level(logging.DEBUG, "webmesh.server")
    caplog.handler.addFilter(_says_of_peers)
    yield caplog
    caplog.handler.removeFilter(_says_of_peers)
    assert [] == [record for record in caplog.records if record.exc_info]
    assert "" == capfd.readouterr().err
