"""The pytest plugin: its fixtures as users meet them, in a pytest of its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.processes import ENVIRONMENT
from tests.running import Census

pytest_plugins = ["pytester"]

PLUGIN = "-pwebmesh.pytest_plugin"


@pytest.fixture
def pytest_of_a_user(pytester: pytest.Pytester, pytestconfig: pytest.Config) -> Any:
    """`run(source)` runs a test module inside this process, with the plugin and without the project's own settings."""
    # An installed package brings the plugin by its entry point; twice the same would be refused.
    installed = pytestconfig.pluginmanager.list_plugin_distinfo()
    by_entry_point = any(distribution.metadata["Name"] == "webmesh-gevent" for _, distribution in installed)

    def run(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(source)
        given = [] if by_entry_point else [PLUGIN]
        return pytester.runpytest_inprocess("-q", "-pno:randomly", *given, *arguments)

    return run


def test_a_user_registers_and_calls(pytest_of_a_user: Any) -> None:
    """Routes go on the server; the first client starts it; everything is closed afterwards."""
    census = Census()
    result = pytest_of_a_user(
        """
        import pytest
        from webmesh import NotFound

        def test_echo(webmesh_server, webmesh_client):
            @webmesh_server.on("/")
            def echo(payload, path, client):
                return payload

            assert not webmesh_server.listening
            client = webmesh_client()
            assert webmesh_server.listening and client.connected
            assert "hi" == client.call("/", "hi")

        def test_errors_and_streams(webmesh_server, webmesh_client):
            @webmesh_server.on("/<int:n>")
            def count(payload, path, client, n):
                if n > 5:
                    raise NotFound(str(n))
                yield from range(n)

            client = webmesh_client()
            assert [0, 1, 2] == list(client.stream("/3"))
            with pytest.raises(NotFound):
                client.call("/7")
        """
    )
    result.assert_outcomes(passed=2)
    assert {} == census.grown()


def test_clients_share_a_server_and_take_options(pytest_of_a_user: Any) -> None:
    """As many as a test wants; the options are those of `WebMeshClient`."""
    result = pytest_of_a_user(
        """
        from webmesh import StandardJsonSerializer

        def test_two(webmesh_server, webmesh_client):
            seen = []
            webmesh_server.on("/")(lambda payload, path, client: seen.append(client.subprotocol))
            first, second = webmesh_client(), webmesh_client(serializer_type=StandardJsonSerializer, name="two")
            first.call("/")
            second.call("/")
            assert ["webmesh.v1.msgpack", "webmesh.v1.json"] == seen
            assert first.url == second.url
        """
    )
    result.assert_outcomes(passed=1)


def test_the_users_own_server_can_be_tested(pytest_of_a_user: Any) -> None:
    """By overriding one fixture, whether it has been started or not."""
    result = pytest_of_a_user(
        """
        import pytest
        from webmesh import WebMeshServer

        @pytest.fixture(params=[False, True])
        def webmesh_server(request):
            server = WebMeshServer(name="mine")
            server.on("/")(lambda payload, path, client: payload)
            if request.param:
                server.listen(port=0)
                server.await_started()
            return server

        def test_mine(webmesh_server, webmesh_client):
            client = webmesh_client()
            assert "mine" == client.call("$info")["name"]
            assert 7 == client.call("/", 7)

        @pytest.fixture
        def listening_after(webmesh_server):
            yield
            assert not webmesh_server.listening

        def test_it_is_closed_as_well(listening_after, webmesh_client):
            webmesh_client()
        """
    )
    result.assert_outcomes(passed=4)


def test_a_server_that_is_never_asked_for_is_never_started(pytest_of_a_user: Any) -> None:
    """A test may use either fixture alone, fail, and close things by itself."""
    census = Census()
    result = pytest_of_a_user(
        """
        def test_server_only(webmesh_server):
            webmesh_server.on("/")(print)

        def test_client_function_only(webmesh_client):
            pass

        def test_fails_with_a_call_under_way(webmesh_server, webmesh_client):
            import threading
            webmesh_server.on("/")(lambda payload, path, client: threading.Event().wait(0.2))
            webmesh_client().spawn("/")
            assert False

        def test_closes_by_itself(webmesh_server, webmesh_client):
            client = webmesh_client()
            client.close()
            webmesh_server.close()
        """
    )
    result.assert_outcomes(passed=3, failed=1)
    assert {} == census.grown()


def test_the_plugin_alone_imports_nothing(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest loads it early: a run that patches in its conftest must still come in time, and others pay nothing."""
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_there():
            assert "webmesh.webmesh_server" not in sys.modules
            assert "webmesh.websocket.hub" not in sys.modules
            assert "ssl" not in sys.modules or "gevent" in sys.modules
        """
    )
    result = pytester.runpytest_subprocess("-q", "-pno:randomly", *([PLUGIN] if not _installed() else []))
    result.assert_outcomes(passed=1)


def _installed() -> bool:
    from importlib.metadata import entry_points

    return any(point.value == "webmesh.pytest_plugin" for point in entry_points(group="pytest11"))


def test_the_fixtures_explain_themselves(pytest_of_a_user: Any) -> None:
    """`pytest --fixtures` is where users look."""
    result = pytest_of_a_user("", "--fixtures")
    result.stdout.fnmatch_lines(["*webmesh_server*", "*A server to register routes on.*", "*webmesh_client*"])
