"""JSON Web Tokens: which count, and everything about one that can be wrong."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from webmesh.auth import Credentials, Identity
from webmesh.exceptions import ConfigurationError, Unauthenticated
from webmesh.tokens import JwtAuthenticator

SECRET = "0123456789abcdef0123456789abcdef"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def public(key: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(serialization.Encoding.PEM, form).decode())


def shown(token: str | None) -> Credentials:
    return Credentials(token, None, "192.0.2.1:1")


def made(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token that counts, but for what the test changes; `None` leaves a claim out."""
    whole = {"sub": "ann", "exp": time.time() + 60, "aud": "shop", "iss": "door", "roles": ["staff"]} | claims
    kept = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers=headers)


def written(header: dict[str, Any], claims: dict[str, Any] | bytes, secret: str = SECRET) -> str:
    """A token by hand, with whatever its header says, signed by HMAC."""
    parts = [json.dumps(header).encode(), claims if isinstance(claims, bytes) else json.dumps(claims).encode()]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.digest(secret.encode(), signed, hashlib.sha256)
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def authenticator(**options: Any) -> JwtAuthenticator:
    given: dict[str, Any] = {"key": SECRET, "audience": "shop", "issuer": "door"}
    return JwtAuthenticator(**(given | options))


def test_a_token_that_was_made_for_us_counts() -> None:
    """Its claims are the identity's, as is its end."""
    ends = time.time() + 50
    identity = authenticator()(shown(made(exp=ends, mail="ann@example")))

    assert identity is not None
    assert ("ann", {"staff"}, ends) == (identity.subject, identity.roles, identity.expires_at)
    assert "ann@example" == identity.claims["mail"]


@pytest.mark.parametrize(
    ("key", "algorithm"), [(RSA_KEY, "RS256"), (RSA_KEY, "PS256"), (EC_KEY, "ES256")], ids=["RS256", "PS256", "ES256"]
)
def test_public_keys_verify_too(key: Any, algorithm: str) -> None:
    """So the server need not hold what tokens are made with."""
    verifying = authenticator(key=public(key), algorithms=[algorithm])

    assert verifying(shown(made(key, algorithm))) is not None
    assert verifying(shown(made())) is None


@pytest.mark.row(55)
@pytest.mark.parametrize(("claims", "text"), [({"exp": 1}, "expired"), ({"nbf": time.time() + 900}, "not valid yet"),
                                              ({"iat": time.time() + 900}, "not valid yet")])  # fmt: skip
def test_a_token_counts_only_in_its_time(claims: dict[str, Any], text: str) -> None:
    """Which is told, as it is worth to get a new one."""
    with pytest.raises(Unauthenticated, match=text):
        authenticator()(shown(made(**claims)))


def test_clocks_may_differ_by_the_leeway() -> None:
    """At both ends; the login lasts as long as the token is taken."""
    now = time.time()
    lenient = authenticator(leeway=30)

    identity = lenient(shown(made(exp=now - 10, nbf=now + 10)))

    assert identity is not None and not identity.expired
    with pytest.raises(Unauthenticated):
        lenient(shown(made(exp=now - 40)))


@pytest.mark.row(55)
@pytest.mark.parametrize(
    "claims",
    [{"aud": "other"}, {"aud": None}, {"aud": ["a", "b"]}, {"aud": 7}, {"iss": "eve"}, {"iss": None}, {"exp": None},
     {"sub": None}, {"sub": ""}, {"exp": "soon"}, {"roles": 7}, {"roles": [7]}, {"roles": {"a": 1}}],
    ids=str,
)  # fmt: skip
def test_a_token_that_is_not_for_us_is_not_known(claims: dict[str, Any]) -> None:
    """For another audience, by another issuer, without an end or an owner, or with roles that are none."""
    assert authenticator()(shown(made(**claims))) is None


@pytest.mark.row(55)
def test_a_token_for_somebody_is_refused_where_nobody_was_named() -> None:
    """A token for another service must not count here because nobody thought of it."""
    assert authenticator(audience=None)(shown(made())) is None
    assert authenticator(audience=None)(shown(made(aud=None))) is not None
    assert authenticator(audience=["shop", "till"])(shown(made(aud="till"))) is not None


@pytest.mark.row(55)
@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", None, 7, "HS512", "RS256", "hs256", ["HS256"]])
def test_the_token_does_not_choose_its_algorithm(name: Any) -> None:
    """Whatever `alg` says that is not on the list."""
    claims = {"sub": "eve", "exp": time.time() + 60, "aud": "shop", "iss": "door"}
    signed = written({"alg": name, "typ": "JWT"}, claims)

    for token in (signed, signed.rpartition(".")[0] + "."):
        assert authenticator()(shown(token)) is None


