"""Which message a decoded map is, and whether it is a valid one.

Decides alone what a valid envelope is (docs/PROTOCOL.md section 2). A payload is never looked into. What a
message means for the conversation is `session`; which handler a path has is `routing`.

Read leniently only where the page says so: unknown keys are ignored, and null in an optional key
counts as its absence (an `id` that is null does not: its sender may expect an answer).
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from webmesh.exceptions import RemoteProtocolError
from webmesh.options import Limits
from webmesh.protocol.messages import (
    Cancel, Credit, EndOfItems, ErrorReply, Item, Message, Notification, Reply, Request, RequestId, TopicMessage, Wire,
    cancel, credit, end, error, item, notification, reply, request,
)  # fmt: skip
from webmesh.protocol.speedups import NATIVE
from webmesh.protocol.values import escaped

__all__ = [
    "Cancel", "Credit", "EndOfItems", "ErrorReply", "InvalidEnvelope", "Item", "Message", "Notification", "Reply",
    "Request", "RequestId", "TopicMessage", "Wire", "cancel", "classify", "credit", "end", "error", "item",
    "notification", "reply", "request",
]  # fmt: skip

MAX_ID = 2**53 - 1
"""Largest integer id: JavaScript holds no larger one exactly (protocol.md section 2)."""

_MALFORMED = 4501
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories of control characters, surrogates, and what ends a line for some readers of logs."""


PlainRequest: TypeAlias = tuple[str, int, Any, "float | None", "dict[str, str] | None"]


class InvalidEnvelope(RemoteProtocolError):
    """A well-formed value that is no valid message.

    Attributes:
        id: The id to answer under; `None` when it has no valid one.
    """

    def __init__(self, message: str, id: RequestId | None = None) -> None:
        super().__init__(message, close_code=_MALFORMED)
        self.id = id


def plain_request_in_python(message: Wire, path_size: int, headers_most: int) -> PlainRequest | None:
    """Path, id, data, timeout_ms and headers of a map that is surely a valid request with nothing else; `None` for any
    other message, valid or not. Most messages are such requests, and the closer look costs more than twice as much."""
    if not ("path" in message and "id" in message and "data" in message):
        return None
    path, id, data = message["path"], message["id"], message["data"]
    if type(id) is not int or not 0 <= id <= MAX_ID or type(path) is not str or not 0 < len(path) <= path_size:
        return None
    if not (path.isascii() and path.isprintable()):
        return None
    if len(message) == 3:
        return path, id, data, None, None
    if len(message) != 3 + ("timeout_ms" in message) + ("headers" in message):
        return None
    timeout, headers = message.get("timeout_ms"), message.get("headers")
    if "timeout_ms" in message and not ((type(timeout) is int or type(timeout) is float) and 0 <= timeout <= MAX_ID):
        return None
    if "headers" in message and not _are_plain(headers, headers_most):
        return None
    return path, id, data, timeout, headers


def _are_plain(headers: object, most: int) -> bool:
    if type(headers) is not dict or len(headers) > most:
        return False
    return all(type(name) is str and type(text) is str for name, text in headers.items())


plain_request: Callable[[Wire, int, int], PlainRequest | None] = (
    plain_request_in_python if NATIVE is None else NATIVE.plain_request
)


def classify(message: object, limits: Limits) -> Message:
    """The message that a decoded value is.

    Raises:
        InvalidEnvelope: It is none; the text says why, with everything of the peer's escaped and cut.
    """
    if type(message) is not dict:
        raise InvalidEnvelope(f"a message must be a map, not {_kind(message)}")
    plain = plain_request(message, limits.path_size, limits.headers)
    if plain is not None:
        return Request(*plain)
    if "path" in message:
        return _request(message, limits) if "id" in message else _notification(message, limits)
    if "topic" in message:
        return _topic_message(message, limits)
    if "id" in message:
        return _answer(message, limits)
    if "error" in message:
        return ErrorReply(None, _error(message["error"], limits, None))
    raise InvalidEnvelope("a message needs one of the keys path, topic and id")


