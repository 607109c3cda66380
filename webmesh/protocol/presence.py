"""Who is on a topic: a key for each user or device, with one meta for each of its connections.

Pure. Members are told apart by whatever the caller names them by; a key is present as long as one member announces
it. Changes are gathered and told together, so a hundred joins cost the others one message. Wire form:
docs/PROTOCOL.md sections 2 and 4.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

M = TypeVar("M", bound=Hashable)
State = dict[str, list[Any]]
"""Key → the metas of its members, in the order in which they came."""


@dataclass(slots=True)
class PresenceDiff:
    """What has changed since it was last told; a meta that was replaced stands on both sides."""

    joined: State = field(default_factory=dict)
    left: State = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.joined or self.left)


class Presence(Generic[M]):
    """The presence of one topic."""

    __slots__ = ("_keys", "_members", "_told")

    def __init__(self) -> None:
        self._members: dict[M, tuple[str, Any]] = {}
        self._keys: dict[str, dict[M, None]] = {}
        # What others were last told of each member that has changed since; None where they know of none.
        self._told: dict[M, tuple[str, Any] | None] = {}

    @property
    def keys(self) -> int:
        """Different keys that are present."""
        return len(self._keys)

    @property
    def connections(self) -> int:
        """Members that are present."""
        return len(self._members)

    @property
    def changed(self) -> bool:
        """Whether there is something to tell since the last `take_diff`, though it may have been undone."""
        return bool(self._told)

    def join(self, member: M, key: str, meta: Any = None) -> None:
        """*member* announces *key*; once more with other words replaces the first."""
        if self._members.get(member) == (key, meta):
            return
        self._change(member)
        self._remove(member)
        self._members[member] = (key, meta)
        self._keys.setdefault(key, {})[member] = None

    def leave(self, member: M) -> None:
        """*member* has gone; does nothing for one that was not there."""
        if member in self._members:
            self._change(member)
            self._remove(member)

    def state(self) -> State:
        """Everybody who is here now."""
        return {key: [self._members[member][1] for member in members] for key, members in self._keys.items()}

    def told_state(self) -> State:
        """Everybody who was here at the last `take_diff`: what its later ones add to."""
        if not self._told:
            return self.state()
        state: State = {}
        for member, (key, meta) in self._members.items():
            if member not in self._told:
                state.setdefault(key, []).append(meta)
        for before in self._told.values():
            if before is not None:
                state.setdefault(before[0], []).append(before[1])
        return state

    def take_diff(self) -> PresenceDiff:
        """What to tell those who know the state of the last `take_diff`; who came and went since is left out."""
        diff = PresenceDiff()
        for member, before in self._told.items():
            now = self._members.get(member)
            if before == now:
                continue
            if before is not None:
                diff.left.setdefault(before[0], []).append(before[1])
            if now is not None:
                diff.joined.setdefault(now[0], []).append(now[1])
        self._told.clear()
        return diff

    def _change(self, member: M) -> None:
        if member not in self._told:
            self._told[member] = self._members.get(member)

    def _remove(self, member: M) -> None:
        known = self._members.pop(member, None)
        if known is not None:
            members = self._keys[known[0]]
            del members[member]
            if not members:
                del self._keys[known[0]]
