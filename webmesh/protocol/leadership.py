"""`Leadership`: which node keeps what the mesh has in common, and until when it may.

Pure: time, the random source and what is known of the others are handed in. A leader holds a lease that a majority of
the council has granted and renews; each of them grants no other one before that lease has run out, unless its holder is
proven dead. So there is never more than one leader of one line of councils, whoever can reach whom; clocks need not
agree, only go at the same speed. Whoever has a copy of what was kept comes first. Wire form: docs/PROTOCOL.md, "Between
nodes".
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from webmesh.exceptions import InvalidArgument
from webmesh.protocol.council import Council, read_council
from webmesh.protocol.node_record import HIGHEST

LEASE: Final = 3.0
"""Seconds for which a grant holds. Nobody leads for so long after a leader has fallen silent."""
USED: Final = 0.8
"""Part of it that the leader uses: the rest is for clocks that do not go at the same speed."""
RENEWAL: Final = 1.0
"""Seconds between two renewals: one may be lost."""
TURN: Final = 0.6
"""Seconds by which each further keeper lets those before it try first."""
GONE: Final = 60.0
"""Seconds without a word after which a voter is left out, where a majority can be had without it: those that vanish
without a proof would otherwise add up until none is possible."""
ORPHANED: Final = 10.0
"""Seconds without any keeper after which others may lead, with nothing: what was kept is lost then."""

MOST_AHEAD: Final = 2**32
"""Terms, and changes of a council, by which another node may be ahead: more than there are in a century. What is
further ahead is nonsense, and must not be taken over: it would leave no higher term for those who lead next."""


@dataclass(frozen=True, slots=True)
class View:
    """What a node knows of the others.

    Attributes:
        reachable: Those that answer, this one left out.
        dead: Those that are proven to have ended, or that have left.
    """

    reachable: frozenset[str] = frozenset()
    dead: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Ballot:
    """A `$lead` request to send, whose answer is to be told.

    Attributes:
        asks: Whether it asks for a grant; otherwise it renews one.
    """

    to: str
    message: dict[str, Any]
    at: float
    term: int
    asks: bool
    stamp: tuple[int, int]


class Leadership:
    """See above.

    Args:
        me: This node's id.
        founded: When it began, in milliseconds since 1970.
        random: A number from 0 to below 1.
        alone_after: Seconds before it leads itself, if it has met nobody.

    Attributes:
        council: The latest that this node knows.
        term: Counts leaders; of two the one with the higher term is the later.
        kept: Whether this node, the leader, has a copy of what was kept before it.
        settled: Whether a majority knows the council of which this node is the leader.
    """

    def __init__(
        self, me: str, founded: int, now: float, random: Callable[[], float], *, alone_after: float = 0.0
    ) -> None:
        self.me = me
        self._founded = founded
        self._forgetful_until = now
        self._random = random
        self._ask_at = self._idle_since = now
        self._granted: str | None
        self._seen: frozenset[str] = frozenset()
        self._resigned = False
        self._others_resigned: set[str] = set()
        self._found(now)
        if alone_after:
            self._leads, self._granted = False, None
            self._ask_at = now + alone_after

    def _found(self, now: float) -> None:
        """Begin a line of this node alone."""
        self.council = Council.of_one(self.me, self._founded)
        self.term = 1
        self.kept = self.settled = True
        self._leads = True
        self._lease = now + LEASE * USED
        self._granted = self.me
        self._granted_until = now + LEASE
        self._votes: set[str] = set()
        self._heard: dict[str, float] = {}
        self._led_since = now
        self._confirmed: set[str] = set()
        self._renew_at = now

    def leads(self, now: float) -> bool:
        """Whether this node is the leader, and may act as such until `lease_left` is over."""
        return self._leads and now < self._lease

    def lease_left(self, now: float) -> float:
        """Seconds."""
        return self._lease - now if self._leads else 0.0

    def leader(self, now: float) -> str | None:
        """Whom this node takes for the leader."""
        return self._granted if now < self._granted_until and (self._granted != self.me or self._leads) else None

    # ------------------------------------------------------------------ what to do

    def tick(self, now: float, view: View) -> list[Ballot]:
        """What to send now. To be called some times a second."""
        if self._resigned:
            return []
        if self._leads:
            self._weigh(now, view)
            if now >= self._lease:
                self._step_down(now)
                return []
            self._change(now, view)
            come, self._seen = view.reachable - self._seen, view.reachable
            return self._renewal(now, view) if come or now >= self._renew_at else []
        if self._bound(now, view):
            self._idle_since = now
            return []
        if self.me not in self.council.voters and view.dead.issuperset(self.council.voters):
            self._found(now)  # of that line nobody is left who could take this node in
            return []
        if now >= self._ask_at and self.me in self.council.voters and now - self._idle_since >= self._patience(view):
            return self._candidacy(now, view)
        return []

    def _bound(self, now: float, view: View) -> bool:
        """Whether this node has promised itself to a leader that may live."""
        held = self._granted is not None and now < self._granted_until
        return held and self._granted != self.me and self._granted not in view.dead

    def _patience(self, view: View) -> float:
        """Seconds without a leader before this node asks to be one."""
        others = view.reachable - self._others_resigned
        keepers = [one for one in self.council.keepers if one == self.me or one in others]
        if self.me in keepers:
            return TURN * keepers.index(self.me)
        voters = [one for one in self.council.voters if one == self.me or one in others]
        lost = view.dead.issuperset(self.council.keepers)  # there is nothing to wait for
        return (0.0 if lost else ORPHANED) + TURN * voters.index(self.me)

    def _candidacy(self, now: float, view: View) -> list[Ballot]:
        self.term += 1
        self._votes = {self.me}
        self._granted, self._granted_until = self.me, now + LEASE
        self._ask_at = now + TURN * (1 + self._random())
        if self.council.decides(self._votes, view.dead):
            self._win(now)
            return []
        return [self._ballot(node, now, asks=True) for node in self.council.voters if node in view.reachable]

    def _renewal(self, now: float, view: View) -> list[Ballot]:
        self._renew_at = now + RENEWAL
        return [self._ballot(node, now, asks=False) for node in sorted(view.reachable)]

    def _ballot(self, node: str, now: float, *, asks: bool) -> Ballot:
        message = {"council": self.council.to_wire(), "term": self.term, "ask": asks}
        return Ballot(node, message, now, self.term, asks, self.council.stamp)

    def resign(self, now: float, view: View) -> list[Ballot]:
        """This node leaves: it leads no more, and lets the others choose at once."""
        led, self._resigned = self._leads, True
        if led:
            self._step_down(now)
        message = {"council": self.council.to_wire(), "term": self.term, "ask": False, "resign": True}
        stamp = self.council.stamp
        return [Ballot(node, message, now, self.term, False, stamp) for node in sorted(view.reachable)] if led else []

    def alone(self, now: float) -> None:
        """There is nobody to look for: it need not wait to lead itself."""
        self._ask_at = min(self._ask_at, now)

    # ------------------------------------------------------------------ being the leader

    def _win(self, now: float) -> None:
        self._leads = True
        self._heard = dict.fromkeys(self._votes, now)
        self._led_since = now
        self._lease = now + LEASE * USED
        self._renew_at = now
        # Where nobody who has a copy was there for long, what was kept is lost, and this node begins with nothing.
        self.kept = self.me in self.council.keepers
        self._make(self.council.following(self.term, keepers=(self.me,)))  # others are yet to be brought up to it

    def _step_down(self, now: float) -> None:
        self._leads = False
        self._granted = None if self._granted == self.me else self._granted
        self._idle_since = now
        self._ask_at = now + TURN * self._random()

    def _weigh(self, now: float, view: View) -> None:
        """How long the lease lasts by what a majority has said last."""
        self._heard[self.me] = now
        for at in sorted(self._heard.values(), reverse=True):
            if self.council.decides({node for node, heard in self._heard.items() if heard >= at}, view.dead):
                self._lease = max(self._lease, at + LEASE * USED)
                self._granted, self._granted_until = self.me, max(self._granted_until, at + LEASE)
                break
        self.settled = self.council.decides(self._confirmed | {self.me}, view.dead)

    def _change(self, now: float, view: View) -> None:
        """Take in one who has come, or leave out one who is gone; one at a time, each known to a majority first."""
        if not self.settled:
            return
        silent = {one for one in self.council.voters if now - self._heard.get(one, self._led_since) > GONE}
        gone = [one for one in self.council.voters if one != self.me and (one in view.dead or one in silent)]
        come = [one for one in sorted(self._heard) if one in view.reachable and one not in self.council.voters]
        if gone:
            self._make(self._council(voters=[one for one in self.council.voters if one != gone[0]]))
        elif come:
            self._make(self._council(voters=(*self.council.voters, come[0])))

    def keep_with(self, keepers: tuple[str, ...]) -> None:
        """The leader's copies are with these from now on; nothing may be acknowledged before it is `settled`."""
        if self._leads and keepers != self.council.keepers:
            self._make(self._council(keepers=keepers))

    def _council(self, **changes: Collection[str]) -> Council:
        return self.council.following(self.term, **changes)

    def _overtaken(self, term: int, now: float) -> None:
        """Somebody has asked for grants while it could not reach a majority. That ends no lease: whoever holds one goes
        on, above that term, so that the one who asked takes it for the leader again."""
        if self.leads(now):
            self.term = term + 1
            self._make(self._council())
        else:
            self.term = term
            self._step_down(now)

    def _make(self, council: Council) -> None:
        self.council = council
        self._confirmed, self.settled = set(), False
        self._renew_at = 0.0

    # ------------------------------------------------------------------ messages

    def received(self, sender: str, message: object, now: float, view: View) -> dict[str, Any]:
        """The answer to a `$lead` of the node *sender*.

        Raises:
            InvalidArgument: It makes no sense.
        """
        council, term, asks = _read(message)
        if not self._believes(council, term):
            raise InvalidArgument("so high a term, or version of a council, is no node's")
        self._look_at(council, term, now)
        if isinstance(message, dict) and message.get("resign") is True:
            self._others_resigned.add(sender)
            if self._granted == sender:
                self._granted, self._granted_until, self._ask_at = None, now, now
            return {"granted": False, "council": self.council.to_wire(), "term": self.term}
        granted = False
        if asks and now < self._forgetful_until:
            return {"granted": False, "council": self.council.to_wire(), "term": self.term}
        if council == self.council:  # one who knows less of it than this node must not lead
            granted = self._grants(sender, term, now, view, asks=asks)
        if granted:
            if self._leads:
                self._step_down(now)
            self.term = term
            self._others_resigned.discard(sender)
            self._granted, self._granted_until = sender, now + LEASE
            granted = now >= self._forgetful_until
        return {"granted": granted, "council": self.council.to_wire(), "term": self.term}

    def _believes(self, council: Council, term: int) -> bool:
        most_term = most_version = HIGHEST // 2
        if self.council.same_line(council):
            most_term = max(self.term, self.council.term) + MOST_AHEAD
            most_version = self.council.version + MOST_AHEAD
        return max(term, council.term) <= most_term and council.version <= most_version

    def _look_at(self, council: Council, term: int, now: float) -> None:
        """Take the council that counts; a leader of another line, or of an older one, is none any more."""
        if not self.council.gives_way(council):
            return
        if not self.council.same_line(council):
            self._step_down(now)
            self.term, self._granted, self._granted_until = 0, None, now
            if self.me in council.voters:  # it was started anew, and has forgotten whom it had granted a lease
                self._forgetful_until = now + LEASE
        self.council = council

    def _grants(self, sender: str, term: int, now: float, view: View, *, asks: bool) -> bool:
        if term < self.term or sender == self.me:
            return False
        if self._granted == sender and (term == self.term or now < self._granted_until):
            return True
        free = self._granted is None or now >= self._granted_until or self._granted in view.dead
        if self._granted == self.me and not self._leads and term > self.term:
            free = True  # a candidate that nobody has chosen may choose
        return free and (term > self.term or not asks)

    def answered(self, ballot: Ballot, reply: object, now: float, view: View) -> None:
        """*ballot* was answered."""
        try:
            council, term, granted = _read_reply(reply)
        except InvalidArgument:
            return
        if not self._believes(council, term):
            return
        line = self.council
        self._look_at(council, term, now)
        if not line.same_line(self.council):
            return
        if term > self.term:
            self._overtaken(term, now)
        if not granted or ballot.term != self.term:
            return
        if ballot.asks and not self._leads:
            self._votes.add(ballot.to)
            if self._granted == self.me and self.council.decides(self._votes, view.dead):
                self._win(ballot.at)
        elif self._leads:
            self._heard[ballot.to] = max(ballot.at, self._heard.get(ballot.to, ballot.at))
            if ballot.stamp == self.council.stamp:
                self._confirmed.add(ballot.to)
            self._weigh(now, view)


def _read(message: object) -> tuple[Council, int, bool]:
    if not isinstance(message, dict) or not isinstance(message.get("ask"), bool):
        raise InvalidArgument("$lead takes a map with council, term and ask")
    return read_council(message.get("council")), _term(message.get("term")), message["ask"]


def _read_reply(reply: object) -> tuple[Council, int, bool]:
    if not isinstance(reply, dict) or not isinstance(reply.get("granted"), bool):
        raise InvalidArgument("the answer to $lead is a map")
    return read_council(reply.get("council")), _term(reply.get("term")), reply["granted"]


def _term(value: object) -> int:
    if type(value) is not int or not 0 <= value <= HIGHEST:
        raise InvalidArgument("a term is an integer")
    return value
