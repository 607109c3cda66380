"""Stand-ins for the connections of subscribers: they note what they are sent."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

from webmesh.message_serializers import StandardJsonSerializer
from webmesh.options import Limits
from webmesh.peer_subscriber import PeerSubscriber
from webmesh.protocol.retained import Room
from webmesh.protocol.session import Session


class CountingSerializer(StandardJsonSerializer):
    """Counts what it writes."""

    def __init__(self) -> None:
        super().__init__(Limits())
        self.written = 0

    def serialize(self, obj: Any) -> Any:
        self.written += 1
        return super().serialize(obj)


class FakeStream:
    """Takes everything while it is not `full`; what it takes is in `sent`, decoded, and in `frames`, as it came."""

    stalled = False
    shares_frames = True

    def __init__(self) -> None:
        self.full = False
        self.state = "open"
        self.sent: list[dict[str, Any]] = []
        self.frames: list[bytes] = []
        self.keys: list[Hashable] = []
        self.closed: list[int] = []

    def offer_frame(self, frame: bytes, policy: str, conflate_key: Hashable = None) -> bool:
        if self.full and policy != "wait":
            return False
        self.frames.append(frame)
        self.keys.append(conflate_key)
        self.sent.append(json.loads(frame[frame.index(b"{") :]))
        return True

    def push_frame(self, frame: bytes, policy: str) -> bool:
        return self.offer_frame(frame, policy)

    def offer(self, message: str | bytes, policy: str, conflate_key: Hashable = None) -> bool:
        data = message.encode() if isinstance(message, str) else message
        return self.offer_frame(data, policy, conflate_key)

    def cut_off(self, code: int, reason: str) -> None:
        self.state = "closing"
        self.closed.append(code)

    @property
    def payloads(self) -> list[Any]:
        return [message["data"] for message in self.sent]


class FakeConversation:
    """One connection's."""

    def __init__(self, serializer: Any) -> None:
        self.stream: Any = FakeStream()
        self.serializer = serializer
        self.session = Session(Limits(), dialled=False)


class FakeOwner:
    """A session, or a connection: counts how often it is asked for a receipt."""

    def __init__(self) -> None:
        self.asked = 0

    def ask_receipt(self) -> None:
        self.asked += 1


def fake_peer(serializer: Any, room: Room | None = None) -> tuple[PeerSubscriber, FakeStream]:
    """A peer with its stream; one with a *room* has a session."""
    conversation: Any = FakeConversation(serializer)
    return PeerSubscriber(conversation, FakeOwner(), room), conversation.stream
