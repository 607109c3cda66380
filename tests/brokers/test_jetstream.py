"""What is asked of JetStream, and what it answers."""

from pathlib import Path

import pytest

from tests.brokers.nats_server import InLoop, NatsServer, new_prefix
from webmesh.brokers import jetstream
from webmesh.brokers.jetstream import EXPECTED, MESSAGE_ID, JetStream, NoStream, Refused, WrongLast, delivery_of
from webmesh.brokers.nats_link import Message
from webmesh.exceptions import BrokerError, Overloaded


@pytest.fixture
def js(in_loop: InLoop) -> JetStream:
    return JetStream(in_loop.link, 1)


@pytest.fixture
def stream(in_loop: InLoop, js: JetStream) -> str:
    name = new_prefix()
    in_loop(js.make_stream(name, [f"{name}.>"]))
    return name


def test_messages_are_kept_and_found(in_loop: InLoop, js: JetStream, stream: str):
    """By subject, by sequence, with their headers."""
    for number in range(3):
        in_loop(js.publish(stream, f"{stream}.a", b"%d" % number, {"N": str(number)}))
    last = in_loop(js.last(stream, f"{stream}.a"))
    assert (3, b"2", "2") == (last.sequence, last.data, last.headers["N"])
    assert b"1" == in_loop(js.at(stream, 2)).data
    assert b"1" == in_loop(js.next(stream, f"{stream}.a", 2)).data
    for nothing in (js.last(stream, f"{stream}.b"), js.at(stream, 9), js.next(stream, f"{stream}.b", 1)):
        assert in_loop(nothing) is None
    assert 1 == in_loop(js.subjects(stream))


def test_a_condition_that_does_not_hold_is_told(in_loop: InLoop, js: JetStream, stream: str):
    """And nothing is kept; the same id is kept once."""
    in_loop(js.publish(stream, f"{stream}.a", b"0", {EXPECTED: "0", MESSAGE_ID: "x"}))
    with pytest.raises(WrongLast):
        in_loop(js.publish(stream, f"{stream}.a", b"1", {EXPECTED: "0"}))
    assert (1, True) == in_loop(js.publish(stream, f"{stream}.a", b"1", {MESSAGE_ID: "x"}))
    assert b"0" == in_loop(js.last(stream, f"{stream}.a")).data


def test_all_of_a_subject_or_the_newest_of_many(
    in_loop: InLoop, js: JetStream, stream: str, monkeypatch: pytest.MonkeyPatch
):
    """In the order of the stream, in as many batches as it takes; no consumer is left."""
    monkeypatch.setattr(jetstream, "BATCH", 2)
    for number in range(9):
        in_loop(js.publish(stream, f"{stream}.{number % 3}", b"%d" % number, {}))
    assert [b"1", b"4", b"7"] == [one.data for one in in_loop(js.read(stream, f"{stream}.1", newest_only=False))]
    newest = in_loop(js.read(stream, f"{stream}.*", newest_only=True))
    assert [(7, b"6"), (8, b"7"), (9, b"8")] == [(one.sequence, one.data) for one in newest]
    assert [] == in_loop(js.read(stream, f"{stream}.x", newest_only=False))
    in_loop(in_loop.link.settle())
    assert 0 == in_loop(js.api(f"STREAM.INFO.{stream}"))["state"]["consumer_count"]


def test_subjects_are_trimmed_and_messages_deleted(in_loop: InLoop, js: JetStream, stream: str):
    """Deleting what is not there is no error."""
    for number in range(4):
        in_loop(js.publish(stream, f"{stream}.a", b"%d" % number, {}))
    in_loop(js.trim(stream, f"{stream}.a", 2))
    for _ in range(2):
        in_loop(js.delete(stream, 3))
    assert [b"3"] == [one.data for one in in_loop(js.read(stream, f"{stream}.a", newest_only=False))]


def test_a_stream_stays_as_an_operator_has_set_it(in_loop: InLoop, js: JetStream, stream: str):
    """Another node's settings, or those of an older version, are no error."""
    js.forget()
    in_loop(js.make_stream(stream, [f"{stream}.>"], max_msgs=7))
    assert -1 == in_loop(js.api(f"STREAM.INFO.{stream}"))["config"]["max_msgs"]


def test_errors_are_told_apart(in_loop: InLoop, js: JetStream, stream: str):
    """A stream that is not there, one that is full, what is refused, what is not understood."""
    in_loop(js.api(f"STREAM.DELETE.{stream}"))
    with pytest.raises(NoStream):
        in_loop(js.publish(stream, f"{stream}.a", b"", {}))
    with pytest.raises(NoStream):
        in_loop(js.last(stream, f"{stream}.a"))
    in_loop(js.make_stream(stream, [f"{stream}.>"], max_msgs=1))
    in_loop(js.publish(stream, f"{stream}.a", b"", {}))
    with pytest.raises(Overloaded, match="maximum messages"):
        in_loop(js.publish(stream, f"{stream}.b", b"", {}))
    with pytest.raises(Refused, match="overlap"):
        in_loop(js.make_stream(new_prefix(), [f"{stream}.>"]))


@pytest.mark.row(98)
@pytest.mark.parametrize("answer", [b"", b"[]", b"{", b'{"error": 1}', b'{"error": {"err_code": "x"}}', b"\xff"])
def test_answers_that_make_no_sense_are_errors(answer: bytes):
    """Anybody with the right to may answer in the server's place."""
    with pytest.raises(BrokerError, match="not understood"):
        jetstream._checked(answer)


def test_a_server_without_jetstream_says_what_to_do(nats_server: NatsServer, tmp_path: Path):
    """Not that nobody answers."""
    server = NatsServer(tmp_path, jetstream=False)
    server.start()
    try:
        in_loop = InLoop(server.url)
        with pytest.raises(BrokerError, match="-js"):
            in_loop(JetStream(in_loop.link, 1).make_stream("x", ["x.>"]))
        in_loop.close()
    finally:
        server.kill()


@pytest.mark.parametrize("reply", ["$JS.ACK.s.c.1.42.7.17.0", "$JS.ACK.domain.account.s.c.1.42.7.17.0.token"])
def test_both_forms_of_acknowledgement_subjects_are_read(reply: str):
    """Servers with domains say more."""
    assert (42, 17) == delivery_of(Message("a", reply, b"", {}))
