"""The version: one number, told by the package, its metadata and the changelog alike."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

import webmesh
from webmesh.version import VERSION

CHANGELOG = (Path(__file__).parent.parent / "CHANGELOG.md").read_text(encoding="utf-8")


def test_package_tells_its_version() -> None:
    """`webmesh.__version__` is the number, where people look for it."""
    assert VERSION == webmesh.__version__


def test_version_has_three_numbers() -> None:
    """Semantic versioning: major, minor, patch."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


def test_changelog_begins_with_this_version() -> None:
    """A version that is in the code is described to its users."""
    headings = re.findall(r"^## (\S+)", CHANGELOG, re.MULTILINE)
    assert VERSION == headings[0]


def test_installed_distribution_has_this_version() -> None:
    """What pip shows is what runs."""
    try:
        installed = metadata.version("webmesh-gevent")
    except metadata.PackageNotFoundError:
        pytest.skip("the package runs from a clone and is not installed")
    assert VERSION == installed
