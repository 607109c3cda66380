"""The steps of serving: load, configure, listen, wait, drain; what each failure says, and the exit status."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from webmesh.cli import serving, stopping
from webmesh.cli.arguments import ServeOptions
from webmesh.cli.loading import Loaded, LoadFailed
from webmesh.exceptions import ConfigurationError
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.observability import logs
from webmesh.options import Limits, Timeouts
from webmesh.processes import is_patched
from webmesh.exceptions import ListenFailed

PATCHED = is_patched()


class HeldLock:
    """One that somebody else has, and that is never waited for."""

    def acquire(self) -> bool:
        raise AssertionError("waits for a lock that the interrupted code has")

    __enter__ = acquire

    def release(self, *error: object) -> None:
        """Nobody has got it."""

    __exit__ = release


class FakeServer:
    """Notes what is asked of it; *failure* is raised by the step of that name."""

    url = "ws://127.0.0.1:4269"
    connections = (object(), object())
    limits = Limits(threads=5)
    timeouts = Timeouts(drain=3.0, start=2.0)
    drained: bool | None = True
    begun = False

    def __init__(self, *, tls: object = None, **failures: Exception) -> None:
        self.tls = tls
        self.steps: list[tuple[object, ...]] = []
        self._failures = failures

    def _step(self, name: str, *details: object) -> None:
        self.steps.append((name, *details))
        if name in self._failures:
            raise self._failures[name]

    def configure(self, **overrides: object) -> None:
        self._step("configure", overrides)

    def listen(self, host: str, port: int, *, unix: str | None, sock: object, blocking: bool) -> None:
        assert not blocking and sock is None
        self._step("listen", unix or (host, port))

    def await_started(self, timeout: float) -> None:
        self._step("await_started", timeout)

    def reload_certificates(self) -> None:
        self._step("reload_certificates")

    def close(self, timeout: float) -> None:
        self._step("close", timeout)

    def routes(self) -> list[object]:
        return []


class FakeSignals:
    """Signals that arrive one after the other."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = list(numbers)
        self.force: Callable[[int], object] | None = None

    def __call__(self, force: Callable[[int], object]) -> FakeSignals:
        self.force = force
        return self

    def __enter__(self) -> FakeSignals:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait(self) -> signal.Signals:
        return self._numbers.pop(0)


