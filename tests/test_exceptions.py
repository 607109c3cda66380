"""The exception tree: wire codes, what an error says, and what crosses the wire."""

from __future__ import annotations

import inspect

import pytest

from webmesh import exceptions
from webmesh.exceptions import (
    REMOTE_ERRORS,
    Aborted,
    BadPattern,
    ConfigurationError,
    ConnectFailed,
    ConnectionClosed,
    DuplicateRoute,
    HandlerFailed,
    HandshakeRejected,
    InvalidArgument,
    MessageTooBig,
    NotFound,
    Overloaded,
    RemoteError,
    RemoteProtocolError,
    ReplyLost,
    RequestTimeout,
    Unavailable,
    WebMeshError,
    error_from_wire,
)

# docs/PROTOCOL.md section 3, all but `unknown`, which is `RemoteError` itself.
WIRE_CODES = {
    "cancelled", "invalid_argument", "deadline_exceeded", "not_found", "already_exists", "permission_denied",
    "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented", "internal", "unavailable",
    "data_loss", "unauthenticated",
}  # fmt: skip
RETRYABLE = {"unavailable", "resource_exhausted", "aborted"}

CLASSES = [value for _, value in inspect.getmembers(exceptions, inspect.isclass) if issubclass(value, Exception)]


@pytest.mark.parametrize("cls", CLASSES)
def test_everything_raised_on_purpose_has_one_base(cls: type[Exception]) -> None:
    """A caller who wants to catch whatever WebMesh raises names one class."""
    assert issubclass(cls, WebMeshError)


def test_each_wire_code_has_one_class() -> None:
    """The table has every code of the protocol, and each class is found under its own code."""
    assert WIRE_CODES == set(REMOTE_ERRORS)
    assert all(cls.code == code for code, cls in REMOTE_ERRORS.items())


@pytest.mark.parametrize("code", sorted(WIRE_CODES))
def test_retryable_by_default(code: str) -> None:
    """Only an overload, an absence and a conflict are worth another try as they are."""
    assert (code in RETRYABLE) == REMOTE_ERRORS[code]("").retryable


@pytest.mark.parametrize("code", sorted(WIRE_CODES))
def test_error_survives_the_wire(code: str) -> None:
    """What a handler raises arrives as the same class with the same contents."""
    sent = REMOTE_ERRORS[code]("why", details={"n": 1}, retryable=code not in RETRYABLE, retry_after=1.5)

    arrived = error_from_wire(sent.to_wire())

    assert type(sent) is type(arrived)
    assert (code, "why", {"n": 1}, 1.5) == (arrived.code, arrived.message, arrived.details, arrived.retry_after)
    assert sent.retryable == arrived.retryable


def test_defaults_are_left_out_of_the_wire_form() -> None:
    """An error that says no more than its code costs no more than its code and text."""
    assert {"code": "not_found", "message": ""} == NotFound().to_wire()
    assert {"code": "aborted", "message": "x", "retryable": False} == Aborted("x", retryable=False).to_wire()


def test_delay_is_sent_in_whole_milliseconds_and_never_negative() -> None:
    """`retry_after_ms` is a number that every serializer carries, whatever a handler computed."""
    assert 1 == Unavailable(retry_after=0.0012).to_wire()["retry_after_ms"]
    assert 0 == Unavailable(retry_after=-3).to_wire()["retry_after_ms"]


def test_unknown_code_arrives_as_plain_remote_error() -> None:
    """A code of a later version is shown as it came and handled like any error."""
    error = error_from_wire({"code": "quota_exceeded", "message": "later"})

    assert RemoteError is type(error)
    assert ("quota_exceeded", "later", False) == (error.code, error.message, error.retryable)


def test_code_of_an_instance_leaves_the_class_alone() -> None:
    """A code that one error carries is not the code of the next."""
    RemoteError("x", code="odd")
    assert "unknown" == RemoteError("y").code


