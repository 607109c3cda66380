"""Who may do what: the `requires=` of routes, and policies for calls and topics.

Decides from an identity and a name, each time anew: a role that was taken away is missing from the next call on. Who
a peer is, `auth` and `login` have decided before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from webmesh.exceptions import ConfigurationError, PermissionDenied, Unauthenticated

if TYPE_CHECKING:
    from webmesh.auth import Identity
    from webmesh.call import Call, CallNext

Requires = "str | Sequence[str] | Callable[[Call], bool] | None"
"""Roles, any of which suffices; or a function of the call that returns True for yes. An empty list asks for nothing;
`None` takes the server's default."""

ACTIONS = ("call", "publish", "subscribe")


class Requirement:
    """What calls of a route must fulfil; middleware, outermost.

    Args:
        requires: See `Requires`; not `None`.

    Attributes:
        policy: The function, if it is one; and
        roles: those of which any suffices.
        by_roles: Whether it asks for roles, so that nobody fulfils it on a server that authenticates nobody.

    Raises:
        ConfigurationError: It is neither roles nor a function.
    """

    def __init__(self, requires: str | Sequence[str] | Callable[[Call], bool]) -> None:
        self.policy = requires if callable(requires) else None
        self.roles = frozenset() if callable(requires) else checked_roles(requires)
        self.by_roles = bool(self.roles)
        self.asks = self.by_roles or self.policy is not None
        """Whether it asks for anything."""

    def check(self, call: Call) -> None:
        """Return if *call* may go on.

        Raises:
            Unauthenticated: Nobody knows whose it is, or no longer.
            PermissionDenied: It is known, and may not.
        """
        identity = call.connection.identity
        if self.policy is not None:
            # Only True is yes: a coroutine or a generator, which were never run, would pass for it.
            allowed = self.policy(call) is True
        else:
            allowed = identity is not None and not self.roles.isdisjoint(identity.roles)
        if identity is not None and identity.expired:
            raise Unauthenticated("the login has expired")
        if not allowed:
            if identity is None:
                raise Unauthenticated("this needs a login")
            raise PermissionDenied("not allowed")

    def still_allows(self, identity: Identity | None, path: str) -> bool:
        """Whether what was allowed may go on with these rights. A function of the program's, which may block, is asked
        only when a call begins."""
        if isinstance(self.policy, Policy):
            return self.policy.allows(identity, "call", path)
        return self.policy is not None or identity is not None and not self.roles.isdisjoint(identity.roles)

    def __call__(self, call: Call, call_next: CallNext) -> Any:
        """As middleware: `check`, then what is inside."""
        self.check(call)
        return call_next(call)


def requirement(requires: Any, default: Requirement | None = None) -> Requirement | None:
    """What *requires* asks for; `None` when that is nothing.

    Args:
        default: Taken where *requires* is `None`.

    Raises:
        ConfigurationError: It is neither roles nor a function.
    """
    asked = default if requires is None else Requirement(requires)
    return asked if asked is not None and asked.asks else None


def checked_roles(roles: object) -> frozenset[str]:
    """The roles that were named, one or several.

    Raises:
        ConfigurationError: They are none.
    """
    several = (roles,) if isinstance(roles, str) else roles
    if isinstance(several, bytes) or not isinstance(several, Iterable):
        raise ConfigurationError(f"requires must be roles or a function of the call, not {roles!r}")
    kept = frozenset(several)
    if not all(isinstance(role, str) and role for role in kept):
        raise ConfigurationError(f"requires must be roles, texts that are not empty, not {roles!r}")
    return kept


class Policy:
    """A table of who may do what; what it does not allow is forbidden.

    Usable as `requires=` of a server or route, and wherever an identity, an action and a name are known:

        policy = Policy().allow("call", "/orders/**", "shop", "admin").allow("call", "/me/{subject}")
    """

    def __init__(self) -> None:
        self._rules: list[tuple[str, tuple[str, ...], frozenset[str]]] = []

    def allow(self, action: str, pattern: str, *roles: str) -> Policy:
        """Allow an action on matching names; returns the policy itself.

        Args:
            action: One of `ACTIONS`.
            pattern: Segments as in names; `*` stands for one, `**` as the last for one or more, `{subject}` for the
                identity's own subject.
            roles: Any of these suffices; without any, every identity may.

        Raises:
            ConfigurationError: The action is none, or `**` is not the last segment.
        """
        if action not in ACTIONS:
            raise ConfigurationError(f"an action is one of {', '.join(ACTIONS)}, not {action!r}")
        segments = tuple(pattern.removeprefix("/").split("/"))
        if "**" in segments[:-1]:
            raise ConfigurationError(f"** can only be the last segment, not as in {pattern!r}")
        self._rules.append((action, segments, checked_roles(roles)))
        return self

    def allows(self, identity: Identity | None, action: str, name: str) -> bool:
        """Whether *identity* may; nobody may who has no identity, or one that has expired."""
        if identity is None or identity.expired:
            return False
        segments = name.removeprefix("/").split("/")
        return any(
            action == allowed and (not roles or not roles.isdisjoint(identity.roles))
            and _matches(pattern, segments, identity.subject)
            for allowed, pattern, roles in self._rules
        )  # fmt: skip

    def __call__(self, call: Call) -> bool:
        """Whether *call* is allowed: as `requires=`."""
        return self.allows(call.connection.identity, "call", call.path)


def _matches(pattern: tuple[str, ...], segments: list[str], subject: str) -> bool:
    if segments[-1] == "**" and pattern[-1] != "**":
        return False  # a pattern that somebody subscribes to, and wider than this one
    if pattern[-1] == "**":
        if len(segments) < len(pattern):
            return False
        pattern, segments = pattern[:-1], segments[: len(pattern) - 1]
    return len(pattern) == len(segments) and all(
        part == "*" or (subject if part == "{subject}" else part) == segment
        for part, segment in zip(pattern, segments, strict=True)
    )
