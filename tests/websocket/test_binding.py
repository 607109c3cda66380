"""Listening sockets: families, stale files, permissions, sockets that listen already."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
import stat

import gevent
import pytest
from gevent.socket import AF_INET, AF_INET6, AF_UNIX, SO_REUSEADDR, SOL_SOCKET, socket

from tests.websocket.loopback import PATIENCE, descriptors, no_more_than, peer_at
from webmesh.exceptions import ConfigurationError, TransportError
from webmesh.websocket import binding as module
from webmesh.exceptions import ListenFailed
from webmesh.websocket.binding import bind, hold_port
from webmesh.websocket.upgraded import TcpAddress, UnixAddress

needs_ipv6 = pytest.mark.skipif(not stdlib_socket.has_dualstack_ipv6(), reason="needs IPv6 on this machine")


def bound(address):
    return bind(address, backlog=16, timeout=PATIENCE)


@pytest.fixture
def path(tmp_path, monkeypatch) -> str:
    """A short path: a Unix socket's may have 107 bytes only."""
    monkeypatch.chdir(tmp_path)
    return "shop.sock"


def test_port_0_becomes_a_real_port():
    """The system chooses, and the binding tells which."""
    binding = bound(TcpAddress("127.0.0.1", 0))
    with binding.sock:
        assert binding.port == binding.sock.getsockname()[1] != 0
        assert f"127.0.0.1:{binding.port}" == binding.address


def test_a_restarted_server_gets_its_port_back():
    """SO_REUSEADDR: connections of the last process that linger in the kernel do not hold the port."""
    binding = bound(TcpAddress("127.0.0.1", 0))
    with binding.sock:
        assert binding.sock.getsockopt(SOL_SOCKET, SO_REUSEADDR)


@needs_ipv6
@pytest.mark.parametrize("host", ["::", ""])
def test_the_address_of_all_interfaces_takes_both_families(host):
    """`::` is dual-stack here whatever the system's setting, and so is no host at all."""
    binding = bound(TcpAddress(host, 0))
    with binding.sock:
        for where in (f"127.0.0.1:{binding.port}", f"[::1]:{binding.port}"):
            peer_at(where).close()
        assert f"[::]:{binding.port}" == binding.address


@needs_ipv6
def test_an_ipv6_address_takes_only_ipv6():
    """Naming one interface means it."""
    binding = bound(TcpAddress("::1", 0))
    with binding.sock:
        assert (AF_INET6, 1) == (
            binding.sock.family, binding.sock.getsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY)
        )  # fmt: skip


def test_a_name_means_its_ipv4_address_first(monkeypatch):
    """`localhost` has two addresses on most machines; old clients try only 127.0.0.1."""
    found = [(AF_INET6, 1, 6, "", ("::1", 0, 0, 0)), (AF_INET, 1, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(module, "getaddrinfo", lambda *args: found)
    binding = bound(TcpAddress("localhost", 0))
    with binding.sock:
        assert (AF_INET, "127.0.0.1") == (binding.sock.family, binding.sock.getsockname()[0])


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (TcpAddress("192.0.2.1", 0), "Cannot assign requested address"),
        (TcpAddress("x" * 70 + ".invalid", 0), "too long|not known"),
        (UnixAddress("/nowhere/at/all.sock"), "No such file or directory"),
        (UnixAddress("/tmp/" + "x" * 200), "too long"),
    ],
)
def test_what_the_system_refuses_is_one_class(address, reason):
    """Whoever starts a server catches ListenFailed; the text names the address and the reason, no socket is left."""
    before = descriptors()

    with pytest.raises(ListenFailed, match=reason) as caught:
        bound(address)

    assert isinstance(caught.value, TransportError) and isinstance(caught.value, OSError)
    assert caught.value.address in str(caught.value)
    assert no_more_than(before)


def test_a_port_that_is_taken_has_its_errno():
    """The command line tells people more about it, by that number."""
    first = bound(TcpAddress("127.0.0.1", 0))
    with first.sock, pytest.raises(ListenFailed) as caught:
        bound(TcpAddress("127.0.0.1", first.port))

    assert errno.EADDRINUSE == caught.value.errno


def test_a_name_that_is_not_resolved_in_time_fails(monkeypatch):
    """Every wait has an end, the resolver's too."""
    monkeypatch.setattr(module, "getaddrinfo", lambda *args: gevent.sleep(PATIENCE * 10))

    with pytest.raises(ListenFailed, match="not resolved within 0.05 s"):
        bind(TcpAddress("slow.test", 0), backlog=1, timeout=0.05)


def test_a_name_without_an_address_fails(monkeypatch):
    """A resolver may answer with families that nobody asked for."""
    monkeypatch.setattr(module, "getaddrinfo", lambda *args: [])

    with pytest.raises(ListenFailed, match="no IPv4 or IPv6 address"):
        bound(TcpAddress("odd.test", 0))


def test_a_unix_socket_has_the_permissions_that_were_asked_for(path):
    """They are set before anybody can connect."""
    binding = bound(UnixAddress(path, 0o600))
    with binding.sock:
        assert 0o600 == stat.S_IMODE(os.stat(path).st_mode)
        assert (f"unix:{path}", None, path) == (binding.address, binding.port, binding.path)


