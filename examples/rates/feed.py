"""Publishes the rates day by day: `python feed.py [URL] [--speed DAYS] [--until DAY]`, from where it was left off.

A publication comes back when the server has it in its file. If the server is killed meanwhile, the client sends it
again, under an id by which a server that had it knows it; so nothing is published twice or left out.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import rates
from webmesh import WebMeshClient

PATIENCE = 60.0
"""Seconds for which a server may be away."""


class Feed:
    """Knows up to which day each currency is published."""

    def __init__(self, client: WebMeshClient) -> None:
        self.client = client
        self.done: dict[str, str] = defaultdict(str)
        for currency in {currency for _, values in rates.days() for currency in values}:
            newest = client.history(f"rates/{currency}", limit=1, reverse=True).items
            if newest:
                self.done[currency] = newest[0].payload["day"]

    def publish(self, day: str, values: dict[str, float]) -> int:
        """The rates of one day; how many of them were news."""
        news = [currency for currency in values if self.done[currency] < day]
        for currency in news:
            payload = {"day": day, "rate": values[currency], "at": time.time()}
            self.client.publish(f"rates/{currency}", payload, dedupe_id=day, timeout=PATIENCE)
        return len(news)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:4269")
    parser.add_argument("--speed", type=float, default=10.0, metavar="DAYS", help="days a second; default 10")
    parser.add_argument("--until", default="9999", metavar="DAY", help="the last one, as 1999-12-31")
    options = parser.parse_args()
    with WebMeshClient(options.url) as client:
        feed, published = Feed(client), 0
        for day, values in rates.days():
            if day > options.until:
                break
            news = feed.publish(day, values)
            published += news
            if news:
                time.sleep(1 / options.speed)
    print(f"published {published:,} rates")


if __name__ == "__main__":
    main()
