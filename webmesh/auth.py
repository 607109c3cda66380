"""Who a peer is: what it shows, who that makes it, and functions that decide so.

Decides what an `Identity` is made of and how the answers of several authenticators become one. When they are asked,
and what a refusal means for the connection, is `login`; those that need other packages are in `tokens`.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Any

from webmesh.exceptions import ConfigurationError

SHORTEST_SECRET = 16
"""Bytes that a secret must have at least: 128 random bits cannot be tried out."""

NO_CLAIMS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a peer has shown to be.

    Raises:
        ConfigurationError: There is no subject, or roles are one text, whose letters would each be taken for a role;
            or it ends at what is no time.
    """

    subject: str
    """Its name, unique among all peers of a server: a user, a service, a device."""
    roles: frozenset[str] = frozenset()
    """What it is; `requires=` of routes names them. Any iterable of texts may be given."""
    expires_at: float | None = None
    """Seconds of the wall clock (as `time.time`) from which on it counts no more; `None` for never."""
    claims: Mapping[str, Any] = field(default_factory=lambda: NO_CLAIMS, repr=False, hash=False)
    """What else the authenticator knows of it, as a token's claims. Not shown by `repr`."""

    def __post_init__(self) -> None:
        if not isinstance(self.subject, str) or not self.subject:
            raise ConfigurationError("an identity's subject must be a text that is not empty")
        if isinstance(self.roles, str | bytes):
            raise ConfigurationError(f"an identity's roles must be a list, not one text: write [{self.roles!r}]")
        roles = frozenset(self.roles)
        if not all(isinstance(role, str) for role in roles):
            raise ConfigurationError("an identity's roles must be texts")
        object.__setattr__(self, "roles", roles)
        ends = self.expires_at
        if ends is not None and (isinstance(ends, bool) or not isinstance(ends, int | float) or not isfinite(ends)):
            raise ConfigurationError("an identity's expires_at must be a finite number of seconds, or None")

    def expires_in(self) -> float | None:
        """Seconds until it expires, at or below 0 once it has; `None` for never.

        Asks the wall clock, which is the one that tokens are made by.
        """
        return None if self.expires_at is None else self.expires_at - time.time()

    @property
    def expired(self) -> bool:
        """Whether it counts no more."""
        return self.expires_at is not None and self.expires_at <= time.time()


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a peer shows. A `repr` tells where it comes from, and none of what is secret."""

    token: str | None = field(repr=False)
    """From the Authorization header (Bearer), from `$hello`, or from the URL where that is allowed."""
    certificate: Mapping[str, Any] | None = field(repr=False)
    """The client's verified certificate as `ssl.SSLSocket.getpeercert` tells it; `None` without one."""
    address: str
    """As `WebSocketConnection.address`."""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_CLAIMS, repr=False)
    """Of the upgrade request, by lower-case name."""
    path: str = "/"
    """Of the upgrade request."""

    @property
    def guessable(self) -> bool:
        """Whether somebody may have been guessing: a certificate cannot be guessed."""
        return self.token is not None or "authorization" in self.headers or "cookie" in self.headers


Authenticator = Callable[[Credentials], Identity | str | None]
"""Called with what a peer shows; returns who it is (a text is a subject without roles), or `None` for what it does
not know. Raises `Unauthenticated` or `PermissionDenied` to refuse at once. Whatever else it raises refuses too."""


def first_that_knows(authenticators: Sequence[Authenticator], credentials: Credentials) -> Identity | None:
    """The first answer that is not `None`.

    Raises:
        TypeError: An authenticator returned something else, as True, which says nothing about who it is.
    """
    for authenticator in authenticators:
        known = authenticator(credentials)
        if known is not None:
            return identity_of(known)
    return None


def identity_of(known: Identity | str) -> Identity:
    """What an authenticator returned, as an identity.

    Raises:
        TypeError: It is neither an identity nor a text.
    """
    if isinstance(known, Identity):
        return known
    if isinstance(known, str):
        return Identity(known)
    raise TypeError(f"an authenticator returns an Identity, a subject or None, not {type(known).__name__}")


