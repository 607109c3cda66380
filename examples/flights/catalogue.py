"""The catalogue of airports and airlines: `python -m examples.flights.catalogue [PEER…]`, a service of a mesh.

The airports are those of examples/airports, a module that knows nothing of WebMesh.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from examples.airports import airports
from examples.flights.instance import new_server, parser, run
from webmesh import NotFound, WebMesh

AIRLINES = {
    "AC": ("Air Canada", "YYZ", "YVR"),
    "AF": ("Air France", "CDG"),
    "BA": ("British Airways", "LHR"),
    "DL": ("Delta Air Lines", "ATL", "JFK"),
    "EK": ("Emirates", "DXB"),
    "ET": ("Ethiopian Airlines", "ADD"),
    "IB": ("Iberia", "MAD"),
    "KL": ("KLM", "AMS"),
    "LA": ("LATAM", "GRU", "SCL"),
    "LH": ("Lufthansa", "FRA", "MUC"),
    "LX": ("SWISS", "ZRH", "GVA"),
    "NH": ("All Nippon Airways", "HND", "NRT"),
    "QF": ("Qantas", "SYD", "MEL"),
    "SK": ("SAS", "CPH", "ARN"),
    "SQ": ("Singapore Airlines", "SIN"),
    "TK": ("Turkish Airlines", "IST"),
    "UA": ("United Airlines", "ORD", "SFO"),
}
"""Code → name and hubs. It is taken that each flies from its hubs to everywhere: there is no timetable here."""

MOST_LEGS = 500  # of one question

length = lru_cache(100_000)(airports.distance)


def node(*peers: str) -> WebMesh:
    """An instance, not started yet."""
    server = new_server("catalogue")

    # All that is asked here may be asked twice, so a call whose instance dies is sent to the other one.
    @server.on("/airports/<code:code>", idempotent=True)
    def airport(payload: object, path: str, client: object, code: str) -> airports.Airport:
        found = airports.find(code)
        if found is None:
            raise NotFound(f"no airport has the code {code}")
        return found

    @server.on("/airlines", idempotent=True)
    def airlines(payload: object, path: str, client: object) -> list[dict[str, Any]]:
        return [{"code": code, "name": name, "hubs": hubs} for code, (name, *hubs) in AIRLINES.items()]

    @server.on("/lengths", idempotent=True)
    def lengths(payload: list[list[str]], path: str, client: object) -> list[float]:
        return [known_length(start, end) for start, end in payload[:MOST_LEGS]]

    return WebMesh(server, *peers)


def known_length(start: str, end: str) -> float:
    """Kilometres of a leg, or `NotFound`."""
    kilometres = length(start, end)
    if kilometres is None:
        raise NotFound(f"no airport has the code {start if airports.find(start) is None else end}")
    return kilometres


if __name__ == "__main__":
    options = parser(__doc__.splitlines()[0]).parse_args()
    airports.count()  # builds the database, so that the first caller need not wait for it
    run(node(*options.peers), options)
