"""From a payload to the arguments of an ordinary function, checked before the call.

This file alone decides which payload becomes which argument: a map is keyword arguments, a list positional ones, null
none, anything else the one positional argument. Pure: functions are looked at, never called. Which functions peers may
call at all is `mounting`'s business.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter

from webmesh.exceptions import ConfigurationError, InvalidArgument
from webmesh.path_patterns import HANDLER_PARAMETERS

MOST_ARGUMENTS = 255
"""Arguments of one call to a function with `*args` or `**kwargs`; others take what they name. Rows of data belong into
one argument that is a list. Beyond it: `invalid_argument`."""

_QUOTED = 60  # characters of a peer's own text that an error repeats

_BY_KEYWORD = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)

# What a message can carry of each annotation. Others (dates, decimals, classes) are the function's own business.
_CARRIED: Mapping[object, tuple[type, ...]] = {
    str: (str,),
    bool: (bool,),
    int: (int,),
    float: (float, int),  # PEP 484: an int is good where a float is expected
    bytes: (bytes,),
    list: (list, tuple),
    dict: (dict,),
    None: (type(None),),
    type(None): (type(None),),
}

Arguments = tuple[Sequence[object], Mapping[str, object]]
"""What goes into a call as `function(*positional, **named)`."""


class FunctionParameters:
    """What a function takes, read once so that binding a payload is quick.

    Args:
        function: Any callable that tells its signature; a bound method's `self` does not count.

    Raises:
        ConfigurationError: It does not tell.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self.name = str(getattr(function, "__name__", type(function).__name__))
        parameters = _signature(function).parameters.values()
        self._kinds = {parameter.name: parameter.kind for parameter in parameters if not _is_variable(parameter)}
        self._positional = tuple(name for name, kind in self._kinds.items() if kind in _BY_POSITION)
        self._keywords = frozenset(name for name, kind in self._kinds.items() if kind in _BY_KEYWORD)
        self._required = frozenset(
            parameter.name
            for parameter in parameters
            if parameter.default is Parameter.empty and not _is_variable(parameter)
        )
        self._any_positional = any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in parameters)
        self._any_keyword = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)
        self._types = {
            parameter.name: carried
            for parameter in parameters
            if (carried := _carried(parameter)) is not None and not _is_variable(parameter)
        }
        # `**kwargs` does not take the name under which a bound method has its object; nor should it, to avoid
        # misunderstandings, that of a parameter which goes by position only.
        self._taken = _bound_name(function) | (self._kinds.keys() - self._keywords)

    def bind(self, payload: object, path_arguments: Mapping[str, object]) -> Arguments:
        """The arguments for one call, such that the call itself cannot fail over them.

        Args:
            path_arguments: Given by name; a list in the payload fills the other parameters in their order.

        Raises:
            InvalidArgument: Something is missing, unknown, given twice, too many, or of another type than the
                function's annotation names (`str`, `bool`, `int`, `float`, `bytes`, `list`, `dict`, `None`, unions of
                them). An `int` is good for `float`, and as in Python a `bool` for `int`.
        """
        if isinstance(payload, dict):
            return self._bind_named(payload, path_arguments)
        if payload is None:
            return self._bind_named({}, path_arguments)
        return self._bind_positional(payload if isinstance(payload, (list, tuple)) else (payload,), path_arguments)

    def handler_signature(self) -> inspect.Signature:
        """That of a handler for the function: what it takes by name, it may get from the path."""
        fixed = [Parameter(name, Parameter.POSITIONAL_ONLY) for name in HANDLER_PARAMETERS]
        by_path = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None)
            for name in sorted(self._keywords)
            if name not in HANDLER_PARAMETERS
        ]
        more = [Parameter("path_arguments", Parameter.VAR_KEYWORD)] if self._any_keyword else []
        return inspect.Signature(fixed + by_path + more)

    def _bind_named(self, payload: Mapping[str, object], path_arguments: Mapping[str, object]) -> Arguments:
        named = payload
        if path_arguments:
            named = {**payload, **path_arguments}
            if len(named) != len(payload) + len(path_arguments):
                raise self._refuse(f"{min(payload.keys() & path_arguments.keys())!r} is given by the path already")
        if not named.keys() <= self._keywords:
            self._check_unknown(named)
        self._check(named)
        return (), named

    def _bind_positional(self, payload: Sequence[object], path_arguments: Mapping[str, object]) -> Arguments:
        places = self._positional
        if path_arguments:
            places = tuple(name for name in places if name not in path_arguments)
        most = MOST_ARGUMENTS if self._any_positional else len(places)
        if len(payload) > most:
            raise self._refuse(f"takes at most {most} arguments by position, not {len(payload)}")
        named = {**dict(zip(places, payload)), **path_arguments}
        self._check(named)
        if not path_arguments:
            return payload, {}
        beyond = payload[len(places) :]
        in_front = [
            named.pop(name)
            for name, kind in self._kinds.items()
            if name in named and kind in _BY_POSITION and (beyond or kind is Parameter.POSITIONAL_ONLY)
        ]
        return [*in_front, *beyond], named

    def _check_unknown(self, named: Mapping[str, object]) -> None:
        if self._any_keyword and len(named) > MOST_ARGUMENTS:
            raise self._refuse(f"takes at most {MOST_ARGUMENTS} arguments by name, not {len(named)}")
        for name in named:
            if name in self._keywords or (self._any_keyword and isinstance(name, str) and name not in self._taken):
                continue
            if name in self._kinds:
                raise self._refuse(f"takes {name!r} by position only: send a list")
            known = ", ".join(name for name in self._kinds if name in self._keywords)
            raise self._refuse(f"takes no argument {_quote(name)}; it takes {known or 'none'}")

    def _check(self, named: Mapping[str, object]) -> None:
        """Nothing is missing and types fit; *named* holds all that is given, by position too."""
        if not named.keys() >= self._required:
            missing = next(name for name in self._kinds if name in self._required and name not in named)
            raise self._refuse(f"is missing argument {missing!r}")
        for name, carried in self._types.items():
            if name in named and not isinstance(named[name], carried):
                wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in carried)
                raise self._refuse(f"wants {wanted} for {name!r}, not {type(named[name]).__name__}")

    def _refuse(self, why: str) -> InvalidArgument:
        return InvalidArgument(f"{self.name}() {why}")


