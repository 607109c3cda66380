"""What may stand on the command line: the parser of `serve`, and errors that are one line.

Standard library only and nothing that touches sockets: this runs before the decision to patch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from webmesh.options import DEFAULT_PORT, Limits

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS = ("text", "json")
MOST_WORKERS = 128
"""Half of the nodes that a mesh has by default: while workers are replaced there may be twice as many."""
DEFAULT_HOST = "127.0.0.1"
"""Where a server listens that was told nothing: nobody outside the machine reaches it by accident."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The command line of `serve`, checked. None means: not given, the server's own setting stands."""

    target: str | None = None
    patch: bool = True
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    unix: str | None = None
    fd: int | None = None
    addressed: bool = False
    """Whether the command line says where to listen, so that no socket is taken over."""
    certfile: str | None = None
    keyfile: str | None = None
    client_ca: str | None = None
    serializer: str | None = None
    pool_size: int | None = None
    threads: int | None = None
    metrics: bool = False
    log_level: str = "info"
    log_format: str = "text"
    reload: bool = False
    workers: int | None = None
    worker_timeout: float = 60.0
    worker_start_timeout: float = 60.0
    worker: int | None = None
    """Descriptor of the link to the supervisor, in a worker that `--workers` has started."""
    report_to: int | None = None
    """Descriptor on which a server that `--reload` has started tells its parent what it imported."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 2, without the usage before them."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and *message*."""
        self.exit(2, f"{self.prog}: error: {message} (--help shows the options)\n")


def parse_serve_options(arguments: Sequence[str], prog: str) -> ServeOptions:
    """The options of `serve`; exits as argparse does on `--help` and on what makes no sense."""
    parser = _serve_parser(prog)
    given = vars(parser.parse_args(arguments))
    if given["unix"] is not None and (given["host"] is not None or given["port"] is not None):
        parser.error("--unix takes no --host and no --port: a Unix socket has only its path")
    if given["fd"] is not None and any(given[name] is not None for name in ("host", "port", "unix")):
        parser.error("--fd takes no --host, --port or --unix: the socket listens already")
    if given["fd"] is not None and given["reload"]:
        parser.error("--fd takes no --reload: the process that is started again does not inherit the socket")
    if given["workers"] is not None and given["reload"]:
        parser.error("--workers takes no --reload: SIGHUP replaces workers one after another")
    for name in ("keyfile", "client_ca"):
        if given[name] is not None and given["certfile"] is None:
            parser.error(f"--{name.replace('_', '-')} needs --certfile")
    given["addressed"] = True if given["host"] is not None or given["port"] is not None else None
    return ServeOptions(**{name: value for name, value in given.items() if value is not None})


def _serve_parser(prog: str) -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=prog,
        description="Serve a WebMeshServer.",
        epilog="SIGTERM and SIGINT stop accepting, finish the calls in progress and exit with status 0, or 3 if "
        "some had to be cut off; a second one ends at once (143 or 130). SIGHUP reads the certificate again where "
        "there is one, else acts as SIGTERM. Exit status 2: the server could not be started.",
    )
    parser.add_argument(
        "target",
        nargs="?",
        metavar="module[:attribute]",
        help="where the server, or a function that makes one, is; looked for in the current directory first. "
        "Without it: `server`, or the only WebMeshServer, in app.py, service.py or main.py; else the example",
    )
    parser.add_argument(
        "--no-patch",
        dest="patch",
        action="store_false",
        help="do not monkey-patch the standard library: handlers run in native threads instead of greenlets",
    )
    _add_addresses(parser)
    _add_settings(parser)
    return parser


def _add_addresses(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it listens")
    group.add_argument("--host", help=f"name or address of an interface (default: {DEFAULT_HOST}; '' is all of them)")
    group.add_argument(
        "--port", type=integer(0, 65535), help=f"TCP port; 0 takes any that is free (default: {DEFAULT_PORT})"
    )
    group.add_argument("--unix", metavar="PATH", help="listen on a Unix socket instead")
    group.add_argument(
        "--fd", type=_descriptor, metavar="fd://N",
        help="take over the listening socket that was handed over with this number; without --host, --port and --unix, "
        "one that systemd hands over (LISTEN_FDS) is taken anyway",
    )  # fmt: skip
    group.add_argument("--certfile", metavar="PEM", help="serve TLS with this certificate chain")
    group.add_argument("--keyfile", metavar="PEM", help="its private key (default: looked for in --certfile)")
    group.add_argument("--client-ca", metavar="PEM", help="turn away clients without a certificate of this authority")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    limits = Limits()
    group = parser.add_argument_group("how it runs")
    group.add_argument("--serializer", metavar="msgpack|json|module:Class", help="for clients that ask for none")
    group.add_argument(
        "--pool-size", type=integer(1), metavar="N", help=f"connections at once (default: {limits.connections})"
    )
    group.add_argument(
        "--threads", type=integer(1), metavar="N", help=f"native threads for handlers (default: {limits.threads})"
    )
    group.add_argument(
        "--metrics", action="store_true", help="count what happens: /metrics, /status; for programs on this machine"
    )
    group.add_argument("--log-level", choices=LOG_LEVELS, help="least level that is written (default: info)")
    group.add_argument("--log-format", choices=LOG_FORMATS, help="of what is written to standard error (default: text)")
    group.add_argument(
        "--reload", action="store_true", help="start again when an imported file below the current directory changes"
    )
    group.add_argument(
        "--workers", type=integer(1, MOST_WORKERS), metavar="N",
        help="serve in N processes, one for each core to be used: calls, topics, presence and wills work across them. "
        "One that ends is replaced; SIGHUP replaces all, one after another",
    )  # fmt: skip
    group.add_argument(
        "--worker-timeout", type=_seconds, metavar="SECONDS",
        help="kill and replace a worker whose hub has not turned for so long (default: 60; 0: never)",
    )  # fmt: skip
    group.add_argument(
        "--worker-start-timeout", type=_seconds, metavar="SECONDS",
        help="kill a worker that does not serve so long after its start: its imports hang (default: 60; 0: never)",
    )  # fmt: skip
    group.add_argument("--report-to", type=int, help=argparse.SUPPRESS)
    group.add_argument("--worker", type=int, help=argparse.SUPPRESS)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def _descriptor(text: str) -> int:
    return integer(0)(text.removeprefix("fd://"))


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """A converter for argparse: a whole number from *least* to *most*."""
    allowed = f"from {least} to {most}" if most is not None else f"from {least} up"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{value} is not {allowed}")
        return value

    return convert
