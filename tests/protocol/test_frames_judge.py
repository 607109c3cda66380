"""The fast lane judged by wsproto: the same bytes, cut anywhere, give the same result at the same time.

`Frames` and a plain wsproto connection get the same pieces. After each piece both must have handed out the
same messages and control frames, or must have failed with the same close code. Only the limits are ours
alone: they are wide here, and tests of their own hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Message, Ping, Pong
from wsproto.extensions import Extension, PerMessageDeflate

from tests.protocol.compressed import deflated
from tests.protocol.raw_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, raw_frame
from tests.protocol.speedups import IMPLEMENTATIONS, framing_by
from webmesh.exceptions import RemoteProtocolError
from webmesh.options import Limits
from webmesh.protocol.deflate import BoundedDeflate, negotiate_deflate
from webmesh.protocol.frames import CloseReceived, Frames, Incoming, PingReceived, PongReceived

Outcome = str | bytes | PingReceived | PongReceived | CloseReceived | int
"""What came of some bytes; a fault is its close code."""

EXAMPLES = max(200, settings.default.max_examples if settings.default else 0)
"""Per test and combination of role and masking."""

LIMITS = Limits(message_size=1 << 20, fragments=1 << 20, frames_per_turn=7)
"""Wide, but for the turn, which is short so that it ends within what a test sends."""


class Judge:
    """wsproto alone, its pieces joined to messages."""

    def __init__(self, *, client: bool, extensions: list[Extension] | None = None) -> None:
        self._wire = Connection(ConnectionType.CLIENT if client else ConnectionType.SERVER, extensions)
        self._over = False
        self._text: list[str] = []
        self._bytes: list[bytes] = []

    def receive(self, data: bytes) -> list[Outcome]:
        if self._over:
            return []
        self._wire.receive_data(data)
        return list(self._outcomes())

    def _outcomes(self) -> Iterator[Outcome]:
        for event in self._wire.events():
            if isinstance(event, Message):
                yield from self._joined(event)
            elif isinstance(event, Ping):
                yield PingReceived(bytes(event.payload))
            elif isinstance(event, Pong):
                yield PongReceived(bytes(event.payload))
            elif isinstance(event, CloseConnection):
                self._over = True
                faulty = self._wire.state is ConnectionState.OPEN
                yield int(event.code) if faulty else CloseReceived(int(event.code), event.reason or "")

    def _joined(self, event: Message) -> Iterator[Outcome]:  # type: ignore[type-arg]
        if isinstance(event.data, str):
            self._text.append(event.data)
        else:
            self._bytes.append(bytes(event.data))
        if event.message_finished:
            yield "".join(self._text) if isinstance(event.data, str) else b"".join(self._bytes)
            self._text, self._bytes = [], []


def outcomes(frames: Frames, data: bytes) -> list[Outcome]:
    """All that `Frames` makes of *data*, in as many turns as that takes."""
    received: list[Incoming] = frames.receive(data)
    while frames.pending:
        received += frames.receive()
    return [item.close_code if isinstance(item, RemoteProtocolError) else item for item in received]


# --- What a peer may send -----------------------------------------------------------------------

keys = st.binary(min_size=4, max_size=4)
octets = st.binary(max_size=40) | st.integers(0, 400).map(lambda size: b"\xc5\xbc" * size)
texts = (st.text(max_size=30) | st.integers(0, 400).map(lambda size: "ż" * size)).map(str.encode)
bad_texts = st.builds(
    lambda good, bad, more: good + bad + more,
    texts, st.sampled_from([b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"]), texts,
)  # fmt: skip
close_payloads = (
    st.just(b"")
    | st.binary(max_size=130)
    | st.builds(lambda code, reason: code.to_bytes(2, "big") + reason, st.integers(990, 5010), texts | bad_texts)
)

MakeFrame = Callable[..., bytes]


@st.composite
def whole_messages(draw: st.DrawFn, frame: MakeFrame) -> list[bytes]:
    """One message in one frame, now and then a long one."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    payload = draw(texts if opcode == TEXT else octets)
    if draw(st.integers(0, 19)) == 0:
        payload *= draw(st.sampled_from([100, 200, 700]))
    return [frame(opcode, payload, key=draw(keys))]


@st.composite
def control_frames(draw: st.DrawFn, frame: MakeFrame) -> list[bytes]:
    return [frame(draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=125)), key=draw(keys))]


