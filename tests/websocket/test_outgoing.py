"""What waits for a slow peer: order, what gives way, what hurries, and the count of bytes."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webmesh.exceptions import ConfigurationError
from webmesh.websocket.outgoing import CHUNK, ENTRY, POLICIES, Outgoing, checked_policy

ROOM = 10**9


def written(queue: Outgoing, step: int = 10**9) -> bytes:
    """All that leaves, so many bytes at a time."""
    out = b""
    while queue.size:
        chunk = bytes(queue.next()[:step])
        out += chunk
        queue.sent(len(chunk))
    return out


def test_frames_leave_in_their_order():
    """However they came, and however few bytes the socket takes."""
    queue = Outgoing()
    queue.begin([b"aaaa", b"bbbb"], 2)
    queue.add([b"c", b"dd"])
    assert queue.offer(b"eee", ROOM, "drop_oldest")
    queue.add([b"f" * CHUNK, b"g"])
    queue.offer(b"hhh", ROOM, "close")

    assert b"aabbbbcddeee" + b"f" * CHUNK + b"ghhh" == written(queue, 3)
    assert 0 == queue.size == queue.dropped


@pytest.mark.parametrize("sent", [0, 1, 4, 5, 8])
def test_a_first_write_goes_on_where_the_socket_stopped(sent: int):
    """Also between two frames."""
    queue = Outgoing()
    queue.begin([b"aaaa", b"bbbb", b"cccc"], sent)

    assert b"aaaabbbbcccc"[sent:] == written(queue)


@pytest.mark.row(79)
def test_what_hurries_waits_only_for_what_was_begun():
    """Not more than about a chunk of small frames, and the one that is on its way."""
    queue = Outgoing()
    frames = [b"%05d" % number for number in range(CHUNK)]
    queue.begin(frames, 7)
    queue.ping(b"PING")
    queue.pong(b"old")
    queue.pong(b"PONG")
    out = written(queue, 1000)

    assert CHUNK <= out.index(b"PINGPONG") <= CHUNK + 1000
    assert b"".join(frames)[7:] == out.replace(b"PINGPONG", b"")
    assert b"old" not in out


@pytest.mark.row(24)
def test_one_ping_and_one_pong_wait_however_many_are_asked_for():
    """So a flood of pings takes no memory."""
    queue = Outgoing()
    queue.begin([b"aaaa"], 1)
    for number in range(1000):
        queue.ping(b"ping%03d" % number)
        queue.pong(b"pong%03d" % number)

    assert 3 + 14 == queue.size
    assert b"aaaping999pong999" == written(queue)


@pytest.mark.row(66)
def test_the_newest_is_left_out():
    """What waits already keeps its place; smaller ones may still find room."""
    drops: list[str] = []
    queue = Outgoing(drops.append)
    queue.begin([b"a" * 10], 1)
    limit = 9 + 2 * (ENTRY + 10)
    assert [True, True, False] == [queue.offer(byte * 10, limit, "drop_newest") for byte in (b"b", b"c", b"d")]

    assert ["drop_newest"] == drops
    assert 1 == queue.dropped
    assert b"a" * 9 + b"b" * 10 + b"c" * 10 == written(queue)


@pytest.mark.row(66)
def test_the_oldest_give_way():
    """As many as the new one needs; only those of the same policy, and never what was begun."""
    drops: list[str] = []
    queue = Outgoing(drops.append)
    queue.begin([b"a" * 10], 1)
    queue.add([b"R" * 10])
    limit = 9 + 4 * (ENTRY + 10)
    for byte in b"bcd":
        assert queue.offer(bytes([byte]) * 10, limit, "drop_oldest")
    assert queue.offer(b"e" * (ENTRY + 20), limit, "drop_oldest")

    assert ["drop_oldest"] * 2 == drops
    assert not queue.offer(b"f" * limit, limit, "drop_oldest")  # nothing could make room for it
    assert 3 == queue.dropped
    assert b"a" * 9 + b"R" * 10 + b"d" * 10 + b"e" * (ENTRY + 20) == written(queue)


def test_a_queue_that_nobody_takes_from_does_not_grow():
    """However long oldest ones are left out, nothing stays of them."""
    queue = Outgoing()
    queue.begin([b"a" * 10], 1)
    limit = 100 * (ENTRY + 10)
    for number in range(100_000):
        queue.offer(b"%010d" % number, limit, "drop_oldest")

    assert queue.size <= limit
    assert 99 == len(queue._entries) == len(queue._droppable or ())
    assert 99_901 == queue.dropped
    assert b"0000099999" == written(queue)[-10:]


def test_only_the_newest_of_a_key_stays():
    """In the place of the first; one that was begun is no longer replaced."""
    queue = Outgoing()
    queue.begin([b"x"], 0)
    for value in (b"gold 1", b"iron 1", b"gold 2", b"gold three"):
        assert queue.offer(value, ROOM, "drop_newest", value[:4])
    assert [True, True, False, False] == [
        queue.replaces(b"x", 0, b"gold"), queue.replaces(b"x" * 99, ROOM, b"gold"),
        queue.replaces(b"x" * 99, 0, b"gold"), queue.replaces(b"x", ROOM, b"lead"),
    ]  # fmt: skip
    assert 2 == queue.conflated

    assert b"x" == bytes(queue.next())
    queue.sent(1)
    assert b"gold threeiron 1" == bytes(queue.next())
    assert queue.offer(b"gold 4", ROOM, "drop_newest", b"gold")
    assert b"gold threeiron 1gold 4" == written(queue)
    assert 2 == queue.conflated


def test_numbers_as_keys_do_not_meet_other_messages():
    """A program's key 1 is not the first message."""
    queue = Outgoing()
    queue.begin([b"x"], 0)
    queue.add([b"first"])
    queue.offer(b"one", ROOM, "close", 1)

    assert b"xfirstone" == written(queue)


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "close"])
def test_a_replacement_counts_for_its_own_size(policy: Any):
    """One that fits where the old one was is taken by a full queue; one that does not leaves the old one there."""
    queue = Outgoing()
    queue.begin([b"x" * 10], 0)
    limit = 10 + ENTRY + 10
    assert queue.offer(b"0" * 10, limit, policy, "key")
    assert queue.offer(b"1" * 10, limit, policy, "key")
    assert not queue.offer(b"2" * 11, limit, policy, "key")

    assert 10 + ENTRY + 10 == queue.size
    assert b"x" * 10 + b"1" * 10 == written(queue)


