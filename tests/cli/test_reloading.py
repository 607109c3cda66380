"""`--reload`: which files count, what the child tells, when the parent starts it again, how both end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gevent.monkey import get_original

from webmesh.cli.reloading import ImportReporter, Reports, WatchedFiles, is_own, own_files

from tests.processes import ENVIRONMENT

WAIT = 30.0
close = get_original("os", "close")  # gevent's own puts it off to the hub's next turn


def age(path: Path, seconds: int) -> None:
    """Give *path* another time of modification."""
    modified = path.stat().st_mtime_ns + seconds * 1_000_000_000
    os.utime(path, ns=(modified, modified))


class TestOwnFiles:
    @pytest.mark.parametrize("name", ["app.py", "shop/web.py", "a/b/c.py"])
    def test_what_lies_below_the_folder_is_own(self, name):
        """Any Python file below the current directory counts."""
        assert is_own(Path("/home/me") / name, Path("/home/me"))

    @pytest.mark.parametrize(
        "name",
        [
            "/usr/lib/python3/json.py", "/home/me2/app.py", "/home/me/app.so", "/home/me/.venv/lib/x.py",
            "/home/me/env/lib/site-packages/x.py", "/home/me/__pycache__/x.py", "/home/me/web/node_modules/gyp/x.py",
        ],
    )  # fmt: skip
    def test_the_rest_is_not(self, name):
        """Neither the system's files, nor an environment's that happens to lie below, nor what is no source."""
        assert not is_own(Path(name), Path("/home/me"))

    def test_all_own_files_of_a_folder(self, tmp_path):
        """The same rule, for what was never imported."""
        for name in ("app.py", "shop/web.py", ".venv/x.py", "env/site-packages/y.py", "notes.txt"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

        assert {str(tmp_path / "app.py"), str(tmp_path / "shop/web.py")} == set(own_files(tmp_path))


class TestWatchedFiles:
    @pytest.fixture
    def file(self, tmp_path) -> Path:
        path = tmp_path / "app.py"
        path.touch()
        return path

    @pytest.fixture
    def files(self, file) -> WatchedFiles:
        """The file's folder, with the file imported."""
        files = WatchedFiles(file.parent)
        files.watch(str(file))
        return files

    def test_nothing_has_changed_at_first(self, files):
        """Files are compared with what they were at the start."""
        assert (None, None) == (files.changed(), files.changed_or_new())

    @pytest.mark.parametrize("seconds", [5, -5])
    def test_another_time_is_a_change(self, file, files, seconds):
        """Newer or older: an old version that comes back is a change too."""
        age(file, seconds)

        assert (str(file), str(file)) == (files.changed(), files.changed_or_new())

    def test_what_changed_before_it_was_reported_is_a_change(self, file):
        """A file that was saved while the server imported it was perhaps read in its old form."""
        files = WatchedFiles(file.parent)
        age(file, 5)

        files.watch(str(file))

        assert str(file) == files.changed()

    def test_what_was_not_imported_counts_only_when_asked(self, file, files):
        """While the server runs, other files of the folder are of no interest; when it does not, all are."""
        other = file.parent / "other.py"
        other.touch()

        assert (None, str(other)) == (files.changed(), files.changed_or_new())

    def test_a_file_that_is_gone_is_not_yet_a_change(self, file, files):
        """Editors that replace a file leave a moment without it; the new one is the change."""
        modified = file.stat().st_mtime_ns

        file.unlink()
        assert (None, None) == (files.changed(), files.changed_or_new())

        file.touch()
        os.utime(file, ns=(modified + 1, modified + 1))
        assert str(file) == files.changed()

    def test_a_file_that_is_not_there_is_no_change(self, tmp_path, files):
        """A name without a file, as of a module in an archive, is passed over."""
        files.watch(str(tmp_path / "none.py"))

        assert files.changed() is None


class TestReports:
    @pytest.fixture
    def pipe(self) -> Iterator[tuple[Reports, int]]:
        reader, writer = os.pipe()
        reports = Reports(reader)
        yield reports, writer
        close(reader)
        try:
            close(writer)
        except OSError:
            pass  # closed by the test

    def test_names_that_come_in_parts(self, pipe):
        """A name is told once it is whole."""
        reports, writer = pipe

        os.write(writer, b"/a.py\0/b")
        assert ["/a.py"] == reports.read(WAIT)
        os.write(writer, b".py\0")
        assert ["/b.py"] == reports.read(WAIT)

    def test_silence(self, pipe):
        """Nothing reported in time is no name, and not the end."""
        reports, _ = pipe

        assert ([], False) == (reports.read(0.001), reports.ended)

    def test_the_end(self, pipe):
        """A child that has closed its end says so without any wait."""
        reports, writer = pipe
        os.write(writer, b"/a.py\0")
        close(writer)

        assert ["/a.py"] == reports.read(WAIT)
        assert [] == reports.read(WAIT)
        assert reports.ended
        assert [] == reports.read(WAIT)


