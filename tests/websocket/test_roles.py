"""Who takes part in a conversation: the library's own classes do what is asked of each."""

from __future__ import annotations

import pytest

from webmesh.dispatch import Dispatcher
from webmesh.websocket.hub import Completion
from webmesh.websocket.item_stream import ItemStream
from webmesh.websocket.roles import Answerer, ItemWaiter, Waiter


@pytest.mark.parametrize(("role", "player"), [(Waiter, Completion), (ItemWaiter, ItemStream), (Answerer, Dispatcher)])
def test_a_player_has_all_that_its_role_asks_for(role: type, player: type):
    """So a call of the conversation's finds its method."""
    asked = {name for name in vars(role) if not name.startswith("_")}

    assert asked
    assert set() == {name for name in asked if not callable(getattr(player, name, None))}
