"""What is fuzzed: functions that take arbitrary bytes and must not raise.

Each one allows exactly those exceptions that the docstring of what it calls names, and besides holds what must be
true of the results: the same bytes give the same result however they are cut, what is read can be written and read
again, an answer reaches nobody but who asked. `scripts/fuzz` runs them under atheris, `tests/fuzzing` under hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from fuzz_parts import seeds
from fuzz_parts.pieces import Bytes, cut
from webmesh.exceptions import (
    ConfigurationError, DecodeError, HandshakeRejected, MessageTooBig, RemoteProtocolError,
)  # fmt: skip
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, StandardJsonSerializer
from webmesh.options import Limits
from webmesh.protocol import envelope, events
from webmesh.protocol.client_handshake import Accepted, ClientHandshake
from webmesh.protocol.deflate import BoundedDeflate, negotiate_deflate
from webmesh.protocol.forwarded import HEADERS, TrustedProxies
from webmesh.protocol.frames import CloseReceived, Frames, Incoming, PingReceived
from webmesh.protocol.handshake import Refusal, ServerHandshake, UpgradeRequest, choose_subprotocol
from webmesh.protocol.networks import Networks
from webmesh.protocol.origins import host_allowed, origin_allowed
from webmesh.protocol.proxy_protocol import ProxyHeader
from webmesh.protocol.session import Session
from webmesh.websocket.target import parse_url

LIMITS = Limits(
    message_size=4096, fragments=16, frames_per_turn=8, depth=12, items=256, headers=4, path_size=64, head_size=2048,
    header_line=512, header_count=24, rejected_body=512, informational_responses=3, invalid_messages=1000,
    open_requests=8, waiting_size=256,
)  # fmt: skip
"""Tight, so that short inputs come over them."""
SUBPROTOCOLS = ("webmesh.v1.msgpack", "webmesh.v1.json")
SERIALIZERS: dict[str, AbstractMessageSerializer] = {
    "msgpack": MessagePackSerializer(LIMITS, compress_threshold=64),
    "json": StandardJsonSerializer(LIMITS),
}


# --------------------------------------------------------------------- handshakes


def server_handshake(data: bytes) -> None:
    """A server reads a request head and answers it, yes or no."""
    cuts, stream = data[:1], data[1:]
    whole = _judged(stream, 0)
    assert whole == _judged(stream, cuts[0] if cuts else 1), "the outcome depends on how the head was cut"


def _judged(stream: bytes, cuts: int) -> object:
    handshake = ServerHandshake(LIMITS)
    outcome = None
    for piece in cut(stream, cuts):
        if piece:
            outcome = handshake.receive(piece)
    if outcome is None:
        outcome = handshake.receive(b"")
    assert outcome is not None
    if isinstance(outcome, UpgradeRequest):
        host_allowed(outcome.host, ["shop.example.com", "[::1]:4269"])
        origin_allowed(outcome.origin, outcome.host, ["https://shop.example.com"])
        extension = negotiate_deflate(outcome.extensions, limits=LIMITS)
        chosen = choose_subprotocol(outcome.subprotocols, SUBPROTOCOLS)
        answer = handshake.accept(subprotocol=chosen, extensions=[extension] if extension else [])
        assert answer.startswith(b"HTTP/1.1 101 ") and answer.count(b"\r\n\r\n") == 1
        return outcome, answer, handshake.trailing
    if isinstance(outcome, Refusal):
        answer = handshake.refuse(outcome)
        assert answer.startswith(b"HTTP/1.1 4") or answer.startswith(b"HTTP/1.1 5"), answer
        return outcome.status, outcome.reason
    return outcome, handshake.trailing


def client_handshake(data: bytes) -> None:
    """A client reads what answers its upgrade; only `HandshakeRejected` may come of it."""
    how, stream = (data[0] if data else 0), data[1:]
    first, second = _answered(stream, how & 1, 0), _answered(stream, how & 1, how >> 1)
    assert first == second, f"the outcome depends on how the answer was cut: {first} {second}"


def _answered(stream: bytes, deflate: int, cuts: int) -> object:
    handshake = ClientHandshake(
        host="127.0.0.1", target="/", subprotocols=SUBPROTOCOLS, limits=LIMITS, key_bytes=bytes,
        extensions=[BoundedDeflate(LIMITS)] if deflate else [],
    )  # fmt: skip
    accepted: Accepted | None = None
    try:
        for piece in cut(stream, cuts):
            if piece:
                accepted = handshake.receive(piece)
        if accepted is None:
            handshake.receive(b"")
            raise AssertionError("an answer that ends is neither accepted nor rejected")
    except HandshakeRejected as rejected:
        return rejected.status
    return accepted.subprotocol, len(accepted.extensions), accepted.headers, handshake.trailing


def urls(data: bytes) -> None:
    """A URL is understood, or refused with `ConfigurationError`."""
    try:
        target = parse_url(data.decode("utf-8", "surrogateescape"))
        ClientHandshake(host=target.authority, target=target.resource, limits=LIMITS)
    except ConfigurationError:
        pass


# ------------------------------------------------------------------------ proxies


def proxy_header(data: bytes) -> None:
    """A PROXY header is read, or refused with `RemoteProtocolError`."""
    cuts, stream = data[:1], data[1:]
    whole = _told(stream, 0)
    pieces = _told(stream, cuts[0] if cuts else 1)
    assert whole == pieces, f"the outcome depends on how the header was cut: {whole} {pieces}"


def _told(stream: bytes, cuts: int) -> object:
    header, counted = ProxyHeader(), 0
    try:
        for piece in cut(stream, cuts):
            if piece and not header.done:
                counted += header.feed(piece)
        if not header.done:
            header.feed(b"")
            raise AssertionError("a header that ends half-way is none")
    except RemoteProtocolError:
        return None
    return header.client, counted


def forwarded(data: bytes) -> None:
    """Whatever a proxy tells is a hop, or nobody; what is not listed is never believed."""
    value = data.decode("latin-1")
    for name in HEADERS:
        proxies = TrustedProxies(Networks("trusted_proxies", ["10.0.0.0/8", "fd00::/8"]), hops=3, header=name)
        hop = proxies.client(ip_address("10.0.0.1"), {name: value})
        assert hop is None or str(hop).isprintable()
        assert proxies.client(ip_address("192.0.2.1"), {name: value}) is None


# ------------------------------------------------------------------------- frames


def server_frames(data: bytes) -> None:
    """Masked frames, without compression."""
    _frames(data, client=False, deflate=False)


def client_frames(data: bytes) -> None:
    """Frames of a server, without compression."""
    _frames(data, client=True, deflate=False)


def server_deflate(data: bytes) -> None:
    """Masked frames, with permessage-deflate agreed."""
    _frames(data, client=False, deflate=True)


def client_deflate(data: bytes) -> None:
    """Frames of a server, with permessage-deflate agreed; every other one keeps its window."""
    _frames(data, client=True, deflate=True)


def _frames(data: bytes, *, client: bool, deflate: bool) -> None:
    how, stream = (data[0] if data else 0), data[1:]
    whole = _received(stream, 0, client=client, deflate=deflate, window=how & 1)
    pieces = _received(stream, how >> 1 or 1, client=client, deflate=deflate, window=how & 1)
    if whole and pieces and isinstance(whole[-1], int) and isinstance(pieces[-1], int):
        # A frame may break two rules at once; which of them is met first depends on what has come of it.
        whole, pieces = whole[:-1], pieces[:-1]
    assert whole == pieces, f"the outcome depends on how the frames were cut: {whole!r} {pieces!r}"


def _received(stream: bytes, cuts: int, *, client: bool, deflate: bool, window: int) -> list[object]:
    frames = Frames(client=client, limits=LIMITS, extensions=_extensions(client, deflate, window), mask_keys=bytes)
    outcomes: list[object] = []
    for piece in cut(stream, cuts):
        received = frames.receive(piece)
        while frames.pending:
            received += frames.receive()
        for item in received:
            outcomes.append(_echoed(frames, item))
    if frames.close_received:
        assert not frames.mid_message
    if not frames.close_sent:
        frames.close(1001, "going")
    return outcomes


def _extensions(client: bool, deflate: bool, window: int) -> list[BoundedDeflate]:
    if not deflate:
        return []
    if not client:
        agreed = negotiate_deflate("permessage-deflate; client_max_window_bits", limits=LIMITS)
        assert agreed is not None
        return [agreed]
    extension = BoundedDeflate(LIMITS)
    extension.accept("" if window else "server_no_context_takeover; client_no_context_takeover")
    return [extension]


def _echoed(frames: Frames, item: Incoming) -> object:
    """Do with it what a connection does, and tell it apart from others; a fault is its close code."""
    if isinstance(item, str | bytes):
        assert len(item if isinstance(item, bytes) else item.encode()) <= LIMITS.message_size
        frames.encode(item)
    elif isinstance(item, PingReceived):
        frames.pong(item.payload)
    elif isinstance(item, CloseReceived):
        assert item.code == 1005 or 1000 <= item.code < 5000
    elif isinstance(item, RemoteProtocolError):
        assert 1000 <= item.close_code < 5000
        return item.close_code
    return item


# ---------------------------------------------------------- serializers and envelopes


def msgpack_message(data: bytes) -> None:
    """A msgpack message: `DecodeError` or `MessageTooBig`, or a value that is read again as it was."""
    _message(SERIALIZERS["msgpack"], data)


def json_message(data: bytes) -> None:
    """The same of a JSON text."""
    _message(SERIALIZERS["json"], data)


def _message(serializer: AbstractMessageSerializer, data: bytes) -> None:
    try:
        value = serializer.deserialize(data)
    except (DecodeError, MessageTooBig):
        return
    again = serializer.serialize(value)
    assert value == serializer.deserialize(again), "what was read and written is read differently"
    try:
        envelope.classify(value, LIMITS)
    except envelope.InvalidEnvelope as fault:
        assert str(fault).isprintable() and len(str(fault)) < 1000, "a peer's text stands in the refusal as it came"
    event = Session(LIMITS, dialled=False).receive(value)
    if isinstance(event, events.Refused):
        serializer.serialize(event.answer)


def conversation(data: bytes) -> None:
    """Two sessions joined by their messages, with stray ones between: whoever asks gets its own answer or none."""
    source = Bytes(data)
    asking, answering = Session(LIMITS, dialled=True), Session(LIMITS, dialled=False)
    open_here: dict[Any, tuple[int, Any]] = {}
    running: list[tuple[int, Any]] = []
    number = 0
    while source:
        action = source.byte() % 8
        if action == 0 and asking.open_requests < LIMITS.open_requests:
            number += 1
            streams = source.byte()
            request, message = asking.ask(
                "/a", number, number, credit=1 + streams % 3 if streams & 4 else None, stream=bool(streams & 8)
            )
            open_here[request.id] = number, request
            arrived = answering.receive(message)
            assert isinstance(arrived, envelope.Request) and arrived.data == number
            running.append((number, answering.begin(arrived, number)))
        elif action == 1 and running:  # an answer, in whatever order
            asked, task = running.pop(source.byte() % len(running))
            answering.finish(task)
            _delivered(asking.receive(envelope.reply(task.id, asked)), asked, open_here)
        elif action == 2 and open_here:  # given up
            number_of_it, request = open_here.pop(list(open_here)[source.byte() % len(open_here)])
            cancel = asking.abandon(request)
            assert cancel is not None
            told = answering.receive(cancel)
            assert isinstance(told, events.Dropped) or told.owner.owner == number_of_it  # type: ignore[union-attr]
        elif action == 3 and running:  # an item, perhaps out of its turn
            asked, task = running[source.byte() % len(running)]
            event = asking.receive(envelope.item(task.id, asked, source.byte() % 4))
            if isinstance(event, events.ItemArrived):
                assert event.item == event.owner.waiter == asked  # type: ignore[union-attr]
            elif isinstance(event, events.Failed):
                open_here.pop(task.id, None)
        elif action == 4:  # any map from a stranger; it may end a request of ours, but only with an error or its id
            _stray(asking, source, open_here)
        elif action == 5 and running:
            answering.receive(envelope.credit(running[0][1].id, 1 + source.byte()))
        elif action == 6 and running:
            answering.receive(envelope.item(running[source.byte() % len(running)][1].id, 0, source.byte() % 4))
        elif action == 7 and running:
            answering.receive(envelope.end(running[source.byte() % len(running)][1].id))
    assert asking.open_requests == len(open_here)
    assert len(asking.close()[0]) == len(open_here)
    answering.close()


def _delivered(event: object, asked: int, open_here: dict[Any, tuple[int, Any]]) -> None:
    if isinstance(event, events.Answered):
        assert event.request.waiter == event.data == asked, "an answer came to a wrong caller"
        del open_here[event.request.id]
    else:
        assert isinstance(event, events.Dropped), event


def _stray(asking: Session, source: Bytes, open_here: dict[Any, tuple[int, Any]]) -> None:
    try:
        message = SERIALIZERS["json"].deserialize(source.take(source.byte() % 64))
    except (DecodeError, MessageTooBig):
        return
    event = asking.receive(message)
    owner = event.request if isinstance(event, events.Answered) else getattr(event, "owner", None)
    if isinstance(event, events.Answered | events.Failed):
        assert type(message) is dict and message["id"] == owner.id  # type: ignore[union-attr]
        del open_here[owner.id]  # type: ignore[union-attr]


# ---------------------------------------------------------------------------- table


@dataclass(frozen=True)
class Target:
    """One thing that is fuzzed."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    """Inputs to begin with: what is right, and what is nearly so."""


def targets() -> dict[str, Target]:
    """All there are, by name."""
    listed = [
        Target("server-handshake", server_handshake, seeds.REQUESTS),
        Target("client-handshake", client_handshake, seeds.ANSWERS),
        Target("urls", urls, seeds.URLS),
        Target("server-frames", server_frames, seeds.frames(masked=True, deflate=False)),
        Target("client-frames", client_frames, seeds.frames(masked=False, deflate=False)),
        Target("server-deflate", server_deflate, seeds.frames(masked=True, deflate=True)),
        Target("client-deflate", client_deflate, seeds.frames(masked=False, deflate=True)),
        Target("msgpack", msgpack_message, seeds.msgpack_messages()),
        Target("json", json_message, seeds.json_messages()),
        Target("conversation", conversation, seeds.CONVERSATIONS),
        Target("proxy-header", proxy_header, seeds.PROXY_HEADERS),
        Target("forwarded", forwarded, seeds.FORWARDED),
    ]
    return {target.name: target for target in listed}
