"""Who may publish and subscribe where.

Decides from an identity, each time anew. A subscription to a pattern must be allowed on every topic that the pattern
may match: by the rules of all options whose patterns overlap with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from webmesh.authorisation import Policy, Requirement, checked_roles
from webmesh.exceptions import ConfigurationError, PermissionDenied, Unauthenticated
from webmesh.protocol.topics import covers, overlap

if TYPE_CHECKING:
    from webmesh.auth import Identity
    from webmesh.topic_options import Segments, TopicTable

PUBLISH, SUBSCRIBE = "publish", "subscribe"


@dataclass(frozen=True, slots=True)
class TopicRequest:
    """What somebody wants to do, for rules that are functions.

    Attributes:
        action: "publish" or "subscribe".
        topic: The topic, or the pattern that is subscribed to.
    """

    identity: Identity | None
    action: str
    topic: str


Rule: TypeAlias = Callable[[TopicRequest], bool]


def topic_rule(rule: Any) -> Rule:
    """The rule that roles, a `Policy` or a function make.

    Raises:
        ConfigurationError: It is none of them.
    """
    if isinstance(rule, Policy):
        return lambda asked: rule.allows(asked.identity, asked.action, asked.topic)
    if callable(rule):
        return lambda asked: rule(asked) is True  # a coroutine, which was never run, would pass for yes
    roles = checked_roles(rule)
    return lambda asked: not roles or asked.identity is not None and not roles.isdisjoint(asked.identity.roles)


def default_rule(requires: Requirement | None) -> Rule | None:
    """What a server's own `requires` means for topics of which nothing is said; `None` where it asks for nothing.

    A function of calls cannot be asked about topics, so it allows none: say `publish=` and `subscribe=` for them.
    """
    if requires is None:
        return None
    if requires.policy is None:
        return topic_rule(requires.roles)
    return topic_rule(requires.policy) if isinstance(requires.policy, Policy) else lambda asked: False


class TopicAccess:
    """The rules of one node.

    Args:
        requires: The server's own; see `default_rule`.
        logins: Whether peers log in, so that anybody can have roles.

    Raises:
        ConfigurationError: Roles are asked for that nobody can have.
    """

    def __init__(self, table: TopicTable, requires: Requirement | None = None, *, logins: bool = True) -> None:
        self._table = table
        self._default = default_rule(requires)
        self._rules: dict[tuple[str, Segments | None], Rule] = {}
        for pattern, options in table.all():
            for action, rule in ((PUBLISH, options.publish), (SUBSCRIBE, options.subscribe)):
                if rule is None:
                    continue
                if not logins and not callable(rule) and checked_roles(rule):
                    where = "/".join(pattern)
                    raise ConfigurationError(f"topic {where!r} asks for roles that nobody can have: use authenticate=")
                self._rules[action, pattern] = topic_rule(rule)

    def check_publish(self, identity: Identity | None, topic: Segments) -> None:
        """Return if it may publish there.

        Raises:
            Unauthenticated: Nobody knows who it is, or no longer.
            PermissionDenied: It may not.
        """
        if self._rules or self._default is not None:
            rule = self._rules.get((PUBLISH, self._table.pattern_of(topic)), self._default)
            self._check(identity, PUBLISH, topic, [rule])

    def check_subscribe(self, identity: Identity | None, pattern: Segments) -> None:
        """Return if it may have everything that *pattern* matches; raises as `check_publish`."""
        if not self._rules and self._default is None:
            return
        concerned = [known for known, _ in self._table.all() if overlap(known, pattern)]
        rules = [self._rules.get((SUBSCRIBE, known), self._default) for known in concerned]
        if not any(covers(known, pattern) for known in concerned):
            rules.append(self._default)
        self._check(identity, SUBSCRIBE, pattern, rules)

    def _check(self, identity: Identity | None, action: str, segments: Segments, rules: list[Rule | None]) -> None:
        if identity is not None and identity.expired:
            raise Unauthenticated("the login has expired")
        asked = TopicRequest(identity, action, "/".join(segments))
        if all(rule is None or rule(asked) for rule in rules):
            return
        if identity is None:
            raise Unauthenticated("this needs a login")
        raise PermissionDenied(f"not allowed to {action} here")


def check_rule(name: str, rule: Any) -> None:
    """Refuse at registration what is no rule.

    Raises:
        ConfigurationError: It is neither roles nor a policy nor a function.
    """
    if rule is not None:
        try:
            topic_rule(rule)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from error
