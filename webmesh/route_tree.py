"""The index of routes: which one owns a path, found without looking at the others.

This file alone decides precedence and what is ambiguous. Pure. Paths without parameters stand in one dict; the others
in a tree of segments. Routes are compared segment by segment from the left: a fixed segment wins over a parameter,
and among parameters the more specific converter wins (`Specificity`). So order of registration never matters. If the
winner's further segments fail, the next best at the last fork is tried. The work for one path is bounded when routes
are added: no path leads to more than `MOST_VISITS` nodes of the tree, however many routes there are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from webmesh.converters import ANY_SEGMENT, Converter, Specificity
from webmesh.exceptions import DuplicateRoute, RoutingError
from webmesh.path_patterns import CONTROL_CHARACTERS, Parameter, Segment
from webmesh.route import Route

MOST_VISITS = 256
"""Nodes that the search for one path may visit, in the worst case. Routes that branch only here and there stay
below 20; to pass it, patterns must offer several choices at each of five segments. A visit costs about 0.2 us."""

NO_ARGUMENTS: dict[str, object] = {}
"""Arguments of every match without parameters. Shared, so that such a match allocates nothing: never change it."""

Match = tuple[Route, dict[str, object]]


@dataclass(slots=True)
class _Edge:
    """A parameter that leads from one node to another."""

    converter: Converter
    node: _Node
    fullmatch: Callable[[str], object] | None
    parse: Callable[[str], object]


class _Node:
    """A place in the tree: what the segments so far lead to."""

    __slots__ = ("edges", "fixed", "rest", "rest_parse", "route", "widest")

    def __init__(self) -> None:
        self.route: Route | None = None
        self.fixed: dict[str, _Node] = {}
        self.edges: list[_Edge] = []
        self.rest: Route | None = None
        self.rest_parse: Callable[[str], object] = str
        self.widest = 0
        """Most visits below any one of the fixed segments."""

    @property
    def visits(self) -> int:
        """Upper bound of the nodes that one path makes the search visit, from this one down."""
        return 1 + self.widest + sum(edge.node.visits for edge in self.edges)


class RouteTree:
    """Routes, arranged for search."""

    def __init__(self) -> None:
        self.fixed: dict[str, Match] = {}
        """Path → what `search` would find, for the routes without parameters. Look here first."""
        self._root = _Node()

    def clear(self) -> None:
        """Forget all routes."""
        self.fixed.clear()
        self._root = _Node()

    def insert(self, route: Route) -> None:
        """Add a route. After an exception the tree is as good as before for searching, but `clear` and refill it.

        Raises:
            DuplicateRoute: A path could match this and another route, and neither is more specific.
            RoutingError: The routes would branch so much that a search could take long.
        """
        if route.names:
            self._insert_below_root(route)
        elif route.pattern in self.fixed:
            raise DuplicateRoute(str(route), str(self.fixed[route.pattern][0]))
        else:
            self.fixed[route.pattern] = (route, NO_ARGUMENTS)

    def search(self, path: str) -> Match | None:
        """The route that owns *path* and its arguments, or `None`. For all paths; `fixed` is the quick way for most."""
        if not path.isascii():
            path = unicodedata.normalize("NFC", path)
        found = self.fixed.get(path)
        if found is not None:
            return found
        if not path.startswith("/") or (not path.isprintable() and CONTROL_CHARACTERS.search(path)):
            return None
        values: list[object] = []
        route = _find(self._root, path.split("/"), 1, values)
        if route is None:
            return None
        return route, dict(zip(route.names, values))

    def _insert_below_root(self, route: Route) -> None:
        segments = route.path_pattern.segments
        node = self._root
        trail = [node]
        for index, segment in enumerate(segments):
            if isinstance(segment, Parameter) and segment.converter.specificity is Specificity.PATH:
                break
            _refuse_ties(node, segments, index, route)
            node = _step(node, segment)
            trail.append(node)
        _settle(node, segments[-1], route)
        for above, below, segment in reversed(list(zip(trail, trail[1:], segments))):
            if isinstance(segment, str):
                above.widest = max(above.widest, below.visits)
        if self._root.visits > MOST_VISITS:
            raise RoutingError(
                f"{route} and the routes beside it branch so much that one path could lead to {self._root.visits}"
                f" places ({MOST_VISITS} are allowed): give fixed segments instead of parameters to some"
            )


def _find(node: _Node, segments: Sequence[str], index: int, values: list[object]) -> Route | None:
    """The best route below *node* for the segments from *index* on; *values* gets the values of its parameters."""
    if index == len(segments):
        return node.route
    segment = segments[index]
    below = node.fixed.get(segment)
    if below is not None:
        route = _find(below, segments, index + 1, values)
        if route is not None:
            return route
    if not segment:
        return None
    for edge in node.edges:
        if edge.fullmatch is not None and edge.fullmatch(segment) is None:
            continue
        try:
            values.append(edge.parse(segment))
        except ValueError:
            continue
        route = _find(edge.node, segments, index + 1, values)
        if route is not None:
            return route
        values.pop()
    return _find_rest(node, segments, index, values) if node.rest is not None else None


def _find_rest(node: _Node, segments: Sequence[str], index: int, values: list[object]) -> Route | None:
    try:
        values.append(node.rest_parse("/".join(segments[index:])))
    except ValueError:
        return None
    return node.rest


def _step(node: _Node, segment: Segment) -> _Node:
    """The node to which *segment* leads, made where there is none."""
    if isinstance(segment, str):
        return node.fixed.setdefault(segment, _Node())
    converter = segment.converter
    for edge in node.edges:
        if edge.converter == converter:
            return edge.node
    # No segment is empty or holds a slash when it is looked at, so the widest expression need not run.
    fullmatch = None if converter.pattern == ANY_SEGMENT else converter.fullmatch
    edge = _Edge(converter, _Node(), fullmatch, converter.parse)
    node.edges.append(edge)
    node.edges.sort(key=lambda edge: edge.converter.specificity)
    return edge.node


def _settle(node: _Node, last: Segment, route: Route) -> None:
    """Put *route* where its segments have led."""
    if isinstance(last, Parameter) and last.converter.specificity is Specificity.PATH:
        if node.rest is not None:
            raise DuplicateRoute(str(route), str(node.rest))
        node.rest = route
        node.rest_parse = last.converter.parse
    elif node.route is not None:
        raise DuplicateRoute(str(route), str(node.route))
    else:
        node.route = route


def _refuse_ties(node: _Node, segments: Sequence[Segment], index: int, route: Route) -> None:
    """Two converters of one specificity at one place: allowed only if no path could match on both sides."""
    segment = segments[index]
    if isinstance(segment, str):
        return
    for edge in node.edges:
        if edge.converter.specificity is segment.converter.specificity and edge.converter != segment.converter:
            rival = _rival(edge.node, segments, index + 1)
            if rival is not None:
                raise DuplicateRoute(str(route), str(rival))


def _rival(node: _Node, segments: Sequence[Segment], index: int) -> Route | None:
    """A route below *node* that a path may match which the pattern's segments from *index* on match too."""
    if index == len(segments):
        return node.route
    segment = segments[index]
    if isinstance(segment, Parameter) and segment.converter.specificity is Specificity.PATH:
        return next(_routes_below(node), None)
    for below in _common(node, segment):
        route = _rival(below, segments, index + 1)
        if route is not None:
            return route
    return node.rest if segments[-1] else None  # the rest of a path has no slash at its end


def _common(node: _Node, segment: Segment) -> Iterator[_Node]:
    """Where a text may lead that *segment* matches. Two parameters are taken to have texts in common."""
    if isinstance(segment, str):
        yield from (node.fixed[text] for text in (segment,) if text in node.fixed)
        yield from (edge.node for edge in node.edges if segment and edge.converter.accepts(segment))
        return
    yield from (below for text, below in node.fixed.items() if text and segment.converter.accepts(text))
    yield from (edge.node for edge in node.edges)


def _routes_below(node: _Node) -> Iterator[Route]:
    """All routes that match, of what follows *node*, something that the rest of a path can be."""
    if node.rest is not None:
        yield node.rest
    for below in (*(below for text, below in node.fixed.items() if text), *(edge.node for edge in node.edges)):
        if below.route is not None:
            yield below.route
        yield from _routes_below(below)
