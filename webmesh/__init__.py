"""Remote calls and streams between synchronous Python services, over WebSockets and gevent.

The public names. Those that need more than the standard library are imported when they are first used, so
`import webmesh` opens nothing, patches nothing and loads neither gevent nor ssl: a program that wants to be
monkey-patched, `python -m webmesh.serve` among them, can still patch after it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from webmesh.exceptions import (
    Aborted,
    AlreadyExists,
    BadPattern,
    Cancelled,
    ConfigurationError,
    ConnectFailed,
    ConnectionClosed,
    DataLoss,
    DeadlineExceeded,
    DecodeError,
    DiscoveryError,
    DuplicateRoute,
    EncodeError,
    FailedPrecondition,
    HandlerFailed,
    HandshakeRejected,
    InvalidArgument,
    LinkRefused,
    ListenFailed,
    LocalProtocolError,
    MessageTooBig,
    NotFound,
    OutOfRange,
    Overloaded,
    PermissionDenied,
    ProtocolError,
    PublishDoubtful,
    RemoteError,
    RemoteProtocolError,
    ReplyLost,
    RequestError,
    RequestTimeout,
    RouteNotFound,
    RoutingError,
    SerializationError,
    ServiceNotFound,
    TransportError,
    Unauthenticated,
    Unavailable,
    WebMeshError,
)
from webmesh.observer import Observer
from webmesh.options import Backoff, GossipSettings, Limits, RetryBudget, Timeouts
from webmesh.version import VERSION

if TYPE_CHECKING:  # for type checkers; at run time `__getattr__` finds the same names
    from webmesh.auth import CertificateAuthenticator, Credentials, Identity, SharedSecretAuthenticator
    from webmesh.authorisation import Policy
    from webmesh.call import Call, current_call
    from webmesh.call_policy import CallPolicy
    from webmesh.discovery.base import Discovery, Found
    from webmesh.discovery.opening import open_discovery
    from webmesh.fault_injection import FaultInjector
    from webmesh.gathering import Answer, Gathering
    from webmesh.instances import Instance
    from webmesh.link_states import LinkEvent
    from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, StandardJsonSerializer
    from webmesh.messages import HistoryPage, Message, Position, Published
    from webmesh.observability.metrics import Metrics
    from webmesh.routing import Router
    from webmesh.server_session import ServerSession
    from webmesh.subscription import Subscription
    from webmesh.mesh import WebMesh
    from webmesh.mesh_directory import NodeView
    from webmesh.webmesh_client import WebMeshClient
    from webmesh.webmesh_server import WebMeshServer
    from webmesh.websocket.tls import ServerTLS, client_context
    from webmesh.websocket.connection_stats import ConnectionStats
    from webmesh.websocket.websocket_connection import WebSocketConnection
    from webmesh.protocol.deliveries import Redelivery
    from webmesh.protocol.node_record import NodeRecord
    from webmesh.topic_access import TopicRequest
    from webmesh.brokers.base import Broker

__version__ = VERSION

_HOMES = {
    "CertificateAuthenticator": "webmesh.auth",
    "Credentials": "webmesh.auth",
    "Identity": "webmesh.auth",
    "SharedSecretAuthenticator": "webmesh.auth",
    "Policy": "webmesh.authorisation",
    "Broker": "webmesh.brokers.base",
    "Call": "webmesh.call",
    "current_call": "webmesh.call",
    "CallPolicy": "webmesh.call_policy",
    "Answer": "webmesh.gathering",
    "Gathering": "webmesh.gathering",
    "Instance": "webmesh.instances",
    "Discovery": "webmesh.discovery.base",
    "Found": "webmesh.discovery.base",
    "open_discovery": "webmesh.discovery.opening",
    "FaultInjector": "webmesh.fault_injection",
    "LinkEvent": "webmesh.link_states",
    "AbstractMessageSerializer": "webmesh.message_serializers",
    "MessagePackSerializer": "webmesh.message_serializers",
    "StandardJsonSerializer": "webmesh.message_serializers",
    "HistoryPage": "webmesh.messages",
    "Message": "webmesh.messages",
    "Position": "webmesh.messages",
    "Published": "webmesh.messages",
    "Metrics": "webmesh.observability.metrics",
    "Redelivery": "webmesh.protocol.deliveries",
    "NodeRecord": "webmesh.protocol.node_record",
    "Router": "webmesh.routing",
    "ServerSession": "webmesh.server_session",
    "Subscription": "webmesh.subscription",
    "TopicRequest": "webmesh.topic_access",
    "NodeView": "webmesh.mesh_directory",
    "WebMesh": "webmesh.mesh",
    "WebMeshClient": "webmesh.webmesh_client",
    "WebMeshServer": "webmesh.webmesh_server",
    "ConnectionStats": "webmesh.websocket.connection_stats",
    "ServerTLS": "webmesh.websocket.tls",
    "client_context": "webmesh.websocket.tls",
    "WebSocketConnection": "webmesh.websocket.websocket_connection",
}
"""Public name → the module that it is imported from at its first use."""

__all__ = [
    "Aborted",
    "AbstractMessageSerializer",
    "AlreadyExists",
    "Answer",
    "Backoff",
    "BadPattern",
    "Broker",
    "Call",
    "CallPolicy",
    "Cancelled",
    "CertificateAuthenticator",
    "ConfigurationError",
    "ConnectFailed",
    "ConnectionClosed",
    "ConnectionStats",
    "Credentials",
    "DataLoss",
    "DeadlineExceeded",
    "DecodeError",
    "Discovery",
    "DiscoveryError",
    "DuplicateRoute",
    "EncodeError",
    "FailedPrecondition",
    "FaultInjector",
    "Found",
    "Gathering",
    "GossipSettings",
    "HandlerFailed",
    "HandshakeRejected",
    "HistoryPage",
    "Identity",
    "Instance",
    "InvalidArgument",
    "Limits",
    "LinkEvent",
    "LinkRefused",
    "ListenFailed",
    "LocalProtocolError",
    "Message",
    "MessagePackSerializer",
    "MessageTooBig",
    "Metrics",
    "NodeRecord",
    "NodeView",
    "NotFound",
    "Observer",
    "OutOfRange",
    "Overloaded",
    "PermissionDenied",
    "Policy",
    "Position",
    "ProtocolError",
    "PublishDoubtful",
    "Published",
    "Redelivery",
    "RemoteError",
    "RemoteProtocolError",
    "ReplyLost",
    "RequestError",
    "RequestTimeout",
    "RetryBudget",
    "RouteNotFound",
    "Router",
    "RoutingError",
    "SerializationError",
    "ServerSession",
    "ServerTLS",
    "ServiceNotFound",
    "SharedSecretAuthenticator",
    "StandardJsonSerializer",
    "Subscription",
    "Timeouts",
    "TopicRequest",
    "TransportError",
    "Unauthenticated",
    "Unavailable",
    "WebMesh",
    "WebMeshClient",
    "WebMeshError",
    "WebMeshServer",
    "WebSocketConnection",
    "client_context",
    "current_call",
    "open_discovery",
]


if not TYPE_CHECKING:  # a checker that saw it would take every misspelt name for a public one

    def __getattr__(name: str) -> object:
        """Import a public name at its first use (PEP 562), and keep it."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
