"""Log records: one line each, readable by people or by machines, forged by nobody, blocking nobody."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.observability.line_writer import LineWriter
from webmesh.observability.logs import (
    FIELD_LENGTH,
    MESSAGE_LENGTH,
    JsonFormatter,
    QueuedHandler,
    TextFormatter,
    escaped,
    set_up_logging,
    timestamp,
)

from tests.processes import ENVIRONMENT, run_program


def record(message: object = "connection closed", *args: object, **changes: object) -> logging.LogRecord:
    """A record of the server's logger at a fixed time; *changes* are its attributes."""
    made = logging.LogRecord("webmesh.server", logging.INFO, "server.py", 7, message, args, None)
    made.__dict__.update({"created": 1_700_000_000.25, **changes})
    return made


def crash(message: str = "no such tree") -> tuple[type[BaseException], BaseException, object]:
    """What `sys.exc_info()` gives in an `except` clause."""
    try:
        raise LookupError(message)
    except LookupError:
        return sys.exc_info()  # type: ignore[return-value]


class Full(LineWriter):
    """A writer that keeps lines, and can be told that it has no room."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.lines: list[str] = []
        self.no_room = False

    @property
    def full(self) -> bool:
        return self.no_room

    def write(self, line: str) -> bool:
        if self.no_room:
            self.dropped += 1
            return False
        self.lines.append(line)
        return True


@pytest.fixture
def handler() -> QueuedHandler:
    handler = QueuedHandler(Full())
    handler.setFormatter(TextFormatter())
    return handler


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = before
    logging.captureWarnings(False)


class TestTimestamp:
    def test_is_iso_8601_in_utc(self):
        """Milliseconds, and a Z so that nobody has to guess the zone."""
        assert "2023-11-14T22:13:20.250Z" == timestamp(1_700_000_000.25)

    @pytest.mark.parametrize("seconds", [0.0, 1.9999, 1_700_000_000.9999])
    def test_never_rounds_up_to_a_thousand_milliseconds(self, seconds):
        """A fraction is cut, so the seconds need no carry."""
        assert seconds - 0.001 < seconds_of(timestamp(seconds)) <= seconds


def seconds_of(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class TestTextFormatter:
    def test_fields_follow_the_message(self):
        """What was given by `extra=` stands as key=value, in its order."""
        line = TextFormatter().format(record(connection="7f3a", code=1000))

        assert "2023-11-14T22:13:20.250Z INFO webmesh.server: connection closed connection=7f3a code=1000" == line

    @pytest.mark.parametrize(
        ("value", "written"),
        [
            ("going away", '"going away"'),
            ("", '""'),
            ("a=b", '"a=b"'),
            ('say "hi" \\ now', '"say \\"hi\\" \\\\ now"'),
            ("plain", "plain"),
            (None, "None"),
            (ValueError("bad value"), '"bad value"'),
        ],
    )
    def test_values_with_spaces_are_quoted(self, value, written):
        """A field ends where it seems to end."""
        assert TextFormatter().format(record(reason=value)).endswith(f" reason={written}")

    def test_arguments_are_merged(self):
        """The lazy arguments of a logging call are in the message."""
        assert TextFormatter().format(record("%s of %d", "one", 2)).endswith(": one of 2")

    @pytest.mark.row(46)
    def test_a_peer_cannot_forge_a_line(self):
        """Newlines and escape sequences in a message, a field or its name are written as escapes."""
        line = TextFormatter().format(
            record("path %s", "/a\n2026 ERROR", path="/b\r\x1b[2J\u202e", **{"key\nforged": "\u2028"})
        )

        assert ": path /a\\n2026 ERROR path=/b\\r\\x1b[2J\\u202e key\\nforged=\\u2028" in line
        assert 1 == len(line.splitlines())

    @pytest.mark.row(46)
    def test_what_looks_like_a_format_is_left_alone(self):
        """Peers' `%s` and `{0.__class__}` are text."""
        assert TextFormatter().format(record("seen", path="%s{0.__class__}")).endswith(" path=%s{0.__class__}")

    @pytest.mark.row(46)
    def test_fields_of_our_loggers_are_cut(self):
        """Text that peers choose has a bound in the log; other programs' fields keep their length."""
        ours = TextFormatter().format(record("seen", path="x" * 5000))
        theirs = TextFormatter().format(record("seen", path="x" * 5000, name="shop"))

        assert ours.endswith(" path=" + "x" * (FIELD_LENGTH - 1) + "…")
        assert theirs.endswith(" path=" + "x" * 5000)

    def test_a_long_message_is_cut(self):
        """One record cannot fill the queue's memory."""
        line = TextFormatter().format(record("x" * 100_000))

        assert line.endswith("x…")
        assert MESSAGE_LENGTH + 100 > len(line)

    def test_a_traceback_stands_below_indented(self):
        """Every line of a traceback is indented, those that the exception's own text makes included."""
        lines = TextFormatter().format(record(exc_info=crash("no\n2026-01-01 ERROR forged"))).splitlines()

        assert "    Traceback (most recent call last):" == lines[1]
        assert ["    LookupError: no", "    2026-01-01 ERROR forged"] == lines[-2:]
        assert all(line.startswith("    ") for line in lines[1:])

    def test_a_kept_traceback_and_a_stack_are_shown(self):
        """What another formatter or a pickled record left behind is not lost."""
        lines = TextFormatter().format(record(exc_text="LookupError: x", stack_info="Stack:\n  here")).splitlines()

        assert ["    LookupError: x", "    Stack:", "      here"] == lines[1:]

    def test_the_end_of_a_long_traceback_is_kept(self):
        """A recursion's traceback is cut where it repeats, not where it says what happened."""
        line = TextFormatter().format(record(exc_info=crash("x" * 50_000 + " the end")))

        assert line.endswith("the end")
        assert MESSAGE_LENGTH + 200 > len(line)

    @given(st.text(), st.text(min_size=1), st.text())
    def test_any_text_stays_on_one_line(self, message, key, value):
        """Whatever peers send, one record without a traceback is one line of encodable text."""
        made = record("%s", message)
        made.__dict__[f"x{key}"] = value

        line = TextFormatter().format(made)

        assert 1 == len(line.splitlines())
        line.encode("utf-8")


