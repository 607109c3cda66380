"""Messages as maps for the wire, and as objects."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.exceptions import Unavailable
from webmesh.protocol import messages
from webmesh.protocol.messages import ErrorReply, Item, Notification, Reply, Request, TopicMessage

SECRET = "correct horse"


@pytest.mark.parametrize(
    ("made", "wire"),
    [
        (messages.request("/a", 1), {"path": "/a", "id": 1}),
        (messages.request("/a", "x", [1]), {"path": "/a", "id": "x", "data": [1]}),
        (
            messages.request("/a", 0, 0, timeout_ms=0, headers={}, stream=False),
            {"path": "/a", "id": 0, "data": 0, "timeout_ms": 0},
        ),
        (
            messages.request("/a", 1, False, timeout_ms=1.5, headers={"k": "v"}, credit=8, stream=True),
            {
                "path": "/a", "id": 1, "data": False, "timeout_ms": 1.5, "headers": {"k": "v"}, "credit": 8,
                "stream": True,
            },
        ),
        (messages.notification("/a"), {"path": "/a"}),
        (messages.notification("/a", "hi", {"k": "v"}), {"path": "/a", "data": "hi", "headers": {"k": "v"}}),
        (messages.reply(1, None), {"id": 1, "data": None}),
        (messages.reply("x", {"a": 1}), {"id": "x", "data": {"a": 1}}),
        (messages.error(1, {"code": "x", "message": ""}), {"id": 1, "error": {"code": "x", "message": ""}}),
        (messages.error(None, {"code": "x", "message": ""}), {"error": {"code": "x", "message": ""}}),
        (messages.item(1, None, 0), {"id": 1, "item": None, "seq": 0}),
        (messages.end(1), {"id": 1, "end": True}),
        (messages.cancel("x"), {"id": "x", "cancel": True}),
        (messages.credit(1, 64), {"id": 1, "credit": 64}),
    ],
)  # fmt: skip
def test_the_wire_form_of_each_message(made: dict[str, Any], wire: dict[str, Any]) -> None:
    """As docs/PROTOCOL.md section 2 has it, without the optional keys that are not needed."""
    assert wire == made


def test_an_error_of_a_handler_goes_on_the_wire_as_it_is() -> None:
    """What `to_wire` makes is the error map."""
    wire = messages.error(7, Unavailable("draining", retry_after=1.5).to_wire())

    assert {"id": 7, "error": {"code": "unavailable", "message": "draining", "retry_after_ms": 1500}} == wire


@pytest.mark.parametrize(
    "message",
    [
        Request("/a", 1, SECRET, headers={"token": SECRET}),
        Notification("/a", SECRET, {"token": SECRET}),
        Reply(1, SECRET),
        ErrorReply(1, {"code": "internal", "message": SECRET}),
        Item(1, SECRET, 0),
        TopicMessage("a", SECRET, headers={"token": SECRET}),
    ],
    ids=lambda message: type(message).__name__,
)
def test_repr_shows_no_payload(message: object) -> None:
    """What is logged by accident tells identity and state, no secret."""
    assert SECRET not in repr(message)


def test_messages_take_no_attributes_beyond_their_own() -> None:
    """Slots: a typing error in a name fails at once."""
    with pytest.raises(AttributeError):
        Reply(1, None).dta = 1  # type: ignore[attr-defined]


def test_a_notification_can_be_served_like_a_request_that_asks_for_nothing():
    """It has the same attributes, so who serves both need not tell them apart; they are no part of its value."""
    request, notification = Request("/a", 1, "x"), Notification("/a", "x")
    for name in ("timeout_ms", "credit", "stream", "headers"):
        assert getattr(request, name) == getattr(notification, name)
    assert notification.id is None
    assert "Notification(path='/a', kept=None)" == repr(notification)
