"""The sessions of one server: who may resume one, and how long it waits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.running import wait_for
from tests.session_node import PATIENCE, Node, node
from webmesh.auth import Identity
from webmesh.exceptions import InvalidArgument
from webmesh.message_serializers import StandardJsonSerializer
from webmesh.options import Limits, Timeouts
from webmesh.sessions import Resume


def hello(connection: Any, **said: Any) -> Any:
    return connection.call("$hello", said or None, timeout=PATIENCE)


def resume_of(answer: Any, **more: Any) -> dict[str, Any]:
    return {"session": answer["session"], "epoch": answer["epoch"], **more}


def states(mesh: Node) -> list[tuple[str, str]]:
    return mesh.observer.named("session_changed")


# ------------------------------------------------------------------------ $hello


def test_without_a_hello_there_is_no_session() -> None:
    """A program that only calls pays nothing for it."""
    with node() as mesh:
        client, server = mesh.link()
        client.call("$info", timeout=PATIENCE)

        assert server.session is None
        assert 0 == len(mesh.sessions)


@pytest.mark.row(86)
def test_a_session_id_cannot_be_guessed() -> None:
    """128 bits, different each time."""
    with node() as mesh:
        ids = {hello(mesh.link()[0])["session"] for _ in range(5)}

    assert {32} == set(map(len, ids))
    assert 5 == len(ids)


def test_a_second_hello_tells_news_and_opens_nothing() -> None:
    """The session is the same."""
    with node() as mesh:
        client, server = mesh.link()
        first = hello(client, node={"name": "a"})
        second = hello(client, node={"name": "b"}, resume=resume_of(first))

        assert first == second
        assert ({"name": "b"}, 1) == (server.metadata["node"], len(mesh.sessions))


def test_the_first_message_may_be_another() -> None:
    """Sessions do not ask for a login."""
    with node() as mesh:
        client, server = mesh.link()
        client.call("$info", timeout=PATIENCE)
        hello(client)

        assert server.session is not None


# ----------------------------------------------------------------------- resuming


def test_a_lost_session_is_resumed() -> None:
    """With its metadata, which is the same dict; handlers that kept the old connection find it there."""
    with node() as mesh:
        client, server = mesh.link()
        answer = hello(client)
        session = mesh.of(server)
        server.metadata["cart"] = [1]
        mesh.cut(client)
        assert (None, 1) == (session.connection, mesh.sessions.away)

        other, again = mesh.link()
        resumed = hello(other, resume=resume_of(answer))

        assert (True, answer["session"]) == (resumed["resumed"], resumed["session"])
        assert session is again.session is server.session
        assert again.metadata is server.metadata and [1] == again.metadata["cart"]
        assert again is session.connection
        assert 0 == mesh.sessions.away
        assert [("opened", ""), ("lost", ""), ("resumed", "")] == states(mesh)


@pytest.mark.row(57, 69)
@pytest.mark.parametrize("said", [{"session": "00" * 16}, {"epoch": "other"}])
def test_a_session_that_is_not_there_is_not_resumed(said: dict[str, Any]) -> None:
    """A new one is opened, as if nothing had been asked for."""
    with node() as mesh:
        client, _ = mesh.link()
        answer = hello(client)
        mesh.cut(client)

        again = hello(mesh.link()[0], resume=resume_of(answer) | said)

        assert again["resumed"] is False
        assert again["session"] not in (answer["session"], said.get("session"))
        assert ("refused", "unknown") in states(mesh)


@pytest.mark.row(57)
def test_only_who_logged_in_may_resume() -> None:
    """Another one gets the answer that an unknown session gets; and the owner can still resume."""
    with node() as mesh:
        client, server = mesh.link()
        server.identity = Identity("ann")
        answer = hello(client)
        mesh.cut(client)
        thief, thiefs = mesh.link()
        thiefs.identity = Identity("bob")

        stolen = hello(thief, resume=resume_of(answer))
        unknown = hello(mesh.link()[0], resume={"session": "x", "epoch": answer["epoch"]})

        assert stolen["resumed"] is False
        assert set(stolen) == set(unknown)
        assert ("refused", "identity") in states(mesh)
        owner, owners = mesh.link()
        owners.identity = Identity("ann")
        assert hello(owner, resume=resume_of(answer))["resumed"] is True


def test_another_serializer_cannot_resume() -> None:
    """What was kept is in the form of the first."""
    with node() as mesh:
        client, _ = mesh.link()
        answer = hello(client)
        mesh.cut(client)

        other, _ = mesh.link(serializer=StandardJsonSerializer)

        assert hello(other, resume=resume_of(answer))["resumed"] is False


@pytest.mark.row(68)
def test_a_resume_replaces_a_link_that_still_looks_open() -> None:
    """The server may notice a loss later than the client; the old link ends with 4505."""
    with node() as mesh:
        client, server = mesh.link()
        answer = hello(client)

        other, again = mesh.link()
        resumed = hello(other, resume=resume_of(answer))

        assert resumed["resumed"] is True
        assert 4505 == server.wait_closed(PATIENCE).code == client.wait_closed(PATIENCE).code
        assert again is mesh.of(again).connection


@pytest.mark.row(93)
@pytest.mark.parametrize(
    "resume",
    [
        "x", 7, [], {}, {"session": 1, "epoch": "e"}, {"session": "s"}, {"session": "s", "epoch": []},
        {"session": "s", "epoch": "e", "received": -1}, {"session": "s", "epoch": "e", "received": True},
        {"session": "s", "epoch": "e", "streams": {"1": 2}}, {"session": "s", "epoch": "e", "streams": [[1, 2]]},
        {"session": "s", "epoch": "e", "streams": [[1, 2, -3]]},
        {"session": "s", "epoch": "e", "streams": [[None, 1, 1]]},
        {"session": "s", "epoch": "e", "streams": [[1, 1, 1]] * 3},
    ],
)  # fmt: skip
def test_a_resume_that_makes_no_sense_is_refused(resume: Any) -> None:
    """With what it takes."""
    with pytest.raises(InvalidArgument):
        Resume.read(resume, 2)


# ------------------------------------------------------------------------ its end


@pytest.mark.row(70, 86)
def test_a_session_ends_after_its_time() -> None:
    """Not before, and with everything that it held."""
    with node(timeouts=Timeouts(session=30)) as mesh:
        client, server = mesh.link()
        answer = hello(client)
        ends: list[str] = []
        mesh.of(server).on_end.append(ends.append)
        mesh.cut(client)
        mesh.later(29.9)
        assert ([], 1) == (ends, len(mesh.sessions))
        mesh.later(0.1)

        assert (["timeout"], 0, 0) == (ends, len(mesh.sessions), mesh.sessions.away)
        assert hello(mesh.link()[0], resume=resume_of(answer))["resumed"] is False


def test_a_session_whose_peer_is_there_lasts() -> None:
    """However long."""
    with node() as mesh:
        client, server = mesh.link()
        hello(client)
        mesh.later(10_000)

        assert not mesh.of(server).over


def test_goodbye_ends_a_session() -> None:
    """The peer has left on purpose; a hello after it opens another one."""
    with node() as mesh:
        client, server = mesh.link()
        answer = hello(client)
        ends: list[str] = []
        session = mesh.of(server)
        session.on_end.append(ends.append)
        client.notify("$goodbye")
        assert wait_for(lambda: session.over)
        assert answer["session"] != hello(client)["session"]
        mesh.cut(client)

        assert ["goodbye"] == ends
        assert hello(mesh.link()[0], resume=resume_of(answer))["resumed"] is False


@pytest.mark.parametrize("code", [4500, 4503])
def test_whoever_is_not_to_come_back_has_no_session(code: int) -> None:
    """As section 5 of the protocol says of 4500 and above."""
    with node() as mesh:
        client, server = mesh.link()
        hello(client)
        server.close(code, "go", timeout=PATIENCE)

        assert wait_for(lambda: len(mesh.sessions) == 0)


@pytest.mark.row(86)
def test_sessions_that_are_away_are_bounded() -> None:
    """The one that has been away longest ends first."""
    with node(limits=Limits(away_sessions=2)) as mesh:
        answers = []
        for _ in range(3):
            client, _ = mesh.link()
            answers.append(hello(client))
            mesh.cut(client)

        assert (2, 2) == (mesh.sessions.away, len(mesh.sessions))
        assert ("ended", "too many") in states(mesh)
        assert [False, True, True] == [hello(mesh.link()[0], resume=resume_of(one))["resumed"] for one in answers]


@pytest.mark.row(86)
def test_one_subject_does_not_push_out_the_sessions_of_others() -> None:
    """Who has more than half of those that are away loses its own longest one."""
    with node(limits=Limits(away_sessions=4)) as mesh:
        answers = []
        for subject in ("ann", *["eve"] * 6):
            client, server = mesh.link()
            server.identity = Identity(subject)
            answers.append(hello(client))
            mesh.cut(client)
        client, server = mesh.link()
        server.identity = Identity("ann")

        assert 4 == mesh.sessions.away
        assert hello(client, resume=resume_of(answers[0]))["resumed"]


@pytest.mark.row(86)
def test_what_all_sessions_keep_is_bounded() -> None:
    """Of those that keep most the one ends that has done so longest; whoever keeps most itself drops its own oldest."""
    with node(limits=Limits(sessions_size=1000)) as mesh:
        sessions = []
        for _ in range(2):
            client, server = mesh.link()
            hello(client)
            sessions.append(mesh.of(server))
            mesh.cut(client)
            sessions[-1].notify("/a", "x" * 600)
        assert [True, False] == [session.over for session in sessions]
        assert ("ended", "too many bytes") in states(mesh)
        sessions[1].notify("/a", "x" * 600)
        assert 600 < mesh.sessions.room.taken < 1000
        mesh.later(1000)
        assert 0 == mesh.sessions.room.taken


@pytest.mark.row(51)
def test_the_greediest_session_pays_for_the_others() -> None:
    """Whose peer is there cannot resume what it has not had, and goes on; who keeps little is left alone."""
    with node(limits=Limits(sessions_size=1000)) as mesh:
        sessions = []
        for _ in range(2):
            client, server = mesh.link()
            hello(client)
            sessions.append(mesh.of(server))
        small, large = sessions
        mesh.sessions.home.run(small.room.take, 300)
        large.notify("/a", "x" * 600)
        mesh.sessions.home.run(small.room.take, 200)
        assert (500, 0) == (small.room.taken, large.room.taken)
        assert not (small.over or large.over)


@pytest.mark.row(56)
def test_a_function_may_say_which_sessions_are_expelled() -> None:
    """It is asked of those that are away; what only connections have is a no."""
    with node() as mesh:
        for subject in ("ann", "eve"):
            client, server = mesh.link()
            server.identity = Identity(subject)
            hello(client)
            mesh.cut(client)
        mesh.sessions.expel(lambda one: one.address == "pair")
        assert 2 == mesh.sessions.away
        mesh.sessions.expel(lambda one: one.identity.subject == "eve")
        assert 1 == mesh.sessions.away


def test_a_server_that_closes_keeps_nobody() -> None:
    """Neither who is away, nor who is lost from then on."""
    with node() as mesh:
        (away, _), (there, _) = mesh.link(), mesh.link()
        hello(away), hello(there)
        mesh.cut(away)
        mesh.run(mesh.sessions.end_away)
        assert (0, 1) == (mesh.sessions.away, len(mesh.sessions))
        mesh.cut(there)

        assert 0 == len(mesh.sessions)


@pytest.mark.row(93)
def test_a_callback_that_fails_ends_nothing_else() -> None:
    """The next one is called, and the session is gone."""
    def fails(reason: str) -> None:
        raise ZeroDivisionError

    with node() as mesh:
        client, server = mesh.link()
        hello(client)
        ends: list[str] = []
        mesh.of(server).on_end.extend([fails, ends.append])
        mesh.run(mesh.sessions.close)

        assert ["closed"] == ends
