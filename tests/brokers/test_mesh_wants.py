"""MeshWants: in the end all others know what is wanted, whatever is lost on the way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from tests.brokers.contract import until
from webmesh.brokers import mesh_messages, mesh_wants
from webmesh.brokers.mesh_interest import MeshInterest
from webmesh.brokers.mesh_messages import read_patterns
from webmesh.brokers.mesh_wants import MeshWants
from webmesh.exceptions import ConnectionClosed, RequestTimeout, WebMeshError

X, Y = ("x",), ("y", "*")


class Port:
    """One other node, `n`, which takes what it gets into its `MeshInterest`, or does not answer."""

    me = "me"

    def __init__(self) -> None:
        self.interest = MeshInterest()
        self.interest.expect("me")
        self.said: list[dict[str, Any]] = []
        self.everything: list[bool] = []
        self.failure: WebMeshError | None = None

    def ask(self, node: str, path: str, said: dict[str, Any], timeout: float) -> None:
        gevent.sleep(0)
        self.said.append(said)
        if self.failure is not None:
            raise self.failure
        options = {"all": said.get("all") is True, "more": said.get("more") is True}
        self.interest.told("me", read_patterns(said["add"]), read_patterns(said["remove"]), **options)
        self.everything.append({"me"} == self.interest.nodes(("anything",)))
        if "groups" in said:
            self.interest.told_groups("me", read_patterns(said["groups"]))


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
def wants(port: Port) -> Iterator[MeshWants]:
    made = MeshWants(port, lambda: ["jobs/*"])  # type: ignore[arg-type]
    yield made
    made.stop()


def test_a_new_link_is_told_everything(port: Port, wants: MeshWants) -> None:
    """Once; what is wanted since then is told when it is."""
    wants.want(X)
    wants.link("n")
    until(lambda: {"me"} == port.interest.nodes(X) and set() == port.interest.nodes(("z",)))
    assert port.interest.grouped(("jobs", "1")) and not port.interest.grouped(X)
    wants.want(X)
    wants.want(Y)
    assert {"me"} == port.interest.nodes(("y", "1"))
    wants.unwant(X)
    wants.unwant(X)
    until(lambda: set() == port.interest.nodes(X))
    assert 3 == len(port.said)


def test_what_is_wanted_again_at_once_stays_wanted(port: Port, wants: MeshWants) -> None:
    """The last subscriber leaves in the moment in which another one comes."""
    wants.link("n")
    wants.want(X)
    for _ in range(3):
        wants.unwant(X)
        wants.want(X)
    assert {"me"} == port.interest.nodes(X)
    wants.tell_groups()
    assert {"me"} == port.interest.nodes(X)


@pytest.mark.parametrize(
    ("failure", "told"), [(RequestTimeout("$interest", 5.0), True), (ConnectionClosed(1006, "no link"), False)]
)
def test_what_was_not_heard_is_told_again(
    port: Port, wants: MeshWants, failure: WebMeshError, told: bool, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Until it is; meanwhile the other side takes this node for one that may want everything. The log tells of it, but
    not of a link that has ended."""
    caplog.set_level(logging.INFO, "webmesh")
    monkeypatch.setattr(mesh_wants, "AGAIN", 0.01)
    port.failure = failure
    wants.want(X)
    wants.link("n")
    until(lambda: 1 < len(port.said))
    wants.want(Y)
    assert {"me"} == port.interest.nodes(("anything",))
    port.failure = None
    until(lambda: {"me"} == port.interest.nodes(X) == port.interest.nodes(("y", "1")))
    until(lambda: set() == port.interest.nodes(("anything",)))
    assert told is ("a node did not hear what is wanted here" in caplog.messages)


def test_what_no_message_holds_goes_in_parts(port: Port, wants: MeshWants, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is missed between them."""
    monkeypatch.setattr(mesh_messages, "PART_SIZE", 100)
    for number in range(40):
        wants.want((f"topic-{number}",))
    wants.link("n")
    until(lambda: set() == port.interest.nodes(("anything",)))
    assert [True] * (len(port.said) - 1) + [False] == port.everything
    assert all({"me"} == port.interest.nodes((f"topic-{number}",)) for number in range(40))
    assert 4 <= len(port.said) and [True] == [said["all"] for said in port.said if "all" in said]


def test_who_is_not_linked_any_more_is_told_nothing(port: Port, wants: MeshWants) -> None:
    """Nor waited for."""
    port.failure = RequestTimeout("$interest", 5.0)
    wants.link("n")
    until(lambda: 1 == len(port.said))
    waiting = gevent.spawn(wants.want, X)
    gevent.sleep(0)
    wants.unlink("n")
    waiting.get(timeout=5)
    said = len(port.said)
    wants.want(Y)
    gevent.sleep(0.2)
    assert said == len(port.said)