def _signature(function: Callable[..., object]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, SyntaxError, TypeError, ValueError):
        pass  # annotations that cannot be evaluated here, as imports for type checkers only, or none at all
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{function!r} does not tell which arguments it takes") from error


def _is_variable(parameter: Parameter) -> bool:
    return parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def _bound_name(function: Callable[..., object]) -> frozenset[str]:
    if not isinstance(function, types.MethodType):
        return frozenset()
    first = next(iter(inspect.signature(function.__func__).parameters.values()))
    return frozenset((first.name,)) if first.kind is Parameter.POSITIONAL_OR_KEYWORD else frozenset()


def _carried(parameter: Parameter) -> tuple[type, ...] | None:
    carried = _carried_by(parameter.annotation)
    if carried is None:
        return None
    # Much code writes `limit: int = None`.
    return carried + (type(None),) if parameter.default is None and type(None) not in carried else carried


def _carried_by(annotation: object) -> tuple[type, ...] | None:
    """Types that a message can carry for *annotation*; `None` where nothing can be said."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _carried_by(typing.get_args(annotation)[0])
    if origin is typing.Union or origin is types.UnionType:
        members = [_carried_by(member) for member in typing.get_args(annotation)]
        known = [kind for member in members if member is not None for kind in member]
        return tuple(dict.fromkeys(known)) if None not in members else None
    try:
        return _CARRIED.get(origin or annotation)
    except TypeError:  # an annotation may be any object, also one that cannot be looked up
        return None


def _quote(name: object) -> str:
    text = ascii(name)
    return text if len(text) <= _QUOTED else text[:_QUOTED] + "…"
