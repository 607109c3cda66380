"""What operators see of a running server, and who may."""

from __future__ import annotations

import json
import socket
from bisect import bisect_left
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from tests.running import PATIENCE, connected, running, wait_for
from webmesh.auth import Identity
from webmesh.call_counts import BUCKETS
from webmesh.exceptions import ConfigurationError, HandlerFailed, PermissionDenied
from webmesh.observability.metrics import Metrics
from webmesh.oversight import Oversight
from webmesh.protocol.handshake import HttpRequest
from webmesh.testing import RecordingObserver
from webmesh.webmesh_server import WebMeshServer


def get(server: WebMeshServer, path: str, headers: str = "") -> tuple[int, str, bytes]:
    """Status, content type and body of a page of *server*."""
    address = server.address
    with socket.socket(socket.AF_UNIX if address.startswith("unix:") else socket.AF_INET) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(address.removeprefix("unix:") if address.startswith("unix:") else ("127.0.0.1", server.port))
        sock.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n".encode())
        data = b""
        while more := sock.recv(65536):
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), fields["content-type"], body


def asked(oversight: Oversight, address: str, **headers: str) -> int:
    """The status that a peer gets for the page."""
    fields = {"host": "localhost:4269"} | {name.replace("_", "-"): headers[name] for name in headers}
    request = HttpRequest("GET", "/metrics", "", fields, address)
    return oversight.pages()["/metrics"](request).status


def counting(**options: Any) -> WebMeshServer:
    server = WebMeshServer(metrics=True, **options)
    server.on("/ok/<int:id>")(lambda payload, path, client, id: payload)

    @server.on("/fails")
    def fails(payload: Any, path: str, client: Any) -> None:
        raise ZeroDivisionError

    return server


def test_a_server_shows_what_it_has_counted() -> None:
    """To Prometheus, as JSON, and to peers at `$stats`."""
    server = counting()
    with connected(server) as client:
        client.call("/ok/7", timeout=PATIENCE)
        with pytest.raises(HandlerFailed):
            client.call("/fails", timeout=PATIENCE)

        status, content_type, body = get(server, "/metrics")
        assert (200, True) == (status, content_type.startswith("text/plain"))
        lines = body.decode().splitlines()
        assert 'webmesh_requests_total{code="ok",route="/ok/<int:id>"} 1.0' in lines
        assert 'webmesh_requests_total{code="internal",route="/fails"} 1.0' in lines
        assert "webmesh_connections_open 1.0" in lines
        assert "webmesh_handler_failures_total 1.0" in lines
        assert any(line.startswith("webmesh_threads_busy ") for line in lines)

        status, content_type, body = get(server, "/status")
        assert (200, "application/json") == (status, content_type)
        shown = json.loads(body)
        assert {"ok": 1} == shown["routes"]["/ok/<int:id>"]["codes"]

        assert {"ok": 1} == client.call("$stats", timeout=PATIENCE)["routes"]["/ok/<int:id>"]["codes"]


def test_a_browser_gets_a_page_for_people() -> None:
    """By what it accepts; programs get JSON."""
    with running(counting()) as server:
        status, content_type, body = get(server, "/status", "accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n")
        assert (200, "text/html; charset=utf-8") == (status, content_type)
        assert b"<h1>WebMesh status</h1>" in body
        assert "application/json" == get(server, "/status", "accept: */*\r\n")[1]


def test_without_metrics_there_are_no_pages() -> None:
    """But peers are told what is counted all the same."""
    with connected(server := WebMeshServer()) as client:
        assert [404, 404] == [get(server, path)[0] for path in ("/metrics", "/status")]
        assert 1 == client.call("$stats", timeout=PATIENCE)["gauges"]["connections_open"]


def peer_of(address: str, *, identity: Identity | None = None, host: str = "127.0.0.1", **headers: str) -> Any:
    """What a connection shows of its peer."""
    request = SimpleNamespace(headers={"host": host} | {name.replace("_", "-"): headers[name] for name in headers})
    return SimpleNamespace(address=address, identity=identity, request=request)


