"""Addresses as people write them, and what every socket that is handed up has in common."""

from __future__ import annotations

import socket as stdlib_socket

import pytest
from gevent.socket import AF_INET, AF_INET6, AF_UNIX, IPPROTO_TCP, TCP_NODELAY, socket, socketpair

from webmesh.options import DEFAULT_PORT
from webmesh.websocket.upgraded import Acceptance, TcpAddress, UnixAddress, Upgraded, address_text, tune


@pytest.mark.parametrize(
    ("family", "address", "expected"),
    [
        (AF_INET, ("10.0.0.2", 4269), "10.0.0.2:4269"),
        (AF_INET6, ("::1", 4269, 0, 0), "[::1]:4269"),
        (AF_INET6, ("fe80::1%eth0", 1, 0, 2), "[fe80::1%eth0]:1"),
        (AF_INET6, ("::ffff:10.0.0.2", 4269, 0, 0), "10.0.0.2:4269"),
        (AF_INET6, ("::ffff:1", 4269, 0, 0), "[::ffff:1]:4269"),
        (AF_UNIX, "/run/shop.sock", "unix:/run/shop.sock"),
        (AF_UNIX, b"\x00shop", "unix:\x00shop"),
        (AF_UNIX, b"/run/\xff", "unix:/run/\\xff"),
    ],
)
def test_an_address_has_one_text(family, address, expected):
    """IPv6 is bracketed, and an IPv4 peer of a dual-stack socket has the name that it has everywhere else."""
    assert expected == address_text(family, address)


@pytest.mark.parametrize("address", ["", b""])
def test_a_unix_peer_has_the_name_of_the_socket_that_it_came_to(address):
    """Clients of a Unix socket have no address of their own."""
    assert "unix:/run/shop.sock" == address_text(AF_UNIX, address, "/run/shop.sock")


def test_a_tuned_socket_neither_waits_nor_times_out():
    """Small messages leave at once, and a default timeout that the program has set does not cut idle connections."""
    stdlib_socket.setdefaulttimeout(0.5)
    try:
        with socket(AF_INET) as sock:
            tune(sock)
            assert sock.gettimeout() is None
            assert sock.getsockopt(IPPROTO_TCP, TCP_NODELAY)
    finally:
        stdlib_socket.setdefaulttimeout(None)


def test_a_unix_socket_is_tuned_too():
    """It has no delay to switch off."""
    ours, theirs = socketpair()
    with ours, theirs:
        ours.settimeout(1.0)
        tune(ours)
        assert ours.gettimeout() is None


def test_defaults_of_addresses():
    """Loopback and the port of WebMesh, and a file with the permissions of the process's umask."""
    assert ("127.0.0.1", DEFAULT_PORT) == (TcpAddress().host, TcpAddress().port)
    assert UnixAddress("/run/shop.sock").mode is None


def test_an_acceptance_is_a_plain_yes_by_default():
    """No extensions, no headers, nothing to find again."""
    acceptance = Acceptance("webmesh.v1.json")

    assert ([], (), None) == (acceptance.extensions, acceptance.headers, acceptance.tag)


def test_a_repr_shows_neither_bytes_nor_certificate():
    """What a peer sent may be a secret, and does not belong in a log."""
    ours, theirs = socketpair()
    with ours, theirs:
        upgraded = Upgraded(ours, None, None, [], b"secret frame", "unix:/p", {"subject": "secret name"})

        assert "unix:/p" in repr(upgraded)
        assert "secret" not in repr(upgraded)
