"""`python -m webmesh`: the same as the command `webmesh`."""

from __future__ import annotations

import sys

from webmesh.cli.main import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m webmesh"))
