"""Which message a map is, and what is no message."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.speedups import IN_PYTHON, c_module
from webmesh.exceptions import RemoteProtocolError
from webmesh.options import Limits
from webmesh.protocol import envelope
from webmesh.protocol.envelope import (
    Cancel, Credit, EndOfItems, ErrorReply, InvalidEnvelope, Item, Message, Notification, Reply, Request, TopicMessage,
    classify,
)  # fmt: skip

LIMITS = Limits()
LARGEST_ID = 2**53 - 1
ERROR = {"code": "internal", "message": "failed"}


def read(message: object) -> Message:
    return classify(message, LIMITS)


def refused(message: object) -> InvalidEnvelope:
    with pytest.raises(InvalidEnvelope) as caught:
        read(message)
    return caught.value


class TestTheQuickLook:
    """`plain_request` says "surely a request with nothing else", or nothing."""

    values = (
        st.sampled_from(["/", "/a", "", "/ż", "/\n", "/\x7f", "x" * 10, "x" * 11, b"/a", None, True, 0, -1, 1.0])
        | st.integers(LARGEST_ID - 1, LARGEST_ID + 1) | st.integers(2**63, 2**64) | st.text(max_size=12)
        | st.floats()
    )  # fmt: skip
    keys = st.sampled_from(["path", "id", "data", "timeout_ms", "headers", "topic", "datum", "pathé", b"path"])

    headers = st.dictionaries(st.text(max_size=3), st.text(max_size=3) | st.none(), max_size=3)

    @given(st.dictionaries(keys, values | headers, max_size=6))
    def test_both_implementations_say_the_same(self, message: dict[Any, Any]) -> None:
        """C and Python recognise the same messages."""
        assert IN_PYTHON.plain_request(message, 10, 2) == c_module().plain_request(message, 10, 2)

    @given(st.fixed_dictionaries(
        {"path": values, "id": values, "data": values}, optional={"timeout_ms": values, "headers": headers | values}
    ))  # fmt: skip
    def test_it_passes_only_what_the_close_look_takes(self, message: dict[str, Any]) -> None:
        """Whatever it passes would be read as the same request without it."""
        passed = IN_PYTHON.plain_request(message, 10, 2)
        assert passed == c_module().plain_request(message, 10, 2)
        if passed is not None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(envelope, "plain_request", lambda message, size, headers: None)
                assert Request(*passed) == classify(message, Limits(path_size=10, headers=2))

    @pytest.mark.parametrize("path", ["/echo", "~", " ", "x" * 10])
    @pytest.mark.parametrize("id", [0, 100_000, LARGEST_ID])
    @pytest.mark.parametrize("more", [{}, {"timeout_ms": 30_000}, {"timeout_ms": 0.5, "headers": {"call-chain": "a"}}])
    def test_it_recognises_ordinary_requests(self, path: str, id: int, more: dict[str, Any]) -> None:
        """Most messages need no closer look; a call has its time with it, and that of a service its way."""
        message = {"data": [1], "id": id, "path": path} | more
        expected = (path, id, [1], more.get("timeout_ms"), more.get("headers"))

        assert expected == c_module().plain_request(message, 10, 2) == IN_PYTHON.plain_request(message, 10, 2)


class TestKinds:
    """What a map is follows from its keys."""

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            ({"path": "/a", "id": 1, "data": [1]}, Request("/a", 1, [1])),
            ({"path": "/a", "id": 0}, Request("/a", 0)),
            ({"path": "$hello", "id": "x", "data": None}, Request("$hello", "x")),
            (
                {"path": "/", "id": 1, "timeout_ms": 5, "headers": {"a": "b"}, "credit": 3, "stream": True, "data": 0},
                Request("/", 1, 0, 5, {"a": "b"}, 3, True),
            ),
            ({"path": "/", "id": 1, "timeout_ms": 0.5, "stream": False}, Request("/", 1, None, 0.5)),
            ({"path": "/", "data": "hi"}, Notification("/", "hi")),
            ({"path": "/", "headers": {"a": "b"}}, Notification("/", None, {"a": "b"})),
            ({"id": 1, "data": None}, Reply(1, None)),
            ({"id": "x", "data": {"error": 1}}, Reply("x", {"error": 1})),
            ({"id": 1, "error": ERROR}, ErrorReply(1, ERROR)),
            ({"error": ERROR}, ErrorReply(None, ERROR)),
            ({"id": 1, "item": None, "seq": 0}, Item(1, None, 0)),
            ({"id": 1, "end": True}, EndOfItems(1)),
            ({"id": 1, "cancel": True}, Cancel(1)),
            ({"id": 1, "credit": 64}, Credit(1, 64)),
            ({"topic": "a/b", "data": 1}, TopicMessage("a/b", 1)),
            (
                {"topic": "a", "data": 1, "id": 2, "headers": {"key": "k"}, "offset": 3, "epoch": "e", "subs": [1, "s"],
                 "event": "gap", "attempt": 2, "retained": True},
                TopicMessage("a", 1, 2, {"key": "k"}, 3, "e", [1, "s"], "gap", 2, True),
            ),
        ],
    )  # fmt: skip
    def test_each_message_is_told_by_its_keys(self, message: dict[str, Any], expected: Message) -> None:
        """All that section 2 of the protocol lists, with and without the optional keys."""
        assert expected == read(message)

    @pytest.mark.parametrize(
        ("message", "kind"),
        [
            ({"path": "/", "topic": "t", "id": 1, "data": 1}, Request),
            ({"path": "/", "topic": "t"}, Notification),
            ({"topic": "t", "id": 1, "error": ERROR}, TopicMessage),
            ({"path": "/", "id": 1, "error": ERROR, "cancel": True}, Request),
            ({"id": 1, "data": 1, "error": ERROR}, ErrorReply),
            ({"id": 1, "data": 1, "item": 1, "seq": 0}, Item),
            ({"id": 1, "data": 1, "cancel": True}, Cancel),
        ],
    )
    def test_the_order_in_which_keys_count(self, message: dict[str, Any], kind: type) -> None:
        """Path, topic, error, item, end, cancel, credit, data: a map with several is the first of them."""
        assert kind is type(read(message))

    @pytest.mark.parametrize(
        "message",
        [{"path": "/", "id": 1}, {"path": "/"}, {"id": 1, "data": 1}, {"id": 1, "error": ERROR}, {"topic": "t"}],
    )
    def test_unknown_keys_are_ignored(self, message: dict[str, Any]) -> None:
        """Later versions may add keys, and the error map's own are open too."""
        assert read(message) == read({**message, "colour": "red", "version": 99, "": [], "seq": -5})

    @pytest.mark.parametrize("key", ["timeout_ms", "headers", "credit", "stream", "data"])
    def test_null_in_an_optional_key_is_its_absence(self, key: str) -> None:
        """Programs that always send all keys are understood."""
        assert Request("/", 1) == read({"path": "/", "id": 1, key: None})

    @pytest.mark.row(42)
    @pytest.mark.parametrize("key", ["__class__", "__init__", "__proto__", "__slots__"])
    def test_no_attribute_is_set_from_a_key(self, key: str) -> None:
        """Names of internals are unknown keys like others."""
        message = read({"path": "/", "id": 1, key: "evil", "headers": {key: "evil"}, "data": {key: "evil"}})

        assert Request("/", 1, {key: "evil"}, headers={key: "evil"}) == message
        assert Request is type(message)

    @pytest.mark.row(42)
    def test_many_unknown_keys_are_no_message(self) -> None:
        """60,000 of them are looked at only to see that none is known."""
        refused({str(number): number for number in range(60_000)})


