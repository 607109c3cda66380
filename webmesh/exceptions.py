"""Every exception of WebMesh, and the wire code of those that cross the wire.

This file alone decides which class stands for which wire code. Other files raise and catch; none
invents a code. Wire form of an error: docs/PROTOCOL.md, sections 2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class WebMeshError(Exception):
    """Base of everything that WebMesh raises on purpose."""


class ConfigurationError(WebMeshError, ValueError):
    """An option, a registration or a call to the library does not make sense; the text says which."""


class ProtocolError(WebMeshError):
    """The WebSocket protocol or the WebMesh protocol was broken."""


class LocalProtocolError(ProtocolError):
    """This side asked for something that the protocol does not allow, as sending after close."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol.

    Attributes:
        close_code: WebSocket close code that tells the peer (RFC 6455 section 7.4, PROTOCOL.md 5).
    """

    def __init__(self, message: str, *, close_code: int = 1002) -> None:
        super().__init__(message)
        self.close_code = close_code


class MessageTooBig(RemoteProtocolError):
    """A message is, or declares itself to be, over a limit.

    Attributes:
        size: Bytes (or fragments) that were declared or had arrived, as far as known.
        limit: The most that is allowed, in the same unit.
    """

    def __init__(self, size: int, limit: int, *, unit: str = "bytes") -> None:
        super().__init__(f"message of {size} {unit} is over the limit of {limit}", close_code=1009)
        self.size = size
        self.limit = limit


class SerializationError(WebMeshError):
    """An object could not be turned into a message, or back."""


class EncodeError(SerializationError):
    """The object cannot be sent with this serializer: the text names the value and the reason."""


class DecodeError(SerializationError):
    """The bytes or text of a message are not what the serializer accepts."""


class RoutingError(WebMeshError):
    """A route cannot be registered."""


class DuplicateRoute(RoutingError, ValueError):
    """Two routes match the same paths.

    Attributes:
        new: Description of the route that was refused, with the place of its handler.
        old: Description of the route that was there before.
    """

    def __init__(self, new: str, old: str) -> None:
        super().__init__(f"{new} matches the same paths as {old}: remove one or change a segment")
        self.new = new
        self.old = old


SHOWN = 100
"""Characters of a pattern that an error repeats: those around the place at which it goes wrong."""

WHY = 300
"""Characters of why it is wrong, which may repeat a segment."""


class BadPattern(RoutingError, ValueError):
    """A path or topic pattern is malformed.

    Attributes:
        pattern: The whole pattern.
        position: Index of the character at which it goes wrong, from 0.
    """

    def __init__(self, pattern: str, position: int, why: str) -> None:
        shown = repr(pattern if len(pattern) <= SHOWN else pattern[max(0, position - SHOWN // 2) :][:SHOWN])
        if len(pattern) > SHOWN:  # peers choose topics: neither logs nor answers repeat all of a long one
            shown = f"of {len(pattern)} characters with {shown}"
        super().__init__(f"bad pattern {shown} at character {position}: {why[:WHY]}")
        self.pattern = pattern
        self.position = position


class TransportError(WebMeshError):
    """The network, or the peer's end of it, failed."""


class ConnectFailed(TransportError, ConnectionError):
    """No connection could be made.

    Attributes:
        address: What was dialled.
        attempts: One text per address tried, in order: the address and why it failed.
        refused: Whether the system of each one has answered that nobody listens there.
    """

    def __init__(self, address: str, attempts: list[str], *, refused: bool = False) -> None:
        super().__init__(f"cannot connect to {address}: {'; '.join(attempts) or 'no address found'}")
        self.address = address
        self.attempts = attempts
        self.refused = refused


class ListenFailed(TransportError, OSError):
    """The address cannot be listened on.

    Attributes:
        address: What was asked for.
        errno: The system's number for the reason, where it gave one.
    """

    def __init__(self, address: str, reason: str, number: int | None = None) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address
        self.errno = number


