"""JSON Web Tokens as logins, verified by PyJWT (`pip install "webmesh-gevent[jwt]"`).

Decides which tokens count: one family of keys, a named audience and issuer, an end. PyJWT does the cryptography and
the claims' times; what becomes of a refusal is `login`'s business.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

try:
    import jwt
except ImportError as error:
    raise ImportError('JwtAuthenticator needs PyJWT: pip install "webmesh-gevent[jwt]"') from error

from webmesh.auth import Credentials, Identity
from webmesh.exceptions import ConfigurationError, Unauthenticated

TOKEN_SIZE = 8 * 1024
"""Characters of a token that is looked at; a header line holds no more."""

HMAC_SECRET = 32
"""Bytes of a secret at least: as many as SHA-256 gives (RFC 7518 section 3.2). Shorter ones can be guessed from one
token."""

_FAMILIES = {"HS": "a shared secret", "RS": "RSA", "PS": "RSA", "ES": "elliptic curves", "Ed": "Ed25519 or Ed448"}
"""First letters of an algorithm → what its keys are."""

_UNTRUSTED = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
"""What a token that nobody has signed for us has been seen to raise, or may: it is not known, which is no crash."""


class JwtAuthenticator:
    """Knows peers by a JSON Web Token (RFC 7519) that was signed for this server.

    A token must say whose it is, and when it ends. Which kind of key verifies it is fixed here, and nothing that a
    token says changes that: `alg` only chooses among *algorithms*, and `kid` among *key*.

    Args:
        key: The secret, or a public key (PEM); or several by their `kid`, so that keys can be changed: a token then
            has to name one.
        algorithms: Those that are accepted, all for one kind of key: `HS256`, or `RS256`, `PS256`, `ES256`, `EdDSA` …
        audience: What `aud` has to be, or any of several; `None` takes only tokens without one.
        issuer: What `iss` has to be, or any of several; `None` takes any.
        leeway: Seconds that clocks may differ by.
        roles_claim: The claim with the roles: a list of texts, or a text with spaces between them, as `scope`.
        subject_claim: The claim that becomes the subject.

    Raises:
        ConfigurationError: An algorithm is none, is `none`, or is for another kind of key than the others; or a key
            cannot be used with them.
    """

    def __init__(
        self,
        key: str | bytes | Mapping[str, str | bytes],
        algorithms: Sequence[str] = ("HS256",),
        *,
        audience: str | Collection[str] | None = None,
        issuer: str | Collection[str] | None = None,
        leeway: float = 0.0,
        roles_claim: str = "roles",
        subject_claim: str = "sub",
    ) -> None:
        self._algorithms = _checked_algorithms(algorithms)
        keys = dict(key) if isinstance(key, Mapping) else {None: key}
        if not keys:
            raise ConfigurationError("there is no key: no token could be verified")
        self._keys: dict[str | None, Any] = {kid: _prepared(one, self._algorithms) for kid, one in keys.items()}
        self._audience = audience if audience is None or isinstance(audience, str) else list(audience)
        self._issuer = issuer if issuer is None or isinstance(issuer, str) else list(issuer)
        self._leeway = leeway
        self._roles_claim = roles_claim
        self._subject_claim = subject_claim

    def __call__(self, credentials: Credentials) -> Identity | None:
        """The identity that a peer's token is for; `None` for none, and for one that is not for us.

        Raises:
            Unauthenticated: It is for us, and its time is over or has not begun.
        """
        token = credentials.token
        if token is None or len(token) > TOKEN_SIZE or token.count(".") != 2:
            return None
        try:
            return self._identity(self._claims(token))
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired") from None
        except jwt.ImmatureSignatureError:
            raise Unauthenticated("the token is not valid yet") from None
        except _UNTRUSTED:
            return None

    def _claims(self, token: str) -> dict[str, Any]:
        kid = None
        if None not in self._keys:
            kid = jwt.get_unverified_header(token).get("kid")
        required = ["exp", self._subject_claim]
        claims = jwt.decode(
            token, self._keys[kid] if isinstance(kid, str | None) and kid in self._keys else _unknown_key(),
            algorithms=list(self._algorithms), audience=self._audience, issuer=self._issuer, leeway=self._leeway,
            options={"require": required, "strict_aud": False, "verify_sub": self._subject_claim == "sub"},
        )  # fmt: skip
        return claims

    def _identity(self, claims: dict[str, Any]) -> Identity:
        """Of verified claims.

        Raises:
            ValueError: They name nobody, or no roles where roles should be.
        """
        roles = claims.get(self._roles_claim, ())
        if isinstance(roles, str):
            roles = roles.split()
        if not isinstance(roles, list | tuple):
            raise ValueError("the claim with the roles is no list")
        return Identity(claims[self._subject_claim], frozenset(roles), float(claims["exp"]) + self._leeway, claims)


def _unknown_key() -> Any:
    raise jwt.InvalidKeyError("no such key")


def _checked_algorithms(algorithms: Sequence[str]) -> tuple[str, ...]:
    if isinstance(algorithms, str):
        raise ConfigurationError(f"algorithms must be a list: write [{algorithms!r}]")
    kept = tuple(algorithms)
    kinds = {_FAMILIES.get(name[:2]) if isinstance(name, str) else None for name in kept}
    known = set(jwt.algorithms.get_default_algorithms()) - {"none"}
    for name in kept:
        if name not in known:
            raise ConfigurationError(f"{name!r} is no algorithm that signs here: known are {', '.join(sorted(known))}")
    if len(kinds) != 1:
        raise ConfigurationError(
            f"algorithms must be for one kind of key, not {', '.join(map(repr, kept)) or 'none'}: a token could choose "
            "which way its key is read"
        )
    return kept


def _prepared(key: str | bytes, algorithms: tuple[str, ...]) -> Any:
    if not isinstance(key, str | bytes):
        raise ConfigurationError(f"a key is a text or bytes, not {type(key).__name__}")
    if algorithms[0].startswith("HS") and len(key.encode() if isinstance(key, str) else key) < HMAC_SECRET:
        raise ConfigurationError(f"the secret is shorter than {HMAC_SECRET} bytes: take secrets.token_bytes(32)")
    prepared: Any = None
    for name in algorithms:
        try:
            prepared = jwt.get_algorithm_by_name(name).prepare_key(key)
        except (*_UNTRUSTED, NotImplementedError) as error:
            # Without the error's own text: it might show the key.
            raise ConfigurationError(f"the key cannot be used with {name}: {type(error).__name__}") from None
    return prepared