class TestWhatIsNoMessage:
    """Refused with a text, and under its id where it has a valid one."""

    @pytest.mark.row(36)
    @pytest.mark.parametrize(
        "value", [None, 0, 1.5, True, "path", b"", [], [{"path": "/"}], {}, {"data": 1}, {"version": 2}], ids=str
    )
    def test_values_that_are_no_envelope(self, value: object) -> None:
        """Whatever a serializer can make of bytes."""
        assert refused(value).id is None

    @pytest.mark.row(36)
    @pytest.mark.parametrize(
        "message",
        [
            {"path": 5}, {"path": None}, {"path": ["/"]}, {"path": ""}, {"path": b"/"}, {"path": "", "headers": {}},
            {"timeout_ms": "5"}, {"timeout_ms": True}, {"timeout_ms": -1}, {"timeout_ms": -0.001}, {"timeout_ms": []},
            {"timeout_ms": math.nan}, {"timeout_ms": math.inf},
            {"credit": 0}, {"credit": -1}, {"credit": 1.0}, {"credit": True}, {"credit": "1"},
            {"stream": 1}, {"stream": "true"}, {"stream": {}},
            {"headers": []}, {"headers": "a"}, {"headers": {"a": 1}}, {"headers": {"a": None}}, {"headers": {1: "a"}},
            {"headers": {"a": ["b"]}}, {"headers": {str(number): "x" for number in range(65)}},
        ],
        ids=str,
    )  # fmt: skip
    def test_requests_with_mistyped_keys(self, message: dict[str, Any]) -> None:
        """The id is that of the request, so that its sender gets the error."""
        assert 7 == refused({"path": "/", "id": 7, "data": 1, **message}).id

    @pytest.mark.row(36)
    @pytest.mark.parametrize(
        "message",
        [
            {}, {"seq": 1}, {"headers": {}}, {"end": False}, {"end": 1}, {"end": None}, {"cancel": "true"},
            {"cancel": False}, {"credit": 0}, {"credit": None}, {"credit": True}, {"credit": 2.0}, {"item": 1},
            {"item": 1, "seq": -1},
            {"item": 1, "seq": True}, {"item": 1, "seq": "0"}, {"item": 1, "seq": 0.0}, {"item": 1, "seq": None},
            {"error": None}, {"error": "internal"}, {"error": {}}, {"error": {"code": "x"}},
            {"error": {"message": "x"}},
            {"error": {"code": 5, "message": ""}}, {"error": {"code": "", "message": ""}},
            {"error": {"code": "a\nb", "message": ""}}, {"error": {"code": "x" * 2000, "message": ""}},
            {"error": {"code": "x", "message": None}}, {"error": {**ERROR, "retryable": 1}},
            {"error": {**ERROR, "retry_after_ms": "1"}}, {"error": {**ERROR, "retry_after_ms": -1}},
            {"error": {**ERROR, "retry_after_ms": True}},
        ],
        ids=str,
    )  # fmt: skip
    def test_answers_with_missing_or_mistyped_keys(self, message: dict[str, Any]) -> None:
        """A map with an id but without path must be one of the answers, whole."""
        assert "x" == refused({"id": "x", **message}).id

    @pytest.mark.row(36)
    @pytest.mark.parametrize("error", [None, "x", {}, {"code": "x"}, {"code": None, "message": "x"}])
    def test_errors_without_id_are_checked_too(self, error: object) -> None:
        """They have no id to answer under."""
        assert refused({"error": error}).id is None

    @pytest.mark.row(36)
    @pytest.mark.parametrize(
        "message",
        [
            {"topic": ""}, {"topic": 5}, {"topic": "a\x00"}, {"headers": {"a": 1}}, {"offset": -1}, {"offset": "1"},
            {"epoch": 1.5}, {"epoch": True}, {"subs": "s"}, {"subs": [None]}, {"subs": [True]}, {"event": 1},
            {"attempt": 0}, {"attempt": True}, {"retained": 1},
        ],
        ids=str,
    )  # fmt: skip
    def test_topic_messages_with_mistyped_keys(self, message: dict[str, Any]) -> None:
        """Under their id, for those that are to be answered."""
        assert 3 == refused({"topic": "t", "id": 3, **message}).id
        assert refused({"topic": "t", **message}).id is None

    @pytest.mark.row(36)
    @pytest.mark.parametrize(
        "id",
        [None, True, False, -1, LARGEST_ID + 1, 1.0, "x" * 65, "é" * 33, "\ud800", b"x", [], {}, [1], 10**30, math.nan],
        ids=ascii,
    )  # fmt: skip
    @pytest.mark.parametrize(
        "message", [{"path": "/"}, {"data": 1}, {"error": ERROR}, {"topic": "t"}, {"cancel": True}], ids=str
    )
    def test_an_invalid_id_cannot_be_answered_under(self, message: dict[str, Any], id: object) -> None:
        """A boolean is no integer, null is no absence, and a long text may not be echoed."""
        assert refused({**message, "id": id}).id is None

    @pytest.mark.parametrize("id", [0, 1, LARGEST_ID, "", "x", "x" * 64, "é" * 32])
    def test_valid_ids_are_kept_as_they_are(self, id: int | str) -> None:
        """Up to 2^53 - 1 as a number, up to 64 bytes as text."""
        message = read({"id": id, "data": 1})

        assert Reply(id, 1) == message
        assert type(id) is type(message.id)  # type: ignore[union-attr]

    def test_the_error_says_what_was_expected_and_what_came(self) -> None:
        """Enough to mend the sender."""
        fault = refused({"path": "/", "id": 1, "timeout_ms": "soon"})

        assert "timeout_ms must be a finite number of at least 0, not 'soon'" == str(fault)
        assert 4501 == fault.close_code
        assert isinstance(fault, RemoteProtocolError)

    def test_the_limits_are_those_that_are_given(self) -> None:
        """None of the numbers is fixed here but that of the largest id."""
        limits = Limits(headers=1, request_id_size=2, path_size=4)

        classify({"path": "/abc", "id": "ab", "headers": {"a": "b"}}, limits)
        for wrong in ({"path": "/abcd"}, {"id": "abc"}, {"headers": {"a": "b", "c": "d"}}):
            with pytest.raises(InvalidEnvelope):
                classify({"path": "/", "id": 1, **wrong}, limits)


