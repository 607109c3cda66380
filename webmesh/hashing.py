"""Which of several nodes owns a key: rendezvous hashing.

Pure, and the same in every process and on every machine, so that nodes which know the same nodes agree without a word.
With one node more or less only its own keys move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")

_MASK = (1 << 64) - 1
_FIRST = 0xFF51AFD7ED558CCD
_SECOND = 0xC4CEB9FE1A85EC53


def digest(text: str) -> int:
    """64 bits that stand for *text*."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def weight(seed: int, key: int) -> int:
    """How much the node with the digest *seed* wants the key with the digest *key*: who wants it most has it."""
    # The finaliser of MurmurHash3: a hash function for each pair would cost four times as much.
    mixed = seed ^ key
    mixed = (mixed ^ mixed >> 33) * _FIRST & _MASK
    mixed = (mixed ^ mixed >> 33) * _SECOND & _MASK
    return mixed ^ mixed >> 33


def owner(key: str, nodes: Iterable[T], seed: Callable[[T], int]) -> T:
    """The one of *nodes* that has *key*.

    Args:
        seed: The digest of a node's id, made once.

    Raises:
        ValueError: There are no nodes.
    """
    hashed = digest(key)
    return max(nodes, key=lambda node: (weight(seed(node), hashed), seed(node)))


def owners(key: str, nodes: Iterable[T], seed: Callable[[T], int], count: int) -> list[T]:
    """The *count* of *nodes* that want *key* most, the owner first; all of them where there are fewer."""
    hashed = digest(key)
    return sorted(nodes, key=lambda node: (weight(seed(node), hashed), seed(node)), reverse=True)[:count]
