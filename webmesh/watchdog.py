"""The watchdog: notices code that does not give back a hub, and says which route and which line it was.

One native thread for all hubs of the process that are watched. It costs a hub nothing while it turns: the thread
reads the loop's own count of turns. While all hubs wait it sleeps too; each wakes it with the next turn.
Decides what is a hold; how long one may last is `Timeouts.hub_hold`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from contextlib import suppress
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import gevent
from gevent import monkey
from gevent.hub import Hub, get_hub

from webmesh.observer import Observer
from webmesh.processes import is_patched
from webmesh.websocket.hub import call_soon

if TYPE_CHECKING:
    from collections.abc import Callable

POLLS = 5
"""How often the thread looks within the time that a hold may last: mostly one is found that is a fifth longer."""

LONGEST_PERIOD = 0.1
"""Seconds between two looks where holds may last very long: a hub that comes or goes must not wait for the next one."""

LONG = 5.0
"""Seconds after which a hold is told of although it has not ended: it may never end."""

LINE_BURST, LINE_RATE = 10, 0.2
"""Log lines about holds in a row, and a second after that; the others are counted. Hooks get all of them."""

DEBUGGERS = frozenset({"bdb", "pdb", "pydevd", "_pydevd_bundle", "debugpy"})
"""Modules that hold a hub since a person wants them to."""

_ROUTED = frozenset({"webmesh.dispatch", "webmesh.plain_routes"})
"""Modules whose frames know the route: by their variable `call` or `match`."""

_WAITS: CodeType = Hub.run.__code__
"""What runs in a hub's thread while nothing else does."""

_start_thread: Callable[..., Any] = monkey.get_original("_thread", "start_new_thread")
_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
_native_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")

logger = logging.getLogger("webmesh.server")


class Watch:
    """Watches the hub of one server or client; several may share a hub.

    Args:
        seconds: How long the hub may be held; `Timeouts.hub_hold`.
    """

    __slots__ = ("_hub", "observer", "seconds")

    def __init__(self, observer: Observer, seconds: float) -> None:
        self.observer = observer
        self.seconds = seconds
        self._hub: WatchedHub | None = None

    def start(self) -> None:
        """Begin, in the hub's thread."""
        hub = get_hub()
        watched = _WATCHDOG.hubs.get(id(hub))
        if watched is None or watched.hub is not hub:
            watched = WatchedHub(hub)
        self._hub = watched
        watched.watches.append(self)
        _WATCHDOG.add(watched)

    def stop(self) -> None:
        """End, in the same thread; does nothing when it has not been started."""
        watched, self._hub = self._hub, None
        if watched is not None and self in watched.watches:
            watched.watches.remove(self)
            if not watched.watches:
                watched.close()
                _WATCHDOG.remove(watched)


