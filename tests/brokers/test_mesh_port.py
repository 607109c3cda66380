"""MeshPort: what the tests use in its place has all of it, as the real one does."""

from __future__ import annotations

import inspect

import pytest

from tests.brokers.mesh_net import Port
from webmesh.brokers.mesh_port import MeshPort
from webmesh.node_port import NodePort


@pytest.mark.parametrize("name", ["linked", "view", "ask", "tell", "tell_all"])
def test_both_have_the_methods_with_the_same_arguments(name: str) -> None:
    """What runs over one runs over the other."""
    wanted = inspect.signature(getattr(MeshPort, name))
    for made in (Port, NodePort):
        assert list(wanted.parameters) == list(inspect.signature(getattr(made, name)).parameters)
