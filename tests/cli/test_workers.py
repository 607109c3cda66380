"""`serve --workers` as whole processes: what a user starts, kills and reloads."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.cli.test_systemd import Manager
from tests.processes import ENVIRONMENT, LONGEST
from tests.running import PATIENCE, wait_for
from webmesh import WebMeshClient
from webmesh.cli import workers
from webmesh.cli.announcing import Announcer
from webmesh.cli.arguments import parse_serve_options
from webmesh.cli.systemd import Notifier
from webmesh.cli.worker_place import Place
from webmesh.cli.worker_process import WorkerProcess
from webmesh.cli.workers import WorkerSupervisor
from webmesh.exceptions import ConfigurationError, ConnectionClosed, LinkRefused, WebMeshError
from webmesh.worker_ticket import WorkerTicket

pytestmark = pytest.mark.once

APP = """
import os
import time
from webmesh import Timeouts, WebMeshServer

server = WebMeshServer(name="shop", timeouts=Timeouts(drain=float(os.environ.get("DRAIN", 5))))
server.topic("news/*", history=100, retain=True)
kept = []


@server.on("/who", idempotent=True)
def who(payload, path, client):
    return [os.environ["WEBMESH_WORKER"], os.getpid()]


@server.on("/slow")
def slow(payload, path, client):
    time.sleep(600)


@server.on("/hang")
def hang(payload, path, client):
    import _thread
    time.sleep(0)
    exec("while True: pass")


if os.path.exists("broken"):
    raise RuntimeError("this module is broken")
"""


class Served:
    """A supervisor and its workers."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        self.log = folder / "log"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        place = () if {"--unix", "--fd"} & {*arguments} else ("--port", str(self.port))
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "webmesh.serve", *place, *arguments],
                cwd=folder, env=ENVIRONMENT | environment, stderr=log,
            )  # fmt: skip

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def text(self) -> str:
        return self.log.read_text()

    @property
    def workers(self) -> list[int]:
        """The pids of its children."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def await_serving(self) -> Served:
        assert wait_for(lambda: "WebMesh " in self.text or self.process.poll() is not None, LONGEST), self.text
        assert self.process.poll() is None, self.text
        return self

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(LONGEST)

    def ask(self, path: str, **options: Any) -> Any:
        with WebMeshClient(self.url) as client:
            return client.call(path, **{"timeout": PATIENCE} | options)


@contextlib.contextmanager
def served(folder: Path, *arguments: str, **environment: str) -> Iterator[Served]:
    (folder / "app.py").write_text(APP)
    made = Served(folder, *arguments, **environment)
    children: list[int] = []
    try:
        yield made
        children = made.workers
    finally:
        made.process.kill()
        made.process.wait()
    assert wait_for(lambda: not any(map(alive, children))), "workers outlive their supervisor"


def alive(pid: int) -> bool:
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Callers:
    """Ask idempotent routes all the time, from threads, with a link each."""

    def __init__(self, url: str, count: int = 4) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.failed: list[WebMeshError] = []
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        client = WebMeshClient(self._url)
        with contextlib.closing(client):
            while not self._stop.is_set():
                try:
                    self.answers[tuple(client.call("/who", idempotent=True, timeout=20))] += 1
                except WebMeshError as error:
                    self.failed.append(error)


@pytest.mark.parametrize("patch", [(), ("--no-patch",)], ids=["patched", "plain"])
def test_workers_serve_one_program_and_a_killed_one_is_replaced(tmp_path: Path, patch: tuple[str, ...]) -> None:
    """Nobody's idempotent call fails, what was published stays, and all of it ends with status 0."""
    with served(tmp_path, "--workers", "2", *patch) as made:
        made.await_serving()
        assert 2 == len(made.workers) and f"workers 2 (pids {', '.join(map(str, made.workers))})" in made.text
        with WebMeshClient(made.url) as client:
            client.publish("news/today", "kept")
        with Callers(made.url) as callers:
            for number, killed in enumerate(made.workers, 3):
                os.kill(killed, signal.SIGKILL)
                assert wait_for(lambda number=number: number == made.text.count("a worker serves"), LONGEST), made.text
                assert 2 == len(made.workers) == linked(made)
                assert "kept" == history(made)
        assert [] == callers.failed and 2 <= made.text.count("a worker has ended")
        assert {"1", "2"} >= {slot for slot, _ in callers.answers}
        assert 0 == made.end()


