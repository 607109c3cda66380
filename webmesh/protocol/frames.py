"""Frames: bytes from the wire become whole messages, and messages become bytes (RFC 6455 section 5).

Decides alone which bytes take the fast lane, where one frame ends and the next begins, and how much a peer may
send: sizes, fragments, frames in one turn. Plain data frames are read and written here; everything else
(control frames, fragments, compression, errors) is wsproto's, one frame at a time. Pure: the socket, the clock
and what a message means are others' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import urandom
from struct import Struct, error as struct_error, iter_unpack
from typing import Any, Final, TypeAlias

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong, TextMessage
from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import ProtocolError as WsprotoError

from webmesh.exceptions import LocalProtocolError, MessageTooBig, RemoteProtocolError
from webmesh.options import Limits
from webmesh.protocol.assembly import Assembly, not_utf8
from webmesh.protocol.deflate import BoundedDeflate
from webmesh.protocol.masking import mask, unmask

CLOSE_REASON_SIZE: Final = 100
"""Bytes of the reason in our own close frames (protocol.md section 5; RFC 6455 allows 123)."""
NO_STATUS: Final = 1005
"""Close code for a close frame without one (RFC 6455 section 7.1.5); never on the wire."""

_TEXT: Final = 0x81
_BINARY: Final = 0x82
_RSV1: Final = 0x40
_CONTROL: Final = 0x08
_MASKED: Final = 0x80
_KEY_SIZE: Final = 4
_LONGEST_HEAD: Final = 8  # bytes of a masked frame's head with a 16-bit length; longer ones are seldom whole anyway
_CHUNK: Final = 64 * 1024  # bytes that wsproto, which copies what it gets several times, gets at once
_KEYS_AT_ONCE: Final = 1024  # bytes of masking keys drawn from the system in one call, which costs as much as for 4
_UNBOUNDED: Final = 1 << 63
_CLEAN: Final = frozenset((0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A))
_CLEAN_WITH_RSV1: Final = _CLEAN | {0x41, 0x42, 0xC1, 0xC2}
"""First bytes of frames that may be right; all others wsproto refuses."""
_CODES_TO_SEND: Final = (range(1000, 1004), range(NO_STATUS, NO_STATUS + 1), range(1007, 1014), range(3000, 5000))
"""RFC 6455 section 7.4 and IANA's registry; 1005 stands for a close frame without a code."""
_FOREIGN: Final = (WsprotoError, ValueError, LookupError, TypeError, AssertionError, struct_error)
"""What wsproto has been seen to raise, or may, on a peer's bytes: all of it is the peer's fault."""

_head_16 = Struct("!BBH").pack
_head_64 = Struct("!BBQ").pack


@dataclass(frozen=True, slots=True)
class PingReceived:
    """The peer asks for a pong with this payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The peer's answer to our ping, or a sign of life without one."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class CloseReceived:
    """The peer's close frame; *code* is 1005 when it had none. Nothing comes after it."""

    code: int
    reason: str


Incoming: TypeAlias = str | bytes | PingReceived | PongReceived | CloseReceived | RemoteProtocolError
"""What `Frames.receive` gives; an error is always the last one."""


