"""Answers of many nodes to one question, as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from webmesh.arrivals import Arrivals
from webmesh.deadline import Deadline
from webmesh.exceptions import NOT_STARTED, ConnectionClosed, Unavailable, WebMeshError
from webmesh.instances import Instance
from webmesh.websocket.future import Future


@dataclass(frozen=True, slots=True)
class Answer:
    """What one node has said: a value or an error."""

    node: str
    value: Any = None
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether it is a reply."""
        return self.error is None


class Gathering:
    """Iterate over it for the answers, in the order in which they come. Ends when all have answered, or enough, or
    none for too long, or the time is up; whoever is still busy then is told that nobody waits.

    Args:
        stall: Seconds without any answer after which no more are waited for; `None` for no such end.
        most: Replies that are enough; errors do not count. `None`: all.

    Attributes:
        asked: The ids of all nodes that were to be asked.
        answered: Those that have replied, or with an error.
    """

    def __init__(
        self, path: str, payload: Any, instances: Sequence[Instance], deadline: Deadline,
        headers: Mapping[str, str] | None, *, stall: float | None, most: int | None,
    ) -> None:  # fmt: skip
        self.path = path
        self.asked = tuple(one.node for one in instances)
        self.answered: list[str] = []
        self._deadline = deadline
        self._stall = stall
        self._left = len(instances) if most is None else most
        self._arrivals: Arrivals[str] = Arrivals()
        self._refused: list[Answer] = []
        self._futures: dict[str, Future] = {}
        for one in instances:
            self._ask(one, payload, headers)
        self._answers = self._run()

    def _ask(self, instance: Instance, payload: Any, headers: Mapping[str, str] | None) -> None:
        try:
            if instance.connection is None:
                raise ConnectionClosed(1006, "there is no link to it")
            future = instance.connection.start_call(self.path, payload, self._deadline.remaining(), headers)
        except ConnectionClosed as closed:
            self._refused.append(_unreachable(instance.node, closed))
            return
        except BaseException:  # as a payload that cannot be sent: the caller gets it, and nobody else is to work
            self._give_up()
            raise
        self._futures[instance.node] = future
        self._arrivals.expect(future, instance.node)

    def _run(self) -> Iterator[Answer]:
        try:
            for answer in self._refused:
                self.answered.append(answer.node)
                yield answer
            while self._futures and self._left > 0:
                node = self._arrivals.take(self._patience())
                if node is None:
                    return
                answer = _answer(node, self._futures.pop(node))
                self.answered.append(node)
                self._left -= answer.ok
                yield answer
        finally:
            self._give_up()

    def _patience(self) -> float | None:
        left = self._deadline.remaining()
        if self._stall is None:
            return left
        return self._stall if left is None else min(left, self._stall)

    def _give_up(self) -> None:
        futures, self._futures = self._futures, {}
        for future in futures.values():
            future.cancel()

    @property
    def missing(self) -> tuple[str, ...]:
        """The ids of those that have not answered, so far."""
        return tuple(node for node in self.asked if node not in self.answered)

    def all(self) -> list[Answer]:
        """The answers that are still to come, once there are no more."""
        return list(self)

    def close(self) -> None:
        """Wait for no more; who is busy is told. Safe to call twice."""
        self._left = 0
        self._give_up()

    def __iter__(self) -> Iterator[Answer]:
        return self

    def __next__(self) -> Answer:
        return next(self._answers)

    def __enter__(self) -> Gathering:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Gathering {self.path} answered={len(self.answered)}/{len(self.asked)}>"


def _answer(node: str, future: Future) -> Answer:
    try:
        return Answer(node, future.result(0))
    except ConnectionClosed as closed:  # told in a thread only here
        return _unreachable(node, closed)
    except (WebMeshError, TimeoutError) as error:
        return Answer(node, error=error)


def _unreachable(node: str, closed: ConnectionClosed) -> Answer:
    return Answer(node, error=Unavailable(f"{node} cannot be reached: {closed}", details=NOT_STARTED))
