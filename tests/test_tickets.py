"""Tickets: what was issued counts, for its time, its audience and, where asked, once."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from itsdangerous import URLSafeTimedSerializer

from webmesh import tickets as module
from webmesh.auth import Credentials
from webmesh.exceptions import ConfigurationError, Overloaded, Unauthenticated
from webmesh.testing import FakeClock
from webmesh.tickets import TicketAuthenticator

SECRET, OTHER = "0123456789abcdef0123456789abcdef", b"fedcba9876543210fedcba9876543210"


def shown(token: str | None) -> Credentials:
    return Credentials(token, None, "192.0.2.1:1")


def test_a_ticket_says_whose_it_is() -> None:
    """With roles and claims; the login lasts as long as the ticket would."""
    tickets = TicketAuthenticator(SECRET, max_age=60)

    identity = tickets(shown(tickets.issue("ann", ["staff"], {"room": 7})))

    assert identity is not None
    assert ("ann", {"staff"}, {"room": 7}) == (identity.subject, identity.roles, identity.claims)
    assert 58 <= (identity.expires_in() or 0) <= 60


def test_tickets_differ() -> None:
    """Also two for the same in the same second."""
    tickets = TicketAuthenticator(SECRET)
    assert tickets.issue("ann") != tickets.issue("ann")


@pytest.mark.row(55)
def test_an_old_ticket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the wall clock, which issuer and taker share; so is one from the future, which no honest clock wrote."""
    tickets = TicketAuthenticator(SECRET, max_age=60)
    token = tickets.issue("ann")
    now = time.time()

    for later in (62, -10):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        with pytest.raises(Unauthenticated, match="expired"):
            tickets(shown(token))


@pytest.mark.row(55)
@pytest.mark.parametrize(
    "change",
    [lambda t: t[:-1], lambda t: "x" + t, lambda t: t.rpartition(".")[0], lambda t: t * 2, lambda t: t.upper(),
     lambda t: "", lambda t: None, lambda t: "a.b.c", lambda t: t + "x" * 5000, lambda t: "\ud800" + t],
)  # fmt: skip
def test_what_was_not_issued_is_not_known(change: Any) -> None:
    """And makes nothing fail."""
    tickets = TicketAuthenticator(SECRET)
    assert tickets(shown(change(tickets.issue("ann")))) is None


@pytest.mark.row(55)
def test_a_ticket_counts_for_its_audience_and_secret_only() -> None:
    """Nor does another text count that the same secret has signed for something else."""
    ours = TicketAuthenticator(SECRET, audience="shop")

    assert ours(shown(TicketAuthenticator(SECRET, audience="till").issue("ann"))) is None
    assert ours(shown(TicketAuthenticator(OTHER, audience="shop").issue("ann"))) is None
    assert ours(shown(str(URLSafeTimedSerializer(SECRET).dumps({"s": "eve", "r": [], "n": ""})))) is None


def test_secrets_can_be_changed() -> None:
    """The newest signs, those before it count until they are dropped."""
    before, between, after = (TicketAuthenticator(secret) for secret in (SECRET, [SECRET, OTHER], OTHER))

    assert between(shown(before.issue("ann"))) is not None
    assert after(shown(between.issue("ann"))) is not None
    assert after(shown(before.issue("ann"))) is None
    assert before(shown(between.issue("ann"))) is None


@pytest.mark.row(57)
def test_a_ticket_for_single_use_counts_once() -> None:
    """Whoever shows it again, however many do so at the same time."""
    tickets = TicketAuthenticator(SECRET, single_use=True)
    token = tickets.issue("ann")
    taken: list[bool] = []

    def use() -> None:
        try:
            taken.append(tickets(shown(token)) is not None)
        except Unauthenticated:
            pass

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [True] == taken
    with pytest.raises(Unauthenticated, match="used before"):
        tickets(shown(token))


@pytest.mark.row(86)
def test_used_tickets_are_remembered_as_long_as_they_would_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more of them than a bound, beyond which none is taken: to forget one would let it in again."""
    monkeypatch.setattr(module, "USED_TICKETS", 3)
    clock = FakeClock()
    tickets = TicketAuthenticator(SECRET, max_age=60, single_use=True, clock=clock)
    for _ in range(3):
        tickets(shown(tickets.issue("ann")))

    with pytest.raises(Overloaded):
        tickets(shown(tickets.issue("ann")))
    clock.advance(60)
    assert tickets(shown(tickets.issue("ann"))) is not None
    assert 1 == len(tickets._used)


@pytest.mark.parametrize("options", [{"secret": "short"}, {"secret": []}, {"secret": [SECRET, b""]}, {"max_age": 0},
                                     {"max_age": -1}, {"max_age": float("nan")}], ids=str)  # fmt: skip
def test_what_could_not_protect_is_refused(options: dict[str, Any]) -> None:
    """When the authenticator is made."""
    with pytest.raises(ConfigurationError):
        TicketAuthenticator(**({"secret": SECRET} | options))


@pytest.mark.parametrize(("subject", "roles"), [("", ()), ("ann", "staff"), ("ann", [7])])
def test_a_ticket_for_nobody_is_not_issued(subject: Any, roles: Any) -> None:
    """As no identity could be made of it."""
    with pytest.raises((ConfigurationError, TypeError)):
        TicketAuthenticator(SECRET).issue(subject, roles)