def linked(made: Served) -> int:
    """Workers that any of them knows to be well."""
    with contextlib.suppress(WebMeshError), WebMeshClient(made.url) as client:
        return sum(node["state"] == "ok" for node in client.call("$peers", timeout=2))
    return 0


def history(made: Served) -> object:
    """What the last publication says, as any worker tells it."""
    seen: list[object] = []
    with contextlib.suppress(WebMeshError), WebMeshClient(made.url) as client:
        client.subscribe("news/*", lambda payload, topic, message: seen.append(payload), since="last", timeout=2)
        wait_for(lambda: seen, 2)
    return seen[0] if seen else None


def test_workers_are_replaced_one_after_another_by_sighup(tmp_path: Path) -> None:
    """No call fails, all of them answer for /metrics, and where new code is broken the old goes on serving."""
    with served(tmp_path, "--workers", "2", "--metrics") as made:
        made.await_serving()
        before = made.workers
        with WebMeshClient(made.url) as client:
            client.publish("news/today", "kept")
        with Callers(made.url) as callers:
            made.process.send_signal(signal.SIGHUP)
            assert wait_for(lambda: "all workers were replaced" in made.text, LONGEST), made.text
            assert not {*before} & {*made.workers} and 2 == len(made.workers)
            after = made.workers
            (tmp_path / "broken").write_text("")
            made.process.send_signal(signal.SIGHUP)
            assert wait_for(lambda: "workers not replaced" in made.text, LONGEST), made.text
            assert "this module is broken" in made.text and after == made.workers
        assert [] == callers.failed
        assert "kept" == history(made)
        page = urlopen(f"http://127.0.0.1:{made.port}/metrics", timeout=PATIENCE).read().decode()
        assert 'webmesh_worker_up{worker="1"} 1' in page and 'webmesh_worker_up{worker="2"} 1' in page
        assert 0 == made.end(signal.SIGINT)


def test_a_program_that_cannot_be_served_is_told_once(tmp_path: Path) -> None:
    """By the first worker; the others are not even started."""
    (tmp_path / "broken").write_text("")
    with served(tmp_path, "--workers", "3") as made:
        assert 2 == made.process.wait(LONGEST)
        assert 1 == made.text.count("error: cannot import 'app': RuntimeError: this module is broken")


def test_workers_end_with_their_supervisor(tmp_path: Path) -> None:
    """Even one that was killed, and they tidy up behind it."""
    place = tmp_path / "tmp"
    place.mkdir()
    with served(tmp_path, "--workers", "2", TMPDIR=str(place)) as made:
        made.await_serving()
        children = made.workers
        assert 1 == len(list(place.glob("webmesh-*"))) and 2 == len(children)
        made.process.kill()
        assert wait_for(lambda: not any(map(alive, children)))
        assert [] == list(place.glob("webmesh-*"))


