"""`$join`: who becomes a node, over real connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.running import PATIENCE, running
from webmesh.auth import Credentials, Identity
from webmesh.exceptions import (
    FailedPrecondition, InvalidArgument, PermissionDenied, RemoteProtocolError, Unauthenticated,
)  # fmt: skip
from webmesh.mesh_joins import Joined, MeshJoins
from webmesh.protocol.node_record import NodeRecord
from webmesh.webmesh_client import WebMeshClient
from webmesh.webmesh_server import WebMeshServer

SECRET = b"a secret of sixteen bytes and more"


def record(name: str, **more: Any) -> NodeRecord:
    return NodeRecord(id=name, epoch=1, **more)


class Side:
    """One node's `MeshJoins`."""

    def __init__(self, name: str, secret: bytes | None = None, *, logins: bool = False) -> None:
        self.me = record(name)
        self.others = [{"id": f"{name}'s friend"}]
        self.came: list[Joined] = []
        self.joins = MeshJoins(
            lambda: self.me, lambda: self.others, secret=secret, logins=lambda: logins,
            joined=lambda connection, joined: self.came.append(joined),
        )  # fmt: skip


@contextmanager
def asking(accepting: Side, server: WebMeshServer | None = None, **client: Any) -> Iterator[Any]:
    server = server or WebMeshServer()
    accepting.joins.register(server.router)
    with running(server), WebMeshClient(server.url, **client) as one:
        yield one.connect()


@pytest.mark.parametrize("secret", [None, SECRET])
def test_each_side_learns_who_the_other_is_and_whom_it_knows(secret: bytes | None) -> None:
    """With a secret as without."""
    dialling, accepting = Side("d", secret), Side("a", secret)
    with asking(accepting) as connection:
        joined = dialling.joins.ask(connection, PATIENCE)
    assert ("a", [{"id": "a's friend"}]) == (joined.node.id, joined.known)
    assert [("d", [{"id": "d's friend"}])] == [(one.node.id, one.known) for one in accepting.came]


@pytest.mark.parametrize(
    "dialler, acceptor, error",
    [
        (None, SECRET, Unauthenticated),
        (SECRET, None, PermissionDenied),
        (SECRET, b"another secret of theirs", PermissionDenied),
    ],
)
def test_without_the_same_secret_nobody_joins_and_nobody_learns_who_is_there(
    dialler: bytes | None, acceptor: bytes | None, error: type[Exception]
) -> None:
    """Whichever side has which."""
    dialling, accepting = Side("d", dialler), Side("a", acceptor)
    with asking(accepting) as connection, pytest.raises(error):
        dialling.joins.ask(connection, PATIENCE)
    assert all(not one.known for one in accepting.came)
    assert not accepting.came or acceptor is None


def test_a_proof_that_was_not_asked_for_or_is_wrong_is_refused() -> None:
    """One try for each `$join`."""
    accepting = Side("a", SECRET)
    with asking(accepting) as connection:
        with pytest.raises(FailedPrecondition, match="before"):
            connection.call("$proof", {"proof": "x"})
        connection.call("$join", {"node": record("d").to_wire(), "nonce": "0" * 32})
        with pytest.raises(Unauthenticated):
            connection.call("$proof", {"proof": "0" * 64})
        with pytest.raises(FailedPrecondition):
            connection.call("$proof", {"proof": "0" * 64})
    assert [] == accepting.came


@pytest.mark.parametrize("said", [None, [], {}, {"node": 5}, {"node": {"id": "", "epoch": 1}}])
def test_who_does_not_say_who_it_is_does_not_join(said: object) -> None:
    """Whatever it says instead."""
    accepting = Side("a")
    with asking(accepting) as connection, pytest.raises(InvalidArgument):
        connection.call("$join", said)
    assert [] == accepting.came


@pytest.mark.parametrize("known", ["none", None, {}, [{}] * 1025])
def test_what_somebody_says_of_others_must_not_keep_two_from_linking(known: object) -> None:
    """What is no list, or one without end, is left out."""
    accepting = Side("a")
    with asking(accepting) as connection:
        connection.call("$join", {"node": record("d").to_wire(), "known": known})
    assert [[]] == [one.known for one in accepting.came]


@pytest.mark.parametrize("answer", [None, [], {"node": {"id": "x"}}])
def test_an_answer_that_makes_no_sense_ends_the_attempt(answer: object) -> None:
    """With an error of the protocol's."""
    server = WebMeshServer()
    server.router.add("$join", lambda payload, path, client: answer, reserved=True)
    with running(server), WebMeshClient(server.url) as client, pytest.raises(RemoteProtocolError, match="join"):
        Side("d").joins.ask(client.connect(), PATIENCE)


@pytest.mark.parametrize("roles, may", [((), False), (("node",), True)])
def test_where_peers_log_in_only_those_with_the_role_may_join(roles: tuple[str, ...], may: bool) -> None:
    """A client's login is not enough; a secret needs no role."""

    def who(credentials: Credentials) -> Identity:
        return Identity("somebody", roles)

    accepting = Side("a", logins=True)
    with asking(accepting, WebMeshServer(authenticate=who), token="t") as connection:
        if may:
            assert "a" == Side("d").joins.ask(connection, PATIENCE).node.id
        else:
            with pytest.raises(PermissionDenied, match="role"):
                Side("d").joins.ask(connection, PATIENCE)
    secret = Side("a", SECRET, logins=True)
    with asking(secret, WebMeshServer(authenticate=who), token="t") as connection:
        assert "a" == Side("d", SECRET).joins.ask(connection, PATIENCE).node.id
