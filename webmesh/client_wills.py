"""The last wills of one client: which the server knows of, and which it is still to be told.

Pure: used in any thread, each step is one operation on a dict. Wire form: docs/PROTOCOL.md section 6.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from webmesh.exceptions import ConfigurationError, InvalidArgument
from webmesh.options import Limits
from webmesh.protocol.msgpack_body import write_msgpack
from webmesh.protocol.topics import read_topic
from webmesh.protocol.will_request import read_will
from webmesh.protocol.wills import UNCLEAN, checked_reasons

WillWire = dict[str, Any]
Former = tuple[WillWire | None, WillWire | None]
"""What was set, and what was still to be told."""


class ClientWills:
    """What is to be published when this client is lost; told with each `$hello` that may begin a session.

    Args:
        most: Wills that may be set. A server has the same bound; a `$hello` with more it refuses.
    """

    def __init__(self, most: int = Limits.wills) -> None:
        self._most = most
        self._wills: dict[str, WillWire] = {}
        self._untold: dict[str, WillWire] = {}
        self._said: dict[str, WillWire] = {}
        self._told: dict[str, WillWire] = {}
        self._former: dict[str, Former] = {}  # what comes back where the server refuses what took its place

    def set(self, will: WillWire) -> None:
        """Set one, in the place of that with the same id.

        Raises:
            ConfigurationError: There would be too many.
        """
        if will["id"] not in self._wills and len(self._wills) >= self._most:
            raise ConfigurationError(
                f"a client has at most {self._most} wills (Limits.wills): revoke one, or set it with the id of another"
            )
        self._remember(will["id"])
        self._wills[will["id"]] = self._untold[will["id"]] = will

    def revoke(self, will_id: str) -> WillWire:
        """Remove one; returns what is to be said of it."""
        self._remember(will_id)
        self._wills.pop(will_id, None)
        revoked = self._untold[will_id] = {"id": will_id, "revoke": True}
        return revoked

    def refused(self, will: WillWire) -> None:
        """The server does not take it, and has the former one still."""
        will_id = will["id"]
        if self._untold.get(will_id) is not will:
            return  # something else took its place meanwhile
        former, untold = self._former.pop(will_id, (self._told.get(will_id), None))
        for several, one in ((self._wills, former), (self._untold, untold)):
            if one is None:
                several.pop(will_id, None)
            else:
                several[will_id] = one

    def told(self, will: WillWire) -> None:
        """The server knows of it."""
        if self._untold.get(will["id"]) is will:
            del self._untold[will["id"]]
            self._former.pop(will["id"], None)
        if "revoke" in will:
            self._told.pop(will["id"], None)
        else:
            self._told[will["id"]] = will

    def _remember(self, will_id: str) -> None:
        self._former[will_id] = (self._wills.get(will_id), self._untold.get(will_id))

    def hello(self) -> list[WillWire]:
        """For `$hello`: all that are set, since nobody knows yet whether it resumes."""
        self._said = dict(self._wills)
        return list(self._said.values())

    def accepted(self, *, resumed: bool) -> None:
        """It was answered; a new session knows of no others."""
        self._told.clear()
        for will in self._said.values():
            self.told(will)
        self._said = {}
        if not resumed:
            for will in tuple(self._untold.values()):
                if "revoke" in will:
                    self.told(will)

    def untold(self) -> list[WillWire]:
        """What a server that has been greeted is still to be told, the oldest first."""
        return list(self._untold.values())


def will_wire(
    topic: str,
    payload: Any,
    will_id: str,
    on: Collection[str] | None,
    delay: float,
    headers: Mapping[str, str] | None,
) -> WillWire:
    """A will as `$will` and `$hello` say it.

    Raises:
        BadPattern: The topic is none.
        ConfigurationError: Something else makes no sense.
        EncodeError: No message can carry the payload.
    """
    wire: WillWire = {"id": _checked_id(will_id), "topic": "/".join(read_topic(topic)), "data": payload}
    if isinstance(on, str):
        raise ConfigurationError(f"on is a collection of reasons, as ({on!r},)")
    try:
        reasons = checked_reasons(on)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    if reasons != UNCLEAN:
        wire["on"] = sorted(reasons)
    if not 0 <= delay < float("inf"):
        raise ConfigurationError(f"the delay of a will is a number of seconds from 0, not {delay!r}")
    if delay:
        wire["delay_ms"] = round(delay * 1000)
    if headers:
        wire["headers"] = dict(headers)
    try:
        read_will(wire)  # as the server will: what it refuses in `$hello` would cost the session
    except InvalidArgument as error:
        raise ConfigurationError(str(error)) from error
    write_msgpack(payload, Limits())
    return wire


def _checked_id(will_id: object) -> str:
    if not isinstance(will_id, str) or not 0 < len(will_id.encode("utf-8", "surrogatepass")) <= 64:
        raise ConfigurationError(f"the id of a will is a text of 1 to 64 bytes, not {will_id!r}")
    return will_id
