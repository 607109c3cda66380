"""Flights between airports, and bookings: `python -m examples.flights.routes [PEER…] [--store FILE]`, in a mesh.

Asks the two others, by name: the catalogue for airlines and distances, and pricing for fares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from examples.flights.bookings import Bookings
from examples.flights.instance import new_server, parser, run
from webmesh import InvalidArgument, Message, WebMesh

OFFERS = 3
"""Flights of one quote: those with the shortest ways."""

Offer = dict[str, Any]


class Routes:
    """Answers what flights there are.

    Attributes:
        mesh: By which the others are asked.
        quotes: Those of the present fares; another dict after each change of them.
    """

    mesh: WebMesh

    def __init__(self) -> None:
        self.quotes: dict[tuple[str, str, str], list[Offer]] = {}

    def fares_changed(self, payload: object, topic: str, message: Message) -> None:
        """Forget what was quoted. A gap is a change, too: of what it stands for nobody knows."""
        self.quotes = {}

    def quote(self, start: str, end: str, currency: str) -> list[Offer]:
        """The flights, the cheapest first."""
        if start == end:
            raise InvalidArgument("a flight ends elsewhere than it starts")
        quotes = self.quotes  # should the fares change meanwhile, this goes into a dict that nobody looks into any more
        found = quotes.get((start, end, currency))
        if found is None:
            quotes[start, end, currency] = found = self._ask(start, end, currency)
        return found

    def _ask(self, start: str, end: str, currency: str) -> list[Offer]:
        flights = [
            (airline, stops)
            for airline in self.mesh.call("catalogue", "/airlines")
            for stops in ways(start, end, airline["hubs"])
        ]
        legs = [leg for _, stops in flights for leg in zip(stops, stops[1:])]
        lengths = dict(zip(legs, self.mesh.call("catalogue", "/lengths", legs)))
        measured = [(airline, stops, [lengths[leg] for leg in zip(stops, stops[1:])]) for airline, stops in flights]
        best = sorted(measured, key=lambda one: sum(one[2]))[:OFFERS]
        asked = {"currency": currency, "flights": [kilometres for *_, kilometres in best]}
        fares = self.mesh.call("pricing", "/fares", asked)
        offers = [
            {
                "airline": airline["code"], "name": airline["name"], "stops": stops, "km": round(sum(kilometres), 1),
                "price": price, "currency": currency, "rates_of": fares["day"],
            }
            for (airline, stops, kilometres), price in zip(best, fares["prices"])
        ]  # fmt: skip
        return sorted(offers, key=lambda offer: offer["price"])


def ways(start: str, end: str, hubs: list[str]) -> list[list[str]]:
    """How an airline gets from here to there: directly if one of both is its hub, else by way of a hub."""
    if start in hubs or end in hubs:
        return [[start, end]]
    return [[start, hub, end] for hub in hubs]


def node(*peers: str, store: Bookings) -> WebMesh:
    """An instance, not started yet."""
    server, routes = new_server("routes"), Routes()

    @server.on("/quote/<code:start>/<code:end>", idempotent=True)
    def quote(payload: Any, path: str, client: object, start: str, end: str) -> list[Offer]:
        return routes.quote(start, end, (payload or {}).get("currency", "EUR"))

    # Not idempotent: a caller sends it again only if it surely was not begun.
    @server.on("/book")
    def book(payload: dict[str, str], path: str, client: object) -> dict[str, Any]:
        offer = routes.quote(payload["start"], payload["end"], payload["currency"])[0]
        flight = f"{offer['airline']} {'-'.join(offer['stops'])}"
        number = store.add(payload["customer"], payload["reference"], flight, offer["price"], offer["currency"])
        return {"number": number, "flight": flight, "price": offer["price"], "currency": offer["currency"]}

    @server.on("/bookings/<customer>", idempotent=True)
    def bookings(payload: object, path: str, client: object, customer: str) -> Iterator[tuple[int, str]]:
        return store.made(customer)

    routes.mesh = mesh = WebMesh(server, *peers)
    mesh.subscribe("fares/*", routes.fares_changed)
    return mesh


if __name__ == "__main__":
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--store", default="bookings.db", metavar="FILE", help="of the bookings; default bookings.db")
    options = made.parse_args()
    run(node(*options.peers, store=Bookings(options.store)), options)
