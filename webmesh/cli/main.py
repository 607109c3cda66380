"""`webmesh COMMAND …`: which command is meant.

Imports nothing that touches sockets: `serve` patches first, and its options are its own (`webmesh.serve`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from webmesh import __version__
from webmesh.cli.arguments import OneLineParser

COMMANDS = {
    "serve": "serve a WebMeshServer; the same as python -m webmesh.serve",
    "call": "call a route by hand and print its answer as JSON",
    "status": "show the nodes of a mesh, and how they are",
    "top": "watch nodes, services or routes live",
}
"""Command → what it does."""


def main(arguments: Sequence[str] | None = None, *, prog: str = "webmesh") -> int:
    """Run the command that *arguments* begin with (None: those of the process); the exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
    if arguments and arguments[0] in COMMANDS:
        command = _command(arguments[0])
        return command(arguments[1:], prog=f"{prog} {arguments[0]}")
    parser = _parser(prog)
    parser.parse_args(arguments)
    raise AssertionError("argparse has accepted a command that there is not")


def _command(name: str) -> Callable[..., int]:
    if name == "serve":
        from webmesh.serve import main as command
    elif name == "status":
        from webmesh.cli.status import main as command
    elif name == "top":
        from webmesh.cli.top import main as command
    else:
        from webmesh.cli.call import main as command
    return command


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=prog,
        description="WebMesh: remote calls and streams between synchronous Python services, over WebSockets.",
        epilog=f"{prog} COMMAND --help shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"WebMesh {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser
