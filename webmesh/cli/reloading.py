"""`--reload`: a parent that starts the server again when a file that it imported changes.

The server is a child process, so that every start is a fresh one; it tells its parent, over a pipe,
which files below the current directory it has imported. The parent looks at their times of modification
and passes signals on. For the time of writing code, not for production.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, ModuleType

from webmesh.cli.arguments import ServeOptions
from webmesh.observability.logs import set_up_logging
from webmesh.options import Timeouts

INTERVAL = 0.5
"""Seconds between two looks at the files: short beside a person's change of window, long beside the cost."""

SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "node_modules"})
"""What lies below these, or below a name that begins with a dot, is not the user's own."""

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

logger = logging.getLogger("webmesh.reload")


def supervise(options: ServeOptions, arguments: Sequence[str]) -> int:
    """Run this very process's command again, as a child and as often as its files change; the exit status.

    Args:
        arguments: What follows the command; the last words of the process's command line.
    """
    handler = set_up_logging(options.log_level, options.log_format)
    command = [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]]
    try:
        return Supervisor(command, arguments, Path.cwd()).run()
    finally:
        handler.flush()


class WatchedFiles:
    """The user's files as they are at this moment, to be compared with what becomes of them.

    Made before a server is started: what is saved while it imports is a change.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = {name: _modified(name) for name in own_files(folder)}
        self._watched: set[str] = set()

    def watch(self, name: str) -> None:
        """Count changes of *name* from now on: the server has imported it."""
        self._before.setdefault(name, _modified(name))
        self._watched.add(name)

    def changed(self) -> str | None:
        """A watched file that has changed; None when there is none. One that is gone may be being saved: not yet."""
        return next(filter(self._differs, self._watched), None)

    def changed_or_new(self) -> str | None:
        """As `changed`, for every file of the folder: what is missing may never have been imported."""
        return self.changed() or next(filter(self._differs, own_files(self._folder)), None)

    def _differs(self, name: str) -> bool:
        modified = _modified(name)
        return modified is not None and modified != self._before.get(name)


class Supervisor:
    """The parent's part.

    Args:
        command: Starts a server when *arguments* follow, and before them where its reports go.
        folder: Where a server that has not come up may have its reason.
        interval: Seconds between two looks at the files.
    """

    def __init__(
        self, command: Sequence[str], arguments: Sequence[str], folder: Path, *, interval: float = INTERVAL
    ) -> None:
        self._command = command
        self._arguments = arguments
        self._folder = folder
        self._interval = interval
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def run(self) -> int:
        """Serve until a signal says to stop; the exit status of the child that it stopped."""
        for number in FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._forward)
        while True:
            files, reports = self._start()
            changed = self._watch(files, reports)
            status = self._end(reports, files)
            if self._stopping:
                return status if status >= 0 else 128 - status
            if changed is None:
                logger.warning("the server has ended: waiting for a change", extra={"status": status})
                changed = self._await_change(files)
            if changed is None:
                return 0
            logger.info("starting again", extra={"changed": os.path.relpath(changed, self._folder)})

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        if self._child is not None:
            self._child.send_signal(number)

    def _start(self) -> tuple[WatchedFiles, Reports]:
        files = WatchedFiles(self._folder)
        reader, writer = os.pipe()
        self._child = subprocess.Popen(
            [*self._command, "--report-to", str(writer), *self._arguments],
            pass_fds=[writer],
            process_group=0,  # Ctrl-C goes to the whole group of the terminal: the child gets it once, from us
        )
        os.close(writer)
        return files, Reports(reader)

    def _watch(self, files: WatchedFiles, reports: Reports) -> str | None:
        """Wait for a change and return the file; None when the child has ended or is to end."""
        assert self._child is not None
        while self._child.poll() is None and not self._stopping:
            for name in reports.read(self._interval):
                files.watch(name)
            if reports.ended:
                self._wait_child(self._interval)
            elif (changed := files.changed()) is not None:
                return changed
        return None

    def _end(self, reports: Reports, files: WatchedFiles) -> int:
        """Let the child drain where it still runs, kill it if that takes too long; its exit status."""
        assert self._child is not None
        timeouts = Timeouts()
        if self._stopping:
            # As long as its user likes, since a second signal ends it. In short waits: a signal that comes
            # just before a wait is only handled after it.
            while not self._wait_child(self._interval):
                pass
        elif self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            if not self._wait_child(timeouts.drain + timeouts.close):
                logger.warning("the server did not drain in time: killed")
                self._child.kill()
        status = self._child.wait()
        self._child = None
        for name in reports.read(0):
            files.watch(name)
        reports.close()
        return status

    def _wait_child(self, timeout: float) -> bool:
        assert self._child is not None
        try:
            self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _await_change(self, files: WatchedFiles) -> str | None:
        """Wait until a file of the user's changes or appears, and return it; None when a signal says to stop."""
        pause = threading.Event()
        while not self._stopping:
            if (changed := files.changed_or_new()) is not None:
                return changed
            pause.wait(self._interval)
        return None


class Reports:
    """The parent's end of the pipe: names of files, each followed by a NUL."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unread = b""
        self.ended = False
        """Whether the child has closed its end, as it does when it ends."""

    def read(self, timeout: float) -> list[str]:
        """What has been reported; waits at most *timeout* seconds for something."""
        if self.ended or not select.select([self._descriptor], [], [], timeout)[0]:
            return []
        content = os.read(self._descriptor, 65536)
        self.ended = not content
        *names, self._unread = (self._unread + content).split(b"\0")
        return [os.fsdecode(name) for name in names]

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


class ImportReporter:
    """The child's part: tells which of the user's files it has imported, and stops when the parent is gone."""

    def __init__(self, descriptor: int, folder: Path, *, interval: float = INTERVAL) -> None:
        self._descriptor = descriptor
        self._folder = folder
        self._interval = interval
        self._reported: set[str] = set()
        self._parent = os.getppid()

    def report(self) -> bool:
        """Tell what was imported since the last report; False when nobody listens any more."""
        names = {name for name in _imported_files() if is_own(Path(name), self._folder)} - self._reported
        try:
            os.write(self._descriptor, b"".join(os.fsencode(name) + b"\0" for name in sorted(names)))
        except BrokenPipeError:
            return False
        self._reported |= names
        return os.getppid() == self._parent

    def start(self) -> None:
        """Report now and from time to time: a handler may import when it is called."""
        threading.Thread(target=self._report_on, name="webmesh-reload", daemon=True).start()

    def _report_on(self) -> None:
        pause = threading.Event()
        while self.report():
            pause.wait(self._interval)
        os.kill(os.getpid(), signal.SIGTERM)  # a server without its parent would hold the port for ever


def own_files(folder: Path) -> Iterator[str]:
    """Every Python file below *folder* that is the user's own."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_skipped(name)]
        yield from (os.path.join(parent, name) for name in files if name.endswith(".py"))


def is_own(path: Path, folder: Path) -> bool:
    """Whether *path* is a Python file below *folder*, and in no environment or cache there."""
    if path.suffix != ".py" or not path.is_relative_to(folder):
        return False
    return not any(_is_skipped(name) for name in path.relative_to(folder).parts[:-1])


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name in SKIPPED_FOLDERS


def _imported_files() -> Iterator[str]:
    for module in list(sys.modules.values()):
        # Not getattr: a module that makes its attributes itself may import more when it is asked.
        name = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if isinstance(name, str):
            yield name


def _modified(name: str) -> int | None:
    try:
        return os.stat(name).st_mtime_ns
    except OSError:
        return None
