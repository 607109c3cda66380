"""`TopicFeed`: what one subscription gets of what came, in order and once.

Decides what is delivered, dropped or told as a gap, and when the past is fetched: after a reconnect, before a live
message that others are missing before, and for a slow subscriber of a topic with history, instead of dropping what its
queue has no room for. Lives in the client's hub.

A topic whose messages are numbered has a `Place`, in one of these states:

- none: no number has come. The first message makes a place that is level.
- replaying (`until`): some of the past comes like live messages, with holes. The first number beyond makes it level.
- level: the next number is delivered, one that was had is dropped, a hole or another epoch makes it fall behind. What
  is to be acknowledged may leave a hole: the node sees to it that nothing is missing.
- behind (`held`, and in `_behind`): live messages newer than `last` wait, with their acknowledgements. What the node
  delivers again of older ones goes on. A worker, and room in the queue, make it fetching.
- fetching (`held` is the one it began with): a page moves `last`, never beyond the first that is held. One more page,
  or no connection: behind. All has come: level, and what was held is taken again, one after another.
- gap: a page that is not complete, or none. Told, then level before the first that is held. Of a former epoch only
  what is to be acknowledged is delivered after that, and moves nothing; unless the node has gone back to it.

A reconnect in the same session leaves the state. A new session lets go what was held, goes back to before what was not
acknowledged, and what comes again of the handled (`handled`) or being handled (`_flights`) is known by that. What was
fetched of a topic with acknowledgements counts as delivered: if the node delivers it too, that is answered by its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import gevent
from gevent.event import Event

from webmesh.exceptions import RemoteError, ReplyLost, RequestTimeout, TransportError
from webmesh.message_queue import MessageQueue
from webmesh.messages import HistoryPage, Message, Position
from webmesh.protocol.publication import CONFLATE
from webmesh.protocol.topic_positions import OwnOffsets, Place, TopicPositions, Verdict
from webmesh.topic_arrivals import (
    Acknowledge, Arrival, Flight, flight_of, is_complete, nobody, read_message, read_position,
    to_acknowledge,
)  # fmt: skip

if TYPE_CHECKING:
    from webmesh.protocol.envelope import TopicMessage

Fetch = Callable[[str, Position, int], HistoryPage]
"""What is kept of a topic after a position, at most so many; one attempt. Raises `TransportError` where there is no
connection, `RemoteError` where the node will not tell."""

PAGE = 1000
"""Messages that are fetched at a time: as many as a node gives."""
WORKERS = 8
"""Topics of one subscription that are fetched at once: after a reconnect there may be thousands."""
NEVER = frozenset({"not_found", "unimplemented", "permission_denied", "failed_precondition", "invalid_argument"})
"""Codes of a node that will not tell a topic's past later either. Whatever else goes wrong may go well next time."""
ATTEMPTS = 5
"""How often a page is asked for that the node cannot give at the moment."""
PAUSE = 0.5
"""Seconds between two of them, growing by as much."""


