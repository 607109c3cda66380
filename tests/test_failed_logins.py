"""Failed logins: who guesses has to wait, longer each time, and the table of guessers stays small."""

from __future__ import annotations

import pytest

from webmesh.failed_logins import LONGEST_WAIT, MEMORY, FailedLogins, network_of

ADDRESS = "192.0.2.1:4711"


def failed(times: int, *, free: int = 3, address: str = ADDRESS) -> FailedLogins:
    table = FailedLogins(free)
    for _ in range(times):
        table.failed(address, 100.0)
    return table


@pytest.mark.row(54)
def test_the_first_failures_cost_nothing() -> None:
    """Somebody mistypes, or a token has just expired."""
    assert 0 == failed(2).wait(ADDRESS, 100.0)
    assert 0 == FailedLogins(3).wait(ADDRESS, 100.0)


@pytest.mark.row(54)
def test_each_further_failure_doubles_the_wait() -> None:
    """From one second to a minute, and no number of failures makes it longer."""
    assert [1, 2, 4, 8] == [failed(times).wait(ADDRESS, 100.0) for times in (3, 4, 5, 6)]
    assert LONGEST_WAIT == failed(5000).wait(ADDRESS, 100.0)


@pytest.mark.row(54)
def test_the_wait_passes_and_the_address_is_forgotten() -> None:
    """A wait ends by itself; after some minutes without a failure all is as before."""
    table = failed(6)

    assert 0.5 == table.wait(ADDRESS, 107.5)
    assert 0 == table.wait(ADDRESS, 108.0)
    assert 0 == table.wait(ADDRESS, 100.0 + MEMORY)
    table.failed(ADDRESS, 100.0 + MEMORY)
    assert 0 == table.wait(ADDRESS, 100.0 + MEMORY)


@pytest.mark.row(54)
def test_other_addresses_do_not_wait() -> None:
    """The port makes no difference, the host does."""
    table = failed(9)

    assert 0 < table.wait("192.0.2.1:9", 100.0)
    assert 0 == table.wait("192.0.2.2:4711", 100.0)


@pytest.mark.row(86)
def test_the_table_is_bounded() -> None:
    """Whoever has many addresses makes us forget the oldest, not remember more."""
    table = FailedLogins(1, addresses=10)
    for number in range(25):
        table.failed(f"192.0.2.{number}:1", 100.0)

    assert 10 == len(table)
    assert 0 == table.wait("192.0.2.14:1", 100.0)
    assert 0 < table.wait("192.0.2.15:1", 100.0)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1:80", "192.0.2.1"),
        ("[2001:db8:1:2:3:4:5:6]:80", "2001:db8:1:2::"),
        ("unix:/run/shop.sock", None),
        ("pair", "pair"),
        ("192.0.2.1", "192.0.2.1"),  # a proxy may tell no port
        ("[2001:db8:1:2:7::1]", "2001:db8:1:2::"),
    ],
)
def test_what_counts_as_one_peer(address: str, network: str | None) -> None:
    """An IPv4 address, the 64 bits of one IPv6 customer; peers of a Unix socket cannot be told apart."""
    assert network == network_of(address)


def test_a_unix_socket_never_waits() -> None:
    """Or one guesser would shut out everybody."""
    assert 0 == failed(99, address="unix:/run/shop.sock").wait("unix:/run/shop.sock", 100.0)


@pytest.mark.row(54)
def test_a_neighbour_on_the_link_is_one_peer_whatever_its_port() -> None:
    """The zone is ours to name and tells nothing; each neighbour counts by its whole address."""
    table = failed(9, address="[fe80::1%eth0]:4711")

    assert 0 < table.wait("[fe80::1%eth0]:9", 100.0)
    assert 0 == table.wait("[fe80::2%eth0]:4711", 100.0)
