"""The structure of docs/ARCHITECTURE.md, held: layers, purity, cycles, sizes, the mirror of tests.

The package is read with `ast`; nothing of it is imported. A module that the table does not know fails,
so whoever adds one says where it stands.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
PAGE = ROOT / "docs" / "ARCHITECTURE.md"

LAYERS = {
    # 0 base: the standard library only
    "webmesh.exceptions": 0,
    "webmesh.options": 0,
    "webmesh.observer": 0,
    "webmesh.log_limit": 0,
    "webmesh.deadline": 0,
    "webmesh.version": 0,
    # 1 pure core: no gevent, socket, clock or random source
    "webmesh.message_serializers": 1,
    "webmesh.protocol": 1,
    "webmesh.message_queue": 1,
    "webmesh.client_wills": 1,
    "webmesh.topic_arrivals": 1,
    "webmesh.call": 1,
    "webmesh.call_counts": 1,
    "webmesh.messages": 1,
    "webmesh.worker_ticket": 1,
    "webmesh.retries": 1,
    "webmesh.call_policy": 1,
    "webmesh.hashing": 1,
    "webmesh.instances": 1,
    "webmesh.balancing": 1,
    "webmesh.outliers": 1,
    "webmesh.breaker": 1,
    "webmesh.hedging": 1,
    "webmesh.idempotency": 1,
    "webmesh.linear_regex": 1,
    "webmesh.converters": 1,
    "webmesh.path_patterns": 1,
    "webmesh.route": 1,
    "webmesh.route_tree": 1,
    "webmesh.routing": 1,
    "webmesh.failed_logins": 1,
    "webmesh.shares": 1,
    "webmesh._speedups": 1,
    # 2 transport: gevent, no user code
    "webmesh.processes": 2,
    "webmesh.websocket": 2,
    "webmesh.watchdog": 2,
    # 3 services: user code
    "webmesh.brokers": 3,
    "webmesh.url_openers": 3,
    "webmesh.discovery": 3,
    "webmesh.arguments": 3,
    "webmesh.mounting": 3,
    "webmesh.auth": 3,
    "webmesh.authorisation": 3,
    "webmesh.login": 3,
    "webmesh.tickets": 3,
    "webmesh.tokens": 3,
    "webmesh.route_options": 3,
    "webmesh.execution": 3,
    "webmesh.fault_injection": 3,
    "webmesh.lanes": 3,
    "webmesh.callbacks": 3,
    "webmesh.handled_call": 3,
    "webmesh.plan": 3,
    "webmesh.failures": 3,
    "webmesh.idempotency_store": 3,
    "webmesh.keyed_calls": 3,
    "webmesh.dispatch": 3,
    "webmesh.callbacks": 3,
    "webmesh.plain_routes": 3,
    "webmesh.topic_access": 3,
    "webmesh.topic_options": 3,
    "webmesh.subscribers": 3,
    "webmesh.deliverable": 3,
    "webmesh.kept_messages": 3,
    "webmesh.peer_subscriber": 3,
    "webmesh.losses": 3,
    "webmesh.acknowledged": 3,
    "webmesh.acknowledged_subscriber": 3,
    "webmesh.dead_letters": 3,
    "webmesh.group_members": 3,
    "webmesh.group_work": 3,
    "webmesh.local_subscriber": 3,
    "webmesh.fan_out": 3,
    "webmesh.catch_up": 3,
    "webmesh.pubsub": 3,
    "webmesh.node_topics": 3,
    "webmesh.topic_routes": 3,
    "webmesh.node_lease": 3,
    "webmesh.topic_presence": 3,
    "webmesh.presence_exchange": 3,
    "webmesh.node_presence": 3,
    "webmesh.will_records": 3,
    "webmesh.will_firing": 3,
    "webmesh.will_cancels": 3,
    "webmesh.will_watch": 3,
    "webmesh.node_wills": 3,
    "webmesh.server_session": 3,
    "webmesh.session_moves": 3,
    "webmesh.sessions": 3,
    "webmesh.rights": 3,
    "webmesh.system_routes": 3,
    "webmesh.node_status": 3,
    "webmesh.observability.event_counts": 3,
    "webmesh.endpoints": 3,
    "webmesh.observability.metrics": 3,
    "webmesh.status_page": 3,
    "webmesh.observability.exposition": 3,
    "webmesh.observability.worker_families": 3,
    "webmesh.observability.worker_status": 3,
    # 4 endpoints: composition
    "webmesh.oversight": 4,
    "webmesh.fellow_workers": 4,
    "webmesh.server_parts": 4,
    "webmesh.draining": 4,
    "webmesh.serving": 4,
    "webmesh.extension": 4,
    "webmesh.advertising": 4,
    "webmesh.node_links": 4,
    "webmesh.node_dialler": 4,
    "webmesh.node_diallers": 4,
    "webmesh.mesh_joins": 4,
    "webmesh.mesh_node": 4,
    "webmesh.node_meeting": 4,
    "webmesh.mesh_directory": 4,
    "webmesh.node_port": 4,
    # 5 mesh
    "webmesh.mesh": 5,
    "webmesh.worker": 5,
    "webmesh.route_host": 4,
    "webmesh.topic_host": 4,
    "webmesh.webmesh_server": 4,
    "webmesh.known_routes": 4,
    "webmesh.call_attempts": 4,
    "webmesh.arrivals": 4,
    "webmesh.gathering": 4,
    "webmesh.hedged_call": 4,
    "webmesh.service_directory": 4,
    "webmesh.service_request": 4,
    "webmesh.service_routes": 4,
    "webmesh.service_attempts": 4,
    "webmesh.service_calls": 4,
    "webmesh.link_states": 4,
    "webmesh.link_keeper": 4,
    "webmesh.subscription": 4,
    "webmesh.topic_feed": 4,
    "webmesh.topic_requests": 4,
    "webmesh.client_topics": 4,
    "webmesh.topic_client": 4,
    "webmesh.client_session": 4,
    "webmesh.client_link": 4,
    "webmesh.webmesh_client": 4,
    # 6 edges: nothing below imports them
    "webmesh": 6,
    "webmesh.__main__": 6,
    "webmesh.serve": 6,
    "webmesh.cli": 6,
    "webmesh.testing": 6,
    "webmesh.fault_proxy": 6,
    "webmesh.fault_pair": 6,
    "webmesh.pytest_plugin": 6,
    "webmesh.observability": 6,
}
"""Module, or package with all that is in it → layer. Imports go to the same layer or below."""

PARSERS = {"wsproto", "h11", "msgpack", "ujson"}
SERVICES = {"gevent", "prometheus_client", "jwt", "itsdangerous", "redis", "nats", "dns"}
EDGES = {"gevent", "pytest", "rich"}
THIRD_PARTY = {0: set(), 1: PARSERS, 2: PARSERS | {"gevent"}, 3: SERVICES, 4: {"gevent"}, 5: set(), 6: EDGES}
"""Layer → packages from outside the standard library that it may import."""

IMPURE = {
    "asyncio", "concurrent", "gevent", "greenlet", "logging", "multiprocessing", "queue", "random", "sched", "secrets",
    "select", "selectors", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time",
}  # fmt: skip
"""What the pure core may not import: clocks, random sources, the network, anything that waits."""

MODULE_LINES, FUNCTION_LINES, NESTING = 450, 50, 3
COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
FORBIDDEN_WORDS = ("manager", "helper", "util", "codec", "channel")


@dataclass
class Module:
    """One file of the package, parsed."""

    name: str
    path: Path
    tree: ast.Module
    own: set[str] = field(default_factory=set)
    """Modules of the package that it imports, those of `if TYPE_CHECKING` left out."""
    foreign: set[str] = field(default_factory=set)
    """Top-level names of everything else that it imports."""

    @property
    def lines(self) -> int:
        return len(self.path.read_text(encoding="utf-8").splitlines())


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, but for the bodies of `if TYPE_CHECKING`, which run nowhere."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for branch in child.orelse:
                yield from statements(branch)
            continue
        yield child
        yield from statements(child)


def read_package() -> dict[str, Module]:
    paths = sorted((ROOT / "webmesh").rglob("*.py"))
    modules = {
        module_name(path): Module(module_name(path), path, ast.parse(path.read_text(encoding="utf-8"), str(path)))
        for path in paths
    }
    for module in modules.values():
        for imported in imported_names(module, set(modules)):
            (module.own if imported.split(".")[0] == "webmesh" else module.foreign).add(imported)
    return modules


def imported_names(module: Module, known: set[str]) -> Iterator[str]:
    for node in statements(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name if alias.name in known else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}:{node.lineno}: relative import; write the whole name"
            origin = node.module or ""
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                if whole in known:
                    yield whole
                elif origin.split(".")[0] != "webmesh":
                    yield origin.split(".")[0]
                else:
                    yield origin


def layer_of(name: str) -> int | None:
    while name not in LAYERS and "." in name:
        name = name.rpartition(".")[0]
        if name == "webmesh":
            return None
    return LAYERS.get(name)


PACKAGE = read_package()
MODULES = list(PACKAGE.values())
each_module = pytest.mark.parametrize("module", MODULES, ids=[m.name for m in MODULES])


@each_module
def test_every_module_has_a_layer(module: Module) -> None:
    """A module stands in the table, by its own name or its package's."""
    assert layer_of(module.name) is not None


