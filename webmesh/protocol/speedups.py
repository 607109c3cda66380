"""Which inner loops run in C: those of the optional extension `webmesh/_speedups.c`, or none.

Decides it alone, for all of them, at import; `WEBMESH_NO_SPEEDUPS=1` in the environment forces Python. Each loop's twin
in Python stands in the module that uses it, and gives the same.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

REVISION = 5
"""What `_speedups.c` calls itself. A build of another one, left over in a working copy, is as good as none."""


def load() -> ModuleType | None:
    """The extension, or `None` where it was not built, is another version's, or is not wanted."""
    if os.environ.get("WEBMESH_NO_SPEEDUPS") == "1":
        return None
    try:
        native = import_module("webmesh._speedups")
    except ImportError:  # no compiler when the package was built: slower, else equal
        return None
    return native if getattr(native, "REVISION", None) == REVISION else None


NATIVE = load()
"""The extension in use."""