class HandshakeRejected(TransportError):
    """The other side answered the WebSocket upgrade with something else than 101.

    Attributes:
        status: HTTP status of the answer, or 0 when the answer was no valid HTTP.
        retry_after: Seconds to wait before the next try, where the server said so.
    """

    def __init__(self, status: int, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"upgrade rejected with status {status}: {reason}" if status else f"upgrade failed: {reason}")
        self.status = status
        self.retry_after = retry_after


class LinkRefused(TransportError, ConnectionError):
    """The server does not want this client, so it has stopped trying; `WebMeshClient.connect` tries anew.

    `__cause__` is what the server said: `HandshakeRejected`, `ConnectionClosed`, or the error that `$hello` got.

    Attributes:
        url: What was dialled, without its query.
        status: The HTTP status of a refused upgrade, as 401 or 403; 0 otherwise.
        code: The close code, from 4500 on; 0 otherwise.
        reason: What was refused, in our own words.
    """

    def __init__(self, url: str, reason: str, *, status: int = 0, code: int = 0) -> None:
        super().__init__(f"{url} has refused this client for good ({reason}): connect() tries anew")
        self.url = url
        self.reason = reason
        self.status = status
        self.code = code


class ConnectionClosed(TransportError, ConnectionError):
    """The connection ended.

    Attributes:
        code: Close code; 1006 when the link ended without a close handshake (RFC 6455 section 7.1.5).
        reason: The peer's or our own words for it.
    """

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(f"connection closed with code {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason


class RequestError(WebMeshError):
    """A request did not end with a reply.

    Attributes:
        path: Path of the request, where known.
        request_id: Its id on the wire, where it was sent.
    """

    path: str | None = None
    request_id: int | str | None = None


class RequestTimeout(RequestError, TimeoutError):
    """No reply in time. The handler may have run: retry only what is idempotent."""

    def __init__(self, path: str, timeout: float | None, *, request_id: int | str | None = None) -> None:
        super().__init__(f"no reply to {path!r}" + (f" within {timeout:g} s" if timeout is not None else " in time"))
        self.path = path
        self.timeout = timeout
        self.request_id = request_id


class ReplyLost(RequestError, ConnectionError):
    """The connection ended while a reply was awaited.

    Attributes:
        started: False when its handler surely never began, so that it may be sent again; True when it may have run.
        code: Close code of the connection.
    """

    def __init__(
        self, path: str, *, started: bool, code: int = 1006, reason: str = "", request_id: int | str | None = None
    ) -> None:
        state = "may have run" if started else "was not begun"
        super().__init__(f"connection closed ({code}{' ' + reason if reason else ''}); request {path!r} {state}")
        self.path = path
        self.started = started
        self.code = code
        self.request_id = request_id


class RemoteError(RequestError):
    """An error answer. Raised in a handler, it *is* the answer; on the asking side it is what came.

    Attributes:
        code: gRPC's canonical name in lower case; an unknown one arrives as plain `RemoteError`.
        message: Text for people.
        details: Any serializable object, or None.
        retryable: Whether the same request may succeed later.
        retry_after: Seconds to wait before that, where the answering side said so.
        exhausted: Whether a client of this process has had it for a call that it has sent, or might have sent, again.
            A handler that passes it on does so as not retryable: on each hop the attempts would multiply.
    """

    code: str = "unknown"
    exhausted: bool = False
    retryable_by_default: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        details: Any = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.message = message
        self.details = details
        self.retryable = self.retryable_by_default if retryable is None else retryable
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code

    def to_wire(self) -> dict[str, Any]:
        """The `error` map of docs/PROTOCOL.md section 2; defaults are left out."""
        wire: dict[str, Any] = {"code": self.code, "message": self.message}
        retryable = self.retryable and not self.exhausted
        if retryable != self.retryable_by_default:
            wire["retryable"] = retryable
        if self.retry_after is not None:
            wire["retry_after_ms"] = max(0, round(self.retry_after * 1000))
        if self.details is not None:
            wire["details"] = self.details
        return wire


class Cancelled(RemoteError):
    """The asking side no longer wants the answer; raised inside its handler at the next switch."""

    code = "cancelled"


class InvalidArgument(RemoteError):
    """The payload or an argument is not what the route takes."""

    code = "invalid_argument"


class DeadlineExceeded(RemoteError, TimeoutError):
    """The answering side ran out of the time that the request gave it.

    Both sides stop at about the same moment, so a caller sees this or `RequestTimeout`: catch `TimeoutError`.
    """

    code = "deadline_exceeded"


class NotFound(RemoteError):
    """The thing that the request names does not exist (the route does: see `RouteNotFound`)."""

    code = "not_found"


class AlreadyExists(RemoteError):
    """The thing to be made is there already."""

    code = "already_exists"


class PermissionDenied(RemoteError):
    """The caller is known and may not do this."""

    code = "permission_denied"


class Overloaded(RemoteError):
    """A bound is reached: pool and queue full, too many requests in flight, or a rate limit."""

    code = "resource_exhausted"
    retryable_by_default = True


class FailedPrecondition(RemoteError):
    """The system is not in the state that the request needs; retrying alone does not help."""

    code = "failed_precondition"


class Aborted(RemoteError):
    """A conflict with another request; the whole operation may be tried again."""

    code = "aborted"
    retryable_by_default = True


class OutOfRange(RemoteError):
    """Past the end of what there is."""

    code = "out_of_range"


class RouteNotFound(RemoteError):
    """No route of the answering side matches the path."""

    code = "unimplemented"


class HandlerFailed(RemoteError):
    """The handler raised. `details["incident"]` is an id that stands in the answering side's log."""

    code = "internal"


class Unavailable(RemoteError):
    """The answering side cannot serve now, as while it drains."""

    code = "unavailable"
    retryable_by_default = True


class DataLoss(RemoteError):
    """Data that was there is gone or damaged."""

    code = "data_loss"


class Unauthenticated(RemoteError):
    """The caller is not known."""

    code = "unauthenticated"


class BrokerError(WebMeshError):
    """The engine behind topics failed."""


class BrokerUnavailable(BrokerError):
    """The engine behind topics cannot be reached."""


class PublishDoubtful(BrokerUnavailable):
    """The engine was lost before it answered, or the node with its engine: the publication may have happened, or not.

    Publish again what must not be lost, with the same dedupe id so that it is not there twice.
    """


class DiscoveryError(WebMeshError):
    """Finding a service failed."""


class ServiceNotFound(DiscoveryError):
    """No instance of the service is known."""


class RegistryUnavailable(DiscoveryError):
    """The registry cannot be reached."""


NOT_STARTED: Mapping[str, Any] = {"started": False}
"""`details` of an error that no handler has seen the request of, so that any request may be sent again
(docs/PROTOCOL.md section 3)."""

REMOTE_ERRORS: Mapping[str, type[RemoteError]] = {
    cls.code: cls
    for cls in (
        Cancelled, InvalidArgument, DeadlineExceeded, NotFound, AlreadyExists, PermissionDenied, Overloaded,
        FailedPrecondition, Aborted, OutOfRange, RouteNotFound, HandlerFailed, Unavailable, DataLoss, Unauthenticated,
    )
}  # fmt: skip
"""Wire code → class. `unknown` and codes of later versions map to `RemoteError` itself."""


def error_from_wire(wire: Mapping[str, Any]) -> RemoteError:
    """The exception for a validated `error` map of docs/PROTOCOL.md section 2."""
    code = wire["code"]
    cls = REMOTE_ERRORS.get(code, RemoteError)
    retry_after_ms = wire.get("retry_after_ms")
    return cls(
        wire.get("message", ""),
        code=code,
        details=wire.get("details"),
        retryable=wire.get("retryable"),
        retry_after=None if retry_after_ms is None else retry_after_ms / 1000,
    )