class Terminal:
    """Runs `serve` on a fake server and keeps what it writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._reader, self._writer = os.pipe()
        self.signals = FakeSignals(signal.SIGTERM)
        monkeypatch.setattr(
            serving, "set_up_logging", lambda *style: logs.set_up_logging(*style, descriptor=self._writer)
        )

    def serve(self, server: FakeServer | Exception, **options: object) -> int:
        def load(target: str | None, folder: Path) -> Loaded:
            if isinstance(server, BaseException):
                raise server
            return Loaded(server, "app:server")  # type: ignore[arg-type]

        self._monkeypatch.setattr(serving, "load_server", load)
        self._monkeypatch.setattr(stopping, "StopSignals", self.signals)
        return serving.serve(ServeOptions(**options), "webmesh serve")  # type: ignore[arg-type]

    def lines(self) -> list[str]:
        os.set_blocking(self._reader, False)
        try:
            return os.read(self._reader, 65536).decode().splitlines()
        except BlockingIOError:
            return []

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


@pytest.fixture
def terminal(monkeypatch) -> Iterator[Terminal]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    terminal = Terminal(monkeypatch)
    yield terminal
    root.handlers[:], root.level = before
    logging.captureWarnings(False)
    terminal.close()


class TestSteps:
    def test_listens_waits_and_drains(self, terminal):
        """In this order, each bounded by the server's own timeouts; then status 0."""
        server = FakeServer()

        assert 0 == terminal.serve(server, host="::1", port=0)

        assert [("listen", ("::1", 0)), ("await_started", 2.0), ("close", 3.0)] == server.steps

    def test_tells_where_it_listens_and_why_it_stops(self, terminal):
        """The banner once it listens; then the signal that it drains for."""
        terminal.serve(FakeServer())

        lines = terminal.lines()
        assert "  url     ws://127.0.0.1:4269" in lines
        assert lines[-1].endswith("INFO webmesh.serve: draining signal=SIGTERM connections=2")

    @pytest.mark.parametrize(("drained", "status"), [(True, 0), (None, 0), (False, 3)])
    def test_the_status_tells_whether_calls_were_cut_off(self, terminal, drained, status):
        """And so does a line, for people."""
        server = FakeServer()
        server.drained = drained

        assert status == terminal.serve(server)
        assert (drained is False) is any("cut off" in line for line in terminal.lines())

    def test_the_mode_is_told(self, terminal):
        """Whether handlers run in greenlets or in threads decides what they may do."""
        terminal.serve(FakeServer())

        mode = "patched: handlers run in greenlets" if PATCHED else "plain: handlers run in native threads"
        assert f"  mode    {mode}" in terminal.lines()

    def test_every_line_is_json_where_json_is_asked_for(self, terminal):
        """The banner included."""
        terminal.serve(FakeServer(), log_format="json")

        assert ["serving", "draining"] == [json.loads(line)["message"] for line in terminal.lines()]

    def test_the_log_level_holds_for_records_and_not_for_the_banner(self, terminal):
        """Whoever wants a quiet server still learns its port."""
        terminal.serve(FakeServer(), log_level="error")

        lines = terminal.lines()
        assert "  url     ws://127.0.0.1:4269" in lines
        assert not any("draining" in line for line in lines)

    def test_a_unix_socket(self, terminal):
        """--unix goes to the server as it is."""
        server = FakeServer()

        terminal.serve(server, unix="/run/shop.sock")

        assert ("listen", "/run/shop.sock") == server.steps[0]

    @pytest.mark.row(91)
    def test_the_second_signal_is_logged_before_the_end(self, terminal, monkeypatch):
        """What is in the queue is written before the process ends, and 128 + number is the status."""
        ended: list[int] = []
        monkeypatch.setattr(os, "_exit", ended.append)
        terminal.serve(FakeServer())
        terminal.lines()

        assert terminal.signals.force is not None
        terminal.signals.force(signal.SIGINT)

        assert [130] == ended
        assert terminal.lines()[0].endswith("WARNING webmesh.serve: ended by a second signal signal=SIGINT")

    @pytest.mark.row(91)
    def test_the_second_signal_ends_whatever_it_interrupts(self, terminal, monkeypatch):
        """As code that has logging's own lock: the handler of the signal runs in the midst of it and must not wait."""
        ended: list[int] = []
        monkeypatch.setattr(os, "_exit", ended.append)
        terminal.serve(FakeServer())
        terminal.lines()
        logging.getLogger().manager._clear_cache()
        with monkeypatch.context() as held:
            held.setattr(logging, "_lock", HeldLock())
            terminal.signals.force(signal.SIGTERM)

        assert [143] == ended
        assert "ended by a second signal" in terminal.lines()[0]


class TestHangup:
    @pytest.mark.row(65, 91)
    def test_with_tls_the_certificate_is_read_again(self, terminal):
        """SIGHUP renews the certificate and the server goes on."""
        server = FakeServer(tls=object())
        terminal.signals = FakeSignals(signal.SIGHUP, signal.SIGHUP, signal.SIGTERM)

        assert 0 == terminal.serve(server)

        names = [step[0] for step in server.steps]
        assert ["listen", "await_started", "reload_certificates", "reload_certificates", "close"] == names
        assert any(line.endswith("certificate reloaded") for line in terminal.lines())

    @pytest.mark.row(65)
    def test_a_bad_certificate_is_told_and_the_old_one_stays(self, terminal):
        """A renewal that went wrong does not stop a server that runs."""
        server = FakeServer(tls=object(), reload_certificates=ConfigurationError("it holds no PEM"))
        terminal.signals = FakeSignals(signal.SIGHUP, signal.SIGTERM)

        assert 0 == terminal.serve(server)

        (line,) = [line for line in terminal.lines() if "ERROR" in line]
        assert line.endswith('certificate not reloaded: the one before stays in use reason="it holds no PEM"')

    @pytest.mark.row(91)
    def test_without_tls_it_stops(self, terminal):
        """A terminal that is closed takes its server along."""
        server = FakeServer()
        terminal.signals = FakeSignals(signal.SIGHUP)

        assert 0 == terminal.serve(server)

        assert "close" == server.steps[-1][0]


