"""Calls at random: `asker PORT COUNT SECONDS patched|plain`. Some calls get too little time, some are given up."""

import sys

if __name__ == "__main__" and sys.argv[4] == "patched":
    from gevent import monkey

    monkey.patch_all()

import random  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402

from stress_parts.callers import calling  # noqa: E402
from webmesh import Cancelled, DeadlineExceeded, RequestTimeout, WebMeshClient  # noqa: E402

CALLERS = 40
"""Greenlets or threads that share the one connection."""
LATE = 0.08
"""Share of calls with less time than their handler takes, or hardly more; as many are given up."""


class Asker:
    """All callers of this process."""

    def __init__(self, port: int, count: int, seconds: float) -> None:
        self.client = WebMeshClient(f"ws://127.0.0.1:{port}")
        self.client.connect()
        self.left = count
        self.end = time.monotonic() + seconds
        self.counts: Counter[str] = Counter(calls=0, wrong=0, timeouts=0, cancels=0, failed=0)

    def run(self, seed: int) -> None:
        """Call until nothing is left to do."""
        chance = random.Random(seed)
        while self.left > 0 and time.monotonic() < self.end:
            self.left -= 1
            self.counts["calls"] += 1
            token = chance.getrandbits(60)
            try:
                self._one(chance, token)
            except (RequestTimeout, DeadlineExceeded):
                self.counts["timeouts"] += 1
            except Cancelled:
                self.counts["cancels"] += 1
            except Exception as error:
                self.counts["failed"] += 1
                print(f"{type(error).__name__}: {error}", file=sys.stderr)

    def _one(self, chance: random.Random, token: int) -> None:
        draw = chance.random()
        if draw < LATE:
            asked = {"seconds": chance.random() * 0.02, "token": token}
            answer = self.client.call("/after", asked, timeout=0.001 + chance.random() * 0.02)
        elif draw < 2 * LATE:
            future = self.client.spawn("/after", {"seconds": chance.random() * 0.01, "token": token}, timeout=30)
            time.sleep(chance.random() * 0.01)
            future.cancel()
            answer = future.result()
        elif draw < 3 * LATE:
            answer = self.client.call("/after", {"seconds": chance.random() * 0.01, "token": token}, timeout=30)
        else:
            answer = self.client.call("/echo", token, timeout=30)
        self.counts["wrong"] += answer != token


def main() -> None:
    """Run all callers to their end."""
    asker = Asker(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    with calling(asker, CALLERS):
        pass


if __name__ == "__main__":
    main()
