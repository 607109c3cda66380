"""Routes: whether a handler can be called for a pattern, and how errors name it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from webmesh.converters import BUILT_IN
from webmesh.exceptions import ConfigurationError
from webmesh.path_patterns import read_pattern
from webmesh.route import Route, make_route, place_of


def line_of(function: Callable[..., Any]) -> str:
    return f"test_route.py:{function.__code__.co_firstlineno}"


def plain(payload: object, path: str, client: object) -> object:
    return payload


def with_id(payload: object, path: str, client: object, id: int) -> object:
    return id


def greedy(*args: object, **kwargs: object) -> object:
    return args, kwargs


def only_keywords(*, payload: object, path: str, client: object) -> object:
    return payload


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Service:
    def handle(self, payload: object, path: str, client: object, id: int = 0) -> object:
        return id

    @classmethod
    def of_class(cls, payload: object, path: str, client: object) -> object:
        return cls

    @staticmethod
    def of_nothing(payload: object, path: str, client: object) -> object:
        return payload

    def __call__(self, payload: object, path: str, client: object, **path_arguments: object) -> object:
        return path_arguments


class Countdown:
    def __init__(self, payload: object, path: str, client: object) -> None:
        self.payload = payload


def make(pattern: str, handler: Any) -> Route:
    return make_route(read_pattern(pattern, BUILT_IN), handler, {})


@pytest.mark.parametrize(
    ("pattern", "handler"),
    [
        ("/", plain),
        ("/<int:id>", with_id),
        ("/", greedy),
        ("/<a>/<b>", greedy),
        ("/", Service().handle),
        ("/<int:id>", Service().handle),
        ("/", Service.of_class),
        ("/", Service.of_nothing),
        ("/<anything>", Service()),
        ("/", functools.partial(with_id, id=3)),
        ("/<int:id>", functools.partial(with_id)),
        ("/", functools.partial(functools.partial(greedy, 1), x=2)),
        ("/<int:id>", decorated(with_id)),
        ("/", lambda data, *rest: data),
        ("/", Countdown),
        ("/", print),
    ],
)
def test_whatever_can_be_called_so_is_a_handler(pattern: str, handler: Any) -> None:
    """Functions, methods, partials, decorated and callable objects fit where their signature does."""
    route = make(pattern, handler)

    assert handler is route.handler
    assert pattern == route.pattern


@pytest.mark.parametrize(
    ("pattern", "handler", "why"),
    [
        ("/", lambda: None, "too many positional arguments"),
        ("/", lambda payload: None, "too many positional arguments"),
        ("/", lambda a, b, c, d: None, "missing a required argument: 'd'"),
        ("/", with_id, "missing a required argument: 'id'"),
        ("/<int:id>", plain, "unexpected keyword argument 'id'"),
        ("/<name>", with_id, "missing a required argument: 'id'"),
        ("/<int:id>", lambda id, path, client: None, "multiple values for argument 'id'"),
        ("/", only_keywords, "too many positional arguments"),
        ("/<int:id>", decorated(plain), "unexpected keyword argument 'id'"),
        ("/", Service.handle, "missing a required argument: 'client'"),
        ("/", functools.partial(plain, 1), "too many positional arguments"),
        ("/<x>", Countdown, "unexpected keyword argument 'x'"),
    ],
)
def test_a_handler_that_cannot_take_the_arguments_is_refused(pattern: str, handler: Any, why: str) -> None:
    """The error comes at registration, not with the first call."""
    with pytest.raises(ConfigurationError, match=re.escape(why)):
        make(pattern, handler)


def test_the_refusal_names_handler_place_pattern_and_call() -> None:
    """Enough to find it and to see what it should take."""
    with pytest.raises(ConfigurationError) as caught:
        make("/users/<int:id>", plain)

    assert str(caught.value).startswith(
        f"handler plain ({line_of(plain)}) of '/users/<int:id>' cannot be called with (payload, path, client, id=…): "
    )


@pytest.mark.parametrize("handler", [None, 3, "shop.orders"])
def test_what_cannot_be_called_is_refused(handler: object) -> None:
    """A forgotten function is told by its value."""
    with pytest.raises(ConfigurationError, match=re.escape(f"the handler of '/' cannot be called: {handler!r}")):
        make("/", handler)


def test_async_functions_are_refused() -> None:
    """They would return a coroutine that nobody runs."""

    async def coroutine(payload: object, path: str, client: object) -> None:
        """Never awaited."""

    async def generator(payload: object, path: str, client: object) -> Any:
        yield payload

    class Callable_:
        async def __call__(self, payload: object, path: str, client: object) -> None:
            """Never awaited."""

    for handler in (coroutine, generator, functools.partial(coroutine), decorated(coroutine), Callable_()):
        with pytest.raises(ConfigurationError, match="is async; handlers are ordinary functions"):
            make("/", handler)


def test_generators_are_handlers() -> None:
    """A generator function is a stream."""

    def stream(payload: object, path: str, client: object) -> Iterator[object]:
        yield payload

    assert stream is make("/", stream).handler


def test_a_callable_without_signature_is_taken_at_its_word() -> None:
    """Some callables written in C do not tell what they take."""
    assert dict.update is make("/", dict.update).handler


def test_the_place_is_that_of_the_users_own_function() -> None:
    """Partials, bindings and decorators are looked through; C code is named by its module."""
    assert line_of(plain) == place_of(plain)
    assert line_of(plain) == place_of(decorated(plain))
    assert line_of(with_id) == place_of(functools.partial(decorated(with_id), id=1))
    assert line_of(Service.handle) == place_of(Service().handle)
    assert line_of(Service.__call__) == place_of(Service())
    assert line_of(Service.of_class) == place_of(Service.of_class)  # type: ignore[arg-type]
    assert "builtins" == place_of(print)
    assert __name__ == place_of(Countdown)


def test_a_route_tells_pattern_and_place_and_is_a_key() -> None:
    """Routes are compared by identity: the layer above keeps its own things by route."""
    one, two = make("/a/<x>/<int:y>", greedy), make("/a/<x>/<int:y>", greedy)

    assert f"'/a/<x>/<int:y>' ({line_of(greedy)})" == str(one)
    assert f"<Route /a/<x>/<int:y> {line_of(greedy)}>" == repr(one)
    assert ("x", "y") == one.names
    assert 2 == len({one, two})
