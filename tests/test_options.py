"""Options: each is documented, frozen, positive, and checked where it is made."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

from webmesh import options
from webmesh.exceptions import ConfigurationError
from webmesh.options import Backoff, GossipSettings, Limits, RetryBudget, Timeouts

CLASSES = [Limits, Timeouts, Backoff, RetryBudget, GossipSettings]
FIELDS = [(cls, field.name) for cls in CLASSES for field in dataclasses.fields(cls)]


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_are_valid(cls: type) -> None:
    """What a user gets without naming anything passes its own checks."""
    assert cls() == cls()


@pytest.mark.parametrize("cls", CLASSES)
def test_options_are_frozen_and_named(cls: type) -> None:
    """Options can be shared by all connections: nobody changes them, and a call names what it sets."""
    name = dataclasses.fields(cls)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls(), name, 1)
    with pytest.raises(TypeError):
        cls(1)


@pytest.mark.parametrize(("cls", "name"), FIELDS)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, None, "10"])
def test_only_positive_numbers(cls: type, name: str, value: object) -> None:
    """No bound can be switched off, and a text from a configuration file is no number. Only trying need not end."""
    if (name, value) == ("give_up_after", float("inf")):
        assert value == cls(**{name: value}).give_up_after  # type: ignore[attr-defined]
        return
    with pytest.raises(ConfigurationError, match=f"{cls.__name__}.{name}"):
        cls(**{name: value})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
def test_limits_are_whole(name: str) -> None:
    """Half a byte or half a connection is a mistake."""
    with pytest.raises(ConfigurationError, match="must be a int"):
        Limits(**{name: 1.5})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
def test_limits_can_be_raised(name: str) -> None:
    """Every limit is the user's to set."""
    raised = dataclasses.replace(Limits(), **{name: 10**12})
    assert 10**12 == getattr(raised, name)


def test_a_connection_must_survive_its_own_ping_interval() -> None:
    """Liveness shorter than the silence before a ping would end every idle connection."""
    with pytest.raises(ConfigurationError, match="must be longer than ping_interval"):
        Timeouts(ping_interval=10, liveness=10)


def test_two_pings_fit_into_liveness() -> None:
    """By default one lost ping does not end a connection."""
    assert Timeouts().liveness > 2 * Timeouts().ping_interval


def test_backoff_never_shrinks() -> None:
    """A factor below 1 would let clients come back faster and faster."""
    with pytest.raises(ConfigurationError, match="at least 1"):
        Backoff(factor=0.5)


def test_the_thousand_and_first_blocking_call_is_refused() -> None:
    """Pool and queue together take 1,000 calls."""
    assert 1000 == Limits().threads + Limits().thread_queue


def test_every_option_says_why() -> None:
    """Each default is followed by its unit and reason: a string under the field."""
    tree = ast.parse(Path(options.__file__).read_text(encoding="utf-8"))
    bare = [
        f"{cls.name}.{field.target.id}"
        for cls in tree.body
        if isinstance(cls, ast.ClassDef)
        for field, following in zip(cls.body, cls.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        and not (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant))
    ]  # fmt: skip
    assert [] == bare
