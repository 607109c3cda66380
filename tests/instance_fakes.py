"""Instances without a network, for tests of what is decided about them."""

from __future__ import annotations

from webmesh.instances import Instance


class Link:
    """As much of a connection as a decision needs."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.open = is_open


def instance(node: str = "a", **options: object) -> Instance:
    """One that can be reached."""
    return Instance(node, "stock", Link(), **options)  # type: ignore[arg-type]


def several(count: int) -> list[Instance]:
    """So many of them."""
    return [instance(f"node-{number}") for number in range(count)]


def busy(one: Instance, calls: int) -> Instance:
    """*one* with so many calls in progress."""
    one.calls.update(object() for _ in range(calls))
    return one
