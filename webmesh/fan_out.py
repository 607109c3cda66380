"""Fan-out: one publication to all who subscribe to its topic, encoded and framed once for those who get equal bytes.

Decides in which order and in which pieces. Who subscribes is `subscribers`, what becomes of a delivery is
`peer_subscriber`. Lives in the node's hub.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import gevent

from webmesh.exceptions import EncodeError
from webmesh.observer import Observer
from webmesh.peer_subscriber import PeerSubscriber, delivered, expiry
from webmesh.protocol.data_frames import server_frame
from webmesh.protocol.kept_deliveries import Shared, shared
from webmesh.websocket.hub import Completion
from webmesh.websocket.outgoing import Policy

if TYPE_CHECKING:
    from webmesh.acknowledged_subscriber import PeerDeliveries
    from webmesh.protocol.publication import Publication
    from webmesh.subscribers import PatternEntry
    from webmesh.topic_options import TopicOptions

    _Letters = Callable[[PeerSubscriber], PeerDeliveries]

AT_ONCE = 256
"""Receivers up to which a publication goes out in the greenlet that published it."""
SLICE = 64
"""Receivers between two looks at the clock."""
HOLD = 0.005
"""Seconds for which a fan-out may hold the hub before others are served."""
MOST_JOBS = 64
"""Publications that wait for their fan-out before those who publish wait too."""

_Group = tuple[Any, list[int], Collection[PeerSubscriber]]
"""A serializer, the ids that its receivers know their subscriptions by, and the receivers."""
_Deliver = Callable[[Sequence[PeerSubscriber], Shared, bytes, Policy], None]


class FanOut:
    """The deliveries of one node, in the order of publication.

    Args:
        letters: Of a peer, what it has to acknowledge.
    """

    def __init__(
        self, observer: Observer, letters: _Letters, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._observer = observer
        self._letters = letters
        self._clock = clock
        self._jobs: deque[tuple[Publication, TopicOptions, list[_Group]]] = deque()
        self._room: list[Completion[None]] = []
        self._running = False

    def send(self, publication: Publication, options: TopicOptions, entries: list[PatternEntry]) -> None:
        """Deliver to all who subscribe now; never waits. What is too much for one turn of the hub goes on by itself."""
        groups = list(_groups(entries))
        for entry in entries:
            for taker in tuple(entry.takers):
                taker.take(publication)
        if not groups:
            return
        if not self._jobs and sum(len(peers) for _, _, peers in groups) <= AT_ONCE:
            for _ in self._deliver(publication, options, groups, _deliver_to_few):
                pass
            return
        # Who subscribes later is not meant; who leaves meanwhile is passed over.
        fixed: list[_Group] = [(serializer, subs, tuple(peers)) for serializer, subs, peers in groups]
        self._jobs.append((publication, options, fixed))
        if not self._running:
            self._running = True
            gevent.spawn(self._work)

    def wait_room(self) -> None:
        """For who publishes: wait while too many publications wait for their fan-out. The hub itself does not wait."""
        while len(self._jobs) > MOST_JOBS and gevent.getcurrent() is not gevent.get_hub():
            room: Completion[None] = Completion(gevent.get_hub())
            self._room.append(room)
            room.wait()

    def _work(self) -> None:
        """One job after another, each to its end, so that everybody gets them in order."""
        try:
            while self._jobs:
                self._give_way_in(self._deliver(*self._jobs[0], PeerSubscriber.deliver_to_all))
                self._jobs.popleft()
                if len(self._jobs) <= MOST_JOBS:
                    self._wake()
        finally:
            self._running = False
            self._wake()

    def _give_way_in(self, pieces: Iterator[None]) -> None:
        until = self._clock() + HOLD
        for _ in pieces:
            if self._clock() > until:
                gevent.sleep(0)
                until = self._clock() + HOLD

    def _wake(self) -> None:
        waiting, self._room = self._room, []
        for room in waiting:
            room.succeed(None)

    def _deliver(
        self, publication: Publication, options: TopicOptions, groups: list[_Group], deliver: _Deliver
    ) -> Iterator[None]:
        """Send to each group; yields now and then."""
        loose = options.slow_peer != "close" or publication.conflate_key is not None
        for serializer, subs, peers in groups:
            try:
                data = serializer.serialize(delivered(publication, subs, loose=loose))
            except EncodeError:  # as bytes for those who speak JSON
                self._observer.refused("delivery", "not encodable")
                for peer in peers:
                    peer.lose(publication, subs, "encoding")
                continue
            message = shared(data, len(peers), None if publication.ttl is None else expiry(publication, subs), subs)
            if options.ack:  # each has an id of its own, and is written when its turn comes
                yield from self._put(publication, options, subs, peers, message[1])
                continue
            frame = server_frame(data)
            for some in _slices(peers, publication.publisher if publication.exclude_self else None):
                if loose:
                    _send_loose(some, message, frame, options, publication, subs)
                else:
                    deliver(some, message, frame, options.slow_peer)
                yield

    def _put(
        self,
        publication: Publication,
        options: TopicOptions,
        subs: list[int],
        peers: Collection[PeerSubscriber],
        size: int,
    ) -> Iterator[None]:
        for some in _slices(peers, publication.publisher if publication.exclude_self else None):
            for peer in some:
                if not peer.over:
                    self._letters(peer).put(publication, options, subs, size)
            yield


def _deliver_to_few(peers: Sequence[PeerSubscriber], message: Shared, frame: bytes, policy: Policy) -> None:
    for peer in peers:
        peer.deliver(message, frame, policy)


def _send_loose(
    peers: Sequence[PeerSubscriber],
    message: Shared,
    frame: bytes,
    options: TopicOptions,
    publication: Publication,
    subs: list[int],
) -> None:
    for peer in peers:
        peer.deliver_loose(message, frame, options, publication, subs)


def _slices(peers: Collection[PeerSubscriber], excluded: str | None) -> Iterator[Sequence[PeerSubscriber]]:
    """*peers* in pieces, without the one of that name."""
    several = list(peers) if excluded is None else [peer for peer in peers if peer.name != excluded]
    return (several[start : start + SLICE] for start in range(0, len(several), SLICE))


def _groups(entries: list[PatternEntry]) -> Iterator[_Group]:
    """Who gets equal bytes."""
    if len(entries) == 1 and len(entries[0].ids) <= 1:
        for (serializer, sub), peers in entries[0].peers.items():
            if peers:
                yield serializer, [sub], peers
        return
    forms = [(form, peers) for entry in entries for form, peers in entry.peers.items() if peers]
    several = _several_times([peers for _, peers in forms])
    found: dict[PeerSubscriber, list[int]] = {}
    for (serializer, sub), peers in forms:
        here = peers.keys() & several
        for peer in here:
            found.setdefault(peer, []).append(sub)
        if not here:
            yield serializer, [sub], peers
        elif len(here) < len(peers):
            others = dict(peers)
            for peer in here:
                del others[peer]
            yield serializer, [sub], others
    alike: dict[tuple[Any, tuple[int, ...]], list[PeerSubscriber]] = {}
    for peer, subs in found.items():
        alike.setdefault((peer.serializer, tuple(subs)), []).append(peer)
    for (serializer, ids), members in alike.items():
        yield serializer, list(ids), members


def _several_times(forms: list[dict[PeerSubscriber, None]]) -> set[PeerSubscriber]:
    """Who is in more than one of them. What the largest alone has is not looked at: mostly that are nearly all."""
    largest = max(forms, key=len, default={})
    seen: set[PeerSubscriber] = set()
    several: set[PeerSubscriber] = set()
    for peers in forms:
        if peers is not largest:
            several |= peers.keys() & seen
            seen |= peers.keys()
    return several | (largest.keys() & seen)
