"""The plain half of a connection."""

from __future__ import annotations

import pytest

from webmesh.exceptions import LocalProtocolError
from webmesh.testing import connection_pair


def test_a_mesh_connection_has_no_plain_messages():
    """Its serializer owns them; what to use instead is said."""
    with connection_pair() as (client, _):
        for use in (lambda: client.send("x"), client.receive, lambda: next(iter(client)), client.run_plain):
            with pytest.raises(LocalProtocolError, match="use call or notify"):
                use()  # type: ignore[no-untyped-call]
