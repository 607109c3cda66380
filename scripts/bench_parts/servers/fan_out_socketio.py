"""python-socketio on gevent, with gevent-websocket: `emit` to a room. Its pings are as good as off."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import socketio  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402
from geventwebsocket.handler import WebSocketHandler  # noqa: E402

from bench_parts.servers.announce import announce, prepare  # noqa: E402

server = socketio.Server(async_mode="gevent", ping_interval=3600, compression_threshold=1 << 30)


@server.event
def join(client: str) -> str:
    server.enter_room(client, "news")
    return "ok"


@server.event
def publish(client: str, payload: str) -> None:
    server.emit("news", payload, to="news")


if __name__ == "__main__":
    prepare()
    wsgi = WSGIServer(
        ("127.0.0.1", 0), socketio.WSGIApp(server), backlog=4096, log=None, error_log=None,
        handler_class=WebSocketHandler,
    )  # fmt: skip
    wsgi.start()
    announce(wsgi.server_port)
    wsgi.serve_forever()
