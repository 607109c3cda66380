"""Mounting: what of an unmodified object or module peers can reach, and what they cannot."""

from __future__ import annotations

import functools
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.exceptions import ConfigurationError, InvalidArgument
from webmesh.mounting import as_handler, exposed
from webmesh.routing import Router

CLIENT = object()


class Ledger:
    """A base that the same people wrote."""

    def audit(self) -> str:
        return "audited"

    def balance(self) -> int:
        return -1

    def _secret(self) -> str:
        return "secret"


class Account(Ledger):
    """What legacy code looks like."""

    rate = 0.5
    Currency = str
    runs: list[str] = []

    def __init__(self, owner: str = "ann") -> None:
        self.owner = owner
        self.callback = lambda: "attribute"

    def balance(self) -> int:
        return 100

    def move(self, amount: int, to: str = "bank") -> tuple[str, int, str]:
        return self.owner, amount, to

    def history(self, limit: int = 2) -> Iterator[int]:
        yield from range(limit)

    @staticmethod
    def parse(text: str) -> int:
        return int(text)

    @classmethod
    def named(cls, owner: str) -> str:
        return f"{cls.__name__} {owner}"

    @functools.lru_cache
    def cached(self, x: int) -> int:
        return x * 2

    @property
    def worth(self) -> int:
        self.runs.append("worth")
        raise AssertionError("a property ran")

    @functools.cached_property
    def later(self) -> int:
        self.runs.append("later")
        raise AssertionError("a property ran")

    def _private(self) -> str:
        return "private"

    def __mangled(self) -> str:
        return "mangled"

    async def soon(self) -> str:
        return "never"

    def __len__(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        self.runs.append(name)
        raise AssertionError(f"__getattr__ ran for {name}")


OWN = ["balance", "move", "history", "parse", "named", "cached"]


def names(target: object, **options: bool) -> list[str]:
    return list(exposed(target, **options))


def module_of(source: str, name: str = "legacy") -> types.ModuleType:
    module = types.ModuleType(name)
    exec(source, vars(module))
    return module


@pytest.mark.row(47)
def test_the_public_methods_of_the_class_itself_are_exposed() -> None:
    """Static and class methods and generators count; private, dunder, inherited, async and attributes do not."""
    Account.runs.clear()

    assert OWN == names(Account())
    assert [] == Account.runs, "looking at the object ran its code"


def test_exposed_methods_are_bound_to_the_object() -> None:
    """They are called as `account.move(...)` would be."""
    methods = exposed(Account("bob"))

    assert ("bob", 5, "bank") == methods["move"](5)
    assert 12 == methods["parse"]("12")
    assert "Account eve" == methods["named"]("eve")
    assert 8 == methods["cached"](4)
    assert [0, 1] == list(methods["history"]())  # type: ignore[call-overload]


def test_inherited_methods_of_own_bases_count_when_asked_for() -> None:
    """The subclass's version of a method is the one that runs."""
    methods = exposed(Account(), inherited=True)

    assert sorted([*OWN, "audit"]) == sorted(methods)
    assert 100 == methods["balance"]()
    assert "audited" == methods["audit"]()


@pytest.mark.row(47)
def test_bases_from_elsewhere_never_count() -> None:
    """A thread that is mounted cannot be started, nor a dict emptied, by a peer."""

    class Worker(threading.Thread):
        def status(self) -> str:
            return "idle"

    class Store(dict[str, int]):
        def total(self) -> int:
            return sum(self.values())

    class Model:
        def delete(self) -> str:
            return "gone"

    class Order(Model):
        def price(self) -> int:
            return 3

    for inherited in (False, True):
        assert ["status"] == names(Worker(), inherited=inherited)
        assert ["total"] == names(Store(), inherited=inherited)
    assert ["price", "delete"] == names(Order(), inherited=True)
    framework = types.ModuleType("framework")
    framework.__file__ = "/usr/lib/python3/site-packages/framework/models.py"
    Model.__module__ = "framework"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "framework", framework)
        assert ["price"] == names(Order(), inherited=True)


