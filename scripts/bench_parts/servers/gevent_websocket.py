"""gevent-websocket on gevent's own WSGI server, as its README shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent.pywsgi import WSGIServer
from geventwebsocket.exceptions import WebSocketError
from geventwebsocket.handler import WebSocketHandler

from bench_parts.servers.announce import announce, prepare


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    websocket = environ["wsgi.websocket"]
    try:
        while (message := websocket.receive()) is not None:
            websocket.send(message, isinstance(message, (bytes, bytearray)))
    except WebSocketError:
        pass  # the client went away without a close frame, as load generators do
    return []


if __name__ == "__main__":
    prepare()
    server = WSGIServer(
        ("127.0.0.1", 0), application, backlog=4096, log=None, error_log=None, handler_class=WebSocketHandler
    )
    server.start()
    announce(server.server_port)
    server.serve_forever()