class TopicFeed:
    """The way of one subscription's messages into its queue.

    Args:
        pattern: What it subscribes to.
        group: Whether it shares what comes with others, so that every second message is no hole.
        own: This program's own publications that are not delivered to it.
        wake: Called when something was put into *queue*.

    Attributes:
        recovered: Whether everything between the last loss and now has come; `None` where that was never in question.
    """

    def __init__(
        self,
        pattern: str,
        queue: MessageQueue,
        fetch: Fetch,
        *,
        own: OwnOffsets,
        wake: Callable[[], object],
        group: bool = False,
    ) -> None:
        self.recovered: bool | None = None
        self._pattern = pattern
        self._exact = "*" not in pattern
        self._queue = queue
        self._fetch = fetch
        self._own = own
        self._wake = wake
        self._ordered = not group
        self._positions = TopicPositions()
        self._loose = self._loose_unnumbered = False  # whether anything came that may be left out
        self._unkept: set[str] = set()  # numbered, but the node does not tell their past
        self._behind: deque[str] = deque()
        self._workers: list[gevent.Greenlet[[], None]] = []
        self._room = Event()
        self._flights: WeakValueDictionary[Flight, Arrival] = WeakValueDictionary()

    # ------------------------------------------------------------ the subscription

    @property
    def position(self) -> Position | None:
        """Where it stands, if it has one topic and that is numbered."""
        place = self._positions.get(self._pattern) if self._exact else None
        return None if place is None else place.position

    def began(self, answer: dict[str, Any], since: object) -> None:
        """The node has answered the first `$subscribe`, which asked for *since*."""
        told = read_position(answer)
        if isinstance(since, Position):
            self.recovered = answer.get("recovered") is True
            if self.recovered:
                self._positions.put(self._pattern, Place(since.offset, since.epoch))
                return
            self._tell_gap(self._pattern, "not kept", told)
        elif told is not None and self._exact:
            self._positions.put(self._pattern, Place(None, told.epoch, told.offset))
            return
        self._move(self._pattern, told)

    def began_anew(self, answer: dict[str, Any], since: Position | None) -> None:
        """The node has answered a further `$subscribe`, after a loss: a new session knew of none."""
        told = read_position(answer)
        if not self._ordered:
            return
        if not self._exact:
            self.recovered = False
            for topic in self._positions.topics():
                self._go_back(topic)
            self._put(Message({"reason": "reconnected", "pattern": True}, self._pattern, event="gap"))
            self._fetch_all()
            return
        place = self._positions.get(self._pattern)
        if since is not None and answer.get("recovered") is True and place is not None:
            self.recovered = True
            self._go_back(self._pattern)
            if place.epoch != since.epoch:
                place.move(since.offset, since.epoch)
            return
        self.recovered = False
        self._tell_gap(self._pattern, "reconnected" if since is None else "not kept", told)
        self._move(self._pattern, told)

    def _go_back(self, topic: str) -> None:
        """To before what was not acknowledged: the node that waited for that is gone. What is being handled comes again
        and is known by that; only what was rejected is handled again."""
        place = self._positions.get(topic)
        if place is None:
            return
        place.release()  # it comes again, and the node that waited for the answers is gone
        if place.unacknowledged:
            place.go_back()
            epoch, offsets = place.epoch, tuple(place.unacknowledged)  # others acknowledge meanwhile
            place.unacknowledged = {offset for offset in offsets if (topic, epoch, offset) in self._flights}

    def _move(self, topic: str, told: Position | None) -> None:
        if told is None or not self._exact:
            self._positions.drop(topic)
        else:
            self._positions.put(topic, Place(told.offset, told.epoch))

    # -------------------------------------------------------------- what has come

    def take(self, message: TopicMessage, acknowledge: Acknowledge | None = None) -> None:
        """Deliver one message; *acknowledge* where the node waits for that."""
        if message.event is not None:
            if message.event == "gap":
                self._take_gap(message)
            elif message.event == "presence":
                self._put(read_message(message))
        elif acknowledge is not None:
            self._take_kept(message, acknowledge)
        elif message.offset is None or message.epoch is None or not self._ordered:
            self._loose_unnumbered |= message.loose
            self._put(read_message(message))
        else:
            self._take_numbered(message, message.offset, str(message.epoch))

    def _take_numbered(self, message: TopicMessage, offset: int, epoch: str) -> None:
        topic = message.topic
        place = self._positions.get(topic)
        if place is not None and place.behind:
            place.hold(message, None)
            return
        self._loose |= message.loose
        loose = message.loose or bool(message.headers and CONFLATE in message.headers)
        if self._queue.full and not (loose or self._queue.closes or message.retained or topic in self._unkept):
            if place is None:
                place = self._positions.put(topic, Place(offset - 1, epoch))
            if place.replays(offset, epoch):
                place.move(offset - 1, epoch)
            if place.epoch == epoch and offset > place.last:
                self._fall_behind(topic, place, message)
                return
        verdict = self._positions.judge(topic, offset, epoch)
        if verdict is Verdict.HAD or (topic, epoch, offset) in self._flights:
            return
        if place is not None and place.handled is not None and place.epoch == epoch and offset in place.handled:
            return
        if verdict is Verdict.JUMP and place is not None and not self._jump(message, place, offset, epoch):
            return
        self._put(read_message(message))

    def _jump(self, message: TopicMessage, place: Place, offset: int, epoch: str) -> bool:
        """Others are missing before this one; whether it is delivered now all the same."""
        topic = message.topic
        if epoch == place.epoch:
            if message.headers and CONFLATE in message.headers:  # it stands for those that are missing
                place.move(offset, epoch)
                return True
            if self._own.cover(topic, epoch, place.last + 1, offset - 1):
                place.move(offset, epoch)
                return True
        if message.loose or topic in self._unkept:  # left out on purpose; or there is nowhere to have them from
            self._tell_gap(topic, "slow" if message.loose else "lost", Position(offset - 1, epoch))
            place.move(offset, epoch)
            place.told = offset - 1
            return True
        self._fall_behind(topic, place, message)
        return False

    def _take_kept(self, message: TopicMessage, acknowledge: Acknowledge) -> None:
        """One that is delivered until it is acknowledged: the node sees to it that none is missing."""
        flight = flight_of(message)
        if flight is None:
            self._put(read_message(message, acknowledge))
            return
        in_order = message.offset is not None and self._ordered and flight not in self._flights
        if not (in_order and self._is_held(message, acknowledge)):
            self._put_kept(flight, message, acknowledge)

    def _put_kept(self, flight: Flight, message: TopicMessage, acknowledge: Acknowledge) -> None:
        known = self._flights.get(flight)
        if known is not None:  # it is still being handled, and the later delivery is the one that is answered
            known.acknowledge = acknowledge
            return
        arrival = self._flights[flight] = Arrival(acknowledge, partial(self._arrived, flight))
        self._put(read_message(message, arrival))

    def _is_held(self, message: TopicMessage, acknowledge: Acknowledge) -> bool:
        """Whether one that is to be acknowledged is not delivered, or not now; otherwise it counts as delivered."""
        topic, epoch, offset = message.topic, str(message.epoch), message.offset or 0
        place = self._positions.get(topic)
        if place is None:
            place = self._positions.put(topic, Place(offset, epoch))
        elif place.epoch != epoch or (place.behind and offset > place.last):
            if not place.behind:
                self._fall_behind(topic, place)
            place.hold(message, acknowledge)
            return True
        elif place.done(offset):
            acknowledge(None)
            return True
        place.depart(offset)
        if offset > place.last:
            place.move(offset, epoch)
        return False

    def _arrived(self, flight: Flight, error: Exception | None) -> None:
        """From whichever thread has handled it."""
        topic, epoch, offset = flight
        place = self._positions.get(topic)
        if error is None and place is not None and place.epoch == epoch:
            place.arrive(offset)
        self._flights.pop(flight, None)

    def _take_gap(self, message: TopicMessage) -> None:
        data = message.data if isinstance(message.data, dict) else {}
        reason = str(data.get("reason", "lost"))
        if data.get("pattern") is True:
            place = self._positions.get(self._pattern) if self._exact else None
            if place is not None and self._pattern not in self._unkept:
                self._fall_behind(self._pattern, place)  # a gap is told if what is missing cannot be had
                return
            self.recovered = False
            self._put(Message({**data, "reason": reason}, self._pattern, event="gap"))
            self._fetch_all()
            return
        if message.offset is None or message.epoch is None:
            self._put(Message({**data, "reason": reason}, message.topic, event="gap"))
            return
        place, told = self._positions.get(message.topic), Position(message.offset, str(message.epoch))
        if place is not None and place.behind:
            place.hold(message, None)
            return
        if place is None or place.epoch != told.epoch:
            self._positions.put(message.topic, Place(told.offset, told.epoch))
        elif told.offset <= place.told:
            return
        elif told.offset > place.last:
            place.move(told.offset, told.epoch)
        self._tell_gap(message.topic, reason, told)

    def _tell_gap(self, topic: str, reason: str, until: Position | None) -> None:
        offset, epoch = (None, None) if until is None else until
        self._put(Message({"reason": reason}, topic, offset=offset, epoch=epoch, event="gap"))

    def _put(self, message: Message) -> None:
        self._queue.put(message)
        self._wake()

    # ------------------------------------------------------------------- the past

    def _fetch_all(self) -> None:
        """All topics that are known may have missed something."""
        for topic in self._positions.topics():
            place = self._positions.get(topic)
            if place is not None and topic not in self._unkept:
                self._fall_behind(topic, place)

    def _fall_behind(self, topic: str, place: Place, message: TopicMessage | None = None) -> None:
        place.fall_behind()
        if message is not None:
            place.hold(message, None)
        if topic not in self._behind:
            self._behind.append(topic)
        self._work()

    def _work(self) -> None:
        self._workers = [worker for worker in self._workers if not worker.dead]
        if len(self._workers) < min(WORKERS, len(self._behind)):
            self._workers.append(gevent.spawn(self._catch_up))

    def resumed(self) -> None:
        """There is a connection again, in the same session: fetch what could not be, and what the node does not keep
        for who was cut off, as it may be left out."""
        if self._loose_unnumbered and self._ordered:
            data = {"reason": "reconnected"} if self._exact else {"reason": "reconnected", "pattern": True}
            self._put(Message(data, self._pattern, event="gap"))
        if self._loose:
            self._fetch_all()
            return
        for topic in self._positions.topics():
            place = self._positions.get(topic)
            if place is not None and place.behind and topic not in self._behind:
                self._behind.append(topic)
        self._work()

    def consumed(self) -> None:
        """Something was taken from the queue."""
        self._room.set()

    def _catch_up(self) -> None:
        """One page of one topic after another, as the subscriber takes them."""
        while self._behind:
            while self._queue.room * 2 < self._queue.most:
                self._room.clear()
                self._room.wait()
            if not self._behind:
                return
            topic = self._behind.popleft()
            place = self._positions.get(topic)
            if place is not None and place.behind and self._fetch_page(topic, place):
                self._behind.append(topic)

    def _fetch_page(self, topic: str, place: Place) -> bool:
        """Whether there is more to be fetched."""
        held, asked = place.held, Position(place.last, place.epoch)
        try:
            page = self._fetched(topic, asked, min(PAGE, max(1, self._queue.room)))
        except (TransportError, ReplyLost):
            return False  # `resumed`, or a new subscription, follows
        if place.held is not held:
            return False
        if page is None or not is_complete(page, asked):
            self._give_up(topic, place, page)
            return False
        live = place.first_held()
        stop = live.offset if live is not None and live.epoch == place.epoch else page.offset + 1
        for message in page.items:
            if message.offset is None or message.offset <= place.last:
                continue
            if message.offset >= stop:
                break
            if self._queue.full:
                return True
            place.fetch(message.offset, page.epoch)
            self._put_fetched(place, message)
        else:
            if asked.offset < place.last < min(page.offset, stop - 1):
                return True
        place.move(max(place.last, min(page.offset, stop - 1)), page.epoch)  # the time of others was over
        if live is not None and live.epoch != place.epoch:
            self._give_up(topic, place, page)
        else:
            self._release(place)
        return False

    def _put_fetched(self, place: Place, message: Message) -> None:
        """Deliver one of the past, unless it was; the subscriber acknowledges it where it does so with live ones."""
        flight = (message.topic, place.epoch, message.offset or 0)
        if self._own.has(*flight) or flight in self._flights or (place.handled and flight[2] in place.handled):
            return
        if place.unacknowledged is not None:
            place.depart(flight[2])
            arrival = self._flights[flight] = Arrival(nobody, partial(self._arrived, flight))
            message = to_acknowledge(message, arrival)
        self._put(message)

    def _fetched(self, topic: str, since: Position, most: int) -> HistoryPage | None:
        """The next page; `None` where there will be none."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._fetch(topic, since, most)
            except RequestTimeout:
                continue
            except RemoteError as error:
                if error.code in NEVER:
                    self._unkept.add(topic)
                    return None
                gevent.sleep(max(PAUSE * attempt, error.retry_after or 0.0))
        return None

    def _give_up(self, topic: str, place: Place, page: HistoryPage | None) -> None:
        """What is missing cannot be had."""
        self.recovered = False
        if page is not None:
            place.go_on(page.epoch)
        first = place.first_held()
        if first is not None:
            told: Position | None = Position(first.offset - 1, first.epoch)
        else:
            told = None if page is None else Position(page.offset, page.epoch)
        self._tell_gap(topic, "not kept", told)
        if told is None:
            place.release()
            self._positions.drop(topic)
        else:
            place.move(*told)
            place.told = told.offset
            self._release(place)

    def _release(self, place: Place) -> None:
        for message, acknowledge in place.release():
            flight = flight_of(message)
            if flight is not None and flight[1] in place.former:  # it was overtaken, and a gap was told
                if acknowledge is not None:
                    self._put_kept(flight, message, acknowledge)
            elif message.event is None or str(message.epoch) != place.epoch or message.offset > place.last:
                self.take(message, acknowledge)  # unless what it tells as lost was fetched

    def stop(self) -> None:
        """It is over."""
        gevent.killall(self._workers, block=False)
        self._behind.clear()
