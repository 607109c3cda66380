"""The answer to a call that is on its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from webmesh.deadline import Deadline
from webmesh.exceptions import Cancelled, ConnectionClosed, RequestTimeout
from webmesh.websocket.hub import Completion, HubThread


class Future:
    """What `spawn` returns. May be used from any greenlet or thread.

    Args:
        completion: Gets the reply or the error.
        deadline: The call's own; past it the call has failed, whoever waits.
        abandon: Tells the peer that nobody waits; safe to call when the answer has come.
    """

    __slots__ = ("_abandon", "_completion", "deadline", "path", "timeout")

    def __init__(
        self,
        path: str,
        completion: Completion[Any],
        deadline: Deadline,
        timeout: float | None,
        abandon: Callable[[], None],
    ) -> None:
        self.path = path
        self.timeout = timeout
        self._completion = completion
        self.deadline = deadline
        self._abandon = abandon

    def done(self) -> bool:
        """Whether the reply or an error is there."""
        return self._completion.done

    def result(self, timeout: float | None = None) -> Any:
        """The reply.

        Args:
            timeout: Seconds to wait here; the call itself goes on after them. `None` waits as long as the
                call lasts.

        Raises:
            TimeoutError: Nothing came within *timeout*.
            RequestTimeout: Nothing came within the call's own time; the peer is told. The handler may have run.
            ReplyLost: The connection ended meanwhile.
            RemoteError: The peer answered with an error.
        """
        left = self.deadline.remaining()
        own = timeout is not None and (left is None or timeout < left)
        try:
            return self._completion.wait(timeout if own else left)
        except TimeoutError:
            if own and not self._completion.done:
                raise
        except BaseException:  # a kill or a foreign Timeout: it ends a `call`, but no future that others wait for
            if not self._completion.awaited:
                self.cancel()
            raise
        self.expire()  # nothing, where the TimeoutError is the answer itself
        return self._completion.wait()

    def cancel(self) -> None:
        """Give up: the peer's handler is cancelled; whoever waits gets `Cancelled`. Nothing happens when done."""
        self._give_up(Cancelled("given up by the asking side"))

    def expire(self) -> None:
        """The call's time is up: whoever waits gets `RequestTimeout`. Nothing happens when done."""
        self._give_up(RequestTimeout(self.path, self.timeout))

    def expire_later(self, home: HubThread) -> None:
        """In the hub: expire by itself, although nobody waits."""
        timer = home.hub.loop.timer(self.deadline.remaining() or 0.0)
        timer.start(self.expire, update=True)
        self._completion.when_done(lambda: home.post(timer.close))

    def _give_up(self, error: BaseException) -> None:
        if self._completion.done:
            return
        self._completion.fail(error)
        try:
            self._abandon()
        except ConnectionClosed:
            pass  # then there is no peer to be told

    def when_done(self, callback: Callable[[Future], object]) -> None:
        """Call *callback* with this future once it is done, in the hub; it must not block."""
        self._completion.when_done(lambda: callback(self))
