"""`Prober`: who is asked next whether it lives, and what to make of no answer.

Pure: SWIM's rounds (a probe; without an answer, others are asked to probe; without theirs, a suspicion), in an order
that comes to each node once before it comes to any again, and Lifeguard's doubt of oneself: a node whose probes fail
all together, or that has to deny its own death, gives the others more time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from webmesh.options import GossipSettings

if TYPE_CHECKING:
    from random import Random

WORST_HEALTH: Final = 8
"""Lifeguard's: at the worst a node waits nine times as long as at its best."""

DIRECT, ASKED, LAST, REVIVAL, TELL = "direct", "asked", "last", "revival", "tell"
"""Why something is sent: to see whether `to` lives; whether `about` does, through `to`; the same before `to` is given
up; after it was; to tell it something."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A `$gossip` request that is to be sent, and whose outcome is to be told: `answered` or `failed`, once.

    Attributes:
        to: The node to ask.
        about: Whose life is in question; of a mere telling `to` itself.
        message: What to send.
        timeout: Seconds for the answer.
        at: When it was made.
        epoch: The incarnation that is in question.
    """

    to: str
    about: str
    message: dict[str, Any]
    timeout: float
    at: float
    kind: str
    epoch: int = 0


@dataclass(slots=True)
class _Round:
    """Others were asked; those of `waiting` have not said anything yet."""

    waiting: set[str]
    answers: int = 0


@dataclass(slots=True)
class Prober:
    """See above.

    Attributes:
        health: How much this node doubts itself: 0, not at all, to `WORST_HEALTH`.
    """

    settings: GossipSettings
    random: Random
    health: int = 0
    _order: list[str] = field(default_factory=list)
    _rounds: dict[str, _Round] = field(default_factory=dict)
    _urgent: dict[str, None] = field(default_factory=dict)

    @property
    def timeout(self) -> float:
        """Seconds that a probe's answer may take now."""
        return self.settings.timeout * (1 + self.health)

    def doubt(self, steps: int) -> None:
        """This node has reason to doubt itself so much more, or less."""
        self.health = min(max(self.health + steps, 0), WORST_HEALTH)

    # ------------------------------------------------------------------------ whom to ask

    def hurry(self, node: str) -> None:
        """Ask this one at the next tick."""
        self._urgent[node] = None

    def take_urgent(self) -> list[str]:
        """Those who cannot wait for their turn."""
        urgent, self._urgent = self._urgent, {}
        return list(urgent)

    def next_target(self, alive: list[str]) -> str | None:
        """Whose turn it is among those *alive*, each once in a random order before any is asked again."""
        wanted = set(alive)
        while True:
            while self._order:
                node = self._order.pop()
                if node in wanted:
                    return node
            if not alive:
                return None
            self._order = self.some(alive, len(alive))

    def joined(self, node: str) -> None:
        """One more; its turn is at a random place of this round."""
        self._order.insert(self.random.randrange(len(self._order) + 1), node)

    def some(self, nodes: list[str], most: int) -> list[str]:
        """At most so many of them, at random."""
        return self.random.sample(nodes, min(most, len(nodes)))

    # ------------------------------------------------------------------------ rounds

    def ask_others(self, about: str, others: list[str]) -> list[str]:
        """Whom to ask, of those who could, since *about* has not answered."""
        asked = self.some([node for node in others if node != about], self.settings.indirect)
        if asked:
            self._rounds[about] = _Round(set(asked))
        return asked

    def told(self, about: str, by: str, *, answer: bool) -> bool:
        """One of those who were asked knows nothing good, or has itself given no *answer*; whether it was the last."""
        round_ = self._rounds.get(about)
        if round_ is None or by not in round_.waiting:
            return False
        round_.waiting.discard(by)
        round_.answers += answer
        if round_.waiting:
            return False
        del self._rounds[about]
        if not round_.answers:
            self.doubt(1)  # nobody answers at all: it may be me
        return True

    def settle(self, about: str) -> None:
        """It lives."""
        self._rounds.pop(about, None)
        self._urgent.pop(about, None)

    def reset(self) -> None:
        """Believe nothing that is on its way."""
        self._rounds.clear()
        self.health = WORST_HEALTH
