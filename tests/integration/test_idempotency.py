"""Story: a call with an idempotency key is tried again after its server was killed, and is not run twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gevent.event import Event

from tests.processes import ENVIRONMENT
from tests.running import PATIENCE, running, wait_for
from webmesh import idempotency_store
from webmesh.exceptions import Aborted, InvalidArgument, ReplyLost, RequestTimeout, Unavailable
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

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


def test_a_repeat_at_another_process_waits_for_the_one_that_runs_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share a file, and the call runs once; one that may run again runs at the other."""
    runs: list[str] = []
    refuse = [False]
    begun, gate = Event(), Event()

    def server(name: str) -> WebMeshServer:
        made = WebMeshServer(idempotency=f"sqlite:///{tmp_path}/keys.db")

        @made.on("/pay", blocking=False)
        def pay(payload: Any, path: str, client: Any) -> Any:
            runs.append(name)
            if name == "one":
                begun.set()
                gate.wait(PATIENCE)
            if refuse[0] and name == "one":
                raise Unavailable("not now")
            return f"paid at {name}"

        return made

    with running(server("one")) as one:
        monkeypatch.setattr(idempotency_store, "incarnation", lambda: f"{os.getppid()}:")
        with running(server("other")) as other, WebMeshClient(one.url) as first, WebMeshClient(other.url) as second:
            for key, refused, outcome in (("a", False, "paid at one"), ("b", True, "paid at other")):
                refuse[0] = refused
                calls = [first.spawn("/pay", key, headers={"idempotency-key": key})]
                assert wait_for(begun.is_set)
                calls += [second.spawn("/pay", key, headers={"idempotency-key": key}) for _ in range(3)]
                with pytest.raises(RequestTimeout):
                    second.call("/pay", key, headers={"idempotency-key": key}, timeout=0.2)
                with pytest.raises(InvalidArgument):
                    second.call("/pay", "another payload", headers={"idempotency-key": key})
                assert ["one"] == runs
                home = one._begun.home
                home.run(gate.set)
                assert [outcome] * 3 == [call.result(PATIENCE) for call in calls[1:]]
                assert (["one", "other"] if refused else ["one"]) == runs
                home.run(gate.clear), begun.clear(), runs.clear()


@pytest.mark.once
def test_what_a_killed_process_ran_is_unknown_to_the_others(tmp_path: Path) -> None:
    """They know at once that nobody runs it any more, and do not run it again."""
    with serving(tmp_path, (), "in handler") as (client, process):
        with pytest.raises(ReplyLost):
            client.call("/pay", "x", headers=KEY, timeout=5, fail_fast=True)
        process.wait(PATIENCE)
    with serving(tmp_path, (), "") as (client, _), pytest.raises(Aborted):
        client.call("/pay", "x", headers=KEY)
    assert "x\n" == (tmp_path / "ledger").read_text()