def test_a_port_that_is_taken_is_told_by_the_supervisor(tmp_path: Path) -> None:
    """Before it starts anybody."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        finished = subprocess.run(
            [sys.executable, "-m", "webmesh.serve", "--workers", "2", "--port", number],
            cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=LONGEST, check=False,
        )  # fmt: skip
    assert (2, True) == (finished.returncode, "in use" in finished.stderr)


def test_a_worker_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    """Its hub does not turn; others serve meanwhile."""
    with served(tmp_path, "--workers", "2", "--worker-timeout", "3") as made:
        made.await_serving()
        with contextlib.suppress(ConnectionClosed, LinkRefused, WebMeshError), WebMeshClient(made.url) as client:
            client.notify("/hang")
            assert wait_for(lambda: "a worker hangs: killed" in made.text, LONGEST)
        assert wait_for(lambda: 2 == len(made.workers))
        assert made.ask("/who")
        assert 0 == made.end()


def test_a_system_without_room_for_a_worker_ends_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again later, with what there was let go of; at the start it is told in one line."""
    options = parse_serve_options(["--workers", "1", "--port", "0"], "serve")
    with Place(options) as place:
        supervisor = WorkerSupervisor([str(tmp_path / "nothing")], place, options, Announcer(..., "text", "serve"))
        before = len(os.listdir("/proc/self/fd"))
        assert supervisor._try_to_start(1) is None
        supervisor._workers[1] = ended = WorkerProcess([sys.executable, "-c", "", "{}"], ticket_of(place))
        supervisor._selector.register(ended.link.sock, selectors.EVENT_READ, ended.hear)
        assert wait_for(lambda: ended.ended)
        supervisor._succeed(1, ended)
        for _ in range(3):
            supervisor._due[1] = 0.0
            supervisor._succeed(1, ended)
            assert ended is supervisor._workers[1] and 0 < supervisor._due[1]
        supervisor._bury(ended)
        assert before == len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(supervisor, "_catch_signals", lambda: None)
        supervisor._workers.clear()
        with pytest.raises(ConfigurationError, match="cannot be started"):
            supervisor.run()
        supervisor._selector.close()


@pytest.mark.parametrize(("seconds", "ends"), [("0.001", True), ("0", False)])
def test_a_worker_that_does_not_come_up_is_ended(seconds: str, ends: bool) -> None:
    """As one whose module never gets to its end; it would have its place for ever. Some take their time."""
    options = parse_serve_options(
        ["--workers", "1", "--port", "0", "--worker-timeout", "0", "--worker-start-timeout", seconds], "serve"
    )
    with Place(options) as place:
        supervisor = WorkerSupervisor([], place, options, Announcer(..., "text", "serve"))
        stuck = WorkerProcess([sys.executable, "-c", "import time; time.sleep(60)", "{}"], ticket_of(place))
        stuck.heard -= 1000.0
        supervisor._end_hung(stuck)
        if not ends:
            assert not stuck.ended
            stuck.kill()
        assert -signal.SIGKILL == stuck.bury()
        supervisor._selector.close()


def test_a_worker_that_does_not_end_is_killed() -> None:
    """Though its hub turns: it would keep all of them from ending."""
    options = parse_serve_options(["--workers", "1", "--port", "0", "--worker-timeout", "0"], "serve")
    with Place(options) as place:
        supervisor = WorkerSupervisor([], place, options, Announcer(..., "text", "serve"))
        sleeps = [sys.executable, "-c", "import time; time.sleep(60)", "{}"]
        worker = supervisor._workers[1] = WorkerProcess(sleeps, ticket_of(place))
        supervisor._selector.register(worker.link.sock, selectors.EVENT_READ, worker.hear)
        worker.said = {"ends_within": 5.0}
        worker.end(0)
        supervisor._turn()
        assert not worker.ended
        worker._told_at -= 5.0 + workers.END_SLACK
        supervisor._stop()
        assert -signal.SIGKILL == worker.status and 128 + signal.SIGKILL == supervisor._status(True)


def test_a_pause_of_the_supervisor_is_no_silence_of_the_workers() -> None:
    """It was stopped, or its machine was: whoever hangs is still seen after as long again."""
    options = parse_serve_options(["--workers", "1", "--port", "0", "--worker-timeout", "60"], "serve")
    with Place(options) as place:
        supervisor = WorkerSupervisor([], place, options, Announcer(..., "text", "serve"))
        sleeps = [sys.executable, "-c", "import time; time.sleep(60)", "{}"]
        worker = supervisor._workers[1] = WorkerProcess(sleeps, ticket_of(place))
        worker.said = {}
        supervisor._looked -= 1000.0
        worker.heard -= 1000.0
        supervisor._turn()
        assert not worker.ended
        worker.heard -= 1000.0
        assert wait_for(lambda: supervisor._turn() or worker.ended)
        assert -signal.SIGKILL == worker.bury()
        supervisor._selector.close()


