"""One connection through a fault proxy: what the pump of one direction does to its bytes."""

from __future__ import annotations

from collections import Counter
from random import Random

import gevent
import pytest
from gevent import socket

from tests.running import PATIENCE, wait_for
from webmesh.fault_pair import DIRECTIONS, LINE_SIZE, Pair, Pump, Rules


class Sink:
    """Takes bytes and keeps them, each piece by itself."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.pieces.append(data)


class Source:
    """Has bytes to read, then the end."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def recv(self, size: int) -> bytes:
        gevent.sleep(0)
        return self.pieces.pop(0) if self.pieces else b""


def pumped(rules: Rules, *pieces: bytes, seed: int = 0) -> tuple[Pump, Sink, bool]:
    pump, sink = Pump("up", rules, Counter(), Random(seed)), Sink()
    reader = gevent.spawn(pump.read, Source(*pieces))
    with gevent.Timeout(PATIENCE):
        whole = pump.write(sink)
    reader.kill()
    return pump, sink, whole


def test_it_passes_on_what_it_reads_and_then_the_end() -> None:
    """Piece by piece as it came."""
    pump, sink, whole = pumped(Rules(), b"ab", b"c")
    assert ([b"ab", b"c"], 3, True) == (sink.pieces, pump.passed, whole)


def test_slices_are_exact() -> None:
    """The last one is what is left."""
    rules = Rules()
    rules.size = 2
    assert [b"ab", b"cd", b"e"] == pumped(rules, b"abcde")[1].pieces


def test_a_small_bandwidth_passes_single_bytes() -> None:
    """Instead of waiting long and then passing many."""
    rules = Rules()
    rules.bandwidth = 40
    assert [b"a", b"b", b"c"] == pumped(rules, b"abc")[1].pieces


def test_the_same_seed_gives_the_same_jitter() -> None:
    """So that a failure can be seen again; and jitter never changes the order."""
    rules = Rules()
    rules.latency, rules.jitter = 1.0, 0.9

    def delays(seed: int) -> list[float]:
        pump = Pump("up", rules, Counter(), Random(seed))
        for _ in range(20):
            pump._put(b"x")
        times = [release for release, _ in pump._waiting]
        assert sorted(times) == times
        return [round(one - times[0], 2) for one in times]

    assert delays(1) == delays(1) != delays(2)


@pytest.mark.parametrize("size", [1, 3])
def test_a_cut_is_exact_whatever_the_slices(size: int) -> None:
    """The byte after it never passes."""
    rules = Rules()
    rules.size = size
    pump, sink = Pump("up", rules, Counter(), Random(0)), Sink()
    pump.cut_left = 4
    pump._put(b"abcdef")
    assert not pump.write(sink)
    assert b"abcd" == b"".join(sink.pieces)


def test_a_full_line_holds_up_the_sender() -> None:
    """Bytes that are delayed are kept in memory: so many and not more."""
    rules = Rules()
    rules.latency = PATIENCE
    left, right = socket.socketpair()
    with left, right:
        pump = Pump("up", rules, Counter(), Random(0))
        jobs = [gevent.spawn(pump.read, right), gevent.spawn(left.sendall, bytes(20 * LINE_SIZE))]
        assert wait_for(lambda: pump._size >= LINE_SIZE)
        gevent.sleep(0.02)
        assert pump._size < 2 * LINE_SIZE
        gevent.killall(jobs)


@pytest.mark.parametrize("swallowed", [("up",), ("down",), ("up", "down")])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_half_open_pair_ends_when_both_sides_have_gone(swallowed: tuple[str, ...], order: tuple[int, int]) -> None:
    """Else each client that comes and goes would leave descriptors behind."""
    client, inner = socket.socketpair()
    server, outer = socket.socketpair()
    pair = Pair(1, inner, {name: Rules() for name in DIRECTIONS}, Counter(), seed=0)
    pair.swallow(swallowed)
    pair.run(lambda: outer)
    for number in order:
        (client, server)[number].close()
        gevent.sleep(0.01)
    assert wait_for(lambda: not pair.open)


def test_a_client_that_has_met_nobody_leaves_nothing() -> None:
    """There is no other side whose end could be waited for."""
    client, inner = socket.socketpair()
    pair = Pair(1, inner, {name: Rules() for name in DIRECTIONS}, Counter(), seed=0)
    pair.swallow(DIRECTIONS)
    pair.run(None)
    client.close()
    assert wait_for(lambda: not pair.open)
