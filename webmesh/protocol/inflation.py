"""Inflation of one compressed message, in bounded steps (RFC 7692 section 7.2.2).

Decides alone how much is inflated at a time, what a final block means, and when a compressed message is damaged. Pure;
who is allowed to send compressed messages is decided by `deflate`.
"""

from __future__ import annotations

import zlib
from typing import Final

from webmesh.exceptions import RemoteProtocolError
from webmesh.protocol.assembly import Assembly

STEP: Final = 64 * 1024
"""Bytes that are inflated at a time: the most that is held beyond what a message may have."""
FINAL_BLOCKS: Final = 16
"""Final deflate blocks in one message. Senders that make any make one (RFC 7692 section 7.2.3.4); each
costs a new decompressor, so their number must not follow the bytes of the message. Beyond it: 1007."""
WINDOW: Final = 32 * 1024
"""Bytes of earlier text that deflate can refer to (RFC 1951 section 2)."""

_BLOCK_TAIL: Final = b"\x00\x00\xff\xff"
"""The end of an empty stored block, which senders cut off (RFC 7692 section 7.2.1)."""
_FINAL_BLOCK: Final = b"\x01\x00\x00\xff\xff"
"""An empty final block: a stream that is whole ends exactly behind it, a truncated one hardly ever."""


class Inflation:
    """One message that comes in compressed: `feed` it, then `finish`.

    Attributes:
        assembly: Where the inflated message grows; it holds the limit.
    """

    __slots__ = ("assembly", "_fed", "_final_blocks", "_inflater", "_limit", "_window")

    def __init__(self, *, text: bool, limit: int, window: bytes = b"") -> None:
        """Begin a message of at most *limit* inflated bytes.

        Args:
            window: The end of what came before, where the sender may refer to it.
        """
        self.assembly = Assembly(text=text, limit=limit)
        self._limit = limit
        self._window = window
        self._inflater = _new_inflater(window)
        self._final_blocks = 0
        self._fed = False

    def feed(self, data: bytes) -> None:
        """Inflate what *data* holds.

        Raises:
            RemoteProtocolError: Not deflate data, or not UTF-8 where text is expected (1007).
            MessageTooBig: The message has at least one byte more than allowed; no more was inflated (1009).
        """
        while data:
            self._fed = True
            if self._inflater.eof:
                self._restart()
            self._inflate(data)
            data = self._inflater.unused_data

    def finish(self) -> str | bytes:
        """End the message and return it.

        Raises:
            RemoteProtocolError: The compressed data stops within a block, or the text within a character (1007).
        """
        # No data at all is an empty message: zlib's flush gives nothing where nothing is new.
        if self._fed and not self._inflater.eof:
            before = len(self.assembly)
            self._inflate(_BLOCK_TAIL)
            self._inflate(_FINAL_BLOCK)
            if len(self.assembly) != before or not self._inflater.eof or self._inflater.unused_data:
                raise _damaged("it stops within a block")
        return self.assembly.finish()

    def window(self) -> bytes:
        """The end of all that has come, for the next message's *window*."""
        return (self._window + self.assembly.tail(WINDOW))[-WINDOW:]

    def _inflate(self, data: bytes) -> None:
        """Inflate *data* up to a final block's end, one step after the other."""
        while True:
            room = min(STEP, self._limit + 1 - len(self.assembly))
            try:
                piece = self._inflater.decompress(data, room)
            except zlib.error as error:
                raise _damaged(str(error)) from error
            self.assembly.add(piece)
            if len(piece) < room:
                return
            data = self._inflater.unconsumed_tail

    def _restart(self) -> None:
        """Go on behind a final block: the standard allows one anywhere, more blocks may follow (section 7.2.3.4)."""
        self._final_blocks += 1
        if self._final_blocks > FINAL_BLOCKS:
            raise _damaged(f"more than {FINAL_BLOCKS} final blocks")
        self._inflater = _new_inflater(self.window() if self._window else b"")


def _new_inflater(window: bytes) -> zlib._Decompress:
    # 15: a receiver may always use a larger window than the sender's.
    return zlib.decompressobj(-15, zdict=window) if window else zlib.decompressobj(-15)


def _damaged(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"compressed message is damaged: {why}", close_code=1007)
