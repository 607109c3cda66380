"""`FolderDiscovery`: a register of nodes in a folder, for processes of one machine. Each has a file with its record.

A file that its node has not touched for the lease is one of a dead node, and is removed by whoever sees it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from webmesh.brokers.opening import query_options
from webmesh.discovery.base import Found
from webmesh.discovery.polling import MOST_FOUND, PolledDiscovery
from webmesh.discovery.urls import networks_text
from webmesh.exceptions import ConfigurationError, InvalidArgument, RegistryUnavailable
from webmesh.protocol.node_record import RECORD_SIZE, NodeRecord, read_record

INTERVAL = 0.5
"""Seconds between two looks: a listing of a folder costs microseconds."""

LEASE = 15.0
"""Seconds that a file counts without being touched; a node touches its own with each look."""

SUFFIX = ".node"


class FolderDiscovery(PolledDiscovery):
    """`file:///run/shop`. Whoever may write there can name any address: keep the folder to the services' own user.

    Args:
        folder: Its absolute path; made, for this user alone, where there is none.
        interval: Seconds between two looks.
        lease: See `LEASE`.

    Raises:
        ConfigurationError: A number makes no sense, or the path is not absolute.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, interval: float = INTERVAL, lease: float = LEASE,
        allow: Iterable[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(f"the folder {os.fspath(folder)}", interval=interval, timeout=lease / 3, allow=allow)
        if not interval < lease < 86400:
            raise ConfigurationError(f"lease is a number of seconds above the interval, not {lease!r}")
        self._folder = Path(folder)
        if not self._folder.is_absolute():
            raise ConfigurationError(f"the folder of nodes must be an absolute path, not {os.fspath(folder)!r}")
        self._lease = lease
        self._own: Path | None = None
        self._written: NodeRecord | None = None

    def look(self) -> list[Found]:
        """See `PolledDiscovery.look`; also touches this node's own file."""
        try:
            self._keep()
            touched = {name: _touched(name) for name in sorted(self._folder.glob(f"*{SUFFIX}"))[: MOST_FOUND + 1]}
        except OSError as error:
            raise RegistryUnavailable(f"{self.place}: {error.strerror}") from error
        # By the newest of them and not by a clock: that of the file system, or of this machine, may be another.
        due = max(touched.values(), default=0.0) - self._lease
        for name in [name for name, at in touched.items() if at < due]:
            _remove(name)
            del touched[name]
        entries = [self._read(name) for name in touched if name != self._own]
        return [entry for entry in entries if entry is not None]

    def close(self) -> None:
        """See `PolledDiscovery.close`."""
        own, self._own, self._written = self._own, None, None
        if own is not None:
            _remove(own)

    def _keep(self) -> None:
        """Have this node's file there, as new as possible."""
        record = self.me
        if record is None or not record.addresses:
            return
        own = file_of(self._folder, record.id)
        if record == self._written and own.exists():
            os.utime(own)
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = own.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(record.to_wire()), encoding="utf-8")
        draft.replace(own)  # at once: nobody reads half of it
        self._own, self._written = own, record

    def _read(self, name: Path) -> Found | None:
        """What stands there; `None` for what is no node's."""
        try:
            with name.open("rb") as file:
                record = read_record(json.loads(file.read(RECORD_SIZE + 1)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, InvalidArgument) as error:
            self.drop(1, str(error)[:200])
            return None
        return Found(record.addresses, record) if record.addresses else None


def file_of(folder: str | os.PathLike[str], node: str) -> Path:
    """Where the node with this id stands."""
    return Path(folder) / f"{quote(node, safe='')}{SUFFIX}"


def _touched(name: Path) -> float:
    """When that was; long ago where it is gone."""
    try:
        return name.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(name: Path) -> None:
    with contextlib.suppress(OSError):
        name.unlink()


def open_folder(url: str, *, allow: Iterable[str] = ()) -> FolderDiscovery:
    """What `file:///absolute/path?interval=&lease=&allow=` means.

    Raises:
        ConfigurationError: It is malformed.
    """
    parts = urlsplit(url)
    options = query_options(parts.query, {"interval": float, "lease": float, "allow": networks_text})
    if parts.netloc or len(parts.path) < 2:
        raise ConfigurationError("a folder of nodes is written file:///absolute/path")
    return FolderDiscovery(unquote(parts.path), **{"allow": allow} | options)