def test_a_service_manager_is_not_told_of_one_that_ended() -> None:
    """The supervisor sees to that; to start all anew for it would end what the others do. But somebody must serve."""
    options = parse_serve_options(["--workers", "2", "--port", "0"], "serve")
    with Place(options) as place:
        supervisor = WorkerSupervisor([], place, options, Announcer(..., "text", "serve"))
        notifier = supervisor._notifier = Signs(5.0)
        sleeps = [sys.executable, "-c", "import time; time.sleep(60)", "{}"]
        lives, ended = (WorkerProcess(sleeps, ticket_of(place)) for _ in range(2))
        supervisor._workers = {1: lives, 2: ended}
        ended.kill()
        ended.heard -= 1000.0
        assert wait_for(lambda: ended.ended)

        supervisor._show_life()
        assert 1 == notifier.shown
        lives.heard -= 1000.0
        supervisor._show_life()
        assert 1 == notifier.shown, "one that hangs"
        lives.kill()
        assert wait_for(lambda: lives.ended)
        supervisor._show_life()
        assert 1 == notifier.shown, "nobody serves"
        for one in (lives, ended):
            one.bury()
        supervisor._selector.close()


class Signs(Notifier):
    """Counts the signs of life."""

    def __init__(self, interval: float) -> None:
        super().__init__({})
        self.interval = interval
        self.shown = 0

    def show_life(self) -> None:
        self.shown += 1


def test_a_second_signal_ends_them_at_once_during_a_reload_too(tmp_path: Path) -> None:
    """Nobody waits for the one that is being replaced and has a slow call."""
    with served(tmp_path, "--workers", "1", DRAIN="600") as made:
        made.await_serving()
        with WebMeshClient(made.url) as client:
            client.notify("/slow")
            client.call("/who", timeout=PATIENCE)  # so that the one before has begun
            made.process.send_signal(signal.SIGHUP)
            assert wait_for(lambda: 2 == made.text.count("a worker serves"), LONGEST), made.text
            made.process.send_signal(signal.SIGTERM)
            assert wait_for(lambda: 1 == len(made.workers), LONGEST), made.text  # the new one had nothing to do
            assert 128 + signal.SIGTERM == made.end()


def ticket_of(place: Place) -> WorkerTicket:
    return WorkerTicket(slot=1, life=1, folder=place.folder, secret="s", port=place.port)


def test_workers_share_a_unix_socket(tmp_path: Path) -> None:
    """It is inherited, and its file goes at the end."""
    with served(tmp_path, "--workers", "2", "--unix", "s") as made:
        made.await_serving()
        slots = set()
        deadline = time.monotonic() + PATIENCE
        while {"1", "2"} != slots and time.monotonic() < deadline:
            with WebMeshClient(f"ws+unix://{tmp_path}/s".replace("//", "///", 0)) as client:
                slots.add(client.call("/who")[0])
        assert slots
        assert 0 == made.end() and not (tmp_path / "s").exists()


def test_a_service_manager_hears_of_all_of_them(tmp_path: Path) -> None:
    """When they serve, that they live, and that they end."""
    manager = Manager(tmp_path)
    with served(tmp_path, "--workers", "2", NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="200000") as made:
        manager.await_news("READY=1")
        manager.await_news("WATCHDOG=1")
        made.process.send_signal(signal.SIGTERM)
        manager.await_news("STOPPING=1")
        assert 0 == made.process.wait(LONGEST)
    manager.socket.close()
