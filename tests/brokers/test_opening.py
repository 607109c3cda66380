"""Which engine a URL names."""

from pathlib import Path
from typing import Any

import pytest

from webmesh.brokers.memory import MemoryBroker
from webmesh.brokers.opening import OPENERS, open_broker, query_options
from webmesh.brokers.sqlite import SqliteBroker
from webmesh.exceptions import ConfigurationError
from webmesh.testing import FakeClock


def test_urls_say_which_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By their scheme; a file by three slashes and a relative path or four and an absolute one."""
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_broker("memory://"), MemoryBroker)
    for url in ("sqlite:///a.db", f"sqlite:///{tmp_path}/b%20c.db?synchronous=full", "SQLite:///d.db"):
        broker = open_broker(url)
        assert isinstance(broker, SqliteBroker)
        broker.start(None)  # type: ignore[arg-type]
        broker.stop()
    assert {"a.db", "b c.db", "d.db"} <= {path.name for path in tmp_path.iterdir()}


def test_options_are_the_engines():
    """By keyword, whatever they are."""
    clock = FakeClock()
    assert clock is open_broker("memory://", clock=clock).clock


@pytest.mark.parametrize(
    "url",
    [
        "", "memory", "memory:", "memory://x", "sqlite:", "sqlite://", "sqlite:///", "sqlite://host/a.db",
        "sqlite:///a.db?mode=x", "sqlite:///a.db?synchronous=never", "sqlite:///a.db?synchronous=off&synchronous=full",
        "kafka://host", "://", None, 5,
    ],
)  # fmt: skip
def test_what_names_no_engine_is_refused(url: Any):
    """Where it is configured, not at the first publication."""
    with pytest.raises(ConfigurationError):
        open_broker(url)


def test_a_wrong_url_keeps_its_password():
    """It stands in no error: those are logged."""
    with pytest.raises(ConfigurationError, match="'kafka'") as caught:
        open_broker("kafka://me:s3cret@host")
    assert "s3cret" not in str(caught.value)


def test_an_option_that_the_engine_has_not_is_refused():
    """With its name."""
    with pytest.raises(ConfigurationError, match="speed"):
        open_broker("memory://", speed=5)


def test_an_engine_of_ones_own_enters_itself(monkeypatch: pytest.MonkeyPatch):
    """As a function, or as the name of one."""
    made = MemoryBroker()
    monkeypatch.setitem(OPENERS, "mine", lambda url, *, depth=1: made)
    assert made is open_broker("mine://x", depth=2)


def test_the_options_of_a_url():
    """Each known, once, and of its kind."""
    known = {"size": int, "name": str}
    assert {"size": 5, "name": ""} == query_options("size=5&name=", known)
    for query in ("size=x", "size=1&size=2", "other=1"):
        with pytest.raises(ConfigurationError, match=query[:4]):
            query_options(query, known)
