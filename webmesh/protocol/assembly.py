"""A message that has begun and is not whole yet: growing buffers for what has come of it.

Decides alone how the pieces of a message are held: memory follows the bytes, however many pieces bring
them, and text is known to be valid as far as it has come. Where pieces come from (a long frame, fragments,
inflation) is not known here.
"""

from __future__ import annotations

from codecs import getincrementaldecoder

from webmesh.exceptions import MessageTooBig, RemoteProtocolError

_Utf8Decoder = getincrementaldecoder("utf-8")

_CHUNK = 64 * 1024
"""Bytes of one buffer. A single one would be copied as it grows, and for a moment take twice its bytes."""


def not_utf8(error: UnicodeDecodeError) -> RemoteProtocolError:
    """What a peer has done whose text is not UTF-8: close code 1007 (RFC 6455 section 8.1)."""
    return RemoteProtocolError(f"text is not UTF-8: {error.reason}", close_code=1007)


class Assembly:
    """One message in the making; `add` its pieces, then `finish`."""

    __slots__ = ("_chunks", "_last", "_limit", "_size", "_utf8")

    def __init__(self, *, text: bool, limit: int) -> None:
        """Begin a text or a binary message of at most *limit* bytes."""
        self._limit = limit
        self._size = 0
        self._last = bytearray()
        self._chunks = [self._last]
        # Decoded text is thrown away: the characters of a long text may take four times its bytes.
        self._utf8 = _Utf8Decoder() if text else None

    def __len__(self) -> int:
        return self._size

    def add(self, piece: bytes | bytearray) -> None:
        """Append *piece*.

        Raises:
            MessageTooBig: The message is over its limit with this piece; nothing was kept of the piece.
            RemoteProtocolError: The text is wrong already at this point, whatever may follow.
        """
        size = self._size + len(piece)
        if size > self._limit:
            raise MessageTooBig(size, self._limit)
        if self._utf8 is not None:
            try:
                self._utf8.decode(piece)
            except UnicodeDecodeError as error:
                raise not_utf8(error) from error
        self._size = size
        if len(self._last) >= _CHUNK:
            self._last = bytearray()
            self._chunks.append(self._last)
        self._last += piece

    def tail(self, size: int) -> bytes:
        """The last *size* bytes, or all where there are fewer."""
        found = bytes(self._last[-size:])
        for chunk in reversed(self._chunks[:-1]):
            if len(found) >= size:
                break
            found = bytes(chunk[len(found) - size :]) + found
        return found

    def finish(self) -> str | bytes:
        """The whole message; nothing of it is held here any more.

        Raises:
            RemoteProtocolError: The text ends within a character.
        """
        payload = b"".join(self._chunks)
        self._chunks.clear()  # before the text takes as much once more
        if self._utf8 is None:
            return payload
        try:
            return payload.decode()
        except UnicodeDecodeError as error:
            raise not_utf8(error) from error