class TestJsonFormatter:
    def test_fields_are_keys(self):
        """One object: time, level, logger and message, then the record's own fields with their types."""
        line = json.loads(JsonFormatter().format(record(connection="7f3a", code=1000, clean=True, routes=["/a"])))

        assert {
            "time": "2023-11-14T22:13:20.250Z", "level": "INFO", "logger": "webmesh.server",
            "message": "connection closed", "connection": "7f3a", "code": 1000, "clean": True, "routes": ["/a"],
        } == line  # fmt: skip

    def test_a_traceback_is_text(self):
        """The exception is one key, newlines and all."""
        line = JsonFormatter().format(record(exc_info=crash()))

        assert json.loads(line)["exception"].endswith("LookupError: no such tree")
        assert "\n" not in line

    def test_a_field_does_not_hide_the_records_own(self):
        """A field that is called like one of ours keeps its value under another name."""
        line = json.loads(JsonFormatter().format(record(time="noon", level=3)))

        assert ("noon", 3) == (line["time_"], line["level_"])
        assert ("2023-11-14T22:13:20.250Z", "INFO") == (line["time"], line["level"])

    @pytest.mark.parametrize(
        ("value", "written"),
        [
            (b"\x00", "b'\\x00'"),
            ({1}, "{1}"),
            (float("nan"), "nan"),
            (float("inf"), "inf"),
            (1.5, 1.5),
            ([float("nan")], "[nan]"),
            (object, "<class 'object'>"),
            (ValueError("bad value"), "bad value"),
        ],
    )
    def test_what_json_cannot_say_is_its_text(self, value, written):
        """No field costs the record; NaN is no JSON."""
        assert written == json.loads(JsonFormatter().format(record(value=value)))["value"]

    def test_a_list_that_holds_itself_is_text(self):
        """A cycle does not cost the record either."""
        loop: list[object] = []
        loop.append(loop)

        assert "[[...]]" == json.loads(JsonFormatter().format(record(value=loop)))["value"]

    @given(st.text(), st.dictionaries(st.text(min_size=1).map("x{}".format), st.text()))
    def test_any_text_is_one_line_of_ascii(self, message, fields):
        """What a peer sends cannot break the line, and comes out as it went in (cut to its bound)."""
        made = record("%s", message)
        made.__dict__.update(fields)

        line = JsonFormatter().format(made)

        assert line.isascii()
        assert 1 == len(line.splitlines())
        assert message == json.loads(line)["message"]


class TestEscaped:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a\tb", "a\\tb"),
            ("\x7f\x9b", "\\x7f\\x9b"),
            ("naïve 漢字 🌲", "naïve 漢字 🌲"),
            ("\ud800", "\\ud800"),
            ("C:\\x", "C:\\x"),
        ],
    )
    def test_only_what_harms_is_escaped(self, text, expected):
        """Letters of any script stay; what drives a terminal does not."""
        assert expected == escaped(text)


