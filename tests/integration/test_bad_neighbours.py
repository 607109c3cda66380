"""Story: my calls are answered as ever while another peer's are heavy, endless or odd."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from webmesh import BadPattern, InvalidArgument, Limits, RouteNotFound, WebMeshClient, WebMeshServer
from webmesh.testing import connection_pair

Connect = Callable[..., WebMeshClient]


@pytest.fixture
def gate() -> Iterator[tuple[int, int]]:
    """A pipe: whoever reads the first end blocks in C until something is written to the second."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.row(81)
def test_a_handler_that_blocks_in_c_delays_nobody(
    webmesh_server: WebMeshServer, webmesh_client: Connect, gate: tuple[int, int]
) -> None:
    """In the thread pool it holds one thread: its own connection and all others are served meanwhile."""
    reader, writer = gate
    webmesh_server.on("/block", blocking=True)(lambda payload, path, client: os.read(reader, 1))
    webmesh_server.on("/quick", blocking=False)(lambda payload, path, client: payload)
    neighbour, mine = webmesh_client(), webmesh_client()

    blocked = neighbour.spawn("/block")
    answers = [mine.call("/quick", 1), neighbour.call("/quick", 2)]
    still_blocked = not blocked.done()
    os.write(writer, b"x")

    assert [1, 2] == answers
    assert still_blocked
    assert b"x" == blocked.result()


@pytest.mark.row(81)
def test_a_handler_that_computes_in_a_thread_lets_others_in_between(
    webmesh_server: WebMeshServer, webmesh_client: Connect
) -> None:
    """Python code in a pool thread gives the interpreter back now and then, so the hub goes on."""
    state = {"stop": False, "rounds": 0}

    @webmesh_server.on("/burn", blocking=True)
    def burn(payload: object, path: str, client: object) -> int:
        while not state["stop"]:
            state["rounds"] += 1
        return state["rounds"]

    webmesh_server.on("/rounds", blocking=False)(lambda payload, path, client: state["rounds"])
    neighbour, mine = webmesh_client(), webmesh_client()

    burning = neighbour.spawn("/burn")
    while not (seen := mine.call("/rounds")):  # each of these calls is one that was not held up
        pass
    state["stop"] = True

    assert burning.result() >= seen


@pytest.mark.row(50)
@pytest.mark.parametrize("segment", ["/a", "/*", "/+", "/**", "//"])
def test_a_path_with_thousands_of_levels_is_refused(
    webmesh_server: WebMeshServer, webmesh_client: Connect, segment: str
) -> None:
    """A path is bounded in bytes before anything looks at its levels; the caller is told and may go on."""
    webmesh_server.on("/<path:rest>")(lambda payload, path, client, rest: len(rest))
    client = webmesh_client()

    with pytest.raises(InvalidArgument, match="path must be at most 1024 bytes"):
        client.call(segment * 10_000)

    assert 5 == client.call("/a/b/c")


@pytest.mark.row(50)
def test_the_deepest_path_that_is_allowed_is_looked_up(
    webmesh_server: WebMeshServer, webmesh_client: Connect
) -> None:
    """Five hundred levels find a route that takes the rest of a path, and none that wants fewer."""
    levels = Limits().path_size // 2
    webmesh_server.on("/deep/<path:rest>")(lambda payload, path, client, rest: rest.count("/"))
    webmesh_server.on("/a/<b>/<c>")(lambda payload, path, client, b, c: None)
    client = webmesh_client()

    assert levels - 4 == client.call("/deep" + "/a" * (levels - 3))
    with pytest.raises(RouteNotFound):
        client.call("/a" * levels)


@pytest.mark.row(50)
def test_a_pattern_with_too_many_levels_is_refused() -> None:
    """What a program registers is bounded too, so that looking a path up has an end."""
    with pytest.raises(BadPattern, match="more than 64 segments"):
        WebMeshServer().on("/a" * 65)(lambda payload, path, client: None)


@pytest.mark.row(50)
def test_wildcards_in_a_path_are_plain_text(webmesh_server: WebMeshServer, webmesh_client: Connect) -> None:
    """A caller cannot reach a route by a pattern: paths are compared, never expanded."""
    webmesh_server.on("/orders/secret")(lambda payload, path, client: "secret")
    client = webmesh_client()

    for path in ("/orders/*", "/orders/+", "/orders/#", "/**", "/orders/<name>", "/orders/secre?"):
        with pytest.raises(RouteNotFound):
            client.call(path)


@pytest.mark.row(50)
def test_a_topic_message_is_answered_though_there_are_no_topics() -> None:
    """A client that publishes is told, not left waiting; nothing is kept for any topic or pattern."""
    with connection_pair() as (client, server):
        with pytest.raises(RouteNotFound):
            client.call("$subscribe", {"pattern": "a/+/b/#"})
        assert server.open
