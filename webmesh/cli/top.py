"""`webmesh top URL`: nodes, services or routes of a mesh, live.

Decides when a node is asked and what is shown while it cannot be. The figures are `figures`', the drawing is rich's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from webmesh.cli.arguments import OneLineParser
from webmesh.cli.connecting import dialling, finite_seconds
from webmesh.cli.figures import NodeCounts, Row, node_rows, route_rows, service_rows, sort_rows
from webmesh.cli.status import FAILED, SHOWN, USAGE, add_common, ask, tell_failure
from webmesh.cli.tables import NODE_COLUMNS, ROUTE_COLUMNS, SERVICE_COLUMNS, plain_table, rich_table
from webmesh.exceptions import ConfigurationError, WebMeshError
from webmesh.observability.logs import escaped

if TYPE_CHECKING:
    from webmesh.webmesh_client import WebMeshClient

Rows = Callable[[Iterable[NodeCounts], Iterable[NodeCounts]], list[Row]]

VIEWS: dict[str, tuple[Sequence[str], Rows]] = {
    "nodes": (NODE_COLUMNS, node_rows),
    "services": (SERVICE_COLUMNS, service_rows),
    "routes": (ROUTE_COLUMNS, route_rows),
}
"""What can be looked at: the columns, and what makes the rows."""

COLUMNS = tuple(dict.fromkeys(column.replace(" ", "-") for columns, _ in VIEWS.values() for column in columns))
INTERVAL = 2.0


def main(arguments: Sequence[str] | None = None, *, prog: str = "webmesh top") -> int:
    """Show it as the command line says; the exit status. None: the arguments of the process."""
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    columns = VIEWS[options.by][0]
    sort = options.sort.replace("-", " ")
    if sort not in columns:
        parser.error(f"--sort: {options.by} have no column {options.sort}")
    try:
        return _watch(options, View(options.url, options.by, sort))
    except WebMeshError as error:
        return tell_failure(prog, error)
    except KeyboardInterrupt:
        return SHOWN


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=prog,
        description="Watch the nodes that a node knows, itself included, their services or their routes.",
        epilog=f"Ctrl-C ends it. Exit status: {SHOWN} ended, {FAILED} the node could not be reached to begin with, "
        f"{USAGE} used wrongly. Needs rich: pip install 'webmesh-gevent[cli]'.",
    )
    add_common(parser)
    parser.add_argument("--by", choices=tuple(VIEWS), default="nodes", help="what a row is (default: nodes)")
    parser.add_argument(
        "--sort", choices=COLUMNS, default="calls/s", metavar="COLUMN", help=f"{', '.join(COLUMNS)} (default: calls/s)"
    )
    parser.add_argument(
        "--interval", type=finite_seconds, default=INTERVAL, metavar="S", help=f"seconds (default: {INTERVAL:g})"
    )
    parser.add_argument("--once", action="store_true", help="show it once, of one interval, and end")
    return parser


@dataclass(slots=True)
class View:
    """What is shown now. Pure: what was asked, or why there is no answer, is handed in.

    Attributes:
        trouble: Why the last question has no answer; what is shown then is from before.
    """

    url: str
    by: str
    sort: str
    trouble: str = ""
    _before: list[NodeCounts] = field(default_factory=list)
    _now: list[NodeCounts] = field(default_factory=list)

    def answered(self, nodes: list[NodeCounts]) -> None:
        """A new snapshot."""
        self._before, self._now, self.trouble = self._now, nodes, ""

    def failed(self, reason: str) -> None:
        """There is none."""
        self.trouble = reason

    @property
    def rows(self) -> list[Row]:
        """What there is to see."""
        return sort_rows(VIEWS[self.by][1](self._now, self._before), self.sort)

    @property
    def title(self) -> str:
        """What stands above it."""
        states = [str(node.entry.get("state")) for node in self._now]
        told = f"{self.url}   {len(states)} nodes"
        odd = {state: states.count(state) for state in sorted(set(states)) if state != "ok"}
        told += "".join(f", {count} {state}" for state, count in odd.items())
        return f"{told}   NO ANSWER: {self.trouble}" if self.trouble else told

    def draw(self, width: int) -> Any:
        """As rich draws it, on a terminal that is so wide."""
        return rich_table(VIEWS[self.by][0], self.rows, self.title, width, sort=self.sort)

    def text(self) -> str:
        """As lines, for who reads them without a terminal."""
        return f"{escaped(self.title)}\n{plain_table(VIEWS[self.by][0], self.rows)}"


def _watch(options: argparse.Namespace, view: View) -> int:
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        raise ConfigurationError("this needs rich: pip install 'webmesh-gevent[cli]'") from None
    console = Console()
    with dialling(options) as client:
        client.connect(options.timeout)
        view.answered(ask(client, options.timeout))
        if options.once or not console.is_terminal:
            return _print_on(console, client, options, view)
        # Refreshed by us only: a thread of rich's would draw in between.
        with Live(view.draw(console.width), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(options.interval)
                _look(client, options, view)
                live.update(view.draw(console.width), refresh=True)


def _print_on(console: Any, client: WebMeshClient, options: argparse.Namespace, view: View) -> int:
    """One table below the other, where there is no terminal to draw on."""
    while True:
        time.sleep(options.interval)
        _look(client, options, view)
        if console.is_terminal:
            console.print(view.draw(console.width))
        else:
            print(view.text(), flush=True)
        if options.once:
            return FAILED if view.trouble else SHOWN


def _look(client: WebMeshClient, options: argparse.Namespace, view: View) -> None:
    """Ask again; the client dials anew where its connection is lost."""
    try:
        view.answered(ask(client, options.timeout))
    except WebMeshError as error:
        view.failed(str(error))
