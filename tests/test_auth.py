"""Identities, credentials, and the authenticators that need nothing but the standard library."""

from __future__ import annotations

import hmac
import time
from dataclasses import FrozenInstanceError
from datetime import datetime, timezone
from typing import Any

import pytest

from webmesh.auth import (
    CertificateAuthenticator, Credentials, Identity, SharedSecretAuthenticator, certificate_names,
    checked_authenticators, first_that_knows, identity_of,
)  # fmt: skip
from webmesh.exceptions import ConfigurationError

ENDS = datetime(2037, 1, 5, 9, 34, 43, tzinfo=timezone.utc).timestamp()
SECRET, OTHER = "correct horse battery staple", "an old secret that still counts"
CERTIFICATE: dict[str, Any] = {
    "subject": ((("organizationName", "Shop"),), (("commonName", "cart"),)),
    "subjectAltName": (("DNS", "cart.example"), ("URI", "spiffe://example/cart"), ("email", "cart@example")),
    "notAfter": "Jan  5 09:34:43 2037 GMT",
}


def shown(token: str | None = None, certificate: dict[str, Any] | None = None) -> Credentials:
    return Credentials(token, certificate, "192.0.2.1:1")


# -------------------------------------------------------------------- identities


def test_an_identity_is_what_it_was_made_as() -> None:
    """Roles become a set; nobody changes it afterwards; it can be a key."""
    identity = Identity("ann", ["admin", "admin"], claims={"mail": "ann@example"})  # type: ignore[arg-type]

    assert frozenset({"admin"}) == identity.roles
    assert identity in {identity}
    with pytest.raises(FrozenInstanceError):
        identity.subject = "eve"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("subject", "roles"), [("", ()), (None, ()), (7, ()), ("ann", "admin"), ("ann", b"admin"), ("ann", [1])]
)
def test_an_identity_that_makes_no_sense_is_refused(subject: Any, roles: Any) -> None:
    """A text for roles would give a role for each of its letters."""
    with pytest.raises(ConfigurationError, match="identity"):
        Identity(subject, roles)


def test_an_identity_expires_by_the_wall_clock() -> None:
    """Which is the one that tokens are made by."""
    now = time.time()
    lasting, ended, endless = Identity("a", expires_at=now + 100), Identity("a", expires_at=now), Identity("a")

    assert [False, True, False] == [one.expired for one in (lasting, ended, endless)]
    assert endless.expires_in() is None
    assert 99 < (lasting.expires_in() or 0) <= 100


@pytest.mark.row(58)
def test_what_is_secret_is_in_no_repr() -> None:
    """Credentials go through programs' hands, and so into their logs."""
    credentials = Credentials("hush-token", {"subject": "hush-cert"}, "192.0.2.1:1", {"cookie": "hush"}, "/mesh")

    assert "hush" not in repr(credentials) + repr(Identity("ann", claims={"jti": "hush"}))
    assert "192.0.2.1:1" in repr(credentials)


# ----------------------------------------------------------------- several of them


def test_the_first_that_knows_a_peer_decides() -> None:
    """Those behind it are not asked; a text is a subject without roles."""
    asked: list[str] = []

    def named(name: str, answer: Any) -> Any:
        return lambda credentials: (asked.append(name), answer)[1]

    several = [named("a", None), named("b", "ann"), named("c", "eve")]

    assert Identity("ann") == first_that_knows(several, shown())
    assert ["a", "b"] == asked
    assert first_that_knows(several[:1], shown()) is None


@pytest.mark.parametrize("answer", [True, False, 1, {"subject": "ann"}, ["ann"], b"ann"])
def test_an_answer_that_names_nobody_lets_nobody_in(answer: Any) -> None:
    """True says nothing about who it is."""
    with pytest.raises(TypeError, match="returns an Identity"):
        first_that_knows([lambda credentials: answer], shown())


@pytest.mark.parametrize("wrong", [[], [None], ["token"], "token", 7, [[]]])
def test_what_is_no_authenticator_is_refused(wrong: Any) -> None:
    """At construction; an empty list would let nobody in, which nobody can have meant."""
    with pytest.raises(ConfigurationError, match="authenticate"):
        checked_authenticators(wrong)


# ------------------------------------------------------------------ certificates