class TestImportReporter:
    @pytest.fixture
    def pipe(self) -> Iterator[tuple[int, int]]:
        reader, writer = os.pipe()
        yield reader, writer
        for descriptor in (reader, writer):
            try:
                close(descriptor)
            except OSError:
                pass  # closed by the test

    @pytest.fixture
    def imported(self, tmp_path, monkeypatch) -> Callable[[str], str]:
        """Import a fresh module of the test's folder; return its file."""
        monkeypatch.syspath_prepend(tmp_path)

        def imported(name: str) -> str:
            path = tmp_path / f"{name}.py"
            path.touch()
            monkeypatch.delitem(sys.modules, name, raising=False)
            __import__(name)
            return str(path)

        yield imported
        for path in tmp_path.glob("*.py"):
            sys.modules.pop(path.stem, None)

    def test_tells_what_was_imported_from_the_folder_once(self, pipe, imported, tmp_path):
        """Only files below the folder, and each once, however often it reports."""
        reader, writer = pipe
        reporter = ImportReporter(writer, tmp_path)
        first = imported("reload_one")

        assert reporter.report()
        assert os.fsencode(first) + b"\0" == os.read(reader, 65536)

        second = imported("reload_two")
        assert reporter.report()
        assert os.fsencode(second) + b"\0" == os.read(reader, 65536)

    def test_odd_entries_among_the_modules_are_passed_over(self, pipe, imported, tmp_path, monkeypatch):
        """What programs put into sys.modules need not be a module, nor have a file."""
        reader, writer = pipe
        monkeypatch.setitem(sys.modules, "odd_none", None)
        monkeypatch.setitem(sys.modules, "odd_object", object())
        known = imported("reload_three")

        assert ImportReporter(writer, tmp_path).report()
        assert os.fsencode(known) + b"\0" == os.read(reader, 65536)

    def test_a_parent_that_is_gone_is_noticed(self, pipe, imported, tmp_path):
        """When nobody reads any more, the report says so."""
        reader, writer = pipe
        imported("reload_four")
        close(reader)

        assert not ImportReporter(writer, tmp_path).report()


CHILD = """
import os, signal, sys, time
report_to = int(sys.argv[sys.argv.index("--report-to") + 1])
mode = open("mode.py").read().strip()
print("start", mode, *sys.argv[3:], flush=True)
os.write(report_to, os.fsencode(os.path.abspath("mode.py")) + b"\\0")
if mode == "broken":
    sys.exit(2)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, lambda number, frame: print("asked", flush=True))
else:
    def stop(number, frame):
        print("stop", signal.Signals(number).name, flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
print("up", flush=True)
while True:
    time.sleep(0.01)  # not signal.pause(): a signal that comes just before it would be handled after it
"""

PARENT = """
import logging, sys
from pathlib import Path
from webmesh.cli.reloading import Supervisor
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
sys.exit(Supervisor([sys.executable, "child.py"], ["app", "--reload"], Path.cwd(), interval=0.02).run())
"""


class Session:
    """A supervisor in a process of its own, whose children are CHILD."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mode = folder / "mode.py"
        self.process: subprocess.Popen[str] | None = None
        self.versions = 0

    def start(self, mode: str) -> None:
        (self.folder / "child.py").write_text(textwrap.dedent(CHILD))
        self.change(mode)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT], cwd=self.folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )

    def change(self, mode: str) -> None:
        """Write a new version, with a time of modification of its own however fast the tests are."""
        fresh = self.folder / "mode.new"
        fresh.write_text(mode)
        self.versions += 1
        age(fresh, self.versions)
        fresh.rename(self.mode)

    def read(self, count: int) -> list[str]:
        assert self.process is not None and self.process.stdout is not None
        return [self.process.stdout.readline().rstrip("\n") for _ in range(count)]

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(WAIT)


@pytest.fixture
def session(tmp_path) -> Iterator[Session]:
    session = Session(tmp_path)
    yield session
    assert session.process is not None and session.process.stdout is not None
    if session.process.poll() is None:
        session.process.kill()
        session.process.wait()
    session.process.stdout.close()


class TestSupervisor:
    def test_a_change_starts_the_server_again(self, session):
        """The child drains, and a fresh one with the same arguments takes its place."""
        session.start("one")
        assert ["start one app --reload", "up"] == session.read(2)

        session.change("two")

        assert ["stop SIGTERM", "starting again", "start two app --reload", "up"] == session.read(4)
        session.signal(signal.SIGTERM)
        assert (["stop SIGTERM"], 0) == (session.read(1), session.wait())

    def test_a_broken_edit_waits_for_the_next_one(self, session):
        """A server that ends by itself is started again when something changes."""
        session.start("broken")
        assert ["start broken app --reload", "the server has ended: waiting for a change"] == session.read(2)

        session.change("mended")

        assert ["starting again", "start mended app --reload", "up"] == session.read(3)
        session.signal(signal.SIGINT)
        assert (["stop SIGINT"], 0) == (session.read(1), session.wait())

    def test_while_it_waits_any_file_counts(self, session):
        """The edit that mends it may be in a file that was never imported, or that is new."""
        session.start("broken")
        session.read(2)
        new = session.folder / "shop.py"

        new.touch()

        assert ["starting again", "start broken app --reload"] == session.read(2)

    @pytest.mark.row(91)
    def test_a_signal_while_it_waits_ends_it(self, session):
        """Without a child there is nothing to drain."""
        session.start("broken")
        session.read(2)

        session.signal(signal.SIGTERM)

        assert 0 == session.wait()

    @pytest.mark.row(91)
    def test_the_second_signal_is_passed_on_as_well(self, session):
        """Forcing is the child's business, and its status is the command's."""
        session.start("stubborn")
        assert ["start stubborn app --reload", "up"] == session.read(2)

        session.signal(signal.SIGTERM)
        assert ["asked"] == session.read(1)
        session.signal(signal.SIGINT)

        assert 128 + signal.SIGINT == session.wait()
