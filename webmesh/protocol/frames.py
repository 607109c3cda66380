"""Frames: bytes from the wire become whole messages, and messages become bytes (RFC 6455 section 5).

Decides alone which bytes take the fast lane, where one frame ends and the next begins, and how much a peer may
send: sizes, fragments, frames in one turn. Plain data frames are read and written here; everything else
(control frames, fragments, compression, errors) is wsproto's, one frame at a time. Pure: the socket, the clock
and what a message means are others' business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import urandom
from struct import error as struct_error
from typing import Any, Final, TypeAlias

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong, TextMessage
from wsproto.extensions import Extension
from wsproto.utilities import ProtocolError as WsprotoError

from webmesh.exceptions import LocalProtocolError, MessageTooBig, RemoteProtocolError
from webmesh.options import Limits
from webmesh.protocol.assembly import Assembly, not_utf8
from webmesh.protocol.data_frames import ClientFrames, first_and_payload, read_run, server_frame, whole_frame
from webmesh.protocol.deflate import BoundedDeflate
from webmesh.protocol.frame_head import BINARY, CLOSE, KEY_SIZE, MASKED, RSV1, TEXT, Head, read_head
from webmesh.protocol.masking import mask

__all__ = ["CloseReceived", "Frames", "Incoming", "PingReceived", "PongReceived", "server_frame"]

CLOSE_REASON_SIZE: Final = 100
"""Bytes of the reason in our own close frames (protocol.md section 5; RFC 6455 allows 123)."""
NO_STATUS: Final = 1005
"""Close code for a close frame without one (RFC 6455 section 7.1.5); never on the wire."""

_CHUNK: Final = 64 * 1024  # bytes that wsproto, which copies what it gets several times, gets at once
_CODES_TO_SEND: Final = (range(1000, 1004), range(NO_STATUS, NO_STATUS + 1), range(1007, 1014), range(3000, 5000))
"""RFC 6455 section 7.4 and IANA's registry; 1005 stands for a close frame without a code."""
_FOREIGN: Final = (WsprotoError, ValueError, LookupError, TypeError, AssertionError, struct_error)
"""What wsproto has been seen to raise, or may, on a peer's bytes: all of it is the peer's fault."""


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
        "_client", "_mask_bit", "_key_size", "_limits", "_limit", "_turn", "_extensions", "_deflate",
        "_bare", "_fast", "_plain", "_over", "_rest", "_begun", "_missing", "_gathers", "_key",
        "_assembly", "_fragments", "_size", "_allowed", "_whole", "_wire", "_frame",
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
        self._mask_bit = 0 if client else MASKED  # of frames that come in, and
        self._key_size = 0 if client else KEY_SIZE  # bytes of their masking keys
        self._limits = limits
        self._limit = limits.message_size
        self._turn = limits.frames_per_turn
        self._extensions = [extension for extension in extensions if extension.enabled()]
        self._deflate = next((each for each in self._extensions if isinstance(each, BoundedDeflate)), None)
        if self._deflate is not None:
            self._deflate.assembles = True
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
        masked = ClientFrames(mask_keys) if client else None
        self._frame = server_frame if masked is None else masked.frame
        self._whole = whole_frame if masked is None else masked.whole
        self._bare = not client and self._deflate is None  # what we send is neither masked nor compressed

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
            while True:
                if self._fast:
                    before = len(received)
                    position = read_run(data, position, self._mask_bit, self._limit, left, received)
                    left -= len(received) - before
                if position >= end or not left:
                    break
                position = self._take(data, position, received)
                left -= 1
        except UnicodeDecodeError as error:
            self._fail(not_utf8(error), received)
        except RemoteProtocolError as error:
            self._fail(error, received)
        else:
            if position < end:
                self._rest = data[position:]
                self.pending = True
        return received

    def limit_messages(self, size: int) -> None:
        """Bound messages that begin from now on to *size* bytes, inflated, instead of `Limits.message_size`."""
        self._limit = size
        if self._deflate is not None:
            self._deflate.limit_messages(size)

    def encode(self, message: str | bytes) -> bytes:
        """One whole message as bytes to send.

        Raises:
            LocalProtocolError: After our close frame, and for what is neither text nor bytes.
        """
        if self.close_sent:
            raise LocalProtocolError("a message cannot be sent after our close frame")
        if self._bare and type(message) is bytes:
            return whole_frame(BINARY, message)  # what `server_frame` would do; nearly every message of a server
        if self._deflate is None:
            return self._frame(message)
        first, payload = first_and_payload(message)
        if not self._deflate.compresses(len(payload)):
            return self._frame(message)
        return self._send(TextMessage(payload.decode()) if first == TEXT else BytesMessage(payload))

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
        payload = b""
        if code != NO_STATUS:
            short = reason.encode("utf-8", "replace")[:CLOSE_REASON_SIZE].decode("utf-8", "ignore")
            payload = code.to_bytes(2, "big") + short.encode()
        self.close_sent = True
        # Not by wsproto: its parts, made for this frame alone, would wait for the garbage collector, and a peer that is
        # thrown out again and again would fill memory with them.
        return self._whole(CLOSE, payload)

    def _take(self, data: bytes, position: int, received: list[Incoming]) -> int:
        """Read what is not the fast lane's: one frame, or what has come of it. Return where that ends."""
        end = len(data)
        if self._over:
            return end
        if not self._begun:
            head = read_head(data, position, mask_bit=self._mask_bit, compression=not self._plain)
            if head is not None:
                self._check_size(head)
            if head is None or not head.wrong and end < head.start + self._key_size:
                self._rest = data[position:]
                return end
            position = self._begin(head, data, position)
        stop = min(end, position + self._missing, position + _CHUNK)
        self._missing -= stop - position
        self._begun = self._missing > 0
        if self._gathers:
            self._gather(data[position:stop], received)
        else:
            self._feed(data[position:stop], received)
        self._settle()
        return stop

    def _check_size(self, head: Head) -> None:
        """Refuse a data frame by its head if its message grows too big with it."""
        if head.control or head.wrong:
            return
        if not self._fragments:
            self._size = 0
            self._allowed = self._limit
            if head.first & RSV1:
                # Deflate's worst code has nine bits a byte (RFC 1951 section 3.2.6); blocks may be empty besides.
                self._allowed += self._limit // 8 + 64
        if self._size + head.size > self._allowed:
            raise MessageTooBig(self._size + head.size, self._limit)

    def _begin(self, head: Head, data: bytes, position: int) -> int:
        """Enter the frame at *position*; return where to go on reading."""
        payload_start = head.start + self._key_size
        if not head.size or not head.whole_message:
            self.overhead += 1
        self._gathers = self._fast and not head.wrong and head.first in (TEXT, BINARY)
        if self._gathers:
            self._assembly = Assembly(text=head.first == TEXT, limit=self._limit)
            self._key = data[head.start : payload_start]
            self._missing = head.size
            return payload_start
        self._missing = payload_start + head.size - position
        if not head.control:
            self._fragments += 1
            self._size += head.size
            # The last one is let through: it only ends the message, and senders that stream it make it empty.
            if self._fragments > self._limits.fragments and not head.final:
                raise MessageTooBig(self._fragments, self._limits.fragments, unit="fragments")
        return position

    def _settle(self) -> None:
        """After a frame, or a piece of one: decide what the next bytes are."""
        between = not (self._begun or self._fragments or self._over)
        self._fast = between and self._plain
        if between:
            # It has nothing to remember, and 10,000 idle ones take 17 MB. A new one costs 2 us, and the garbage
            # collector's work: wsproto's parts refer to each other.
            self._wire = None

    def _gather(self, piece: bytes, received: list[Incoming]) -> None:
        """Take a piece of a long plain frame."""
        assert self._assembly is not None
        if self._key:
            turn = len(piece) % KEY_SIZE
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
        if self.close_sent:
            raise LocalProtocolError(f"{type(event).__name__} cannot be sent after our close frame")
        try:
            sent = bytes(self._connection().send(event))
        except (WsprotoError, ValueError, TypeError) as error:
            raise LocalProtocolError(str(error)) from error
        self._settle()
        return sent

    def _fail(self, error: RemoteProtocolError, received: list[Incoming]) -> None:
        """The peer has broken the protocol: nothing that it sends is looked at any more."""
        received.append(error)
        # Nobody raises it any more, and its traceback would hold the half-read message, a megabyte perhaps, for as
        # long as the connection's objects, which refer to each other, wait for the garbage collector.
        link: BaseException | None = error
        while link is not None:
            link = link.with_traceback(None).__cause__ or link.__context__
        self._end()

    def stop(self) -> None:
        """Look at nothing any more, and let go of what is half read: the connection has ended, or ends by a close
        whose answer does not matter."""
        self.pending = False
        self._rest = b""
        self._end()

    def _end(self) -> None:
        """Read nothing any more. What came before is still to be answered, so we can send until we close, too."""
        self._over = True
        self._fast = False
        self._begun = False
        self._assembly = None
        self._wire = None
        if self._deflate is not None:
            self._deflate.drop()
