"""Calls with idempotency keys: `keyed URL JOURNAL NAME`, until its input ends. Writes down what was acknowledged."""

import sys

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import os  # noqa: E402
import select  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402

from stress_parts.callers import calling  # noqa: E402
from webmesh import Aborted, Backoff, RequestError, TransportError, WebMeshClient  # noqa: E402

CALLERS = 8
TIMEOUT = 20.0
"""Seconds for one call; a link that is down for so long is a failure of its own."""
PAUSE = 0.01


class Caller:
    """All callers of this process: each works on one key until it is acknowledged, or known to be in doubt."""

    def __init__(self, url: str, journal: str, name: str) -> None:
        self.client = WebMeshClient(url, backoff=Backoff(maximum=0.5))
        self.journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.name = name
        self.counts: Counter[str] = Counter(calls=0, wrong=0, unknown=0, again=0)
        self.stopping = False

    def run(self, number: int) -> None:
        """Call until told to stop."""
        turn = 0
        while not self.stopping:
            turn += 1
            self._settle(f"{self.name}-{number}-{turn}")
            time.sleep(PAUSE)

    def _settle(self, key: str) -> None:
        while True:
            try:
                answer = self.client.call("/work", key, timeout=TIMEOUT, idempotency_key=key)
            except Aborted:  # a server was killed between the beginning and the end of it
                self.counts["unknown"] += 1
                return
            except (RequestError, TransportError) as error:
                self.counts["again"] += 1
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
                time.sleep(PAUSE)
                continue
            if answer == key:
                os.write(self.journal, f"{key}\n".encode())
            else:
                self.counts["wrong"] += 1
            self.counts["calls"] += 1
            return


def main() -> None:
    """Run all callers until the input ends."""
    caller = Caller(*sys.argv[1:4])
    with calling(caller, CALLERS):
        select.select([sys.stdin], [], [])  # the patched one; a plain read would hold the hub
        caller.stopping = True


if __name__ == "__main__":
    main()