def test_bases_in_other_modules_of_ones_own_count() -> None:
    """Flat scripts beside each other have no common package; what is installed is told by its folder."""
    base = module_of("class Base:\n    def shared(self): return 1", "own_base")
    base.__file__ = "/home/ann/project/own_base.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "own_base", base)
        part = type("Part", (vars(base)["Base"],), {"extra": lambda self: 2, "__module__": "own_part"})

        assert ["extra", "shared"] == names(part(), inherited=True)


@pytest.mark.row(47)
def test_what_hides_a_method_hides_it_from_peers() -> None:
    """An attribute of the object, a property, a constant or `None` in a subclass: the name is no method any more."""

    class Changed(Account):
        audit = None
        balance = 3

        @property
        def move(self) -> Any:
            raise AssertionError("a property ran")

        def kept(self) -> int:
            return 1

    changed = Changed()
    changed.kept = lambda: 2  # type: ignore[method-assign]

    assert ["cached", "history", "named", "parse"] == sorted(names(changed, inherited=True))


def test_a_foreign_base_in_between_decides_too() -> None:
    """Only the method that a call would really run is looked at."""

    class Middle(Account):
        def audit(self) -> str:
            return "foreign"

    Middle.__module__ = "threading"

    class Last(Middle):
        def own(self) -> int:
            return 1

    assert "audit" not in exposed(Last(), inherited=True)


def test_dataclasses_and_slots_are_objects_like_others() -> None:
    """Fields are attributes, whatever they hold; methods are methods."""

    @dataclass
    class Point:
        x: int = 1
        hook: Callable[[], int] = lambda: 3
        more: list[int] = field(default_factory=list)

        def norm(self) -> int:
            return self.x

    @dataclass(slots=True)
    class Slotted:
        x: int = 1

        def norm(self) -> int:
            return self.x

    assert ["norm"] == names(Point())
    assert ["norm"] == names(Slotted())
    assert 1 == exposed(Slotted())["norm"]()


def test_a_class_exposes_what_needs_no_object() -> None:
    """Static and class methods; the rest would lack their `self`."""
    assert ["parse", "named"] == names(Account)
    assert "Account x" == exposed(Account)["named"]("x")
    with pytest.raises(ConfigurationError, match=r"class Ledger \(was an instance of it meant\?\) has no public"):
        exposed(Ledger)


@pytest.mark.parametrize("target", [object(), 3, [1], None, types.ModuleType("empty"), Ledger._secret])
def test_nothing_to_expose_is_an_error(target: object) -> None:
    """A mount that can answer nothing is a mistake."""
    with pytest.raises(ConfigurationError, match="has no public function of its own"):
        exposed(target)


def test_methods_written_in_c_count_where_they_can_be_checked() -> None:
    """`re.Pattern` tells what its methods take."""
    methods = exposed(re.compile("[a-z]"))

    assert {"findall", "sub"} <= set(methods)
    assert ["a", "b"] == methods["findall"]("a1b")


@pytest.mark.row(48)
def test_methods_that_do_not_tell_what_they_take_are_left_out() -> None:
    """What cannot be checked before the call is not called with strangers' arguments."""

    class Odd:
        def told(self, x: int) -> int:
            return x

        def untold(self, x: int) -> int:
            return x

    Odd.untold.__signature__ = "x"  # type: ignore[attr-defined]

    assert ["told"] == names(Odd())


MODULE = """
import functools
from math import sqrt
from os.path import join

def find(code, limit=1): return code, limit
def rows(count):
    for number in range(count): yield number
def _hidden(): return 1
async def soon(): return 1
class Thing: pass
@functools.lru_cache
def cached(x): return x
constant = 3
partial = functools.partial(find, 1)
"""


@pytest.mark.row(47)
def test_a_module_exposes_the_functions_that_it_defines() -> None:
    """What it imported, its classes, constants and private functions are not its functions."""
    assert ["find", "rows", "cached"] == names(module_of(MODULE))


@pytest.mark.row(47)
def test_all_names_exactly_what_a_module_exposes() -> None:
    """Imported functions and other callables if it says so; never what is private, a class or missing."""
    listed = "__all__ = ['sqrt', 'partial', 'rows', '_hidden', 'Thing', 'constant', 'soon', 'missing', '__name__', 3]"

    assert ["sqrt", "partial", "rows"] == names(module_of(MODULE + listed))


