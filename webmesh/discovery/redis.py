"""`RedisDiscovery`: a register of nodes in Redis. Each holds a lease: a key with its record that expires by itself.

A set names those who have, or had, a key; who finds that a key has expired takes its node out of the set.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, urlencode

import gevent

from webmesh.brokers.redis_line import Line, ask_once, open_socket
from webmesh.brokers.redis_places import Finder, read_url
from webmesh.discovery.base import Found
from webmesh.discovery.polling import MOST_FOUND, PolledDiscovery
from webmesh.discovery.urls import networks_text
from webmesh.exceptions import (
    BrokerError, ConfigurationError, DecodeError, InvalidArgument, Overloaded, RegistryUnavailable,
)  # fmt: skip
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.options import Backoff
from webmesh.protocol.node_record import RECORD_SIZE, NodeRecord, read_record

logger = logging.getLogger("webmesh.discovery")

LEASE = 15.0
"""Seconds that an entry stays without renewal. It is renewed, and the others are looked at, three times as often."""

_TAKE_BACK = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('srem', KEYS[2], ARGV[2]) " \
    "return redis.call('del', KEYS[1]) end return 0"  # fmt: skip
"""Not the entry of another process that has this id by now."""


class RedisDiscovery(PolledDiscovery):
    """`redis://`, `rediss://`, `unix://`, `redis+sentinel://`, `redis+cluster://`, as for the engine (docs/BROKERS.md).

    Args:
        url: Its query may hold `prefix`, `lease`, `timeout`, `allow` and `ca_file`, which count more than arguments.
        prefix: Begins the names of all keys. Nodes that share it find each other.
        lease: See `LEASE`.
        timeout: Seconds for one look.

    Raises:
        ConfigurationError: The URL is malformed, or redis-py is not installed.
    """

    def __init__(
        self, url: str, *, prefix: str = "webmesh", lease: float = LEASE, timeout: float = 5.0,
        allow: Iterable[str] = (), backoff: Backoff | None = None,
    ) -> None:  # fmt: skip
        url, allow = _without_allow(url, allow)
        self._place, options = read_url(url)
        prefix, lease = options.get("prefix", prefix), options.get("lease", lease)
        if not 0 < lease < 86400:
            raise ConfigurationError(f"lease is a number of seconds above 0, not {lease!r}")
        super().__init__(
            f"Redis at {self._place}", interval=lease / 3, timeout=options.get("timeout", timeout), allow=allow,
            backoff=backoff,
        )  # fmt: skip
        # In braces: in a Cluster all of it is at one server.
        self._set = f"{{{prefix}:mesh}}"
        self._lease_ms = round(lease * 1000)
        self._finder = Finder(self._place, self._ask_once, self._set)
        self._line: Line | None = None
        self._written = ""
        self._serializer = StandardJsonSerializer()

    def look(self) -> list[Found]:
        """See `PolledDiscovery.look`; also renews this node's own lease."""
        try:
            self._renew()
            # At most so many, whatever somebody has put there.
            nodes = self._ask("SRANDMEMBER", self._set, MOST_FOUND)
            texts = self._ask("MGET", *(self._key(node) for node in nodes)) if nodes else []
            expired = [node for node, text in zip(nodes, texts, strict=True) if text is None]
            if expired:
                self._ask("SREM", self._set, *expired)
        except (BrokerError, Overloaded) as error:
            self._disconnect()
            raise RegistryUnavailable(str(error)) from error
        except BaseException:
            self._disconnect()  # an answer may still be on its way
            raise
        return list(self._read(nodes, texts))

    def close(self) -> None:
        """See `PolledDiscovery.close`."""
        timer = gevent.Timeout(min(self.timeout, 2.0))
        try:
            with timer:
                if self.me is not None and self._written:
                    keys = (self._key(self.me.id.encode()), self._set)
                    self._ask("EVAL", _TAKE_BACK, 2, *keys, self._written, self.me.id)
        except (BrokerError, Overloaded, gevent.Timeout) as error:
            if isinstance(error, gevent.Timeout) and error is not timer:
                raise
            logger.info("the entry of this node stays until its lease ends", extra={"place": self.place})
        finally:
            self._written = ""
            self._disconnect()

    def _renew(self) -> None:
        if self.me is not None:
            text = self._serializer.serialize(self.me.to_wire())
            self._ask("SET", self._key(self.me.id.encode()), text, "PX", self._lease_ms)
            self._written = text
            self._ask("SADD", self._set, self.me.id)

    def _read(self, nodes: list[bytes], texts: list[bytes | None]) -> Iterable[Found]:
        for node, text in zip(nodes, texts, strict=True):
            if text is None or (self.me is not None and node == self.me.id.encode()):
                continue
            record = self._record(text)
            if record is None or record.id.encode() != node:
                self.drop(1, "it is no record of a node")
            elif record.addresses and record.state != "left":
                yield Found(record.addresses, record)

    def _record(self, text: bytes) -> NodeRecord | None:
        if len(text) > 2 * RECORD_SIZE:
            return None
        try:
            return read_record(self._serializer.deserialize(text.decode()))
        except (DecodeError, InvalidArgument, UnicodeDecodeError):
            return None

    def _key(self, node: bytes) -> bytes:
        return f"{self._set}:".encode() + node

    # ---------------------------------------------------------------------- connection

    def _ask(self, *command: Any) -> Any:
        if self._line is None or self._line.closed:
            self._line = self._connected()
        return self._line.ask(*command)

    def _connected(self) -> Line:
        connection = open_socket(self._finder.find(), self._place.login, "webmesh-discovery", self.timeout)
        return Line(connection, self._lost, self.timeout)

    def _ask_once(self, address: Any, login: Any, *command: Any) -> Any:
        return ask_once(address, login, *command, timeout=self.timeout)

    def _lost(self, reason: str) -> None:
        logger.debug("the connection to a register is lost", extra={"place": self.place, "reason": reason})

    def _disconnect(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()


def _without_allow(url: str, allow: Iterable[str]) -> tuple[str, Iterable[str]]:
    """The URL as the engine knows it, and the list of networks, which it does not."""
    head, mark, query = url.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    for name, text in pairs:
        if name == "allow":
            allow = networks_text(text)
    rest = urlencode([pair for pair in pairs if pair[0] != "allow"])
    return (f"{head}?{rest}" if rest else head) if mark else url, allow
