"""Serves the airports: `python -m webmesh.serve` in this folder, or `scripts/serve` in the clone."""

from __future__ import annotations

import airports
from webmesh import NotFound, WebMeshServer

server = WebMeshServer(name="airports")

# Each public function of the module is a route: /airports/find, /airports/near, /airports/rows (a stream) …
server.mount("/airports", airports)

# Codes in paths, in either case. A fixed segment wins, so /airports/find stays the function above.
server.router.converter("code", str.upper, pattern="[0-9A-Za-z]{3,4}")


@server.on("/airports/<code:code>")
def airport(payload: object, path: str, client: object, code: str) -> airports.Airport:
    found = airports.find(code)
    if found is None:
        raise NotFound(f"no airport has the code {code}")
    return found


@server.on("/distance/<code:start>/<code:end>")
def distance(payload: object, path: str, client: object, start: str, end: str) -> float:
    kilometres = airports.distance(start, end)
    if kilometres is None:
        raise NotFound(f"no airport has the code {start} or {end}")
    return kilometres
