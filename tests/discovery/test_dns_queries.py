"""Questions to name servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.discovery.finding import NameServer
from webmesh.exceptions import ConfigurationError, RegistryUnavailable

pytest.importorskip("dns")

from webmesh.discovery import dns_queries  # noqa: E402
from webmesh.discovery.dns_queries import NameServers  # noqa: E402


def test_the_addresses_of_a_name() -> None:
    """Of both families, sorted."""
    with NameServer() as server:
        server.records["a.test", "A"] = ["10.0.0.2", "10.0.0.1"]
        server.records["a.test", "AAAA"] = ["2001:db8::1"]

        assert ["10.0.0.1", "10.0.0.2", "2001:db8::1"] == NameServers(server.address).addresses("a.test")


def test_the_best_target_comes_first() -> None:
    """By priority, then by weight; the root says that there is no such service."""
    with NameServer() as server:
        server.records["s.test", "SRV"] = [
            "1 9 1 c.test.", "0 1 2 b.test.", "0 5 3 a.test.", "0 0 4 .", "0 0 0 d.test.",
        ]

        assert [("a.test", 3), ("b.test", 2), ("c.test", 1)] == NameServers(server.address).services("s.test")


def test_a_long_answer_comes_by_tcp() -> None:
    """When the one by UDP says that it is cut."""
    with NameServer() as server:
        server.truncated = True
        server.records["s.test", "SRV"] = ["0 0 1 a.test."]

        assert [("a.test", 1)] == NameServers(server.address).services("s.test")
        assert ["udp", "tcp"] == [by for _, _, by in server.asked]


def test_what_is_no_answer_is_passed_over() -> None:
    """Somebody guesses; the true answer comes after it."""
    with NameServer() as server:
        server.noise = b"\x00\x01nonsense"
        server.records["a.test", "A"] = ["10.0.0.1"]

        assert ["10.0.0.1"] == NameServers(server.address).addresses("a.test")


@pytest.mark.parametrize(("name", "expected"), [("unknown.test", "NXDOMAIN"), ("a.test", "no SRV"), ("a..b", "empty")])
def test_a_name_without_records(name: str, expected: str) -> None:
    """Says why."""
    with NameServer() as server:
        server.records["a.test", "A"] = ["10.0.0.1"]

        with pytest.raises(RegistryUnavailable, match=expected):
            NameServers(server.address).services(name)


def test_a_silent_server_is_given_up() -> None:
    """In its time."""
    with NameServer() as server:
        server.silent = True

        with pytest.raises(RegistryUnavailable, match="no answer within"):
            NameServers(server.address, timeout=0.05).addresses("a.test")


def test_the_servers_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As resolv.conf says; without one, the one that runs here."""
    file = tmp_path / "resolv.conf"
    monkeypatch.setattr(dns_queries, "RESOLV_CONF", file)
    assert [("127.0.0.1", 53)] == dns_queries._system_servers()

    lines = [
        "# nameserver 1.1.1.1", "search test", "nameserver 10.0.0.53", "nameserver ::1", "nameserver odd", "nameserver",
    ]  # fmt: skip
    file.write_text("\n".join(lines))
    assert [("10.0.0.53", 53), ("::1", 53)] == dns_queries._system_servers()


@pytest.mark.parametrize(("text", "expected"), [
    ("10.0.0.1", ("10.0.0.1", 53)), ("10.0.0.1:54", ("10.0.0.1", 54)), ("::1", ("::1", 53)), ("[::1]:54", ("::1", 54)),
    ("[::1]", ("::1", 53)),
])  # fmt: skip
def test_a_server_s_address(text: str, expected: tuple[str, int]) -> None:
    """With its port or without."""
    assert [expected] == NameServers(text)._servers


@pytest.mark.parametrize("text", ["", "name", "10.0.0.1:0", "10.0.0.1:x", "[::1", "::1:x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """A name server cannot be asked for its own address."""
    with pytest.raises(ConfigurationError):
        NameServers(text)