def _request(message: Wire, limits: Limits) -> Request:
    id = message["id"]
    if not (type(id) is int and 0 <= id <= MAX_ID):
        _check_text_id(id, limits)
    path = message["path"]
    if not (type(path) is str and 0 < len(path) <= limits.path_size and path.isascii() and path.isprintable()):
        path = _checked_name("path", path, limits, id)
    get = message.get
    timeout_ms, headers, credit, stream = get("timeout_ms"), get("headers"), get("credit"), get("stream")
    if timeout_ms is not None and not _is_amount(timeout_ms):
        _refuse("timeout_ms", "a finite number of at least 0", timeout_ms, id)
    if headers is not None:
        _check_headers(headers, limits, id)
    if credit is not None and not (type(credit) is int and credit >= 1):
        _refuse("credit", "an integer of at least 1", credit, id)
    if stream is not None and type(stream) is not bool:
        _refuse("stream", "a boolean", stream, id)
    return Request(path, id, get("data"), timeout_ms, headers, credit, stream is True)


def _notification(message: Wire, limits: Limits) -> Notification:
    path = _checked_name("path", message["path"], limits, None)
    headers = message.get("headers")
    if headers is not None:
        _check_headers(headers, limits, None)
    kept = message.get("kept")
    if kept is not None and not _is_ordinal(kept):
        _refuse("kept", "an integer of at least 1", kept, None)
    return Notification(path, message.get("data"), headers, kept)


def _answer(message: Wire, limits: Limits) -> Message:
    id = message["id"]
    if not (type(id) is int and 0 <= id <= MAX_ID):
        _check_text_id(id, limits)
    if len(message) == 2 and "data" in message:  # by far the most frequent
        return Reply(id, message["data"])
    for key, read in _ANSWERS.items():
        if key in message:
            return read(message, id, limits)
    raise InvalidEnvelope("a message with an id needs one of path, topic, data, error, item, end, cancel, credit", id)


def _read_error(message: Wire, id: RequestId, limits: Limits) -> ErrorReply:
    return ErrorReply(id, _error(message["error"], limits, id))


def _read_item(message: Wire, id: RequestId, limits: Limits) -> Item:
    seq = message.get("seq")
    if type(seq) is not int or seq < 0:
        _refuse("seq", "an integer of at least 0", seq, id)
    return Item(id, message["item"], seq)


def _read_end(message: Wire, id: RequestId, limits: Limits) -> EndOfItems:
    if message["end"] is not True:
        _refuse("end", "true", message["end"], id)
    return EndOfItems(id)


def _read_cancel(message: Wire, id: RequestId, limits: Limits) -> Cancel:
    if message["cancel"] is not True:
        _refuse("cancel", "true", message["cancel"], id)
    return Cancel(id)


def _read_credit(message: Wire, id: RequestId, limits: Limits) -> Credit:
    granted = message["credit"]
    if type(granted) is not int or granted < 1:
        _refuse("credit", "an integer of at least 1", granted, id)
    return Credit(id, granted)


def _read_reply(message: Wire, id: RequestId, limits: Limits) -> Reply:
    return Reply(id, message["data"])


_ANSWERS: dict[str, Callable[[Wire, RequestId, Limits], Message]] = {
    "error": _read_error,
    "item": _read_item,
    "end": _read_end,
    "cancel": _read_cancel,
    "credit": _read_credit,
    "data": _read_reply,
}
"""Key that tells → reader, in the order in which they count where several are there."""


