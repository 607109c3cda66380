"""Which object of the user's program is served: finds the module, imports it, picks the server.

Knows the rules of `module:attribute`, the names that are tried without it, and how to tell a module that
is not there from one whose own code fails. Configuring and running the server is `serving`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, TypeGuard

from webmesh.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from webmesh.message_serializers import AbstractMessageSerializer
    from webmesh.webmesh_server import WebMeshServer

CANDIDATES = ("app", "service", "main")
"""Modules that are tried, in this order, when the command line names none."""

ATTRIBUTE = "server"
"""Name that is tried first when the command line names no attribute."""

EXAMPLE = Path(__file__).parents[2] / "examples" / "airports" / "service.py"
"""Served when there is nothing else: in a clone of the project it is there, in an installed package not."""


class LoadFailed(ConfigurationError):
    """The user's module was found, but its own code raised; `__cause__` is what it raised."""

    def user_traceback(self) -> str:
        """The traceback from the user's first line on, without the lines that led there; empty without any."""
        error = self.__cause__
        if error is None or isinstance(error, SystemExit):
            return ""
        frames = error.__traceback__
        while frames is not None and _is_machinery(frames):
            frames = frames.tb_next
        return "".join(traceback.format_exception(type(error), error, frames))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A server and where it came from.

    Attributes:
        name: `module:attribute`, for people.
        notice: What they should know about the choice; empty when they made it themselves.
    """

    server: WebMeshServer
    name: str
    notice: str = ""


def load_server(target: str | None, folder: Path) -> Loaded:
    """The server that *target* (`module` or `module:attribute`) names, imported with *folder* first in the path.

    Without a target: the first of `CANDIDATES` in *folder* that holds a server; if there is no such file, the
    example; in an installed package, which has no example, an echo.

    Raises:
        ConfigurationError: There is no such module or attribute, it is no server, or more than one may be meant.
        LoadFailed: The user's code raised while it was imported or asked for its server.
    """
    if target is not None:
        module_name, attribute = parse_target(target)
        return _pick(_import(module_name, folder), attribute)
    candidates = [name for name in CANDIDATES if (folder / f"{name}.py").is_file()]
    if not candidates:
        return _load_default(folder)
    for name in candidates:
        module = _import(name, folder)
        if _servers(module) or inspect.isfunction(vars(module).get(ATTRIBUTE)):
            return _pick(module, None)
    files = " and ".join(f"{name}.py" for name in candidates)
    raise ConfigurationError(f"no WebMeshServer in {files} of {folder}: name it, as module:attribute")


def load_serializer(text: str, folder: Path) -> type[AbstractMessageSerializer]:
    """The serializer class that *text* names: `msgpack`, `json` or `module:Class`.

    Raises:
        ConfigurationError: It names none.
        LoadFailed: The user's module raised while it was imported.
    """
    from webmesh.message_serializers import AbstractMessageSerializer, MessagePackSerializer, StandardJsonSerializer

    known = {cls.name: cls for cls in (MessagePackSerializer, StandardJsonSerializer)}
    if text in known:
        return known[text]
    if ":" not in text:
        raise ConfigurationError(f"no serializer {text!r}: there are {_listed(known)}, and your own as module:Class")
    module_name, attribute = parse_target(text)
    assert attribute is not None
    value = _attribute(_import(module_name, folder), attribute)
    if not (inspect.isclass(value) and issubclass(value, AbstractMessageSerializer)) or inspect.isabstract(value):
        raise ConfigurationError(f"{text} is no class that implements AbstractMessageSerializer")
    return value


def parse_target(target: str) -> tuple[str, str | None]:
    """Split `module:attribute`; the attribute is None when it is not given, and may have dots."""
    module_name, colon, attribute = target.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        meant = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigurationError(f"{target!r} is a file, not a module: did you mean {meant + colon + attribute!r}?")
    names = [*module_name.split("."), *(attribute.split(".") if colon else [])]
    if not all(name.isidentifier() for name in names):
        raise ConfigurationError(f"{target!r} is not of the form module or module:attribute")
    return module_name, attribute if colon else None


def _import(name: str, folder: Path) -> ModuleType:
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(_not_found(name, error.name, folder)) from None
        raise LoadFailed(f"cannot import {name!r}: {error}") from error
    except SystemExit as error:
        raise LoadFailed(f"{name!r} ended the program with {error.code!r} while it was imported") from error
    except Exception as error:  # the edge of user code: a module may raise anything, and its author wants to see it
        raise LoadFailed(f"cannot import {name!r}: {type(error).__name__}: {error}") from error


def _not_found(name: str, missing: str, folder: Path) -> str:
    parent, _, last = missing.rpartition(".")
    place = folder.joinpath(*parent.split(".")) if parent else folder
    near = get_close_matches(last, sorted({path.stem for path in place.glob("*.py")} - {"__init__"}))
    text = f"no module {missing!r} in {folder} or on Python's path"
    if near:
        text += f": did you mean {name.replace(missing, f'{parent}.{near[0]}' if parent else near[0], 1)!r}?"
    return text


def _pick(module: ModuleType, attribute: str | None) -> Loaded:
    """The server of *module*: by name, or the one called `server`, or the only one."""
    if attribute is not None:
        return _checked(module, attribute, _attribute(module, attribute))
    servers = _servers(module)
    default = vars(module).get(ATTRIBUTE)
    if ATTRIBUTE in servers or inspect.isfunction(default):
        return _checked(module, ATTRIBUTE, default)
    if len({id(server) for server in servers.values()}) > 1:
        raise ConfigurationError(
            f"module {module.__name__!r} has several servers, {_listed(servers)}, and none is called {ATTRIBUTE!r}: "
            f"name one, as {module.__name__}:{min(servers)}"
        )
    if not servers:
        raise ConfigurationError(
            f"no WebMeshServer in module {module.__name__!r}: name a server or a function that makes one, "
            f"as {module.__name__}:attribute"
        )
    name, server = next(iter(servers.items()))
    return Loaded(server, f"{module.__name__}:{name}")


def _attribute(module: ModuleType, path: str) -> object:
    value: object = module
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            near = get_close_matches(name, [known for known in dir(value) if not known.startswith("__")])
            hint = f": did you mean {_listed(near, ' or ')}?" if near else ""
            raise ConfigurationError(f"module {module.__name__!r} has no attribute {path!r}{hint}") from None
    return value


def _checked(module: ModuleType, attribute: str, value: object) -> Loaded:
    """*value* if it is a server, or what it makes if it is a function that makes one."""
    name = f"{module.__name__}:{attribute}"
    if not _is_server(value) and callable(value):
        name, value = f"{name}()", _call_factory(name, value)
    if not _is_server(value):
        raise ConfigurationError(f"{name} is no WebMeshServer but {_article(type(value).__name__)}")
    return Loaded(value, name)


def _call_factory(name: str, factory: Callable[[], object]) -> object:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise ConfigurationError(f"{name} cannot be called without arguments: {error}") from None
    except ValueError:
        pass  # written in C without a signature: calling it will tell
    try:
        return factory()
    except Exception as error:  # the edge of user code, as in _import
        raise LoadFailed(f"{name}() failed: {type(error).__name__}: {error}") from error


def _servers(module: ModuleType) -> dict[str, WebMeshServer]:
    """Public name → server, of every server that the module's namespace holds."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and _is_server(value)
    }


