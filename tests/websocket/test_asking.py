"""What goes with a request: the time that is left, and the way that the call took."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from webmesh.call import CURRENT, Call
from webmesh.exceptions import FailedPrecondition, RequestTimeout
from webmesh.websocket.asking import headers_for, seconds_for


@pytest.fixture
def handling() -> Iterator[Call]:
    """A handler runs, with ten seconds to go and two services on the way to it."""
    call = Call("/outer", None, {"call-chain": "shop,stock"}, SimpleNamespace(), seconds=10.0)  # type: ignore[arg-type]
    token = CURRENT.set(call)
    yield call
    CURRENT.reset(token)


def test_the_callers_time_goes_before_the_default():
    """And none at all stays none."""
    assert 3.0 == seconds_for("/a", 3.0, 30.0)
    assert 30.0 == seconds_for("/a", None, 30.0)
    assert seconds_for("/a", None, None) is None


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_a_handler_gives_no_more_time_than_it_has(handling: Call, timeout: float | None):
    """Whether it names a time or not."""
    left = seconds_for("/a", timeout, None)

    assert left is not None and 0 < left <= 10
    assert 0.5 == seconds_for("/a", 0.5, None)


def test_no_time_is_told_before_anything_is_sent():
    """The request would be late from the start."""
    with pytest.raises(RequestTimeout):
        seconds_for("/a", 0.0, 30.0)


def test_headers_are_those_of_the_caller_and_the_chain(handling: Call):
    """Without a handler and a name there is nothing to add."""
    assert {"k": "v", "call-chain": "shop,stock,till"} == headers_for({"k": "v"}, "till", 16)
    with pytest.raises(FailedPrecondition):
        headers_for(None, "till", 2)


def test_without_anything_to_say_there_are_no_headers():
    """Which saves their bytes."""
    assert headers_for(None, None, 16) is None
    assert headers_for({}, None, 16) is None
    assert {"k": "v"} == headers_for({"k": "v"}, None, 16)