def test_who_could_see_the_pages_may_ask_for_the_counts() -> None:
    """By the same rules: from this machine, and for itself; or with the token."""
    oversight = Oversight(token="a-token-of-some-length")
    for peer in (peer_of("127.0.0.1:5"), peer_of("unix:/a", host="localhost"),
                 peer_of("203.0.113.9:5", authorization="Bearer a-token-of-some-length")):  # fmt: skip
        oversight.check(peer)
    dialled = SimpleNamespace(address="127.0.0.1:5", identity=None, request=None)
    for peer in (peer_of("203.0.113.9:5"), peer_of("127.0.0.1:5", x_forwarded_for="203.0.113.9"), dialled):
        with pytest.raises(PermissionDenied, match="metrics_allow"):
            oversight.check(peer)


def test_an_operator_may_ask_for_the_counts_from_anywhere() -> None:
    """As long as the login counts; other roles do not help."""
    oversight = Oversight()
    oversight.check(peer_of("203.0.113.9:5", identity=Identity("ann", {"operator"})))
    for identity in (Identity("ann", {"admin"}), Identity("ann", {"operator"}, expires_at=1.0)):
        with pytest.raises(PermissionDenied):
            oversight.check(peer_of("203.0.113.9:5", identity=identity))


def test_a_link_of_the_mesh_may_ask_for_the_counts() -> None:
    """Whoever knows of the mesh says which connection is one."""
    oversight, link = Oversight(), peer_of("203.0.113.9:5")
    oversight.trusts = lambda connection: connection is link
    oversight.check(link)
    with pytest.raises(PermissionDenied):
        oversight.check(peer_of("203.0.113.9:5"))


def test_a_programs_own_observer_is_told_too() -> None:
    """Both get everything."""
    observer = RecordingObserver()
    server = counting(observer=observer)
    with connected(server) as client:
        client.call("/ok/7", timeout=PATIENCE)
        assert wait_for(lambda: observer.named("request_finished"))
        assert b'route="/ok/<int:id>"} 1.0' in get(server, "/metrics")[2]


def test_counters_of_a_programs_own_are_used() -> None:
    """With buckets and a prefix as it wants them; `configure` can set them too."""
    metrics = Metrics(prefix="shop")
    server = WebMeshServer()
    server.configure(metrics=metrics)
    with running(server):
        assert b"shop_connections_open 0.0" in get(server, "/metrics")[2]


@pytest.mark.parametrize("metrics", [1, "yes", {}, None, Metrics])
def test_what_is_no_metrics_is_refused(metrics: Any) -> None:
    """When the server is made."""
    with pytest.raises(ConfigurationError, match="metrics must be"):
        WebMeshServer(metrics=metrics)


def test_a_network_that_is_none_is_refused() -> None:
    """When the server is made."""
    with pytest.raises(ConfigurationError, match="metrics_allow"):
        WebMeshServer(metrics=True, metrics_allow=["everyone"])


def test_only_this_machine_may_see_the_pages() -> None:
    """They ask for no login, so a server on the Internet must not show them to it."""
    oversight = Oversight(True)
    assert [200] * 3 == [asked(oversight, address) for address in ("127.0.0.1:5", "[::1]:5", "unix:/a")]
    strangers = ("10.0.0.1:5", "[2001:db8::1]:5", "[fe80::1%eth0]:5", "192.168.1.1:5", "", "nonsense")
    assert [403] * len(strangers) == [asked(oversight, address) for address in strangers]


@pytest.mark.parametrize("header", ["forwarded", "x_forwarded_for", "x_forwarded_host", "x_real_ip", "via"])
def test_a_proxy_on_this_machine_does_not_open_the_pages(header: str) -> None:
    """It asks for somebody else, and every peer of it seems to be on this machine."""
    assert 403 == asked(Oversight(True), "127.0.0.1:5", **{header: "203.0.113.9"})


def test_networks_can_be_let_in() -> None:
    """Then only they are."""
    oversight = Oversight(True, allow=["10.0.0.0/8", "2001:db8::/32"])
    peers = ("10.9.9.9:5", "10.9.9.9", "[2001:db8::7]:5", "[2001:db8::7]", "2001:db8::7")
    assert [200] * 5 == [asked(oversight, address, host="10.0.0.1:4269") for address in peers]
    assert [403, 403] == [asked(oversight, address) for address in ("127.0.0.1:5", "unix:/a")]


