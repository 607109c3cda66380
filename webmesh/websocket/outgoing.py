"""What waits for a slow peer's socket: whole frames in order, and what gives way when there are too many.

Pure: the socket and the limit's value are the stream's. A frame that the socket may have begun is written to its
end before anything else; then come ping, pong and a close that hurries, then messages. Frames are queued encoded:
each stands alone, compressed ones too (`protocol.deflate` shares no context), so any may be left out, and a frame
for many receivers is kept once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Literal, TypeAlias, get_args

from webmesh.exceptions import ConfigurationError

Policy: TypeAlias = Literal["wait", "close", "drop_oldest", "drop_newest"]
"""What happens to a message for a peer whose queue is full: the sender waits, the peer is cut off with 4008, the
oldest messages of this policy give way, or the message itself does."""
POLICIES: Final = get_args(Policy)

CHUNK: Final = 16 * 1024
"""Bytes of small frames that are begun together. Not less than a TLS record: OpenSSL may hold one of what it has
refused, and must get the same bytes again. Not much more, for a ping waits behind it."""
ENTRY: Final = 280
"""Bytes counted for each queued frame besides its own: what this queue takes for it at most (measured)."""


def checked_policy(policy: str) -> Policy:
    """*policy*, if there is such a one.

    Raises:
        ConfigurationError: There is not.
    """
    if policy not in POLICIES:
        raise ConfigurationError(f"slow_peer must be one of {', '.join(POLICIES)}, not {policy!r}")
    return policy  # type: ignore[return-value]


def check_key(key: object) -> None:
    """Nothing, if *key* can stand for messages that replace each other.

    Raises:
        ConfigurationError: It cannot be hashed.
    """
    try:
        hash(key)
    except TypeError:
        raise ConfigurationError(f"a conflate_key must be hashable, not {type(key).__name__}") from None


class Outgoing:
    """The queue of one connection.

    Args:
        on_drop: Called with the policy for each message that gives way.

    Attributes:
        size: Bytes of memory that it takes; 0 exactly when it is empty.
        dropped: Messages that gave way, so far.
        conflated: Messages that a newer one with the same key has replaced, so far.
    """

    __slots__ = (
        "_begun", "_close", "_droppable", "_droppable_size", "_entries", "_number", "_on_drop", "_ping", "_pong",
        "conflated", "dropped", "size",
    )  # fmt: skip

    def __init__(self, on_drop: Callable[[Policy], object] = lambda policy: None) -> None:
        self.size = 0
        self.dropped = 0
        self.conflated = 0
        self._on_drop = on_drop
        self._begun: bytes | memoryview = b""
        self._ping = self._pong = self._close = b""
        # By number, or by (key,). Ordered: leaving out any, and taking the oldest, costs the same however many wait.
        self._entries: OrderedDict[int | tuple[Hashable], bytes] = OrderedDict()
        self._droppable: OrderedDict[int | tuple[Hashable], None] | None = None  # those of drop_oldest
        self._droppable_size = 0
        self._number = 0

    # ------------------------------------------------------------------- filling

    def begin(self, frames: Sequence[bytes], sent: int) -> None:
        """Take over a first write, of *frames* at once, of which the socket took *sent* bytes."""
        begun: list[bytes] = []
        position = first = 0
        for number, frame in enumerate(frames):
            if position >= sent + CHUNK:
                self.add(frames[number:])
                break
            end = position + len(frame)
            if end > sent:
                first = first if begun else sent - position
                begun.append(frame)
            position = end
        self._begun = memoryview(b"".join(begun))[first:]
        self.size += len(self._begun)

    def add(self, frames: Sequence[bytes]) -> None:
        """Queue frames that never give way."""
        group: list[bytes] = []
        size = 0
        for frame in frames:
            if group and size + len(frame) > CHUNK:
                self._append(b"".join(group))
                group, size = [], 0
            group.append(frame)
            size += len(frame)
        if group:
            self._append(group[0] if len(group) == 1 else b"".join(group))

    def _append(self, frame: bytes) -> None:
        self._number += 1
        self._entries[self._number] = frame
        self.size += len(frame) + ENTRY

    def offer(self, frame: bytes, limit: int, policy: Policy, key: Hashable = None) -> bool:
        """Queue a message's frame if there is room, or room can be made; false when it was left out.

        Args:
            limit: Bytes that may be queued. With "wait" the caller has waited, so it is not looked at.
            key: A queued message with the same key is replaced, in its place.
        """
        place: int | tuple[Hashable] = self._number + 1 if key is None else (key,)
        before = self._cost(place)
        cost = len(frame) + ENTRY
        if policy == "drop_oldest" and self._can_fit(place, before, cost, limit):
            while self.size - before + cost > limit and self._droppable:
                if self._leave_out_oldest() == place:
                    before = 0
        if policy != "wait" and self.size - before + cost > limit:
            self._drop(policy)
            return False
        if before:
            self.conflated += 1
        else:
            self._number += 1
            if policy == "drop_oldest":
                if self._droppable is None:
                    self._droppable = OrderedDict()
                self._droppable[place] = None
        if self._droppable is not None and place in self._droppable:
            self._droppable_size += cost - before
        self._entries[place] = frame
        self.size += cost - before
        return True

    def _can_fit(self, place: int | tuple[Hashable], before: int, cost: int, limit: int) -> bool:
        """Whether there is room once all that may be left out is; else nothing is to go in vain."""
        own = before if self._droppable is None or place not in self._droppable else 0
        return self.size - self._droppable_size - own + cost <= limit

    def replaces(self, frame: bytes, limit: int, key: Hashable) -> bool:
        """Whether a message with this key waits, whose room is enough for *frame*, or with what else is free."""
        if key is None or (key,) not in self._entries:
            return False
        more = len(frame) + ENTRY - self._cost((key,))
        return more <= 0 or self.size + more <= limit

    def _cost(self, place: int | tuple[Hashable]) -> int:
        frame = self._entries.get(place)
        return 0 if frame is None else len(frame) + ENTRY

    def _leave_out_oldest(self) -> int | tuple[Hashable]:
        assert self._droppable is not None
        place, _ = self._droppable.popitem(last=False)
        cost = len(self._entries.pop(place)) + ENTRY
        self.size -= cost
        self._droppable_size -= cost
        self._drop("drop_oldest")
        return place

    def _drop(self, policy: Policy) -> None:
        self.dropped += 1
        self._on_drop(policy)

    # ------------------------------------------------------------- what may hurry

    def ping(self, frame: bytes) -> None:
        """Ask for a sign of life ahead of the messages; one that waits is enough."""
        self.size += len(frame) - len(self._ping)
        self._ping = frame

    def pong(self, frame: bytes) -> None:
        """Answer a ping ahead of the messages; only the newest counts (RFC 6455 section 5.5.3)."""
        self.size += len(frame) - len(self._pong)
        self._pong = frame

    def cut(self, close: bytes) -> None:
        """Leave out all that is not begun, and end with *close*."""
        self.dropped += len(self._entries)
        self._entries.clear()
        self._droppable = None
        self._droppable_size = 0
        self._ping = self._pong = b""
        self._close = close
        self.size = len(self._begun) + len(close)

    def clear(self) -> None:
        """Nothing is written any more."""
        self._entries.clear()
        self._droppable = None
        self._droppable_size = 0
        self._begun = self._ping = self._pong = self._close = b""
        self.size = 0

    # ------------------------------------------------------------------- writing

    def next(self) -> bytes | memoryview:
        """What to write next; the same again until `sent` tells that some of it was. Only while `size` is not 0."""
        if not self._begun:
            self._begun = self._take_control() or self._take_messages()
        return self._begun

    def _take_control(self) -> bytes:
        control = self._ping + self._pong + self._close
        self._ping = self._pong = self._close = b""
        return control

    def _take_messages(self) -> bytes:
        """The oldest messages, about a chunk together."""
        taken: list[bytes] = []
        size = 0
        while self._entries and size < CHUNK:
            place, frame = next(iter(self._entries.items()))
            if taken and size + len(frame) > CHUNK:
                break
            del self._entries[place]
            if self._droppable is not None:
                if place in self._droppable:
                    del self._droppable[place]
                    self._droppable_size -= len(frame) + ENTRY
            taken.append(frame)
            size += len(frame)
            self.size -= ENTRY
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def sent(self, count: int) -> None:
        """The socket took so many bytes of `next`."""
        self.size -= count
        self._begun = memoryview(self._begun)[count:] if count < len(self._begun) else b""
