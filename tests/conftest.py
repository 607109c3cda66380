"""Settings that every test shares: the two process modes, the markers, hypothesis.

A patched run is `python -m gevent.monkey --module pytest`: it patches before pytest, its plugins or any
test is imported, so nothing can have bound the blocking `socket` or `ssl` first. Nothing here patches.
"""

from __future__ import annotations

import gc
import importlib.util
import os
from pathlib import Path

import pytest
from gevent import monkey
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
PURE = {TESTS / "protocol", TESTS / "fuzzing"}
ALONE = {TESTS / f"test_{name}.py" for name in (
    "architecture", "catalogue", "converters", "exceptions", "exports", "linear_regex", "message_serializers",
    "options", "path_patterns", "readme", "route", "route_options", "route_tree", "routing", "version",
)}  # fmt: skip
"""Tests of modules without gevent, and such as start programs of their own in either mode."""

PATCHED = monkey.is_module_patched("socket")
"""Whether this process is monkey-patched. The suite runs once in either mode."""

# Deterministic, so that a failure is the same for everyone; no deadline, since other work may hold the machine.
settings.register_profile(
    "ci", derandomize=True, deadline=None, database=None, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
settings.register_profile("explore", parent=settings.get_profile("ci"), derandomize=False, max_examples=2000)
settings.load_profile(os.environ.get("WEBMESH_HYPOTHESIS", "ci"))


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and refuse a run whose mode is not the one that was asked for."""
    config.addinivalue_line("markers", "row(*numbers): rows of docs/THREATS.md that the test covers")
    config.addinivalue_line("markers", "patched: the test is about a monkey-patched process and is skipped in others")
    config.addinivalue_line("markers", "plain: the test is about an unpatched process and is skipped in others")
    config.addinivalue_line("markers", "once: it starts processes of its own, in either mode; left out when patched")
    if os.environ.get("WEBMESH_TEST_PATCHED") == "1" and not PATCHED:
        raise pytest.UsageError("WEBMESH_TEST_PATCHED=1 needs: python -m gevent.monkey --module pytest")
    plugins = config.pluginmanager
    # An installed package brings its plugin by entry point; a bare clone needs this line.
    if not plugins.hasplugin("webmesh") and importlib.util.find_spec("webmesh.pytest_plugin"):
        plugins.import_plugin("webmesh.pytest_plugin")


@pytest.fixture(autouse=True)
def unlimited_logs() -> None:
    """A test that logs much must not leave the next one without its lines."""
    from webmesh.log_limit import LIMIT

    LIMIT.reset()


def pytest_report_header() -> str:
    """Say in the head of every run which mode was tested."""
    return f"process: {'monkey-patched' if PATCHED else 'plain'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests of the other mode. What cannot differ between the modes runs in the plain one only."""
    other = "plain" if PATCHED else "patched"
    for item in items:
        if item.get_closest_marker(other):
            item.add_marker(pytest.mark.skip(reason=f"needs a {other} process"))
    if PATCHED:
        again = [item for item in items if _runs_once(item)]
        config.hook.pytest_deselected(items=again)
        items[:] = [item for item in items if not _runs_once(item)]


def pytest_collection_finish() -> None:
    """The thousands of tests are there to the end: no collection of garbage, and no `Census`, need look at them again.
    That took a second each time."""
    gc.collect()
    gc.freeze()


def _runs_once(item: pytest.Item) -> bool:
    """The pure core knows neither gevent nor sockets (`test_architecture` holds that), so patching changes nothing."""
    return item.path in ALONE or not PURE.isdisjoint(item.path.parents) or item.get_closest_marker("once") is not None
