"""Several URLs: in which order they are dialled, and what a failed round raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from webmesh.exceptions import ConfigurationError, ConnectFailed, HandshakeRejected
from webmesh.testing import FakeClock
from webmesh.websocket.dial_rounds import DialRounds
from webmesh.websocket.dialer import LEAST_SHARE
from webmesh.websocket.upgraded import Upgraded

A, B, C = "ws://a", "ws://b?token=secret", "ws://c"


class Net:
    """What each URL answers: an address, or an exception; notes what is dialled."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, float, str, str]] = []

    def dial(self, url: str, *, seconds: float, first: str, last: str) -> Upgraded:
        name = url.partition("://")[2][0]
        self.calls.append((name, seconds, first, last))
        answer = self.answers.get(name, f"address-of-{name}")
        if isinstance(answer, Exception):
            raise answer
        return Upgraded(None, None, None, [], b"", answer, None)  # type: ignore[arg-type]

    @property
    def names(self) -> str:
        """The hosts that were dialled since the last look, in order."""
        names = "".join(call[0] for call in self.calls)
        self.calls.clear()
        return names


def down(*reasons: str) -> ConnectFailed:
    return ConnectFailed("x", list(reasons or ["refused"]))


def catch(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        return error


def rounds(net: Net, *urls: str, clock: Any = None) -> DialRounds:
    return DialRounds(urls, net.dial, clock=clock or FakeClock())


@pytest.mark.parametrize("urls", [[], ["http://x"], ["ws://a", 7], [None]])
def test_urls_are_checked_at_once(urls: Any) -> None:
    """All of them, and that there is one."""
    with pytest.raises(ConfigurationError):
        DialRounds(urls, Net().dial)


def test_the_first_that_answers_is_taken_and_comes_first_next_time() -> None:
    """A server that is down is not asked before the one that was up."""
    net = Net(a=down())
    some = rounds(net, A, B, C)
    assert "address-of-b" == some.dial(10).address
    assert "ab" == net.names
    assert "ws://b" == some.url
    some.dial(10)
    assert [("b", 10 / 3, "address-of-b", "")] == net.calls


def test_a_server_that_leaves_comes_last() -> None:
    """Its address too, among those of its name."""
    net = Net()
    some = rounds(net, A, B)
    some.dial(10)
    some.leave()
    some.dial(10)
    assert "ab" == net.names
    some.leave()
    some.dial(10)
    assert [("a", 5.0, "", "address-of-a")] == net.calls


@pytest.mark.parametrize("answers, error, text", [
    ({"a": down("a: refused"), "b": down("b: timeout")}, ConnectFailed, "a: refused; b: timeout"),
    ({"a": down("a: refused"), "b": HandshakeRejected(503, "busy")}, ConnectFailed, "ws://b: upgrade rejected"),
    ({"a": HandshakeRejected(503, "busy"), "b": HandshakeRejected(404, "?")}, HandshakeRejected, "503"),
    ({"a": HandshakeRejected(401, "who?")}, HandshakeRejected, "401"),
])  # fmt: skip
def test_a_failed_round(answers: dict[str, Any], error: type[Exception], text: str) -> None:
    """Names every reason; a refused login ends it, since the next server would say the same. No query is shown."""
    net = Net(**answers)
    with pytest.raises(error, match=text) as caught:
        rounds(net, A, B).dial(10)
    assert len(answers) == len(net.calls)
    assert "secret" not in str(caught.value)


def test_one_url_fails_as_its_dialling_does() -> None:
    """Nothing is wrapped."""
    failure = down()
    assert failure is catch(rounds(Net(a=failure), A).dial, 10)


def test_all_share_one_deadline() -> None:
    """A useless share goes to nobody: rather fewer are tried."""
    clock, net = FakeClock(), Net(a=down(), b=down(), c=down())

    def dial(url: str, *, seconds: float, first: str, last: str) -> Upgraded:
        clock.advance(seconds)
        return net.dial(url, seconds=seconds, first=first, last=last)

    some = DialRounds([A, B, C], dial, clock=clock)
    assert isinstance(catch(some.dial, 12.0), ConnectFailed)
    assert [4.0, 4.0, 4.0] == [call[1] for call in net.calls]
    net.calls.clear()
    assert "no time left for 1 more" in str(catch(some.dial, LEAST_SHARE * 2))
    assert [LEAST_SHARE, LEAST_SHARE] == [call[1] for call in net.calls]


@pytest.mark.row(76)
def test_a_server_that_asked_for_a_delay_is_left_out_until_then() -> None:
    """The others are not; when all have asked, the first that may be tried again tells the delay."""
    clock, net = FakeClock(), Net(a=HandshakeRejected(503, "busy", retry_after=10), b=down())
    some = rounds(net, A, B, clock=clock)
    catch(some.dial, 5)
    assert ("ab", None) == (net.names, some.asked)
    net.answers["b"] = HandshakeRejected(503, "busy", retry_after=4)
    catch(some.dial, 5)
    assert ("b", 4) == (net.names, some.asked)
    clock.advance(4)
    catch(some.dial, 5)
    assert ("b", 4) == (net.names, some.asked)
    clock.advance(6)
    net.answers.clear()
    some.dial(5)
    assert "a" == net.names


def test_alternates_are_tried_first_and_forgotten_when_they_fail() -> None:
    """They were no address of the program's."""
    net = Net(c=down())
    some = rounds(net, A)
    some.dial(5)
    some.leave()
    assert some.suggest([C, "ws://d"])
    some.dial(5)
    assert "acd" == net.names
    net.answers["d"] = down()
    some.dial(5)
    assert "da" == net.names
    net.answers["a"] = down()
    catch(some.dial, 5)
    assert "a" == net.names


@pytest.mark.parametrize("own, suggested", [
    ("wss://a", ["ws://a"]),
    ("ws://a", ["wss://a"]),
    ("ws://a", ["ws+unix:///run/x"]),
    ("ws+unix:///run/x", ["ws://a"]),
    ("ws://a", ["http://a", "", None, 7, {"url": "ws://a"}, "ws://u:p@b"]),
    ("ws://a", []),
])  # fmt: skip
def test_what_cannot_be_trusted_is_no_alternate(own: str, suggested: list[Any]) -> None:
    """A peer's word must not make a client show its credentials without TLS, or where only this machine was meant."""
    net = Net(w="x")
    some = DialRounds([own], net.dial)
    assert not some.suggest(suggested)
    some.dial(5)
    assert 1 == len(net.calls)


def test_a_flood_of_alternates_is_cut() -> None:
    """Sixteen are enough."""
    net = Net(**{"x": down()})
    some = rounds(net, A)
    some.suggest([f"ws://x{number}" for number in range(1000)])
    some.dial(60)
    assert 17 == len(net.calls)


def test_alternates_that_were_not_needed_are_forgotten() -> None:
    """Each goodbye may name sixteen others; the one that took us stays as long as we are there."""
    net = Net()
    some = rounds(net, A)
    for number in range(20):
        some.suggest([f"ws://d{number}", *(f"ws://x{number}-{other}" for other in range(10))])
        some.dial(5)
        some.leave()
    assert ["ws://a", "ws://d19"] == sorted(some._order)
    assert {"ws://d19"} >= {*some._first, *some._last}
