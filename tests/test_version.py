"""There is one version number."""

from __future__ import annotations

import re

import webmesh
from webmesh.version import VERSION


def test_the_version_is_a_release_number():
    """Installers compare it, so it must be one that they understand (PEP 440)."""
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", VERSION)


def test_the_package_tells_its_version():
    """`webmesh.__version__` is where programs look."""
    assert VERSION == webmesh.__version__