def test_unknown_keys_of_an_error_are_ignored() -> None:
    """A peer of a later version may say more than we read."""
    error = error_from_wire({"code": "internal", "message": "", "details": {"incident": "i1"}, "colour": "red"})

    assert HandlerFailed is type(error)
    assert {"incident": "i1"} == error.details


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NotFound("no item 8"), "not_found: no item 8"),
        (NotFound(), "not_found"),
        (MessageTooBig(20, 10), "message of 20 bytes is over the limit of 10"),
        (MessageTooBig(3, 2, unit="fragments"), "message of 3 fragments is over the limit of 2"),
        (DuplicateRoute("'/a' (x.py:2)", "'/a' (x.py:1)"), "'/a' (x.py:2) matches the same paths as '/a' (x.py:1)"),
        (BadPattern("/a/<", 3, "unclosed"), "bad pattern '/a/<' at character 3: unclosed"),
        (ConnectFailed("ws://h", ["1.2.3.4: refused", "::1: refused"]), "1.2.3.4: refused; ::1: refused"),
        (ConnectFailed("ws://h", []), "cannot connect to ws://h: no address found"),
        (HandshakeRejected(503, "full", retry_after=2.0), "upgrade rejected with status 503: full"),
        (HandshakeRejected(0, "no HTTP"), "upgrade failed: no HTTP"),
        (ConnectionClosed(1001, "bye"), "connection closed with code 1001: bye"),
        (ConnectionClosed(), "connection closed with code 1006"),
        (RequestTimeout("/slow", 0.5), "no reply to '/slow' within 0.5 s"),
        (RequestTimeout("/slow", None), "no reply to '/slow' in time"),
        (ReplyLost("/pay", started=True), "may have run"),
        (ReplyLost("/pay", started=False, code=1001, reason="gone"), "(1001 gone); request '/pay' was not begun"),
    ],
)
def test_text_tells_what_happened_with_the_values(error: WebMeshError, text: str) -> None:
    """An error can be understood from its one line in a log."""
    assert text in str(error)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ConfigurationError("x"), ValueError),
        (DuplicateRoute("a", "b"), ValueError),
        (BadPattern("a", 0, "b"), ValueError),
        (RequestTimeout("/", 1.0), TimeoutError),
        (ConnectFailed("a", []), ConnectionError),
        (ConnectionClosed(), ConnectionError),
        (ReplyLost("/", started=True), ConnectionError),
    ],
)
def test_errors_are_also_what_synchronous_code_expects(error: WebMeshError, builtin: type[Exception]) -> None:
    """Legacy code that catches the built-in class catches ours."""
    assert isinstance(error, builtin)


def test_timeout_is_an_ordinary_exception() -> None:
    """Retry libraries catch `Exception`: a timeout is one, unlike gevent's own."""
    assert issubclass(RequestTimeout, Exception)


def test_close_codes() -> None:
    """A broken protocol says with which code to close; too big a message has its own."""
    assert 1002 == RemoteProtocolError("x").close_code
    assert 1007 == RemoteProtocolError("x", close_code=1007).close_code
    assert (1009, 20, 10) == (MessageTooBig(20, 10).close_code, MessageTooBig(20, 10).size, MessageTooBig(20, 10).limit)


def test_request_errors_name_their_request() -> None:
    """Whoever catches a lost or late reply can tell which call it was."""
    lost = ReplyLost("/pay", started=True, code=1001, request_id=7)
    late = RequestTimeout("/pay", 1.0, request_id="r")

    assert ("/pay", 7, True, 1001) == (lost.path, lost.request_id, lost.started, lost.code)
    assert ("/pay", "r", 1.0) == (late.path, late.request_id, late.timeout)
    assert (None, None) == (InvalidArgument().path, InvalidArgument().request_id)


def test_overload_can_ask_for_a_pause() -> None:
    """A server tells how long to stay away, in seconds on both sides."""
    arrived = error_from_wire({"code": "resource_exhausted", "message": "", "retry_after_ms": 250})

    assert Overloaded is type(arrived)
    assert 0.25 == arrived.retry_after


def test_a_long_pattern_is_not_repeated():
    """Only what stands around the fault, and how long it is; the attribute has all of it."""
    short, long = BadPattern("a//b", 2, "an empty segment"), BadPattern("x" * 5000 + "!", 5000, "y" * 5000)
    assert "bad pattern 'a//b' at character 2: an empty segment" == str(short)
    assert 5001 == len(long.pattern)
    assert "x!' at character 5000: yyy" in str(long)
    assert "of 5001 characters" in str(long)
    assert len(str(long)) < 500
