"""The index of routes: precedence, ambiguity, and the bound on the work for one path."""

from __future__ import annotations

import itertools
import random
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh import route_tree
from webmesh.converters import BUILT_IN, Converter, Specificity
from webmesh.exceptions import DuplicateRoute, RoutingError
from webmesh.path_patterns import PathPattern, read_pattern
from webmesh.route import Route, make_route
from webmesh.route_tree import MOST_VISITS, NO_ARGUMENTS, RouteTree

HEX = Converter(lambda text: int(text, 16), pattern="[0-9a-f]+")
CODE = Converter(str, pattern="[A-Za-z]{3}")
KNOWN = {**BUILT_IN, "hex": HEX, "code": CODE}


def handler(payload: object, path: str, client: object, **path_arguments: object) -> object:
    return payload


def make(pattern: str) -> Route:
    return make_route(read_pattern(pattern, KNOWN), handler, {})


def tree_of(*patterns: str) -> RouteTree:
    tree = RouteTree()
    for pattern in patterns:
        tree.insert(make(pattern))
    return tree


def find(tree: RouteTree, path: str) -> tuple[str, dict[str, object]] | None:
    found = tree.search(path)
    return None if found is None else (found[0].pattern, found[1])


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The index of each segment that a search looked at, in order; cleared by the test between searches."""
    seen: list[int] = []
    search = route_tree._find

    def counting(node: object, segments: object, index: int, values: object) -> object:
        seen.append(index)
        return search(node, segments, index, values)  # type: ignore[arg-type]

    monkeypatch.setattr(route_tree, "_find", counting)
    yield seen


PRECEDENCE = (
    "/items/new", "/items/<uuid:u>", "/items/<int:n>", "/items/<float:x>", "/items/<hex:h>", "/items/<name>",
    "/items/<path:rest>",
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "pattern", "value"),
    [
        ("/items/new", "/items/new", None),
        ("/items/7", "/items/<int:n>", 7),
        ("/items/7.5", "/items/<float:x>", 7.5),
        ("/items/07", "/items/<hex:h>", 7),
        ("/items/ff", "/items/<hex:h>", 255),
        ("/items/News", "/items/<name>", "News"),
        ("/items/a/b", "/items/<path:rest>", "a/b"),
        ("/items/7/b", "/items/<path:rest>", "7/b"),
    ],
)
def test_the_most_specific_route_wins(path: str, pattern: str, value: object) -> None:
    """Fixed, then uuid, int, float, own, str, path."""
    found = find(tree_of(*PRECEDENCE), path)

    assert found is not None
    assert pattern == found[0]
    assert ([] if value is None else [value]) == list(found[1].values())


def test_the_first_difference_from_the_left_decides() -> None:
    """A fixed segment early on outweighs any number of them later."""
    tree = tree_of("/<a>/b/c", "/a/<b>/<c>", "/a/<b>/x")

    assert ("/a/<b>/<c>", {"b": "b", "c": "c"}) == find(tree, "/a/b/c")
    assert ("/a/<b>/x", {"b": "b"}) == find(tree, "/a/b/x")
    assert ("/<a>/b/c", {"a": "z"}) == find(tree, "/z/b/c")


def test_the_next_best_is_tried_when_the_best_leads_nowhere() -> None:
    """`/users/me/orders` has no route of its own, so `me` is a name there; values of the vain try are forgotten."""
    tree = tree_of("/users/me/settings", "/users/<name>/orders", "/users/<int:id>/<int:n>", "/<path:all>")
    tree.insert(make("/users/me/<int:n>"))

    assert ("/users/<name>/orders", {"name": "me"}) == find(tree, "/users/me/orders")
    assert ("/users/<name>/orders", {"name": "5"}) == find(tree, "/users/5/orders")
    assert ("/users/<int:id>/<int:n>", {"id": 5, "n": 6}) == find(tree, "/users/5/6")
    assert ("/users/me/<int:n>", {"n": 6}) == find(tree, "/users/me/6")
    assert ("/<path:all>", {"all": "users/me/x"}) == find(tree, "/users/me/x")


def test_a_last_slash_makes_another_path() -> None:
    """`/a` and `/a/` are two routes, with and without parameters."""
    tree = tree_of("/a", "/a/", "/u/<int:id>", "/v/<int:id>/")

    assert ("/a", {}) == find(tree, "/a")
    assert ("/a/", {}) == find(tree, "/a/")
    assert find(tree, "/u/1/") is None
    assert ("/v/<int:id>/", {"id": 1}) == find(tree, "/v/1/")
    assert find(tree, "/v/1") is None
    assert find(tree, "/u/") is None


@pytest.mark.row(13, 46)
@pytest.mark.parametrize(
    "path",
    [
        "", "files", "files/a", "//files/a", "/files", "/files/", "/files//a", "/files/../a", "/files/a/..",
        "/files/a/",
        "/files/a\x00", "/files/a\nb", "/files/\x1b[31m", "/files/\x85", "/files/\u2028", "/files/\ud800", "$files/a",
        "/Files/a", "/files%2fa", "/name/", "/name/..", "/name/.", "/name/a\x7f", "/name//", "/name", " /files/a",
        "/{0.__class__}", "%s", "/" * 1024,
    ],
)  # fmt: skip
def test_hostile_paths_match_nothing(path: str) -> None:
    """Empty segments, dots, control characters, and other paths' look-alikes reach no handler."""
    assert tree_of("/files/<path:rest>", "/name/<name>").search(path) is None