def test_looking_at_a_module_does_not_run_its_getattr() -> None:
    """PEP 562's `__getattr__` may import the world."""
    module = module_of("def __getattr__(name): raise AssertionError(name)\ndef f(): return 1\n__all__ = ['f', 'g']")

    assert ["f"] == names(module)


@pytest.mark.row(47)
def test_an_unreadable_object_is_still_only_looked_at() -> None:
    """A hostile `__getattribute__` is not asked."""

    class Guarded:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(name)

        def f(self) -> int:
            return 1

    assert 1 == exposed(Guarded())["f"]()


def test_a_handler_binds_the_payload_and_passes_the_result_through() -> None:
    """Whatever the function returns or raises."""
    move = as_handler(exposed(Account("bob"))["move"])

    assert ("bob", 5, "bank") == move({"amount": 5}, "/accounts/move", CLIENT)
    assert ("bob", 5, "eve") == move([5, "eve"], "/accounts/move", CLIENT)
    assert ("bob", 5, "bank") == move(5, "/accounts/move", CLIENT)
    with pytest.raises(InvalidArgument, match="is missing argument 'amount'"):
        move(None, "/accounts/move", CLIENT)
    with pytest.raises(ValueError, match="invalid literal"):
        as_handler(int_of)("x", "/", CLIENT)


def int_of(text: str) -> int:
    return int(text)


def test_generators_stay_generators() -> None:
    """The layer above makes a stream of one."""
    stream = as_handler(exposed(Account())["history"])(3, "/", CLIENT)

    assert isinstance(stream, types.GeneratorType)
    assert [0, 1, 2] == list(stream)


def test_a_handler_is_registered_like_any_other_and_named_after_the_function() -> None:
    """Errors and listings show where the user's own function is."""
    router = Router()
    for name, function in exposed(Account()).items():
        router.add(f"/accounts/{name}", as_handler(function), blocking=True)

    assert [f"/accounts/{name}" for name in sorted(OWN)] == [route.pattern for route in router.routes()]
    move = router.match("/accounts/move")[0]  # type: ignore[index]
    assert f"test_mounting.py:{Account.move.__code__.co_firstlineno}" == move.where
    assert "move" == getattr(move.handler, "__name__")


@pytest.mark.row(47)
@pytest.mark.parametrize(
    "name",
    [
        "_private", "__len__", "__init__", "_Account__mangled", "audit", "_secret", "worth", "later", "rate", "owner",
        "callback", "Currency", "soon", "Move", "MOVE", "mоve", "ｍove", "move ", "mo\u200bve", "move/", "move.__func__",
        "",
    ],
)  # fmt: skip
def test_no_other_name_reaches_a_handler(name: str) -> None:
    """Private, dunder, inherited, attributes, other cases, look-alikes of other scripts and widths."""
    router = Router()
    for public, function in exposed(Account()).items():
        router.add(f"/accounts/{public}", as_handler(function))

    assert router.match(f"/accounts/{name}") is None


def test_a_prefix_with_parameters_is_checked_at_registration() -> None:
    """Functions get path arguments by name; one that takes no such name is told with its place."""
    router = Router()
    router.add("/<int:amount>/move", as_handler(exposed(Account("bob"))["move"]))
    route, path_arguments = router.match("/7/move")  # type: ignore[misc]

    assert ("bob", 7, "eve") == route.handler("eve", "/7/move", CLIENT, **path_arguments)
    with pytest.raises(ConfigurationError, match="unexpected keyword argument 'tenant'"):
        router.add("/<tenant>/move", as_handler(exposed(Account())["move"]))


@pytest.mark.row(48)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    )
)
def test_a_function_is_entered_only_with_what_it_takes(payload: object) -> None:
    """Any payload whatsoever: either the function runs with an int and a text, or it is not entered."""
    entered = []

    def move(amount: int, to: str = "bank") -> str:
        entered.append((amount, to))
        return "done"

    try:
        assert "done" == as_handler(move)(payload, "/move", CLIENT)
    except InvalidArgument as refused:
        assert [] == entered
        assert refused.message.startswith("move() ")
    else:
        [(amount, to)] = entered
        assert isinstance(amount, int) and isinstance(to, str)
