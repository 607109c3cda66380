"""Which server is served: named, found, made by a function, or one of our own when there is none."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from webmesh.cli import loading
from webmesh.cli.loading import LoadFailed, load_serializer, load_server, parse_target
from webmesh.exceptions import ConfigurationError
from webmesh.message_serializers import MessagePackSerializer, StandardJsonSerializer

SERVER = "from webmesh.webmesh_server import WebMeshServer\nserver = WebMeshServer()\n"


@pytest.fixture(autouse=True)
def restored_imports() -> Iterator[None]:
    """Python's path and modules as they were, so that each test imports its own `app`."""
    path, modules = sys.path[:], set(sys.modules)
    yield
    sys.path[:] = path
    for name in {name for name in sys.modules if name.partition(".")[0] in OWN_NAMES} - modules:
        del sys.modules[name]


OWN_NAMES = {"app", "service", "main", "shop", "data", "airports"}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write modules, named by keyword (`a__b` is a/b.py, INIT is __init__), into a fresh folder; return the folder."""

    def write(**modules: str) -> Path:
        for name, source in modules.items():
            parts = [part.replace("INIT", "__init__") for part in name.split("__")]
            path = tmp_path.joinpath(*parts).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(source), encoding="utf-8")
        return tmp_path

    return write


class TestParseTarget:
    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            ("app", ("app", None)),
            ("app:server", ("app", "server")),
            ("shop.web:apis.server", ("shop.web", "apis.server")),
        ],
    )
    def test_splits_module_and_attribute(self, target, expected):
        """The attribute is what follows the colon, None without one; both may have dots."""
        assert expected == parse_target(target)

    @pytest.mark.parametrize("target", ["", ":server", "app:", "app:a:b", "app.", "a b", "app:f()", "app:1"])
    def test_refuses_what_is_no_name(self, target):
        """What cannot be imported is a clear error, not an import error."""
        with pytest.raises(ConfigurationError, match="not of the form module or module:attribute"):
            parse_target(target)

    @pytest.mark.parametrize(
        ("target", "meant"), [("app.py", "app"), ("./shop/web.py:server", "shop.web:server"), ("shop/web", "shop.web")]
    )
    def test_a_file_name_gets_the_module_name_as_advice(self, target, meant):
        """Whoever types a path is told the module's name."""
        with pytest.raises(ConfigurationError, match=f"did you mean '{meant}'"):
            parse_target(target)


class TestNamed:
    def test_module_and_attribute(self, write):
        """`module:attribute` takes exactly that object."""
        folder = write(shop=SERVER + "other = WebMeshServer()")

        loaded = load_server("shop:other", folder)

        assert sys.modules["shop"].other is loaded.server
        assert ("shop:other", "") == (loaded.name, loaded.notice)

    def test_the_folder_comes_first_in_the_path(self, write):
        """A module imports its neighbours, whatever else is installed."""
        folder = write(shop="from data import server", data=SERVER)

        load_server("shop:server", folder)

        assert str(folder) == sys.path[0]
        assert str(folder / "data.py") == sys.modules["data"].__file__

    def test_dotted_module_and_attribute(self, write):
        """A server may stand in a package, and in an object."""
        folder = write(shop__INIT="", shop__web=SERVER + "class apis:\n    public = WebMeshServer()")

        assert "shop.web:apis.public" == load_server("shop.web:apis.public", folder).name

    @pytest.mark.parametrize(
        "source",
        ["def make(): return WebMeshServer()", "make = WebMeshServer", "make = lambda size=3: WebMeshServer()"],
    )
    def test_a_function_is_called(self, write, source):
        """What is callable and no server makes the server."""
        folder = write(shop=SERVER + source)

        loaded = load_server("shop:make", folder)

        assert "shop:make()" == loaded.name
        assert sys.modules["shop"].server is not loaded.server

    def test_the_only_server_is_taken(self, write):
        """Without an attribute, a module's one server is meant, whatever its name and its aliases."""
        folder = write(shop=SERVER + "api = again = server\ndel server\n_hidden = WebMeshServer()")

        assert "shop:api" == load_server("shop", folder).name

    def test_the_one_called_server_is_taken(self, write):
        """Of several servers, `server` is the one."""
        folder = write(shop=SERVER + "api = WebMeshServer()")

        assert "shop:server" == load_server("shop", folder).name

    def test_a_function_called_server_is_called(self, write):
        """`def server()` makes the server."""
        folder = write(shop=SERVER + "def server(): return WebMeshServer()")

        assert "shop:server()" == load_server("shop", folder).name

    def test_something_else_called_server_is_passed_over(self, write):
        """A module that is imported under the name `server` is in nobody's way."""
        folder = write(shop=SERVER + "api = server\nfrom http import server")

        assert "shop:api" == load_server("shop", folder).name


