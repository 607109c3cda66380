"""A route: a path pattern, the handler that owns it, and the options it was registered with.

This file alone decides whether a handler can be called for a pattern, and how errors name one. Pure: looks at
handlers but never calls them. What the options mean is for the layer that runs handlers.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from webmesh.exceptions import ConfigurationError
from webmesh.path_patterns import HANDLER_PARAMETERS, PathPattern

Handler = Callable[..., object]
"""Called as `handler(payload, path, client, **path_arguments)`."""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """What `Router.match` finds. Compared by identity, so it can be a key.

    Attributes:
        pattern: As registered, in NFC, prefixes included.
        options: As registered; the layer that runs handlers reads them.
        where: File and line of the handler, such as `shop.py:12`.
        names: Names of the path arguments, left to right.
    """

    pattern: str
    handler: Handler
    options: Mapping[str, object]
    where: str
    names: tuple[str, ...]
    path_pattern: PathPattern

    def __str__(self) -> str:
        return f"'{self.pattern}' ({self.where})"

    def __repr__(self) -> str:
        return f"<Route {self.pattern} {self.where}>"


def make_route(path_pattern: PathPattern, handler: Handler, options: Mapping[str, object]) -> Route:
    """A route whose handler takes what the pattern yields.

    Raises:
        ConfigurationError: It does not; the text names the handler and what is missing.
    """
    names = tuple(parameter.name for parameter in path_pattern.parameters)
    _check_handler(path_pattern.text, handler, names)
    return Route(path_pattern.text, handler, options, place_of(handler), names, path_pattern)


def place_of(handler: Handler) -> str:
    """File and line of what *handler* runs, as `shop.py:12`; its module where it is not written in Python."""
    function = _innermost(handler)
    code = getattr(function, "__code__", None)
    if code is not None:
        return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"
    return str(getattr(function, "__module__", None) or type(function).__module__)


def _innermost(handler: Handler) -> object:
    """The user's own function, without partials, bindings and decorators that say what they wrap."""
    function = inspect.unwrap(handler)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    if not inspect.isroutine(function) and not inspect.isclass(function):
        function = getattr(type(function), "__call__", function)
    return inspect.unwrap(getattr(function, "__func__", function))


def _check_handler(pattern: str, handler: Handler, names: tuple[str, ...]) -> None:
    if not callable(handler):
        raise ConfigurationError(f"the handler of '{pattern}' cannot be called: {handler!r}")
    function = _innermost(handler)
    title = f"handler {getattr(function, '__qualname__', repr(function))} ({place_of(handler)}) of '{pattern}'"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{title} is async; handlers are ordinary functions, which may block")
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # some callables written in C do not tell; then the first call will
    try:
        signature.bind(*HANDLER_PARAMETERS, **dict.fromkeys(names))
    except TypeError as error:
        call = ", ".join((*HANDLER_PARAMETERS, *(f"{name}=…" for name in names)))
        raise ConfigurationError(f"{title} cannot be called with ({call}): {error}") from error
