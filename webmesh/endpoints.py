"""Which upgrade request leads where: to the mesh, to a plain WebSocket route, or nowhere."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from webmesh.exceptions import ConfigurationError, RemoteError
from webmesh.login import Login, refusal_for
from webmesh.message_serializers import (
    AbstractMessageSerializer, MessagePackSerializer, StandardJsonSerializer, subprotocol,
)  # fmt: skip
from webmesh.options import Limits
from webmesh.protocol.deflate import negotiate_deflate
from webmesh.protocol.handshake import HttpRequest, Refusal, UpgradeRequest, choose_subprotocol
from webmesh.protocol.http_head import RefusedHead
from webmesh.protocol.origins import host_allowed, is_loopback_host, origin_allowed
from webmesh.protocol.request_target import parse_target
from webmesh.websocket.http import HttpAnswer, text_answer
from webmesh.routing import Match
from webmesh.websocket.upgraded import Acceptance

if TYPE_CHECKING:
    from webmesh.auth import Identity
    from webmesh.plain_routes import PlainRoutes

_BUSY = Refusal(503, "no thread is free for this route", (("Retry-After", "5"),))
_FOREIGN_HOST = Refusal(403, "host not allowed")
_CLOSING = Refusal(503, "the server is closing", (("Retry-After", "1"),))
_DOUBTED = Refusal(503, "rights are being changed", (("Retry-After", "5"),))
_BUILT_IN: tuple[type[AbstractMessageSerializer], ...] = (MessagePackSerializer, StandardJsonSerializer)


def checked_mount(mount: str) -> str:
    """*mount* as the path of a request reads once it is decoded.

    Raises:
        ConfigurationError: No request can have this path.
    """
    try:
        return parse_target(quote(mount, encoding="utf-8"))[0]  # with an encoding, quote refuses bytes
    except (RefusedHead, UnicodeError, TypeError) as error:
        raise ConfigurationError(f"mount must be a path such as '/mesh', not {mount!r}: {error}") from error


def checked_names(what: str, names: Collection[str] | None) -> tuple[str, ...] | None:
    """*names* as a tuple; `None` stays.

    Raises:
        ConfigurationError: It is one text, whose letters would each be taken for a name, or holds something else.
    """
    if names is None:
        return None
    if isinstance(names, str | bytes):
        raise ConfigurationError(f"{what} must be a list of texts, not one text: write [{names!r}]")
    kept = tuple(names)
    for name in kept:
        if not isinstance(name, str):
            raise ConfigurationError(f"{what} must be a list of texts, and {name!r} is none")
    return kept


class Endpoints:
    """The HTTP paths of one server that speak WebSocket.

    An accepted request's `tag` is the serializer of a mesh connection, or the match of a plain route.

    Args:
        mount: Path of the mesh endpoint.
        default: Serializer for clients that offer no subprotocol; the built-in ones are spoken as well.
        compression: Whether permessage-deflate is agreed to.
        secure: Whether the server speaks TLS itself.
        allowed_hosts: `None` allows all, as long as `local_names` is `None` too.
        login: Says who peers are; `None` where nobody asks.

    Attributes:
        closing: Nothing is accepted any more.
        local_names: For a server that only this machine can reach: names that it goes by besides those of the
            loopback. Without `allowed_hosts` no others are allowed then.
    """

    def __init__(
        self,
        mount: str,
        plain: PlainRoutes,
        default: type[AbstractMessageSerializer],
        limits: Limits,
        *,
        compression: bool,
        allowed_hosts: Collection[str] | None,
        allowed_origins: Collection[str] | None,
        login: Login | None = None,
        secure: bool = False,
    ) -> None:
        self.closing = False
        self.local_names: Collection[str] | None = None
        self._login = login
        self._mount = mount
        self._plain = plain
        self._limits = limits
        # A serializer of the program's own may bear a built-in one's name, and then stands for it.
        kinds = {subprotocol(kind): kind for kind in (*_BUILT_IN, default)}
        self._serializers = {name: kind(limits) for name, kind in kinds.items()}
        self._default = self._serializers[subprotocol(default)]
        self._compression = compression
        self._allowed_hosts = allowed_hosts
        self._allowed_origins = allowed_origins
        self._secure = secure

    def spoken(self, kind: type[AbstractMessageSerializer]) -> AbstractMessageSerializer:
        """A serializer of that very class, for a connection that is dialled: the one that others have where there is
        one, so that what goes to both is written once."""
        known = self._serializers.get(subprotocol(kind))
        return known if type(known) is kind else kind(self._limits)

    def decide(
        self, request: UpgradeRequest, address: str, certificate: dict[str, Any] | None
    ) -> Acceptance | Refusal:
        """Whether and as what the peer at *address* may connect."""
        if self.closing:
            return _CLOSING
        if not self._host_allowed(request.host):
            return _FOREIGN_HOST
        if not origin_allowed(request.origin, request.host, self._allowed_origins, secure=self._secure):
            return Refusal(403, "origin not allowed")
        accepted = self._mesh(request) if request.path == self._mount else self._plain_route(request)
        if isinstance(accepted, Refusal):
            return accepted
        refusal = self._let_in(accepted, request, address, certificate)
        if refusal is not None:
            return refusal
        if self._compression:
            deflate = negotiate_deflate(request.extensions, limits=self._limits)
            if deflate is not None:
                accepted.extensions.append(deflate)
        return accepted

    def decide_private(self, request: UpgradeRequest, identity: Identity) -> Acceptance | Refusal:
        """As `decide`, where nobody but *identity* can come: neither names nor logins are looked at."""
        if self.closing:
            return _CLOSING
        if request.path != self._mount:
            return Refusal(404, "only the mesh is here")
        accepted = self._mesh(request)
        if isinstance(accepted, Acceptance):
            accepted.identity = identity
        return accepted

    @property
    def any_host(self) -> bool:
        """Whether the program allows every Host in so many words."""
        return self._allowed_hosts is not None and "*" in self._allowed_hosts

    def page(self, answer: Callable[[HttpRequest], HttpAnswer]) -> Callable[[HttpRequest], HttpAnswer]:
        """*answer*, for those who ask for an allowed host; others get 403."""

        def checked(request: HttpRequest) -> HttpAnswer:
            if self._host_allowed(request.headers["host"]):
                return answer(request)
            return text_answer(_FOREIGN_HOST.status, _FOREIGN_HOST.reason)

        return checked

    def _host_allowed(self, host: str) -> bool:
        if self._allowed_hosts is None and self.local_names is not None:
            return is_loopback_host(host) or host_allowed(host, self.local_names)
        return host_allowed(host, self._allowed_hosts)

    def _let_in(
        self, accepted: Acceptance, request: UpgradeRequest, address: str, certificate: dict[str, Any] | None
    ) -> Refusal | None:
        """Find out who the peer is, as far as it says so now, and whether it may have that route."""
        match = None if isinstance(accepted.tag, AbstractMessageSerializer) else cast(Match, accepted.tag)
        doubts = 0
        if self._login is not None:
            known = self._login.at_upgrade(request, address, certificate, at_once=match is not None)
            doubts = self._login.doubts
            if isinstance(known, Refusal):
                return known
            accepted.identity = known
            accepted.request = self._login.without_token(request)
        if match is not None:
            try:
                self._plain.check(match, request, accepted.identity, address, certificate)
            except RemoteError as error:
                return refusal_for(error, shown=False)
            if self._login is not None and doubts != self._login.doubts:  # while the policy was asked
                return _DOUBTED
        return None

    def _mesh(self, request: UpgradeRequest) -> Acceptance | Refusal:
        if not request.subprotocols:
            return Acceptance(None, tag=self._default)
        agreed = choose_subprotocol(request.subprotocols, tuple(self._serializers))
        if agreed is None:
            return Refusal(400, f"subprotocol not known; known are {', '.join(self._serializers)}")
        return Acceptance(agreed, tag=self._serializers[agreed])

    def _plain_route(self, request: UpgradeRequest) -> Acceptance | Refusal:
        match = self._plain.router.match(request.path)
        if match is None:
            return Refusal(404, "no WebSocket here")
        if self._plain.full(match):
            return _BUSY
        known = cast(tuple[str, ...], match[0].options["subprotocols"])
        return Acceptance(choose_subprotocol(request.subprotocols, known), tag=match)