class TestMistakes:
    def test_no_such_module(self, write):
        """What is not there is said in one line, with the name that may have been meant."""
        folder = write(service=SERVER)

        with pytest.raises(ConfigurationError, match="no module 'srvice' in .* did you mean 'service'") as caught:
            load_server("srvice", folder)

        assert not isinstance(caught.value, LoadFailed)
        assert "\n" not in str(caught.value)

    def test_no_such_module_in_a_package(self, write):
        """The part that is missing is named, and the advice is whole."""
        folder = write(shop__INIT="", shop__orders=SERVER)

        with pytest.raises(ConfigurationError, match="no module 'shop.order' in .* did you mean 'shop.orders'"):
            load_server("shop.order", folder)

    def test_no_package_in_a_module(self, write):
        """`shop.web` where shop is a file is not found, rather than a failure of the user's code."""
        folder = write(shop=SERVER)

        with pytest.raises(ConfigurationError, match="no module 'shop.web'") as caught:
            load_server("shop.web", folder)

        assert not isinstance(caught.value, LoadFailed)

    def test_no_such_attribute(self, write):
        """The attribute's near names are listed."""
        folder = write(shop=SERVER)

        with pytest.raises(ConfigurationError, match="module 'shop' has no attribute 'servr': did you mean 'server'"):
            load_server("shop:servr", folder)

    def test_no_attribute_that_is_near(self, write):
        """Without near names there is no advice."""
        with pytest.raises(ConfigurationError, match="no attribute 'zzzzzz'$"):
            load_server("shop:zzzzzz", write(shop=SERVER))

    @pytest.mark.parametrize(
        ("source", "text"), [("thing = 3", "is no WebMeshServer but an int"), ("def thing(): pass", "but a NoneType")]
    )
    def test_an_attribute_that_is_no_server(self, write, source, text):
        """What is neither a server nor makes one is named with its type."""
        with pytest.raises(ConfigurationError, match=text):
            load_server("shop:thing", write(shop=source))

    def test_a_function_that_needs_arguments(self, write):
        """A function that cannot be called without arguments is not called."""
        with pytest.raises(ConfigurationError, match="shop:make cannot be called without arguments: .*'size'"):
            load_server("shop:make", write(shop="def make(size): raise AssertionError"))

    def test_several_servers_and_none_called_server(self, write):
        """Nobody guesses which one is meant: they are named."""
        folder = write(shop=SERVER + "b = WebMeshServer()\na = server\ndel server")

        with pytest.raises(ConfigurationError, match="several servers, 'a', 'b', .* name one, as shop:a"):
            load_server("shop", folder)

    def test_no_server_in_the_module(self, write):
        """A module without a server says how to name one."""
        with pytest.raises(ConfigurationError, match="no WebMeshServer in module 'shop'.*shop:attribute"):
            load_server("shop", write(shop="x = 1"))


class TestUserCodeThatFails:
    def test_keeps_the_users_traceback(self, write):
        """The traceback begins at the user's line: how it was imported is of no interest."""
        folder = write(shop="import data", data="prices = {}\nprices['pear']")

        with pytest.raises(LoadFailed, match="cannot import 'shop': KeyError: 'pear'") as caught:
            load_server("shop", folder)

        lines = caught.value.user_traceback().splitlines()
        assert ["Traceback (most recent call last):", "KeyError: 'pear'"] == [lines[0], lines[-1]]
        assert f'  File "{folder / "shop.py"}", line 1, in <module>' == lines[1]
        assert "loading.py" not in caught.value.user_traceback()

    def test_a_missing_dependency_is_the_users_failure(self, write):
        """A module that is there but imports one that is not was found."""
        with pytest.raises(LoadFailed, match="cannot import 'shop': No module named 'no_such_library'"):
            load_server("shop", write(shop="import no_such_library"))

    def test_a_missing_submodule_is_the_users_failure(self, write):
        """A package that imports a part of its own that is missing was found."""
        with pytest.raises(LoadFailed, match="No module named 'shop.gone'"):
            load_server("shop", write(shop__INIT="import shop.gone"))

    def test_a_syntax_error_shows_the_line(self, write):
        """Python's own picture of a syntax error is kept."""
        with pytest.raises(LoadFailed, match="SyntaxError") as caught:
            load_server("shop", write(shop="x = = 1"))

        assert "    x = = 1" in caught.value.user_traceback()

    def test_a_program_that_ends_itself(self, write):
        """`sys.exit` at import time does not end the command in silence."""
        with pytest.raises(LoadFailed, match="'shop' ended the program with 3 while it was imported") as caught:
            load_server("shop", write(shop="raise SystemExit(3)"))

        assert "" == caught.value.user_traceback()

    def test_a_function_that_fails(self, write):
        """The function that makes the server is user code as well."""
        with pytest.raises(LoadFailed, match=r"shop:make\(\) failed: ZeroDivisionError") as caught:
            load_server("shop:make", write(shop="def make(): 1 / 0"))

        assert "in make" in caught.value.user_traceback()


