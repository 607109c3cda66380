"""What goes along with the messages between nodes: news, each a bounded number of times, and whole states compared.

Pure. `News` holds only of whom there is news; what is told is made when it is sent, so it is never out of date.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from math import ceil, log10
from typing import Any, Final

from webmesh.exceptions import InvalidArgument
from webmesh.protocol.claims import DEAD, LOST, OK, STRENGTHS, Claim, Weight, read_claim, read_identity
from webmesh.protocol.node_record import HIGHEST

TELLINGS: Final = 4
"""Times that a node tells its news, for each decimal digit of the number of nodes (memberlist's), and once more: few
nodes need it most. All hear it, but for one in thousands, whom the next comparison of states tells."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

Say = Callable[[str], Claim | None]
"""What is to be told of a node now; `None` if nothing is known of it any more."""


class News:
    """Of whom there is something to tell.

    Args:
        size: Bytes of one message's news.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._told: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._told)

    def add(self, node: str) -> None:
        """There is news of it."""
        self._told[node] = 0

    def take(
        self, nodes: int, say: Say, first: Iterable[str] = (), known: frozenset[str] = frozenset()
    ) -> list[dict[str, Any]]:
        """The news of one message: what has been told least, as much as fits.

        Args:
            nodes: How many there are: to more of them, each is told more often.
            first: Who is spoken of in any case.
            known: Who is not, else: the receiver has just told of them itself.
        """
        chosen = dict.fromkeys(first)
        taken = [claim.to_wire() for claim in map(say, chosen) if claim is not None]
        size = sum(map(encoded_size, taken))
        most = TELLINGS * (1 + ceil(log10(nodes + 1)))
        for node in sorted((node for node in self._told if node not in known), key=self._told.__getitem__):
            if node not in chosen:
                claim = say(node)
                wire = None if claim is None else claim.to_wire()
                size += encoded_size(wire)
                if taken and size > self._size:
                    break
                if wire is not None:
                    taken.append(wire)
            self._count(node, most)
        return taken

    def _count(self, node: str, most: int) -> None:
        self._told[node] += 1
        if self._told[node] >= most:
            del self._told[node]


def encoded_size(value: Any) -> int:
    """Bytes of it as JSON."""
    return len(_ENCODER.encode(value).encode())


def read_news(message: Mapping[str, Any], most: int, sender: str) -> tuple[list[Claim], int]:
    """The claims in a message of the node *sender*, and how many entries were none.

    Raises:
        InvalidArgument: Its `news` is no list, or one of more than *most*.
    """
    news = message.get("news", [])
    if not isinstance(news, list) or len(news) > most:
        raise InvalidArgument(f"news must be a list of at most {most} claims")
    claims, malformed = [], 0
    for entry in news:
        try:
            claim = read_claim(entry)
        except InvalidArgument:
            malformed += 1  # one that a newer version words otherwise must not hide the rest
            continue
        if claim.epoch == HIGHEST and claim.id != sender:
            malformed += 1  # what nobody can outbid, only the node itself can say
        else:
            claims.append(claim)
    return claims, malformed


def read_ids(value: Any, most: int) -> list[str]:
    """A list of ids, as of `want`; of one that is none, nothing."""
    if not isinstance(value, list) or len(value) > most:
        return []
    return [node for node in value if isinstance(node, str)]


# ------------------------------------------------------------------------------ comparing states

Index = dict[str, tuple[int, int, str]]
"""Id → epoch, version and what is seen of it."""


def digest(index: Index) -> str:
    """The same text for the same state."""
    lines = sorted(
        f"{node} {epoch} {version} {seen if seen in (LOST, DEAD) else OK}"  # suspicion passes by itself
        for node, (epoch, version, seen) in index.items()
    )
    return blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


def differences(theirs: dict[str, Weight], ours: dict[str, Weight], most: int) -> tuple[list[str], list[str]]:
    """Whom they know better, at most so many, and whom we do."""
    nothing = (-1, 0, 0)
    wanted = [node for node, weight in theirs.items() if weight > ours.get(node, nothing)]
    return wanted[:most], [node for node, weight in ours.items() if weight > theirs.get(node, nothing)]


def index_to_wire(index: Index) -> dict[str, list[Any]]:
    """What `read_index` reads."""
    return {node: list(entry) for node, entry in index.items()}


def read_index(value: Any, most: int) -> dict[str, Weight]:
    """Id → weight of what another node holds; entries that make no sense are left out.

    Raises:
        InvalidArgument: It is no map, or one of more than *most*.
    """
    if not isinstance(value, dict) or len(value) > most:
        raise InvalidArgument(f"an index is a map of at most {most} nodes")
    read: dict[str, Weight] = {}
    for node, entry in value.items():
        if isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], str) and entry[2] in STRENGTHS:
            try:
                _, epoch, version = read_identity({"id": node, "epoch": entry[0], "version": entry[1]})
            except InvalidArgument:
                continue
            read[node] = (epoch, version, STRENGTHS[entry[2]])
    return read
