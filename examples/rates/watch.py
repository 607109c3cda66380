"""Shows the rates as they come: `python watch.py [URL] [--currencies USD,GBP] [--until DAY]`.

The server may be killed as often as you like: the client comes back by itself, and gets what it has missed. That it
did is counted here: every rate has a number in its topic, and none may be left out or come twice.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time

from webmesh import LinkEvent, Message, WebMeshClient

UP, DOWN, SAME = "▲", "▼", " "


class Watch:
    """What was seen so far."""

    def __init__(self, currencies: list[str], until: str) -> None:
        self.currencies = currencies
        self.until = until
        self.numbers: dict[str, int] = {}
        self.rates: dict[str, float] = {}
        self.days: dict[str, str] = {}
        self.arrows = dict.fromkeys(currencies, SAME)
        self.day = ""
        self.seen = self.missed = self.twice = self.lost = 0
        self.recovered = 0  # of those published while the link was down
        self.back_at = 0.0
        self.away = False
        self.over = threading.Event()
        self.lock = threading.Lock()  # one subscription's callbacks run one after another, those of several at once

    def take(self, payload: object, topic: str, message: Message) -> None:
        """One rate, or the news that some are gone for good."""
        with self.lock:
            if message.event == "gap":
                self.say(f"{topic}: some are lost")
                return
            number, last = message.offset or 0, self.numbers.get(topic)
            if last is not None and number <= last:
                self.twice += 1
                return
            if last is not None:
                self.missed += number - last - 1
            self.numbers[topic] = number
            self.seen += 1
            self.show(topic.removeprefix("rates/"), message)

    def show(self, currency: str, message: Message) -> None:
        """A line for each day, once the first rate of the next one comes."""
        day, rate = message.payload["day"], message.payload["rate"]
        if message.payload["at"] < self.back_at and not message.retained:
            self.recovered += 1
        if day > self.day:
            if self.day:
                values = (f"{one} {self.rates[one]:<9.6g}{self.arrows[one]}" for one in self.rates)
                print(self.day, *values, sep="  ", flush=True)
            self.day = day
        before = self.rates.get(currency, rate)
        self.arrows[currency] = UP if rate > before else DOWN if rate < before else SAME
        self.rates[currency] = rate
        self.days[currency] = day
        if len(self.days) == len(self.currencies) and min(self.days.values()) >= self.until:
            self.over.set()

    def link(self, event: LinkEvent) -> None:
        """The server is gone, or back."""
        if event.state == "lost":
            self.lost += 1
            self.away = True
            self.say(f"the server is gone ({event.reason})")
        elif event.state == "connected" and self.away:
            self.away = False
            self.back_at = time.time()
            self.say("the server is back")

    def say(self, text: str) -> None:
        """About the link, beside the rates."""
        print(f"-- {text}", flush=True)

    def total(self) -> str:
        """What it comes to."""
        return (
            f"{self.seen:,} rates, {self.missed} missed, {self.twice} twice; the server was lost {self.lost} times, "
            f"recovered {self.recovered}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:4269")
    parser.add_argument("--currencies", default="USD,GBP,CHF,JPY", type=lambda text: text.split(","))
    parser.add_argument("--until", default="9999", metavar="DAY", help="a working day, the last one, as 1999-12-31")
    options = parser.parse_args()
    watch = Watch(options.currencies, options.until)
    signal.signal(signal.SIGINT, lambda number, frame: watch.over.set())
    with WebMeshClient(options.url) as client:
        client.on_state(watch.link)
        for currency in options.currencies:
            client.subscribe(f"rates/{currency}", watch.take, since="last")
        watch.over.wait()
    watch.say(watch.total())
    return 1 if watch.missed or watch.twice else 0


if __name__ == "__main__":
    sys.exit(main())
