"""Frames: messages come out whole, limits hold, faults end the connection with the right code.

Each rule is tried on a server's and, where it differs, on a client's side, with masking in Python and in C.
That plain wsproto sees the same in any bytes is `test_frames_judge`'s.
"""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from wsproto.extensions import PerMessageDeflate

from tests.protocol.compressed import MEGABYTE, bomb_of, deflated
from tests.protocol.raw_frames import BINARY, CLOSE, CONTINUATION, KEY, PING, PONG, TEXT, cut, raw_frame, xor
from tests.protocol.speedups import IMPLEMENTATIONS, framing_by
from webmesh.exceptions import LocalProtocolError, MessageTooBig, RemoteProtocolError
from webmesh.options import Limits
from webmesh.protocol.deflate import BoundedDeflate, negotiate_deflate
from webmesh.protocol.frames import CloseReceived, Frames, Incoming, PingReceived, PongReceived, server_frame

MESSAGES: list[str | bytes] = [
    "", b"", "a", b"a", "żółw 🐢", b"\xff\x00", b"x" * 125, "y" * 126, b"z" * 65535, b"z" * 65536, "ż" * 40_000,
]  # fmt: skip


@pytest.fixture(params=IMPLEMENTATIONS, autouse=True, scope="module")
def masking(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test of this file with either implementation of masking."""
    with framing_by(request.param):
        yield


def server(**limits: int) -> Frames:
    return Frames(client=False, limits=Limits(**limits))


def client(**limits: int) -> Frames:
    return Frames(client=True, limits=Limits(**limits))


def deflating(*, is_client: bool = False, **limits: int) -> Frames:
    """One side of a connection with permessage-deflate."""
    bounds = Limits(**limits)
    agreed = negotiate_deflate("permessage-deflate", limits=bounds)
    assert agreed is not None
    if not is_client:
        return Frames(client=False, limits=bounds, extensions=[agreed])
    extension = BoundedDeflate(bounds)
    extension.accept(agreed.response().partition("; ")[2])
    return Frames(client=True, limits=bounds, extensions=[extension])


def drain(frames: Frames, *pieces: bytes) -> list[Incoming]:
    """All that the pieces make whole, over as many turns as it takes."""
    received = []
    for piece in pieces:
        received += frames.receive(piece)
        while frames.pending:
            received += frames.receive()
    return received


def failure(frames: Frames, *pieces: bytes) -> RemoteProtocolError:
    """The error that is all that comes out."""
    (error,) = drain(frames, *pieces)
    assert isinstance(error, RemoteProtocolError)
    return error


def fragments(*payloads: bytes, opcode: int = BINARY, rsv: int = 0) -> list[bytes]:
    """The frames of one message; RSV bits on the first."""
    last = len(payloads) - 1
    return [
        raw_frame(CONTINUATION if number else opcode, payload, fin=number == last, rsv=0 if number else rsv)
        for number, payload in enumerate(payloads)
    ]


# --- Messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
def test_messages_pass_both_ways_however_they_are_cut(message: str | bytes, step: int) -> None:
    """What one side encodes the other receives, with its type."""
    asking, answering = client(), server()
    if len(message) > 5000 and step == 1:
        step = 4001

    assert [message] == drain(answering, *cut(asking.encode(message), step))
    assert [message] == drain(asking, *cut(answering.encode(message), step))
    assert type(message) is type(drain(asking, answering.encode(message))[0])


def test_many_messages_in_one_read_keep_their_order() -> None:
    """Frames that arrive together come out together."""
    sender = client()
    messages: list[str | bytes] = ["one", b"two", "", b"three" * 100]

    assert messages == server().receive(b"".join(map(sender.encode, messages)))


def test_an_encoded_message_is_the_frame_of_the_standard() -> None:
    """RFC 6455 section 5.7 shows "Hello" unmasked and masked."""
    asking = Frames(client=True, limits=Limits(), mask_keys=lambda size: KEY * (size // 4))

    assert bytes.fromhex("810548656c6c6f") == server().encode("Hello")
    assert bytes.fromhex("818537fa213d7f9f4d5158") == asking.encode("Hello")


@pytest.mark.parametrize("size, head", [
    (0, "8200"), (125, "827d"), (126, "827e007e"), (65535, "827effff"), (65536, "827f0000000000010000"),
])  # fmt: skip
def test_lengths_take_as_few_bytes_as_they_can(size: int, head: str) -> None:
    """RFC 6455 section 5.2, in all three forms."""
    expected = bytes.fromhex(head)

    assert expected + bytes(size) == server().encode(bytes(size))


def test_a_server_frame_is_the_same_for_all_receivers() -> None:
    """A message to many is framed once: the bytes are those that each connection would have made."""
    assert server().encode("hi") == server_frame("hi")
    assert ["hi"] == client().receive(server_frame("hi"))


@pytest.mark.row(35)
def test_a_message_to_many_is_compressed_for_none() -> None:
    """Receivers with permessage-deflate take the plain frame as well, so nobody compresses 10,000 times."""
    message = "broadcast " * 1000

    assert [message] == deflating(is_client=True).receive(server_frame(message))


def test_masking_keys_are_fresh_and_unpredictable() -> None:
    """Each frame has a key of its own, all of them from the source that was given (RFC 6455 section 5.3)."""
    drawn = b""

    def draw(size: int) -> bytes:
        nonlocal drawn
        drawn += (new := os.urandom(size))
        return new

    sender = Frames(client=True, limits=Limits(), mask_keys=draw)
    keys = [sender.encode(b"x")[2:6] for _ in range(1000)]

    assert cut(drawn, 4)[:1000] == keys
    assert 990 < len(set(keys))


@pytest.mark.parametrize("message", [bytearray(b"abc"), memoryview(b"abc")])
def test_other_buffers_are_sent_as_bytes(message: bytes) -> None:
    """A bytearray or memoryview is a binary message."""
    assert [b"abc"] == server().receive(client().encode(message))
    assert [b"abc"] == client().receive(server().encode(message))


@pytest.mark.parametrize("frames", [client, server, deflating])
@pytest.mark.parametrize("message", [None, 5, ["a"], {"a": 1}, "\ud800"])
def test_what_is_no_message_is_refused(frames: type[Frames], message: str) -> None:
    """Neither text that UTF-8 can say, nor bytes: an error of our own, and nothing was sent."""
    with pytest.raises(LocalProtocolError):
        frames().encode(message)


# --- Control frames -----------------------------------------------------------------------------


def test_pings_and_pongs_pass_both_ways() -> None:
    """Their payloads come out as they went in."""
    asking, answering = client(), server()

    assert [PingReceived(b"abc")] == answering.receive(asking.ping(b"abc"))
    assert [PongReceived(b"abc")] == asking.receive(answering.pong(b"abc"))
    assert [PingReceived(b"")] == asking.receive(answering.ping())


def test_a_ping_of_126_bytes_is_refused() -> None:
    """RFC 6455 section 5.5 allows 125; the caller is told."""
    with pytest.raises(LocalProtocolError):
        server().ping(bytes(126))


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_control_frames_come_between_fragments(step: int) -> None:
    """They are handed out when they come; the message goes on."""
    first, second, third = fragments(b"ab", b"", b"cd")
    stream = first + raw_frame(PING, b"p") + second + raw_frame(PONG) + third

    assert [PingReceived(b"p"), PongReceived(b""), b"abcd"] == drain(server(), *cut(stream, step))


def test_messages_of_one_and_the_other_lane_keep_their_order() -> None:
    """Plain frames before, between and behind what wsproto reads."""
    first, second = fragments(b"2", b"3")
    stream = [raw_frame(TEXT, b"1"), first, second, raw_frame(TEXT, b"4" * 50), raw_frame(PING), raw_frame(BINARY)]

    assert ["1", b"23", "4" * 50, PingReceived(b""), b""] == server().receive(b"".join(stream))


# --- Faults of the peer -------------------------------------------------------------------------


@pytest.mark.row(17)
@pytest.mark.parametrize("wrong", [
    raw_frame(TEXT, b"x", key=None),
    *(raw_frame(TEXT, b"x", rsv=rsv) for rsv in (1, 2, 4, 7)),
    *(raw_frame(opcode) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    raw_frame(PING, bytes(126)), raw_frame(CLOSE, bytes(126)), raw_frame(PONG, bytes(65536)),
    raw_frame(PING, fin=False), raw_frame(CLOSE, fin=False),
    raw_frame(CONTINUATION, b"x"), raw_frame(CONTINUATION, b"x", fin=False),
    raw_frame(TEXT, b"a", fin=False) + raw_frame(TEXT, b"b"),
    raw_frame(BINARY, b"a", length_size=2), raw_frame(BINARY, b"a" * 300, length_size=8),
])  # fmt: skip
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_broken_framing_is_1002(wrong: bytes, step: int) -> None:
    """Missing masks, reserved bits, unknown opcodes, bad control frames, stray continuations, padded lengths."""
    received = drain(server(), *cut(raw_frame(TEXT, b"before") + wrong + raw_frame(TEXT, b"behind"), step))

    assert "before" == received[0]
    assert [1002] == [error.close_code for error in received[1:] if isinstance(error, RemoteProtocolError)]
    assert 2 == len(received)


@pytest.mark.row(17)
def test_a_masked_frame_from_a_server_is_1002() -> None:
    """RFC 6455 section 5.1, in the fast lane's kind of frame and in another."""
    assert 1002 == failure(client(), raw_frame(TEXT, b"x" * 20)).close_code
    assert 1002 == failure(client(), raw_frame(PING)).close_code


@pytest.mark.row(18)
@pytest.mark.parametrize("declared", [MEGABYTE + 1, 1 << 31, 1 << 62, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("opcode, fin", [(TEXT, True), (BINARY, True), (BINARY, False), (CONTINUATION, True)])
def test_a_declared_length_over_the_limit_is_1009_at_once(opcode: int, fin: bool, declared: int) -> None:
    """The head alone decides, even before its masking key is there; no payload is kept."""
    head = raw_frame(opcode, fin=fin, declared=declared)[: -len(KEY)]

    error = failure(server(), head)

    assert isinstance(error, MessageTooBig)
    assert (1009, declared, MEGABYTE) == (error.close_code, error.size, error.limit)


@pytest.mark.row(18)
@pytest.mark.parametrize("limit", [10, 125, 126, 1000, 65535, 65536])
def test_the_limit_itself_is_allowed(limit: int) -> None:
    """A message may have exactly `Limits.message_size` bytes, in the fast lane as well."""
    assert [bytes(limit)] == drain(server(message_size=limit), raw_frame(BINARY, bytes(limit)))
    assert 1009 == failure(server(message_size=limit), raw_frame(BINARY, bytes(limit + 1))).close_code


@pytest.mark.row(18)
def test_the_limit_holds_for_compressed_frames() -> None:
    """Compressed bytes may be few more than the message's; a head that declares more is 1009 at once."""
    head = raw_frame(BINARY, declared=2 * MEGABYTE, rsv=4)

    assert 1009 == failure(deflating(), head).close_code


@pytest.mark.row(19)
def test_the_fragment_that_crosses_the_limit_is_1009() -> None:
    """Each is legal alone; the one that makes the message too big is refused by its head."""
    first, second, third = fragments(bytes(400), bytes(600), b"x")
    frames = server(message_size=1000)

    assert [] == drain(frames, first, second)
    error = failure(frames, third[:6])

    assert isinstance(error, MessageTooBig)
    assert (1009, 1001, 1000) == (error.close_code, error.size, error.limit)


@pytest.mark.row(19)
def test_the_limit_is_counted_anew_for_each_message() -> None:
    """Many messages may be more than one may be."""
    message = fragments(bytes(500), bytes(500))

    assert [bytes(1000)] * 5 == drain(server(message_size=1000), *message * 5)


@pytest.mark.row(20)
@pytest.mark.parametrize("payload", [b"", b"x"])
def test_a_message_of_too_many_fragments_is_1009(payload: bytes) -> None:
    """Empty ones count. `Limits.fragments` and the one that ends the message are allowed, no more."""
    *most, last = fragments(*[payload] * 101)
    more = raw_frame(CONTINUATION, payload, fin=False)

    assert [payload * 101] == drain(server(fragments=100), *most, last)
    error = failure(server(fragments=100), *most, more)

    assert isinstance(error, MessageTooBig)
    assert (1009, 101, 100) == (error.close_code, error.size, error.limit)


@pytest.mark.row(20)
def test_fragments_are_joined_as_they_come() -> None:
    """Memory follows the bytes of a message, not the number of its frames."""
    frames = server()
    drain(frames, *fragments(*[b"x"] * 100)[:-1])

    tracemalloc.start()
    try:
        drain(frames, *[raw_frame(CONTINUATION, b"x", fin=False)] * 3900)
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert grown < 3 * 3900


@pytest.mark.row(21)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_frame_dribbled_byte_by_byte_takes_one_buffer(opcode: int) -> None:
    """A long frame grows in place: no list of bytes, and no copy of all that came for each byte."""
    frames = server()
    frame = raw_frame(opcode, b"x" * 50_000)
    frames.receive(frame[:20])

    tracemalloc.start()
    try:
        received = drain(frames, *cut(frame[20:-1], 1))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [] == received
    assert held < 70_000
    assert [["x" * 50_000], [b"x" * 50_000]][opcode == BINARY] == frames.receive(frame[-1:])


@pytest.mark.row(21)
def test_a_long_frame_is_not_copied_for_every_read() -> None:
    """Reads of 64 KiB make a message of a megabyte with a buffer of its size, not of its square."""
    frames = server()
    pieces = cut(raw_frame(BINARY, bytes(MEGABYTE)), 65536)

    tracemalloc.start()
    try:
        assert [] == drain(frames, *pieces[:-1])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 2 * MEGABYTE
    assert [bytes(MEGABYTE)] == frames.receive(pieces[-1])


@pytest.mark.row(25)
@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"ab\x80"])
@pytest.mark.parametrize("before", [b"", b"x" * 200])
def test_bad_utf8_is_1007(bad: bytes, before: bytes) -> None:
    """In one frame, over fragments, dribbled, compressed: text is UTF-8."""
    text = before + bad

    assert 1007 == failure(server(), raw_frame(TEXT, text)).close_code
    assert 1007 == failure(server(), *cut(raw_frame(TEXT, text), 1)).close_code
    assert 1007 == failure(server(), *fragments(before, bad[:1], bad[1:], opcode=TEXT)).close_code
    assert 1007 == failure(deflating(), raw_frame(TEXT, deflated(text), rsv=4)).close_code


@pytest.mark.row(25)
def test_bad_utf8_fails_before_the_frame_is_whole() -> None:
    """Autobahn 6.4.3 and 6.4.4: the bad byte ends it, though most of the frame has not come."""
    frame = raw_frame(TEXT, b"good \xff" + b"x" * 1000)
    frames = server()

    assert [] == frames.receive(frame[: 8 + 5])
    assert 1007 == failure(frames, frame[8 + 5 : 8 + 6]).close_code


@pytest.mark.row(25)
def test_binary_messages_need_not_be_utf8() -> None:
    """Only text is judged."""
    assert [b"\xff\xfe", b"\xff\xfe"] == drain(server(), raw_frame(BINARY, b"\xff\xfe"), *fragments(b"\xff", b"\xfe"))


@pytest.mark.parametrize("step", [1, 1000])
def test_nothing_is_read_after_a_fault(step: int) -> None:
    """One error, always the last thing; whatever follows is ignored and nothing is kept of it."""
    frames = server()
    stream = raw_frame(TEXT, b"ok") + raw_frame(3) + raw_frame(TEXT, b"late") * 5

    received = drain(frames, *cut(stream, step))

    assert ["ok", 1002] == [received[0], received[1].close_code]  # type: ignore[union-attr]
    assert 2 == len(received)
    assert [] == drain(frames, raw_frame(TEXT, b"later"), raw_frame(CLOSE))
    assert not frames.pending and not frames.mid_message


def test_the_fault_can_be_told_to_the_peer() -> None:
    """After an error the close frame with its code is still to be sent."""
    frames = server()
    error = failure(frames, raw_frame(3))

    assert [CloseReceived(1002, "bad opcode")] == client().receive(frames.close(error.close_code, "bad opcode"))


@pytest.mark.parametrize("make", [server, deflating])
@pytest.mark.parametrize("end", [raw_frame(3), raw_frame(TEXT, b"\xff"), raw_frame(CLOSE), raw_frame(CLOSE, b"x")])
def test_what_came_before_the_end_can_still_be_answered(make: Callable[[], Frames], end: bytes) -> None:
    """Messages before a fault or a close, in one read with it, get their answers before our close frame goes out."""
    frames = make()
    received = frames.receive(raw_frame(TEXT, b"x" * 2000) + raw_frame(PING, b"p") + end)
    assert ["x" * 2000, PingReceived(b"p")] == received[:-1]

    answers = frames.encode("answer" * 1000) + frames.pong(b"p") + frames.close(1002)

    peer = deflating(is_client=True)
    assert ["answer" * 1000, PongReceived(b"p"), CloseReceived(1002, "")] == peer.receive(answers)


@pytest.mark.parametrize("raised", [ValueError("odd"), AssertionError(), IndexError("odd"), TypeError("odd")])
def test_foreign_exceptions_become_our_own(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever wsproto raises on a peer's bytes is the peer's fault: 1002. No traceback holds what was half read."""
    frames = server()

    def raise_it(*_: object) -> None:
        raise raised

    monkeypatch.setattr("webmesh.protocol.frames.Connection.events", raise_it)

    error = failure(frames, raw_frame(PING))

    assert 1002 == error.close_code
    assert raised is error.__cause__
    assert (None, None) == (error.__traceback__, raised.__traceback__)


def test_after_stop_nothing_is_looked_at() -> None:
    """What is half read is let go of, and what comes is not even counted; our close can still be sent."""
    frames = Frames(client=False, limits=Limits(frames_per_turn=2))
    frames.receive(raw_frame(TEXT, b"begun", fin=False) + raw_frame(PING) * 3)
    begun = frames.mid_message, frames.pending

    frames.stop()

    assert ((True, True), (False, False)) == (begun, (frames.mid_message, frames.pending))
    seen = frames.overhead
    assert [] == frames.receive(raw_frame(PING) * 100)
    assert seen == frames.overhead
    assert frames.close(1008).startswith(b"\x88")


# --- Closing ------------------------------------------------------------------------------------


@pytest.mark.row(26)
@pytest.mark.parametrize("payload, code", [
    (b"\x03", 1002), *((number.to_bytes(2, "big"), 1002) for number in (0, 999, 1004, 1005, 1006, 1014, 1015, 1016)),
    *((number.to_bytes(2, "big"), 1002) for number in (1100, 2000, 2999, 5000, 65535)),
    (b"\x03\xe8\xff", 1007), (b"\x03\xe8ab\xed\xa0\x80", 1007), (b"\x03\xe8" + bytes(124), 1002),
])  # fmt: skip
def test_bad_close_frames(payload: bytes, code: int) -> None:
    """One byte, codes that nobody may send, over 125 bytes: 1002; a reason that is not UTF-8: 1007."""
    assert code == failure(server(), raw_frame(CLOSE, payload)).close_code


@pytest.mark.row(26)
@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1013, 3000, 3999, 4000, 4999])
def test_close_frames_tell_code_and_reason(code: int) -> None:
    """All codes that may stand on the wire, with a reason of up to 123 bytes."""
    frame = raw_frame(CLOSE, code.to_bytes(2, "big") + "ż".encode() * 61)

    assert [CloseReceived(code, "ż" * 61)] == server().receive(frame)


def test_an_empty_close_frame_is_1005_and_is_answered_alike() -> None:
    """RFC 6455 section 7.1.5: 1005 stands for no code; as it must not be sent, the answer is empty, too."""
    frames = server()

    assert [CloseReceived(1005, "")] == frames.receive(raw_frame(CLOSE))
    assert bytes.fromhex("8800") == frames.close(1005, "cannot be sent without a code")


@pytest.mark.row(26)
@pytest.mark.parametrize("reason", ["x" * 200, "ż" * 100, "a" + "ż" * 100, "€" * 100, "🐢" * 100, "a🐢" * 100])
def test_our_own_reasons_are_cut_on_a_character_boundary(reason: str) -> None:
    """At most 100 bytes, always valid text (protocol.md section 5)."""
    (closed,) = client().receive(server().close(4000, reason))

    assert isinstance(closed, CloseReceived)
    assert reason.startswith(closed.reason)
    assert 96 < len(closed.reason.encode()) <= 100


def test_a_reason_that_is_no_text_does_not_stop_the_close() -> None:
    """Lone surrogates, as from a file name, are replaced."""
    assert [CloseReceived(1000, "a?b")] == client().receive(server().close(1000, "a\ud800b"))


@pytest.mark.row(26)
@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1014, 1015, 2999, 5000, -1, 70000])
def test_codes_that_nobody_may_send_are_refused(code: int) -> None:
    """The caller is told, and can still close with a right one."""
    frames = server()

    with pytest.raises(LocalProtocolError):
        frames.close(code)

    assert not frames.close_sent
    assert frames.close(1000)


@pytest.mark.row(27)
@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("before", [b"", raw_frame(TEXT, b"begun", fin=False)])
def test_what_follows_a_close_frame_is_ignored(before: bytes, step: int) -> None:
    """Data, garbage and a second close after the close, which may come inside a fragmented message."""
    close = raw_frame(CLOSE, b"\x0f\xa0bye")
    stream = before + close + raw_frame(TEXT, b"late") + raw_frame(3) + close
    frames = server()

    assert [CloseReceived(4000, "bye")] == drain(frames, *cut(stream, step))
    assert frames.close_received and not frames.pending and not frames.mid_message


@pytest.mark.row(27)
def test_a_close_is_answered_once_with_the_peers_code() -> None:
    """After the answer there is nothing more to say."""
    frames = server()
    (closed,) = frames.receive(raw_frame(CLOSE, b"\x0f\xa0bye"))
    assert isinstance(closed, CloseReceived)

    assert raw_frame(CLOSE, b"\x0f\xa0", key=None) == frames.close(closed.code)
    with pytest.raises(LocalProtocolError):
        frames.close(closed.code)


def test_nothing_can_be_sent_after_our_close() -> None:
    """RFC 6455 section 5.5.1; the state tells."""
    frames = server()
    assert not frames.close_sent
    frames.close(1000)

    assert frames.close_sent
    for send in (lambda: frames.encode("x"), frames.ping, lambda: frames.pong(b""), frames.close):
        with pytest.raises(LocalProtocolError):
            send()


def test_messages_still_come_in_after_our_close() -> None:
    """The peer may have sent them before it saw our close; its own close ends it."""
    frames = server()
    frames.close(1000)
    stream = [raw_frame(TEXT, b"late"), *fragments(b"a", b"b"), raw_frame(PING), raw_frame(CLOSE, b"\x03\xe8")]

    assert ["late", b"ab", PingReceived(b""), CloseReceived(1000, "")] == frames.receive(b"".join(stream))


# --- Turns and counts ---------------------------------------------------------------------------


@pytest.mark.row(20, 23)
@pytest.mark.parametrize("frame, comes_out", [
    (raw_frame(TEXT, b"x"), "x"), (raw_frame(TEXT), ""), (raw_frame(PING), PingReceived(b"")),
    (raw_frame(CONTINUATION, b"x", fin=False), None),
])  # fmt: skip
def test_one_turn_looks_at_so_many_frames(frame: bytes, comes_out: object) -> None:
    """However many frames a read holds, `receive` stops after `Limits.frames_per_turn` and says so."""
    frames = server(frames_per_turn=64)
    if comes_out is None:
        frames.receive(raw_frame(TEXT, fin=False))
    seen: list[int] = []

    overhead = frames.overhead
    received = frames.receive(frame * 1000)
    while True:
        seen.append(frames.overhead - overhead if comes_out in (None, "", PingReceived(b"")) else len(received))
        overhead = frames.overhead
        if not frames.pending:
            break
        received = frames.receive()

    assert [64] * 15 + [40] == seen


def test_a_turn_that_ends_with_the_data_leaves_nothing_pending() -> None:
    """Exactly as many frames as a turn takes: there is nothing to come back for."""
    frames = server(frames_per_turn=8)

    assert ["x"] * 8 == frames.receive(raw_frame(TEXT, b"x") * 8)
    assert not frames.pending


def test_data_may_be_added_while_some_is_pending() -> None:
    """Nothing is lost and the order is kept."""
    frames = server(frames_per_turn=2)
    first, second = (b"".join(raw_frame(TEXT, b"%d" % n) for n in numbers) for numbers in (range(5), range(5, 10)))

    received = frames.receive(first) + frames.receive(second)

    assert [str(number) for number in range(10)] == received + drain(frames, b"")


def test_an_error_behind_a_full_turn_comes_with_the_next() -> None:
    """The turn's messages first."""
    frames = server(frames_per_turn=2)

    assert ["x", "x"] == frames.receive(raw_frame(TEXT, b"x") * 2 + raw_frame(3))
    assert frames.pending
    assert 1002 == failure(frames, b"").close_code
    assert not frames.pending


@pytest.mark.row(23)
@pytest.mark.parametrize("stream, count", [
    (raw_frame(TEXT, b"x") * 3, 0), (raw_frame(TEXT, b"x" * 200) + raw_frame(BINARY, b"x" * 70000), 0),
    (raw_frame(TEXT) * 3, 3), (raw_frame(BINARY) * 3, 3), (raw_frame(PING) * 3, 3), (raw_frame(PONG, b"x") * 3, 3),
    (b"".join(fragments(b"a", b"b", b"c")), 3), (b"".join(fragments(b"", b"")), 2),
])  # fmt: skip
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_overhead_counts_frames_without_a_whole_message(stream: bytes, count: int, step: int) -> None:
    """Pings, pongs, fragments and empty messages count; messages with content are free."""
    frames = server()

    drain(frames, *cut(stream, step if len(stream) < 60_000 else 4096))

    assert count == frames.overhead


@pytest.mark.row(33)
def test_tiny_compressed_messages_come_in_turns_and_empty_ones_count() -> None:
    """Thousands of them in one read cost no more per turn than any other frames."""
    frames = deflating(frames_per_turn=64)
    tiny = raw_frame(TEXT, deflated(b"a"), rsv=4)
    empty = raw_frame(TEXT, b"\x00", rsv=4)

    assert ["a"] * 64 == frames.receive(tiny * 5000)
    assert frames.pending
    assert ["a"] * 4936 == drain(frames, b"")
    assert 0 == frames.overhead
    assert [""] * 100 == drain(frames, empty * 100)
    assert 100 == frames.overhead


@pytest.mark.parametrize("stream", [
    raw_frame(TEXT, b"x" * 300), raw_frame(BINARY, b"x"), raw_frame(PING, b"abc"), b"".join(fragments(b"ab", b"cd")),
])  # fmt: skip
def test_mid_message_from_the_first_byte_to_the_last(stream: bytes) -> None:
    """The deadline for a message runs exactly while one, or a frame, has begun and is not finished."""
    frames = server()
    begun = [frames.mid_message]

    for octet in cut(stream, 1):
        frames.receive(octet)
        begun.append(frames.mid_message)

    assert [False] + [True] * (len(stream) - 1) + [False] == begun


def test_mid_message_between_fragments() -> None:
    """Between two frames of one message nothing is half read, and still the message is not finished."""
    first, second = fragments(b"a", b"b")
    frames = server()

    assert [[], True] == [frames.receive(first), frames.mid_message]
    assert [[PingReceived(b"")], True] == [frames.receive(raw_frame(PING)), frames.mid_message]
    assert [[b"ab"], False] == [frames.receive(second), frames.mid_message]


def test_an_idle_connection_holds_next_to_nothing() -> None:
    """wsproto's objects are let go when they have nothing to remember: pings keep no memory."""
    made = [server() for _ in range(100)]

    tracemalloc.start()
    try:
        for frames in made:
            frames.receive(raw_frame(PING) + b"".join(fragments(b"a", b"b")))
            frames.pong(b"")
        gc.collect()  # wsproto's parts refer to each other
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert held / len(made) < 300
    assert sys.getsizeof(made[0]) < 400


# --- Compression --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message", [*MESSAGES, "a" * 1023, "a" * 1024, b"ab" * 5000, os.urandom(5000), bytes(MEGABYTE)]
)
@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_compressed_messages_pass_both_ways(message: str | bytes, step: int) -> None:
    """Text and bytes, shrinking or not, below and above the size from which messages are compressed."""
    asking, answering = deflating(is_client=True), deflating()
    there, back = asking.encode(message), answering.encode(message)
    if len(there) > 5000 and step == 1:
        step = 4001

    assert [message, message] == drain(answering, *cut(there, step), there)
    assert [message, message] == drain(asking, *cut(back, step), back)


def test_long_messages_shrink_and_short_ones_are_sent_as_they_are() -> None:
    """RSV1 tells which."""
    assert 0xC1 == deflating().encode("a" * 5000)[0]
    assert len(deflating().encode("a" * 5000)) < 100
    assert deflating().encode("a" * 100) == server_frame("a" * 100)

    noise = os.urandom(5000)

    assert server_frame(noise) == deflating().encode(noise)


@pytest.mark.row(31)
@pytest.mark.parametrize("frame", [raw_frame(TEXT, b"\x00", rsv=4), raw_frame(BINARY, b"x" * 200, rsv=4)])
def test_rsv1_without_agreement_is_1002(frame: bytes) -> None:
    """Nobody compresses uninvited."""
    assert 1002 == failure(server(), frame).close_code


@pytest.mark.row(31)
@pytest.mark.parametrize("frame", [
    raw_frame(CONTINUATION, b"\x00", rsv=4), raw_frame(PING, rsv=4), raw_frame(CLOSE, rsv=4),
    raw_frame(TEXT, b"\x00", rsv=2), raw_frame(TEXT, b"\x00", rsv=5), raw_frame(TEXT, b"\x00", rsv=4),
])  # fmt: skip
@pytest.mark.parametrize("rsv", [0, 4])
def test_rsv1_where_it_does_not_belong_is_1002(frame: bytes, rsv: int) -> None:
    """Within a message, on control frames, together with other bits: agreed or not."""
    assert 1002 == failure(deflating(), raw_frame(TEXT, b"\x4a\x04\x00", fin=False, rsv=rsv) + frame).close_code


def test_compressed_messages_may_be_fragmented_with_pings_between() -> None:
    """Only the first frame has RSV1; a ping is not inflated."""
    hello = bytes.fromhex("f248cdc9c90700")
    first, second = fragments(hello[:3], hello[3:], opcode=TEXT, rsv=4)

    stream = first + raw_frame(PING, hello) + second + raw_frame(TEXT, b"plain")

    assert [PingReceived(hello), "Hello", "plain"] == drain(deflating(), stream)


def test_a_fragmented_plain_message_passes_where_compression_was_agreed() -> None:
    """Nobody has to compress."""
    assert ["abc"] == drain(deflating(), *fragments(b"a", b"b", b"c", opcode=TEXT))


@pytest.mark.row(30)
@pytest.mark.parametrize("cut_into", [100, 65536, 1 << 30])
@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_bomb_is_1009_and_takes_little_memory(opcode: int, pieces: int, cut_into: int) -> None:
    """1 MiB that would be 1 GiB: one frame or several, in small reads or at once: limit + 1 MiB, no more."""
    bomb = bomb_of(1 << 30)
    frames = deflating()
    stream = b"".join(fragments(*cut(bomb, -(-len(bomb) // pieces)), opcode=opcode, rsv=4))
    reads = cut(stream, cut_into)

    tracemalloc.start()
    try:
        for read in reads:
            received = frames.receive(read)
            if received:
                break
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    (error,) = received
    assert isinstance(error, MessageTooBig)
    assert (1009, MEGABYTE + 1, MEGABYTE) == (error.close_code, error.size, error.limit)
    assert peak <= 2 * MEGABYTE


@pytest.mark.row(32)
@pytest.mark.parametrize("payload", [b"garbage", bytes.fromhex("f248cdc9c907"), bytes.fromhex("f200110000")])
def test_damaged_compressed_messages_are_1007(payload: bytes) -> None:
    """Garbage, a truncated stream, a reference to an earlier message."""
    error = failure(deflating(), raw_frame(BINARY, payload, rsv=4))

    assert 1007 == error.close_code
    assert "damaged" in str(error)


@pytest.mark.row(32)
def test_messages_after_a_final_block_pass() -> None:
    """BFINAL is the sender's right; wsproto's own extension fails at the next message."""
    final = raw_frame(TEXT, bytes.fromhex("f348cdc9c9070000"), rsv=4)
    frames = deflating()

    assert ["Hello"] * 3 == frames.receive(final * 3)
    assert ["Hello"] == frames.receive(raw_frame(TEXT, bytes.fromhex("f248cdc9c90700"), rsv=4))


@pytest.mark.row(34)
def test_no_compression_unless_it_was_agreed() -> None:
    """Off by default, and no message's length tells anything about another message or another user."""
    secret = "token=" + "s3cr3t" * 1000

    assert server_frame(secret) == server().encode(secret)
    assert deflating().encode(secret) == (frames := deflating()).encode(secret) == frames.encode(secret)


def test_other_extensions_are_held_to_the_limits_as_well() -> None:
    """wsproto's own extension inflates without a bound; the message is refused all the same."""
    extension = PerMessageDeflate()
    extension.finalize("permessage-deflate")
    frames = Frames(client=False, limits=Limits(message_size=1000), extensions=[extension])
    sender = deflating(is_client=True)

    assert ["a" * 1000] == frames.receive(sender.encode("a" * 1000))
    assert 1009 == failure(frames, deflating(is_client=True).encode("a" * 2000)).close_code


def test_an_extension_that_was_not_agreed_changes_nothing() -> None:
    """What the handshake left out is not there."""
    frames = Frames(client=False, limits=Limits(), extensions=[BoundedDeflate(Limits())])

    assert 1002 == failure(frames, raw_frame(TEXT, b"\x00", rsv=4)).close_code
    assert xor(b"abc", KEY) == raw_frame(TEXT, b"abc")[-3:]


@pytest.mark.parametrize("client", [False, True])
def test_a_close_needs_nothing_of_wsproto(client: bool):
    """Its parts would wait for the garbage collector: a peer that is thrown out again and again would fill memory."""
    frames = Frames(client=client, limits=Limits())
    closing = frames.close(1009, "message too big")
    assert frames._wire is None
    received = Frames(client=not client, limits=Limits()).receive(closing)
    assert [CloseReceived(1009, "message too big")] == received
