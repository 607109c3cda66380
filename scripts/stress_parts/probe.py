"""An honest peer that measures how it is served: `probe PORT SECONDS call|connect PAUSE`; prints latencies as JSON."""

from __future__ import annotations

import json
import sys
import time

from bench_parts.load import connect, receive_frame
from bench_parts.wire import call_speech


def calls(port: int, seconds: float, pause: float) -> list[float]:
    """One call after the other, each on its way as soon as the last was answered and the pause is over."""
    speech = call_speech("/echo")
    sock = connect(port, speech)
    message = speech.message(1, 64)
    latencies = []
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        sock.sendall(message)
        head = b"\x00"
        while head[0] & 0x0F != 2:  # pings come, too
            head, body = receive_frame(sock)
        latencies.append(time.perf_counter() - begun)
        if len(latencies) % 100 == 1 and not speech.holds(body, 1, 64):
            raise SystemExit(f"a wrong answer: {body!r}")
        time.sleep(pause)
    sock.close()
    return latencies


def connects(port: int, seconds: float, pause: float) -> list[float]:
    """One connection after the other, each up to the answer to its upgrade."""
    speech = call_speech("/echo")
    latencies = []
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        sock = connect(port, speech)
        latencies.append(time.perf_counter() - begun)
        sock.close()
        time.sleep(pause)
    return latencies


if __name__ == "__main__":
    work = {"call": calls, "connect": connects}[sys.argv[3]]
    print(json.dumps(work(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[4]))))
