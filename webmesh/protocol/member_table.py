"""`MemberTable`: the other nodes, what is claimed of each, and what this node itself believes.

Pure; times are handed in. Two things are kept apart. What is *claimed* of a node only ever grows in the order of
`claims`, and in the end all nodes hold the same. What this node *believes* follows the claims, but for its own
evidence: a node that has answered it since then is alive, whoever says otherwise, and will soon refute it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Final

from webmesh.options import GossipSettings
from webmesh.protocol.claims import DEAD, LOST, OK, STRENGTHS, SUSPECT, Claim, Weight, claim_of
from webmesh.protocol.node_record import NodeRecord

LEFT: Final = "left"

OLD, NEWS, UNKNOWN = "old", "news", "unknown"
"""What a claim was: nothing new; new; of a record that this node does not have."""


@dataclass(slots=True)
class Member:
    """Another node. Only the table changes it.

    Attributes:
        record: The newest that is known of it.
        seen: The strongest that is claimed of it at this version.
        seen_at: When that was seen.
        state: What this node believes: `ok`, `suspect`, `lost`, `left`.
        since: When it began to.
        proved_at: When it last answered this node.
        due: When a suspect is asked for the last time.
        linked: Whether there is a link to it, on which it would itself say that it was started anew.
    """

    record: NodeRecord
    seen: str
    seen_at: float
    state: str
    since: float
    proved_at: float = -inf
    due: float = inf
    linked: bool = False

    @property
    def weight(self) -> Weight:
        """Of what is claimed of it."""
        return self.record.epoch, self.record.version, STRENGTHS[self.seen]

    @property
    def proven(self) -> bool:
        """Whether it is lost for certain: nothing listens where it did."""
        return self.state == LOST and self.seen == DEAD

    def claim(self, now: float, *, lean: bool = False) -> Claim:
        """What to tell others of it."""
        aged = self.seen != OK or self.record.state == LEFT
        return claim_of(self.record, self.seen, now - self.seen_at if aged else 0.0, lean=lean)


@dataclass(frozen=True, slots=True)
class Change:
    """What this node believes of another, before and after.

    Attributes:
        record: The newest; of a node that was forgotten, the last.
        before: Its state; `None` where it was not known.
        after: Its state; `None` where it has been forgotten.
        previous: The record before; with a smaller epoch if the node was started anew.
    """

    record: NodeRecord
    before: str | None
    after: str | None
    previous: NodeRecord | None = None


class MemberTable:
    """See above.

    Attributes:
        members: By id.
        turned_away: Nodes that were not taken up because there are too many.
    """

    def __init__(self, settings: GossipSettings) -> None:
        self._settings = settings
        self.members: dict[str, Member] = {}
        self.turned_away = 0
        self._before: dict[str, tuple[str | None, NodeRecord | None]] = {}
        self._gone: dict[str, NodeRecord] = {}

    def in_state(self, *states: str) -> list[str]:
        """The ids of those in one of these states."""
        return [node for node, member in self.members.items() if member.state in states]

    # ---------------------------------------------------------------------- what is heard

    def learn(self, claim: Claim, now: float, *, own: bool = False) -> str:
        """Take a claim for what it is worth; says whether it was `OLD`, `NEWS` or of an `UNKNOWN` record.

        Args:
            own: Whether the node said it itself. A later process takes the place of one that answers on its link only
                by its own word, on a link of its own.
        """
        member = self.members.get(claim.id)
        if member is None:
            return self._welcome(claim, now)
        unsaid = claim.epoch > member.record.epoch and member.linked and member.state == OK and not own
        if claim.weight <= member.weight or unsaid:
            return OLD
        if claim.record is None and (claim.epoch, claim.version) != member.weight[:2]:
            return UNKNOWN
        self._note(member)
        if claim.epoch > member.record.epoch:
            member.proved_at = -inf  # it was another process that answered
        member.record = claim.record or member.record
        member.seen, member.seen_at = claim.seen, now - claim.age
        state = self._follows(member)
        doubtful = state == SUSPECT and claim.seen == LOST
        self._believe(member, state, now)
        if doubtful:
            member.due = now  # others have waited for it already
        return NEWS

    def _welcome(self, claim: Claim, now: float) -> str:
        if claim.record is None:
            return UNKNOWN
        state = LEFT if claim.record.state == LEFT else {SUSPECT: SUSPECT, OK: OK}.get(claim.seen, LOST)
        if claim.age > self._kept(state, claim.seen) or not self._has_room():
            return OLD
        since = now - claim.age if state == LOST else now
        member = Member(claim.record, claim.seen, now - claim.age, state, since, due=now + self._settings.suspicion)
        self._before.setdefault(claim.id, (None, None))
        self._gone.pop(claim.id, None)
        self.members[claim.id] = member
        return NEWS

    def _follows(self, member: Member) -> str:
        """What to believe, now that something new is claimed."""
        if member.record.state == LEFT:
            return LEFT
        if member.seen == OK or member.proved_at > member.seen_at:
            return OK
        if member.seen == LOST and member.state in (OK, LEFT):
            return SUSPECT  # a side that was cut off tells of its dead: this one may speak for itself
        return SUSPECT if member.seen == SUSPECT else LOST

    # ---------------------------------------------------------------------- what is seen

    def prove(self, node: str, now: float) -> None:
        """It has answered this node."""
        member = self.members.get(node)
        if member is not None:
            member.proved_at = now
            if member.state in (SUSPECT, LOST):
                self._note(member)
                self._believe(member, OK, now)

    def accuse(self, node: str, seen: str, now: float) -> bool:
        """This node has itself seen that it does not answer (`SUSPECT`), is `LOST` or `DEAD`; whether that is new."""
        member = self.members.get(node)
        if member is None or member.state == LEFT:
            return False
        state = SUSPECT if seen == SUSPECT else LOST
        if STRENGTHS[seen] <= STRENGTHS[member.seen] and member.state in (state, LOST):
            return False
        self._note(member)
        if STRENGTHS[seen] >= STRENGTHS[member.seen]:
            member.seen, member.seen_at = seen, now
        self._believe(member, state, now)
        return True

    def take_due(self, now: float) -> list[str]:
        """Suspects who had their time to say that they live. If nothing comes of it, they get it once more."""
        due = [node for node, member in self.members.items() if member.state == SUSPECT and member.due <= now]
        for node in due:
            self.members[node].due = now + self._settings.suspicion
        return due

    def postpone(self, now: float) -> None:
        """This node was away: whoever is suspect gets the whole time again."""
        for member in self.members.values():
            member.due = now + self._settings.suspicion

    def forget_old(self, now: float) -> None:
        """Drop those who have been gone for long enough."""
        for node, member in tuple(self.members.items()):
            if member.state in (LOST, LEFT) and now - member.since > self._kept(member.state, member.seen):
                self._drop(node)

    # ---------------------------------------------------------------------- what has changed

    def changes(self) -> Iterator[Change]:
        """What is believed differently, or told anew, since the last look."""
        before, self._before = self._before, {}
        gone, self._gone = self._gone, {}
        for node, (state, record) in before.items():
            member = self.members.get(node)
            if member is not None:
                if (state, record) != (member.state, member.record):
                    yield Change(member.record, state, member.state, record)
            elif state is not None:
                yield Change(gone[node], state, None, record)

    def _note(self, member: Member) -> None:
        self._before.setdefault(member.record.id, (member.state, member.record))

    def _believe(self, member: Member, state: str, now: float) -> None:
        if state != member.state:
            member.state, member.since, member.due = state, now, now + self._settings.suspicion

    # ---------------------------------------------------------------------- room

    def _kept(self, state: str, seen: str) -> float:
        if state == LOST and seen == DEAD:
            return self._settings.forget_left  # no majority counts it: nobody needs to know of it for longer
        return {LOST: self._settings.forget, LEFT: self._settings.forget_left}.get(state, inf)

    def _has_room(self) -> bool:
        """Whether one more fits, perhaps in the place of the one that has been gone for the longest."""
        if len(self.members) < self._settings.members - 1:  # this node is one, too
            return True
        gone = sorted(self.in_state(LOST, LEFT), key=lambda node: self.members[node].since)
        if gone:
            self._drop(gone[0])
        else:
            self.turned_away += 1
        return bool(gone)

    def _drop(self, node: str) -> None:
        member = self.members.pop(node)
        self._note(member)
        self._gone[node] = member.record