def test_who_waits_has_waited():
    """The limit is looked at before, by the sender."""
    queue = Outgoing()
    queue.begin([b"x"], 0)

    assert queue.offer(b"y" * 100, 10, "wait", "key")
    assert queue.offer(b"z" * 100, 10, "wait", "key")
    assert b"x" + b"z" * 100 == written(queue)


def test_a_peer_that_is_cut_off_gets_what_was_begun_and_the_close():
    """All else is left out, and nothing of it stays."""
    queue = Outgoing()
    queue.begin([b"begun"], 2)
    queue.add([b"reply"])
    queue.offer(b"message", ROOM, "drop_oldest", "key")
    queue.pong(b"pong")
    queue.cut(b"close")

    assert 3 + 5 == queue.size
    assert 2 == queue.dropped
    assert b"gunclose" == written(queue, 1)


def test_a_queue_that_is_cleared_is_empty():
    """As at the end of a connection."""
    queue = Outgoing()
    queue.begin([b"begun"], 2)
    queue.offer(b"message", ROOM, "drop_oldest")
    queue.ping(b"ping")
    queue.clear()

    assert 0 == queue.size
    assert b"" == written(queue)


def test_policies_are_told_from_misspelt_ones():
    """At once, not when a peer is slow."""
    assert ["wait", "close", "drop_oldest", "drop_newest"] == [checked_policy(each) for each in POLICIES]
    with pytest.raises(ConfigurationError, match="slow_peer must be one of wait, close, drop_oldest, drop_newest"):
        checked_policy("drop-oldest")


