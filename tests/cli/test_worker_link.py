"""The pair of sockets between a worker and its supervisor."""

from __future__ import annotations

import logging
import os
import signal

import pytest

from tests.running import native_threads, wait_for
from webmesh.cli.announcing import Banner, ServedRoute
from webmesh.cli.worker_link import SupervisorEnd, WorkerEnd
from webmesh.exceptions import ConfigurationError
from webmesh.worker_ticket import WorkerTicket

TICKET = WorkerTicket(slot=2, life=3, folder="/run/x", secret="s", port=4269)


def pair() -> tuple[SupervisorEnd, WorkerEnd]:
    supervisor = SupervisorEnd()
    supervisor.give(TICKET)
    return supervisor, WorkerEnd(os.dup(supervisor.inherited.fileno()))


def banner(routes: int = 1) -> Banner:
    listed = [ServedRoute(f"/route/{number}", "app.py:1") for number in range(routes)]
    return Banner(name="app:server", url="ws://x", mode="plain", pid=1, routes=listed)


def heard(supervisor: SupervisorEnd) -> list[str]:
    return [message["event"] for message in supervisor.read()]


def test_a_worker_gets_its_ticket_and_tells_that_it_serves() -> None:
    """And that it lives, from then on."""
    supervisor, worker = pair()
    assert TICKET == worker.ticket
    assert [] == list(supervisor.read())
    worker.ready(banner(), 40.0)
    worker.show_life()
    worker.tell(STATUS="this is for a service manager")
    said, alive = supervisor.read()
    assert {"event": "alive"} == alive and not supervisor.ended
    assert ("app:server", [{"pattern": "/route/0", "where": "app.py:1"}]) == (said["name"], said["routes"])
    assert 40.0 == said["ends_within"]


def test_many_routes_make_a_long_message() -> None:
    """It arrives whole, in as many pieces as it takes."""
    supervisor, worker = pair()
    said: list[dict[str, object]] = []
    with native_threads(1) as spawn:  # it waits until the other end has read
        sending = spawn(worker.ready, banner(routes=20_000), 40.0)
        assert wait_for(lambda: said.extend(supervisor.read()) or said)
        sending.get()
    assert 20_000 == len(said[0]["routes"])  # type: ignore[arg-type]


def test_what_is_no_message_is_nothing() -> None:
    """A worker's own child may have written there."""
    supervisor, worker = pair()
    worker._sock.send(b'\xff\n[]\nnonsense\n{"event": "alive"}\n{"ev')
    assert ["alive"] == heard(supervisor)
    worker._sock.send(b'ent": "alive"}\n')
    assert ["alive"] == heard(supervisor)


def test_a_full_channel_holds_up_no_hub() -> None:
    """A supervisor that does not read misses signs of life."""
    supervisor, worker = pair()
    for _ in range(50_000):
        worker.show_life()
    assert "alive" == next(iter(supervisor.read()))["event"]


def test_the_end_of_either_is_seen_by_the_other() -> None:
    """A worker without a supervisor ends as by SIGTERM."""
    supervisor, worker = pair()
    supervisor.inherited.close()
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        worker.watch()
        supervisor.close()
        assert wait_for(lambda: [signal.SIGTERM] == got)
    finally:
        signal.signal(signal.SIGTERM, before)
    supervisor, worker = pair()
    supervisor.inherited.close()
    worker._sock.close()
    assert [] == list(supervisor.read()) and supervisor.ended


def test_records_say_which_worker_has_made_them() -> None:
    """All workers write to one standard error."""
    _, worker = pair()
    record = logging.makeLogRecord({})
    assert worker.mark(record) and 2 == record.worker  # type: ignore[attr-defined]


def test_a_worker_without_a_supervisor_is_a_mistake() -> None:
    """Whoever gives the hidden option by hand is told."""
    supervisor = SupervisorEnd()
    supervisor.close()
    for descriptor in (os.dup(supervisor.inherited.fileno()), 987):
        with pytest.raises(ConfigurationError, match="no supervisor"):
            WorkerEnd(descriptor)