def _is_server(value: object) -> TypeGuard[WebMeshServer]:
    # Only here, after the user's module: if that patches by itself, it still comes before ssl.
    from webmesh.webmesh_server import WebMeshServer

    return isinstance(value, WebMeshServer)


def _load_default(folder: Path) -> Loaded:
    files = ", ".join(f"{name}.py" for name in CANDIDATES)
    nothing = f"no module was named and {folder} has none of {files}"
    if EXAMPLE.is_file():
        try:
            loaded = _pick(_import(EXAMPLE.stem, EXAMPLE.parent), None)
        except LoadFailed as failed:
            missing = failed.__cause__
            if not isinstance(missing, ModuleNotFoundError):
                raise
            return Loaded(_echo_server(), "echo", f"{nothing}: serving an echo (the example needs {missing.name})")
        return Loaded(loaded.server, loaded.name, f"{nothing}: serving the example {EXAMPLE}")
    return Loaded(_echo_server(), "echo", f"{nothing}: serving an echo")


def _echo_server() -> WebMeshServer:
    from webmesh.webmesh_server import WebMeshServer

    server = WebMeshServer()

    @server.on("/")
    def echo(payload: object, path: str, client: object) -> object:
        return payload

    return server


def _is_machinery(frames: TracebackType) -> bool:
    filename = frames.tb_frame.f_code.co_filename
    return filename == __file__ or filename.startswith("<frozen importlib") or filename == importlib.__file__


def _listed(names: Iterable[str], separator: str = ", ") -> str:
    return separator.join(repr(name) for name in sorted(names))


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"