class WatchedHub:
    """What is known of one hub. Only `arm`, `_woken` and `close` run in its thread.

    Attributes:
        armed: The hub waits, and its next turn rings the watchdog's bell.
    """

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.watches: list[Watch] = []
        self.armed = False
        self._arming = self._idle = False
        self._ident = hub.thread_ident
        self._check = hub.loop.check()
        self._cpu_clock = _cpu_clock(self._ident)
        self._turns = -1
        self._since = self._looked = 0.0
        self._cpu = self._process = 0.0
        self._key: object = None
        self._hold: Hold | None = None

    @property
    def seconds(self) -> float:
        """How long it may be held."""
        return min((watch.seconds for watch in tuple(self.watches)), default=1.0)

    def arm(self) -> None:
        """Let the next turn ring the bell."""
        self._arming = False
        if self.watches and not self.armed:
            self.armed = True
            self._check.start(self._woken)

    def _woken(self) -> None:
        self._check.stop()
        self.armed = self._idle = False
        # The thread may get to look only when this turn has ended, if code in C keeps it out.
        self._turns = self.hub.loop.iteration
        self._since = self._looked = time.monotonic()
        self._note_time()
        _WATCHDOG.ring()

    def close(self) -> None:
        """Give the watcher back."""
        self.armed = False
        self._check.stop()
        self._check.close()

    # ------------------------------------------------ in the watchdog's thread from here on

    def look(self, now: float, period: float) -> None:
        """See whether the hub has turned since the last look, which should have been *period* seconds ago.

        Raises:
            ValueError, AttributeError: The hub is gone.
        """
        if self._turns < 0:  # for the first time: whatever its thread did before is not looked at
            self._turns, self._looked = self.hub.loop.iteration, now
            self._moved(now)
        gap, self._looked = now - self._looked - period, now
        turns, worked = self.hub.loop.iteration, gap > period and self._worked(gap)
        if gap >= self.seconds and not worked and time.process_time() - self._process > gap / 2:
            self._tell_of_threads(gap)
        if turns != self._turns:
            self._turns = turns
            self._moved(now)
            if not worked or gap < self.seconds:
                return
            self._since = now - gap  # nobody but code in C can have kept this thread waiting
        frame = sys._current_frames().get(self._ident)
        if frame is None or frame.f_code is _WAITS:
            self._moved(now)
            # Not at the first look: what the turn has begun in a thread may hold the hub in a moment.
            if not self._idle:
                self._idle = True
            elif not self._arming:
                self._arming = True  # before it is posted: `arm` may run at once
                if not call_soon(self.hub, self.arm):
                    raise ValueError("the hub is gone")
            return
        if gap > period and not worked:
            self._since += gap  # the process was stopped, or had no processor: nobody's fault
        self._note_time()
        self._look_at(frame, now)

    def _moved(self, now: float) -> None:
        hold, self._hold = self._hold, None
        self._key = None
        if hold is not None and not hold.told:
            hold.seconds = now - self._since
            hold.tell(self)
        self._since = now
        self._note_time()

    def _look_at(self, frame: FrameType, now: float) -> None:
        # Many short handlers in one turn are no hold; each has a call of its own.
        call = routed(frame)
        key = call if call is not None else _outermost(frame)
        if key is not self._key and self._hold is None:
            if self._key is not None:
                self._since = now
            self._key = key
        held = now - self._since
        if held < self.seconds:
            return
        if self._hold is None:
            self._hold = Hold(frame, call)
        hold = self._hold
        if held >= LONG and not hold.told:
            hold.seconds = held
            hold.tell(self, ended=False)

    def _tell_of_threads(self, seconds: float) -> None:
        """Other threads worked and let neither this one nor the hub run: C code with the interpreter lock."""
        me = _ident()
        frames = [frame for ident, frame in sys._current_frames().items() if ident not in (me, self._ident)]
        found = [(frame, call) for frame in frames if (call := routed(frame)) is not None]
        frame, call = found[0] if len(found) == 1 else (None, None)
        hold = Hold(frame, call, otherwise="threads")
        hold.seconds = seconds
        hold.tell(self)

    def _note_time(self) -> None:
        self._cpu, self._process = self._cpu_time(), time.process_time()

    def _cpu_time(self) -> float:
        try:
            return time.clock_gettime(self._cpu_clock)
        except OSError:  # its thread has ended
            return 0.0

    def _worked(self, gap: float) -> bool:
        """Whether the hub's thread used a processor, as code in C does that lets no other thread run."""
        return self._cpu_time() - self._cpu > gap / 10


def _cpu_clock(ident: int) -> int:
    """The clock of the processor time of that thread; where the system has none, that of the process."""
    find: Callable[[int], int] | None = getattr(time, "pthread_getcpuclockid", None)
    return time.CLOCK_PROCESS_CPUTIME_ID if find is None else find(ident)


class Hold:
    """One hold, from the moment it was noticed."""

    def __init__(self, frame: FrameType | None, call: object, *, otherwise: str = "hub") -> None:
        self.where = _route_of(call, otherwise)
        # No locals, no lines of source: the one may be secret, the other is read where files may be read.
        walked = [] if frame is None else list(traceback.walk_stack(frame))
        self._stack = traceback.StackSummary.extract(iter(walked), lookup_lines=False)
        self._stack.reverse()
        self._debugged = any(_module(one).partition(".")[0] in DEBUGGERS for one, _ in walked)
        self.seconds = 0.0
        self.told = False

    def tell(self, watched: WatchedHub, *, ended: bool = True) -> None:
        """Report it, once."""
        self.told = True
        if self._debugged:
            return
        observers = {id(watch.observer): watch.observer for watch in tuple(watched.watches)}
        arguments = (self, tuple(observers.values()), ended)
        if not is_patched():
            _report(*arguments)
        elif ended:
            # A native thread must not log in a patched process: it could wait for a greenlet's lock for ever.
            call_soon(watched.hub, gevent.spawn, _report, *arguments)
        else:
            # Nobody else can any more. If that thread waits for ever, it is alone with it.
            _start_thread(_report, arguments)

    @property
    def stack(self) -> str:
        """The stack as Python prints it, without its header."""
        return "".join(self._stack.format())


def _report(hold: Hold, observers: tuple[Observer, ...], ended: bool) -> None:
    try:
        _tell(hold, observers, ended)
    except Exception:  # a filter or a handler of the program's loggers: the thread must not end by it
        with suppress(Exception):
            traceback.print_exc()


