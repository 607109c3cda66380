"""Options of routes: what is accepted, and what the refusals say."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.exceptions import ConfigurationError
from webmesh.route_options import RouteOptions, read_options


def test_defaults_promise_nothing():
    """A route that says nothing takes the process's ways, and no order."""
    options = read_options({})

    assert RouteOptions() == options
    assert options.blocking is None
    assert options.order_key is None
    assert "raise" == options.cancel


def test_given_options_are_kept():
    """Each by its name."""
    options = read_options({"blocking": True, "timeout": 2, "max_in_flight": 3, "order": "peer", "idempotent": True})

    assert (True, 2, 3, "peer", True) == (
        options.blocking, options.timeout, options.max_in_flight, options.order, options.idempotent,
    )  # fmt: skip


def test_an_order_may_name_an_argument():
    """`key:<argument>` keeps the order of calls with an equal one."""
    assert "account" == read_options({"order": "key:account"}).order_key


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"timout": 1}, "unknown route option 'timout': known are blocking, timeout"),
        ({"timeout": 0}, "timeout must be above 0 seconds, not 0"),
        ({"timeout": -1.5}, "not -1.5"),
        ({"timeout": float("nan")}, "not nan"),
        ({"max_in_flight": 0}, "max_in_flight must be at least 1, not 0"),
        ({"cancel": "kill"}, "cancel must be one of raise, flag, never, not 'kill'"),
        ({"order": "fifo"}, "order must be none, peer or key:<argument>, not 'fifo'"),
        ({"order": "key:"}, "not 'key:'"),
        ({"order": "key:a b"}, "not 'key:a b'"),
        ({"timeout": "5"}, "timeout must be int or float or None, not '5'"),
        ({"timeout": True}, "timeout must be int or float or None, not True"),
        ({"max_in_flight": 1.5}, "max_in_flight must be int or None, not 1.5"),
        ({"blocking": "yes"}, "blocking must be bool or None, not 'yes'"),
        ({"idempotent": 1}, "idempotent must be bool, not 1"),
        ({"order": None}, "order must be str, not None"),
        ({"isolate": True, "blocking": True}, "isolate gives a handler its own greenlet"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_is_allowed(options: dict[str, Any], text: str):
    """At registration, so that nobody finds out in production."""
    with pytest.raises(ConfigurationError) as caught:
        read_options(options)

    assert text in str(caught.value)
