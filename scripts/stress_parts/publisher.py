"""Publications with dedupe ids: `publisher URL JOURNAL NAME TOPIC…`, until its input ends.

Each goes to the next of the topics. What was acknowledged is written down; what was not is published again with the
same id, for as long as that is remembered.
"""

import sys

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402
import select  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402

from webmesh import Backoff, RequestError, TransportError, WebMeshClient  # noqa: E402

PUBLISHERS = 4
TIMEOUT = 10.0
"""Seconds for one attempt."""
PAUSE = 0.01
ATTEMPTS = 8
"""Of one publication, all within the two minutes for which its id is remembered."""


class Publisher:
    """All publishers of this process."""

    def __init__(self, url: str, journal: str, name: str, *topics: str) -> None:
        self.client = WebMeshClient(url, backoff=Backoff(maximum=0.5))
        self.journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.name = name
        self.topics = topics
        self.counts: Counter[str] = Counter(published=0, again=0, given_up=0)
        self.stopping = False

    def run(self, number: int) -> None:
        """Publish until told to stop."""
        turn = 0
        while not self.stopping:
            turn += 1
            self._settle(self.topics[turn % len(self.topics)], f"{self.name}-{number}-{turn}")
            time.sleep(PAUSE)

    def _settle(self, topic: str, key: str) -> None:
        for _ in range(ATTEMPTS):
            try:
                self.client.publish(topic, key, dedupe_id=key, timeout=TIMEOUT)
            except (RequestError, TransportError) as error:
                self.counts["again"] += 1
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
                time.sleep(PAUSE * 10)
                continue
            os.write(self.journal, f"{topic} {key}\n".encode())
            self.counts["published"] += 1
            return
        self.counts["given_up"] += 1


def main() -> None:
    """Run all publishers until the input ends."""
    publisher = Publisher(*sys.argv[1:])
    threads = [threading.Thread(target=publisher.run, args=(number,)) for number in range(PUBLISHERS)]
    for thread in threads:
        thread.start()
    select.select([sys.stdin], [], [])  # the patched one; a plain read would hold the hub
    publisher.stopping = True
    for thread in threads:
        thread.join()
    publisher.client.close()
    print(json.dumps(publisher.counts))


if __name__ == "__main__":
    main()
