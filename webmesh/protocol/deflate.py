"""permessage-deflate (RFC 7692), bounded: what is agreed in the handshake, and inflation that cannot run away.

Decides alone which parameters are accepted and which messages are compressed. It stands where wsproto's own
extension would, because that one inflates without a limit, fails after a final block or a ping between two
fragments, and raises foreign exceptions on bad parameters. Frames and fragments are wsproto's business,
inflating is `inflation`'s.

Compression is off unless both sides want it. Connections share nothing, nor do the messages of one: context
takeover is declined both ways (15 KiB a connection, not 114; but a client understands a server that insists).
Still, a message that holds a secret beside text of an attacker's choice tells by its length how alike they
are (BREACH): leave compression off where such messages are sent.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

from webmesh.exceptions import RemoteProtocolError
from webmesh.options import Limits
from webmesh.protocol.inflation import Inflation

NAME: Final = "permessage-deflate"
OFFERS: Final = 16
"""Offers in one header that are looked at; browsers make one, Autobahn's tests four. With more, none is accepted."""
COMPRESS_FROM: Final = 1024
"""Bytes of a message from which compression is tried, as with msgpack (protocol.md section 1). Shorter ones
shrink little without a shared window, and making a compressor costs more than sending them."""
LEVEL: Final = 1
"""zlib's compression level: the hub serves nobody else meanwhile, and 6, its default, takes three times as long."""

_BLOCK_TAIL_SIZE: Final = 4
"""Bytes at the end of flushed deflate data that are not sent (RFC 7692 section 7.2.1)."""
_WINDOW_BITS: Final = re.compile(r"[89]|1[0-5]")
_NO_RSV: Final = RsvBits(False, False, False)
_RSV1: Final = RsvBits(True, False, False)


def negotiate_deflate(offers: str, *, limits: Limits) -> BoundedDeflate | None:
    """The extension as a server agrees to it, or `None` where no offer can be accepted. Never raises.

    Args:
        offers: Value of the request's Sec-WebSocket-Extensions, repeated headers joined by commas.

    The first acceptable offer is taken, as clients list them by preference (RFC 7692 section 5). An offer with a
    parameter that is unknown, repeated, malformed or not supported is declined, not repaired.
    """
    # A comma may hide in a quoted string, and no parameter of ours needs one: such a header is left alone.
    if '"' in offers or offers.count(",") >= OFFERS:
        return None
    for offer in offers.split(","):
        extension = BoundedDeflate(limits)
        if extension.agree(offer.strip(" \t")):
            return extension
    return None


