"""What one address may have, when it is banned, and that nothing is remembered without a bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.options import Limits, Timeouts
from webmesh.protocol.networks import Networks
from webmesh.testing import FakeClock
from webmesh.websocket.addresses import QUICK, Addresses, Visitor, is_failure
from webmesh.websocket.doors import EXEMPT

HOST = "192.0.2.7"


def addresses(clock: FakeClock | None = None, *, exempt: tuple[str, ...] = EXEMPT, **limits: int) -> Addresses:
    return Addresses(
        Limits(**limits), Timeouts(ban=60), exempt=Networks("x", exempt), clock=clock or FakeClock()
    )  # fmt: skip


def visitor(known: Addresses, host: str = HOST) -> Visitor:
    arrived = known.arrive(host)
    assert arrived is not None
    return arrived


def test_one_address_is_one_visitor() -> None:
    """However many sockets it has; in IPv6 a /64 is one, and a mapped address is the IPv4 one."""
    known = addresses()
    assert visitor(known) is visitor(known) is visitor(known, "::ffff:192.0.2.7")
    assert visitor(known, "2001:db8::1") is visitor(known, "2001:db8::2") is not visitor(known, "2001:db8:0:1::1")
    assert 3 == len(known)


def test_the_exempt_are_not_counted() -> None:
    """The loopback by default, and what is no address at all."""
    known = addresses()
    assert [None] * 4 == [known.arrive(host) for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "")]
    assert 0 == len(known)
    assert addresses(exempt=()).arrive("127.0.0.1") is not None


def test_connections_of_one_address_are_bounded() -> None:
    """The next one may come when one has gone; another address has bounds of its own."""
    known = addresses(connections_per_address=2)
    one, other = visitor(known), visitor(known, "192.0.2.8")

    assert [True, True, False] == [known.connect(one) for _ in range(3)]
    assert known.connect(other)
    known.disconnect(one)
    assert [True, False] == [known.connect(one) for _ in range(2)]


def test_an_address_that_comes_too_fast_is_told_when_to_come_back() -> None:
    """So many at once, then as many each second; who must wait is spread, and others come in meanwhile."""
    clock = FakeClock()
    known = addresses(clock, address_rate=4)
    one = visitor(known)

    assert [0, 0, 0, 0, 1, 1, 2, 2, 3] == [known.wait(one) for _ in range(9)]
    assert 0 == known.wait(visitor(known, "192.0.2.8"))
    clock.advance(1)
    assert 0 == known.wait(one)


def test_who_comes_much_too_fast_is_not_answered() -> None:
    """An answer costs more than a question: they have a rate as well."""
    clock = FakeClock()
    known = addresses(clock, address_rate=3)
    one = visitor(known)

    assert [True] * 3 + [False] * 2 == [known.worth_an_answer(one) for _ in range(5)]
    clock.advance(1)
    assert known.worth_an_answer(one)


@pytest.mark.row(75)
def test_all_addresses_together_have_a_rate() -> None:
    """A crowd from everywhere is spread as well, and finds that its last ones have been there before."""
    known = addresses(accept_rate=4)
    assert [0, 0, 0, 0, 2, 2, 3, 3] == [known.appointment() for _ in range(8)]


@pytest.mark.row(77)
def test_an_address_that_fails_again_and_again_is_banned_for_a_while() -> None:
    """After 15 failures in a minute; told once, and over by itself."""
    clock = FakeClock()
    known = addresses(clock)
    one = visitor(known)

    assert [False] * 15 + [True] + [False] * 3 == [known.fail(one) for _ in range(19)]
    assert known.banned(HOST) and known.is_banned(one)
    assert 60 == known.wait(one)
    assert not known.banned("192.0.2.8")
    clock.advance(60)
    assert not known.banned(HOST) and not known.is_banned(one)
    assert 0 == known.wait(one)


@pytest.mark.row(77)
def test_failures_now_and_then_are_forgiven() -> None:
    """One every four seconds can go on for ever."""
    clock = FakeClock()
    known = addresses(clock)
    one = visitor(known)
    for _ in range(100):
        assert not known.fail(one)
        clock.advance(4.01)


def test_nobody_is_banned_where_nobody_was() -> None:
    """Asked of every socket that is accepted: strangers and the exempt are not remembered for it."""
    known = addresses()
    assert not known.banned(HOST)
    visitor(known)
    assert [False] * 4 == [known.banned(host) for host in (HOST, "192.0.2.8", "127.0.0.1", "")]
    assert 1 == len(known)


@pytest.mark.row(77)
def test_leaving_does_not_lift_a_ban() -> None:
    """Rates and bans are remembered without a connection, too."""
    known = addresses(address_failures=1)
    one = visitor(known)
    known.fail(one)
    assert known.fail(one)
    known.leave(one)

    assert known.banned(HOST)
    assert one is visitor(known)


@pytest.mark.row(86)
def test_the_table_is_bounded() -> None:
    """A million addresses leave as many behind as the limit says, those that were here last."""
    known = addresses(addresses=100)
    stays = visitor(known, "198.51.100.1")
    for number in range(10_000):
        known.leave(visitor(known, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))

    assert 101 == len(known)
    assert stays is visitor(known, "198.51.100.1")


@pytest.mark.row(77)
@pytest.mark.parametrize(
    ("code", "seconds", "failed"),
    [
        (1000, 0.0, False), (1001, 0.0, False), (4001, 0.0, False), (1011, 0.0, False), (4008, 0.0, False),
        (1006, 0.0, True), (1006, QUICK, False), (1002, 100.0, True), (1008, 100.0, True), (4500, 1.0, True),
    ],
)  # fmt: skip
def test_which_ends_are_failures(code: int, seconds: float, failed: bool) -> None:
    """Rules that were broken, and connections that broke at once; never a proper goodbye, however soon."""
    assert failed == is_failure(code, seconds)


STEPS = st.tuples(st.sampled_from(["arrive", "leave", "connect", "fail", "later"]), st.integers(0, 5))


@given(st.lists(STEPS, max_size=100))
def test_no_order_of_events_breaks_the_books(steps: list[tuple[str, int]]) -> None:
    """Whoever has sockets is known, whoever has none is remembered up to the bound, and nothing is negative."""
    clock = FakeClock()
    known = addresses(clock, addresses=2, connections_per_address=2, address_failures=2)
    here: list[Visitor] = []

    for step, number in steps:
        if step == "arrive":
            here.append(visitor(known, f"192.0.2.{number}"))
        elif step == "later":
            clock.advance(number * 20)
        elif here and step == "leave":
            known.leave(here.pop(number % len(here)))
        elif here and step == "fail":
            known.fail(here[number % len(here)])
        elif here and known.connect(one := here[number % len(here)]):
            known.disconnect(one)

        assert len({id(one) for one in here}) <= len(known) <= len({id(one) for one in here}) + 2
        assert all(one.places == here.count(one) and one.connections == 0 for one in here)