def checked_authenticators(given: Authenticator | Sequence[Authenticator] | None) -> tuple[Authenticator, ...]:
    """What was given as `authenticate=`, as a tuple; empty for `None`.

    Raises:
        ConfigurationError: One is no function, or there is none in the list: nobody could log in.
    """
    if given is None:
        return ()
    several = (given,) if callable(given) or not isinstance(given, Iterable) else tuple(given)
    for one in several:
        if not callable(one):
            raise ConfigurationError(f"authenticate takes functions of the credentials, not {one!r}")
    if not several:
        raise ConfigurationError("authenticate=[] lets nobody in: name an authenticator, or leave it out")
    return several


def certificate_names(certificate: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that a verified certificate is for, each with its kind: `DNS:cart.example`, `URI:spiffe://…`,
    `email:ann@example`, `IP Address:10.0.0.2`, and `CN:cart` from the subject."""
    names = [f"{kind}:{name}" for kind, name in certificate.get("subjectAltName", ())]
    names += [
        f"CN:{value}"
        for relative in certificate.get("subject", ())
        for kind, value in relative
        if kind == "commonName"
    ]
    return tuple(names)


class CertificateAuthenticator:
    """Knows peers by their client certificates; the server must ask for them (`ServerTLS(client_ca=…)`).

    An identity lasts as long as the certificate, unless it says when it expires.

    Args:
        known: Name as `certificate_names` writes it → identity, or the subject of one without roles; or a function
            that is given all names of a certificate and returns an identity, a subject or `None`.

    Raises:
        ConfigurationError: A name has no kind, and so would never be found.
    """

    def __init__(
        self, known: Mapping[str, Identity | str] | Callable[[tuple[str, ...]], Identity | str | None]
    ) -> None:
        if callable(known):
            self._look_up = known
        else:
            for name in known:
                if ":" not in name:
                    raise ConfigurationError(f"{name!r} does not say which kind of name it is: write DNS:{name}")
            table = {name: identity_of(who) for name, who in known.items()}
            self._look_up = lambda names: next((table[name] for name in names if name in table), None)

    def __call__(self, credentials: Credentials) -> Identity | None:
        """The identity for the peer's certificate; `None` without one, or when its names are not known."""
        certificate = credentials.certificate
        if not certificate:
            return None
        known = self._look_up(certificate_names(certificate))
        if known is None:
            return None
        identity = identity_of(known)
        if identity.expires_at is None and "notAfter" in certificate:
            ends = float(ssl.cert_time_to_seconds(certificate["notAfter"]))
            return Identity(identity.subject, identity.roles, ends, identity.claims)
        return identity


class SharedSecretAuthenticator:
    """Knows peers by a secret of each; the token is `subject:secret`.

    For services and devices. The comparison takes the same time wherever two texts differ and whether the subject is
    known. For people's passwords use a callable of your own with a slow hash.

    Args:
        secrets: Subject → its secret, random, at least `SHORTEST_SECRET` bytes; or several, while one takes another's
            place.
        roles: Subject → its roles; none for those that are not in it.

    Raises:
        ConfigurationError: A secret is too short, or a subject has a colon.
    """

    def __init__(
        self, secrets: Mapping[str, str | Sequence[str]], roles: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        self._digests: dict[str, tuple[bytes, ...]] = {}
        for subject, given in secrets.items():
            several = (given,) if isinstance(given, str) else tuple(given)
            if ":" in subject:
                raise ConfigurationError(f"the subject {subject!r} has a colon, which ends subjects in a token")
            if not several or min(len(secret.encode()) for secret in several) < SHORTEST_SECRET:
                raise ConfigurationError(
                    f"the secret of {subject!r} is shorter than {SHORTEST_SECRET} bytes: take secrets.token_urlsafe()"
                )
            self._digests[subject] = tuple(map(_digest, several))
        self._identities = {name: Identity(name, frozenset((roles or {}).get(name, ()))) for name in secrets}
        self._most = max((len(digests) for digests in self._digests.values()), default=1)

    def __call__(self, credentials: Credentials) -> Identity | None:
        """The identity of the one whose secret it is; `None` for everything else."""
        subject, colon, secret = (credentials.token or "").partition(":")
        if not colon:
            return None
        shown = _digest(secret)
        # As many comparisons for everyone, of digests of one length: time tells neither who is known nor how much of
        # a secret is right.
        digests = self._digests.get(subject, ())
        padded = (*digests, *(_NOBODY for _ in range(self._most - len(digests))))
        matches = [hmac.compare_digest(shown, digest) for digest in padded]
        return self._identities.get(subject) if any(matches) else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


_NOBODY = bytes(32)
"""No secret has this digest, as far as anybody knows."""
