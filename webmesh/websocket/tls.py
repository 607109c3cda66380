"""TLS on both sides: which protocols and certificates are good enough, and sockets that speak it.

The floor is TLS 1.2 and nothing lowers it. The sockets are gevent's in every process: the contexts of
an unpatched `ssl` make sockets that block the hub, so contexts are only asked for their settings here.
Deadlines around a handshake belong to `arrival` and `dialer`.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable
from typing import Any

import gevent.socket
from gevent.ssl import SSLContext, SSLSocket

from webmesh.exceptions import ConfigurationError

Password = str | bytes | Callable[[], str | bytes]
"""What unlocks a private key: the text, or a function that fetches it when it is needed."""

# gevent's class derives from the standard library's, whichever of them the name `ssl.SSLContext` means now.
_AnyContext: type[ssl.SSLContext] = SSLContext.__mro__[1]

_OFFENCES = frozenset({"CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER"})


class ServerTLS:
    """What a server shows and asks for in TLS.

    Args:
        certfile: PEM file with the certificate and those between it and the root.
        keyfile: PEM file with the private key; `None` looks for it in *certfile*.
        client_ca: PEM file of the authorities that clients' certificates must come from. Where it is
            given, a client without such a certificate is turned away; `None` asks for none.
        password: Unlocks the private key.

    Raises:
        ConfigurationError: A file is missing, unreadable or no PEM, or key and certificate do not match.
    """

    def __init__(
        self,
        certfile: str,
        keyfile: str | None = None,
        client_ca: str | None = None,
        password: Password | None = None,
    ) -> None:
        self._build: Callable[[], ssl.SSLContext] | None = lambda: _server_context(
            certfile, keyfile, client_ca, password
        )
        self._context = self._build()

    @classmethod
    def coerce(cls, tls: ssl.SSLContext | ServerTLS) -> ServerTLS:
        """*tls* itself, or one that uses a ready context as it is, from whichever class in whichever process.

        Raises:
            ConfigurationError: It is no context, not for servers, allows less than TLS 1.2, or has a
                callback (for SNI) that could not work with gevent's sockets.
        """
        if isinstance(tls, ServerTLS):
            return tls
        _check_ready_context(tls)
        ready = cls.__new__(cls)
        ready._build = None
        ready._context = tls
        return ready

    @property
    def context(self) -> ssl.SSLContext:
        """The context that the next connection is made with."""
        return self._context

    def reload(self) -> None:
        """Read the files again: connections made from now on use them, those that are open live on.

        Raises:
            ConfigurationError: As when it was made; the old certificate stays in use. A ready context
                cannot be reloaded: call its own `load_cert_chain`, which has the same effect.
        """
        if self._build is None:
            raise ConfigurationError(
                "this TLS was made from a ready ssl.SSLContext, not from files:"
                " call load_cert_chain on that context, new connections then use the new certificate"
            )
        self._context = self._build()  # one assignment: no connection ever sees half of a change

    def wrap(self, sock: gevent.socket.socket) -> SSLSocket:
        """The server's end of TLS over *sock*, which it takes over; the handshake is still to be done.

        Raises:
            OSError: The peer has gone.
        """
        return _wrap(sock, self._context, server_side=True)


def client_context(
    ca_file: str | None = None,
    certfile: str | None = None,
    keyfile: str | None = None,
    *,
    password: Password | None = None,
    insecure_skip_verify: bool = False,
) -> ssl.SSLContext:
    """A client's context: verifies the server's certificate and its name, TLS 1.2 or later.

    Args:
        ca_file: PEM file of the authorities to trust; `None` trusts those of the system.
        certfile: PEM file with the certificate to show to servers that ask for one.
        keyfile: Its private key; `None` looks for it in *certfile*.
        password: Unlocks the private key.
        insecure_skip_verify: Talks to anybody who answers, an eavesdropper included. For tests.

    Raises:
        ConfigurationError: A file cannot be used; the text says which and why.
    """
    context = _fresh_context(ssl.PROTOCOL_TLS_CLIENT)  # verifies the certificate and the name
    if sys.version_info >= (3, 13):  # as in the standard library's default context from there on
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is not None:
        _load_authorities(context, ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if certfile is not None:
        _load_certificate(context, certfile, keyfile, password)
    return context


def check_client_context(context: ssl.SSLContext) -> ssl.SSLContext:
    """*context* itself, if a client can use it.

    Raises:
        ConfigurationError: It is no context, is one for servers, or allows less than TLS 1.2.
    """
    _check_floor(context)
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ConfigurationError("tls is a context for servers: make one with webmesh.client_context()")
    return context


def wrap_client(sock: gevent.socket.socket, context: ssl.SSLContext, server_hostname: str | None) -> SSLSocket:
    """The client's end of TLS over *sock*, which it takes over; the handshake is still to be done.

    Args:
        context: Any `ssl.SSLContext`, also an unpatched one.
        server_hostname: The name or address that the server's certificate must be for.

    Raises:
        OSError: The peer has gone.
    """
    return _wrap(sock, context, server_side=False, server_hostname=server_hostname)


def verified_certificate(sock: gevent.socket.socket) -> dict[str, Any] | None:
    """The peer's certificate where it showed one and it was verified; `None` otherwise and without TLS."""
    if not isinstance(sock, SSLSocket):
        return None
    # An unverified certificate is told as an empty map: whoever may have made it up.
    return sock.getpeercert() or None


