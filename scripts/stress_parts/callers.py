"""What programs that call from many threads share. Import it after patching, if the process is to be patched."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from webmesh import WebMeshClient


class Callers(Protocol):
    """All callers of one process, which share its client."""

    client: WebMeshClient
    counts: Counter[str]

    def run(self, number: int) -> None:
        """What caller *number* does."""


@contextmanager
def calling(callers: Callers, count: int) -> Iterator[None]:
    """So many run meanwhile; when they have ended, the client is closed and the counts are printed."""
    threads = [threading.Thread(target=callers.run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
    callers.client.close()
    print(json.dumps(callers.counts))
