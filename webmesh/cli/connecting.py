"""How commands get to a node: the options that log in, and the client that they make."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from webmesh.exceptions import ConfigurationError

if TYPE_CHECKING:
    from webmesh.message_serializers import AbstractMessageSerializer
    from webmesh.webmesh_client import WebMeshClient


def add_url(parser: argparse.ArgumentParser) -> None:
    """The argument that says which node is meant."""
    parser.add_argument("url", metavar="URL", help="ws://host:port, wss://host:port or ws+unix:///path")


def add_login(parser: argparse.ArgumentParser) -> None:
    """The options that say who asks, and whom to believe."""
    tokens = parser.add_mutually_exclusive_group()  # never itself: everybody on the machine sees command lines
    tokens.add_argument("--token-env", metavar="NAME", help="log in with the token in this environment variable")
    tokens.add_argument("--token-file", metavar="PATH", type=Path, help="log in with the token in this file")
    parser.add_argument("--insecure", action="store_true", help="accept any certificate of the server: for tests only")


def dialling(
    options: argparse.Namespace, serializer_type: type[AbstractMessageSerializer] | None = None
) -> WebMeshClient:
    """A client as *options* say, which dials when it is used and has no connection.

    Raises:
        ConfigurationError: The URL is none, or there is no token where it should be.
    """
    # Late, so that wrong arguments are told at once: gevent and ssl take a third of a second.
    from webmesh.message_serializers import MessagePackSerializer
    from webmesh.webmesh_client import WebMeshClient
    from webmesh.websocket.tls import client_context

    return WebMeshClient(
        options.url,
        serializer_type=serializer_type or MessagePackSerializer,
        tls=client_context(insecure_skip_verify=True) if options.insecure else None,
        headers=login(options),
        reconnect=False,
        session=False,  # a stream that waits for the next connection would wait in vain
    )


def login(options: argparse.Namespace) -> dict[str, str]:
    """The header of the upgrade that logs in; none where no token was asked for.

    Raises:
        ConfigurationError: There is no token where it should be, or it is none. It is not quoted.
    """
    if options.token_env is not None:
        where, token = f"the variable {options.token_env}", os.environ.get(options.token_env, "")
    elif options.token_file is not None:
        where = str(options.token_file)
        try:
            token = options.token_file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"cannot read the token: {getattr(error, 'strerror', None) or error}") from None
    else:
        return {}
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError(f"there is no token in {where}: one is a line of ASCII without spaces")
    return {"Authorization": f"Bearer {token}"}


def seconds(text: str) -> float:
    """A converter for argparse: a number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None
    if not value > 0:  # NaN included
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def finite_seconds(text: str) -> float:
    """As `seconds`, and not for ever."""
    value = seconds(text)
    if value == math.inf:
        raise argparse.ArgumentTypeError("an end is needed here")
    return value
