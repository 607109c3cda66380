"""Routers: registration, nesting, and the end of registration."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.exceptions import BadPattern, ConfigurationError, DuplicateRoute, RouteNotFound, RoutingError
from webmesh.routing import NO_ARGUMENTS, Converter, Router


def handler(payload: object, path: str, client: object, **path_arguments: object) -> object:
    return payload


def strict(payload: object, path: str, client: object) -> object:
    return payload


def hex_to_int(text: str) -> int:
    return int(text, 16)


def find(router: Router, path: str) -> tuple[str, dict[str, object]] | None:
    found = router.match(path)
    return None if found is None else (found[0].pattern, found[1])


def patterns(router: Router) -> list[str]:
    return [route.pattern for route in router.routes()]


def test_a_registered_handler_is_found_with_its_arguments() -> None:
    """The three things a layer above needs: handler, options, arguments."""
    router = Router()
    added = router.add("/users/<int:id>", handler, blocking=True, timeout=2.0)

    found = router.match("/users/7")

    assert found is not None
    route, arguments = found
    assert added is route
    assert handler is route.handler
    assert {"blocking": True, "timeout": 2.0} == dict(route.options)
    assert {"id": 7} == arguments
    assert f"test_routing.py:{handler.__code__.co_firstlineno}" == route.where


def test_options_of_a_route_cannot_be_changed() -> None:
    """What was registered stays as it was."""
    route = Router().add("/", handler, timeout=1)

    with pytest.raises(TypeError):
        route.options["timeout"] = 2  # type: ignore[index]


def test_a_match_without_parameters_shares_its_dict() -> None:
    """No allocation: the same object each time."""
    router = Router()
    router.add("/a", handler)

    assert router.match("/a") is router.match("/a")
    assert router.match("/a")[1] is NO_ARGUMENTS  # type: ignore[index]


def test_what_nobody_registered_is_not_found() -> None:
    """`None`, for the layer above to answer with `RouteNotFound`."""
    assert Router().match("/") is None
    assert Router().match("") is None
    assert issubclass(RouteNotFound, Exception)


def test_the_decorator_returns_the_function() -> None:
    """So it can be called, tested and registered again."""
    router = Router()

    @router.on("/a", order="peer")
    @router.on("/b/<x>")
    def function(payload: object, path: str, client: object, x: str = "none") -> str:
        return x

    assert "direct" == function(None, "/a", None, "direct")
    assert ["/a", "/b/<x>"] == patterns(router)
    assert {"order": "peer"} == dict(router.routes()[0].options)
    assert router.routes()[0].handler is function


def test_errors_leave_the_router_as_it_was() -> None:
    """A refused route matches nothing and is not listed."""
    router = Router()
    router.add("/a/<x>", handler)

    for refused, error in [("/a/<y>", DuplicateRoute), ("/b/<int:2>", BadPattern), ("/c/<y>", ConfigurationError)]:
        with pytest.raises(error):
            router.add(refused, strict if refused == "/c/<y>" else handler)

    assert ["/a/<x>"] == patterns(router)
    assert ("/a/<x>", {"x": "1"}) == find(router, "/a/1")
    assert router.match("/c/1") is None


def test_duplicates_name_both_routes_with_their_places() -> None:
    """Enough to find the two lines."""
    router = Router()
    router.add("/users/<id>", handler)
    with pytest.raises(DuplicateRoute) as caught:
        router.add("/users/<name>", handler)

    where = f"test_routing.py:{handler.__code__.co_firstlineno}"
    assert (
        f"'/users/<name>' ({where}) matches the same paths as '/users/<id>' ({where}): remove one or change a segment"
        == str(caught.value)
    )


def test_routes_are_listed_in_order_of_their_patterns() -> None:
    """Whatever the order of registration."""
    router = Router()
    for pattern in ("/b", "/<x>", "/a/", "/a"):
        router.add(pattern, handler)
    router.add("$hello", handler, reserved=True)

    assert ["$hello", "/<x>", "/a", "/a/", "/b"] == patterns(router)


def test_the_protocols_own_paths_need_the_flag() -> None:
    """Users cannot take them; the library registers them beside."""
    router = Router()
    with pytest.raises(BadPattern, match="protocol's own"):
        router.add("$hello", handler)
    router.add("$hello", handler, reserved=True)

    assert ("$hello", {}) == find(router, "$hello")
    assert router.match("/$hello") is None


def test_an_own_converter_is_one_line() -> None:
    """Afterwards its name may stand before a colon."""
    router = Router()
    router.converter("hex", hex_to_int, pattern=r"[0-9a-f]+")
    router.add("/colours/<hex:colour>", handler)

    assert ("/colours/<hex:colour>", {"colour": 0xFFA500}) == find(router, "/colours/ffa500")
    assert router.match("/colours/orange") is None


def test_converters_may_be_given_at_construction() -> None:
    """The same, for a table of them; a second router does not know them."""
    router = Router(converters={"hex": Converter(hex_to_int, pattern="[0-9a-f]+")})
    router.add("/<hex:n>", handler)

    assert ("/<hex:n>", {"n": 10}) == find(router, "/a")
    with pytest.raises(BadPattern, match="no converter is called 'hex'"):
        Router().add("/<hex:n>", handler)


def test_the_name_of_a_converter_is_given_once() -> None:
    """Built-in kinds keep their meaning; saying the same twice is no harm."""
    router = Router()
    router.converter("hex", hex_to_int, pattern="[0-9a-f]+")
    router.converter("hex", hex_to_int, pattern="[0-9a-f]+")

    with pytest.raises(ConfigurationError, match="'hex' is another one already"):
        router.converter("hex", str)
    with pytest.raises(ConfigurationError, match="'int' is built in"):
        router.converter("int", int)
    with pytest.raises(ConfigurationError, match="must be an identifier"):
        router.converter("two words", str)
    with pytest.raises(ConfigurationError, match="must be a Converter"):
        Router(converters={"hex": hex_to_int})  # type: ignore[dict-item]


@pytest.mark.row(52)
def test_an_own_converter_with_nested_repeats_is_refused() -> None:
    """And its name stays unknown."""
    router = Router()
    with pytest.raises(BadPattern) as caught:
        router.converter("slug", str, pattern="(?:[a-z]+-?)+")

    assert 12 == caught.value.position
    with pytest.raises(BadPattern, match="no converter"):
        router.add("/<slug:s>", handler)


def test_an_included_router_answers_below_its_prefix() -> None:
    """Letter for letter, options kept, and on its own as before."""
    shop = Router()
    shop.add("/carts/<int:id>", handler, timeout=3)
    shop.add("/", handler)
    main = Router()
    main.include("/shop", shop)

    assert ("/shop/carts/<int:id>", {"id": 4}) == find(main, "/shop/carts/4")
    assert ("/shop/", {}) == find(main, "/shop/")
    assert main.match("/shop") is None
    assert main.match("/carts/4") is None
    assert ("/carts/<int:id>", {"id": 4}) == find(shop, "/carts/4")
    assert {"timeout": 3} == dict(main.routes()[1].options)


def test_routes_that_come_after_the_inclusion_count() -> None:
    """An application includes its parts first and fills them later, or the reverse: no difference."""
    main, shop, carts = Router(), Router(), Router()
    shop.include("/carts", carts)
    main.include("/shop", shop)
    carts.add("/<int:id>", handler)
    shop.add("/open", handler)

    assert ["/shop/carts/<int:id>", "/shop/open"] == patterns(main)
    assert ("/shop/carts/<int:id>", {"id": 1}) == find(main, "/shop/carts/1")
    assert ["/carts/<int:id>", "/open"] == patterns(shop)


def test_one_router_may_stand_in_several_places() -> None:
    """Two prefixes, two routers, or two levels."""
    part, one, other = Router(), Router(), Router()
    one.include("/a", part)
    one.include("/b", part)
    other.include("/", part)
    part.add("/x/<n>", handler)

    assert ["/a/x/<n>", "/b/x/<n>"] == patterns(one)
    assert ["/x/<n>"] == patterns(other)
    assert ("/b/x/<n>", {"n": "1"}) == find(one, "/b/x/1")


def test_a_prefix_may_have_parameters() -> None:
    """Handlers get them too, and must take them."""
    shop, main = Router(), Router()
    shop.add("/carts/<int:id>", handler)
    main.include("/tenants/<tenant>", shop)

    assert {"tenant": "acme", "id": 3} == find(main, "/tenants/acme/carts/3")[1]  # type: ignore[index]
    with pytest.raises(ConfigurationError, match="unexpected keyword argument 'tenant'"):
        shop.add("/open", strict)
    assert shop.match("/open") is None
    with pytest.raises(BadPattern, match="'tenant' is there already"):
        shop.add("/<tenant>", handler)


def test_handlers_that_cannot_take_the_prefix_are_refused_at_the_inclusion() -> None:
    """And nothing is included then."""
    shop, main = Router(), Router()
    shop.add("/carts/<int:id>", handler)
    shop.add("/open", strict)

    with pytest.raises(ConfigurationError, match="strict .* of '/<tenant>/open' cannot be called"):
        main.include("/<tenant>", shop)

    assert [] == patterns(main)
    shop.add("/later", handler)
    assert [] == patterns(main)


def test_converters_travel_with_the_routes() -> None:
    """Each pattern means what it meant where it was written, also if both routers use one name for two kinds."""
    shop = Router(converters={"code": Converter(hex_to_int, pattern="[0-9a-f]+")})
    shop.add("/<code:n>", handler)
    main = Router(converters={"code": Converter(str.upper, pattern="[a-z]{3}")})
    main.include("/<code:country>/shop", shop)

    assert {"country": "FIN", "n": 255} == find(main, "/fin/shop/ff")[1]  # type: ignore[index]


def test_conflicts_across_routers_come_at_registration() -> None:
    """Whichever comes last is refused, everywhere, with both named."""
    shop, main = Router(), Router()
    main.add("/shop/<name>", handler)
    main.include("/shop", shop)
    with pytest.raises(DuplicateRoute, match="'/shop/<id>' .* as '/shop/<name>'"):
        shop.add("/<id>", handler)

    assert [] == patterns(shop)
    assert shop.match("/1") is None
    assert ("/shop/<name>", {"name": "1"}) == find(main, "/shop/1")

    late = Router()
    late.add("/fine", handler)
    late.add("/<id>", handler)
    with pytest.raises(DuplicateRoute):
        main.include("/shop", late)
    assert ["/shop/<name>"] == patterns(main)
    assert ("/shop/<name>", {"name": "fine"}) == find(main, "/shop/fine")


def test_one_router_twice_at_one_place_is_refused_with_its_first_route() -> None:
    """The two copies of a route match the same paths."""
    part, main = Router(), Router()
    main.include("/a", part)
    main.include("/a", part)

    with pytest.raises(DuplicateRoute):
        part.add("/x", handler)
    assert [] == patterns(main) == patterns(part)


def test_a_router_cannot_contain_itself() -> None:
    """Not directly and not through others."""
    one, two, three = Router(), Router(), Router()
    one.include("/two", two)
    two.include("/three", three)

    for inner, outer in ((one, one), (one, two), (one, three)):
        with pytest.raises(ConfigurationError, match="cannot be included in itself"):
            outer.include("/loop", inner)


def test_the_protocols_own_paths_cannot_be_included() -> None:
    """They belong to a connection, not below a prefix; either order is refused."""
    sub, main = Router(), Router()
    sub.add("$hello", handler, reserved=True)
    with pytest.raises(BadPattern):
        main.include("/sub", sub)

    other = Router()
    main.include("/other", other)
    with pytest.raises(BadPattern):
        other.add("$hello", handler, reserved=True)


def test_freezing_ends_registration_here_and_below() -> None:
    """Once serving begins nothing changes, in included routers neither; matching goes on."""
    shop, main = Router(), Router()
    main.include("/shop", shop)
    shop.add("/a", handler)
    assert not main.frozen

    main.freeze()
    main.freeze()

    assert main.frozen
    refused: list[Callable[[], Any]] = [
        lambda: main.add("/x", handler),
        lambda: main.on("/x")(handler),
        lambda: main.include("/x", Router()),
        lambda: shop.add("/x", handler),
        lambda: shop.include("/x", Router()),
    ]
    for register in refused:
        with pytest.raises(ConfigurationError, match="before serving begins"):
            register()
    assert ("/shop/a", {}) == find(main, "/shop/a")
    assert ["/a"] == patterns(shop)


def test_the_repr_tells_size_and_state() -> None:
    """For a log line or a debugger."""
    router = Router()
    router.add("/a", handler)
    assert "<Router 1 routes>" == repr(router)
    router.freeze()
    assert "<Router 1 routes, frozen>" == repr(router)


def test_routes_that_branch_without_end_are_refused_and_undone() -> None:
    """The bound of the tree is kept across additions; the refused one leaves no trace."""
    router = Router()
    segments = [["a", "<int:{}>", "<float:{}>", "<{}>"]] * 5
    accepted = []
    with pytest.raises(RoutingError, match="branch so much"):
        for number in range(4**5):
            kinds = [choices[number // 4**place % 4].format(f"p{place}") for place, choices in enumerate(segments)]
            router.add("/" + "/".join(kinds) + "/<last>", handler)
            accepted.append(number)

    assert len(accepted) == len(router.routes())
    with pytest.raises(RoutingError):
        router.add("/" + "/".join(kinds) + "/<last>", handler)
    router.add("/another", handler)
    assert ("/another", {}) == find(router, "/another")


TREES = st.lists(
    st.tuples(st.sampled_from(["/", "/a", "/b/<p>", "/<int:q>"]), st.sampled_from(["/a", "/<x>", "/<int:y>/", "/"])),
    max_size=6,
)


@given(TREES, st.lists(st.sampled_from(["a", "b", "1", ""]), max_size=4), st.randoms(use_true_random=False))
def test_nesting_is_the_same_as_writing_it_out(
    placed: list[tuple[str, str]], segments: list[str], order: random.Random
) -> None:
    """Including, in whatever order, gives what the whole patterns in one router give."""
    path = "/" + "/".join(segments)
    flat, nested, parts = Router(), Router(), {}
    try:
        for prefix, pattern in placed:
            flat.add(prefix.removesuffix("/") + pattern, handler)
    except DuplicateRoute:
        return
    steps = [("include", prefix, "") for prefix in dict(placed)] + [("add", *pair) for pair in placed]
    order.shuffle(steps)
    for step, prefix, pattern in steps:
        part = parts.setdefault(prefix, Router())
        if step == "include":
            nested.include(prefix, part)
        else:
            part.add(pattern, handler)

    assert patterns(flat) == patterns(nested)
    assert find(flat, path) == find(nested, path)
