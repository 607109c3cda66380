"""`webmesh call URL PATH [JSON]`: calls a route by hand.

Decides how an answer looks on a terminal and which exit status an outcome has. Everything is sent as a
stream request: a route that answers once answers that as well, and nobody has to know beforehand.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from webmesh.cli.arguments import OneLineParser
from webmesh.cli.connecting import add_login, add_url, dialling, seconds
from webmesh.cli.loading import load_serializer
from webmesh.deadline import Deadline
from webmesh.exceptions import (
    ConfigurationError,
    DeadlineExceeded,
    EncodeError,
    RemoteError,
    ReplyLost,
    RequestTimeout,
    TransportError,
    WebMeshError,
)
from webmesh.observability.logs import escaped
from webmesh.options import Timeouts

if TYPE_CHECKING:
    from webmesh.webmesh_client import WebMeshClient

ANSWERED, REMOTE_ERROR, USAGE, NO_CONNECTION, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 130

STATUSES: Sequence[tuple[type[WebMeshError], int]] = (
    (RequestTimeout, TIMED_OUT),
    (DeadlineExceeded, TIMED_OUT),
    (RemoteError, REMOTE_ERROR),
    (ReplyLost, NO_CONNECTION),
    (ConfigurationError, USAGE),
    (EncodeError, USAGE),
    (TransportError, NO_CONNECTION),
    (WebMeshError, REMOTE_ERROR),
)
"""Class of an error → exit status; the first that fits."""


def main(arguments: Sequence[str] | None = None, *, prog: str = "webmesh call") -> int:
    """Call as the command line says; the exit status. None: the arguments of the process."""
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    try:
        payload = _payload(options.payload, sys.stdin)
    except (ValueError, RecursionError) as error:
        parser.error(f'the payload is no JSON: {error}; text needs quotes of its own, as \'"text"\'')
    try:
        return _call(options, payload)
    except WebMeshError as error:
        print(f"{prog}: {escaped(_reason(error))}", file=sys.stderr)
        return next(status for cls, status in STATUSES if isinstance(error, cls))
    except BrokenPipeError:  # who reads our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what the interpreter flushes at its end
        return ANSWERED
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser(prog: str) -> argparse.ArgumentParser:
    timeout = Timeouts().request
    parser = OneLineParser(
        prog=prog,
        description="Call a route and print its answer as JSON; the items of a stream one a line.",
        epilog=f"Exit status: {ANSWERED} answered, {REMOTE_ERROR} answered with an error, {USAGE} used wrongly, "
        f"{NO_CONNECTION} no connection or it was lost, {TIMED_OUT} no answer in time.",
    )
    add_url(parser)
    parser.add_argument("path", metavar="PATH", help="of the route, such as /users/7")
    parser.add_argument("payload", metavar="JSON", nargs="?", default="null", help="what to send; - for stdin")
    parser.add_argument(
        "--timeout", type=seconds, default=timeout, metavar="S", help=f"for all; inf: no end (default: {timeout:g})"
    )
    parser.add_argument(
        "--header", action="append", type=_header, default=[], metavar="K=V", dest="headers", help="of the request"
    )
    parser.add_argument("--serializer", default="msgpack", metavar="msgpack|json|module:Class", help="default: msgpack")
    add_login(parser)
    return parser


def _call(options: argparse.Namespace, payload: object) -> int:
    deadline = Deadline(None if options.timeout == math.inf else options.timeout)
    client = dialling(options, load_serializer(options.serializer, Path.cwd()))
    with client:
        client.connect(deadline.remaining())
        _print_answer(client, options, payload, deadline)
    return ANSWERED


def _print_answer(client: WebMeshClient, options: argparse.Namespace, payload: object, deadline: Deadline) -> None:
    """Print the items as they come, or the answer where there are none."""
    printer = Printer(sys.stdout, sys.stderr)
    stream = client.stream(options.path, payload, headers=dict(options.headers) or None, timeout=deadline.remaining())
    count = 0
    for item in stream:
        printer.print(item)
        count += 1
    if not count:
        printer.print(stream.result)
    elif stream.result is not None:
        printer.note(f"the stream returned {printer.text(stream.result)}")


class Printer:
    """Writes values as JSON to *out*, one a line, and what must be said of them to *notes*."""

    def __init__(self, out: TextIO, notes: TextIO) -> None:
        self._out = out
        self._notes = notes
        self._ascii = not (out.encoding or "").lower().startswith("utf")
        self._told_bytes = False

    def print(self, value: object) -> None:
        """Write one value, at once: who reads a stream wants to see each item when it comes."""
        print(self.text(value), file=self._out, flush=True)

    def note(self, text: str) -> None:
        """Say something that is not part of the answer."""
        print(escaped(text), file=self._notes)

    def text(self, value: object) -> str:
        """*value* as JSON; bytes as base64, and nothing that drives the terminal."""
        text = json.dumps(value, ensure_ascii=self._ascii, default=self._other)
        if escaped(text) == text:
            return text
        # All that `escaped` changes can only stand within a JSON string, and has a \u form there.
        return "".join(char if escaped(char) == char else f"\\u{ord(char):04x}" for char in text)

    def _other(self, value: object) -> str:
        if isinstance(value, bytes):
            if not self._told_bytes:
                self._told_bytes = True
                self.note("bytes are shown in base64")
            return base64.b64encode(value).decode("ascii")
        return str(value)


def _payload(text: str, stdin: TextIO) -> object:
    """The value of *text*, or of what stands on *stdin* for `-`.

    Raises:
        ValueError: It is no JSON: NaN and Infinity, which Python's parser lets through, are none.
    """
    return json.loads(stdin.read() if text == "-" else text, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _reason(error: WebMeshError) -> str:
    """One line: for an error answer its wire code first, then what it says and its details."""
    if isinstance(error, RemoteError):
        details = f" {json.dumps(error.details, default=str)}" if error.details is not None else ""
        return f"{error}{details}"
    if isinstance(error, ReplyLost):
        return f"reply_lost: {error}"
    return str(error)


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=value")
    return name, value