@pytest.mark.row(55)
def test_a_public_key_is_never_a_secret() -> None:
    """The old trick: sign by HMAC with the public key, which everybody knows. And the way back."""
    key = public(RSA_KEY)
    claims = {"sub": "eve", "exp": time.time() + 60, "aud": "shop", "iss": "door"}

    assert authenticator(key=key, algorithms=["RS256"])(shown(written({"alg": "HS256"}, claims, key))) is None
    for algorithms in (["HS256"], ["RS256", "HS256"], ["RS256", "ES256"]):
        with pytest.raises(ConfigurationError):
            authenticator(key=key, algorithms=algorithms)
    with pytest.raises(ConfigurationError):
        authenticator(key=SECRET, algorithms=["RS256"])


@pytest.mark.row(55)
def test_a_huge_token_is_not_parsed() -> None:
    """1 MiB, and everything above what a header can hold."""
    for size in (8 * 1024, 1024 * 1024):
        assert authenticator()(shown(made(x="x" * size))) is None


@pytest.mark.row(55)
@pytest.mark.parametrize(
    "token", [None, "", ".", "..", "a.b.c", "a.b", "a.b.c.d", "\ud800.\ud800.\ud800", made()[:-2], made() + "A",
              made(SECRET[::-1]), "{}.{}.{}", "e30.e30.", "bnVsbA.bnVsbA.bnVsbA", "W10.W10.W10"]
)  # fmt: skip
def test_what_is_no_token_of_ours_is_not_known(token: str | None) -> None:
    """And makes nothing fail."""
    assert authenticator()(shown(token)) is None


@pytest.mark.row(55)
@pytest.mark.parametrize(
    "claims", [b"[]", b"null", b"7", b"{", b"\xff", b"[" * 4000, b'{"exp": 1e999, "sub": "a"}',
               b'{"exp": 99999999999999999999, "sub": "a", "nbf": -1e999}'], ids=range(8)
)  # fmt: skip
def test_signed_nonsense_is_not_known(claims: bytes) -> None:
    """Nor does it make anything fail, although its signature is right."""
    assert authenticator(audience=None, issuer=None)(shown(written({"alg": "HS256"}, claims))) is None


def test_a_critical_header_that_nobody_understands_is_refused() -> None:
    """RFC 7515 section 4.1.11."""
    claims = {"sub": "ann", "exp": time.time() + 60, "aud": "shop", "iss": "door"}

    assert authenticator()(shown(written({"alg": "HS256"}, claims))) is not None
    assert authenticator()(shown(written({"alg": "HS256", "crit": ["x"], "x": 1}, claims))) is None


def test_several_keys_are_told_apart_by_their_id() -> None:
    """While one takes another's place; a token without an id, or with an unknown one, is not known."""
    keys = {"old": SECRET, "new": SECRET[::-1]}
    several = authenticator(key=keys)

    assert several(shown(made(keys["old"], headers={"kid": "old"}))) is not None
    assert several(shown(made(keys["new"], headers={"kid": "new"}))) is not None
    assert several(shown(made(keys["new"], headers={"kid": "old"}))) is None
    assert several(shown(made())) is None
    assert several(shown(made(headers={"kid": "other"}))) is None
    for odd in (["old"], {"old": 1}, 7):
        assert several(shown(written({"alg": "HS256", "kid": odd}, {"sub": "a", "exp": time.time() + 9}))) is None


@pytest.mark.parametrize("scopes", [["a", "b"], "a b", " a  b "])
def test_roles_come_from_a_claim(scopes: Any) -> None:
    """A list, or words, as OAuth's `scope`."""
    scoped = authenticator(roles_claim="scope", subject_claim="client_id")

    identity = scoped(shown(made(scope=scopes, client_id="cart")))

    assert identity is not None
    assert Identity("cart", frozenset("ab")).roles == identity.roles
    assert "cart" == identity.subject


@pytest.mark.parametrize(
    "options",
    [{"algorithms": []}, {"algorithms": "HS256"}, {"algorithms": ["none"]}, {"algorithms": ["HS256", "none"]},
     {"algorithms": ["XX1"]}, {"algorithms": [7]}, {"key": {}}, {"key": "short"}, {"key": b""}, {"key": None},
     {"key": {"a": "short"}}],
    ids=str,
)  # fmt: skip
def test_what_could_not_protect_is_refused(options: dict[str, Any]) -> None:
    """When the authenticator is made."""
    with pytest.raises(ConfigurationError):
        authenticator(**options)


@pytest.mark.row(58)
def test_a_key_that_cannot_be_used_is_not_quoted() -> None:
    """The error may be logged."""
    with pytest.raises(ConfigurationError) as refused:
        JwtAuthenticator("-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----", ["RS256"])
    assert "hush" not in str(refused.value)
    assert refused.value.__cause__ is None