@pytest.mark.row(47)
def test_paths_are_compared_in_nfc_letter_for_letter() -> None:
    """A decomposed spelling is the same path; another case, another script or a ligature is not."""
    tree = tree_of("/größe", "/maße/<name>", "/fin", "/admin/<int:n>")

    assert ("/größe", {}) == find(tree, unicodedata.normalize("NFD", "/größe"))
    assert ("/maße/<name>", {"name": "é"}) == find(tree, unicodedata.normalize("NFD", "/maße/é"))
    for path in ("/GRÖSSE", "/grosse", "/ﬁn", "/Fin", "/аdmin/1", "/admin/１", "/admin/1\u200b"):
        assert tree.search(path) is None


def test_text_that_people_write_is_matched() -> None:
    """Blanks, other scripts and joined emoji are names, not control characters."""
    tree = tree_of("/n/<name>")

    for name in ("a b", "東京", "👩\u200d🚀", "x\u00a0y"):
        assert ("/n/<name>", {"name": name}) == find(tree, f"/n/{name}")


def test_a_route_without_parameters_allocates_nothing() -> None:
    """The same pair and the same dict come back for each match."""
    tree = tree_of("/a/b")

    assert tree.search("/a/b") is tree.fixed["/a/b"]
    assert tree.fixed["/a/b"][1] is NO_ARGUMENTS
    assert {} == NO_ARGUMENTS


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/users", "/users"),
        ("/users/<id>", "/users/<name>"),
        ("/users/<id>", "/users/<str:name>"),
        ("/users/<int:id>/x", "/users/<int:n>/x"),
        ("/files/<path:a>", "/files/<path:b>"),
        ("/x/<hex:a>", "/x/<code:b>"),
        ("/x/<hex:a>/y", "/x/<code:b>/y"),
        ("/x/<hex:a>/<int:n>", "/x/<code:b>/<m>"),
        ("/x/<hex:a>/5", "/x/<code:b>/<int:m>"),
        ("/x/<hex:a>/5/<z>", "/x/<code:b>/<int:m>/end"),
        ("/x/<hex:a>/<path:r>", "/x/<code:b>/c/d"),
        ("/x/<hex:a>/c/<code:d>", "/x/<code:b>/<path:r>"),
        ("/<hex:a>/<hex:b>", "/<code:a>/<code:b>"),
    ],
)
def test_ambiguous_routes_are_refused_in_either_order(old: str, new: str) -> None:
    """Two routes that a path may match, neither more specific: both are named, with their places."""
    for first, second in ((old, new), (new, old)):
        tree = tree_of(first)
        with pytest.raises(DuplicateRoute) as caught:
            tree.insert(make(second))

        where = f"test_route_tree.py:{handler.__code__.co_firstlineno}"
        assert f"'{second}' ({where})" == caught.value.new
        assert f"'{first}' ({where})" == caught.value.old
        assert "matches the same paths as" in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/users/<id>", "/users/<int:id>"),
        ("/users/<id>", "/users/<path:rest>"),
        ("/users/<id>", "/users/<id>/"),
        ("/x/<hex:a>/y", "/x/<code:b>/z"),
        ("/x/<hex:a>", "/x/<code:b>/z"),
        ("/x/<hex:a>/word", "/x/<code:b>/<int:m>"),
        ("/x/<hex:a>/<path:r>", "/x/<code:b>"),
        ("/x/<hex:a>/<path:r>", "/x/<code:b>/"),
    ],
)
def test_routes_that_no_path_confuses_live_together(one: str, other: str) -> None:
    """Different specificity decides; converters of one specificity may part if what follows tells them apart."""
    for patterns in ((one, other), (other, one)):
        assert tree_of(*patterns).search("/none/at/all") is None


