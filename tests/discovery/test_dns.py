"""Nodes by DNS."""

from __future__ import annotations

from typing import Any

import pytest

from tests.discovery.finding import NameServer, Running
from webmesh.discovery.dns import DnsDiscovery, open_dns, system_addresses
from webmesh.exceptions import ConfigurationError, RegistryUnavailable
from webmesh.protocol.node_record import NodeRecord


def here() -> NodeRecord:
    return NodeRecord(id="n1", epoch=1, addresses=("ws://127.0.0.1:4269",))


def test_a_name_that_the_system_knows() -> None:
    """Each of its addresses is a node, at the port that was named."""
    source = open_dns("dns://localhost:4300?path=mesh")
    source.announce(here())
    with Running(source) as told:
        told.wait(lambda told: "ws://127.0.0.1:4300/mesh" in told.urls)


@pytest.mark.row(100)
def test_a_name_that_leads_to_this_machine_finds_nobody() -> None:
    """Unless the node listens there itself."""
    with Running(open_dns("dns://localhost:4300")) as told:
        told.wait(lambda told: told.times == 1)
        assert [] == told.found


def test_a_name_that_nobody_knows() -> None:
    """Is an outage: it may be known again."""
    with pytest.raises(RegistryUnavailable):
        system_addresses("webmesh-test.invalid")


def test_addresses_are_asked_for_anew() -> None:
    """Nodes come and go; an unknown name keeps those that were found last."""
    pytest.importorskip("dns")
    with NameServer() as server:
        server.records["shop.test", "A"] = ["10.0.0.2", "10.0.0.1"]
        server.records["shop.test", "AAAA"] = ["2001:db8::1"]
        with Running(open_dns(f"dns://shop.test:4269?interval=0.02&server={server.address}")) as told:
            told.wait(lambda t: t.urls == ["ws://10.0.0.1:4269", "ws://10.0.0.2:4269", "ws://[2001:db8::1]:4269"])
            server.records["shop.test", "A"] = ["10.0.0.3"]
            del server.records["shop.test", "AAAA"]
            told.wait(lambda told: told.urls == ["ws://10.0.0.3:4269"])
            server.records.clear()
            asked = len(server.asked)
            server.records["shop.test", "A"] = ["10.0.0.4"]
            told.wait(lambda told: told.urls == ["ws://10.0.0.4:4269"])
            assert 3 == told.times and asked <= len(server.asked)


@pytest.mark.parametrize(("query", "expected"), [
    ("", ["ws://10.0.0.1:4269", "ws://10.0.0.2:4270"]), ("&tls=1", ["wss://a.test:4269", "wss://b.test:4270"]),
    ("&allow=10.0.0.2", ["ws://10.0.0.2:4270"]), ("&allow=10.0.0.1&path=/m", ["ws://10.0.0.1:4269/m"]),
])  # fmt: skip
def test_srv_records_tell_ports_too(query: str, expected: list[str]) -> None:
    """A target without an address, as a pod that has just gone, is left out; with TLS names are dialled."""
    pytest.importorskip("dns")
    with NameServer() as server:
        server.records["_webmesh._tcp.test", "SRV"] = ["0 5 4269 a.test.", "0 1 4270 b.test.", "1 1 4271 gone.test."]
        server.records["a.test", "A"], server.records["b.test", "A"] = ["10.0.0.1"], ["10.0.0.2"]
        source = open_dns(f"dns+srv://_webmesh._tcp.test?server={server.address}{query}")
        if query == "&tls=1":
            server.records["a.test", "A"] = ["10.0.0.1", "127.0.0.1"]
        with Running(source) as told:
            told.wait(lambda told: told.times == 1)
            assert expected == told.urls


@pytest.mark.parametrize("url", [
    "dns://", "dns://a:0", "dns://a:x", "dns://a:70000", "dns://a:1/b", "dns://a:1,b:1", "dns://u@a", "dns://[::1]:1",
    "dns+srv://_x._tcp.a:1", "dns://a?interval=0", "dns://a?tls=perhaps", "dns://a?colour=1", "dns://a?allow=x",
    "dns://a?server=name", "dns://a?interval=nan",
])  # fmt: skip
def test_a_malformed_url_is_refused(url: str) -> None:
    """At once."""
    pytest.importorskip("dns")
    with pytest.raises(ConfigurationError):
        open_dns(url)


def test_the_answers_can_be_the_program_s_own() -> None:
    """Whoever can tell addresses is a name server."""
    options: dict[str, Any] = {"addresses": lambda name: [f"10.0.0.{len(name)}"]}
    with Running(DnsDiscovery("shop", 1, **options)) as told:
        told.wait(lambda told: told.urls == ["ws://10.0.0.4:1"])