class TestNotNamed:
    def test_app_comes_before_service_before_main(self, write):
        """The order is fixed, so that the same folder always gives the same server."""
        folder = write(main=SERVER, service=SERVER, app=SERVER)

        assert "app:server" == load_server(None, folder).name
        (folder / "app.py").unlink()
        del sys.modules["app"]
        assert "service:server" == load_server(None, folder).name
        (folder / "service.py").unlink()
        del sys.modules["service"]
        assert "main:server" == load_server(None, folder).name

    def test_a_candidate_without_a_server_is_passed_over(self, write):
        """An app.py that is something else does not hide service.py."""
        assert "service:server" == load_server(None, write(app="x = 1", service=SERVER)).name

    def test_a_function_called_server_counts(self, write):
        """A candidate may make its server by a function."""
        folder = write(app="def server():\n    from webmesh.webmesh_server import WebMeshServer as W\n    return W()")

        assert "app:server()" == load_server(None, folder).name

    def test_candidates_without_any_server(self, write):
        """Files that are there but hold none are named; nothing else is served in their stead."""
        with pytest.raises(ConfigurationError, match="no WebMeshServer in app.py and main.py of"):
            load_server(None, write(app="x = 1", main="y = 1"))

    def test_a_candidate_that_fails_is_not_passed_over(self, write):
        """A broken app.py is an error, even where service.py would do."""
        with pytest.raises(LoadFailed, match="cannot import 'app'"):
            load_server(None, write(app="1 / 0", service=SERVER))

    def test_a_candidate_elsewhere_does_not_count(self, write, monkeypatch):
        """Only the folder itself is searched, not Python's path."""
        folder = write(app=SERVER)
        empty = folder / "empty"
        empty.mkdir()
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr(loading, "EXAMPLE", empty / "none.py")

        assert "echo" == load_server(None, empty).name


class TestNothingToServe:
    @pytest.fixture
    def example(self, write, tmp_path, monkeypatch) -> Callable[[str], Path]:
        """Put an example in the clone; return an empty folder to start from."""

        def example(source: str) -> Path:
            monkeypatch.setattr(loading, "EXAMPLE", write(airports__service=source) / "airports" / "service.py")
            (tmp_path / "empty").mkdir()
            return tmp_path / "empty"

        return example

    def test_the_example_is_served(self, example):
        """In a clone, an empty folder gets the example, and is told."""
        loaded = load_server(None, example(SERVER))

        assert "service:server" == loaded.name
        assert "has none of app.py, service.py, main.py: " in loaded.notice
        assert "serving the example" in loaded.notice

    def test_without_an_example_an_echo_is_served(self, tmp_path, monkeypatch):
        """An installed package has no example: an echo at / shows that it works."""
        monkeypatch.setattr(loading, "EXAMPLE", tmp_path / "none.py")

        loaded = load_server(None, tmp_path)

        assert ["/"] == [route.pattern for route in loaded.server.routes()]
        assert loaded.notice.endswith("serving an echo")

    def test_an_example_whose_data_is_not_installed(self, example):
        """What the example needs and is not installed is named; the echo is served meanwhile."""
        loaded = load_server(None, example("import no_such_data"))

        assert "echo" == loaded.name
        assert loaded.notice.endswith("serving an echo (the example needs no_such_data)")

    def test_an_example_that_fails_is_an_error(self, example):
        """Any other failure of the example is shown."""
        with pytest.raises(LoadFailed, match="ZeroDivisionError"):
            load_server(None, example("1 / 0"))


class TestSerializer:
    OWN = """
        from webmesh.message_serializers import AbstractMessageSerializer, StandardJsonSerializer

        class Plain(StandardJsonSerializer):
            name = "plain"

        class Unfinished(AbstractMessageSerializer):
            name, binary = "unfinished", True

        plain = Plain()
        """

    @pytest.mark.parametrize(("name", "cls"), [("msgpack", MessagePackSerializer), ("json", StandardJsonSerializer)])
    def test_ours_have_short_names(self, name, cls, tmp_path):
        """The name on the wire is the name on the command line."""
        assert cls is load_serializer(name, tmp_path)

    def test_ones_own_is_named_like_a_server(self, write):
        """`module:Class`, imported from the same folder."""
        folder = write(shop=self.OWN)

        loaded = load_serializer("shop:Plain", folder)

        assert sys.modules["shop"].Plain is loaded

    def test_an_unknown_name_lists_what_there_is(self, tmp_path):
        """A wrong name is answered with the right ones."""
        with pytest.raises(ConfigurationError, match="no serializer 'pickle': there are 'json', 'msgpack'"):
            load_serializer("pickle", tmp_path)

    @pytest.mark.parametrize("attribute", ["plain", "Unfinished", "AbstractMessageSerializer"])
    def test_what_is_no_whole_class_is_refused(self, write, attribute):
        """An object, or a class that lacks a method, is told at the start and not at the first message."""
        with pytest.raises(ConfigurationError, match=f"shop:{attribute} is no class that implements"):
            load_serializer(f"shop:{attribute}", write(shop=self.OWN))

    def test_no_such_module_or_attribute(self, write):
        """The same errors as for a server."""
        folder = write(shop=self.OWN)

        with pytest.raises(ConfigurationError, match="no module 'shpo'.* did you mean 'shop'"):
            load_serializer("shpo:Plain", folder)
        with pytest.raises(ConfigurationError, match="no attribute 'Plane': did you mean 'Plain'"):
            load_serializer("shop:Plane", folder)
