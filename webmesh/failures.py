"""Failures: what the asking side of a request is told when there is no reply for it.

Decides which error stands for what user code raised, and what of it is logged and counted; the text and the
traceback of an exception of the program's own never leave this process. Who catches it is `dispatch`.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import gevent

from webmesh.exceptions import (
    NOT_STARTED, REMOTE_ERRORS, Cancelled, ConnectionClosed, DeadlineExceeded, EncodeError, HandlerFailed, RemoteError,
)  # fmt: skip
from webmesh.handled_call import HandledCall
from webmesh.observer import Observer
from webmesh.protocol import envelope
from webmesh.protocol.envelope import Notification, Request

if TYPE_CHECKING:
    from webmesh.websocket.conversation import Conversation

logger = logging.getLogger("webmesh.server")


class Failures:
    """Tells them to peers, log and observer."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def answer(self, call: HandledCall, error: BaseException, answer: RemoteError) -> None:
        """Send *answer*, which stands for *error*, unless nobody can or wants to have it."""
        if isinstance(error, ConnectionClosed) and not call.connection.open and not call.kept:
            self._observer.refused("reply", "connection closed")
        elif call.request_id is not None and (call.kept or not (call.cancelled and isinstance(answer, Cancelled))):
            self._send_error(call, call.request_id, answer)

    def error_for(self, call: HandledCall, error: BaseException) -> RemoteError:
        """What *error*, raised by the call's handler or thrown into it, is on the wire."""
        if isinstance(error, RemoteError):
            return _of_one_that_began(error) if error.details == NOT_STARTED else error
        if call.expired_with(error):
            return DeadlineExceeded(f"{call.path[:200]} did not end within {call.seconds:g} s")
        if isinstance(error, gevent.GreenletExit | ConnectionClosed) and not call.connection.open:
            return Cancelled("the connection has ended")
        return self.incident(call.conversation, str(call.route), error)

    def incident(self, conversation: Conversation, where: str, error: BaseException) -> RemoteError:
        """Log *error* under an id, which is all that the asking side gets of it."""
        incident = os.urandom(6).hex()
        logger.error(
            "handler failed",
            exc_info=error,
            extra={"route": where, "incident": incident, "connection": conversation.connection.id},
        )
        self._observer.handler_failed(where, incident, error)
        return HandlerFailed("the handler failed", details={"incident": incident})

    def refuse(self, request: Request | Notification, conversation: Conversation, error: RemoteError) -> None:
        """Answer a request for which no handler is entered."""
        self._observer.refused("request", error.code)
        if isinstance(request, Request):
            conversation.say(envelope.error(request.id, error.to_wire()))
        else:
            logger.info("notification dropped", extra={"error": str(error), "connection": conversation.connection.id})

    def _send_error(self, call: HandledCall, request_id: int | str, answer: RemoteError) -> None:
        try:
            try:
                call.answer(envelope.error(request_id, answer.to_wire()))
            except EncodeError as unserializable:  # the details of the handler's own error
                answer = self.incident(call.conversation, str(call.route), unserializable)
                call.answer(envelope.error(request_id, answer.to_wire()))
        except ConnectionClosed:
            self._observer.refused("reply", "connection closed")


def _of_one_that_began(error: RemoteError) -> RemoteError:
    """*error* without the word that no handler has seen the request: that was another one's, which a handler asked."""
    kind = REMOTE_ERRORS.get(error.code, RemoteError)  # a class of the program's own may take other arguments
    retryable = error.retryable and not error.exhausted
    return kind(error.message, code=error.code, retryable=retryable, retry_after=error.retry_after)
