"""`scripts/bench` measures what it says: messages are counted right, wrong answers are noticed, a table comes out."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from bench_parts import audience, balancing, brokers, matching, mesh, wire, workers  # noqa: E402
from bench_parts.command import chosen, main  # noqa: E402
from bench_parts.contestants import CONTESTANTS, FLOOR  # noqa: E402
from bench_parts.fan_out import CONTESTANTS as AUDITIONERS  # noqa: E402
from bench_parts.fan_out import FLOOR as RAW_SEND  # noqa: E402
from bench_parts.fan_out import OURS, Audition, FanOut  # noqa: E402
from bench_parts.load import FrameCounter, LoadFailed, Sample, percentiles  # noqa: E402
from bench_parts.results import Claim, Verdict, figures, noise, ratio, to_floor, verdicts  # noqa: E402
from bench_parts.rounds import Outcome, Row  # noqa: E402

pytestmark = pytest.mark.once

TINY = ["--quick", "--rounds", "1", "--seconds", "0.05", "--connections", "4", "--idle-connections", "20"]


def server_frame(size: int, *, opcode: int = 2, final: bool = True) -> bytes:
    """A frame as servers send it: not masked."""
    first = opcode | (0x80 if final else 0)
    if size < 126:
        return bytes((first, size)) + bytes(size)
    if size < 65536:
        return struct.pack("!BBH", first, 126, size) + bytes(size)
    return struct.pack("!BBQ", first, 127, size) + bytes(size)


def unmasked(frame: bytes) -> tuple[int, bytes]:
    """First byte and body of one whole masked frame."""
    start = {126: 4, 127: 10}.get(frame[1] & 127, 2)
    key, body = frame[start : start + 4], frame[start + 4 :]
    return frame[0], bytes(byte ^ key[index % 4] for index, byte in enumerate(body))


def sample(micros: float) -> Sample:
    """A sample with this CPU per message."""
    return Sample(messages=1000, seconds=1.0, cpu=micros / 1000, latencies=(0.001, 0.002))


@given(st.lists(st.sampled_from([0, 1, 125, 126, 300, 65536]), min_size=1, max_size=6), st.randoms())
def test_frames_are_counted_however_the_stream_is_cut(sizes: list[int], chance: random.Random) -> None:
    """Each whole data message counts once, wherever a read happens to end."""
    stream = memoryview(b"".join(server_frame(size) for size in sizes))
    cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(8))
    counter = FrameCounter()

    counted = sum(counter.count(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)]))

    assert len(sizes) == counted


def test_pings_and_fragments_are_no_messages() -> None:
    """Only the last frame of a data message counts."""
    stream = server_frame(5, final=False) + server_frame(4, opcode=9) + server_frame(7, opcode=0)

    assert 1 == FrameCounter().count(memoryview(stream))


def test_a_close_frame_ends_the_measurement() -> None:
    """A server that closes has stopped answering, which must not pass for a slow one."""
    with pytest.raises(LoadFailed, match="closed"):
        FrameCounter().count(memoryview(server_frame(2, opcode=8)))


@pytest.mark.parametrize("size", [0, 1, 128, 4096, 70_000])
def test_frames_are_masked_as_the_standard_says(size: int) -> None:
    """RFC 6455 section 5.3: each byte is XORed with the key's byte of the same place."""
    payload = bytes(range(256)) * (size // 256 + 1)

    first, body = unmasked(wire.frame(payload[:size]))

    assert (0x82, payload[:size]) == (first, body)


def test_a_call_is_the_envelope_of_the_protocol() -> None:
    """A request carries path, id and data, and is compressed from 1,024 bytes on."""
    speech = wire.call_speech("/echo")

    _, small = unmasked(speech.message(7, 128))
    _, large = unmasked(speech.message(7, 4096))

    assert {"path": "/echo", "id": wire.FIRST_ID + 7, "data": wire.text(128)} == msgpack.unpackb(small)
    assert wire.text(4096) == msgpack.unpackb(zlib.decompress(large))["data"]


def test_a_json_call_is_a_text_frame() -> None:
    """The JSON serializer speaks in text messages."""
    first, body = unmasked(wire.call_speech("/echo", serializer="json").message(0, 128))

    assert 0x81 == first
    assert wire.text(128) == json.loads(body)["data"]


def test_a_wrong_answer_is_noticed() -> None:
    """An answer must carry the id and the payload of its request."""
    speech = wire.call_speech("/echo")
    right = msgpack.packb({"id": wire.FIRST_ID, "data": wire.text(128)})
    wrong = msgpack.packb({"id": wire.FIRST_ID, "error": {"code": "internal"}})

    assert speech.holds(right, 0, 128)
    assert not speech.holds(wrong, 0, 128)


@pytest.mark.parametrize("window", [1, 10])
def test_any_run_of_messages_is_one_slice_of_the_ring(window: int) -> None:
    """From every position a whole window can be sent by one call, and ids do not repeat within it."""
    speech = wire.call_speech("/echo")
    ring = wire.ring(speech, 128, window)

    for position in range(ring.count):
        expected = b"".join(speech.message((position + step) % ring.count, 128) for step in range(window))
        assert expected == bytes(ring.part(position, window))


def test_payloads_have_their_size_and_are_always_the_same() -> None:
    """Runs are comparable only when they send the same bytes."""
    assert [128, 4096] == [len(wire.text(size)) for size in (128, 4096)]
    assert wire.text(4096) == wire.text(4096)


def test_percentiles_come_from_the_sorted_values() -> None:
    """The median and the 99th percentile, and zeros when nothing was taken."""
    assert (51, 100) == percentiles([float(value) for value in range(100, 0, -1)])
    assert (0.0, 0.0) == percentiles([])


def test_a_ratio_is_the_median_of_the_ratios_within_rounds() -> None:
    """A round in which the whole machine was slow does not move it."""
    ours, base = Row(128, 1, "call"), Row(128, 1, FLOOR)
    outcome = Outcome(samples={ours: [sample(12), sample(60), sample(12)], base: [sample(10), sample(50), sample(10)]})

    assert ratio(outcome, ours, base) == pytest.approx(1.2)


def test_every_row_is_compared_with_the_floor_at_one_in_flight() -> None:
    """A TCP echo takes ten messages that arrive together for one, so it is no measure when pipelined."""
    row = Row(128, 10, "call")
    outcome = Outcome(samples={row: [sample(4)], Row(128, 1, FLOOR): [sample(8)], Row(128, 10, FLOOR): [sample(1)]})

    assert to_floor(outcome, row) == pytest.approx(0.5)


def test_what_was_not_measured_has_no_ratio_and_no_verdict() -> None:
    """A claim without figures is neither kept nor broken."""
    verdict = Claim("cheap", 1.0, Row(128, 1, "call"), Row(128, 1, FLOOR)).judge(Outcome())

    assert "not measured" == verdict.word
    assert {"not measured"} == {verdict.word for verdict in verdicts(Outcome())}


def test_a_claim_is_kept_at_its_bound_and_broken_above() -> None:
    """The bound itself is allowed."""
    assert ["pass", "FAIL"] == [Verdict("cheap", 1.25, measured).word for measured in (1.25, 1.26)]


def test_figures_are_medians_and_the_spread_is_told() -> None:
    """One bad round moves the spread, not the figure."""
    found = figures([sample(10), sample(11), sample(31)])

    assert found.micros == pytest.approx(11)
    assert found.spread == pytest.approx(21 / 11)


def test_noise_names_the_worst_row_and_needs_two_rounds() -> None:
    """With one round nothing is known about noise."""
    calm, wild, once = Row(128, 1, "a"), Row(128, 1, "b"), Row(128, 1, "c")
    outcome = Outcome(samples={calm: [sample(10), sample(10)], wild: [sample(10), sample(30)], once: [sample(1)]})

    found = noise(outcome)

    assert found is not None
    assert (pytest.approx(0.5), pytest.approx(1.0), wild) == found
    assert noise(Outcome(samples={once: [sample(1)]})) is None


def test_the_floor_always_takes_part() -> None:
    """Every ratio needs it."""
    assert [FLOOR, "call"] == [contestant.name for contestant in chosen(("call",))]


def test_an_unknown_contestant_is_refused_with_its_name() -> None:
    """A misspelt name must not end in an empty table."""
    with pytest.raises(SystemExit, match="no such contestant: cal"):
        chosen(("cal",))


def test_a_section_named_alone_measures_no_messages() -> None:
    """It has a floor of its own."""
    assert [] == chosen(("fan-out", "matching"))
    assert [FLOOR, "call"] == [contestant.name for contestant in chosen(("fan-out", "call"))]


class Pongs:
    """The socket of a receiver, as far as it is written to."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sent.append(data)


@given(st.lists(st.sampled_from([0, 125, 126, 300, 65536]), min_size=1, max_size=4), st.randoms())
def test_a_receiver_counts_deliveries_however_they_are_cut(sizes: list[int], chance: random.Random) -> None:
    """Pings between them are answered and are none."""
    stream = b"".join(server_frame(3, opcode=9) + server_frame(size) for size in sizes)
    cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(6))
    pongs = Pongs()
    receiver = audience.Receiver(pongs)  # type: ignore[arg-type]

    counted = sum(receiver.take(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)]))

    assert len(sizes) == counted
    assert [(0x8A, bytes(3))] * len(sizes) == [unmasked(pong) for pong in pongs.sent]


def test_fan_out_is_held_against_the_raw_send_of_the_same_round() -> None:
    """The bound is 1.5 for each receiver, at every size."""
    samples = {Audition(10, OURS): [sample(3), sample(30)], Audition(10, RAW_SEND): [sample(2), sample(20)]}
    section = FanOut(AUDITIONERS, rounds=2, sizes=(10,), samples=samples)

    ours, *rivals = section.verdicts()

    assert ("pass", 1.5, 1.5) == (ours.word, ours.bound, ours.measured)
    assert {"not measured"} == {verdict.word for verdict in rivals}


def test_each_way_to_balance_is_measured() -> None:
    """And the section makes a table of what it was given, and holds it against its claims."""
    costs = balancing.choosing(2)
    assert {"least-pending", "round-robin", "two-choices", "key"} == {cost.what for cost in costs}

    section = balancing.BalancingCost(rounds=1)
    section.samples = {("connection.call", 1): [20.0], ("call of a service", 2): [28.0], ("least-pending", 200): [9.0]}
    assert "| call of a service | 2 | 28.0 | 1.40 |" in section.markdown()
    assert [1.4, 9.0] == [verdict.measured for verdict in section.verdicts()]


@pytest.mark.once
def test_a_hop_over_the_mesh_is_measured_beside_a_direct_call() -> None:
    """And the section holds the one against the other."""
    named = {f"{way} {callers}" for way in ("direct", "hop") for callers in mesh.CALLERS}
    assert named == {cost.what for cost in mesh.measure(calls=5, repeats=1)}

    section = mesh.MeshCost(rounds=1)
    section.samples = {"direct 1": [50.0], "hop 1": [110.0], "direct 16": [20.0]}
    assert "| client → A → B | 1 | 110.0 |" in section.markdown()
    assert [2.2, None] == [verdict.measured for verdict in section.verdicts()]


def test_calls_of_two_workers_are_measured_beside_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the section holds the one against the other."""
    monkeypatch.setattr(workers, "SECONDS", 0.2)
    rates = workers.measure(repeats=1)
    assert [1, 2] == [rate.workers for rate in rates] and all(rate.calls > 0 for rate in rates)

    section = workers.Workers(rounds=1)
    section.samples = {1: [900.0], 2: [1800.0]}
    assert "| 2 | 1800 |" in section.markdown()
    assert [0.5] == [verdict.measured for verdict in section.verdicts()]


def test_matching_finds_what_it_looks_up() -> None:
    """Each topic that is asked for has a subscription of its own."""
    assert 1 <= matching.measure(100).found <= 2


def test_an_engine_delivers_what_is_counted() -> None:
    """A publication counts when its node has it back."""
    row = brokers.measure("memory", "memory://", True, 2, 0.02)
    assert row.rate > 0 < row.micros
    section = brokers.Engines(rounds=1, seconds=0.02)
    section.samples = {("memory", True, 2): [row]}
    assert "| memory | history of 1,000 | 2 |" in section.markdown()


def test_an_engine_without_its_server_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no row of zeros, and no failure."""
    monkeypatch.setattr(brokers.shutil, "which", lambda name: None)
    section = brokers.Engines(rounds=1, seconds=0.02)
    assert {"Redis": "redis-server is not installed", "NATS": "nats-server is not installed"} == section.missing
    assert "NATS was left out: nats-server is not installed.\n" in section.markdown()


def test_a_real_time_priority_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would starve what the measurement itself waits for, and can hang a core."""
    monkeypatch.setattr(os, "sched_getscheduler", lambda pid: os.SCHED_FIFO)

    with pytest.raises(SystemExit, match="real-time"):
        main(["--here", "--only", FLOOR])


@pytest.mark.timeout(300)
@pytest.mark.plain  # the bench is a process of its own: once is enough
def test_bench_prints_a_row_for_everything_that_can_run(tmp_path: Path) -> None:
    """One command measures all that is installed, says what is not and why, and judges the claims."""
    file = tmp_path / "samples.json"
    command = [sys.executable, str(SCRIPTS / "bench"), "--here", *TINY, "--json", str(file)]

    finished = subprocess.run(command, capture_output=True, text=True, timeout=280)

    assert 0 == finished.returncode, finished.stderr
    skipped = json.loads(file.read_text())["skipped"]
    for contestant in (contestant for contestant in CONTESTANTS if 128 in contestant.sizes):
        if all(importlib.util.find_spec(module) for module in contestant.needs):
            assert f"(`{contestant.name}`) | 128 B |" in finished.stdout, finished.stderr
        else:
            assert "not installed" in skipped[contestant.name]
    for auditioner in AUDITIONERS:
        if all(importlib.util.find_spec(module) for module in auditioner.needs):
            assert f"(`{auditioner.name}`) | 100 |" in finished.stdout, finished.stderr
    assert "| 1,000 subscriptions |" in finished.stdout
    failed = [line for line in finished.stdout.splitlines() if "failed:" in line]
    late = [line for line in failed if "no message was answered within the measured time" in line]
    assert failed == late and len(late) <= 2  # on a busy machine one has no turn in so short a time
    assert "## Claims" in finished.stdout
