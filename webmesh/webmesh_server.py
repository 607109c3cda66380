"""`WebMeshServer`: one address, its routes, and the connections to it.

Composes; decides only what can be registered until when, and the order of starting and stopping. The
server lives in a thread of its own (in a patched process: in greenlets of the one hub).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from webmesh.auth import Authenticator, checked_authenticators
from webmesh.authorisation import requirement
from webmesh.brokers.base import Broker
from webmesh.call import Call, serving_context
from webmesh.endpoints import checked_mount, checked_names
from webmesh.exceptions import ConfigurationError, LocalProtocolError, WebMeshError
from webmesh.execution import ends_itself
from webmesh.idempotency_store import MEMORY
from webmesh.login import Access
from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, subprotocol
from webmesh.node_status import NodeStatus
from webmesh.observer import NO_OBSERVER, Observer
from webmesh.observability.metrics import Metrics
from webmesh.options import DEFAULT_PORT, Limits, Timeouts
from webmesh.oversight import Oversight
from webmesh.protocol.origins import checked_hosts, checked_origins
from webmesh.route_host import RouteHost
from webmesh.routing import Router
from webmesh.server_parts import Registered, ServerParts
from webmesh.serving import Serving
from webmesh.system_routes import SystemRoutes
from webmesh.topic_host import TopicHost
from webmesh.version import VERSION
from webmesh.websocket.doors import EXEMPT, Doors
from webmesh.websocket.outgoing import Policy, checked_policy
from webmesh.websocket.target import local_url
from webmesh.websocket.tls import ServerTLS
from webmesh.websocket.upgraded import listening_address
from webmesh.websocket.websocket_connection import WebSocketConnection

if TYPE_CHECKING:
    from webmesh.fellow_workers import Fellows


class WebMeshServer(RouteHost, TopicHost):
    """Serves routes to peers over WebSockets.

    Register everything first; `listen` ends registration. Use it as a context manager to close it.

    Args:
        serializer_type: For clients that ask for no subprotocol; a class, not an instance. The built-in ones
            are always spoken to clients that ask for them.
        name: The service's name, told to peers.
        mount: The HTTP path of the mesh endpoint.
        tls: `ServerTLS`, or a ready `ssl.SSLContext`; `None` speaks plain TCP.
        compression: Agree to permessage-deflate where a client offers it.
        slow_peer: What `notify` does to a peer that does not keep up, where it is not told otherwise: "wait", "close",
            "drop_oldest" or "drop_newest"; see `WebSocketConnection.notify`.
        allowed_hosts: Names by which clients may address this server (against DNS rebinding). `None` allows all, but
            where it listens on the loopback only that one's; `["*"]` allows all there, too.
        allowed_origins: Origins of web pages that may connect, besides the server's own; programs send none.
        watchdog: Tell of handlers that hold the hub for longer than `Timeouts.hub_hold`.
        metrics: Show what is counted at `/metrics` (Prometheus) and `/status`, too; needs the extra `metrics`.
        metrics_allow: Networks whose peers may see these pages, `$stats` and `$peers`; `None` takes this machine.
        metrics_token: Whoever sends it as `Authorization: Bearer` may see them too.
        idempotency: Where outcomes of calls with an idempotency key are remembered: `memory://`, or
            `sqlite:///relative.db` or `sqlite:////absolute.db`, which survives the end of the process.
        trusted_proxies: Networks of proxies that are believed when they tell whom they speak for, as `"10.0.0.0/8"`,
            and `"unix"`. See docs/SECURITY.md, "Behind a proxy", for this and the next three.
        forwarded_hops: How many of them a connection may pass.
        forwarded_header: The one header that they write: `x-forwarded-for` or `forwarded`.
        proxy_protocol: They begin each connection with a PROXY header instead.
        exempt_addresses: Networks that the limits for one address do not hold for, nor `Limits.accept_rate`.
        authenticate: Says who a peer is, given its `Credentials`; or several, the first that knows it decides. Then
            nobody gets in who is not known. `None` lets in all. See docs/SECURITY.md.
        requires: What routes ask for that do not say so themselves; see `RouteOptions.requires`.
        broker: Where publications are kept and what carries them to other nodes: `memory://`, `sqlite:///file`,
            `redis://…`, `nats://…`, or a `Broker`. See docs/BROKERS.md.
        token_in_url: Take a token from `?token=` of the URL too, where it ends up in logs and histories.
    """

    def __init__(
        self,
        *,
        serializer_type: type[AbstractMessageSerializer] = MessagePackSerializer,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        observer: Observer = NO_OBSERVER,
        name: str | None = None,
        mount: str = "/",
        tls: ServerTLS | ssl.SSLContext | None = None,
        compression: bool = False,
        slow_peer: Policy = "wait",
        allowed_hosts: Collection[str] | None = None,
        allowed_origins: Collection[str] | None = None,
        idempotency: str = MEMORY,
        trusted_proxies: Collection[str] = (),
        forwarded_hops: int = 1,
        forwarded_header: str = "x-forwarded-for",
        proxy_protocol: bool = False,
        exempt_addresses: Collection[str] = EXEMPT,
        watchdog: bool = True,
        metrics: bool | Metrics = False,
        metrics_allow: Collection[str] | None = None,
        metrics_token: str | None = None,
        authenticate: Authenticator | Sequence[Authenticator] | None = None,
        requires: str | Sequence[str] | Callable[[Call], bool] | None = None,
        broker: str | Broker = "memory://",
        token_in_url: bool = False,
    ) -> None:
        self.limits, self.timeouts = limits or Limits(), timeouts or Timeouts()
        self.observer, self.name = observer, name
        self.tls = None if tls is None else ServerTLS.coerce(tls)
        self.router = Router()
        TopicHost.__init__(self, self.router, broker)
        subprotocol(serializer_type)  # refuses what is no serializer
        self._serializer_type, self.mount_path = serializer_type, checked_mount(mount)
        self._compression, self._slow_peer, self.idempotency = compression, checked_policy(slow_peer), idempotency
        self._allowed_hosts = checked_hosts(checked_names("allowed_hosts", allowed_hosts))
        self._allowed_origins = checked_origins(checked_names("allowed_origins", allowed_origins))
        self._doors = Doors(
            trusted_proxies, forwarded_hops=forwarded_hops, forwarded_header=forwarded_header,
            proxy_protocol=proxy_protocol, exempt_addresses=exempt_addresses,
        )  # fmt: skip
        self._oversight = Oversight(metrics, allow=metrics_allow, token=metrics_token, watchdog=watchdog)
        self._access = Access(checked_authenticators(authenticate), token_in_url, requirement(requires))
        self.registered = Registered(topics=self.topic_table, subscriptions=self.local_subscriptions)
        self._serving: Serving | None = None
        self.system = SystemRoutes(self.router, name, VERSION, limits=self.limits, timeouts=self.timeouts)
        self.system.register()
        self._status = NodeStatus(self.system, self._oversight.check, self._oversight.events)

    # ------------------------------------------------------------- registration

    def configure(
        self,
        *,
        serializer_type: type[AbstractMessageSerializer] | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        tls: ServerTLS | ssl.SSLContext | None = None,
        observer: Observer | None = None,
        metrics: bool | Metrics | None = None,
    ) -> None:
        """Override what the constructor was given; for programs that serve another program's server.

        Raises:
            ConfigurationError: Serving has begun.
        """
        self._check_registering("configure")
        if serializer_type is not None:
            subprotocol(serializer_type)
            self._serializer_type = serializer_type
        self.limits = limits or self.limits
        self.timeouts = timeouts or self.timeouts
        self.tls = self.tls if tls is None else ServerTLS.coerce(tls)
        self.observer = observer or self.observer
        if metrics is not None:
            self._oversight.count(metrics)
        self.system.limits, self.system.timeouts = self.limits, self.timeouts

    def _check_registering(self, what: str) -> None:
        if self._serving is not None:
            raise ConfigurationError(f"{what} comes too late: it belongs before listen()")

    # ----------------------------------------------------------------- listening

    def listen(
        self,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        *,
        unix: str | None = None,
        sock: socket.socket | None = None,
        reuse_port: bool = False,
        blocking: bool = False,
    ) -> None:
        """Begin to serve, in a thread of the server's own.

        Args:
            host: Address or name; `::` or the empty text take IPv4 and IPv6.
            port: 0 lets the system choose; `port` tells which.
            unix: Path of a Unix socket to listen on instead.
            sock: A socket that listens already, which the server takes over: it is closed with it, its file stays.
            reuse_port: Other processes listen there, too (with TCP by SO_REUSEPORT), and each gets a part of the peers.
                At its end the server leaves them to the others, before all else.
            blocking: Return only when the server has closed.

        Raises:
            ConfigurationError: A route's options make no sense, or this server has been started before: a server
                serves once.

        What goes wrong with the address is raised by `await_started`, and here when *blocking*.
        """
        if self._serving is not None:
            raise ConfigurationError("listen() was called before: a server serves once, make a new one")
        address = listening_address(host, port, unix, shared=reuse_port) if sock is None else sock
        parts = serving_context(self).run(self._parts)
        self.system.sessions, self.system.login = parts.sessions, parts.login
        self.system.wills, self.system.rights, self.system.moves = parts.wills, parts.rights, parts.moves
        self.system.topics_epoch = parts.topics.broker.run
        self._serve_topics(parts)
        self._serving = serving = Serving(parts, address, self._oversight, shared=reuse_port)
        self._status.attend(parts.dispatcher.counted, lambda: self.url, lambda: serving.closing)
        serving.start()
        if blocking:
            self.await_started()
            serving.stopped.wait()

    def _parts(self) -> ServerParts:
        self._status.register(self.router)
        self._oversight.register(self.router)
        return ServerParts(
            self.router, self.registered, self._serializer_type,
            service=self.name, mount=self.mount_path, tls=self.tls, compression=self._compression,
            slow_peer=self._slow_peer,
            allowed_hosts=self._allowed_hosts, allowed_origins=self._allowed_origins, doors=self._doors,
            limits=self.limits, timeouts=self.timeouts, observer=self._oversight.observing(self.observer),
            broker=self.broker, idempotency=self.idempotency, access=self._access,
        )  # fmt: skip

    def await_started(self, timeout: float | None = None) -> None:
        """Wait until the server accepts connections.

        Args:
            timeout: Seconds; `None` takes `Timeouts.start`.

        Raises:
            ListenFailed: The address cannot be listened on, as when the port is taken.
            ConfigurationError: There is no such port or path.
            LocalProtocolError: `listen` has not been called, or the server was closed before it had started.
            TimeoutError: It has not started in time.
        """
        serving = self._begun
        try:
            serving.started.wait(self.timeouts.start if timeout is None else timeout)
        except WebMeshError:
            serving.home.stop()  # its thread has nothing to do any more
            raise

    def in_hub(self, act: Callable[..., object], *args: object) -> None:
        """Let the server's hub call *act* soon, which must not wait; from any thread. Shows whether the hub turns."""
        self._begun.in_hub(act, *args)

    def trust(self, trusts: Callable[[WebSocketConnection], bool]) -> None:
        """Let those connections see what operators see; before serving begins."""
        self._oversight.trusts = trusts

    def tell_of_fellows(self, fellows: Fellows) -> None:
        """Let the pages for operators tell of all processes that serve together with this one; before serving."""
        self._oversight.fellows = fellows

    @property
    def begun(self) -> bool:
        """Whether `listen` was called."""
        return self._serving is not None

    @property
    def authenticates(self) -> bool:
        """Whether peers must log in."""
        return bool(self._access.authenticators)

    @property
    def listening(self) -> bool:
        """Whether it has started to listen and has not begun to close."""
        serving = self._serving
        return serving is not None and serving.started.done and serving.started.error is None and not serving.closing

    @property
    def ready(self) -> bool:
        """Whether new work is welcome, as `/readyz` tells: it listens, and the engine of its topics can be reached."""
        return self._serving is not None and self.listening and self._serving.ready

    def serve_forever(self) -> None:
        """Wait until the server has closed; listens on the default address unless it listens already."""
        if self._serving is None:
            self.listen()
        self.await_started()
        try:
            self._begun.stopped.wait()
        finally:
            self.close()

    @property
    def address(self) -> str:
        """Where it really listens: `127.0.0.1:43121`, `unix:/run/shop.sock`. Only once started."""
        return self._begun.listener.address

    @property
    def port(self) -> int | None:
        """The TCP port that it really listens on; `None` for a Unix socket. Only once started."""
        return self._begun.listener.port

    @property
    def url(self) -> str:
        """What a client on this machine dials. Only once started."""
        return local_url(self.address, self.mount_path, secure=self.tls is not None)

    @property
    def _begun(self) -> Serving:
        if self._serving is None:
            raise LocalProtocolError("the server has not started: call listen() and await_started()")
        return self._serving

    @property
    def connections(self) -> tuple[WebSocketConnection, ...]:
        """The connections that are open now, plain ones included, but for those that have yet to log in."""
        return () if self._serving is None else self._serving.parts.welcomed()

    def kick(self, who: str | Callable[[WebSocketConnection], bool], reason: str = "kicked") -> int:
        """Close connections with 4503, after which clients do not come back; nothing more that they send is acted on.

        Their tokens live on: an authenticator that should refuse them from now on must know. Logins that are being
        checked are checked again.

        Args:
            who: The subject of their identity, or a function that says which connections. It is asked of sessions
                whose peers are away, too, which have `identity` and `metadata`, and end.
            reason: Told to them; at most 100 bytes.

        Returns:
            How many there were.
        """
        return self._begun.parts.kick(who, reason)

    def reload_certificates(self) -> None:
        """Read the certificate files again: new connections use them, old ones live on.

        Raises:
            ConfigurationError: A file cannot be used (the old ones stay), or the server has no TLS files.
        """
        if self.tls is None:
            raise ConfigurationError("the server does not use TLS")
        self.tls.reload()

    # ------------------------------------------------------------------- closing

    def close(self, timeout: float | None = None, *, alternates: Collection[str] = ()) -> None:
        """Drain and end: let calls finish, close all connections, end the thread. Safe to call twice.

        Meanwhile new connections get 503, and peers are told to go. See docs/OPERATIONS.md.

        Args:
            timeout: Seconds for calls in progress; `None` takes `Timeouts.drain`. Then they are cancelled, and killed
                after `Timeouts.close`. `drained` tells whether that was needed.
            alternates: URLs of servers that peers should dial instead, such as `["ws://10.0.0.8:4269"]`.

        Called by a handler, a callback or a signal handler of a patched process, it returns at once, since the end
        waits for them.
        """
        serving = self._serving
        if serving is None:
            return
        seconds = self.timeouts.drain if timeout is None else timeout
        serving.close(seconds, checked_names("alternates", alternates) or ())
        if not ends_itself(self, serving.home):
            serving.wait_stopped()

    @property
    def drained(self) -> bool | None:
        """Whether every call that was in progress when the server closed was answered, its own ones to peers included,
        and everything has left that was sent; `None` before its end."""
        serving = self._serving
        return None if serving is None or not serving.stopped.done else not serving.cut_off

    def __enter__(self) -> WebMeshServer:
        if self._serving is None:
            self.listen()
        self.await_started()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<WebMeshServer{name} {'not started' if self._serving is None else self._serving.state}>"