def test_a_unix_socket_shows_the_pages(tmp_path: Path) -> None:
    """Its file's permissions say who may connect."""
    server = counting()
    with running(server, unix=str(tmp_path / "socket"), port=4269):
        assert 200 == get(server, "/metrics")[0]


def test_counters_let_go_of_a_server_that_has_ended() -> None:
    """They may count for the next one, and for years."""
    metrics = Metrics()
    for _ in range(2):
        with running(WebMeshServer(metrics=metrics)):
            assert {1} == {len(gauge.readers) for gauge in metrics.gauges.values()}
    assert {0} == {len(gauge.readers) for gauge in metrics.gauges.values()}


@pytest.mark.row(86)
@pytest.mark.parametrize("allow", [None, ["127.0.0.1", "unix"]])
@pytest.mark.parametrize("host", ["evil.example", "shop.example:443", "203.0.113.9", ""])
def test_a_name_that_is_not_this_machines_does_not_open_the_pages(host: str, allow: list[str] | None) -> None:
    """A web page may have led a browser here by a name of its own, or a proxy passes on its public one."""
    oversight = Oversight(True, allow=allow)
    assert [403, 403] == [asked(oversight, address, host=host) for address in ("127.0.0.1:5", "unix:/a")]
    assert 200 == asked(oversight, "127.0.0.1:5", host="127.0.0.1:4269")


def test_a_name_does_not_open_the_pages_to_other_machines() -> None:
    """Their browsers can be led here as well; by an address they cannot."""
    assert 403 == asked(Oversight(True, allow=["10.0.0.0/8"]), "10.9.9.9:5", host="shop.example")


def test_a_token_opens_the_pages() -> None:
    """To whoever has it; with no network let in, to nobody else."""
    token = "a-token-of-some-length"
    oversight = Oversight(True, allow=[], token=token)
    stranger = {"address": "203.0.113.9:5", "host": "shop.example", "via": "1.1 proxy"}
    assert [200, 200] == [asked(oversight, **stranger, authorization=f"{one} {token}") for one in ("Bearer", "bearer")]
    wrong = (f"Basic {token}", f"Bearer {token}x", "Bearer", "Bearer \xe4", token)
    assert [403] * 5 == [asked(oversight, **stranger, authorization=one) for one in wrong]
    assert 403 == asked(oversight, "127.0.0.1:5")


@pytest.mark.parametrize("token", ["", "short", "with a space in the middle", "\u00e4" * 20, 7, b"x" * 20])
def test_a_token_that_is_none_is_refused(token: Any) -> None:
    """When the server is made."""
    with pytest.raises(ConfigurationError, match="metrics_token"):
        WebMeshServer(metrics=True, metrics_token=token)


def test_calls_are_counted_one_by_one_however_they_are_timed() -> None:
    """Quick ones, ones that wait, ones that fail, alone or many at a time; those that wait are all timed."""
    server = WebMeshServer()
    server.on("/quick", blocking=False)(lambda payload, path, client: payload)

    @server.on("/waits", blocking=False)
    def waits(payload: Any, path: str, client: Any) -> None:
        if payload:
            gevent.sleep(0.05)

    with connected(server) as client:
        for number in range(300):
            client.call("/quick", number, timeout=PATIENCE)
            client.call("/waits", number % 100 == 99, timeout=PATIENCE)
        gevent.joinall([gevent.spawn(client.call, "/quick", n, timeout=PATIENCE) for n in range(100)], raise_error=True)
        routes = client.call("$stats", timeout=PATIENCE)["routes"]

    assert (400, {"ok": 400}, 0) == tuple(routes["/quick"][key] for key in ("count", "codes", "in_flight"))
    assert (300, {"ok": 300}, 0) == tuple(routes["/waits"][key] for key in ("count", "codes", "in_flight"))
    assert 3 <= sum(routes["/waits"]["latency"][bisect_left(BUCKETS, 0.045) :])