class BoundedDeflate(Extension):
    """permessage-deflate on one connection, for wsproto's `Connection` and, better, for `Frames`.

    The handshake is our own, too: `offer` and `accept` serve a client, `negotiate_deflate` and `response` a server.

    Every message is compressed by itself; short ones and those that do not shrink go out as they are.

    Attributes:
        assembles: Set by `Frames`, which then takes every inflated message whole with `take`. Else wsproto gets
            it when it is whole; wsproto copies what it gets several times over.
        failure: What was wrong with the peer's message, once wsproto has reported an "error in extension".
    """

    name = NAME

    def __init__(self, limits: Limits) -> None:
        self._limit = limits.message_size
        self._agreement: str | None = None
        self._window_bits = 15
        self._keeps_window = False  # only as a client whose server did not agree to do without
        self._window = b""
        self._inflation: Inflation | None = None  # None, too, while an uncompressed message comes in
        self._in_message = False
        self._in_control = False
        self._message: str | bytes | None = None
        self.assembles = False
        self.failure: RemoteProtocolError | None = None

    def __repr__(self) -> str:
        return f"<BoundedDeflate {'not agreed' if self._agreement is None else self._agreement}>"

    def enabled(self) -> bool:
        """Whether both sides have agreed on it."""
        return self._agreement is not None

    def response(self) -> str:
        """A server's element of Sec-WebSocket-Extensions for what was agreed."""
        return f"{NAME}; {self._agreement}"

    def agree(self, offer: str) -> bool:
        """As a server, take one element of the request's header; false when it has to be declined."""
        parameters = _parameters(offer)
        if parameters is None or _unsupported(parameters, valueless="client_max_window_bits"):
            return False
        window = parameters.get("server_max_window_bits")
        if "8" in (window, parameters.get("client_max_window_bits")):
            return False  # zlib makes no such window in a raw stream (zlib.h, deflateInit2) and would not keep to it
        # RFC 7692 sections 7.1.1.1 and 7.1.1.2: a server may ask for these without being offered them.
        self._agreement = "server_no_context_takeover; client_no_context_takeover"
        if window is not None:
            self._window_bits = int(window)
            self._agreement += f"; server_max_window_bits={window}"
        return True

    def offer(self) -> str:
        """A client's element of Sec-WebSocket-Extensions: no side keeps a window, ours may be narrowed."""
        return f"{NAME}; server_no_context_takeover; client_no_context_takeover; client_max_window_bits"

    def accept(self, offer: str) -> None:
        """As a client, take the server's answer to our offer: what follows the name in its element.

        Raises:
            RemoteProtocolError: The answer is malformed or says what the standard does not know.
        """
        parameters = _parameters(f"{NAME}; {offer}" if offer else NAME)
        if parameters is None or _unsupported(parameters, valueless=None):
            raise RemoteProtocolError(f"bad permessage-deflate parameters: {offer[:200]!r}")
        # With 8 we send uncompressed, which is always allowed: see `agree`.
        self._window_bits = int(parameters.get("client_max_window_bits") or 15)
        self._keeps_window = "server_no_context_takeover" not in parameters
        self._agreement = offer

    def limit_messages(self, size: int) -> None:
        """Bound messages that begin from now on to *size* inflated bytes."""
        self._limit = size

    def take(self) -> str | bytes | None:
        """The inflated message that has just become whole; `None` when it came uncompressed."""
        message, self._message = self._message, None
        return message

    def drop(self) -> None:
        """Let go of a message that is half read: nothing comes after it."""
        self._inflation = None
        self._message = None
        self._window = b""

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """wsproto: a header was read (again and again until its masking key is there, too)."""
        self._in_control = opcode.iscontrol()
        if self._in_control or opcode is Opcode.CONTINUATION:
            return _NO_RSV  # RFC 7692 section 6.1: only the first frame of a message has the bit
        if self._in_message:
            return CloseReason.PROTOCOL_ERROR
        text = opcode is Opcode.TEXT and self.assembles  # else wsproto judges the text
        self._inflation = Inflation(text=text, limit=self._limit, window=self._window) if rsv.rsv1 else None
        return _RSV1

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        """wsproto: unmasked bytes of a frame; kept when they are compressed."""
        if self._in_control or self._inflation is None:
            return data
        try:
            self._inflation.feed(data)
        except RemoteProtocolError as error:
            return self._fail(error)
        return b""

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        """wsproto: a frame has ended."""
        if self._in_control:
            return None
        self._in_message = not fin
        inflation = self._inflation
        if not fin or inflation is None:
            return None
        self._inflation = None
        try:
            message = inflation.finish()
        except RemoteProtocolError as error:
            return self._fail(error)
        if self._keeps_window:
            self._window = inflation.window()
        if isinstance(message, bytes) and not self.assembles:
            return message
        self._message = message
        return None

    def frame_outbound(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        """wsproto: a frame is to go out; it is compressed when it is a whole message and worth it."""
        if not fin or opcode not in (Opcode.TEXT, Opcode.BINARY) or not self.compresses(len(data)):
            return rsv, data
        compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -self._window_bits)
        compressed = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        if len(compressed) - _BLOCK_TAIL_SIZE >= len(data):
            return rsv, data
        return _RSV1, compressed[:-_BLOCK_TAIL_SIZE]

    def compresses(self, size: int) -> bool:
        """Whether a message of *size* bytes (or characters) is worth compressing, and we are able to."""
        return size >= COMPRESS_FROM and self._window_bits > 8

    def _fail(self, error: RemoteProtocolError) -> CloseReason:
        self.failure = error
        self._inflation = None
        return CloseReason(error.close_code)


def _parameters(offer: str) -> dict[str, str | None] | None:
    """The parameters of one element; `None` when it is another extension's, malformed or repeats one."""
    name, *elements = (element.strip(" \t") for element in offer.split(";"))
    if name != NAME:
        return None
    parameters: dict[str, str | None] = {}
    for element in elements:
        key, equals, value = (part.strip(" \t") for part in element.partition("="))
        if key in parameters:
            return None
        parameters[key] = value if equals else None
    return parameters


def _unsupported(parameters: dict[str, str | None], *, valueless: str | None) -> bool:
    """Whether a parameter is unknown or has a wrong value; window bits must have one but for *valueless*."""
    for key, value in parameters.items():
        if key in ("server_no_context_takeover", "client_no_context_takeover"):
            wrong = value is not None
        elif key in ("server_max_window_bits", "client_max_window_bits"):
            wrong = key != valueless if value is None else not _WINDOW_BITS.fullmatch(value)
        else:
            wrong = True
        if wrong:
            return True
    return False
