"""`WorkerTicket`: what the supervisor of `serve --workers` tells each worker. Pure."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field

VARIABLE = "WEBMESH_WORKER"
"""Tells a program which worker it runs in: 1, 2 and so on, the same after it was replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTicket:
    """What a worker is told by its supervisor."""

    slot: int
    """Which of the workers it is, from 1; a replacement has the number of the one that it replaces."""
    life: int
    """Of all that were ever started, the how manieth: no two are the same."""
    folder: str
    """Where the workers meet; only this user can reach it."""
    secret: str = field(repr=False)
    """Of their mesh."""
    host: str = ""
    port: int | None = None
    """Where all of them listen; `None` for a socket that they inherit."""
    fd: int | None = None
    """Its number."""
    fellows: int = 0
    """Workers that serve already: it is ready when it is linked to as many."""

    @property
    def group(self) -> str:
        """The same for all workers of one supervisor, and for nobody else."""
        return os.path.basename(self.folder)

    @property
    def node(self) -> str:
        """The id of its node, where its program is none by itself."""
        return f"{self.group}.{self.life}"

    @property
    def door(self) -> str:
        """The path of the socket at which the others dial it then."""
        return os.path.join(self.folder, f"{self.life}.sock")

    def to_text(self) -> str:
        """One line that `read_ticket` reads."""
        return json.dumps(asdict(self))


def read_ticket(text: str) -> WorkerTicket:
    """A ticket from its line."""
    return WorkerTicket(**json.loads(text))
