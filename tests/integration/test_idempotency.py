"""Story: a call with an idempotency key is tried again after its server was killed, and is not run twice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ENVIRONMENT
from tests.running import PATIENCE
from webmesh.exceptions import Aborted, InvalidArgument, ReplyLost
from webmesh.webmesh_client import WebMeshClient

SERVER = """
import os, signal
from webmesh import WebMeshServer
from webmesh.idempotency_store import SQLiteStore

die = {die!r}


def die_at(place):
    if place == die:
        os.kill(os.getpid(), signal.SIGKILL)


for name in ("begin", "end"):
    def step(self, *args, name=name, inner=getattr(SQLiteStore, name)):
        known = inner(self, *args)
        die_at("after " + name)
        return known
    setattr(SQLiteStore, name, step)

server = WebMeshServer(idempotency="sqlite:///keys.db")


@server.on("/pay")
def pay(payload, path, client):
    with open("ledger", "a") as ledger:
        ledger.write(payload + "\\n")
    die_at("in handler")
    return "paid " + payload


server.listen(port=0)
server.await_started()
print(server.url, flush=True)
server.serve_forever()
"""
MODES = pytest.mark.parametrize("before", [(), ("-m", "gevent.monkey")], ids=["plain", "patched"])
KEY = {"idempotency-key": "order-7"}


@contextmanager
def serving(folder: Path, before: tuple[str, ...], die: str) -> Iterator[tuple[WebMeshClient, Any]]:
    (folder / "serve.py").write_text(SERVER.format(die=die))
    process = subprocess.Popen(
        [sys.executable, *before, "serve.py"], env=ENVIRONMENT, cwd=folder, text=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        with WebMeshClient(process.stdout.readline().strip()) as client:
            yield client, process
    finally:
        process.kill()
        process.communicate()


@MODES
@pytest.mark.row(57, 70, 74)
@pytest.mark.parametrize(
    ("die", "runs", "known"), [("after begin", 0, False), ("in handler", 1, False), ("after end", 1, True)]
)
def test_a_server_that_is_killed_between_start_and_answer_runs_no_call_twice(
    die: str, runs: int, known: bool, before: tuple[str, ...], tmp_path: Path
) -> None:
    """What was recorded is answered; of what had begun it is said that nobody knows, and no more."""
    with serving(tmp_path, before, die) as (client, process):
        with pytest.raises(ReplyLost):
            client.connect().call("/pay", "7", headers=KEY, timeout=PATIENCE)
        assert -9 == process.wait(PATIENCE)

    with serving(tmp_path, before, "") as (client, process):
        if known:
            assert "paid 7" == client.call("/pay", "7", headers=KEY, timeout=PATIENCE)
        else:
            with pytest.raises(Aborted) as caught:
                client.call("/pay", "7", headers=KEY, timeout=PATIENCE)
            assert ({"outcome": "unknown"}, False) == (caught.value.details, caught.value.retryable)
        with pytest.raises(InvalidArgument):
            client.call("/pay", "8", headers=KEY, timeout=PATIENCE)
        assert "paid 9" == client.call("/pay", "9", headers={"idempotency-key": "order-9"}, timeout=PATIENCE)

    ledger = (tmp_path / "ledger").read_text().split()
    assert ["7"] * runs + ["9"] == ledger
