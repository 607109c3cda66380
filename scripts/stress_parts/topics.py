"""Publishers, subscribers, the server and its engine are killed in turn under load: is anything lost, or lost untold?

Publishers write into their journals what was acknowledged, subscribers write into ledgers what they got; both survive
a SIGKILL. `feed/*` keeps everything, `small/*` so little that subscribers who come back have gaps, of which they must
be told; on `work/*` each message must be acknowledged by one of a group.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench_parts.load import LoadFailed
from stress_parts.processes import START_TIMEOUT, Node, Worker, free_port
from stress_parts.redis_server import PROGRAM, RedisServer
from stress_parts.results import Result
from stress_parts.scale import Scale
from stress_parts.subscriber import GAP, read_ledger

KEPT = 1_000_000
"""Publications of `feed/*` that are kept: more than there will be."""
SMALL = 20
TOPICS = {
    "feed/*": {"history": KEPT},
    "small/*": {"history": SMALL},
    "work/*": {"ack": True, "redelivery": {"first": 2.0, "most": 5.0, "attempts": 1_000}},
}
PUBLISHED = ("feed/a", "feed/b", "small/a", "small/b", "work/a", "work/b")
READ = ("feed/a", "feed/b", "small/a", "small/b")
PUBLISHERS = 2
WORKERS = 2
LONGEST = 300.0
"""Seconds of one engine after which no more is killed; the table says how often it was."""
PAUSE = 0.4
"""Seconds of load before each kill, on the average."""
OUTAGE = 0.3
"""Seconds for which Redis is away."""
PATIENCE = 90.0
"""Seconds in which what was acknowledged has to arrive once nothing is killed any more."""


class Books:
    """What was acknowledged, and what arrived."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def acknowledged(self) -> set[tuple[str, str]]:
        """Topic and key of each publication in the journals."""
        lines = (line for file in self.folder.glob("journal-*") for line in file.read_text().splitlines())
        return {(topic, key) for topic, _, key in (line.partition(" ") for line in lines)}

    def read(self) -> list[list[Any]]:
        """Lines of those who read the history, in order."""
        return list(read_ledger(self.folder / "reader"))

    def done(self) -> Counter[tuple[str, str]]:
        """What members of the group have done, and how often."""
        lines = (line for file in self.folder.glob("worker-?") for line in read_ledger(file))
        return Counter((topic, key) for topic, _, _, key in (line for line in lines if line[1] != GAP))

    def missing(self) -> set[tuple[str, str]]:
        """Acknowledged, and arrived nowhere; of what is kept whole."""
        arrived = {(line[0], line[3]) for line in self.read() if line[1] != GAP} | set(self.done())
        return {one for one in self.acknowledged() - arrived if not one[0].startswith("small/")}

    def account(self) -> Counter[str]:
        """Holes between offsets that nobody told of, those that were told, and what came twice."""
        found: Counter[str] = Counter(untold=0, told=0, twice=0, backwards=0)
        last: dict[str, tuple[int, str]] = {}
        told: set[str] = set()
        keys: Counter[tuple[str, str]] = Counter()
        for topic, offset, *rest in self.read():
            if offset == GAP:
                told.add(topic)
                continue
            epoch, key = rest
            keys[topic, key] += 1
            before, old_epoch = last.get(topic, (offset - 1, epoch))
            if offset != before + 1 or epoch != old_epoch:
                found["told" if topic in told else "backwards" if offset <= before else "untold"] += 1
            told.discard(topic)
            last[topic] = (offset, epoch)
        found["twice"] = sum(1 for many in keys.values() if many > 1)
        return found


