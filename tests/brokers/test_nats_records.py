"""Records that NATS keeps."""

import pytest

from tests.brokers.nats_server import InLoop, new_prefix
from webmesh.brokers.jetstream import JetStream
from webmesh.brokers.nats_link import NoReply
from webmesh.brokers.nats_records import Records
from webmesh.brokers.nats_topics import Topics

PATIENCE = 10.0


@pytest.fixture
def records(in_loop: InLoop) -> Records:
    prefix = new_prefix()
    js = JetStream(in_loop.link, 1)
    return Records(js, f"{prefix}_records", prefix, Topics(js, prefix).make_records)


def test_keys_are_any_text(in_loop: InLoop, records: Records):
    """And belong to one table."""
    for key in ("a", "a.b c/*>%", "ü"):
        in_loop(records.put("t 1", key, key.encode(), PATIENCE))
    in_loop(records.put("t", "a", b"other", PATIENCE))
    found = in_loop(records.table("t 1", PATIENCE))
    assert {"a": b"a", "a.b c/*>%": b"a.b c/*>%", "ü": "ü".encode()} == {key: body for key, _, body in found}


@pytest.mark.row(95, 99)
def test_a_claim_whose_answer_was_lost_is_found_to_be_ours(
    in_loop: InLoop, records: Records, monkeypatch: pytest.MonkeyPatch
):
    """Nobody else can have it, so nobody would do what it says."""
    in_loop(records.put("t", "a", b"x", PATIENCE))
    publish = records._js.publish

    async def lose_answer(*args):
        await publish(*args)
        monkeypatch.undo()
        raise NoReply("lost")

    monkeypatch.setattr(records._js, "publish", lose_answer)
    assert b"x" == in_loop(records.claim("t", "a", PATIENCE))
    assert in_loop(records.claim("t", "a", PATIENCE)) is None


def test_a_record_that_is_replaced_while_it_is_claimed_is_claimed_as_it_is(
    in_loop: InLoop, records: Records, monkeypatch: pytest.MonkeyPatch
):
    """Not as it was."""
    in_loop(records.put("t", "a", b"old", PATIENCE))
    last = records._js.last

    async def replace_after(*args):
        found = await last(*args)
        monkeypatch.undo()
        await records.put("t", "a", b"new", PATIENCE)
        return found

    monkeypatch.setattr(records._js, "last", replace_after)
    assert b"new" == in_loop(records.claim("t", "a", PATIENCE))


def test_dropping_takes_only_what_was_read(in_loop: InLoop, records: Records):
    """A record that was put again meanwhile stays."""
    for key in "ab":
        in_loop(records.put("t", key, b"old", PATIENCE))
    sequences = [sequence for _, sequence, _ in in_loop(records.table("t", PATIENCE))]
    in_loop(records.put("t", "b", b"new", PATIENCE))
    in_loop.do(records.drop, sequences)
    in_loop.until(lambda: not records._leaving)
    assert [("b", b"new")] == [(key, body) for key, _, body in in_loop(records.table("t", PATIENCE))]


def test_a_stream_that_was_deleted_is_made_again(in_loop: InLoop, records: Records):
    """By whoever puts the next record."""
    in_loop(records.put("t", "a", b"", PATIENCE))
    in_loop(records._js.api(f"STREAM.DELETE.{records._stream}"))
    in_loop(records.put("t", "b", b"", PATIENCE))
    assert ["b"] == [key for key, _, _ in in_loop(records.table("t", PATIENCE))]