@each_module
def test_imports_go_downward_only(module: Module) -> None:
    """A module imports from its own layer or from below, never from above."""
    layer = layer_of(module.name)
    assert layer is not None

    upward = {name for name in module.own if (layer_of(name) or 0) > layer}

    assert set() == upward


@each_module
def test_each_layer_imports_only_its_third_parties(module: Module) -> None:
    """What is not in the standard library enters at the layer that the table names."""
    layer = layer_of(module.name)
    assert layer is not None

    foreign = module.foreign - set(sys.stdlib_module_names)

    assert set() == foreign - THIRD_PARTY[layer]


@pytest.mark.parametrize("module", [m for m in MODULES if layer_of(m.name) == 1], ids=lambda m: m.name)
def test_the_core_is_pure(module: Module) -> None:
    """Frames, session, serializers and routes see no socket, clock, greenlet or random source."""
    assert set() == module.foreign & IMPURE


def test_no_import_cycle() -> None:
    """Modules can be read one after the other, from the bottom up."""
    graph = {module.name: module.own - {module.name} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' → '.join(error.args[1])}")


def test_the_longest_chain_of_imports() -> None:
    """Whoever follows what a module is loaded with is through after ten; imports inside functions do not count."""
    loaded = {
        module.name: set(imported_names(Module("", module.path, top_level(module.tree)), set(PACKAGE))) & set(PACKAGE)
        for module in MODULES
    }
    depth: dict[str, int] = {}
    for name in TopologicalSorter({name: names - {name} for name, names in loaded.items()}).static_order():
        depth[name] = 1 + max((depth[below] for below in loaded[name] - {name}), default=0)
    assert {} == {name: length for name, length in depth.items() if length > 10}


