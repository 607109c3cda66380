"""Cuts arbitrary bytes into what a target needs: choices, and a stream in pieces as reads might give them."""

from __future__ import annotations

from collections.abc import Iterator


class Bytes:
    """Bytes that are taken from the front; when they are used up, zeros come."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def byte(self) -> int:
        """The next one."""
        taken = self._data[self._position] if self else 0
        self._position += 1
        return taken

    def take(self, size: int) -> bytes:
        """The next ones, at most *size*."""
        start = self._position
        self._position = min(len(self._data), start + size)
        return self._data[start : self._position]

    def rest(self) -> bytes:
        """All that are left."""
        return self.take(len(self._data))


def cut(stream: bytes, how: int) -> Iterator[bytes]:
    """*stream* in pieces, as *how*, a byte, says: whole, byte by byte, or in pieces of growing and shrinking size."""
    if how == 0:
        yield stream
        return
    position, step = 0, how
    while position < len(stream):
        size = 1 if how == 1 else 1 + step % 61
        yield stream[position : position + size]
        position += size
        step = (step * 167 + 13) & 0xFF
