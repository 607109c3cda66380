"""Routers: the registration of handlers for path patterns.

Pure: knows nothing of connections, greenlets or envelopes. Here is decided how routers nest and when registration
ends; syntax is in `path_patterns`, kinds of parameters in `converters`, precedence in `route_tree`. Running the handler
is `dispatch`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

from webmesh.converters import ANY_SEGMENT, BUILT_IN, Converter
from webmesh.exceptions import ConfigurationError
from webmesh.path_patterns import PathPattern, read_pattern, read_prefix
from webmesh.route import Handler, Route, make_route
from webmesh.route_tree import NO_ARGUMENTS, Match, RouteTree

__all__ = ["NO_ARGUMENTS", "Converter", "Handler", "Match", "Route", "Router"]

_Function = TypeVar("_Function", bound=Callable[..., object])


class Router:
    """Handlers by path. Routers nest: `include` puts all routes of one, present and future, below a prefix of another.

    Args:
        converters: Own kinds of parameters: name → converter; see also `converter`.
    """

    def __init__(self, *, converters: Mapping[str, Converter] | None = None) -> None:
        self._converters = dict(BUILT_IN)
        self._routes: list[Route] = []
        self._tree = RouteTree()
        self._fixed = self._tree.fixed
        self._included_in: list[tuple[PathPattern, Router]] = []
        self._frozen = False
        for name, converter in (converters or {}).items():
            self._name_converter(name, converter)

    def converter(self, name: str, parse: Callable[[str], object], *, pattern: str = ANY_SEGMENT) -> Converter:
        """Make `<name:…>` known in this router: `router.converter("hex", int_from_hex, pattern="[0-9a-f]+")`.

        Args:
            parse: Text → value; a `ValueError` means that the text is not of this kind and other routes may match.
            pattern: Regular expression of one segment, linear and ASCII; see `Converter`.

        Raises:
            BadPattern: The expression is malformed or could take more than linear time.
            ConfigurationError: The name is taken, or no identifier.
        """
        converter = Converter(parse, pattern)
        self._name_converter(name, converter)
        return converter

    def add(self, pattern: str, handler: Handler, *, reserved: bool = False, **options: object) -> Route:
        """Let *handler* own the paths that *pattern* matches, here and wherever this router is included.

        Args:
            handler: Called as `handler(payload, path, client, **path_arguments)`.
            reserved: For the protocol's own paths, which start with `$`; users have no need for it.
            options: Kept with the route for the layer that runs handlers.

        Raises:
            BadPattern: The pattern is malformed; see its `position`.
            DuplicateRoute: Another route matches the same paths, here or in a router that includes this one.
            RoutingError: The routes branch too much to be searched in bounded time.
            ConfigurationError: The handler cannot take these arguments, or the router is frozen.
        """
        path_pattern = read_pattern(pattern, self._converters, reserved=reserved)
        kept = MappingProxyType(dict(options))
        placed = [(router, make_route(full, handler, kept)) for router, full in self._places(path_pattern)]
        _insert_all(placed)
        return placed[0][1]

    def on(
        self, pattern: str, *, reserved: bool = False, **options: object
    ) -> Callable[[_Function], _Function]:
        """`add` as a decorator; the function comes back unchanged, so it can be called and registered again."""

        def register(handler: _Function) -> _Function:
            self.add(pattern, handler, reserved=reserved, **options)
            return handler

        return register

    def include(self, prefix: str, router: Router) -> None:
        """Put every route of *router*, also those it gets later, below *prefix*, letter for letter.

        `/shop` makes `/shop/carts` of `/carts` and `/shop/` of `/`. Options stay as they are; patterns were read with
        *router*'s own converters. A prefix may have parameters, which the handlers then must take; `/` adds nothing.

        Raises:
            BadPattern, DuplicateRoute, RoutingError, ConfigurationError: As `add`; nothing is included then.
        """
        path_prefix = read_prefix(prefix, self._converters)
        places = self._places(path_prefix)
        if any(place is router for place, _ in places):
            raise ConfigurationError(f"a router cannot be included in itself, not at {prefix!r} either")
        _insert_all(
            [
                (place, make_route(route.path_pattern.below(full), route.handler, route.options))
                for place, full in places
                for route in router._routes
            ]
        )
        router._included_in.append((path_prefix, self))

    def match(self, path: str) -> Match | None:
        """The route that owns *path* and its arguments, or `None`.

        Fixed segments win over parameters from left to right, whatever the order of registration. *path* is plain
        text, not percent-encoded, and compared letter for letter in NFC; the caller has bounded its length. One with
        control characters matches nothing. The dict of a route without parameters is shared: never change it.

        Whatever but `ValueError` a user's own converter raises comes through.
        """
        found = self._fixed.get(path)
        return found if found is not None else self._tree.search(path)

    def routes(self) -> list[Route]:
        """All routes, those of included routers too, sorted by pattern."""
        return sorted(self._routes, key=lambda route: route.pattern)

    def freeze(self) -> None:
        """End registration, here and in all included routers: from now on it raises `ConfigurationError`."""
        self._frozen = True

    @property
    def frozen(self) -> bool:
        """Whether registration has ended."""
        return self._frozen

    def __repr__(self) -> str:
        return f"<Router {len(self._routes)} routes{', frozen' if self._frozen else ''}>"

    def _name_converter(self, name: str, converter: Converter) -> None:
        if not isinstance(converter, Converter):
            raise ConfigurationError(f"converter {name!r} must be a Converter, not {converter!r}")
        if not name.isidentifier():
            raise ConfigurationError(f"the name of a converter must be an identifier, not {name!r}")
        if self._converters.get(name, converter) != converter:
            kind = "built in" if name in BUILT_IN else "another one already"
            raise ConfigurationError(f"converter {name!r} is {kind}: choose another name")
        self._converters[name] = converter

    def _places(self, path_pattern: PathPattern) -> list[tuple[Router, PathPattern]]:
        """Where a route registered here belongs: this router first, then all that include it; its pattern in each.

        Raises:
            ConfigurationError: One of them is frozen.
        """
        if self._frozen:
            late = f"{path_pattern.text!r} comes too late"
            raise ConfigurationError(f"{late}: routes are registered before serving begins")
        places = [(self, path_pattern)]
        for prefix, router in self._included_in:
            places += router._places(path_pattern.below(prefix))
        return places

    def _rebuild(self) -> None:
        self._tree.clear()
        for route in self._routes:
            self._tree.insert(route)


def _insert_all(placed: list[tuple[Router, Route]]) -> None:
    """Insert every route in its router, or none."""
    done = False
    try:
        for router, route in placed:
            router._tree.insert(route)
        done = True
    finally:
        for router in {router for router, _ in placed} if not done else ():
            router._rebuild()
    for router, route in placed:
        router._routes.append(route)
