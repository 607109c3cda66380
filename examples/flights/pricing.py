"""What flights cost: `python -m examples.flights.pricing [PEER…] [--day SECONDS]`, a service of a mesh.

By distance, in any currency that the European Central Bank has a rate for. Its rates, those of examples/rates, are
played again: a working day since 1999 lasts a few seconds. Which one it is follows from the clock, so all instances
agree without a word.
"""

from __future__ import annotations

import threading
import time

from examples.flights.instance import new_server, parser, run
from examples.rates import rates
from webmesh import InvalidArgument, WebMesh, WebMeshError

PER_LEG, PER_KILOMETRE = 35.0, 0.085
"""In euros. Invented."""
TOLD = ("USD", "GBP", "CHF", "JPY")
"""Currencies whose fares are published as they change."""


class Rates:
    """What a euro costs just now.

    Args:
        seconds: For which a day lasts.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.days = list(rates.days())

    def turn(self) -> int:
        """How many days there have been: the same number in all processes."""
        return int(time.time() / self.seconds)

    def day(self, turn: int) -> tuple[str, dict[str, float]]:
        """The day, as 1999-01-04, and its rates; after the last comes the first."""
        return self.days[turn % len(self.days)]


def node(*peers: str, table: Rates) -> WebMesh:
    """An instance, not started yet."""
    server = new_server("pricing")

    @server.on("/fares", idempotent=True)
    def fares(payload: dict[str, object], path: str, client: object) -> dict[str, object]:
        """The price of each flight, which is a list of the lengths of its legs."""
        day, values = table.day(table.turn())
        currency, flights = payload["currency"], payload["flights"]
        rate = 1.0 if currency == "EUR" else values.get(currency)
        if rate is None:
            raise InvalidArgument(f"on {day} the European Central Bank has no rate for {currency}")
        return {"day": day, "prices": [round(price(legs) * rate, 2) for legs in flights]}

    return WebMesh(server, *peers)


def price(legs: list[float]) -> float:
    """In euros."""
    return sum(PER_LEG + PER_KILOMETRE * kilometres for kilometres in legs)


def publish_fares(mesh: WebMesh, over: threading.Event, table: Rates) -> None:
    """Publish each day's rates.

    Every instance does; since all name a publication alike (`dedupe_id`), the mesh keeps and delivers the first.
    """
    turn = table.turn()
    while not over.wait(max(0.0, (turn + 1) * table.seconds - time.time())):
        turn = table.turn()
        day, values = table.day(turn)
        for currency in TOLD:
            told = {"turn": turn, "day": day, "rate": values[currency]}
            try:
                mesh.publish(f"fares/{currency}", told, dedupe_id=str(turn))
            except WebMeshError as error:  # the other instance has published it, or the next day's will do
                print(f"fares of {currency} on {day}: {error}", flush=True)


if __name__ == "__main__":
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--day", type=float, default=2.0, metavar="SECONDS", help="for which a day lasts; default 2")
    options = made.parse_args()
    table = Rates(options.day)
    run(node(*options.peers, table=table), options, lambda mesh, over: publish_fares(mesh, over, table))