class TestNames:
    """Paths and topics: short, visible, in one form."""

    @pytest.mark.row(46)
    @pytest.mark.parametrize("key", ["path", "topic"])
    @pytest.mark.parametrize(
        "name",
        [
            "/a\x00", "/\x1b[31mred", "/a\r\nb", "/a\tb", "/\x7f", "/\x85", "/\u2028", "/\u2029", "/\ud800",
            "/" + "x" * 8191, "/" + "é" * 512, "/" + "\x07" * 5000,
        ],
        ids=ascii,
    )  # fmt: skip
    def test_hostile_names_are_refused_and_shown_escaped_and_cut(self, key: str, name: str) -> None:
        """Control characters, line ends of any kind, surrogates, and more than `Limits.path_size` bytes."""
        text = str(refused({key: name, "id": 1}))

        assert text.isascii() and text.isprintable()
        assert len(text) <= 300

    @pytest.mark.row(46)
    @pytest.mark.parametrize("name", ["/%s%n%d", "/{0.__class__}", "/$(reboot)", "/../etc", "/a b", "/'", "/<script>"])
    def test_nothing_in_a_name_is_expanded(self, name: str) -> None:
        """Format specifications and the like are letters: such a path has no route, which is all."""
        assert name == read({"path": name, "id": 1}).path  # type: ignore[union-attr]
        assert ascii(name) in str(refused({"path": "/", "id": 1, "timeout_ms": name}))

    @pytest.mark.row(46)
    @pytest.mark.parametrize("size", [1023, 1024])
    def test_names_up_to_the_limit_are_taken(self, size: int) -> None:
        """1,024 bytes, not characters."""
        for name in ("/" + "x" * (size - 1), "é" * (size // 2)):
            assert name == read({"path": name, "id": 1}).path  # type: ignore[union-attr]

    @pytest.mark.row(47)
    def test_names_come_in_one_form(self) -> None:
        """Letters that look and mean the same are the same: Unicode's form NFC, as for routes and upgrade paths."""
        for message in ({"path": "/cafe\u0301", "id": 1}, {"path": "/cafe\u0301"}):
            assert "/caf\u00e9" == read(message).path  # type: ignore[union-attr]
        assert "caf\u00e9" == read({"topic": "cafe\u0301"}).topic  # type: ignore[union-attr]

    @pytest.mark.row(47)
    def test_look_alikes_stay_apart(self) -> None:
        """Case, full-width letters and other scripts are not folded."""
        names = ["/admin", "/Admin", "/\uff41dmin", "/\u0430dmin"]

        assert names == [read({"path": name, "id": 1}).path for name in names]  # type: ignore[union-attr]


keys = st.sampled_from(
    [
        "path", "topic", "id", "data", "error", "item", "seq", "end", "cancel", "credit", "timeout_ms", "headers",
        "stream", "offset", "epoch", "subs", "event", "attempt", "retained", "code", "message", "retryable",
        "retry_after_ms",
    ]
)  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=9)
    | st.text(st.characters(exclude_categories=[]), max_size=9),
    lambda below: st.lists(below, max_size=3)
    | st.dictionaries(keys | st.text(max_size=3) | st.integers(), below, max_size=6),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.row(36)
@given(anything | st.dictionaries(keys, anything, max_size=8))
def test_anything_is_a_message_or_an_invalid_envelope(value: object) -> None:
    """Nothing else ever comes of it; what is refused says so in one line and keeps only an id that can be sent."""
    try:
        message = read(value)
    except InvalidEnvelope as fault:
        assert str(fault).isascii() and str(fault).isprintable()
        assert fault.id is None or read({"id": fault.id, "data": None}) == Reply(fault.id, None)
    else:
        assert type(message).__name__ in envelope.__all__


ids = st.integers(0, LARGEST_ID) | st.text(max_size=16)
names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=30)
headers = st.none() | st.dictionaries(st.text(max_size=9), st.text(max_size=9), min_size=1, max_size=5)
amounts = st.none() | st.integers(0, 10**9) | st.floats(0, 1e9)


