"""Which wills the server knows of, and which it is still to be told."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.client_wills import ClientWills, will_wire
from webmesh.exceptions import BadPattern, ConfigurationError, EncodeError


def will(will_id: str, payload: Any = None) -> dict[str, Any]:
    return will_wire("a/b", payload, will_id, None, 0.0, None)


def test_a_will_on_the_wire() -> None:
    """Without what is the default."""
    assert {"id": "w", "topic": "a/b", "data": None} == will("w")
    assert {
        "id": "w", "topic": "a/b", "data": 1, "on": ["goodbye", "lost"], "delay_ms": 1500, "headers": {"x": "y"},
    } == will_wire("a/b", 1, "w", ("lost", "goodbye"), 1.5, {"x": "y"})  # fmt: skip


@pytest.mark.parametrize(
    ("will_id", "on", "delay"),
    [("", None, 0), ("x" * 65, None, 0), ("w", (), 0), ("w", ("bored",), 0), ("w", "lost", 0), ("w", None, -1)],
)
def test_what_makes_no_sense_is_refused(will_id: str, on: Any, delay: float) -> None:
    """Before it is sent."""
    with pytest.raises(ConfigurationError):
        will_wire("a/b", None, will_id, on, delay, None)
    with pytest.raises(BadPattern):
        will_wire("a/*", None, "w", None, 0.0, None)


def test_each_hello_tells_all() -> None:
    """Nobody knows before its answer whether a session begins."""
    wills = ClientWills()
    first, second = will("first"), will("second")
    for one in (first, second):
        wills.set(one)
    assert [first, second] == wills.hello()
    wills.accepted(resumed=False)
    assert ([], [first, second]) == (wills.untold(), wills.hello())


def test_what_changes_while_hello_is_on_its_way_is_told_after_it() -> None:
    """The server knows of the old one."""
    wills = ClientWills()
    wills.set(will("w", 1))
    wills.hello()
    newer = will("w", 2)
    wills.set(newer)
    wills.accepted(resumed=False)
    assert [newer] == wills.untold()
    wills.told(newer)
    assert [] == wills.untold()


@pytest.mark.parametrize("resumed", [True, False])
def test_a_revocation_is_told_to_a_session_that_goes_on(resumed: bool) -> None:
    """A new one never knew of it."""
    wills = ClientWills()
    wills.set(will("w"))
    wills.hello()
    wills.accepted(resumed=False)
    revoked = wills.revoke("w")
    assert [] == wills.hello()
    wills.accepted(resumed=resumed)
    assert ([revoked] if resumed else []) == wills.untold()


def test_what_the_server_refuses_is_not_told_again() -> None:
    """Nor with the next session; what was set in its place is."""
    wills = ClientWills()
    refused, other = will("w"), will("other")
    for one in (refused, other):
        wills.set(one)
    wills.refused(refused)
    assert ([other], [other]) == (wills.untold(), wills.hello())


@pytest.mark.parametrize("revoked", [False, True])
def test_what_is_refused_leaves_the_former_one_set(revoked: bool) -> None:
    """The server has it still; where it had not been told of it, it is to be."""
    wills = ClientWills()
    old = will("w", 1)
    wills.set(old)
    wills.told(old)
    if revoked:
        new = wills.revoke("w")
    else:
        wills.set(new := will("w", 2))
    wills.refused(new)
    assert ([old], []) == (wills.hello(), wills.untold())
    wills.set(second := will("w", 3))
    wills.set(third := will("w", 4))
    wills.refused(third)
    wills.refused(new)
    assert ([second], [second]) == (wills.hello(), wills.untold())
    wills.refused(second)
    assert ([old], []) == (wills.hello(), wills.untold())


def test_a_client_sets_only_so_many() -> None:
    """As many as a server takes: one more would cost the session. A will may take another one's place."""
    wills = ClientWills(2)
    for name in ("a", "b", "b"):
        wills.set(will(name))
    with pytest.raises(ConfigurationError, match="at most 2 wills"):
        wills.set(will("c"))
    wills.revoke("a")
    wills.set(will("c"))
    assert ["b", "c"] == [one["id"] for one in wills.hello()]


@pytest.mark.parametrize("options", [{"will_id": "bad\n"}, {"headers": {"ttl-ms": "soon"}}, {"headers": {"a": 5}}])
def test_what_the_server_would_refuse_is_refused_at_once(options: dict[str, Any]):
    """In `$hello` it would cost the session."""
    with pytest.raises(ConfigurationError):
        will_wire(**({"topic": "a", "payload": 1, "will_id": "w", "on": None, "delay": 0.0, "headers": None} | options))


def test_a_payload_that_no_message_can_carry_is_refused_at_once():
    """Or no `$hello` could be written any more."""
    with pytest.raises(EncodeError):
        will_wire("a", object(), "w", None, 0.0, None)
