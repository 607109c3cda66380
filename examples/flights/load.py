"""Asks for quotes, and books, without end: `python -m examples.flights.load PEER [--seconds N] [--threads N]`.

A node of the mesh like the services, which nobody can dial. Counts what was promised: a quote never fails, whatever
becomes of an instance; a booking is made once or not at all, and what was confirmed is there. Exit status: 0 all was
kept, 1 something was not.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass

from webmesh import ReplyLost, RequestTimeout, WebMesh, WebMeshError

TIMEOUT = 10.0
"""Seconds for a call, in which another instance may answer."""
BOOKINGS = 3
"""Every third call is a booking; every other one of these with an idempotency key."""
CITIES = tuple("ZRH GVA BGO LIS KEF ATH JFK LAX BOG CPT NBO DEL BKK NRT PER AKL".split())
CURRENCIES = ("EUR", "USD", "GBP", "CHF", "JPY")


@dataclass(frozen=True)
class Row:
    """A line of the table: what was counted, and whether it is as it was promised."""

    what: str
    measured: str
    bound: str
    kept: bool

    def __str__(self) -> str:
        return f"{'kept' if self.kept else 'BROKEN':6}  {self.what:32}  {self.measured}  (promised: {self.bound})"


class Load:
    """Calls in several threads, until it is told to stop.

    Args:
        pause: Seconds between two calls of a thread, on the average.

    Attributes:
        customer: In whose name it books; another one each time.
        failed: Quotes that failed, and how.
        refused: Bookings that were answered with an error, by reference.
        unknown: Bookings of which nobody knows whether they were made: the instance that had them died.
        confirmed: Bookings that were made, as it was told.
        took: Seconds of the quotes.
    """

    def __init__(self, mesh: WebMesh, *, threads: int = 4, pause: float = 0.01) -> None:
        self.customer = f"load-{uuid.uuid4().hex[:8]}"
        self.failed: list[str] = []
        self.refused: dict[str, str] = {}
        self.unknown: dict[str, str] = {}
        self.confirmed: dict[str, int] = {}
        self.took: list[float] = []
        self._mesh, self._pause = mesh, pause
        self._numbers = itertools.count(1)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    @property
    def calls(self) -> int:
        """All so far."""
        return sum(map(len, (self.failed, self.refused, self.unknown, self.confirmed, self.took)))

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the calls in progress end."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        chance = random.Random()
        while not self._over.wait(chance.random() * 2 * self._pause):
            number = next(self._numbers)
            start, end = chance.sample(CITIES, 2)
            currency = chance.choice(CURRENCIES)
            if number % BOOKINGS:
                self._quote(start, end, currency)
            else:
                self._book(str(number), start, end, currency, keyed=number % (2 * BOOKINGS) == 0)

    def _quote(self, start: str, end: str, currency: str) -> None:
        began = time.monotonic()
        try:
            offers = self._mesh.call("routes", f"/quote/{start}/{end}", {"currency": currency}, timeout=TIMEOUT)
            assert offers[0]["currency"] == currency, offers
        except Exception as error:  # whatever it is, it is one too many
            self.failed.append(f"{start}-{end}: {type(error).__name__}: {error}")
        else:
            self.took.append(time.monotonic() - began)

    def _book(self, reference: str, start: str, end: str, currency: str, *, keyed: bool) -> None:
        booking = {
            "customer": self.customer, "reference": reference, "start": start, "end": end, "currency": currency,
        }  # fmt: skip
        # With a key it is sent again after a lost link, but to the same process only: the other one does not know what
        # that has done. Without, only if it surely was not begun.
        key = f"{self.customer} {reference}" if keyed else None
        try:
            made = self._mesh.call("routes", "/book", booking, idempotency_key=key, timeout=TIMEOUT)
        except (ReplyLost, RequestTimeout) as doubt:
            self.unknown[reference] = f"{type(doubt).__name__}: {doubt}"
        except WebMeshError as error:
            self.refused[reference] = f"{type(error).__name__}: {error}"
        else:
            self.confirmed[reference] = made["number"]

    def booked(self) -> Counter[str]:
        """Bookings by reference, and how often each was made."""
        return Counter(reference for _, reference in self._mesh.stream("routes", f"/bookings/{self.customer}"))

    def rows(self, *, certain: bool = False) -> list[Row]:
        """What it comes to, once it is stopped.

        Args:
            certain: No booking may be refused, or be in doubt.
        """
        booked = self.booked()
        twice = [reference for reference, times in booked.items() if times > 1]
        lost = [reference for reference in self.confirmed if not booked[reference]]
        false = [reference for reference in self.refused if booked[reference]]
        odd = len(self.unknown) + len(self.refused)
        made = sum(1 for reference in self.unknown if booked[reference])
        count = f"{len(self.took) + len(self.failed):,} quotes"
        bookings = f"{len(self.confirmed) + odd:,} bookings"
        times = [percentile(self.took, share) for share in (0.5, 0.99, 1.0)]
        bound = "0" if certain else "told"
        return [
            Row(f"failed idempotent calls of {count}", str(len(self.failed)), "0", bool(self.took) and not self.failed),
            Row(f"made twice of {bookings}", str(len(twice)), "0", bool(booked) and not twice),
            Row("confirmed, but not made", f"{len(lost)} of {len(self.confirmed):,}", "0", not lost),
            Row("refused, and made all the same", f"{len(false)} of {len(self.refused)}", "0", not false),
            Row("refused in all", str(len(self.refused)), bound, not (certain and self.refused)),
            Row("in doubt", f"{len(self.unknown)}, of which {made} were made", bound, not (certain and self.unknown)),
            Row("quotes: median, p99, slowest", " ".join(f"{1000 * one:.1f}" for one in times) + " ms", "told", True),
        ]  # fmt: skip


def percentile(values: list[float], share: float) -> float:
    """The value below which this share lies; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("peers", nargs="+", metavar="PEER", help="the URL of a node that is up")
    made.add_argument("--seconds", type=float, default=10.0, help="default 10")
    made.add_argument("--threads", type=int, default=4, help="that call at the same time; default 4")
    options = made.parse_args()
    with WebMesh(*options.peers) as mesh:
        for service in ("catalogue", "routes", "pricing"):
            mesh.await_service(service, timeout=10)
        load = Load(mesh, threads=options.threads)
        load.start()
        time.sleep(options.seconds)
        load.stop()
        rows = load.rows()
    print(*rows, *load.failed[:5], sep="\n")
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
