"""`webmesh status URL`: the nodes of a mesh, as one of them knows them, and how they are."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from webmesh.cli.arguments import OneLineParser
from webmesh.cli.connecting import add_login, add_url, dialling, finite_seconds
from webmesh.cli.figures import NodeCounts, Row, node_rows, read_snapshot, since_start, sort_rows
from webmesh.cli.tables import NODE_COLUMNS, plain_table, rich_table
from webmesh.exceptions import ConfigurationError, WebMeshError
from webmesh.observability.logs import escaped

if TYPE_CHECKING:
    from webmesh.webmesh_client import WebMeshClient

SHOWN, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

TIMEOUT = 5.0
"""Seconds for one question: the node itself waits 2 s for the counts of the others."""

OVER = 1.0
"""Seconds between the two snapshots whose difference is shown: enough for a rate, and nobody has to wait long."""


def main(arguments: Sequence[str] | None = None, *, prog: str = "webmesh status") -> int:
    """Show it as the command line says; the exit status. None: the arguments of the process."""
    options = _parser(prog).parse_args(arguments)
    try:
        rows = sort_rows(_rows(options), "name")
    except WebMeshError as error:
        return tell_failure(prog, error)
    except KeyboardInterrupt:
        return INTERRUPTED
    try:
        print(json.dumps({"nodes": rows}, indent=1) if options.json else _table(rows, options.url), flush=True)
    except BrokenPipeError:  # who reads our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what the interpreter flushes at its end
    return SHOWN


def tell_failure(prog: str, error: WebMeshError) -> int:
    """Say in one line why nothing can be shown; the exit status."""
    print(f"{prog}: {escaped(str(error))}", file=sys.stderr)
    return USAGE if isinstance(error, ConfigurationError) else FAILED


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options of this command and of `top`."""
    add_url(parser)
    parser.add_argument(
        "--timeout", type=finite_seconds, default=TIMEOUT, metavar="S", help=f"for an answer (default: {TIMEOUT:g})"
    )
    add_login(parser)


def ask(client: WebMeshClient, timeout: float) -> list[NodeCounts]:
    """All nodes with their counts, as the client's node knows them.

    Raises:
        WebMeshError: There is no connection, or no answer; or the peer may not ask.
    """
    return read_snapshot(client.call("$peers", {"stats": True}, timeout=timeout))


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=prog,
        description="Show the nodes that a node knows, itself included: their state, calls, errors and latencies.",
        epilog=f"Exit status: {SHOWN} shown, {FAILED} the node cannot be reached or does not answer, {USAGE} used "
        "wrongly. A node tells this to operators only: to programs on its machine, to who has the role operator.",
    )
    add_common(parser)
    parser.add_argument("--json", action="store_true", help="print an object with the list `nodes` instead of a table")
    parser.add_argument(
        "--over", type=_over, default=OVER, metavar="S",
        help=f"seconds that rates and latencies are of; 0: since each node began (default: {OVER:g})",
    )  # fmt: skip
    return parser


def _over(text: str) -> float:
    return 0.0 if text.strip() == "0" else finite_seconds(text)


def _rows(options: argparse.Namespace) -> list[Row]:
    with dialling(options) as client:
        client.connect(options.timeout)
        if not options.over:
            now = ask(client, options.timeout)
            return node_rows(now, since_start(now))
        before = ask(client, options.timeout)
        time.sleep(options.over)
        return node_rows(ask(client, options.timeout), before)


def _table(rows: Sequence[Row], url: str) -> str:
    if not sys.stdout.isatty():
        return plain_table(NODE_COLUMNS, rows)
    try:
        from rich.console import Console

        console = Console()
        with console.capture() as capture:
            console.print(rich_table(NODE_COLUMNS, rows, url, console.width))
        return capture.get().rstrip("\n")
    except ImportError:
        return plain_table(NODE_COLUMNS, rows)
