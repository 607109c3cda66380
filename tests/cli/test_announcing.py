"""The banner and the reason why a command ends: lines for people, or records for machines."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator

import pytest

from webmesh import __version__
from webmesh.cli.announcing import Announcer, Banner
from webmesh.observability.line_writer import LineWriter
from webmesh.observability.logs import FORMATTERS, QueuedHandler
from webmesh.routing import Router


def airport(payload: object, path: str, client: object, code: str = "") -> None:
    """A handler."""


def banner(notice: str = "", *paths: str) -> Banner:
    router = Router()
    for path in paths:
        router.add(path, airport)
    return Banner(
        name="app:server", url="ws://127.0.0.1:4269/", mode="patched: handlers run in greenlets", pid=7,
        routes=router.routes(), notice=notice,
    )  # fmt: skip


@pytest.fixture
def announce() -> Iterator[Callable[[str], tuple[Announcer, Callable[[], list[str]]]]]:
    """Make an announcer of a style, and a function that gives the lines that it has written."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)

    def make(style: str) -> tuple[Announcer, Callable[[], list[str]]]:
        handler = QueuedHandler(LineWriter(writer))
        handler.setFormatter(FORMATTERS[style]())
        handler.setLevel(logging.CRITICAL)

        def lines() -> list[str]:
            handler.flush()
            return os.read(reader, 65536).decode().splitlines()

        return Announcer(handler, style, "webmesh serve"), lines

    yield make
    os.close(reader)
    os.close(writer)


PLACE = f"test_announcing.py:{airport.__code__.co_firstlineno}"


class TestText:
    def test_the_banner_shows_url_mode_process_and_routes(self, announce):
        """What one needs to call the server and to stop it, each on a line; routes with their handler's place."""
        announcer, lines = announce("text")

        announcer.serving(banner("", "/airports/<code>", "/a"))

        assert [
            f"WebMesh {__version__} serves app:server",
            "  url     ws://127.0.0.1:4269/",
            "  mode    patched: handlers run in greenlets",
            "  pid     7",
            f"  routes  /a                {PLACE}",
            f"          /airports/<code>  {PLACE}",
        ] == lines()

    def test_a_notice_comes_first(self, announce):
        """Why something else is served than was perhaps meant is read first."""
        announcer, lines = announce("text")

        announcer.serving(banner("no module named: serving the example"))

        written = lines()
        assert ("no module named: serving the example", "  routes  none") == (written[0], written[-1])

    def test_a_failure_is_one_line(self, announce):
        """The command's name and the reason; control characters are escaped."""
        announcer, lines = announce("text")

        announcer.failed("no module 'a\nb'")

        assert ["webmesh serve: error: no module 'a\\nb'"] == lines()

    def test_user_code_shows_its_traceback_above(self, announce):
        """The reason stands last, where a terminal shows it."""
        announcer, lines = announce("text")

        announcer.failed("cannot import 'app'", "Traceback:\n  x = 1 / 0\nZeroDivisionError\n")

        assert [
            "Traceback:", "  x = 1 / 0", "ZeroDivisionError", "webmesh serve: error: cannot import 'app'",
        ] == lines()  # fmt: skip


class TestJson:
    def test_the_banner_is_one_record(self, announce):
        """Machines get the same facts as fields, whatever the log level is."""
        announcer, lines = announce("json")

        announcer.serving(banner("serving the example", "/a"))

        (line,) = lines()
        record = json.loads(line)
        assert "time" in record
        assert {
            "level": "INFO", "logger": "webmesh.serve", "message": "serving", "target": "app:server",
            "url": "ws://127.0.0.1:4269/", "mode": "patched: handlers run in greenlets", "pid": 7,
            "version": __version__, "routes": [{"path": "/a", "handler": PLACE}], "notice": "serving the example",
        } == {key: value for key, value in record.items() if key != "time"}  # fmt: skip

    def test_without_a_notice_there_is_no_key(self, announce):
        """Absent means nothing to tell."""
        announcer, lines = announce("json")

        announcer.serving(banner())

        assert "notice" not in json.loads(lines()[0])

    def test_a_failure_is_one_record_with_the_whole_traceback(self, announce):
        """The traceback is a field, uncut, and not a dozen lines that nobody can parse."""
        announcer, lines = announce("json")
        traceback = "Traceback:\n" + "  line\n" * 100 + "ZeroDivisionError"

        announcer.failed("cannot import 'app'", traceback)

        (line,) = lines()
        record = json.loads(line)
        assert ("CRITICAL", "cannot import 'app'", traceback) == (
            record["level"], record["message"], record["exception"],
        )  # fmt: skip

    def test_a_failure_without_traceback_has_no_exception(self, announce):
        """A mistake on the command line is no exception of the user's."""
        announcer, lines = announce("json")

        announcer.failed("no module 'app'")

        assert "exception" not in json.loads(lines()[0])