def _tell(hold: Hold, observers: tuple[Observer, ...], ended: bool) -> None:
    stack = hold.stack
    for observer in observers:
        observer.hub_held(hold.where, hold.seconds, stack)
    suppressed = _LINES.take() if logger.isEnabledFor(logging.WARNING) else None
    if suppressed is not None:
        fields: dict[str, object] = {"route": hold.where, "seconds": round(hold.seconds, 3), "ended": ended}
        if suppressed:
            fields["suppressed"] = suppressed
        logger.handle(_record("the hub was held: nobody else was served meanwhile", fields, stack.rstrip()))


def _record(message: str, fields: dict[str, object], stack: str) -> logging.LogRecord:
    """With *stack* where a record has its stack: formatters know what to do with its lines."""
    return logger.makeRecord(logger.name, logging.WARNING, __file__, 0, message, (), None, extra=fields, sinfo=stack)


class _Lines:
    """Log lines that may still be written."""

    def __init__(self) -> None:
        self._tokens = float(LINE_BURST)
        self._at = 0.0
        self._suppressed = 0

    def take(self) -> int | None:
        """`None` when there is to be no line; else how many there were not before this one."""
        now = time.monotonic()
        self._tokens = min(LINE_BURST, self._tokens + (now - self._at) * LINE_RATE)
        self._at = now
        if self._tokens < 1:
            self._suppressed += 1
            return None
        self._tokens -= 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


class Watchdog:
    """The thread, which runs while there is a hub to watch. Takes no lock that anybody could hold for long."""

    def __init__(self) -> None:
        self.hubs: dict[int, WatchedHub] = {}
        self._bell = _native_lock()
        self._bell.acquire()
        self._unclaimed = [True]  # who takes the element runs the thread; `pop` and `append` are atomic

    def add(self, watched: WatchedHub) -> None:
        """Watch it from now on."""
        self.hubs[id(watched.hub)] = watched
        if self._claim():
            _start_thread(self._run, ())
        else:
            self.ring()

    def remove(self, watched: WatchedHub) -> None:
        """Watch it no longer."""
        self.hubs.pop(id(watched.hub), None)
        self.ring()

    def ring(self) -> None:
        """Wake the thread, from any other."""
        try:
            self._bell.release()
        except RuntimeError:
            pass  # it has been rung already

    def _claim(self) -> bool:
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False

    def _run(self) -> None:
        while True:
            while self.hubs:
                self._watch()
            self._unclaimed.append(True)
            if not self.hubs or not self._claim():  # else one came just now
                return

    def _watch(self) -> None:
        if not self._awake():
            self._bell.acquire()
        awake = self._awake()
        now = time.monotonic()
        period = min((LONGEST_PERIOD, *(watched.seconds / POLLS for watched in awake)))
        for watched in awake:
            try:
                watched.look(now, period)
            except Exception:  # the hub was destroyed; or a mistake, and then the others are watched on
                self.hubs.pop(id(watched.hub), None)
        if self._bell.acquire(True, period):  # another hub has woken
            _sleep(max(0.0, period - (time.monotonic() - now)))

    def _awake(self) -> list[WatchedHub]:
        return [watched for watched in tuple(self.hubs.values()) if not watched.armed]


_sleep: Callable[[float], None] = monkey.get_original("time", "sleep")
_LINES = _Lines()
_WATCHDOG = Watchdog()


def _forked() -> None:
    """In a forked child: the thread and the hubs are the parent's."""
    global _WATCHDOG
    _WATCHDOG = Watchdog()


os.register_at_fork(after_in_child=_forked)


def routed(frame: FrameType | None) -> object:
    """What the code in *frame* or above it handles: a call, or the match of a plain route; `None` for neither."""
    while frame is not None:
        found = _handled(frame) if _module(frame) in _ROUTED else None
        if found is not None:
            return found
        frame = frame.f_back
    return None


def _handled(frame: FrameType) -> object:
    names = frame.f_code.co_varnames + frame.f_code.co_freevars
    present = [frame.f_locals.get(name) for name in ("call", "match") if name in names]
    return next((one for one in present if one is not None), None)


def _route_of(found: object, otherwise: str) -> str:
    route = found[0] if isinstance(found, tuple) and found else getattr(found, "route", None)
    pattern = getattr(route, "pattern", None)
    return pattern if isinstance(pattern, str) else otherwise


def _outermost(frame: FrameType) -> FrameType:
    """The frame that a greenlet began with, or a callback of the hub."""
    while frame.f_back is not None and frame.f_back.f_code is not _WAITS:
        frame = frame.f_back
    return frame


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
