"""Who may publish and subscribe where."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.running import running
from tests.topic_peer import Refused, topic_peer
from webmesh.auth import Credentials, Identity
from webmesh.authorisation import Policy, requirement
from webmesh.exceptions import ConfigurationError, PermissionDenied, Unauthenticated
from webmesh.options import Limits
from webmesh.topic_access import TopicAccess, TopicRequest
from webmesh.topic_options import TopicOptions, TopicTable
from webmesh.webmesh_server import WebMeshServer

CLERK = Identity("carol", frozenset({"clerk"}))
ADMIN = Identity("ada", frozenset({"admin"}))


def access(requires: Any = None, **topics: dict[str, Any]) -> TopicAccess:
    """Rules: pattern (with `_` for `/` and `all` for `**`) → options."""
    table = TopicTable()
    for name, options in topics.items():
        table.add(name.replace("_", "/").replace("all", "**"), TopicOptions(**options))
    return TopicAccess(table, requirement(requires))


def may(rules: TopicAccess, identity: Identity | None, action: str, topic: str) -> bool:
    check = rules.check_publish if action == "publish" else rules.check_subscribe
    try:
        check(identity, tuple(topic.split("/")))
    except (PermissionDenied, Unauthenticated):
        return False
    return True


def test_where_nothing_is_said_anybody_may():
    """As with routes."""
    assert may(access(), None, "publish", "a")
    assert may(access(), None, "subscribe", "**")


def test_each_direction_has_its_rule():
    """Who may publish need not be allowed to listen."""
    rules = access(a={"publish": "clerk", "subscribe": ["admin", "auditor"]})
    assert may(rules, CLERK, "publish", "a")
    assert not may(rules, ADMIN, "publish", "a")
    assert may(rules, ADMIN, "subscribe", "a")
    assert not may(rules, CLERK, "subscribe", "a")
    assert may(rules, None, "publish", "b")


@pytest.mark.parametrize("pattern", ["**", "*", "*/x", "a/**", "a/*", "a/x"])
def test_a_pattern_needs_what_any_of_its_topics_needs(pattern: str):
    """Or a wildcard would be the way around every rule."""
    rules = access(a_x={"subscribe": "admin"}, a={"subscribe": "admin"})
    assert may(rules, ADMIN, "subscribe", pattern)
    assert not may(rules, CLERK, "subscribe", pattern)
    assert may(rules, CLERK, "subscribe", "b/*")


def test_the_servers_own_rule_holds_for_what_is_not_said():
    """Also for the part of a pattern of which nothing is said."""
    rules = access("admin", a_all={"subscribe": "clerk", "publish": []})
    assert may(rules, CLERK, "subscribe", "a/*")
    assert not may(rules, CLERK, "subscribe", "*/x")
    assert not may(rules, CLERK, "subscribe", "b")
    assert may(rules, CLERK, "publish", "a/b")
    assert not may(rules, CLERK, "publish", "b")
    assert may(rules, ADMIN, "publish", "b")


def test_a_function_of_calls_allows_no_topics():
    """It cannot be asked: closed rather than open."""
    rules = access(lambda call: True, a={"publish": lambda asked: True})
    assert not may(rules, ADMIN, "publish", "b")
    assert may(rules, ADMIN, "publish", "a")


def test_a_function_is_asked_what_is_wanted():
    """And only True is yes."""
    seen: list[TopicRequest] = []
    by_name = {"publish": lambda asked: seen.append(asked), "subscribe": lambda asked: asked.identity is ADMIN}
    rules = access(a_all=by_name)
    assert not may(rules, CLERK, "publish", "a/b")
    assert [TopicRequest(CLERK, "publish", "a/b")] == seen
    assert may(rules, ADMIN, "subscribe", "a/*")


def test_a_policy_decides_for_calls_and_topics_alike():
    """A pattern must lie within what is allowed as a whole."""
    policy = Policy().allow("subscribe", "users/{subject}/**").allow("subscribe", "news/*")
    rules = access(policy.allow("publish", "in/*", "clerk"))
    assert may(rules, CLERK, "subscribe", "users/carol/**")
    assert may(rules, CLERK, "subscribe", "users/carol/*")
    assert not may(rules, CLERK, "subscribe", "users/ada/**")
    assert not may(rules, CLERK, "subscribe", "users/**")
    assert may(rules, CLERK, "subscribe", "news/*")
    assert not may(rules, CLERK, "subscribe", "news/**")
    assert may(rules, CLERK, "publish", "in/x")
    assert not may(rules, ADMIN, "publish", "in/x")


def test_an_expired_login_may_nothing():
    """Whatever it could before."""
    expired = Identity("carol", frozenset({"clerk"}), expires_at=time.time() - 1)
    with pytest.raises(Unauthenticated, match="expired"):
        access(a={"publish": "clerk"}).check_publish(expired, ("a",))


def test_who_is_not_known_is_told_to_log_in():
    """Who is known is told that it may not."""
    rules = access(a={"publish": "admin"})
    with pytest.raises(Unauthenticated):
        rules.check_publish(None, ("a",))
    with pytest.raises(PermissionDenied):
        rules.check_publish(CLERK, ("a",))


@pytest.mark.parametrize("rule", [5, b"admin", [""], [5]])
def test_what_is_no_rule_is_refused_at_registration(rule: Any):
    """In either direction."""
    for name in ("publish", "subscribe"):
        with pytest.raises(ConfigurationError, match=name):
            WebMeshServer().topic("a", **{name: rule})


def test_roles_that_nobody_can_have_are_refused():
    """A server without logins would let nobody in, and nobody would know why."""
    server = WebMeshServer()
    server.topic("a", publish="admin")
    with pytest.raises(ConfigurationError, match="authenticate"):
        server.listen(port=0)


# ------------------------------------------------------------- over real connections


@pytest.fixture
def server() -> Iterator[WebMeshServer]:
    known = {"c": CLERK, "a": ADMIN}

    def authenticate(credentials: Credentials) -> Identity | None:
        return known.get(credentials.token or "")

    made = WebMeshServer(authenticate=authenticate, limits=Limits(subscriptions=2))
    made.topic("open/*", history=3)
    made.topic("secret/*", history=3, publish="admin", subscribe="admin")
    with running(made) as started:
        yield started


def test_peers_are_held_to_the_rules(server: WebMeshServer):
    """In all that they can ask for; the program itself may everything."""
    server.publish("secret/a", 1)
    with topic_peer(server, token="c") as clerk, topic_peer(server, token="a") as admin:
        for ask in (
            lambda: clerk.publish("secret/a"), lambda: clerk.subscribe("secret/a"), lambda: clerk.subscribe("**"),
            lambda: clerk.ask("$history", {"topic": "secret/a"}),
        ):  # fmt: skip
            with pytest.raises(Refused) as refused:
                ask()
            assert "permission_denied" == refused.value.code
        admin.subscribe("secret/*")
        clerk.subscribe("open/*")
        assert 2 == admin.publish("secret/a", 2)["offset"]
        assert [2] == admin.payloads(1)
        assert ["open/*"] == [one["pattern"] for one in clerk.ask("$subscriptions")["patterns"]]
        assert {"open/*", "secret/*"} == {one["pattern"] for one in admin.ask("$subscriptions")["patterns"]}


@pytest.mark.row(51)
def test_one_peer_has_so_many_subscriptions_and_no_more(server: WebMeshServer):
    """The next one is refused; room is there again when one has ended."""
    with topic_peer(server, token="c") as peer:
        subs = [peer.subscribe(f"open/{number}")["sub"] for number in range(2)]
        with pytest.raises(Refused) as refused:
            peer.subscribe("open/3")
        assert "resource_exhausted" == refused.value.code
        peer.ask("$unsubscribe", {"sub": subs[0]})
        peer.subscribe("open/3")


def test_what_is_subscribed_to_is_told_in_pages(server: WebMeshServer):
    """In one order, each row once; where a page ends the next one goes on."""
    with topic_peer(server, token="a") as admin, topic_peer(server, token="c") as clerk:
        admin.subscribe("secret/*")
        admin.subscribe("open/b")
        clerk.subscribe("open/a")
        told, after = [], None
        while after is not None or not told:
            page = admin.ask("$subscriptions", {"limit": 1} if after is None else {"limit": 1, "after": after})
            told += [one["pattern"] for one in page["patterns"]]
            after = page.get("next")
            assert page["more"] is (after is not None)
        assert ["open/a", "open/b", "secret/*"] == told
        for wrong in ({"limit": 0}, {"limit": "1"}, {"after": "open/a"}, {"after": ["a"]}, {"after": [1, 2]}):
            with pytest.raises(Refused):
                admin.ask("$subscriptions", wrong)
