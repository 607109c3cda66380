"""Payloads to arguments: what binds, what is refused before the call, and that a bound call cannot fail over them."""

from __future__ import annotations

import datetime
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.arguments import MOST_ARGUMENTS, FunctionParameters
from webmesh.exceptions import ConfigurationError, InvalidArgument

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers


def near(latitude: float, longitude: float, radius_km: float = 50.0, *, limit: int = 10) -> object:
    return latitude, longitude, radius_km, limit


def nothing() -> object:
    return "nothing"


def everything(*args: Any, **kwargs: Any) -> object:
    return args, kwargs


def by_position(a: Any, b: Any = 2, /, c: Any = 3) -> object:
    return a, b, c


def mixed(a: Any, /, b: Any = 1, *, c: Any = 2, **more: Any) -> None:
    """Another."""


class Account:
    def move(self, amount: int, to: str = "") -> object:
        return amount, to

    def note(self, **words: Any) -> object:
        return words

    def log(self, /, **words: Any) -> object:
        return words

    @classmethod
    def of(cls, **words: Any) -> object:
        return words


def call(function: Callable[..., object], payload: object, **path_arguments: object) -> object:
    positional, named = FunctionParameters(function).bind(payload, path_arguments)
    return function(*positional, **named)


def refusal(function: Callable[..., object], payload: object, **path_arguments: object) -> str:
    with pytest.raises(InvalidArgument) as caught:
        FunctionParameters(function).bind(payload, path_arguments)
    return caught.value.message


@pytest.mark.parametrize(
    ("function", "payload", "expected"),
    [
        (near, {"latitude": 1.5, "longitude": 2, "limit": 3}, (1.5, 2, 50.0, 3)),
        (near, [1.5, 2.5, 9.0], (1.5, 2.5, 9.0, 10)),
        (near, (1, 2), (1, 2, 50.0, 10)),
        (nothing, None, "nothing"),
        (nothing, {}, "nothing"),
        (nothing, [], "nothing"),
        (everything, None, ((), {})),
        (everything, "text", (("text",), {})),
        (everything, 0, ((0,), {})),
        (everything, False, ((False,), {})),
        (everything, b"bytes", ((b"bytes",), {})),
        (everything, [1, [2]], ((1, [2]), {})),
        (everything, {"a": 1}, ((), {"a": 1})),
        (by_position, [1], (1, 2, 3)),
        (by_position, [1, 5, 6], (1, 5, 6)),
        (by_position, "x", ("x", 2, 3)),
        (Account().move, {"amount": 5}, (5, "")),
        (Account().move, [5, "bob"], (5, "bob")),
        (Account().log, {"self": 1}, {"self": 1}),
        (functools.partial(near, 1.0), [2.0], (1.0, 2.0, 50.0, 10)),
        (functools.partial(near, limit=1), [1.0, 2.0], (1.0, 2.0, 50.0, 1)),
    ],
)
def test_a_map_is_keywords_a_list_positions_anything_else_one_argument(
    function: Callable[..., object], payload: object, expected: object
) -> None:
    """Null is no argument at all."""
    assert expected == call(function, payload)