def top_level(tree: ast.Module) -> ast.Module:
    """What runs when the module is loaded, but for its functions and classes."""
    kept = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return ast.Module(body=kept, type_ignores=[])


def test_the_table_names_no_module_that_is_gone() -> None:
    """Every line of the table stands for a file or a folder."""
    missing = {
        name for name in LAYERS
        if not any((ROOT / name.replace(".", "/")).with_suffix(end).exists() for end in ("", ".py", ".c"))
    }  # fmt: skip
    assert set() == missing


def test_the_page_places_every_module() -> None:
    """docs/ARCHITECTURE.md names each module of the package once, under its layer."""
    listed: dict[str, int] = {}
    for first, names in re.findall(r"^\| (\d?)[^|]*\|([^|]*)\|", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        layer = int(first) if first else max(listed.values(), default=0)
        listed |= dict.fromkeys(re.findall(r"`([\w/]+\.(?:py|c))`", names), layer)

    placed = {str(m.path.relative_to(ROOT / "webmesh")): layer_of(m.name) for m in MODULES if m.path.stem != "__init__"}

    assert {**placed, "_speedups.c": 1} == listed


@pytest.mark.parametrize("module", [m for m in MODULES if m.path.stem != "__init__"], ids=lambda m: m.name)
def test_every_module_has_its_test_file(module: Module) -> None:
    """tests/ mirrors webmesh/: x/y.py is tested by x/test_y.py."""
    relative = module.path.relative_to(ROOT / "webmesh")
    expected = TESTS / relative.parent / f"test_{relative.stem.strip('_')}.py"
    assert expected.is_file(), f"{expected.relative_to(ROOT)} is missing"


@each_module
def test_sizes(module: Module) -> None:
    """A file, a function and its nesting fit in a reader's head."""
    too_long = [
        f"{node.name}: {code_lines(node)} lines" for node in functions(module) if code_lines(node) > FUNCTION_LINES
    ]
    too_deep = [f"{node.name}: {nesting(node)} deep" for node in functions(module) if nesting(node) > NESTING]

    assert module.lines <= MODULE_LINES
    assert [] == too_long + too_deep


def functions(module: Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(module.tree) if isinstance(node, FUNCTIONS)]


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, docstring left out."""
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is not None:
        length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
    return length


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Deepest compound statement; an `elif` is no deeper than its `if`."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child, depth + (isinstance(child, COMPOUND) and not is_elif)))
    return deepest


@each_module
def test_public_names_are_documented(module: Module) -> None:
    """A module and every public class, function and method of it say what the caller gets."""
    bare = [name for name, node in public_nodes(module.tree) if ast.get_docstring(node) is None]
    empty_package = module.path.stem == "__init__" and not module.tree.body

    assert empty_package or ast.get_docstring(module.tree) is not None
    assert [] == bare


def public_nodes(node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef)) and not child.name.startswith("_"):
            if any("overload" in ast.dump(decorator) for decorator in child.decorator_list):
                continue
            yield child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public_nodes(child)


@each_module
def test_vocabulary(module: Module) -> None:
    """No file, class or function is called by a word that says nothing, or by a second word for one thing."""
    names = {module.name.rpartition(".")[2]} | {
        node.name for node in ast.walk(module.tree) if isinstance(node, (*FUNCTIONS, ast.ClassDef))
    }
    assert set() == {name for name in names if any(word in name.lower() for word in FORBIDDEN_WORDS)}


@each_module
def test_no_bare_except(module: Module) -> None:
    """Whoever catches names what."""
    bare = [n.lineno for n in ast.walk(module.tree) if isinstance(n, ast.ExceptHandler) and n.type is None]
    assert [] == bare


@pytest.mark.row(45)
@each_module
def test_no_format_that_carries_code(module: Module) -> None:
    """Nothing that a peer sends can be code: no parser in the package can make objects of any class."""
    assert set() == module.foreign & {"pickle", "marshal", "shelve", "yaml", "jsonpickle", "dill", "cloudpickle"}


@pytest.mark.row(87)
@each_module
def test_waits_do_not_use_the_wall_clock(module: Module) -> None:
    """A wall clock that jumps moves no timer: only log lines, logins, whose end others have set, and the epoch by which
    a node tells its lives apart ask for it."""
    wall = {"time.time", "datetime.now", "datetime.utcnow", "datetime.today", "time.localtime", "time.time_ns"}
    calls = [ast.unparse(node.func) for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    if not module.name.startswith(("webmesh.observability", "webmesh.auth", "webmesh.system_routes")):
        assert [] == [call for call in calls if call.endswith(tuple(wall))]
