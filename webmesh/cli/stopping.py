"""What signals do to a server that was started from the command line.

The first SIGTERM or SIGINT asks it to stop, the second one ends the process; SIGHUP is told to the
caller; SIGPIPE is ignored. Handlers are Python's own, not the hub's: they run between two bytecodes of
whatever the main thread does, so the second signal works even if a handler never gives back the hub.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from gevent.monkey import get_original
from gevent.socket import wait_read

STOPPING = (signal.SIGTERM, signal.SIGINT)

_close = get_original("os", "close")  # gevent's own waits for the hub, and there is none any more at the end


class StopSignals:
    """While entered, collects the signals of the process. For the main thread only.

    Args:
        force: Called with the number of the second stopping signal, between two bytecodes of any code;
            it should end the process.

    Attributes:
        asked: Whether the first one has come.
    """

    def __init__(self, force: Callable[[int], object]) -> None:
        self._force = force
        self.asked = False
        self._unread = b""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in STOPPING:
            self._install(number, self._count)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup has its way
            self._install(signal.SIGHUP, lambda number, frame: None)
        self._install(signal.SIGPIPE, signal.SIG_IGN)  # Python's default, which user code may have undone
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        _close(self._reader)
        _close(self._writer)

    def wait(self) -> signal.Signals:
        """Wait, without end and while the hub turns, for the next SIGTERM, SIGINT or SIGHUP."""
        while True:
            while self._unread:
                number, self._unread = self._unread[0], self._unread[1:]
                if number in self._before:
                    return signal.Signals(number)
            # The interpreter's own C handler writes each signal's number into the pipe, whichever thread
            # it arrives in; the numbers of other signals that the program handles too, hence the check.
            wait_read(self._reader)
            self._unread = os.read(self._reader, 64)

    def _install(self, number: int, handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
        self._before[number] = signal.signal(number, handler)

    def _count(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self._force(number)
        self.asked = True