def test_a_file_that_a_dead_server_left_is_replaced(path):
    """Nobody listens on it, so nothing is lost."""
    dead = bound(UnixAddress(path))
    dead.sock.close()

    binding = bound(UnixAddress(path))
    with binding.sock:
        peer_at(binding.address).close()


def test_a_server_that_lives_keeps_its_file(path):
    """The second one is refused, and the first one still answers."""
    living = bound(UnixAddress(path))
    with living.sock:
        with pytest.raises(ListenFailed) as caught:
            bound(UnixAddress(path))
        assert errno.EADDRINUSE == caught.value.errno
        peer_at(living.address).close()


def test_a_full_queue_does_not_pass_for_a_dead_server(path):
    """A server that is too busy to accept is alive, and its file is not taken from it."""
    busy = bind(UnixAddress(path), backlog=1, timeout=PATIENCE)
    waiting = []
    with busy.sock:
        for _ in range(10):
            sock = socket(AF_UNIX)
            sock.setblocking(False)
            waiting.append(sock)
            if sock.connect_ex(path) == errno.EAGAIN:
                break
        with pytest.raises(ListenFailed):
            bound(UnixAddress(path))
    for sock in waiting:
        sock.close()


def test_a_file_that_is_no_socket_is_never_removed(path):
    """A slip of the hand in an option must not delete anybody's data."""
    with open(path, "w") as file:
        file.write("data")

    with pytest.raises(ListenFailed, match="no socket"):
        bound(UnixAddress(path))

    with open(path) as file:
        assert "data" == file.read()


def test_the_file_is_removed_once_and_only_if_it_is_ours(path):
    """A successor that has bound the path meanwhile keeps its file."""
    first = bound(UnixAddress(path))
    first.sock.close()
    os.link(path, "kept")  # or the successor may get the same inode number within the same clock tick
    second = bound(UnixAddress(path))
    with second.sock:
        first.remove_file()
        assert os.path.exists(path)
        second.remove_file()
        assert not os.path.exists(path)
        second.remove_file()


def test_a_file_that_is_gone_already_is_no_error(path):
    """Somebody has tidied up before us."""
    binding = bound(UnixAddress(path))
    with binding.sock:
        os.unlink(path)
        binding.remove_file()


@pytest.mark.parametrize("port", [-1, 65536, 70000])
def test_a_port_that_is_none_is_refused(port):
    """The resolver would take 70000 for 4464."""
    with pytest.raises(ConfigurationError, match="0 to 65535"):
        bound(TcpAddress("127.0.0.1", port))


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_is_none_is_refused(path):
    """The empty path would make a socket that nobody finds."""
    with pytest.raises(ConfigurationError, match="path"):
        bound(UnixAddress(path))


@pytest.mark.parametrize("make", [stdlib_socket.socket, socket], ids=["stdlib", "gevent"])
def test_a_socket_that_listens_already_is_taken_over(make):
    """As from a service manager; what was given is empty afterwards, so that two owners never close one socket."""
    given = make(AF_INET, stdlib_socket.SOCK_STREAM)
    given.bind(("127.0.0.1", 0))
    given.listen(5)
    address = given.getsockname()

    binding = bound(given)
    with binding.sock:
        peer_at(binding.address).close()
        assert isinstance(binding.sock, socket)
        assert (address, -1) == (binding.sock.getsockname(), given.fileno())


def test_the_file_of_a_socket_that_was_taken_over_stays(path):
    """It is its maker's: a service manager goes on with it."""
    with socket(AF_UNIX) as given:
        given.bind(path)
        given.listen(5)
        binding = bound(given)
    with binding.sock:
        assert f"unix:{path}" == binding.address
        binding.remove_file()
    assert os.path.exists(path)


def test_a_socket_that_does_not_listen_is_refused():
    """The caller keeps it."""
    with socket(AF_INET) as given:
        given.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigurationError, match="does not listen"):
            bound(given)
        assert given.fileno() >= 0


def test_a_shared_port_is_taken_by_several_of_one_user():
    """Each of them listens; whoever did not ask for that is kept out."""
    first = bound(TcpAddress("127.0.0.1", 0, shared=True))
    with first.sock:
        second = bound(TcpAddress("127.0.0.1", first.port, shared=True))
        with second.sock, pytest.raises(ListenFailed):
            bound(TcpAddress("127.0.0.1", first.port))


def test_a_port_that_is_held_is_kept_and_sends_nobody_anywhere():
    """Peers get to those who listen, and to nobody else where nobody does."""
    with hold_port(TcpAddress("127.0.0.1", 0, shared=True), PATIENCE) as held:
        port = held.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            peer_at(f"127.0.0.1:{port}")
        binding = bound(TcpAddress("127.0.0.1", port, shared=True))
        with binding.sock:
            for _ in range(8):
                with peer_at(f"127.0.0.1:{port}"):
                    binding.sock.accept()[0].close()
