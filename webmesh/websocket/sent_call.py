"""What a connection keeps of a call that it sends, and how a stream's items are sent for it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import gevent

from webmesh.websocket.item_stream import ITEMS_BEFORE_SWITCH, ItemStream

if TYPE_CHECKING:
    from webmesh.websocket.conversation import Conversation
    from webmesh.websocket.hub import HubThread
    from webmesh.websocket.roles import Waiter


class SentCall:
    """A call's place in the session; lives in the hub."""

    __slots__ = ("completion", "conversation", "home", "request")

    def __init__(self, conversation: Conversation, home: HubThread, completion: Waiter) -> None:
        self.conversation = conversation
        self.home = home
        self.completion = completion
        self.request: Any = None

    def start(self, path: str, payload: Any, seconds: float | None, headers: dict[str, str] | None) -> None:
        """Send it; raises as `Conversation.ask`."""
        self.request = self.conversation.ask(path, payload, self.completion, timeout=seconds, headers=headers)

    def start_or_fail(self, path: str, payload: Any, seconds: float | None, headers: dict[str, str] | None) -> None:
        """`start` for a caller in another thread, who gets what goes wrong from the completion."""
        try:
            self.start(path, payload, seconds, headers)
        except Exception as error:  # the caller's thread is where it belongs
            self.completion.fail(error)

    def abandon(self) -> None:
        """Tell the peer that nobody waits; from any thread."""
        if not self.home.inside():
            self.home.post(self.abandon)
        elif self.request is not None:
            self.conversation.abandon(self.request)


def send_in_background(stream: ItemStream, items: Iterable[Any], *, in_hub: bool) -> None:
    """Send an iterable's items beside whoever reads the stream."""
    if in_hub:
        gevent.spawn(send_all, stream, items)
    else:  # the iterable may block, which must not hold the hub
        threading.Thread(target=send_all, args=(stream, items), name=f"items {stream.path}", daemon=True).start()


def send_all(stream: ItemStream, items: Iterable[Any]) -> None:
    """Send an iterable's items, then the end. Runs in a greenlet or thread of its own."""
    try:
        for number, item in enumerate(items, 1):
            stream.send(item)
            if number % ITEMS_BEFORE_SWITCH == 0:
                gevent.sleep(0)
        stream.end()
    except Exception as error:  # the edge around the user's iterable: whoever reads the stream must see it
        stream.broken(error)