class Frames:
    """The frames of one connection after its handshake, in both directions.

    Attributes:
        pending: More frames may be waiting than one turn takes: call `receive` again before reading.
        overhead: Frames so far that carried no whole message or an empty one. The caller judges the rate.
        close_sent: Our close frame was made.
        close_received: The peer's close frame was read; what follows it is ignored.
    """

    __slots__ = (
        "pending", "overhead", "close_sent", "close_received",
        "_client", "_mask_bit", "_key_size", "_limits", "_limit", "_turn", "_extensions", "_deflate", "_clean",
        "_fast", "_plain", "_over", "_rest", "_begun", "_missing", "_gathers", "_key",
        "_assembly", "_fragments", "_size", "_allowed", "_wire", "_sendable", "_mask_keys", "_keys",
    )  # fmt: skip

    def __init__(
        self,
        *,
        client: bool,
        limits: Limits,
        extensions: Sequence[Extension] = (),
        mask_keys: Callable[[int], bytes] = urandom,
    ) -> None:
        """Start just behind the handshake.

        Args:
            client: Whether this side is the client: it masks what it sends, the server does not.
            extensions: Those agreed in the handshake, best a `BoundedDeflate`.
            mask_keys: Gives so many bytes that nobody can predict (RFC 6455 section 5.3).
        """
        self.pending = False
        self.overhead = 0
        self.close_sent = False
        self.close_received = False
        self._client = client
        self._mask_bit = 0 if client else _MASKED  # of frames that come in, and
        self._key_size = 0 if client else _KEY_SIZE  # bytes of their masking keys
        self._limits = limits
        self._limit = limits.message_size
        self._turn = limits.frames_per_turn
        self._extensions = [extension for extension in extensions if extension.enabled()]
        self._deflate = next((each for each in self._extensions if isinstance(each, BoundedDeflate)), None)
        if self._deflate is not None:
            self._deflate.assembles = True
        self._clean = _CLEAN_WITH_RSV1 if self._extensions else _CLEAN
        self._plain = not self._extensions
        self._fast = self._plain  # between two messages, no extension: a plain frame is read right here
        self._over = False
        self._rest = b""  # bytes of frames not begun: half a head, or what this turn had no place for
        self._begun = False  # a frame is half read:
        self._missing = 0  # so many bytes of it are still to come,
        self._gathers = False  # and are gathered here (else by wsproto),
        self._key = b""  # unmasked with this key
        self._assembly: Assembly | None = None
        self._fragments = 0  # frames so far of a message that wsproto has begun
        self._size = 0  # their payloads together, as the heads declare
        self._allowed = 0  # of at most
        self._wire: Connection | None = None
        self._sendable = True
        self._mask_keys = mask_keys
        self._keys: Iterator[tuple[bytes, ...]] = iter(())

    @property
    def mid_message(self) -> bool:
        """Whether a frame or a message has begun and is not finished: the message deadline is running."""
        return (self._begun or self._fragments > 0 or bool(self._rest)) and not self._over

    def receive(self, data: bytes = b"") -> list[Incoming]:
        """What *data*, and what was kept of earlier data, makes whole, in order.

        At most `Limits.frames_per_turn` frames are looked at; see `pending`. Peers' errors are
        returned, as the last element, and never raised.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
            self.pending = False
        received: list[Incoming] = []
        position, end, left = 0, len(data), self._turn
        try:
            while position < end and left:
                left -= 1
                if not self._fast or end - position < _LONGEST_HEAD:
                    position = self._take(data, position, received)
                    continue
                first = data[position]
                size = data[position + 1] ^ self._mask_bit
                start = position + 2
                if size > 125:  # 126: the length stands in the next two bytes; other frames are not for this lane
                    wide = data[start] << 8 | data[start + 1]
                    size = wide if size == 126 and wide > 125 else _UNBOUNDED
                    start += 2
                stop = start + size + self._key_size
                if stop > end or size > self._limit or first != _BINARY and first != _TEXT:
                    position = self._take(data, position, received)
                    continue
                payload = unmask(data, start, stop) if self._mask_bit else data[start:stop]
                received.append(payload if first == _BINARY else payload.decode())
                position = stop
                if not size:
                    self.overhead += 1
        except UnicodeDecodeError as error:
            self._fail(not_utf8(error), received)
        except RemoteProtocolError as error:
            self._fail(error, received)
        else:
            if position < end:
                self._rest = data[position:]
                self.pending = True
        return received

    def encode(self, message: str | bytes) -> bytes:
        """One whole message as bytes to send.

        Raises:
            LocalProtocolError: After either side's close frame, and for what is neither text nor bytes.
        """
        if not self._sendable:
            raise LocalProtocolError("a message cannot be sent after a close frame")
        if self._deflate is not None and self._deflate.compresses(len(message)):
            return self._send(TextMessage(message) if isinstance(message, str) else BytesMessage(message))
        if not self._client:
            return server_frame(message)
        first, payload = (_BINARY, message) if isinstance(message, bytes) else _first_and_payload(message)
        try:
            (key,) = next(self._keys)
        except StopIteration:
            self._keys = iter_unpack("4s", self._mask_keys(_KEYS_AT_ONCE))
            (key,) = next(self._keys)
        size = len(payload)
        if size < 126:
            head = bytes((first, _MASKED | size))
        elif size < 65536:
            head = _head_16(first, _MASKED | 126, size)
        else:
            head = _head_64(first, _MASKED | 127, size)
        return head + key + mask(payload, key)

    def ping(self, payload: bytes = b"") -> bytes:
        """A ping frame; *payload*, of at most 125 bytes, comes back in the pong."""
        return self._send(Ping(payload))

    def pong(self, payload: bytes) -> bytes:
        """The answer to a ping with that payload."""
        return self._send(Pong(payload))

    def close(self, code: int = 1000, reason: str = "") -> bytes:
        """Our one close frame; nothing can be sent after it.

        Args:
            code: One that may stand on the wire, or 1005 for a frame without one (the answer to such a frame).
            reason: Cut to `CLOSE_REASON_SIZE` bytes, on a character boundary; needs a code.

        Raises:
            LocalProtocolError: There was one already, or nobody may send this code (RFC 6455 section 7.4).
        """
        if self.close_sent:
            raise LocalProtocolError("the close frame was sent already")
        if not any(code in codes for codes in _CODES_TO_SEND):
            raise LocalProtocolError(f"close code {code!r} must not be sent (RFC 6455 section 7.4)")
        if code == NO_STATUS:
            event = CloseConnection(code=CloseReason.NO_STATUS_RCVD)
        else:
            short = reason.encode("utf-8", "replace")[:CLOSE_REASON_SIZE].decode("utf-8", "ignore")
            event = CloseConnection(code=code, reason=short)
        closing = bytes(self._connection().send(event))
        self.close_sent = True
        self._sendable = False
        return closing

    def _take(self, data: bytes, position: int, received: list[Incoming]) -> int:
        """Read what is not the fast lane's: one frame, or what has come of it. Return where it ends."""
        end = len(data)
        if self._over:
            return end
        if not self._begun:
            head = self._read_head(data, position)
            if head is None:
                self._rest = data[position:]
                return end
            position = self._begin(data, position, *head)
        stop = min(end, position + self._missing, position + _CHUNK)
        self._missing -= stop - position
        self._begun = self._missing > 0
        if self._gathers:
            self._gather(data[position:stop], received)
        else:
            self._feed(data[position:stop], received)
        self._fast = self._plain and not self._begun and not self._fragments and not self._over
        return stop

    def _read_head(self, data: bytes, position: int) -> tuple[int, int] | None:
        """Payload size of the frame at *position* and where its key, else its payload, starts; `None`: not whole yet.

        A frame that cannot be right is given as endless and to start at *position*: wsproto gets all bytes
        of it as they come, and so finds the fault as early as it can.
        """
        available = len(data) - position
        if available < 2:
            return None
        first, size = data[position], data[position + 1] ^ self._mask_bit
        start = position + 2
        if first not in self._clean or size > (125 if first & _CONTROL else 127):
            return _UNBOUNDED, position
        if size > 125:
            length_size, least = (2, 126) if size == 126 else (8, 1 << 16)
            if available < 2 + length_size:
                return None
            size = int.from_bytes(data[start : start + length_size], "big")
            start += length_size
            if size < least:
                return _UNBOUNDED, position
        self._check_size(first, size)
        return (size, start) if len(data) >= start + self._key_size else None

    def _check_size(self, first: int, size: int) -> None:
        """Refuse a data frame by its head if its message grows too big with it."""
        if first & _CONTROL:
            return
        if not self._fragments:
            self._size = 0
            self._allowed = self._limit
            if first & _RSV1:
                # Deflate's worst code has nine bits a byte (RFC 1951 section 3.2.6), and may have idle blocks.
                self._allowed += self._limit // 8 + 64
        if self._size + size > self._allowed:
            raise MessageTooBig(self._size + size, self._limit)

    def _begin(self, data: bytes, position: int, size: int, start: int) -> int:
        """Enter the frame whose head is whole; return where to go on reading."""
        if start == position:  # cannot be right
            self._gathers = False
            self._missing = size
            return position
        first = data[position]
        if not size or first & ~_RSV1 not in (_TEXT, _BINARY):
            self.overhead += 1
        self._gathers = self._fast and first in (_TEXT, _BINARY)
        if self._gathers:
            self._assembly = Assembly(text=first == _TEXT, limit=self._limit)
            self._key = data[start : start + self._key_size]
            self._missing = size
            return start + self._key_size
        self._missing = start + self._key_size + size - position
        if not first & _CONTROL:
            self._fragments += 1
            self._size += size
            if self._fragments > self._limits.fragments:
                raise MessageTooBig(self._fragments, self._limits.fragments, unit="fragments")
        return position

    def _gather(self, piece: bytes, received: list[Incoming]) -> None:
        """Take a piece of a long plain frame."""
        assert self._assembly is not None
        if self._key:
            turn = len(piece) % _KEY_SIZE
            piece, self._key = mask(piece, self._key), self._key[turn:] + self._key[:turn]
        self._assembly.add(piece)
        if not self._begun:
            received.append(self._assembly.finish())
            self._assembly = None

    def _feed(self, piece: bytes, received: list[Incoming]) -> None:
        """Let wsproto have a piece of a frame."""
        wire = self._connection()
        try:
            wire.receive_data(piece)
            for event in wire.events():
                self._handle(event, wire, received)
        except _FOREIGN as error:
            raise RemoteProtocolError(f"frame refused: {error}") from error

    def _handle(self, event: Event, wire: Connection, received: list[Incoming]) -> None:
        """Pass on what wsproto has read."""
        if isinstance(event, Message):
            self._add(event, received)
        elif isinstance(event, Ping):
            received.append(PingReceived(bytes(event.payload)))
        elif isinstance(event, Pong):
            received.append(PongReceived(bytes(event.payload)))
        elif isinstance(event, CloseConnection):
            # A fault in a peer's frame comes as the same event; only a true close frame moves wsproto's state.
            if wire.state not in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED):
                failure = self._deflate.failure if self._deflate is not None else None
                raise failure or RemoteProtocolError(event.reason or "bad frame", close_code=int(event.code))
            received.append(CloseReceived(int(event.code), event.reason or ""))
            self.close_received = True
            self._end()

    def _add(self, event: Message[Any], received: list[Incoming]) -> None:
        """Add what wsproto has read of a fragmented or compressed message; pieces are joined as they come."""
        piece = event.data
        if piece:
            if self._assembly is None:
                self._assembly = Assembly(text=isinstance(piece, str), limit=self._limit)
            self._assembly.add(piece.encode() if isinstance(piece, str) else piece)
        if not event.message_finished:
            return
        message = self._deflate.take() if self._deflate is not None else None
        if message is not None:
            self.overhead += not message
        elif self._assembly is not None:
            message = self._assembly.finish()
        else:
            message = "" if isinstance(piece, str) else b""
        received.append(message)
        self._assembly = None
        self._fragments = 0

    def _connection(self) -> Connection:
        """wsproto's side of the connection, made when it is first needed: many connections never do."""
        if self._wire is None:
            role = ConnectionType.CLIENT if self._client else ConnectionType.SERVER
            self._wire = Connection(role, self._extensions)
        return self._wire

    def _send(self, event: Event) -> bytes:
        if not self._sendable:
            raise LocalProtocolError(f"{type(event).__name__} cannot be sent after a close frame")
        try:
            return bytes(self._connection().send(event))
        except (WsprotoError, ValueError, TypeError) as error:
            raise LocalProtocolError(str(error)) from error

    def _fail(self, error: RemoteProtocolError, received: list[Incoming]) -> None:
        """The peer has broken the protocol: nothing that it sends is looked at any more."""
        received.append(error)
        self._end()

    def _end(self) -> None:
        self._over = True
        self._fast = False
        self._sendable = False
        self._begun = False
        self._assembly = None


def server_frame(message: str | bytes) -> bytes:
    """A whole message as a server's frame: the same bytes for any number of receivers.

    Receivers with permessage-deflate take it, too: no message need be compressed (RFC 7692 section 6). Whether
    a receiver's connection may still be written to is for the caller to know.

    Raises:
        LocalProtocolError: *message* is neither text that UTF-8 can say, nor bytes.
    """
    first, payload = (_BINARY, message) if isinstance(message, bytes) else _first_and_payload(message)
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return _head_16(first, 126, size) + payload
    return _head_64(first, 127, size) + payload


def _first_and_payload(message: object) -> tuple[int, bytes]:
    """First byte and payload for a message that is not `bytes`."""
    if isinstance(message, str):
        try:
            return _TEXT, message.encode()
        except UnicodeEncodeError as error:
            raise LocalProtocolError(f"text cannot be sent as UTF-8: {error.reason}") from error
    if isinstance(message, (bytearray, memoryview)):
        return _BINARY, bytes(message)
    raise LocalProtocolError(f"a message is str or bytes, not {type(message).__name__}")
