"""Which functions of an unmodified object or module peers may call.

This file alone decides that; it reads classes and modules without running any of their code (no property, no
`__getattr__`). Pure. How a payload becomes arguments is in `arguments`; the paths are the server's business.

Only names that a reader of the source would call public are exposed, and only where they are defined:

- of a module: the callables in `__all__`, or without one the functions that the module itself defines;
- of an object: the methods that its class itself defines, class and static methods included;
- with `inherited`, also those of the bases that the same people wrote;
- of a class: its class and static methods.

Never: names with a leading underscore, `__all__` or not; properties and attributes, whatever they hold; classes;
async functions.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import cast

from webmesh.arguments import FunctionParameters
from webmesh.exceptions import ConfigurationError

Exposed = dict[str, Callable[..., object]]
"""Public name → what a call of it runs, bound to its object."""

_CACHED = type(functools.lru_cache(lambda: None))
_METHODS = (types.FunctionType, types.MethodDescriptorType, _CACHED)
_INSTALLED = frozenset(("site-packages", "dist-packages"))


def exposed(target: object, *, inherited: bool = False) -> Exposed:
    """The public functions of a module or the public methods of an object, in the order of their definition.

    Args:
        inherited: Whether methods of base classes count. Only of bases that were written with the class: of its own
            top-level package, or at least neither built in, of the standard library, nor installed from elsewhere. So a
            subclass of `threading.Thread` or of a framework's model does not hand out what those can do.

    Raises:
        ConfigurationError: There is nothing to expose.
    """
    module = _as_module(target)
    if module is not None:
        functions = _functions_of(module)
    else:
        functions = {name: method for name, method in _methods_of(target, inherited) if not _is_async(method)}
    if not functions:
        raise ConfigurationError(f"{_title(target)} has no public function of its own that could be mounted")
    return functions


def as_handler(function: Callable[..., object]) -> Callable[..., object]:
    """A handler `(payload, path, client, **path_arguments)` that calls an ordinary function.

    The result comes back as it is, a generator too. Path arguments go to the parameters of their names.

    Raises:
        ConfigurationError: The function does not tell what it takes.
    """
    parameters = FunctionParameters(function)
    bind = parameters.bind

    def handler(payload: object, path: str, client: object, /, **path_arguments: object) -> object:
        positional, named = bind(payload, path_arguments)
        return function(*positional, **named)

    functools.update_wrapper(handler, function)
    # The place in errors comes from what is wrapped; what the handler itself takes must not.
    handler.__signature__ = parameters.handler_signature()  # type: ignore[attr-defined]
    return handler


def _as_module(target: object) -> types.ModuleType | None:
    # `isinstance(target, …)` would ask the object for its `__class__`, which may be code.
    return cast(types.ModuleType, target) if issubclass(type(target), types.ModuleType) else None


def _functions_of(module: types.ModuleType) -> Exposed:
    names = vars(module).get("__all__")
    found: Exposed = {}
    for name in names if names is not None else vars(module):
        function = vars(module).get(name)
        if not callable(function) or inspect.isclass(function) or not _is_public(name) or _is_async(function):
            continue
        if names is not None or (
            inspect.isroutine(function) and getattr(function, "__module__", None) == module.__name__
        ):
            found[name] = function
    return found


def _methods_of(target: object, inherited: bool) -> Iterator[tuple[str, Callable[..., object]]]:
    of_class = issubclass(type(target), type)
    kind = cast(type, target) if of_class else type(target)
    if kind.__module__ == "builtins":
        return  # numbers, lists and the like are data, and functions are no objects with methods
    attributes = {} if of_class else _attributes_of(target)
    for name, (owner, member) in _members_of(kind).items():
        counts = owner is kind or (inherited and _written_with(owner, kind))
        if not counts or not _is_public(name) or name in attributes:
            continue
        if isinstance(member, staticmethod) and callable(member.__func__):
            yield name, member.__func__
        elif isinstance(member, classmethod) and callable(member.__func__):
            yield name, types.MethodType(member.__func__, kind)
        elif isinstance(member, _METHODS) and not of_class and _can_be_read(member):
            yield name, types.MethodType(member, target)


def _members_of(kind: type) -> Mapping[str, tuple[type, object]]:
    """Each name that an object of the class has through it, with the class whose body gives it."""
    members: dict[str, tuple[type, object]] = {}
    for owner in kind.__mro__:
        for name, member in vars(owner).items():
            members.setdefault(name, (owner, member))
    return members


def _written_with(base: type, kind: type) -> bool:
    top = base.__module__.partition(".")[0]
    if top == kind.__module__.partition(".")[0]:
        return True
    if top in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(base.__module__), "__file__", None)
    return file is None or _INSTALLED.isdisjoint(PurePath(file).parts)


def _attributes_of(target: object) -> Mapping[str, object]:
    """The object's own attributes, which hide methods; read without its `__getattribute__`."""
    try:
        attributes = object.__getattribute__(target, "__dict__")
    except AttributeError:
        return {}
    return attributes if isinstance(attributes, dict) else {}


def _is_public(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier() and not name.startswith("_")


def _is_async(function: object) -> bool:
    inner = inspect.unwrap(function) if callable(function) else function
    inner = getattr(inner, "__func__", inner)
    return inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)


def _can_be_read(function: Callable[..., object]) -> bool:
    """Whether the arguments can be checked: some methods written in C do not tell what they take."""
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        return False
    return True


def _title(target: object) -> str:
    module = _as_module(target)
    if module is not None:
        return f"module {module.__name__}"
    if issubclass(type(target), type):
        return f"class {cast(type, target).__qualname__} (was an instance of it meant?)"
    return f"a {type(target).__qualname__}"
