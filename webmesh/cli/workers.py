"""`--workers N`: a parent that starts N servers of one program at one address, and replaces those that end.

Each is a process of its own that runs this very command again; what it is told is a `WorkerTicket`. The parent imports
nothing of the user's and serves nobody, so that it lives as long as it is wanted.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import selectors
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from webmesh.cli.announcing import Announcer, Banner, ServedRoute
from webmesh.cli.arguments import ServeOptions
from webmesh.cli.serving import CUT_OFF, NOT_STARTED, STOPPED
from webmesh.cli.systemd import Notifier
from webmesh.cli.worker_place import Place
from webmesh.cli.worker_process import WorkerProcess
from webmesh.exceptions import ConfigurationError
from webmesh.observability.logs import set_up_logging
from webmesh.options import Backoff
from webmesh.protocol.backoff import BackoffSeries
from webmesh.worker_ticket import WorkerTicket

TURN = 0.5
"""Seconds between two looks at what is due, where nothing happens."""

PAUSE = 1.0
"""Seconds by which a look may be late. If it is later, this process stood still, and perhaps the workers did, too: that
time does not count against them."""

END_SLACK = 30.0
"""Seconds that a worker gets to end beyond those that it bounds itself by, `Timeouts.drain` and `Timeouts.close`."""

SIGNS_LATE = 5.0
"""Seconds without a sign of life of some worker after which the service manager gets none either."""

BACKOFF = Backoff(maximum=10.0, stable_after=10.0)
"""Before a worker is replaced that has ended by itself."""

logger = logging.getLogger("webmesh.workers")


def supervise_workers(options: ServeOptions, arguments: Sequence[str], prog: str) -> int:
    """Run this process's command in so many workers; the exit status.

    Args:
        arguments: What follows the command; the last words of the process's command line.
    """
    handler = set_up_logging(options.log_level, options.log_format)
    announcer = Announcer(handler, options.log_format, prog)
    before = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]
    command = [sys.executable, *before, "--worker", "{}", *arguments]
    try:
        with Place(options) as place:
            return WorkerSupervisor(command, place, options, announcer).run()
    except ConfigurationError as error:
        announcer.failed(str(error))
        return NOT_STARTED
    finally:
        handler.flush()


class WorkerSupervisor:
    """The parent's part.

    Args:
        command: Starts a worker; "{}" in it is the number of its link.
        place: Where they listen.
    """

    def __init__(self, command: Sequence[str], place: Place, options: ServeOptions, announcer: Announcer) -> None:
        self._command = command
        self._place = place
        self._slots = range(1, (options.workers or 1) + 1)
        self._patience = options.worker_timeout
        self._start_patience = options.worker_start_timeout
        self._announcer = announcer
        self._secret = secrets.token_hex(32)
        self._lives = 0
        self._workers: dict[int, WorkerProcess] = {}
        self._leaving: list[WorkerProcess] = []
        self._delays = {slot: BackoffSeries(BACKOFF, random.random) for slot in self._slots}
        self._due: dict[int, float] = {}
        self._statuses: list[int] = []
        self._selector = selectors.DefaultSelector()
        self._looked = time.monotonic()
        self._asked = 0
        self._reload = self._serving = self._stopping = False
        self._notifier = Notifier()

    def run(self) -> int:
        """Serve until a signal says to stop; the exit status."""
        self._catch_signals()
        try:
            started = self._start_all()
            if started:
                self._serve()
            self._stop()
            return self._status(started)
        except OSError as error:
            raise ConfigurationError(f"the workers cannot be started: {error}") from error
        finally:
            for worker in self._all():
                worker.kill()
                worker.bury()

    def _all(self) -> list[WorkerProcess]:
        return [*self._workers.values(), *self._leaving]

    # --------------------------------------------------------------------- signals

    def _catch_signals(self) -> None:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._selector.register(reader, selectors.EVENT_READ, lambda: os.read(reader, 64))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup has its way
                signal.signal(number, self._signalled)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload = True
            return
        self._asked = self._asked or number
        if self._stopping:  # a second one: all of them know what that means
            for worker in self._all():
                worker.end(number)

    # ------------------------------------------------------------- starting workers

    def _start_all(self) -> bool:
        """One, and when that serves the others, so that what is wrong is told once; whether all of them serve."""
        for slots in (self._slots[:1], self._slots[1:]):
            for slot in slots:
                self._workers[slot] = self._start(slot)
            if not all([self._await_ready(self._workers[slot]) for slot in slots]):
                return False
        return True

    def _start(self, slot: int) -> WorkerProcess:
        self._lives += 1
        place = self._place
        worker = WorkerProcess(self._command, WorkerTicket(
            slot=slot, life=self._lives, folder=place.folder, secret=self._secret, host=place.host, port=place.port,
            fd=place.fd, fellows=sum(one.ready for one in self._workers.values()),
        ))  # fmt: skip
        self._selector.register(worker.link.sock, selectors.EVENT_READ, lambda: self._hear(worker))
        return worker

    def _await_ready(self, worker: WorkerProcess) -> bool:
        """Whether it serves in time; no, when a signal says to stop."""
        self._wait(lambda: worker.ready or worker.ended or bool(self._asked))
        return worker.ready

    # -------------------------------------------------------------------- in between

    def _serve(self) -> None:
        self._serving = True
        self._announce()
        self._notifier.tell(READY=1, STATUS=f"serving with {len(self._slots)} workers")
        while not self._asked:
            if self._reload:
                self._reload = False
                self._replace_all()
            else:
                self._turn()

    def _announce(self) -> None:
        said = self._workers[1].said or {}
        pids = ", ".join(str(worker.pid) for worker in self._workers.values())
        self._announcer.serving(Banner(
            name=said["name"], url=said["url"], mode=said["mode"], pid=os.getpid(), notice=said["notice"],
            routes=[ServedRoute(**route) for route in said["routes"]], workers=f"{len(self._slots)} (pids {pids})",
        ))  # fmt: skip

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Wait until it comes true; the workers are looked after meanwhile, and those that hang are ended."""
        while not condition():
            self._turn()

    def _turn(self) -> None:
        """Hear what there is, or wait for it a moment, and do what is due."""
        for key, _ in self._selector.select(TURN):
            key.data()
        self._forgive()
        for worker in [one for one in self._leaving if one.ended]:
            self._leaving.remove(worker)
            self._bury(worker)
        for worker in self._all():
            self._end_hung(worker)
        if self._serving and not self._asked:
            for slot, worker in tuple(self._workers.items()):
                if worker.ended:
                    self._succeed(slot, worker)
            self._show_life()

    def _hear(self, worker: WorkerProcess) -> None:
        if worker.hear():
            logger.info("a worker serves", extra=worker.about())
            self._delays[worker.ticket.slot].opened(time.monotonic())
        if worker.link.ended:
            self._selector.unregister(worker.link.sock)

    def _bury(self, worker: WorkerProcess) -> None:
        if not worker.link.ended:  # a child of its own may still have the other end
            self._selector.unregister(worker.link.sock)
        status = worker.bury()
        self._place.forget(worker.ticket)
        if self._stopping and worker.told_to_end and worker.said is None:
            return  # the signal came before it could do anything about it, and nothing was lost
        if worker.told_to_end or not self._serving:
            self._statuses.append(status)

    def _forgive(self) -> None:
        """After a pause of this process, as by SIGSTOP or with its machine, let the workers' silence count anew."""
        now = time.monotonic()
        pause, self._looked = now - self._looked - TURN, now
        if pause > PAUSE:
            for worker in self._all():
                worker.forgive(pause)

    def _end_hung(self, worker: WorkerProcess) -> None:
        """One that shows no life, while it serves or drains; that does not come up; or that does not end."""
        seconds = self._patience if worker.said is not None else self._start_patience
        if worker.ended:
            return
        if seconds and worker.silent() > seconds:
            logger.error("a worker hangs: killed", extra=worker.about() | {"seconds": seconds})
            worker.kill()
        elif worker.late() > END_SLACK:
            logger.error("a worker did not end in time: killed", extra=worker.about())
            worker.kill()

    def _succeed(self, slot: int, worker: WorkerProcess) -> None:
        """Have one that has ended replaced, in a while."""
        now = time.monotonic()
        if slot not in self._due:
            self._delays[slot].ended(now)
            told = worker.about() | {"status": worker.status, "replaced_in": self._put_off(slot, now)}
            logger.error("a worker has ended", extra=told)
        elif now >= self._due[slot]:
            fresh = self._try_to_start(slot)
            if fresh is None:
                self._put_off(slot, now)
                return
            del self._due[slot]
            self._bury(worker)
            self._workers[slot] = fresh

    def _put_off(self, slot: int, now: float) -> float:
        """The seconds until its replacement is started."""
        delay = self._delays[slot].next_delay()
        self._due[slot] = now + delay
        return round(delay, 3)

    def _try_to_start(self, slot: int) -> WorkerProcess | None:
        """As `_start`; `None` where the system has no process or descriptor left: it may have one later."""
        try:
            return self._start(slot)
        except OSError as error:
            logger.error("a worker could not be started", extra={"worker": slot, "reason": str(error)})
            return None

    def _show_life(self) -> None:
        """Tell the service manager that all is well, as long as some worker serves and none hangs. One that has ended
        is being seen to here: to start all of them anew for it would end the others' work."""
        interval = self._notifier.interval
        living = [one for one in self._workers.values() if not one.ended]
        if interval is not None and living and all(one.silent() < interval + SIGNS_LATE for one in living):
            self._notifier.show_life()

    # -------------------------------------------------------------------- replacing

    def _replace_all(self) -> None:
        """One after another, each when its successor serves; given up when one of those does not come up."""
        logger.info("replacing the workers")
        self._notifier.tell(STATUS="replacing the workers")
        replaced = all(self._replace(slot) for slot in self._slots)
        if replaced:
            logger.info("all workers were replaced")
        elif not self._asked:
            logger.error("workers not replaced: those before stay, as the new one did not come up")
        self._notifier.tell(STATUS=f"serving with {len(self._slots)} workers")

    def _replace(self, slot: int) -> bool:
        fresh = self._try_to_start(slot)
        if fresh is None:
            return False
        if not self._await_ready(fresh):
            fresh.kill()
            self._leaving.append(fresh)
            return False
        before, self._workers[slot] = self._workers[slot], fresh
        self._due.pop(slot, None)
        self._leaving.append(before)
        if not before.ended:
            before.end()
        # A signal to end is for all of them at once, and for this one the second may be meant.
        self._wait(lambda: before.ended or bool(self._asked))
        return not self._asked

    # ------------------------------------------------------------------------ the end

    def _stop(self) -> None:
        self._statuses.clear()  # of those that were replaced
        self._notifier.tell(STOPPING=1, STATUS="draining")
        self._stopping = True
        for worker in self._all():
            if not worker.told_to_end and not worker.ended:
                worker.end()
        self._wait(lambda: all(worker.ended for worker in self._all()))
        for worker in self._all():
            self._bury(worker)
        self._workers.clear()
        self._leaving.clear()

    def _status(self, started: bool) -> int:
        """All of theirs in one: what went wrong with any of them counts."""
        told = [status if status >= 0 else 128 - status for status in self._statuses]
        if CUT_OFF in told:
            return CUT_OFF
        if not started and not self._asked:
            return next(filter(None, told), NOT_STARTED)
        return next(filter(None, told), STOPPED)
