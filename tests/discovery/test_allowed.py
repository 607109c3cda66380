"""Which addresses of a register are dialled."""

from __future__ import annotations

import pytest

from webmesh.discovery.allowed import AllowedAddresses
from webmesh.exceptions import ConfigurationError

LOOPBACK = ["ws://127.0.0.1:4269", "ws://127.8.8.8", "ws://[::1]:4269", "ws://localhost", "ws://a.localhost.",
            "ws://[::ffff:127.0.0.1]"]  # fmt: skip
LINK_LOCAL = ["ws://169.254.7.7", "ws://[fe80::1]", "ws://[fe80::1%25eth0]"]
UNIX = ["ws+unix:///run/shop.sock"]
SPECIAL = ["ws://169.254.169.254", "ws://[fd00:ec2::254]", "ws://100.100.100.200", "ws://0.0.0.0:22", "ws://[::]",
           "ws://224.0.0.1", "ws://255.255.255.255", "ws://2130706433", "ws://127.1", "ws://0x7f000001",
           "ws://[::ffff:169.254.169.254]"]  # fmt: skip
ORDINARY = ["ws://10.0.0.2:4269", "wss://shop.example:443/mesh", "ws://[2001:db8::1]", "ws://192.0.2.7"]
NONE = ["http://10.0.0.2", "ws://", "ws://a b", "ws://u:p@10.0.0.2"]


@pytest.mark.row(100)
@pytest.mark.parametrize("url", [*LOOPBACK, *LINK_LOCAL, *UNIX, *SPECIAL, *NONE])
def test_special_addresses_are_not_dialled(url: str) -> None:
    """Whoever can write to a register must not lead a node to its own machine's services."""
    assert not AllowedAddresses().admits(url)


@pytest.mark.parametrize("url", ORDINARY)
def test_ordinary_ones_are(url: str) -> None:
    """Addresses and names."""
    assert AllowedAddresses().admits(url)


@pytest.mark.row(100)
@pytest.mark.parametrize(("own", "near"), [(LOOPBACK, LOOPBACK), (LINK_LOCAL, LINK_LOCAL), (UNIX, UNIX)])
def test_a_node_that_listens_there_itself_dials_others_there(own: list[str], near: list[str]) -> None:
    """As all nodes on one machine; still no other kind, and never where credentials are asked for."""
    allowed = AllowedAddresses()
    allowed.listens_at(own[:1])

    assert all(map(allowed.admits, near))
    assert not any(allowed.admits(url) for url in {*LOOPBACK, *LINK_LOCAL, *UNIX, *SPECIAL} - set(near))


def test_a_list_decides_alone() -> None:
    """What is in it may be dialled, be it loopback; names, of which it says nothing, may not."""
    allowed = AllowedAddresses(["10.0.0.0/8", "127.0.0.1", "unix"])

    assert all(map(allowed.admits, ["ws://10.9.9.9", "ws://127.0.0.1:80", *UNIX]))
    assert not any(map(allowed.admits, ["ws://192.0.2.7", "ws://127.0.0.2", "wss://shop.example", "ws://localhost"]))


def test_a_list_that_makes_no_sense_is_refused() -> None:
    """At once."""
    with pytest.raises(ConfigurationError):
        AllowedAddresses(["10.0.0.0/33"])
