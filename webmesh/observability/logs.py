"""How log records look, as text or as JSON, and how they reach standard error.

Library code only gets loggers; a program (`webmesh.serve`, or yours) calls `set_up_logging` once. One
record is one line in both formats, save for a traceback in text, whose lines are indented: nothing
that a peer sends can forge a record. Writing never blocks: see `line_writer`.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Iterator

from webmesh.observability.line_writer import LineWriter

FIELD_LENGTH = 200
"""Characters of one field in records of `webmesh` loggers, where peers' text stands; the rest is cut.
Records of other loggers are the program's own and stay whole."""

MESSAGE_LENGTH = 8 * 1024
"""Characters of a message or of a traceback (its end is kept); the queue's bound times this is the
memory that a stuck standard error can cost."""

STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has. Other attributes came by `extra=`."""

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that end a line, drive a terminal, reverse the text after them, or are no characters."""

_NEEDS_QUOTES = re.compile(r'[\s"=]|^$')

logger = logging.getLogger("webmesh.logs")


class TextFormatter(logging.Formatter):
    """`2026-11-22T16:45:01.250Z INFO webmesh.server: connection closed code=1000 reason="going away"`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and below it the traceback where there is one, each of its lines indented."""
        message = escaped(_cut(record.getMessage(), MESSAGE_LENGTH))
        pairs = [f"{escaped(key)}={_quoted(escaped(str(value)))}" for key, value in _fields(record)]
        head = " ".join([f"{timestamp(record.created)} {record.levelname} {record.name}: {message}", *pairs])
        below = _traceback(self, record).splitlines()
        return "\n".join([head, *(f"    {escaped(line)}" for line in below)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, then the record's fields.

    A traceback is the text under `exception`. A field that has the name of one of these gets a `_`
    at its end; what JSON has no form for is its text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of ASCII."""
        line: dict[str, object] = {
            "time": timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _cut(record.getMessage(), MESSAGE_LENGTH),
        }
        if traceback := _traceback(self, record):
            line["exception"] = traceback
        for key, value in _fields(record):
            line[f"{key}_" if key in line else key] = _json_value(value)
        return json.dumps(line)


FORMATTERS: dict[str, type[logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}
"""Name on the command line → formatter."""


class QueuedHandler(logging.Handler):
    """Formats where the record was made, and leaves the writing to a `LineWriter`.

    Takes no lock: in a monkey-patched process, native threads and greenlets that wait for one handler's
    lock hang for ever, and nothing here needs one. Once there is room again after records were
    dropped, one record says how many.
    """

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self.writer = writer
        self._told = 0

    def createLock(self) -> None:
        """No lock; logging's own `acquire` and `release` accept that."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """As the base does it, without its lock."""
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line, or count it when there is no room."""
        try:
            line = self.format(record)
        except Exception:  # the edge of user code: `%` arguments and `__str__` methods are the program's
            self.handleError(record)
            return
        self._tell_dropped()
        self.writer.write(line)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say which logger made a record that cannot be formatted, in place of the record."""
        self._emit_own("log record cannot be formatted", {"source": f"{record.pathname}:{record.lineno}"})

    def flush(self) -> None:
        """Wait briefly for what is queued; logging calls this when the program ends."""
        self._tell_dropped()
        self.writer.flush()

    def _tell_dropped(self) -> None:
        count = self.writer.dropped - self._told
        if count and not self.writer.full:
            self._told += count
            self._emit_own("log records dropped: standard error is not being read", {"count": count})

    def _emit_own(self, message: str, fields: dict[str, object]) -> None:
        record = logger.makeRecord(logger.name, logging.WARNING, __file__, 0, message, (), None, extra=fields)
        self.writer.write(self.format(record))


def set_up_logging(level: str = "info", style: str = "text", *, descriptor: int = 2) -> QueuedHandler:
    """Send the whole program's records to *descriptor* (standard error), warnings included.

    Args:
        level: Least level that is written: debug, info, warning, error or critical.
        style: A name in `FORMATTERS`.
    """
    handler = QueuedHandler(LineWriter(descriptor))
    handler.setFormatter(FORMATTERS[style]())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    return handler


def timestamp(seconds: float) -> str:
    """ISO 8601 in UTC to the millisecond, of *seconds* since 1970."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"


def escaped(text: str) -> str:
    r"""*text* on one line and harmless to a terminal: control characters become `\n`, `\x1b`, `\u202e`."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """What was given by `extra=`, in its order; text of our own loggers is cut to `FIELD_LENGTH`."""
    ours = record.name == "webmesh" or record.name.startswith("webmesh.")
    for key, value in vars(record).items():
        if key not in STANDARD_FIELDS:
            if isinstance(value, BaseException):
                value = str(value)
            yield str(key), _cut(value, FIELD_LENGTH) if ours and isinstance(value, str) else value


def _cut(text: str, length: int, *, keep_end: bool = False) -> str:
    if len(text) <= length:
        return text
    return "…" + text[1 - length :] if keep_end else text[: length - 1] + "…"


def _quoted(text: str) -> str:
    if not _NEEDS_QUOTES.search(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The text of the record's exception and stack; empty without them."""
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return _cut("\n".join(parts), MESSAGE_LENGTH, keep_end=True)


def _json_value(value: object) -> object:
    """*value*, where JSON can say it; else its text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
    return value
