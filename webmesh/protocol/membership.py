"""`Membership`: who is in the mesh and lives, as one node knows it.

Pure: SWIM with Lifeguard's self-doubt. Time and the random source are handed in; messages are handed out and in as
maps. Whoever drives it calls `tick` some times a second, sends each `Probe` as a `$gossip` request, tells its outcome
once, and answers the `$gossip` requests of others with what `received` returns. Wire form: docs/PROTOCOL.md, "Between
nodes". What of the table is claimed and what believed is `member_table`; whom to ask when, `probing`; what is told
along, `gossip`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from webmesh.exceptions import InvalidArgument
from webmesh.options import GossipSettings
from webmesh.protocol.claims import DEAD, LOST, OK, SUSPECT, Claim, claim_of, read_identity
from webmesh.protocol.gossip import (
    Index, News, differences, digest, encoded_size, index_to_wire, read_ids, read_index, read_news,
)  # fmt: skip
from webmesh.protocol.member_table import LEFT, NEWS, UNKNOWN, Change, Member, MemberTable
from webmesh.protocol.node_record import NodeRecord
from webmesh.protocol.probing import ASKED, DIRECT, LAST, REVIVAL, TELL, Probe, Prober
from webmesh.protocol.rivalry import Rivalry

if TYPE_CHECKING:
    from random import Random

STATE_SIZE: Final = 256 * 1024
"""Bytes of claims in one message when states are exchanged; the rest comes with the next exchange."""

_INNER: Final = 0.8
"""Part of a timeout that one who is asked to probe another gives it (Lifeguard's), so that its no comes in time."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Another node wants to know whether *target* lives: send it *message*, then answer with `forwarded`."""

    target: str
    message: dict[str, Any]
    timeout: float


class Membership:
    """See above.

    Args:
        me: What this node says of itself.
        now: Seconds of a clock that does not jump; the same in all calls.

    Attributes:
        me: The same, as it has become.
        malformed: Claims that were none.
    """

    def __init__(self, me: NodeRecord, settings: GossipSettings, random: Random, now: float) -> None:
        self.me = me
        self.malformed = 0
        self._settings = settings
        self._table = MemberTable(settings)
        self._prober = Prober(settings, random)
        self._news = News(settings.news_size)
        self._random = random
        self._rivalry = Rivalry(settings.forget_left)
        self._now = self._ticked = now
        self._probe_at = now + random.random() * settings.period
        self._tell_at = now
        self._sync_at = now + random.random() * settings.sync
        self._members = MappingProxyType(self._table.members)

    # ---------------------------------------------------------------------- what is known

    @property
    def members(self) -> Mapping[str, Member]:
        """The others by id; a view that changes by itself."""
        return self._members

    @property
    def rival(self) -> NodeRecord | None:
        """What another process says under this id, while it is certain that there is one."""
        return self._rivalry.rival

    @property
    def turned_away(self) -> int:
        """Nodes that were not taken up because there are too many."""
        return self._table.turned_away

    @property
    def known_count(self) -> int:
        """Nodes that may be alive somewhere, this one included: not those that left or are proven dead."""
        return 1 + sum(member.state != LEFT and not member.proven for member in self._table.members.values())

    @property
    def reachable_count(self) -> int:
        """Nodes of which there is no doubt, this one included."""
        return 1 + len(self._table.in_state(OK))

    @property
    def has_majority(self) -> bool:
        """Whether more than half of those that may be alive are here: no other part of the mesh can say so, too."""
        return 2 * self.reachable_count > self.known_count

    def changes(self) -> list[Change]:
        """What is believed differently, or told anew, since the last look."""
        return list(self._table.changes())

    # ---------------------------------------------------------------------- what this node does

    def update_me(self, **changes: Any) -> NodeRecord:
        """Change what this node says of itself, and tell the others.

        Raises:
            ConfigurationError: The changes make no sense.
        """
        self.me = self.me.changed(**changes)
        self._news.add(self.me.id)
        return self.me

    def leave(self, now: float) -> list[Probe]:
        """This node goes on purpose: what to send before it does. It denies nothing any more."""
        self.update_me(state=LEFT)
        some = self._prober.some(self._table.in_state(OK, SUSPECT), 4 * self._settings.fan_out)
        return [self._tell(node, now, first=(self.me.id,)) for node in some]

    def tick(self, now: float) -> list[Probe]:
        """What to send now. To be called some times a second."""
        away, self._now, self._ticked = now - self._ticked, now, now
        if away > self._settings.pause:
            # Stopped, or held: that nobody answered meanwhile says nothing of them.
            self._table.postpone(now)
            self._prober.reset()
        probes = [self._probe(node, now, LAST) for node in self._table.take_due(now)]
        urgent = (node for node in self._prober.take_urgent() if node in self._table.members)
        probes += [self._probe(node, now, DIRECT) for node in urgent]
        if now >= self._probe_at:
            self._probe_at = now + self._settings.period
            self._table.forget_old(now)
            probes += self._turn(now)
        if self._news and now >= self._tell_at:
            self._tell_at = now + self._settings.spread
            some = self._prober.some(self._table.in_state(OK, SUSPECT), self._settings.fan_out)
            probes += [self._tell(node, now) for node in some]
        if now >= self._sync_at:
            self._sync_at = now + self._settings.sync
            probes += [self._compare(node, now) for node in self._prober.some(self._table.in_state(OK), 1)]
        return probes

    def _turn(self, now: float) -> list[Probe]:
        alive, lost = self._table.in_state(OK, SUSPECT), self._table.in_state(LOST)
        target = self._prober.next_target(alive)
        probes = [] if target is None else [self._probe(target, now, DIRECT)]
        # Both halves of a mesh look for each other at once; a single dead node of many is tried once a second by all
        # of them together.
        if lost and self._random.random() * max(len(alive), 1) < len(lost):
            probes.append(self._probe(self._random.choice(lost), now, REVIVAL))
        return probes

    # ---------------------------------------------------------------------- messages out

    def _probe(self, node: str, now: float, kind: str) -> Probe:
        epoch = self._table.members[node].record.epoch
        message = self._message(node, now, {"probe": {"id": node, "epoch": epoch}})
        return Probe(node, node, message, self._prober.timeout, now, kind, epoch)

    def _ask(self, other: str, about: str, now: float) -> Probe:
        epoch = self._table.members[about].record.epoch
        timeout = self._prober.timeout
        asked = {"id": about, "epoch": epoch, "timeout_ms": round(timeout * _INNER * 1000)}
        return Probe(other, about, self._message(other, now, {"ask": asked}), timeout, now, ASKED, epoch)

    def _tell(self, node: str, now: float, *, first: Iterable[str] = (), **parts: Any) -> Probe:
        return Probe(node, node, self._message(node, now, parts, first), self._prober.timeout, now, TELL)

    def _compare(self, node: str, now: float) -> Probe:
        return self._tell(node, now, sync=digest(self._index()))

    def _message(
        self, to: str, now: float, parts: dict[str, Any], first: Iterable[str] = (), known: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """*parts*, and news; above all what is claimed of the receiver, so that it can deny it.

        Args:
            known: Of whom the receiver itself has just told.
        """
        member = self._table.members.get(to)
        accused = (to,) if member is not None and member.seen != OK else ()

        def say(node: str) -> Claim | None:
            return self._claim(node, now)

        news = self._news.take(len(self._table.members), say, (*accused, *first), known)
        return {**parts, "news": news} if news else parts

    def _claim(self, node: str, now: float, *, full: bool = False) -> Claim | None:
        if node == self.me.id:
            return claim_of(self.me)
        member = self._table.members.get(node)
        return None if member is None else member.claim(now, lean=member.seen != OK and not full)

    def _claims(self, nodes: Iterable[str], now: float) -> list[dict[str, Any]]:
        claims: list[dict[str, Any]] = []
        size = 0
        for node in nodes:
            claim = self._claim(node, now, full=True)
            if claim is not None:
                wire = claim.to_wire()
                size += encoded_size(wire)
                if claims and size > STATE_SIZE:
                    break
                claims.append(wire)
        return claims

    # ---------------------------------------------------------------------- messages in

    def received(self, sender: str, message: object, now: float) -> dict[str, Any] | Forward:
        """The answer to a `$gossip` request of the node *sender*, or what has to be done before there is one.

        Raises:
            InvalidArgument: It makes no sense.
        """
        if not isinstance(message, dict):
            raise InvalidArgument("a message of gossip is a map")
        claims = self._read(message, sender)
        mine, wanted = self._hear(claims, sender, now)
        if message.get("ask") is not None:
            return self._forward(message["ask"], now)
        reply: dict[str, Any] = {}
        if message.get("probe") is not None:
            node, epoch, _ = read_identity(message["probe"])
            reply["alive"] = (node, epoch) == (self.me.id, self.me.epoch)
            mine = mine or not reply["alive"]
        if message.get("sync") is not None:
            index = self._index()
            reply.update({"same": True} if message["sync"] == digest(index) else {"index": index_to_wire(index)})
        if wanted:
            reply["want"] = wanted
        known = frozenset(claim.id for claim in claims)
        reply = self._message(sender, now, reply, (self.me.id,) if mine else (), known)
        asked = read_ids(message.get("want"), self._settings.members)
        if asked:
            reply["news"] = [*reply.get("news", ()), *self._claims(asked, now)]
        return reply

    def _forward(self, asked: object, now: float) -> dict[str, Any] | Forward:
        node, epoch, _ = read_identity(asked)
        if node not in self._table.members:
            return {"alive": (node, epoch) == (self.me.id, self.me.epoch)}
        timeout_ms = asked.get("timeout_ms") if isinstance(asked, dict) else None
        known = isinstance(timeout_ms, int | float) and 0 < timeout_ms < 60_000
        timeout = timeout_ms / 1000 if known else self._prober.timeout  # type: ignore[operator]  # just seen
        return Forward(node, self._message(node, now, {"probe": {"id": node, "epoch": epoch}}), timeout)

    def forwarded(self, forward: Forward, reply: object, now: float) -> dict[str, Any]:
        """The answer to who asked for *forward*; *reply* is what its target said, `None` if nothing."""
        alive = False
        if isinstance(reply, dict):
            self._hear_quietly(reply, forward.target, now)
            alive = reply.get("alive") is True
            if alive:
                self._live(forward.target, now)
        return {"alive": alive}

    def answered(self, probe: Probe, reply: object, now: float) -> list[Probe]:
        """*probe* was answered; what to send now."""
        if not isinstance(reply, dict):
            return self.failed(probe, now)
        before = self._table.members.get(probe.to)
        lost = before is not None and before.state == LOST
        mine, wanted = self._hear_quietly(reply, probe.to, now)
        more = [self._tell(probe.to, now, first=(self.me.id,))] if mine else []
        if probe.kind == ASKED:
            self._table.prove(probe.to, now)
            if reply.get("alive") is True:
                self._live(probe.about, now)
            elif self._prober.told(probe.about, probe.to, answer=True):
                self._accuse(probe.about, SUSPECT, now)
        elif probe.kind == TELL or reply.get("alive") is True:
            self._live(probe.to, now)
            if probe.kind == DIRECT:
                self._prober.doubt(-1)
        else:
            self._another(probe, now)
        if lost and self._is(probe.to, OK):
            more.append(self._compare(probe.to, now))
        given = read_ids(reply.get("want"), self._settings.members)
        if reply.get("index") is not None:
            theirs = self._compared(reply["index"])
            wanted, given = [*wanted, *theirs[0]], [*given, *theirs[1]]
        if wanted or given:
            more.append(self._exchange(probe.to, wanted, given, now))
        return more

    def failed(self, probe: Probe, now: float) -> list[Probe]:
        """*probe* was not answered in time, or could not be sent; what to send now."""
        member = self._table.members.get(probe.about)
        held = now - probe.at > probe.timeout + self._settings.pause  # this node was away itself
        if member is None or held or member.record.epoch != probe.epoch:
            return []
        if probe.kind == DIRECT:
            others = self._prober.ask_others(probe.about, self._table.in_state(OK))
            if not others:
                self._accuse(probe.about, SUSPECT, now)
            return [self._ask(other, probe.about, now) for other in others]
        if probe.kind == ASKED and self._prober.told(probe.about, probe.to, answer=False):
            self._accuse(probe.about, SUSPECT, now)
        elif probe.kind == LAST and member.state == SUSPECT and member.proved_at < probe.at:
            self._accuse(probe.about, LOST, now)
        return []

    def _another(self, probe: Probe, now: float) -> None:
        """Somebody answered, but not the incarnation that was asked; what it is stood in the answer's news."""
        member = self._table.members.get(probe.about)
        if member is not None and member.record.epoch == probe.epoch:
            self._accuse(probe.about, SUSPECT, now)

    def _live(self, node: str, now: float) -> None:
        self._prober.settle(node)
        self._table.prove(node, now)

    def _accuse(self, node: str, seen: str, now: float) -> None:
        if self._table.accuse(node, seen, now):
            self._news.add(node)

    def _is(self, node: str, state: str) -> bool:
        return node in self._table.members and self._table.members[node].state == state

    # ---------------------------------------------------------------------- what others say

    def _hear_quietly(self, message: Mapping[str, Any], sender: str, now: float) -> tuple[bool, list[str]]:
        try:
            return self._hear(self._read(message, sender), sender, now)
        except InvalidArgument:
            self.malformed += 1
            return False, []

    def _read(self, message: Mapping[str, Any], sender: str) -> list[Claim]:
        claims, malformed = read_news(message, 2 * self._settings.members, sender)
        self.malformed += malformed
        return claims

    def _hear(self, claims: list[Claim], sender: str, now: float) -> tuple[bool, list[str]]:
        """Take in the news; whether its sender has to hear of this node, and of whom this node lacks the record."""
        mine, wanted = False, []
        for claim in claims:
            if claim.id == self.me.id:
                mine = self._about_me(claim, now) or mine
            elif self._learn(claim, now, own=claim.id == sender) == UNKNOWN:
                wanted.append(claim.id)
        return mine, wanted

    def _learn(self, claim: Claim, now: float, *, own: bool) -> str:
        new = claim.id not in self._table.members
        outcome = self._table.learn(claim, now, own=own)
        if outcome == NEWS:
            self._news.add(claim.id)
            if new and self._is(claim.id, OK):
                self._prober.joined(claim.id)
        return outcome

    def _about_me(self, claim: Claim, now: float) -> bool:
        """Deny what is not true; whether whoever said it has to be told."""
        mine = claim_of(self.me)
        if claim.weight == mine.weight or self.me.state == LEFT:
            return False
        if claim.weight < mine.weight:
            return True
        if claim.epoch == self.me.epoch:
            self._prober.doubt(1)
        elif not self._rivalry.outbids(claim, now):
            return False
        self.me = self.me.outbidding(claim.epoch, claim.version)
        self._news.add(self.me.id)
        return True

    # ---------------------------------------------------------------------- what the links say

    def joined(self, record: NodeRecord, now: float) -> bool:
        """A link is up to the node that says *record* of itself; `False` if a later one with its id is known."""
        if record.id == self.me.id:
            return False
        self._learn(claim_of(record), now, own=True)
        member = self._table.members.get(record.id)
        if member is None or member.record.epoch != record.epoch or member.state == LEFT:
            return False
        member.linked = True
        self._live(record.id, now)
        return True

    def heard(self, node: str, now: float) -> None:
        """*node* has answered something on its link, so it lives. Once a second is often enough."""
        self._live(node, now)

    def link_lost(self, node: str, now: float) -> None:
        """Its link has ended by itself: ask it at once."""
        if node in self._table.members:
            self._table.members[node].linked = False
        if self._is(node, OK) or self._is(node, SUSPECT):
            self._prober.hurry(node)

    def refused(self, node: str, now: float) -> None:
        """Its address refuses connections: there is no such process any more."""
        self._accuse(node, DEAD, now)

    # ---------------------------------------------------------------------- whole states

    def full_state(self, now: float | None = None) -> list[dict[str, Any]]:
        """All that is claimed of all, this node first, as for a join; at most `STATE_SIZE`."""
        nodes = list(self._table.members)
        self._random.shuffle(nodes)
        return self._claims([self.me.id, *nodes], self._now if now is None else now)

    def merge(self, claims: object, now: float, sender: str) -> None:
        """Take in what the `full_state` of the node *sender* says.

        Raises:
            InvalidArgument: It is no list of claims.
        """
        self._hear(self._read({"news": claims}, sender), sender, now)

    def _index(self) -> Index:
        index = {
            node: (member.record.epoch, member.record.version, member.seen)
            for node, member in self._table.members.items() if member.state != LEFT
        }  # fmt: skip
        index[self.me.id] = (self.me.epoch, self.me.version, OK)
        return index

    def _compared(self, wire: object) -> tuple[list[str], list[str]]:
        """What another node knows better, and what this one does."""
        try:
            theirs = read_index(wire, 2 * self._settings.members)
        except InvalidArgument:
            self.malformed += 1
            return [], []
        ours = {node: member.weight for node, member in self._table.members.items()}
        ours[self.me.id] = claim_of(self.me).weight
        return differences(theirs, ours, self._settings.members)

    def _exchange(self, node: str, wanted: list[str], given: list[str], now: float) -> Probe:
        parts: dict[str, Any] = {}
        if wanted:
            parts["want"] = list(dict.fromkeys(wanted))
        if given:
            parts["news"] = self._claims(dict.fromkeys(given), now)
        return Probe(node, node, parts, self._prober.timeout, now, TELL)
