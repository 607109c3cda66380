"""What the port answers to plain HTTP."""

from __future__ import annotations

import h11
import pytest

from webmesh.protocol.handshake import HttpRequest
from webmesh.websocket.http import HttpAnswer, answer_bytes, pages, text_answer


def get(path: str, method: str = "GET", query: str = "") -> HttpRequest:
    return HttpRequest(method, path, query, {"host": "localhost"})


def read_answer(data: bytes, method: str = "GET") -> tuple[h11.Response, bytes]:
    """What a strict client makes of an answer; it must end exactly where the bytes do."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "localhost")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response, body = client.next_event(), b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(response, h11.Response)
    assert isinstance(event, h11.EndOfMessage)
    assert (b"", False) == client.trailing_data
    return response, body


def test_an_answer_is_whole_and_the_last():
    """Its length is given, and so is the end of the connection: the client need not wait for it."""
    response, body = read_answer(answer_bytes(HttpAnswer(200, (("x-a", "b"),), b"hello")))

    headers = dict(response.headers)
    assert (200, b"OK", b"hello") == (response.status_code, response.reason, body)
    assert (b"b", b"5", b"close") == (headers[b"x-a"], headers[b"content-length"], headers[b"connection"])


def test_a_head_request_gets_the_headers_alone():
    """As RFC 9110 wants it: the length is that of the body that a GET would have got."""
    response, body = read_answer(answer_bytes(HttpAnswer(200, (), b"hello"), head=True), "HEAD")

    assert (b"5", b"") == (dict(response.headers)[b"content-length"], body)


def test_a_status_without_a_name_can_be_sent():
    """Users' pages may use a status that no standard knows."""
    response, _ = read_answer(answer_bytes(HttpAnswer(599)))

    assert (599, b"") == (response.status_code, response.reason)


def test_a_bad_header_of_a_page_is_never_written():
    """h11 refuses it, so no page can be made to write a header of a stranger's."""
    with pytest.raises(h11.LocalProtocolError):
        answer_bytes(HttpAnswer(200, (("x-a", "b\r\nx-evil: c"),)))


def test_text_answers_are_kept_by_no_cache_and_taken_for_nothing_else():
    """A stale health page is worse than none, and text of ours is not to run as a script."""
    headers = dict(text_answer(200, "alive").headers)

    assert ("no-store", "nosniff") == (headers["cache-control"], headers["x-content-type-options"])


def test_livez_is_200_while_the_hub_turns():
    """It answers without asking anybody."""
    assert 200 == pages(ready=lambda: False)(get("/livez")).status


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_readyz_says_what_the_node_says(ready, status):
    """It asks at each request."""
    assert status == pages(ready=lambda: ready)(get("/readyz")).status


def test_the_mesh_endpoint_hints_at_websockets():
    """Whoever opens it in a browser learns that it is not for browsers; a client learns the version (RFC 6455 4.4)."""
    answer = pages(ready=lambda: True, mount="/mesh")(get("/mesh"))

    assert 426 == answer.status
    assert ("websocket", "13") == (dict(answer.headers)["upgrade"], dict(answer.headers)["sec-websocket-version"])


@pytest.mark.row(13)
@pytest.mark.parametrize("path", ["/", "/etc/passwd", "/livez/", "/LIVEZ", "//livez", "/<script>"])
def test_anything_else_is_404_and_is_not_repeated(path):
    """Only exact paths are known, no file is looked for, and no peer's text is sent back."""
    answer = pages(ready=lambda: True, mount="/mesh")(get(path))

    assert 404 == answer.status
    assert path == "/" or path.encode() not in answer.body


def test_more_pages_win_over_the_built_in_ones():
    """Metrics, status page and the like are added by who has them."""
    answer = pages(ready=lambda: True, more={"/livez": lambda request: HttpAnswer(204)})

    assert 204 == answer(get("/livez")).status


def test_a_query_does_not_change_the_page():
    """Probes add parameters against caches."""
    assert 200 == pages(ready=lambda: True)(get("/livez", query="t=1")).status
