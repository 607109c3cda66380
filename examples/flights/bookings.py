"""Bookings in an SQLite file, which the instances of a service on one machine share. An ordinary blocking module.

Nothing here hinders a booking from being made twice: that it is not is the callers' business, and is counted.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator

__all__ = ["Bookings"]

PAGE = 500  # rows that `made` reads at once
BUSY_SECONDS = 10.0  # a write waits for so long for another process


class Bookings:
    """The file at *path*; may be used from any number of threads."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        # What is written survives the end of the process at once; for that of the machine it would be synchronous=full.
        self._database.execute("PRAGMA journal_mode = wal")
        self._database.execute("PRAGMA synchronous = normal")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS booking"
            " (number INTEGER PRIMARY KEY, customer TEXT, reference TEXT, flight TEXT, price REAL, currency TEXT)"
        )

    def add(self, customer: str, reference: str, flight: str, price: float, currency: str) -> int:
        """Make a booking; its number. It is in the file when this returns."""
        with self._lock:
            made = self._database.execute(
                "INSERT INTO booking (customer, reference, flight, price, currency) VALUES (?, ?, ?, ?, ?)",
                (customer, reference, flight, price, currency),
            )
            return int(made.lastrowid or 0)

    def made(self, customer: str) -> Iterator[tuple[int, str]]:
        """Number and reference of each booking of a customer, the oldest first."""
        last = 0
        while True:
            with self._lock:
                page = self._database.execute(
                    "SELECT number, reference FROM booking WHERE customer = ? AND number > ? ORDER BY number LIMIT ?",
                    (customer, last, PAGE),
                ).fetchall()
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1][0]

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
