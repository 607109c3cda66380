"""The policy: documented, frozen, checked where it is made."""

from __future__ import annotations

import ast
import dataclasses
import inspect

import pytest

from webmesh import call_policy
from webmesh.call_policy import BALANCES, CallPolicy
from webmesh.exceptions import ConfigurationError

NUMBERS = [field.name for field in dataclasses.fields(CallPolicy) if field.type in ("int", "float")]


def test_defaults_are_valid() -> None:
    """What a user gets without naming anything passes its own checks, and hedges nothing."""
    assert ("least-pending", False) == (CallPolicy().balance, CallPolicy().hedge)


def test_it_is_frozen_and_named() -> None:
    """It can be shared by all services, and a call names what it sets."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        CallPolicy().attempts = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        CallPolicy("key")  # type: ignore[misc]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, None, "10"])
def test_only_numbers_that_make_sense(name: str, value: object) -> None:
    """No wait without end, and a text from a configuration file is no number."""
    with pytest.raises(ConfigurationError, match=f"CallPolicy.{name}"):
        CallPolicy(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [
    {"balance": "fair"}, {"balance": None}, {"hedge": 0.0}, {"hedge": -1.0}, {"hedge": None}, {"attempts": 0},
    {"attempts": 1.5}, {"same_zone": 1.1}, {"hedge_share": 2}, {"shared_keys": 1}, {"in_flight_wait": None},
    {"breaker_open": 0},
])  # fmt: skip
def test_what_is_refused(options: dict[str, object]) -> None:
    """A mistake is told where it is made, with the name of the option."""
    with pytest.raises(ConfigurationError, match=f"CallPolicy.{next(iter(options))}"):
        CallPolicy(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [
    *({"balance": name} for name in BALANCES), {"balance": lambda instances, key: instances[0]}, {"hedge": True},
    {"hedge": 0.5}, {"same_zone": 0}, {"same_zone": 1}, {"attempts": 1}, {"shared_keys": True},
])  # fmt: skip
def test_what_is_taken(options: dict[str, object]) -> None:
    """Names, functions, and the ends of the ranges."""
    assert next(iter(options.values())) == getattr(CallPolicy(**options), next(iter(options)))  # type: ignore[arg-type]


def test_each_default_has_its_reason() -> None:
    """Every field is followed by a text."""
    tree = ast.parse(inspect.getsource(call_policy))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
    bare = [
        ast.unparse(node.target)
        for node, after in zip(body, body[1:])
        if isinstance(node, ast.AnnAssign)
        and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
    ]
    assert [] == bare