def _topic_message(message: Wire, limits: Limits) -> TopicMessage:
    id = message.get("id")
    if "id" in message and not (type(id) is int and 0 <= id <= MAX_ID):
        _check_text_id(id, limits)
    topic = _checked_name("topic", message["topic"], limits, id)
    read = TopicMessage(topic, message.get("data"), id)
    headers = message.get("headers")
    if headers is not None:
        _check_headers(headers, limits, id)
        read.headers = headers
    for key, (wanted, check) in _TOPIC_KEYS.items():
        value = message.get(key)
        if value is not None:
            if not check(value):
                _refuse(key, wanted, value, id)
            setattr(read, key, value)
    return read


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_ordinal(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_name(value: object) -> bool:
    return type(value) is str or _is_count(value)


_TOPIC_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "offset": ("an integer of at least 0", _is_count),
    "epoch": ("text or an integer", _is_name),
    "subs": ("a list of subscription ids", lambda value: type(value) is list and all(map(_is_name, value))),
    "event": ("text", lambda value: type(value) is str),
    "attempt": ("an integer of at least 1", _is_ordinal),
    "kept": ("an integer of at least 1", _is_ordinal),
    "retained": ("a boolean", lambda value: type(value) is bool),
    "loose": ("a boolean", lambda value: type(value) is bool),
}
"""Optional key of a topic message, which is also the attribute → what it must be, in words and as a check."""


def _check_text_id(id: object, limits: Limits) -> None:
    """Refuse what is not a text id; the answer cannot carry an id then."""
    if type(id) is str and len(id) <= limits.request_id_size and _utf8_size(id) <= limits.request_id_size:
        return
    wanted = f"an integer from 0 to 2^53 - 1 or at most {limits.request_id_size} bytes of UTF-8"
    _refuse("id", wanted, id, None)


def _checked_name(key: str, name: object, limits: Limits, id: RequestId | None) -> str:
    """The path or topic *name* in Unicode's form NFC, the one form that everything above compares."""
    if type(name) is not str or not name:
        _refuse(key, "text that is not empty", name, id)
    # The size first: nothing below it takes longer than the limit allows.
    if len(name) > limits.path_size or _utf8_size(name) > limits.path_size:
        _refuse(key, f"at most {limits.path_size} bytes of UTF-8", name, id)
    if not name.isprintable() and any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in name):
        _refuse(key, "without control characters", name, id)
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _utf8_size(text: str) -> int:
    """Bytes of *text* in UTF-8; more than any limit when it has no such form."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return sys.maxsize


def _check_headers(headers: object, limits: Limits, id: RequestId | None) -> None:
    if type(headers) is not dict:
        _refuse("headers", "a map of text to text", headers, id)
    if len(headers) > limits.headers:
        raise InvalidEnvelope(f"{len(headers)} headers are over the limit of {limits.headers}", id)
    for name, value in headers.items():
        if type(name) is not str or type(value) is not str:
            _refuse("headers", "a map of text to text", headers, id)


def _error(wire: object, limits: Limits, id: RequestId | None) -> Wire:
    if type(wire) is not dict:
        _refuse("error", "a map", wire, id)
    # The code becomes a label of counters and part of log lines, so it is held to what a path is.
    _checked_name("error.code", wire.get("code"), limits, id)
    if type(wire.get("message")) is not str:
        _refuse("error.message", "text", wire.get("message"), id)
    retryable, retry_after_ms = wire.get("retryable"), wire.get("retry_after_ms")
    if retryable is not None and type(retryable) is not bool:
        _refuse("error.retryable", "a boolean", retryable, id)
    if retry_after_ms is not None and not _is_amount(retry_after_ms):
        _refuse("error.retry_after_ms", "a finite number of at least 0", retry_after_ms, id)
    return wire


def _is_amount(value: object) -> bool:
    return (type(value) is int or type(value) is float) and 0 <= value < float("inf")


def _refuse(key: str, wanted: str, value: object, id: RequestId | None) -> NoReturn:
    raise InvalidEnvelope(f"{key} must be {wanted}, not {_kind(value)}", id)


def _kind(value: object) -> str:
    """What a peer sent, in few words: never more of it than an excerpt of a text or a short number."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, (int, float)):
        return repr(value)
    return _KINDS.get(type(value), type(value).__name__)


_KINDS: dict[type, str] = {dict: "a map", list: "a list"}
