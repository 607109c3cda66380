"""Who waits for room goes on in order, as far as there is some."""

from __future__ import annotations

import gevent
import pytest
from gevent.hub import get_hub

from tests.websocket.line import settle
from webmesh.websocket.room import IN_A_ROW, Room


class Setting:
    """A room with so many places, and a note of who came in."""

    def __init__(self, places: int = 0) -> None:
        self.places = places
        self.came: list[int] = []
        self.emptied = 0
        self.room = Room(get_hub(), lambda: self.places > 0, self.empty)

    def empty(self) -> None:
        self.emptied += 1

    def come(self, who: int, seconds: float | None = None) -> None:
        self.room.wait(seconds)
        self.came.append(who)
        self.places -= 1

    def spawn(self, count: int) -> list[gevent.Greenlet[[int], None]]:
        waiting = [gevent.spawn(self.come, number) for number in range(count)]
        settle()
        return waiting


def test_all_go_on_in_order_as_far_as_there_is_room():
    """Also more than go on in a row; it is told when nobody waits any more."""
    setting = Setting()
    waiting = setting.spawn(2 * IN_A_ROW + 1)
    setting.places = IN_A_ROW + 3
    setting.room.open()
    settle()
    assert list(range(IN_A_ROW + 3)) == setting.came
    assert not setting.emptied

    setting.places = 1000
    setting.room.open()
    gevent.joinall(waiting)
    settle()
    assert list(range(2 * IN_A_ROW + 1)) == setting.came
    assert setting.emptied


def test_who_leaves_takes_nobodys_place():
    """Killed, out of time, or by a timer of its own."""
    setting = Setting()
    killed, last = setting.spawn(2)
    killed.kill()
    with pytest.raises(TimeoutError):
        setting.room.wait(0)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0):
        setting.room.wait(60)

    setting.places = 1
    setting.room.open()
    last.join()
    assert [1] == setting.came