class TestQueuedHandler:
    def test_a_record_is_a_line(self, handler):
        """The handler writes what the formatter made."""
        handler.handle(record())

        assert ["2023-11-14T22:13:20.250Z INFO webmesh.server: connection closed"] == handler.writer.lines

    def test_filters_apply(self, handler):
        """A filter may drop a record; on Python 3.12 and later, replace it too."""
        handler.addFilter(lambda made: "secret" not in made.getMessage())

        assert not handler.handle(record("secret"))
        assert handler.handle(record("open"))
        assert 1 == len(handler.writer.lines)

    def test_takes_no_lock(self, handler):
        """There is nothing on which greenlets and native threads could wait for each other."""
        handler.acquire()
        handler.release()

        assert handler.lock is None

    @pytest.mark.row(85)
    def test_dropped_records_are_told_once(self, handler):
        """When there is room again, one record says how many are missing, before the next one."""
        handler.writer.no_room = True
        for _ in range(3):
            handler.handle(record("lost"))
        handler.writer.no_room = False

        handler.handle(record("kept"))
        handler.handle(record("kept too"))

        told, *kept = [line.split(" ", 2)[2] for line in handler.writer.lines]
        assert "webmesh.logs: log records dropped: standard error is not being read count=3" == told
        assert ["webmesh.server: kept", "webmesh.server: kept too"] == kept

    @pytest.mark.row(85)
    def test_dropped_records_are_told_at_the_end(self, handler):
        """When the program ends before another record came, the loss is told by the flush."""
        handler.writer.no_room = True
        handler.handle(record("lost"))
        handler.writer.no_room = False

        handler.flush()

        assert handler.writer.lines[0].endswith(" count=1")

    @pytest.mark.parametrize("arguments", [("%d", "text"), ("%s %s", "one")])
    def test_a_record_that_cannot_be_formatted_names_its_source(self, handler, arguments):
        """A wrong logging call costs its record, not the program, and is findable."""
        handler.handle(record(*arguments))

        assert "WARNING webmesh.logs: log record cannot be formatted source=server.py:7" in handler.writer.lines[0]

    def test_a_field_that_raises_costs_only_its_record(self, handler):
        """`__str__` is the program's code."""

        class Rude:
            def __str__(self) -> str:
                raise RuntimeError("no")

        handler.handle(record("x", thing=Rude()))

        assert "cannot be formatted" in handler.writer.lines[0]


class TestSetUpLogging:
    @pytest.fixture
    def set_up(self, root) -> Iterator[tuple[Callable[..., QueuedHandler], Callable[[], list[str]]]]:
        reader, writer = os.pipe()
        handlers = []

        def set_up(*arguments: str) -> QueuedHandler:
            handlers.append(set_up_logging(*arguments, descriptor=writer))
            return handlers[-1]

        def lines() -> list[str]:
            handlers[-1].flush()
            os.set_blocking(reader, False)
            return os.read(reader, 65536).decode().splitlines()

        yield set_up, lines
        for handler in handlers:
            handler.flush()
        os.close(reader)
        os.close(writer)

    def test_records_of_the_whole_program_are_written(self, set_up):
        """The user's own loggers speak through it as ours do, from the level on that was asked for."""
        make, lines = set_up
        make("info", "text")

        logging.getLogger("shop").info("sold", extra={"pears": 3})
        logging.getLogger("shop").debug("not told")

        (line,) = lines()
        assert line.endswith("INFO shop: sold pears=3")

    def test_json_by_name(self, set_up):
        """`json` gives one object a line."""
        make, lines = set_up
        make("debug", "json")

        logging.getLogger("shop").debug("sold", extra={"pears": 3})

        assert 3 == json.loads(lines()[0])["pears"]

    def test_warnings_are_records(self, set_up):
        """What Python itself warns of does not go round the format."""
        make, lines = set_up
        make("warning", "json")

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old thing", DeprecationWarning, stacklevel=1)

        assert "old thing" in json.loads(lines()[-1])["message"]


LOGGING_FROM_EVERYWHERE = """
import logging
import gevent
from gevent.threadpool import ThreadPool
from webmesh.observability.logs import set_up_logging

set_up_logging("info", "text", descriptor=1)

def work(name):
    for number in range(100):
        logging.getLogger("shop").info("from %s", name)

pool = ThreadPool(4)
jobs = [pool.spawn(work, "thread") for _ in range(4)] + [gevent.spawn(work, "greenlet") for _ in range(4)]
gevent.joinall(jobs)
"""


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()"], ids=["plain", "patched"])
@pytest.mark.row(85)
def test_pool_threads_and_greenlets_log_through_one_handler(patch):
    """Four pool threads and four greenlets that log finish, in both modes, and no record is lost."""
    written = run_program(patch + LOGGING_FROM_EVERYWHERE)

    assert (400, 400) == (written.count("from thread"), written.count("from greenlet"))


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()"], ids=["plain", "patched"])
@pytest.mark.row(85)
def test_a_full_standard_error_does_not_block_the_hub(patch):
    """A program whose standard error nobody reads goes on, and ends when it is done."""
    program = """
import logging
from webmesh.observability.logs import set_up_logging
handler = set_up_logging("info", "text")
for number in range(20000):
    logging.info("a line that nobody reads %d", number)
print("dropped", handler.writer.dropped > 0, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", patch + program],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout and process.stderr

    assert "dropped True\n" == process.stdout.readline()
    assert 0 == process.wait(30)
    process.stdout.close()
    process.stderr.close()
