"""Records that nodes keep for each other in Redis: wills and whatever else is claimed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from webmesh.brokers.redis_messages import Keys
from webmesh.exceptions import BrokerError, DecodeError, SerializationError
from webmesh.options import Limits
from webmesh.protocol.msgpack_body import read_msgpack, write_msgpack


class RedisRecords:
    """See `Broker.put` and its like.

    Args:
        run: Run a script.
        refused: Told of what is no record of ours.
    """

    def __init__(
        self, run: Callable[..., Any], keys: Keys, limits: Limits, refused: Callable[[str, Exception], None]
    ) -> None:
        self._run = run
        self._keys, self._limits = keys, limits
        self._refused = refused

    def put(self, table: str, key: str, value: Any, ttl: float) -> None:
        """See `Broker.put`."""
        try:
            packed = write_msgpack({"v": value}, self._limits)
        except SerializationError as error:
            raise BrokerError(f"a record of {table} cannot be kept: {error}") from error
        self._run("put", [self._keys.records(table)], key, max(1, round(ttl * 1000)), packed)

    def claim(self, table: str, key: str) -> Any | None:
        """See `Broker.claim`."""
        found = self._run("claim", [self._keys.records(table)], key)
        return None if found is None else next(iter(self._read(table, found)), None)

    def records(self, table: str) -> Mapping[str, Any]:
        """See `Broker.records`."""
        return self._all(table, self._run("records", [self._keys.records(table)]))

    def pages(self, table: str, most: int) -> Iterator[Mapping[str, Any]]:
        """See `Broker.pages`."""
        cursor: Any = 0
        while True:
            cursor, found = self._run("page", [self._keys.records(table)], cursor, most)
            yield self._all(table, found)
            if int(cursor) == 0:
                return

    def _all(self, table: str, found: list[bytes]) -> dict[str, Any]:
        return {
            key.decode(errors="replace"): value
            for key, packed in zip(found[::2], found[1::2], strict=True)
            for value in self._read(table, packed)
        }

    def _read(self, table: str, packed: bytes) -> list[Any]:
        """The one value, or none where it is none of ours."""
        try:
            if len(packed) > self._limits.message_size:
                raise DecodeError("longer than a record may be")
            stored = read_msgpack(packed, self._limits)
            if not isinstance(stored, dict) or stored.keys() != {"v"}:
                raise DecodeError("no record")
        except SerializationError as bad:
            self._refused(self._keys.records(table), bad)
            return []
        return [stored["v"]]
