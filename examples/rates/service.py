"""Carries the rates: `python -m webmesh.serve` in this folder.

What was published is in `rates.db` before its publisher is told so; the environment variable RATES_ENGINE names another
engine.
"""

from __future__ import annotations

import os

from webmesh import WebMeshServer

server = WebMeshServer(name="rates", broker=os.environ.get("RATES_ENGINE", "sqlite:///rates.db"))

# One topic for each currency. Who comes first gets the newest rate; who was away, all that it has missed.
server.topic("rates/*", history=10_000, retain=True)
