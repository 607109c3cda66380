"""One worker as its supervisor sees it, with small programs instead of servers."""

from __future__ import annotations

import math
import select
import signal
import sys

import pytest

from tests.running import wait_for
from webmesh.cli.worker_process import WorkerProcess
from webmesh.worker_ticket import WorkerTicket

pytestmark = pytest.mark.once

SPEAKS = """
import os, socket, sys, json
link = socket.socket(fileno=int(sys.argv[1]))
ticket = json.loads(link.recv(65536))
said = {"event": "ready", "slot": ticket["slot"], "env": os.environ["WEBMESH_WORKER"]}
link.send(json.dumps(said).encode() + b"\\n")
link.recv(1)
"""


def process(program: str) -> WorkerProcess:
    ticket = WorkerTicket(slot=2, life=5, folder="/run/x", secret="s", port=1)
    return WorkerProcess([sys.executable, "-c", program, "{}"], ticket)


def heard(worker: WorkerProcess) -> bool:
    return bool(select.select([worker.link.sock], [], [], 0)[0]) and worker.hear()


def test_a_worker_is_told_who_it_is_and_says_when_it_is_ready() -> None:
    """Its environment tells the program; without its supervisor it ends."""
    worker = process(SPEAKS)
    assert not worker.ready and worker.status is None
    assert wait_for(lambda: heard(worker))
    assert worker.ready and {"event": "ready", "slot": 2, "env": "2"} == worker.said
    assert {"worker": 2, "pid": worker.pid} == worker.about()
    worker.link.close()
    assert wait_for(lambda: worker.ended)
    assert 0 == worker.bury() and not worker.ready


def test_a_worker_that_does_not_end_is_late() -> None:
    """From the time on that it said it needs; a pause of the supervisor's counts for nothing."""
    worker = process("import time; time.sleep(60)")
    worker.said = {"ends_within": 40.0}
    worker.heard -= 100.0
    assert -math.inf == worker.late() and worker.silent() >= 100.0
    worker.forgive(100.0)
    assert worker.silent() < 100.0
    worker.end(0)
    assert worker.told_to_end and -40.0 <= worker.late() < 0
    worker._told_at -= 100.0
    assert worker.late() >= 60.0
    worker.forgive(100.0)
    assert worker.late() < 0
    worker.end(0)  # a second time does not give it more
    worker.kill()
    worker.bury()


def test_the_end_of_a_worker_is_told_by_its_status() -> None:
    """Negative for a signal."""
    worker = process("import time; time.sleep(60)")
    assert not worker.told_to_end
    worker.end()
    assert worker.told_to_end and -signal.SIGTERM == worker.bury()
    worker = process("raise SystemExit(3)")
    assert wait_for(lambda: worker.ended) and not heard(worker)
    assert 3 == worker.bury()
    worker = process("import time; time.sleep(60)")
    worker.kill()
    assert -signal.SIGKILL == worker.bury()
