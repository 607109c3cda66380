"""Calls by zerorpc's own client: one client per connection, a greenlet for each call in flight."""

from __future__ import annotations

import os
import time

import gevent
import zerorpc

from bench_parts.clients.sampling import Tally, arguments, measure, report
from bench_parts.wire import text


def call_on(client: zerorpc.Client, payload: str, tally: Tally) -> None:
    """Call for ever."""
    while True:
        sent = time.perf_counter()
        client.echo(payload)
        tally.answered(sent)


def main() -> None:
    port, pid, plan = arguments()
    payload, tally = text(plan.size), Tally()
    clients = [zerorpc.Client(f"tcp://127.0.0.1:{port}", timeout=60) for _ in range(plan.connections)]
    for client in clients:
        if client.echo(payload) != payload:
            raise SystemExit("wrong answer")
    for client in clients:
        for _ in range(plan.window):
            gevent.spawn(call_on, client, payload, tally)
    report(measure(tally, pid, plan, gevent.sleep))
    os._exit(0)  # nothing to save, and hundreds of greenlets to unwind


if __name__ == "__main__":
    main()
