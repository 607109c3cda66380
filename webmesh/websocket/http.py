"""Answers to what reaches the port and is no upgrade: health, and hints for who came here by mistake.

Knows requests and answers as values, and h11 that writes the latter down. Reading a request's head is
`protocol.handshake`; sockets and deadlines are `arrival`. No path is ever looked up in a file system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import h11

from webmesh.protocol.handshake import HttpRequest
from webmesh.protocol.header_fields import phrase


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """One whole answer. Lengths and the end of the connection are added when it is written down."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


Page = Callable[[HttpRequest], HttpAnswer]
"""Answers one path. Runs in the hub: it must not block it."""


def text_answer(status: int, text: str, *headers: tuple[str, str]) -> HttpAnswer:
    """A short answer for people, which no cache keeps and no browser takes for something else."""
    standard = (
        ("content-type", "text/plain; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    )
    return HttpAnswer(status, (*standard, *headers), f"{text}\n".encode())


def answer_bytes(answer: HttpAnswer, *, head: bool = False) -> bytes:
    """The answer as it goes over the wire; the connection ends after it.

    Args:
        head: The request was a HEAD: same headers, no body.
    """
    writer = h11.Connection(h11.SERVER)
    # h11 frames an answer by the request that it has seen. What was asked for does not matter to it.
    writer.receive_data((b"HEAD" if head else b"GET") + b" / HTTP/1.1\r\nhost: _\r\n\r\n")
    writer.next_event()
    headers = [*answer.headers, ("content-length", str(len(answer.body))), ("connection", "close")]
    response = h11.Response(status_code=answer.status, headers=headers, reason=phrase(answer.status).encode("ascii"))
    parts = [writer.send(response)]
    if not head:
        parts.append(writer.send(h11.Data(data=answer.body)))
    parts.append(writer.send(h11.EndOfMessage()))
    return b"".join(part for part in parts if part)


def pages(
    *, ready: Callable[[], bool], mount: str = "/", more: Mapping[str, Page] | None = None
) -> Callable[[HttpRequest], HttpAnswer]:
    """The answers of a node: `/livez`, `/readyz`, a hint at the mesh's own path, 404 for the rest.

    Args:
        ready: Whether the node takes new work; asked at each request for `/readyz`.
        mount: The path of the mesh endpoint.
        more: Further pages by their exact path; they win over the built-in ones.
    """

    def upgrade_hint(request: HttpRequest) -> HttpAnswer:
        headers = (("upgrade", "websocket"), ("sec-websocket-version", "13"))
        return text_answer(426, "This is a WebMesh node: connect with a WebSocket client.", *headers)

    table: dict[str, Page] = {
        mount: upgrade_hint,
        "/livez": lambda request: text_answer(200, "alive"),
        "/readyz": lambda request: text_answer(200, "ready") if ready() else text_answer(503, "not ready"),
        **(more or {}),
    }
    return lambda request: table.get(request.path, _not_found)(request)


def _not_found(request: HttpRequest) -> HttpAnswer:
    return text_answer(404, "There is nothing here.")  # the path is not repeated: it is the peer's text