def test_one_converter_under_two_names_is_one() -> None:
    """What counts is what a converter does."""
    known = {**KNOWN, "h": Converter(HEX.parse, HEX.pattern)}
    tree = tree_of("/x/<hex:a>/y")
    tree.insert(make_route(read_pattern("/x/<h:b>/z", known), handler, {}))

    assert ("/x/<h:b>/z", {"b": 255}) == find(tree, "/x/ff/z")
    with pytest.raises(DuplicateRoute):
        tree.insert(make_route(read_pattern("/x/<h:b>/y", known), handler, {}))


SEGMENTS = ["a", "b", "7", "<int:{}>", "<float:{}>", "<hex:{}>", "<code:{}>", "<{}>", "<path:{}>"]
TEXTS = ["a", "b", "7", "7.5", "ff", "abc", "-7", "x", "", ".."]


@st.composite
def route_sets(draw: st.DrawFn) -> list[str]:
    patterns = []
    for written in draw(st.lists(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3), max_size=7)):
        names = itertools.count()
        segments = [segment.format(f"p{next(names)}") for segment in written]
        end = next((i for i, segment in enumerate(segments) if segment.startswith("<path")), len(segments))
        slash = "/" if end == len(segments) and draw(st.booleans()) else ""
        patterns.append("/" + "/".join(segments[: end + 1]) + slash)
    return patterns


def outcome(patterns: list[str], path: str) -> object:
    try:
        return find(tree_of(*patterns), path)
    except DuplicateRoute:
        return DuplicateRoute


def accepted(pattern: PathPattern, path: str) -> tuple[int, ...] | None:
    """Specificity of each segment of a pattern that matches *path*, -1 for a fixed one; the rule, spelt out."""
    texts, ranks = path.split("/")[1:], []
    for index, segment in enumerate(pattern.segments):
        if isinstance(segment, str):
            if index >= len(texts) or texts[index] != segment:
                return None
            ranks.append(-1)
            continue
        if segment.converter.specificity is Specificity.PATH:
            rest = "/".join(texts[index:])
            return (*ranks, int(Specificity.PATH)) if segment.converter.accepts(rest) else None
        if index >= len(texts) or not segment.converter.accepts(texts[index]):
            return None
        ranks.append(int(segment.converter.specificity))
    return tuple(ranks) if len(texts) == len(pattern.segments) else None


PATHS = st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4).map(lambda segments: "/" + "/".join(segments))


@given(route_sets(), PATHS, st.randoms(use_true_random=False))
def test_order_of_registration_never_matters(patterns: list[str], path: str, order: random.Random) -> None:
    """Every permutation finds the same route and arguments, or is refused alike."""
    shuffled = list(patterns)
    order.shuffle(shuffled)

    assert outcome(patterns, path) == outcome(shuffled, path)