@st.composite
def fragmented_messages(draw: st.DrawFn, frame: MakeFrame) -> list[bytes]:
    """One message in several frames cut anywhere, with control frames between; sometimes never finished."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    payload = draw((texts | bad_texts) if opcode == TEXT else octets)
    places = sorted(draw(st.lists(st.integers(0, len(payload)), min_size=1, max_size=6)))
    pieces = [payload[start:stop] for start, stop in zip([0, *places], [*places, len(payload)])]
    finished = draw(st.integers(0, 9)) != 0
    stream: list[bytes] = []
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        stream.append(frame(CONTINUATION if number else opcode, piece, fin=last and finished, key=draw(keys)))
        if not last and draw(st.integers(0, 3)) == 0:
            stream += draw(control_frames(frame))
    return stream


@st.composite
def faults(draw: st.DrawFn, frame: MakeFrame) -> list[bytes]:
    """Anything a head can say, most of it wrong; lengths that lie, short or padded."""
    payload = draw(octets | bad_texts)
    length_size = draw(st.sampled_from([None, None, None, 2, 8]))
    if len(payload) < 126 and length_size is None:
        declared = draw(st.none() | st.integers(0, 125))
    else:
        declared = None
    return [frame(
        draw(st.integers(0, 15)), payload, fin=draw(st.booleans()), rsv=draw(st.sampled_from([0, 0, 0, 0, 1, 2, 4])),
        declared=declared, length_size=length_size, key=draw(keys), wrong_mask=draw(st.integers(0, 9)) == 0,
    )]  # fmt: skip


@st.composite
def streams(draw: st.DrawFn, *, client: bool) -> list[bytes]:
    """What a peer sends: mostly right frames, then perhaps a fault, a close frame, and more; in pieces cut anywhere."""

    def frame(opcode: int, payload: bytes, *, key: bytes, wrong_mask: bool = False, **head: object) -> bytes:
        masked = client == wrong_mask
        return raw_frame(opcode, payload, key=key if masked else None, **head)  # type: ignore[arg-type]

    right = st.one_of(
        whole_messages(frame), whole_messages(frame), fragmented_messages(frame), control_frames(frame)
    )
    ends = st.one_of(
        st.just([]), faults(frame), faults(frame),
        bad_texts.map(lambda text: [frame(TEXT, text, key=b"abcd")]),
        close_payloads.map(lambda payload: [frame(CLOSE, payload, key=b"abcd")] if len(payload) < 126 else []),
    )  # fmt: skip
    parts = draw(st.lists(right, max_size=6)) + [draw(ends)] + draw(st.lists(right | faults(frame), max_size=2))
    stream = b"".join(piece for part in parts for piece in part)
    if stream and draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(stream) - 1))
        stream = stream[:place] + draw(st.binary(min_size=1, max_size=1)) + stream[place + 1 :]
    return draw(cuts(stream))


@st.composite
def cuts(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """*stream* in pieces: at places of its own, in steps, or whole."""
    step = draw(st.sampled_from([0, 0, 1, 2, 3, 5, 100, 1 << 20]))
    if step == 1 and len(stream) > 3000:
        step = 17
    places = list(range(step, len(stream), step)) if step else sorted(
        draw(st.lists(st.integers(0, len(stream)), max_size=12))
    )  # fmt: skip
    return [stream[start:stop] for start, stop in zip([0, *places], [*places, len(stream)])]


# --- The trials ---------------------------------------------------------------------------------


@pytest.fixture(params=IMPLEMENTATIONS, autouse=True, scope="module")
def masking(request: pytest.FixtureRequest) -> Iterator[None]:
    """With either implementation of masking."""
    with framing_by(request.param):
        yield


def agree_after_each_piece(frames: Frames, judge: Judge, pieces: list[bytes]) -> None:
    for number, piece in enumerate(pieces):
        found = outcomes(frames, piece)
        if 1009 in found:
            return  # the limit is ours alone; what came before was the same
        assert judge.receive(piece) == found, f"piece {number} of {len(pieces)}"


@pytest.mark.row(17, 25, 26, 27)
@pytest.mark.parametrize("client", [False, True])
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_frames_and_wsproto_agree(client: bool, data: st.DataObject) -> None:
    """Right and wrong frames, in any order and any pieces, on either side."""
    pieces = data.draw(streams(client=client))

    agree_after_each_piece(Frames(client=client, limits=LIMITS), Judge(client=client), pieces)


@pytest.mark.parametrize("client", [False, True])
@settings(max_examples=EXAMPLES)
@given(
    first=st.sampled_from([b"", b"\x81", b"\x82", b"\x01", b"\x89"]),
    pieces=st.lists(st.binary(max_size=20), max_size=10),
)
def test_frames_and_wsproto_agree_on_noise(client: bool, first: bytes, pieces: list[bytes]) -> None:
    """Bytes that were never meant to be frames."""
    agree_after_each_piece(Frames(client=client, limits=LIMITS), Judge(client=client), [first, *pieces])


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("client", [False, True])
def test_frames_and_wsproto_agree_on_every_first_two_bytes(client: bool, step: int) -> None:
    """All 65,536 beginnings of a frame, followed by bytes that fit and by bytes that do not."""
    for first in range(0, 1 << 16, 257 if step == 1 else 1):
        stream = first.to_bytes(2, "big") + bytes.fromhex("0080 61626364 00000000") + b"\x81\x80abcd" * 3
        pieces = [stream[start : start + step] for start in range(0, len(stream), step)]
        agree_after_each_piece(Frames(client=client, limits=LIMITS), Judge(client=client), pieces)


@st.composite
def compressed_streams(draw: st.DrawFn, *, client: bool) -> list[bytes]:
    """Right messages, compressed or not, whole or in fragments, with control frames between.

    None between the fragments of a compressed message: wsproto 1.3.2 then takes the rest of it for uncompressed.
    """
    key = None if client else b"\x01\x02\x03\x04"
    stream: list[bytes] = []
    for _ in range(draw(st.integers(1, 5))):
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        payload = draw(texts if opcode == TEXT else octets) * draw(st.sampled_from([1, 1, 1, 100]))
        compress = draw(st.booleans())
        if compress:
            payload = deflated(payload, level=draw(st.sampled_from([0, 1, 9])))
        places = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
        pieces = [payload[start:stop] for start, stop in zip([0, *places], [*places, len(payload)])]
        for number, piece in enumerate(pieces):
            stream.append(raw_frame(
                CONTINUATION if number else opcode, piece, fin=number == len(places),
                rsv=4 if compress and not number else 0, key=key,
            ))  # fmt: skip
            if draw(st.integers(0, 4)) == 0 and (not compress or number == len(places)):
                stream.append(raw_frame(PING, draw(st.binary(max_size=20)), key=key))
    return draw(cuts(b"".join(stream)))


def with_deflate(*, client: bool) -> tuple[Frames, Judge]:
    """Our own extension on one side, wsproto's on the other, without windows on either."""
    answer = "server_no_context_takeover; client_no_context_takeover"
    theirs = PerMessageDeflate()
    theirs.finalize(f"permessage-deflate; {answer}")
    ours = negotiate_deflate("permessage-deflate", limits=LIMITS)
    assert ours is not None
    if client:
        ours = BoundedDeflate(LIMITS)
        ours.accept(answer)
    return Frames(client=client, limits=LIMITS, extensions=[ours]), Judge(client=client, extensions=[theirs])


@pytest.mark.parametrize("client", [False, True])
@settings(max_examples=EXAMPLES // 2)
@given(data=st.data())
def test_frames_and_wsproto_agree_on_compressed_messages(client: bool, data: st.DataObject) -> None:
    """Our bounded inflation and wsproto's unbounded one give the same messages."""
    frames, judge = with_deflate(client=client)

    agree_after_each_piece(frames, judge, data.draw(compressed_streams(client=client)))


@pytest.mark.row(31)
@pytest.mark.parametrize("client", [False, True])
@settings(max_examples=EXAMPLES // 2)
@given(data=st.data())
def test_frames_and_wsproto_agree_on_faults_where_compression_was_agreed(client: bool, data: st.DataObject) -> None:
    """The same messages up to the same fault. Its code may differ where wsproto inflates before it looks."""
    frames, judge = with_deflate(client=client)
    stream = b"".join(data.draw(streams(client=client)))

    found, judged = outcomes(frames, stream), judge.receive(stream)

    if judged and isinstance(judged[-1], int):
        assert judged[:-1] == found[:-1]
        assert found[-1] in (1002, 1007, 1009)
    else:
        assert judged == found or found[-1] in (1007, 1009)
