"""Calls by gRPC's own synchronous client: one channel per connection, futures to keep several in flight."""

from __future__ import annotations

import os
import time

import grpc

from bench_parts.clients.sampling import Tally, arguments, measure, report
from bench_parts.wire import text


class Caller:
    """Keeps calls in flight on one channel: each answer starts the next call."""

    def __init__(self, port: int, payload: bytes, tally: Tally) -> None:
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{port}",
            options=[
                ("grpc.use_local_subchannel_pool", 1),  # else all channels share one connection
                ("grpc.max_receive_message_length", 4 << 20),
                ("grpc.max_send_message_length", 4 << 20),
            ],
        )
        self.payload = payload
        self.tally = tally
        self.method = self.channel.unary_unary("/bench.Echo/call")

    def check(self) -> None:
        """One call whose answer is looked at."""
        if self.method(self.payload, timeout=30) != self.payload:
            raise SystemExit("wrong answer")

    def call(self) -> None:
        """Start one call and, when it is answered, the next."""
        sent = time.perf_counter()

        def answered(future: grpc.Future) -> None:
            if future.code() is grpc.StatusCode.OK:
                self.tally.answered(sent)
                self.call()

        self.method.future(self.payload, timeout=60).add_done_callback(answered)


def main() -> None:
    port, pid, plan = arguments()
    tally = Tally()
    callers = [Caller(port, text(plan.size).encode(), tally) for _ in range(plan.connections)]
    for caller in callers:
        caller.check()
    for caller in callers:
        for _ in range(plan.window):
            caller.call()
    report(measure(tally, pid, plan, time.sleep))
    os._exit(0)  # the calls in flight would start further ones while channels close


if __name__ == "__main__":
    main()