@given(route_sets(), PATHS)
def test_the_tree_finds_what_looking_at_every_route_finds(patterns: list[str], path: str) -> None:
    """Of all routes that match, the one with the smallest specificities from the left."""
    try:
        tree = tree_of(*patterns)
    except DuplicateRoute:
        return
    ranked = [(accepted(read_pattern(pattern, KNOWN), path), pattern) for pattern in patterns]
    matching = sorted((rank, pattern) for rank, pattern in ranked if rank is not None)

    found = find(tree, path)

    assert (matching[0][1] if matching else None) == (None if found is None else found[0])
    assert len({rank for rank, _ in matching}) == len(matching)


@pytest.mark.row(52)
def test_visits_do_not_grow_with_the_number_of_routes(visits: list[int]) -> None:
    """Among 10 and among 10,000 routes the search for a path visits equally many nodes."""
    counts = {}
    for services in (3, 2500):
        tree = RouteTree()
        for number in range(services):
            for tail in ("<int:id>", "<name>/orders/<uuid:order>", "files/<path:rest>", "status/<float:x>"):
                tree.insert(make(f"/service{number}/{tail}"))
        for path in ("/service2/5", "/service2/bob/orders/x", "/service2/files/a/b", "/service2/no/at/all", "/none"):
            visits.clear()
            tree.search(path)
            counts.setdefault(path, []).append(len(visits))

    assert all(few == many for few, many in counts.values()), counts
    assert max(count for pair in counts.values() for count in pair) <= 6


@pytest.mark.row(52)
def test_visits_do_not_grow_with_the_length_of_a_hostile_path(visits: list[int]) -> None:
    """Segments beyond those of the patterns are not looked at one by one."""
    tree = tree_of("/a/<x>/c", "/<x>/b/<y>", "/<x>/<y>/<z>")
    for path in ("/a/b" + "/d" * 10, "/a/b" + "/d" * 100_000):
        visits.clear()

        assert tree.search(path) is None
        assert len(visits) <= 12


@pytest.mark.row(52)
@given(route_sets(), PATHS)
def test_visits_stay_below_the_bound_that_is_kept(patterns: list[str], path: str) -> None:
    """The bound that registration checks is one: no search visits more nodes."""
    seen: list[int] = []
    search = route_tree._find

    def counting(node: object, segments: object, index: int, values: object) -> object:
        seen.append(index)
        return search(node, segments, index, values)  # type: ignore[arg-type]

    try:
        tree = tree_of(*patterns)
    except DuplicateRoute:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(route_tree, "_find", counting)
        tree.search(path)
    assert len(seen) <= tree._root.visits


@pytest.mark.row(52)
def test_routes_that_branch_without_end_are_refused(visits: list[int]) -> None:
    """All 2ⁿ mixtures of fixed segment and parameter would cost 2ⁿ visits; the one that goes too far is refused."""
    tree = RouteTree()
    refused = None
    added = 0
    for mixture in itertools.product("a*", repeat=12):
        segments = [f"<p{place}>" if kind == "*" else "a" for place, kind in enumerate(mixture)]
        try:
            tree.insert(make("/" + "/".join(segments) + "/<last>/end"))
        except RoutingError as error:
            refused = error
            break
        added += 1

    assert refused is not None
    assert "branch so much" in str(refused)
    assert added > 16
    visits.clear()
    assert tree.search("/a" * 13 + "/none") is None
    assert len(visits) <= 2 * MOST_VISITS


def test_clear_forgets_all() -> None:
    """A tree can be filled anew."""
    tree = tree_of("/a", "/b/<x>")
    tree.clear()

    assert tree.search("/a") is None
    assert tree.search("/b/1") is None
    tree.insert(make("/a"))
    assert ("/a", {}) == find(tree, "/a")
