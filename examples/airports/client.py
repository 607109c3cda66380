"""Asks the airports: `python client.py [URL]` while the service runs. An ordinary program, not patched."""

from __future__ import annotations

import sys

from webmesh import NotFound, WebMeshClient


def main(url: str = "ws://127.0.0.1:4269") -> None:
    with WebMeshClient(url) as client:
        print(client.call("/airports/count"), "airports")
        print("Zurich to New York:", client.call("/distance/ZRH/JFK"), "km")

        for airport in client.call("/airports/near", {"latitude": 46.95, "longitude": 7.45, "radius_km": 30}):
            print(f"{airport['distance_km']:6.1f} km from Bern: {airport['name']}")

        stream = client.stream("/airports/rows", {"country": "IS"})
        print("with an IATA code in Iceland:", *(airport["iata"] for airport in stream if airport["iata"]))

        try:
            client.call("/airports/XXX")
        except NotFound as error:
            print(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