class Battle:
    """All who take part."""

    def __init__(self, folder: Path, *, redis: bool) -> None:
        self.folder = folder
        self.books = Books(folder)
        self.chance = random.Random(1)
        self.counts: Counter[str] = Counter()
        self.port = free_port()
        self.redis = RedisServer(folder / "redis") if redis else None
        try:
            self._begin()
        except BaseException:
            if self.redis is not None:
                self.redis.kill()
            raise
        self.kinds = ["server", "reader", "worker", "publisher", *(["redis"] if redis else [])]

    def _begin(self) -> None:
        self.node = self._new_node()
        self.workers = [self._new_worker(number) for number in range(WORKERS)]
        self.reader = self._new_reader()
        self._await_subscribers()  # what is published before there is a group is nobody's
        self.publishers = [self._new_publisher() for _ in range(PUBLISHERS)]

    def _new_node(self) -> Node:
        engine = self.redis.url if self.redis else f"sqlite:///{self.folder / 'topics.db'}"
        return Node(port=self.port, server={"broker": engine}, topics=TOPICS)

    @property
    def _url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def _new_publisher(self) -> Worker:
        self.counts["publishers"] += 1
        name = f"p{self.counts['publishers']}"
        return Worker("publisher", self._url, self.folder / f"journal-{name}", name, *PUBLISHED)

    def _new_worker(self, number: int) -> Worker:
        return Worker("subscriber", self._url, self.folder / f"worker-{number}", "work", "work/*")

    def _new_reader(self) -> Worker:
        return Worker("subscriber", self._url, self.folder / "reader", "history", *READ)

    def _await_subscribers(self) -> None:
        end = time.monotonic() + START_TIMEOUT
        while len(list(self.folder.glob("*.ready"))) < WORKERS + 1:
            if time.monotonic() > end:
                raise LoadFailed("the subscribers did not subscribe")
            time.sleep(0.01)

    def kill(self, turn: int) -> None:
        """One of them; each in its turn."""
        kind = self.kinds[turn % len(self.kinds)]
        self.counts[kind] += 1
        if kind == "server":
            self.node.__exit__(None, None, None)
            self.node = self._new_node()
        elif kind == "redis":
            assert self.redis is not None
            self.redis.restart(OUTAGE)
        elif kind == "reader":
            self.reader.kill()
            self.reader = self._new_reader()
        elif kind == "worker":
            number = self.chance.randrange(WORKERS)
            self.workers[number].kill()
            self.workers[number] = self._new_worker(number)
        else:
            number = self.chance.randrange(PUBLISHERS)
            self.publishers[number].kill()
            self.publishers[number] = self._new_publisher()

    def end(self) -> Counter[str]:
        """Let publishers finish and everything arrive; what the publishers tell."""
        told: Counter[str] = Counter()
        for publisher in self.publishers:
            told.update(publisher.finish(PATIENCE))
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.books.missing():
            time.sleep(0.2)
        for subscriber in (self.reader, *self.workers):
            subscriber.finish(PATIENCE)
        return told

    def close(self) -> None:
        """End everything."""
        for worker in (self.reader, *self.workers, *self.publishers):
            if worker.process.poll() is None:
                worker.kill()
        self.node.__exit__(None, None, None)
        if self.redis is not None:
            self.redis.kill()


def fight(scale: Scale, *, redis: bool) -> list[Result]:
    """Kill, and then compare the books."""
    kills = scale.of(500, quick=5 if redis else 4)
    with tempfile.TemporaryDirectory(prefix="webmesh-stress-") as place:
        battle = Battle(Path(place), redis=redis)
        try:
            end = time.monotonic() + scale.size(LONGEST, quick=30.0)
            done = 0
            while done < kills and time.monotonic() < end:
                time.sleep(battle.chance.random() * 2 * PAUSE)
                battle.kill(done)
                done += 1
            told = battle.end()
        finally:
            battle.close()
        books = battle.books
        published, lost, account = books.acknowledged(), books.missing(), books.account()
        work = books.done()
    kinds = ", ".join(f"{battle.counts[kind]} of a {kind}" for kind in battle.kinds)
    what = f"{'redis' if redis else 'sqlite'}: {done:,} kills ({kinds}), {len(published):,} acknowledged publications"
    again = sum(1 for many in work.values() if many > 1)
    gaps = f"{account['untold']} gaps untold, {account['told']} told"
    repeats = f"{account['twice']} published twice, {account['backwards']} out of order"
    return [
        Result("topics", what, f"{len(lost)} acknowledged publications lost", "0", not lost),
        Result("topics", what, gaps, "0 untold", not account["untold"]),
        Result("topics", what, repeats, "0", not account["twice"] and not account["backwards"]),
        Result("topics", what, f"{again:,} of {len(work):,} worked on again", "allowed: at least once", True),
        Result("topics", what, f"{len(published):,} went through, {told['given_up']} given up",
               "≥ 10 for each kill", len(published) >= 10 * done, timing=True),
    ]  # fmt: skip


def run(scale: Scale) -> list[Result]:
    """With the engine in a file, and with Redis where it is installed."""
    results = fight(scale, redis=False)
    if PROGRAM is None:
        return [*results, Result("topics", "redis", "not installed: redis-server", "–", True)]
    return [*results, *fight(scale, redis=True)]
