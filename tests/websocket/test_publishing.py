"""Publications on their way, and what comes back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.websocket.test_conversation import Waiter, raw_end, settle
from webmesh.exceptions import EncodeError, Overloaded
from webmesh.messages import Published
from webmesh.options import Limits
from webmesh.protocol.session import Session
from webmesh.websocket.publishing import Publishing, ask_publication, read_published


def test_a_publication_is_answered_like_a_request() -> None:
    """Its reply comes to who waits for it."""
    with raw_end() as end:
        waiter = Waiter()
        request = ask_publication(end.conversation, "a/b", 7, {"key": "k"}, waiter)
        assert {"topic": "a/b", "data": 7, "id": request.id, "headers": {"key": "k"}} == end.receive()
        end.send({"id": request.id, "data": {"receivers": 1}})
        settle(lambda: waiter.log)
    assert [("succeed", {"receivers": 1})] == waiter.log


def test_what_cannot_be_sent_is_not_waited_for() -> None:
    """Nothing stays open."""
    with raw_end() as end:
        with pytest.raises(EncodeError):
            ask_publication(end.conversation, "a/b", object(), None, Waiter())
        assert 0 == end.conversation.session.open_requests


def test_open_publications_count_as_requests() -> None:
    """They are bounded together."""
    session = Session(Limits(open_requests=1), dialled=True)
    session.enter("a/b", None)
    with pytest.raises(Overloaded):
        session.enter("a/b", None)


@pytest.mark.parametrize(
    ("answer", "published"),
    [
        ({"offset": 3, "epoch": "e", "receivers": 2}, Published(3, "e", 2)),
        ({"offset": 3, "epoch": 7, "receivers": 2, "duplicate": True}, Published(3, "7", 2, True)),
        ({"receivers": 2}, Published(receivers=2)),
        ({"offset": "3", "epoch": "e", "receivers": "2", "duplicate": 1}, Published()),
        (None, Published()),
    ],
)
def test_an_answer_is_read_with_distrust(answer: Any, published: Published) -> None:
    """Whatever makes no sense in it counts as not there."""
    told: list[Published] = []
    completion = Publishing(None, told.append)
    completion.succeed(answer)
    assert ([published], published) == (told, completion.wait())
    assert published == read_published(answer)
