"""What can be said of a route at registration, and what it means once serving begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from webmesh.authorisation import requirement
from webmesh.exceptions import ConfigurationError

if TYPE_CHECKING:
    from webmesh.call import Call

CANCEL_MODES = ("raise", "flag", "never")


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteOptions:
    """Options of `on` and `mount`."""

    blocking: bool | None = None
    """True runs the handler in a native thread, False in a greenlet. `None`: in a thread exactly when the
    process is not monkey-patched, since blocking code would hold the hub. In a patched process True is for
    code in C that takes no locks, logs nothing and opens no sockets: gevent's locks do not work across
    threads."""

    timeout: float | None = None
    """Seconds that the handler may take, within the request's own deadline. A greenlet is interrupted at its
    next switch; a thread cannot be: its caller is answered and its result dropped. `None` takes
    `Timeouts.request` where the request names no time."""

    max_in_flight: int | None = None
    """Calls of this route that may run at once in this process; the next one gets `resource_exhausted`."""

    order: str = "none"
    """`none`: calls run as they come. `peer`: one after another for each connection. `key:<argument>`: one
    after another for each value of that path argument, or of that key of a map payload."""

    cancel: str = "raise"
    """When the caller gives up: `raise` `Cancelled` in the handler at its next switch; `flag`: only
    `current_call().deadline.cancelled` turns true; `never`: nothing, the handler runs to its end."""

    idempotent: bool = False
    """Running it twice does no harm, so callers may try again. Told to clients by `$routes`."""

    requires: str | Sequence[str] | Callable[[Call], bool] | None = None
    """Roles, any of which suffices, or a function that is given the call and returns True for yes; checked for each
    call, before all middleware. An empty list asks for nothing. `None` takes the server's own `requires`."""

    isolate: bool = False
    """Runs each call in a greenlet of its own, so that greenlet-locals of legacy code end with it."""

    def __post_init__(self) -> None:
        requirement(self.requires)
        self._check_types()
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigurationError(f"timeout must be above 0 seconds, not {self.timeout!r}")
        if self.max_in_flight is not None and self.max_in_flight < 1:
            raise ConfigurationError(f"max_in_flight must be at least 1, not {self.max_in_flight!r}")
        if self.cancel not in CANCEL_MODES:
            raise ConfigurationError(f"cancel must be one of {', '.join(CANCEL_MODES)}, not {self.cancel!r}")
        key = self.order.removeprefix("key:") if self.order.startswith("key:") else None
        if self.order not in ("none", "peer") and not (key and key.isidentifier()):
            raise ConfigurationError(f"order must be none, peer or key:<argument>, not {self.order!r}")
        if self.isolate and self.blocking:
            raise ConfigurationError("isolate gives a handler its own greenlet; a blocking one has a thread")

    def _check_types(self) -> None:
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            # bool is an int to Python, but True is no number of seconds.
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise ConfigurationError(f"{name} must be {_words(kinds)}, not {value!r}")

    @property
    def order_key(self) -> str | None:
        """The argument that `order` names, if it names one."""
        return self.order[4:] if self.order.startswith("key:") else None


_NONE = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "blocking": (bool, _NONE),
    "timeout": (int, float, _NONE),
    "max_in_flight": (int, _NONE),
    "order": (str,),
    "cancel": (str,),
    "idempotent": (bool,),
    "isolate": (bool,),
}


def _words(kinds: tuple[type, ...]) -> str:
    return " or ".join("None" if kind is _NONE else kind.__name__ for kind in kinds)


_NAMES = tuple(field.name for field in fields(RouteOptions))


def read_options(options: Mapping[str, Any]) -> RouteOptions:
    """Options as they were given to `on`.

    Raises:
        ConfigurationError: One is unknown or makes no sense; the text says which and what is allowed.
    """
    unknown = sorted(set(options) - set(_NAMES))
    if unknown:
        raise ConfigurationError(f"unknown route option {unknown[0]!r}: known are {', '.join(_NAMES)}")
    return RouteOptions(**options)