class TestOverrides:
    def test_nothing_given_nothing_overridden(self, terminal):
        """What the program configured stands."""
        server = FakeServer()

        terminal.serve(server)

        assert "configure" not in [step[0] for step in server.steps]

    def test_limits_keep_what_was_not_given(self, terminal):
        """--pool-size leaves the program's own threads as they are."""
        server = FakeServer()

        terminal.serve(server, pool_size=9)

        assert ("configure", {"limits": Limits(connections=9, threads=5)}) == server.steps[0]

    def test_threads_and_serializer(self, terminal):
        """Each override goes where the server takes it, before it listens."""
        server = FakeServer()

        terminal.serve(server, threads=2, serializer="json")

        overrides = {"limits": Limits(threads=2), "serializer_type": StandardJsonSerializer}
        assert ("configure", overrides) == server.steps[0]

    def test_what_the_server_refuses(self, terminal):
        """Its own reason is shown."""
        server = FakeServer(configure=ConfigurationError("no such limit"))

        assert 2 == terminal.serve(server, threads=2)

        assert ["webmesh serve: error: no such limit"] == terminal.lines()

    def test_a_server_that_listens_already(self, terminal):
        """Its program is told what to leave out, and the server is not touched."""
        server = FakeServer()
        server.begun = True

        assert 2 == terminal.serve(server)

        assert [] == server.steps
        (line,) = terminal.lines()
        assert line == "webmesh serve: error: app:server calls listen() when it is imported: leave that to serve"


class TestFailures:
    @pytest.mark.parametrize(
        ("number", "options", "reason"),
        [
            (errno.EADDRINUSE, {}, "port 4269 of 127.0.0.1 is in use: stop what listens there or take another --port"),
            (errno.EADDRINUSE, {"host": ""}, "port 4269 of all interfaces is in use"),
            (errno.EACCES, {"port": 80}, "port 80 is privileged: take a --port from 1024 up"),
            (errno.EACCES, {"port": 8080}, "cannot listen on x: why"),
            (errno.EADDRNOTAVAIL, {"host": "192.0.2.1"}, "cannot listen on x: why"),
            (errno.EADDRINUSE, {"unix": "/s"}, "/s is in use by another process"),
            (errno.EACCES, {"unix": "/s"}, "cannot listen on x: why"),
            (None, {"host": "nowhere"}, "cannot listen on x: why"),
        ],
    )
    @pytest.mark.parametrize("step", ["listen", "await_started"])
    def test_an_address_that_cannot_be_had(self, terminal, step, number, options, reason):
        """One line that says what to do; status 2; the server's thread does not outlive the attempt."""
        server = FakeServer(**{step: ListenFailed("x", "why", number)})

        assert 2 == terminal.serve(server, **options)

        (line,) = terminal.lines()
        assert line.startswith(f"webmesh serve: error: {reason}")
        assert ("close", 0) == server.steps[-1]

    def test_a_bad_certificate(self, terminal, tmp_path):
        """Found out before it listens."""
        (tmp_path / "c.pem").write_text("no certificate")

        assert 2 == terminal.serve(FakeServer(), certfile=str(tmp_path / "c.pem"))

        (line,) = terminal.lines()
        assert line.startswith(f"webmesh serve: error: cannot use the certificate {tmp_path / 'c.pem'}")

    def test_nothing_to_serve(self, terminal):
        """The reason of the search is the line."""
        assert 2 == terminal.serve(ConfigurationError("no module 'ap'"))
        assert ["webmesh serve: error: no module 'ap'"] == terminal.lines()

    def test_the_users_module_fails(self, terminal):
        """Its traceback is shown, and the reason after it."""
        failed = LoadFailed("cannot import 'app': KeyError: 'x'")
        failed.__cause__ = KeyError("x")

        assert 2 == terminal.serve(failed)
        assert ["KeyError: 'x'", "webmesh serve: error: cannot import 'app': KeyError: 'x'"] == terminal.lines()

    @pytest.mark.row(91)
    def test_an_interrupt_while_the_module_is_imported(self, terminal):
        """Ctrl-C ends the command without a traceback, with the status that shells expect."""
        assert 130 == terminal.serve(KeyboardInterrupt())  # type: ignore[arg-type]
        assert [] == terminal.lines()


class TestReload:
    def test_the_parent_hears_what_was_imported_even_if_it_failed(self, terminal, monkeypatch):
        """A module that fails is what the parent must watch."""
        monkeypatch.chdir(Path(__file__).parent)
        reader, writer = os.pipe()

        terminal.serve(ConfigurationError("no"), report_to=writer)

        reported = os.read(reader, 1 << 20).split(b"\0")
        os.close(reader)
        os.close(writer)
        assert os.fsencode(__file__) in reported


class TestLatePatch:
    @pytest.mark.row(90)
    @pytest.mark.parametrize("patched", [True, False])
    def test_a_module_that_patches_by_itself_is_told_once(self, terminal, monkeypatch, patched):
        """--no-patch and a module that patches: it works, and one record says what would be better."""
        monkeypatch.setattr(serving, "is_patched", lambda: patched)

        assert 0 == terminal.serve(FakeServer(), patch=False)

        told = [line for line in terminal.lines() if "has monkey-patched the process" in line]
        assert int(patched) == len(told)
