"""`FaultProxy`: stands between a client and a server, and does to their bytes what networks do.

For tests. Knows bytes and sockets only, so TLS passes through and any protocol may be spoken. Lives in a hub of
its own, in a patched process and in a plain one. What becomes of one connection is `fault_pair`.
"""

from __future__ import annotations

import os
import socket as constants
import stat
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import gevent
from gevent import socket

from webmesh.exceptions import ConfigurationError, LocalProtocolError
from webmesh.fault_pair import DIRECTIONS, Pair, Rules
from webmesh.websocket.hub import HubThread
from webmesh.websocket.target import Target, parse_url
from webmesh.websocket.upgraded import address_text, tune

BACKLOG = 1024
"""Connections that may wait to be accepted: more than a test makes at once."""

BOTH = "both"


@dataclass(slots=True)
class _Admission:
    """What happens to connections that come."""

    limit: int | None = None
    half_open: tuple[str, ...] = ()
    cuts: dict[str, int] = field(default_factory=dict)
    repeat: bool = False


class FaultProxy:
    """A proxy whose faults are set while it runs; without any it passes everything on.

    Use it as a context manager. Each fault takes `direction`: `up` from the client to the server, `down` from the
    server to the client, or `both`. Every method may be called from any thread and any greenlet, and has taken
    effect when it returns.

    Args:
        target: A server that listens (anything with a `url`), a URL, `host:port`, `unix:/path` or `(host, port)`.
        host, port: Where to listen; port 0 lets the system choose.
        unix: Path of a Unix socket to listen on instead.
        seed: Decides the jitter: the same seed gives the nth connection the same delays.

    Attributes:
        counts: What has happened: `accepted`, `failed` (the target could not be reached), `turned_away` (over the
            limit), `cut`, `reset`, and in bytes `up`, `down`, `swallowed`, `duplicated`.

    Raises:
        ConfigurationError: *target* is none of these.
    """

    def __init__(
        self,
        target: Any,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        unix: str | None = None,
        seed: int = 0,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._target, self._given = _target_of(target)
        self._family = constants.AF_UNIX if unix else constants.AF_INET6 if ":" in host else constants.AF_INET
        self._wanted: Any = unix or (host, port)
        self._seed = seed
        self._rules = {direction: Rules() for direction in DIRECTIONS}
        self._coming = _Admission()
        self._pairs: set[Pair] = set()
        self._home = HubThread("webmesh-fault-proxy")
        self._listening: Any = None
        self._placeholder: Any = None
        self._accepting: Any = None
        self._number = 0
        self._started = self._stopped = False

    def start(self) -> FaultProxy:
        """Listen from now on; returns the proxy itself. A `with` block does it, and closes at its end.

        Raises:
            LocalProtocolError: It has been started before: a proxy runs once.
            OSError: It cannot listen there.
        """
        if self._started:
            raise LocalProtocolError("a proxy runs once: make another one")
        self._started = True
        self._home.start()
        try:
            self._home.run(self._open)
        except BaseException:
            self._stopped = True
            self._home.stop()
            raise
        return self

    def close(self) -> None:
        """Cut all connections, stop listening, end the thread. Safe to call twice, and before the start."""
        if self._started and not self._stopped:
            self._stopped = True
            self._home.run(self._shut_down)
            self._home.stop()

    @property
    def address(self) -> str:
        """Where it listens: `127.0.0.1:43121`, `unix:/run/shop.sock`."""
        return address_text(self._family, self._wanted)

    @property
    def url(self) -> str:
        """What a client dials to reach the target through the proxy; a name in the target's URL stays, for TLS."""
        given = self._given
        path = "" if given is None or given.resource == "/" else given.resource
        if self._family == constants.AF_UNIX:
            return f"ws+unix://{quote(self._wanted, safe='')}{path}"
        secure, host = (given.secure, given.host) if given is not None else (False, "")
        named = bool(host) and not host.replace(".", "").isdigit() and ":" not in host
        authority = f"{host}:{self._wanted[1]}" if named else self.address
        return f"{'wss' if secure else 'ws'}://{authority}{path}"

    @property
    def connections(self) -> tuple[Pair, ...]:
        """The connections that are open now, in the order in which they came."""
        return tuple(sorted(tuple(self._pairs), key=lambda pair: pair.number))

    def retarget(self, target: Any) -> None:
        """Lead connections that come from now on elsewhere, as to a server that was started again."""
        self._target, self._given = _target_of(target)

    # --------------------------------------------------------------------- faults

    def latency(self, seconds: float, jitter: float = 0.0, direction: str = BOTH) -> None:
        """Pass bytes on *seconds* later, plus or minus up to *jitter*; their order stays."""
        _not_negative("jitter", jitter)
        self._set(direction, latency=_not_negative("seconds", seconds), jitter=jitter)

    def bandwidth(self, bytes_per_second: float | None, direction: str = BOTH) -> None:
        """Pass on at most so much; `None` lifts it."""
        if bytes_per_second is not None:
            _positive("bytes_per_second", bytes_per_second)
        self._set(direction, bandwidth=bytes_per_second)

    def slice(self, size: int | None, direction: str = BOTH, *, pause: float = 0.0) -> None:
        """Pass on at most *size* bytes at a time; `None` lifts it.

        Args:
            pause: Seconds between two pieces. The kernel may join pieces that nobody has read yet: a pause makes
                that unlikely.
        """
        if size is not None:
            size = int(_positive("size", size))
        self._set(direction, size=size, pause=_not_negative("pause", pause))

    def stall(self, direction: str = BOTH) -> None:
        """Take and pass on nothing until `resume`: kernels go on to acknowledge, until their buffers are full."""
        for name in _directions(direction):
            self._in_hub(self._rules[name].flowing.clear)

    def resume(self, direction: str = BOTH) -> None:
        """End a stall; nothing was lost."""
        for name in _directions(direction):
            self._in_hub(self._rules[name].flowing.set)

    def duplicate(self, size: int, direction: str = BOTH) -> None:
        """Send the next *size* bytes of each open connection twice: all of them, then all of them again."""
        size = int(_positive("size", size))
        names = _directions(direction)

        def duplicate() -> None:
            for pair in self._pairs:
                for name in names:
                    pair.pumps[name].duplicate(size)

        self._in_hub(duplicate)

    def cut(self, after_bytes: int = 0, direction: str = BOTH, *, repeat: bool = False) -> None:
        """Close each open connection on both sides once *after_bytes* more have passed: in the middle of a frame.

        With no connection open, it waits for the next one.

        Args:
            repeat: Also do so to every connection that comes, until `heal`.
        """
        left = int(_not_negative("after_bytes", after_bytes))
        names = _directions(direction)

        def cut() -> None:
            if repeat or not self._pairs:
                self._coming.cuts, self._coming.repeat = dict.fromkeys(names, left), repeat
            for pair in tuple(self._pairs):
                pair.cut_after(left, names)

        self._in_hub(cut)

    def reset(self) -> None:
        """End each open connection with a TCP reset to both sides (a Unix socket is just closed)."""

        def reset() -> None:
            for pair in tuple(self._pairs):
                pair.end("reset")

        self._in_hub(reset)

    def half_open(self, direction: str = BOTH) -> None:
        """Swallow everything without a word, the end of connections too, as when a machine or its network vanishes.

        What was swallowed is gone, so connections that are open now stay so after `heal`; those that come
        are accepted and get no answer until then.
        """
        names = _directions(direction)

        def swallow() -> None:
            self._coming.half_open = names
            for pair in self._pairs:
                pair.swallow(names)

        self._in_hub(swallow)

    def refuse(self) -> None:
        """Refuse new connections, as when no process listens there; open ones live on."""
        self._in_hub(self._close_door)

    def limit(self, connections: int | None) -> None:
        """Reset new connections while so many are open; `None` lifts it."""
        self._coming.limit = None if connections is None else int(_not_negative("connections", connections))

    def heal(self) -> None:
        """End all faults; half-open connections stay what they are."""

        def heal() -> None:
            self._coming = _Admission()
            for rules in self._rules.values():
                rules.heal()
            for pair in self._pairs:
                pair.heal()
            if self._listening is None:
                self._open()

        self._in_hub(heal)

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FaultProxy {self.address} connections={len(self._pairs)}>"

    def _set(self, direction: str, **values: Any) -> None:
        for name in _directions(direction):
            for key, value in values.items():
                setattr(self._rules[name], key, value)

    def _in_hub(self, function: Callable[[], None]) -> None:
        self._home.run(function)

    # --------------------------------------------------- in the hub from here on

    def _bound(self) -> Any:
        sock = socket.socket(self._family, constants.SOCK_STREAM)
        if self._family != constants.AF_UNIX:
            # So that the port can be held by a socket that does not listen, and is nobody else's meanwhile.
            sock.setsockopt(constants.SOL_SOCKET, constants.SO_REUSEPORT, 1)
        try:
            sock.bind(self._wanted)
        except BaseException:
            sock.close()
            raise
        return sock

    def _open(self) -> None:
        if self._family == constants.AF_UNIX:
            _remove_socket(self._wanted)
        self._listening = sock = self._bound()
        sock.listen(BACKLOG)
        if self._family != constants.AF_UNIX:
            self._wanted = sock.getsockname()[:2]
        if self._placeholder is not None:
            self._placeholder.close()
            self._placeholder = None
        self._accepting = gevent.spawn(self._accept, sock)

    def _close_door(self) -> None:
        if self._listening is None:
            return
        if self._family != constants.AF_UNIX:  # the file of a Unix socket that nobody has refuses by itself
            self._placeholder = self._bound()
        self._accepting.kill()
        self._listening.close()
        self._listening = None

    def _accept(self, listening: Any) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                gevent.sleep(0.01)  # as without descriptors: the next one may be well
                continue
            gevent.spawn(self._meet, client)

    def _meet(self, client: Any) -> None:
        tune(client)
        self.counts["accepted"] += 1
        self._number += 1
        pair = Pair(self._number, client, self._rules, self.counts, seed=self._seed)
        if self._coming.limit is not None and len(self._pairs) >= self._coming.limit:
            self.counts["turned_away"] += 1
            pair.end("turned_away")
            return
        self._pairs.add(pair)
        pair.on_end = self._pairs.discard
        pair.swallow(self._coming.half_open)
        for name, left in self._coming.cuts.items():
            pair.pumps[name].cut_left = left
        if not self._coming.repeat:
            self._coming.cuts = {}
        pair.run(None if len(self._coming.half_open) == len(DIRECTIONS) else self._dial)

    def _dial(self) -> Any:
        target = self._target
        if target.unix_path:
            sock = socket.socket(constants.AF_UNIX, constants.SOCK_STREAM)
            try:
                sock.connect(target.unix_path)
            except BaseException:
                sock.close()
                raise
        else:
            sock = socket.create_connection((target.host, target.port))
        tune(sock)
        return sock

    def _shut_down(self) -> None:
        self._close_door()
        if self._placeholder is not None:
            self._placeholder.close()
        for pair in tuple(self._pairs):
            pair.end("closed")
        if self._family == constants.AF_UNIX:
            _remove_socket(self._wanted)


def _remove_socket(path: str) -> None:
    """Remove what a socket has left there; a file is somebody's."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


def _target_of(target: Any) -> tuple[Target, Target | None]:
    """What is dialled, and the URL that it was given by, if it was one."""
    if isinstance(target, tuple):
        if len(target) < 2:
            raise ConfigurationError(f"an address is a host and a port, not {target!r}")
        target = "{}:{}".format(*target[:2]) if ":" not in str(target[0]) else "[{}]:{}".format(*target[:2])
    text = getattr(target, "url", target)
    if not isinstance(text, str):
        raise ConfigurationError(f"a proxy leads to a server, a URL or an address, not to {target!r}")
    if "://" in text:
        parsed = parse_url(text)
        return parsed, parsed
    if text.startswith("unix:"):
        return parse_url(f"ws+unix://{quote(text.removeprefix('unix:'), safe='')}"), None
    if not _has_port(text):
        raise ConfigurationError(f"an address has a port, as 127.0.0.1:4269, and {text!r} has none")
    return parse_url(f"ws://{text}"), None


def _has_port(text: str) -> bool:
    try:
        return urlsplit(f"//{text}").port is not None
    except ValueError:
        return False


def _directions(direction: str) -> tuple[str, ...]:
    if direction not in (*DIRECTIONS, BOTH):
        raise ConfigurationError(f"direction must be up, down or both, not {direction!r}")
    return DIRECTIONS if direction == BOTH else (direction,)


def _not_negative(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ConfigurationError(f"{name} must be 0 or more, not {value!r}")
    return value


def _positive(name: str, value: float) -> float:
    if not _not_negative(name, value):
        raise ConfigurationError(f"{name} must be above 0")
    return value
