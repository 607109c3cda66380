"""Where a Redis is: what its URLs mean, and which server of a Sentinel's or of a Cluster one has to talk to.

Knows no sockets: whoever asks servers does it with what it is given. A password is in no text that is made here.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote

from webmesh.brokers.opening import query_options, split_url
from webmesh.exceptions import BrokerUnavailable, ConfigurationError
from webmesh.websocket.tls import client_context

PORT, SENTINEL_PORT = 6379, 26379

MOST_SEEDS = 32
"""Servers of a Cluster that are remembered to be asked for the others."""


class Address(NamedTuple):
    """Of one server: host and port, or the path of a Unix socket (port 0)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True)
class Login:
    """What a server is told before anything else."""

    username: str | None = None
    password: str | None = None
    db: int = 0
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class Place:
    """What a URL names.

    Attributes:
        kind: `server`, `sentinel` or `cluster`.
        addresses: Of the server, of the Sentinels, or of some servers of the Cluster.
        service: What the Sentinels call the server.
        sentinel_login: For the Sentinels themselves.
    """

    kind: str
    addresses: tuple[Address, ...]
    login: Login
    service: str = ""
    sentinel_login: Login = Login()

    def __str__(self) -> str:
        listed = ",".join(map(str, self.addresses))
        kinds = {"server": "", "sentinel": f"{self.service} of the Sentinels ", "cluster": "Cluster "}
        return kinds[self.kind] + listed


Ask = Callable[..., Any]
"""Ask the server at an address one command, with a login: `ask(address, login, "ROLE")`."""


_KINDS = ("", "sentinel", "cluster")

OPTIONS: dict[str, Callable[[str], Any]] = {
    "prefix": str, "db": int, "timeout": float, "patience": float, "lease": float, "ca_file": str,
    "sentinel_username": str, "sentinel_password": str,
}  # fmt: skip


def read_url(url: str, tls: ssl.SSLContext | None = None) -> tuple[Place, dict[str, Any]]:
    """The place that *url* names, and the engine's options that stand in it.

    Raises:
        ConfigurationError: It is no URL of a Redis.
    """
    scheme, _, rest = url.partition("://")
    scheme, _, kind = scheme.lower().partition("+")
    if scheme not in ("redis", "rediss", "unix") or kind not in _KINDS or (scheme == "unix" and kind):
        raise ConfigurationError("a Redis' URL begins with redis://, rediss://, unix://, or has +sentinel or +cluster")
    parts = split_url(f"x://{rest}")
    options = query_options(parts.query, OPTIONS)
    account, _, hosts = parts.netloc.rpartition("@")
    username, _, password = account.partition(":")
    path = parts.path.strip("/")
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise ConfigurationError("the URL of Sentinels names a service: redis+sentinel://host,host/service")
    db = options.pop("db", None)
    ca_file = options.pop("ca_file", None)
    if scheme == "rediss":
        tls = tls or client_context(ca_file)
    elif tls is not None or ca_file is not None:
        raise ConfigurationError("TLS is for rediss:// URLs")
    database = _database(path, db, scheme, kind)
    login = Login(unquote(username) or None, unquote(password) or None, database, tls)
    sentinel = Login(options.pop("sentinel_username", None), options.pop("sentinel_password", None), 0, tls)
    if scheme == "unix":
        addresses: tuple[Address, ...] = (Address(unquote(parts.path), 0),)
        if len(parts.path) < 2 or hosts:
            raise ConfigurationError("the URL of a Unix socket is unix:///path/to.sock")
    else:
        addresses = tuple(_address(text, SENTINEL_PORT if kind == "sentinel" else PORT) for text in hosts.split(","))
        if not kind and len(addresses) > 1:
            raise ConfigurationError("several hosts are for redis+sentinel:// and redis+cluster://")
    return Place(kind or "server", addresses, login, unquote(service), sentinel), options


def _database(path: str, option: int | None, scheme: str, kind: str) -> int:
    if scheme == "unix" or not path:
        return option or 0
    if not (path.isascii() and path.isdigit()) or option is not None or kind == "cluster":
        raise ConfigurationError("the path of a Redis' URL is the number of its database; a Cluster has none")
    return int(path)


def _address(text: str, port: int) -> Address:
    host, found, number = text.rpartition(":")
    if not found or (text.startswith("[") and text.endswith("]")):
        host, number = text, str(port)
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
        raise ConfigurationError("a host in a Redis' URL is written host or host:port")
    return Address(unquote(host.strip("[]")) or "localhost", int(number))


class Finder:
    """Finds the server that writes are for, anew each time that it is asked.

    Args:
        key: Any key of ours: the Cluster's server that has it is the one.
    """

    def __init__(self, place: Place, ask: Ask, key: str) -> None:
        self._place = place
        self._ask = ask
        self._key = key
        self._seeds = list(place.addresses)

    def find(self) -> Address:
        """Its address.

        Raises:
            BrokerUnavailable: Nobody knows it; the text says what each of them answered.
        """
        if self._place.kind == "server":
            return self._place.addresses[0]
        faults = []
        for address in list(self._seeds):
            try:
                return self._by_sentinel(address) if self._place.kind == "sentinel" else self._by_cluster(address)
            except BrokerUnavailable as error:
                faults.append(f"{address}: {error}")
                self._seeds.remove(address)  # to the end: who answered last is asked first
                self._seeds.append(address)
        raise BrokerUnavailable(f"no server for {self._place}: {'; '.join(faults)}")

    def _by_sentinel(self, sentinel: Address) -> Address:
        place = self._place
        found = self._ask(sentinel, place.sentinel_login, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", place.service)
        if not isinstance(found, list) or len(found) != 2:
            raise BrokerUnavailable(f"it knows no service {place.service!r}")
        address = Address(_text(found[0]), int(found[1]))
        # A Sentinel may be behind: what it takes for the master may have been told otherwise, or be gone.
        role = self._ask(address, place.login, "ROLE")
        if not isinstance(role, list) or _text(role[0]) != "master":
            raise BrokerUnavailable(f"{address} is no master yet")
        return address

    def _by_cluster(self, seed: Address) -> Address:
        login = self._place.login
        slot = int(self._ask(seed, login, "CLUSTER", "KEYSLOT", self._key))
        owner = None
        for first, last, *servers in self._ask(seed, login, "CLUSTER", "SLOTS"):
            addresses = list(_addresses(servers, seed))
            if first <= slot <= last and addresses:
                owner = addresses[0]
            self._remember(addresses)
        if owner is None:
            raise BrokerUnavailable(f"it knows no server for slot {slot}")
        return owner

    def _remember(self, addresses: list[Address]) -> None:
        for address in addresses:
            if address not in self._seeds:
                self._seeds.append(address)
        del self._seeds[MOST_SEEDS:]


def _addresses(servers: list[Any], seed: Address) -> Iterator[Address]:
    for host, port, *_ in servers:
        if int(port):
            yield Address(_text(host) if host else seed.host, int(port))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