def tls_failure(error: OSError) -> str:
    """Why a TLS handshake failed, in one line for logs and exceptions."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else error.strerror or str(error) or type(error).__name__


def is_tls_offence(error: OSError) -> bool:
    """Whether a TLS handshake failed as it does with those who do not mean well: no TLS at all, or a stranger's
    certificate. HTTP, or no certificate where one is asked for, is what any web page can make browsers send."""
    return getattr(error, "reason", None) in _OFFENCES


def _wrap(
    sock: gevent.socket.socket, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
) -> SSLSocket:
    # A peer that is gone already must fail here, where the caller still has the socket to close: gevent
    # finds it out when it has taken the socket over, and may then leave it open.
    sock.getpeername()
    # `context.wrap_socket` makes the socket class of the context: outside a patched process, for a
    # context of the standard library, one that blocks the whole hub. gevent's own class takes any
    # context here, as its own `SSLContext.wrap_socket` calls it.
    return SSLSocket(
        sock=sock,
        server_side=server_side,
        server_hostname=server_hostname,
        do_handshake_on_connect=False,
        _context=context,
    )


def _server_context(
    certfile: str, keyfile: str | None, client_ca: str | None, password: Password | None
) -> ssl.SSLContext:
    context = _fresh_context(ssl.PROTOCOL_TLS_SERVER)
    _load_certificate(context, certfile, keyfile, password)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, client_ca)
    return context


def _fresh_context(protocol: int) -> ssl.SSLContext:
    # gevent's class and not `ssl.SSLContext`: the setters of the latter recurse without end when the
    # process was patched after some other module had made a name of its own for the class.
    context = SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    # A peer that means another protocol is told so by TLS: no WebSocket can be smuggled into it (ALPACA).
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load_certificate(
    context: ssl.SSLContext, certfile: str, keyfile: str | None, password: Password | None
) -> None:
    def no_password() -> str:
        # Without any password OpenSSL would ask on the terminal and stop the process until someone types.
        raise ConfigurationError(f"the private key {keyfile or certfile} is locked: give its password")

    try:
        context.load_cert_chain(certfile, keyfile, no_password if password is None else password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"cannot use the certificate {certfile} with the key {keyfile or certfile}: {tls_file_failure(error)}"
        ) from error


def _load_authorities(context: ssl.SSLContext, ca_file: str) -> None:
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        raise ConfigurationError(f"cannot use the authorities in {ca_file}: {tls_file_failure(error)}") from error


def tls_file_failure(error: OSError | ValueError) -> str:
    """Why a certificate's file could not be used, in words where OpenSSL has only its own."""
    if isinstance(error, ssl.SSLError):
        known = {"KEY_VALUES_MISMATCH": "they do not belong together", "NO_START_LINE": "it holds no PEM"}
        return known.get(error.reason or "", str(error))
    return getattr(error, "strerror", None) or str(error)


def _check_ready_context(context: ssl.SSLContext) -> None:
    _check_floor(context)
    if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ConfigurationError("tls is a context for clients: make one with ssl.PROTOCOL_TLS_SERVER")
    if not isinstance(context, SSLContext) and context.sni_callback is not None:
        raise ConfigurationError(
            "tls has a callback for SNI: make it a gevent.ssl.SSLContext, so that the callback gets gevent's socket"
        )


def _check_floor(context: ssl.SSLContext) -> None:
    if not isinstance(context, _AnyContext):
        raise ConfigurationError(f"tls must be an ssl.SSLContext (for a server: or a ServerTLS), not {context!r}")
    if context.minimum_version < ssl.TLSVersion.TLSv1_2:  # MINIMUM_SUPPORTED is a negative number
        raise ConfigurationError(
            f"tls allows {context.minimum_version.name}: set its minimum_version to ssl.TLSVersion.TLSv1_2"
        )
