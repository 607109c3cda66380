"""Whom a node dials: seeds, what its discoveries have found, and all nodes that it knows of.

Decides what is dialled at all, and who waits for the other side to dial. One attempt after another is `node_dialler`'s.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import gevent

from webmesh.node_dialler import NodeDialler
from webmesh.protocol.token_bucket import TokenBucket

if TYPE_CHECKING:
    from webmesh.discovery.base import Discovery, Found
    from webmesh.protocol.membership import Membership
    from webmesh.websocket.websocket_connection import WebSocketConnection

DEFER = 0.3
"""Seconds that the node with the larger id waits before it dials one that can dial it: mostly there is a link then."""

STRANGERS_RATE, STRANGERS_BURST = 32.0, 256.0
"""Attempts a second, and at once, to dial nodes that have never answered this one. Of them there is only what others
say: whoever invents nodes must not have the whole mesh dial an address of his choice for him."""

Meet = Callable[[str], "tuple[str, WebSocketConnection | None]"]


class NodeDiallers:
    """All of one node's; in the server's hub.

    Args:
        seeds: URLs that are always dialled, whoever answers there.
        membership: Who is known; asked from the start on.
        meet: See `NodeDialler`.
        linked: Whether a node has a link, or is this one.
        refused: See `NodeDialler`.
    """

    def __init__(
        self,
        seeds: Sequence[str],
        membership: Callable[[], Membership],
        meet: Meet,
        linked: Callable[[str], bool],
        refused: Callable[[str], object],
    ) -> None:
        self._fixed = tuple(seeds)
        self._membership = membership
        self._meet = meet
        self._linked = linked
        self._refused = refused
        self._found: dict[Discovery, dict[str, float]] = {}
        self._seeds: dict[str, NodeDialler] = {}
        self._nodes: dict[str, NodeDialler] = {}
        self._strangers = TokenBucket(STRANGERS_RATE, time.monotonic(), burst=STRANGERS_BURST)

    @property
    def looked(self) -> bool:
        """Whether somebody has answered at each address that was given or found."""
        return bool(self._seeds) and all(dialler.looked for dialler in self._seeds.values())

    def seed(self, url: str, delay: float = 0.0) -> None:
        """Dial whoever is there, after so many seconds."""
        if url not in self._seeds:
            self._seeds[url] = dialler = NodeDialler(
                [url], None, self._meet_seed, self._linked, self._refused, delay=delay
            )
            dialler.start()

    def found(self, discovery: Discovery, entries: Sequence[Found]) -> None:
        """That is all that it finds now; `follow` acts on it."""
        mine = self._membership().me.addresses
        self._found[discovery] = {
            url: self._defer(None if entry.record is None else entry.record.id)
            for entry in entries for url in entry.urls if url not in mine
        }  # fmt: skip

    def follow(self) -> None:
        """Dial each node that has addresses, lost ones included, as a partition may end; and what was found."""
        wanted = {
            node: member.record.addresses
            for node, member in self._membership().members.items()
            if member.record.addresses and member.state != "left" and node != self._membership().me.id
        }
        for node, dialler in tuple(self._nodes.items()):
            if wanted.get(node) != dialler.urls:
                del self._nodes[node]
                dialler.stop()
        for node, urls in wanted.items():
            if node not in self._nodes:
                self._nodes[node] = dialler = NodeDialler(
                    urls, node, partial(self._meet_node, node), self._linked, self._refused, delay=self._defer(node)
                )
                dialler.start()
        self._follow_found()

    def link_ended(self, node: str) -> None:
        """Look again at once where it may be; but a register will not name much longer what has left."""
        if node in self._nodes:
            self._nodes[node].wake()
        left = self._has_left(node)
        for url, seed in self._seeds.items():
            if not left or seed.node != node or url in self._fixed:
                seed.wake()

    def stop(self) -> None:
        """Dial nobody any more."""
        for dialler in (*self._seeds.values(), *self._nodes.values()):
            dialler.stop()

    def _follow_found(self) -> None:
        """What discovery has found are seeds, for as long as it finds them."""
        found = {url: delay for urls in self._found.values() for url, delay in urls.items()}
        for url, delay in found.items():
            self.seed(url, delay)
        for url, dialler in tuple(self._seeds.items()):
            if url not in found and url not in self._fixed:
                del self._seeds[url]
                dialler.stop()

    def _meet_seed(self, url: str) -> tuple[str, WebSocketConnection | None]:
        """Nobody is dialled who is linked already."""
        for node, member in self._membership().members.items():
            if url in member.record.addresses and self._linked(node):
                return node, None
        return self._meet(url)

    def _meet_node(self, node: str, url: str) -> tuple[str, WebSocketConnection | None]:
        """When it is the turn of one that is known by hearsay."""
        while self._is_stranger(node) and not self._strangers.take(time.monotonic()):
            gevent.sleep(self._strangers.wait(time.monotonic()) + random.random())
        return self._meet(url)

    def _is_stranger(self, node: str) -> bool:
        member = self._membership().members.get(node)
        return member is None or member.proved_at == -inf

    def _has_left(self, node: str) -> bool:
        member = self._membership().members.get(node)
        return member is not None and (member.state == "left" or member.record.state != "ok")

    def _defer(self, node: str | None) -> float:
        """Seconds to wait before that one is dialled: it may dial this one, and one link is enough."""
        me = self._membership().me
        return DEFER if node is not None and me.addresses and node < me.id else 0.0