def test_certificates_have_several_names() -> None:
    """Each with its kind, those of the extension first."""
    assert (
        "DNS:cart.example", "URI:spiffe://example/cart", "email:cart@example", "CN:cart",
    ) == certificate_names(CERTIFICATE)  # fmt: skip
    assert () == certificate_names({})


@pytest.mark.parametrize("name", ["DNS:cart.example", "URI:spiffe://example/cart", "CN:cart"])
def test_a_certificate_is_known_by_any_of_its_names(name: str) -> None:
    """And counts until it ends."""
    identity = CertificateAuthenticator({name: Identity("cart", frozenset({"shop"}))})(shown(certificate=CERTIFICATE))

    assert identity is not None
    assert ("cart", {"shop"}, ENDS) == (identity.subject, identity.roles, identity.expires_at)


def test_a_function_may_name_the_owner_of_a_certificate() -> None:
    """It is given all names."""
    seen: list[tuple[str, ...]] = []
    authenticator = CertificateAuthenticator(lambda names: (seen.append(names), "cart")[1])

    identity = authenticator(shown(certificate=CERTIFICATE))

    assert identity is not None and "cart" == identity.subject
    assert [certificate_names(CERTIFICATE)] == seen


@pytest.mark.parametrize("certificate", [None, {}, {"subjectAltName": (("DNS", "evil.example"),)}])
def test_other_certificates_are_not_known(certificate: Any) -> None:
    """Nor is a peer that showed none."""
    assert CertificateAuthenticator({"DNS:cart.example": "cart"})(shown(certificate=certificate)) is None


def test_a_name_of_no_kind_is_refused() -> None:
    """It would never be found."""
    with pytest.raises(ConfigurationError, match="DNS:cart.example"):
        CertificateAuthenticator({"cart.example": "cart"})


# ---------------------------------------------------------------- shared secrets


@pytest.mark.row(54)
def test_whose_secret_is_shown_is_known() -> None:
    """With its roles; while a secret changes, both count."""
    authenticator = SharedSecretAuthenticator({"cart": SECRET, "till": [SECRET, OTHER]}, {"till": ["shop"]})

    assert Identity("cart") == authenticator(shown(f"cart:{SECRET}"))
    assert Identity("till", frozenset({"shop"})) == authenticator(shown(f"till:{OTHER}"))


@pytest.mark.row(54)
@pytest.mark.parametrize(
    "token", [None, "", "cart", "cart:", f"eve:{SECRET}", f"cart:{SECRET} ", f"cart:{OTHER}", f"cart:{SECRET[:-1]}",
              ":", "cart:\ud800", f":{SECRET}"]
)  # fmt: skip
def test_everything_else_is_not_known(token: str | None) -> None:
    """And makes nothing fail."""
    assert SharedSecretAuthenticator({"cart": SECRET, "till": OTHER})(shown(token)) is None


@pytest.mark.row(54)
def test_unknown_subjects_cost_the_same_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many, of digests of the same length, by the function that always looks at all of them."""
    compared: list[list[int]] = []
    real = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared[-1].append(len(one) + len(other))
        return real(one, other)

    authenticator = SharedSecretAuthenticator({"cart": SECRET, "till": [SECRET, OTHER]})
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token in (f"cart:{SECRET}", "cart:x", f"eve:{SECRET}", f"till:{SECRET}", f"till:{OTHER}"):
        compared.append([])
        authenticator(shown(token))

    assert [[64, 64]] * 5 == compared


@pytest.mark.parametrize("secrets", [{"cart": "short"}, {"cart": [SECRET, ""]}, {"cart": []}, {"a:b": SECRET}])
def test_secrets_that_can_be_guessed_are_refused(secrets: Any) -> None:
    """When the authenticator is made; so is a subject that no token could name."""
    with pytest.raises(ConfigurationError):
        SharedSecretAuthenticator(secrets)


def test_a_subject_stands_for_an_identity() -> None:
    """And an identity for itself."""
    assert Identity("ann") == identity_of("ann") == identity_of(Identity("ann"))


@pytest.mark.parametrize("ends", ["x", float("nan"), float("inf"), True])
def test_an_identity_ends_at_a_time_or_never(ends: Any) -> None:
    """What cannot be compared with the clock would never expire, or fail late."""
    with pytest.raises(ConfigurationError, match="expires_at"):
        Identity("ann", expires_at=ends)
