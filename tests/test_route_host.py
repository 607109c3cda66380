"""RouteHost: what it registers is looked at in `test_webmesh_server`; here, that it is of one piece with it."""

from __future__ import annotations

import pytest

from webmesh.exceptions import ConfigurationError
from webmesh.route_host import RouteHost
from webmesh.routing import Router
from webmesh.server_parts import Registered


class Host(RouteHost):
    """A host that never serves."""

    def __init__(self) -> None:
        self.router, self.registered, self.mount_path = Router(), Registered(), "/mesh"
        self.over = False

    def _check_registering(self, what: str) -> None:
        if self.over:
            raise ConfigurationError(f"{what} comes too late")


def test_routes_are_listed_without_the_protocols_own() -> None:
    """Sorted by pattern."""
    host = Host()
    host.router.add("$info", print, reserved=True)
    host.on("/b")(print)
    host.on("/a")(print)
    assert ["/a", "/b"] == [route.pattern for route in host.routes()]


def test_a_plain_route_cannot_take_the_mesh_endpoints_place() -> None:
    """Its upgrades would never come to it."""
    with pytest.raises(ConfigurationError, match="mesh endpoint"):
        Host().websocket("/mesh")
    host = Host()
    host.websocket("/plain")(print)
    assert ["/plain"] == [one.pattern for one in host.registered.plain]


@pytest.mark.parametrize("register", [Host.middleware, Host.on_connect, Host.on_disconnect, Host.extend])
def test_nothing_is_taken_once_registration_is_over(register) -> None:
    """It would never be called."""
    host = Host()
    host.over = True
    with pytest.raises(ConfigurationError, match="too late"):
        register(host, print)