@pytest.mark.row(48)
@pytest.mark.parametrize(
    ("function", "payload", "text"),
    [
        (near, None, "near() is missing argument 'latitude'"),
        (near, {"latitude": 1.0}, "near() is missing argument 'longitude'"),
        (near, [1.0], "near() is missing argument 'longitude'"),
        (near, 1.0, "near() is missing argument 'longitude'"),
        (near, [1.0, 2.0, 3.0, 4], "near() takes at most 3 arguments by position, not 4"),
        (
            near,
            {"latitude": 1.0, "longitude": 2.0, "colour": "red"},
            "near() takes no argument 'colour'; it takes latitude, longitude, radius_km, limit",
        ),
        (nothing, {"x": 1}, "nothing() takes no argument 'x'; it takes none"),
        (nothing, "x", "nothing() takes at most 0 arguments by position, not 1"),
        (by_position, {"a": 1}, "by_position() takes 'a' by position only: send a list"),
        (mixed, {"x": 1, "a": 1}, "mixed() takes 'a' by position only: send a list"),
        (mixed, {"a": 1}, "mixed() takes 'a' by position only: send a list"),
        (by_position, {"c": 1}, "by_position() is missing argument 'a'"),
        (by_position, [1, 2, 3, 4], "by_position() takes at most 3 arguments by position, not 4"),
        (Account().move, {"self": 1, "amount": 1}, "move() takes no argument 'self'; it takes amount, to"),
        (Account().note, {"self": 1}, "note() takes no argument 'self'; it takes none"),
        (Account.of, {"cls": 1}, "of() takes no argument 'cls'; it takes none"),
        (near, {1: 2}, "near() takes no argument 1; it takes latitude, longitude, radius_km, limit"),
        (everything, {1: 2}, "everything() takes no argument 1; it takes none"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(function: Callable[..., object], payload: object, text: str) -> None:
    """Missing, unknown and too many are each named, before the function is entered."""
    assert text == refusal(function, payload)


@pytest.mark.row(48)
@pytest.mark.parametrize(
    ("annotation", "good", "bad", "wanted"),
    [
        (str, ["", "x"], [1, None, b"x"], "str"),
        (int, [0, True], [1.0, "1", None], "int"),
        (float, [1.0, 1], ["1", None], "float or int"),
        (bool, [True], [1, "yes"], "bool"),
        (bytes, [b"x"], ["x"], "bytes"),
        (list, [[], ()], [{}, "abc"], "list or tuple"),
        (list[int], [[1], ["unchecked inside"]], [1], "list or tuple"),
        (dict[str, int], [{}], [[]], "dict"),
        (None, [None], [0], "null"),
        (Optional[int], [1, None], ["x"], "int or null"),
        (int | str, [1, "x"], [1.5], "int or str"),
        (Union[float, int, None], [1, None], ["x"], "float or int or null"),
        (Annotated[str, "a name"], ["x"], [1], "str"),
        ("int", [1], ["x"], "int"),
    ],
)
def test_values_of_another_type_than_annotated_are_refused(
    annotation: Any, good: list[object], bad: list[object], wanted: str
) -> None:
    """Where an annotation names what a message can carry, a payload of another type does not get through."""

    def function(x: Any) -> object:
        return x

    function.__annotations__["x"] = annotation
    for value in good:
        assert value == call(function, {"x": value}) == call(function, [value])
    for value in bad:
        got = type(value).__name__
        assert f"function() wants {wanted} for 'x', not {got}" == refusal(function, {"x": value})
        assert f"function() wants {wanted} for 'x', not {got}" == refusal(function, [value])


@pytest.mark.parametrize(
    "annotation",
    [Any, object, datetime.date, tuple[int, int], Callable[[], None], int | datetime.date, "NoSuchName", [1, 2], 3],
)
def test_other_annotations_are_the_functions_own_business(annotation: Any) -> None:
    """Also such as cannot be evaluated or are no types at all."""

    def function(x: Any) -> object:
        return x

    function.__annotations__["x"] = annotation
    assert "text" == call(function, ["text"])


def test_a_default_of_none_allows_null() -> None:
    """Much code annotates `int = None`."""

    def function(x: int = None, y: str = "") -> object:  # type: ignore[assignment]
        return x, y

    assert (None, "") == call(function, {"x": None})
    assert "function() wants str for 'y', not NoneType" == refusal(function, {"y": None})


def test_names_known_to_type_checkers_only_switch_the_checks_off() -> None:
    """Then nothing is known of any annotation; the arguments are counted all the same."""

    def function(x: OnlyForCheckers, y: int) -> object:
        return x, y

    assert (1, "2") == call(function, [1, "2"])
    assert "function() is missing argument 'y'" == refusal(function, [1])


@pytest.mark.row(48)
@pytest.mark.parametrize("function", [near, nothing, everything, by_position, Account().note, Account().move])
@pytest.mark.parametrize("payload", [[0] * 10_000, {f"k{number}": number for number in range(10_000)}])
def test_ten_thousand_arguments_are_refused(function: Callable[..., object], payload: object) -> None:
    """Whatever the function takes; the text of the error stays short."""
    assert len(refusal(function, payload)) < 200


@pytest.mark.row(48)
def test_variable_arguments_are_bounded() -> None:
    """As many as the bound, and not one more."""
    assert MOST_ARGUMENTS == len(call(everything, [0] * MOST_ARGUMENTS)[0])  # type: ignore[index]
    assert "everything() takes at most 255 arguments by position, not 256" == refusal(everything, [0] * 256)
    many = {f"k{number}": 0 for number in range(256)}
    assert "everything() takes at most 255 arguments by name, not 256" == refusal(everything, many)


@pytest.mark.row(46, 48)
@pytest.mark.parametrize("name", ["x" * 8192, "\x1b[31mred", "{0.__class__}", "%s", "a\nb", "\ud800", "__class__", ""])
def test_hostile_names_are_repeated_escaped_and_cut(name: str) -> None:
    """An error that goes to logs and back to the peer holds no control character and no long text."""
    text = refusal(near, {name: 1})

    assert text.startswith("near() takes no argument ")
    assert text.isprintable()
    assert len(text) < 200


@pytest.mark.parametrize(
    ("function", "payload", "path_arguments", "expected"),
    [
        (near, {"longitude": 2.0}, {"latitude": 1.0}, (1.0, 2.0, 50.0, 10)),
        (near, [2.0, 7.0], {"latitude": 1.0}, (1.0, 2.0, 7.0, 10)),
        (near, [1.0, 7.0], {"longitude": 2.0}, (1.0, 2.0, 7.0, 10)),
        (near, None, {"latitude": 1.0, "longitude": 2.0, "limit": 4}, (1.0, 2.0, 50.0, 4)),
        (by_position, [1], {"c": 9}, (1, 2, 9)),
        (everything, [1, 2], {"x": 3}, ((1, 2), {"x": 3})),
        (Account().move, "bob", {"amount": 3}, (3, "bob")),
    ],
)
def test_path_arguments_go_to_their_names_and_a_list_fills_the_rest(
    function: Callable[..., object], payload: object, path_arguments: dict[str, object], expected: object
) -> None:
    """As if the path were the first part of the payload."""
    assert expected == call(function, payload, **path_arguments)


def test_a_list_beyond_the_named_parameters_keeps_its_order() -> None:
    """With `*rest`, path arguments take their places and what is left follows."""

    def function(a: object, b: object, *rest: object, c: object = None) -> object:
        return a, b, rest, c

    assert (1, 2, (3, 4), None) == call(function, [2, 3, 4], a=1)
    assert (1, 2, (3,), 5) == call(function, [1, 3], b=2, c=5)
    assert (1, 2, (), None) == call(function, [1], b=2)


@pytest.mark.row(48)
def test_the_payload_cannot_override_the_path() -> None:
    """What the path names is what was routed, and perhaps authorised."""
    assert "near() 'latitude' is given by the path already" == refusal(near, {"latitude": 9.0}, latitude=1.0)
    assert "near() takes at most 2 arguments by position, not 3" == refusal(near, [1.0, 2.0, 3.0], latitude=1.0)


def test_a_handler_for_the_function_takes_by_path_what_it_takes_by_name() -> None:
    """So that a prefix with parameters is checked at registration."""
    signature = FunctionParameters(by_position).handler_signature()

    assert signature.bind(None, "/", None, c=1)
    with pytest.raises(TypeError):
        signature.bind(None, "/", None, a=1)
    assert FunctionParameters(everything).handler_signature().bind(None, "/", None, anything=1)


def test_a_function_may_have_parameters_named_like_a_handlers() -> None:
    """`path` is a common name in ordinary code; it comes with the payload, never from the path."""

    def read(path: str, client: str = "") -> object:
        return path, client

    assert ("/etc", "") == call(read, {"path": "/etc"})
    assert ["payload", "path", "client"] == list(FunctionParameters(read).handler_signature().parameters)


def test_a_function_without_signature_is_refused() -> None:
    """What cannot be checked is not called with strangers' arguments."""
    with pytest.raises(ConfigurationError, match="does not tell which arguments it takes"):
        FunctionParameters(dict.update)


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.integers()))
WORDS = ["a", "b", "c", "self", "amount", "to", "latitude", "longitude", "limit", "radius_km", "x"]
NAMES = st.one_of(st.sampled_from(WORDS), st.text())
PAYLOADS = st.one_of(VALUES, st.lists(VALUES, max_size=6), st.dictionaries(NAMES, VALUES, max_size=6))


def rest_of(a: Any, *rest: Any, c: Any, d: Any = 0) -> None:
    """A function of many kinds of parameters."""


FUNCTIONS: list[Callable[..., object]] = [
    near, nothing, everything, by_position, rest_of, mixed, Account().move, Account().note, Account().log, Account.of,
]  # fmt: skip


@pytest.mark.row(48)
@given(st.sampled_from(FUNCTIONS), PAYLOADS, st.dictionaries(st.sampled_from(["b", "c", "limit", "x"]), VALUES))
def test_a_bound_call_never_fails_over_its_arguments(
    function: Callable[..., object], payload: object, path_arguments: dict[str, object]
) -> None:
    """Any payload is either refused or makes a call that Python accepts, and Python accepts no more than we do."""
    parameters = FunctionParameters(function)
    try:
        parameters.handler_signature().bind(None, "/", None, **path_arguments)
    except TypeError:
        return  # such a route is refused at registration
    given_by_name = payload if isinstance(payload, dict) else {}
    single = () if payload is None or isinstance(payload, dict) else (payload,)
    positions = payload if isinstance(payload, list) else single
    try:
        positional, named = parameters.bind(payload, path_arguments)
    except InvalidArgument as refused:
        if "wants" not in refused.message and not path_arguments:
            with pytest.raises(TypeError):
                inspect.signature(function).bind(*positions, **given_by_name)
                function(*positions, **given_by_name)
        return
    inspect.signature(function).bind(*positional, **named)
    function(*positional, **named)