class Model:
    """The same queue, as plain as possible: a list of (policy, key, frame)."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Any, bytes]] = []
        self.begun: deque[bytes] = deque()

    def size(self) -> int:
        return sum(ENTRY + len(frame) for _, _, frame in self.entries) + sum(map(len, self.begun))

    def offer(self, frame: bytes, limit: int, policy: str, key: Any) -> None:
        def old() -> int:
            found = [len(each) + ENTRY for _, held, each in self.entries if key is not None and held == key]
            return sum(found)

        cost = len(frame) + ENTRY
        assert cost <= limit
        stays = [each for each in self.entries if each[0] != "drop_oldest" and (key is None or each[1] != key)]
        least = sum(ENTRY + len(each) for _, _, each in stays) + sum(map(len, self.begun))
        if policy == "drop_oldest" and least + cost > limit:
            return
        while policy == "drop_oldest" and self.size() - old() + cost > limit:
            oldest = [each for each in self.entries if each[0] == "drop_oldest"]
            if not oldest:
                break
            self.entries.remove(oldest[0])
        if policy != "wait" and self.size() - old() + cost > limit:
            return
        for place, (kept, held, _) in enumerate(self.entries):
            if key is not None and held == key:
                self.entries[place] = (kept, key, frame)
                return
        self.entries.append((policy, key, frame))


offers = st.tuples(st.sampled_from(POLICIES), st.sampled_from([None, None, "a", "b"]), st.integers(1, 400))


@pytest.mark.row(94)
@given(st.lists(st.one_of(offers, st.integers(1, 1000)), max_size=60))
@settings(max_examples=150, deadline=None)
def test_frames_are_whole_and_counted_whatever_happens(acts: list[Any]):
    """Any row of offers and writes: what leaves is frames, in order, and the size is that of what waits."""
    queue, model = Outgoing(), Model()
    queue.begin([b"#" * 50], 0)
    model.begun.append(b"#" * 50)
    out = expected = b""
    for number, act in enumerate(acts):
        if isinstance(act, tuple):
            policy, key, size = act
            frame = b"%03d:" % number + b"." * size
            queue.offer(frame, 2000, policy, key)
            model.offer(frame, 2000, policy, key)
        elif queue.size:
            chunk = bytes(queue.next())
            if not model.begun:
                assert chunk == b"".join(frame for _, _, frame in model.entries)[: len(chunk)]
                taken = 0
                while taken < len(chunk):
                    taken += len(model.entries[0][2])
                    model.begun.append(model.entries.pop(0)[2])
                assert taken == len(chunk)
            queue.sent(len(chunk[:act]))
            out += chunk[:act]
            rest = b"".join(model.begun)
            expected += rest[: len(chunk[:act])]
            model.begun = deque([rest[len(chunk[:act]) :]] if len(rest) > len(chunk[:act]) else [])
        assert model.size() == queue.size

    assert expected == out
    assert b"".join([*model.begun, *(frame for _, _, frame in model.entries)]) == written(queue)


@pytest.mark.row(66)
def test_nothing_gives_way_for_what_finds_no_room_in_any_case():
    """What may go is looked at first: a reply that fills the queue leaves the others where they are."""
    queue = Outgoing()
    queue.begin([b"x"], 0)
    for number in range(10):
        queue.offer(b"%d" % number, ROOM, "drop_oldest")
    queue.add([b"R" * 1000])

    assert not queue.offer(b"late", 500, "drop_oldest")
    assert 1 == queue.dropped
    assert b"x0123456789" + b"R" * 1000 == written(queue)
