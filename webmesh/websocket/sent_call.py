"""What a connection keeps of a call that it sends, and how a stream's items are sent for it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import gevent
from gevent import getcurrent

from webmesh.deadline import Deadline
from webmesh.exceptions import RequestTimeout
from webmesh.websocket.hub import Completion
from webmesh.websocket.item_stream import ITEMS_BEFORE_SWITCH, ItemStream

if TYPE_CHECKING:
    from webmesh.websocket.conversation import Conversation
    from webmesh.websocket.future import Future
    from webmesh.websocket.hub import HubThread
    from webmesh.websocket.stream import MessageStream


class SentCall:
    """A call's place in the session; lives in the hub."""

    __slots__ = ("completion", "conversation", "home", "request")

    def __init__(self, conversation: Conversation, home: HubThread, completion: Completion[Any]) -> None:
        self.conversation = conversation
        self.home = home
        self.completion = completion
        self.request: Any = None

    def start(self, path: str, payload: Any, seconds: float | None, headers: dict[str, str] | None) -> None:
        """Send it; raises as `Conversation.ask`."""
        self.request = self.conversation.ask(path, payload, self.completion, timeout=seconds, headers=headers)

    def start_in_time(self, future: Future, payload: Any, headers: dict[str, str] | None) -> None:
        """`start` when there is room for it, in a greenlet.

        Raises:
            RequestTimeout: There was none before its time was up; nothing is sent.
        """
        await_room(self.conversation.stream, future.path, future.deadline, future.timeout)
        if not self.completion.done:  # given up meanwhile
            self.start(future.path, payload, future.deadline.remaining(), headers)

    def start_or_fail(self, future: Future, payload: Any, headers: dict[str, str] | None) -> None:
        """In the hub: `start` for a caller in another thread, who gets what goes wrong from the completion."""
        if self.completion.done:
            return
        full = self.conversation.stream.full
        if full and getcurrent() is self.home.hub:
            gevent.spawn(self.start_or_fail, future, payload, headers)
            return
        try:
            if full:
                self.start_in_time(future, payload, headers)
            else:
                self.start(future.path, payload, future.timeout, headers)
        except Exception as error:  # the caller's thread is where it belongs
            self.completion.fail(error)

    def abandon(self) -> None:
        """Tell the peer that nobody waits; from any thread."""
        if not self.home.inside():
            self.home.post(self.abandon)
        elif self.request is not None:
            self.conversation.abandon(self.request)


def await_room(stream: MessageStream, path: str, deadline: Deadline, seconds: float | None) -> None:
    """Wait until there is room, and all who have waited before have gone on; in the hub.

    Raises:
        RequestTimeout: There was none before *deadline*, which was *seconds* away.
    """
    try:
        stream.drain(deadline.remaining())
    except TimeoutError:
        raise RequestTimeout(path, 0.0 if seconds is None else seconds) from None


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