class TestRoundTrips:
    """What the constructors make is what `classify` reads."""

    @given(names, ids, anything, amounts, headers, st.none() | st.integers(1, 1000), st.booleans())
    def test_requests(
        self,
        path: str,
        id: int | str,
        data: object,
        timeout_ms: float | None,
        headers: dict[str, str] | None,
        credit: int | None,
        stream: bool,
    ) -> None:
        """With every combination of optional keys."""
        made = envelope.request(path, id, data, timeout_ms=timeout_ms, headers=headers, credit=credit, stream=stream)
        read_back = read(made)

        assert isinstance(read_back, Request)
        assert read_back.data is data
        assert Request(read_back.path, id, data, timeout_ms, headers, credit, stream) == read_back
        assert envelope.request(read_back.path, id) == {**envelope.request(path, id), "path": read_back.path}

    @given(names, anything, headers)
    def test_notifications(self, path: str, data: object, headers: dict[str, str] | None) -> None:
        """Never an id."""
        read_back = read(envelope.notification(path, data, headers))

        assert isinstance(read_back, Notification)
        assert read_back.data is data and headers == read_back.headers

    @given(ids, anything, st.integers(0, 2**63))
    def test_answers(self, id: int | str, value: object, seq: int) -> None:
        """Replies and items carry anything, the same object."""
        answer, element = read(envelope.reply(id, value)), read(envelope.item(id, value, seq))

        assert isinstance(answer, Reply) and answer.data is value and id == answer.id
        assert isinstance(element, Item) and element.item is value and (id, seq) == (element.id, element.seq)

    @given(ids, st.integers(1, 2**63))
    def test_control_messages(self, id: int | str, n: int) -> None:
        """End, cancel, credit and errors."""
        made = [envelope.end(id), envelope.cancel(id), envelope.credit(id, n), envelope.error(id, ERROR)]

        assert [EndOfItems(id), Cancel(id), Credit(id, n), ErrorReply(id, ERROR)] == [read(message) for message in made]
