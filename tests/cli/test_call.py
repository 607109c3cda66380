"""`webmesh call`: what it prints, what it says of mistakes, which status an outcome has."""

from __future__ import annotations

import io
import json
import sys

import pytest

from tests.running import running
from webmesh.cli.call import STATUSES, Printer, main
from webmesh.exceptions import (
    ConfigurationError,
    ConnectFailed,
    ConnectionClosed,
    DeadlineExceeded,
    EncodeError,
    HandshakeRejected,
    NotFound,
    RemoteError,
    RemoteProtocolError,
    ReplyLost,
    RequestTimeout,
)
from webmesh.webmesh_server import WebMeshServer

URL = "ws://127.0.0.1:1"


class Output(io.StringIO):
    """Standard output with the encoding of a terminal."""

    encoding = "utf-8"


@pytest.fixture
def out() -> Output:
    return Output()


@pytest.fixture
def notes() -> Output:
    return Output()


@pytest.fixture
def printer(out, notes) -> Printer:
    return Printer(out, notes)


class TestTokens:
    """The token of `--token-env` and `--token-file`."""

    @pytest.fixture
    def server(self):
        """Knows one token."""
        server = WebMeshServer(authenticate=lambda credentials: {"t-ann": "ann"}.get(credentials.token or ""))
        server.on("/who")(lambda payload, path, client: client.identity.subject)
        with running(server):
            yield server

    def test_the_token_comes_from_a_variable_or_a_file(self, server, monkeypatch, tmp_path, capsys):
        """Blank space around it, as an editor leaves it, does not count."""
        monkeypatch.setenv("SHOP_TOKEN", "t-ann")
        (tmp_path / "token").write_text("  t-ann\n")

        assert 0 == main([server.url, "/who", "--token-env", "SHOP_TOKEN"])
        assert 0 == main([server.url, "/who", "--token-file", str(tmp_path / "token")])

        assert '"ann"\n"ann"\n' == capsys.readouterr().out

    @pytest.mark.row(58)
    def test_a_token_that_is_refused_is_not_shown(self, server, monkeypatch, capsys):
        """The status is that of no connection."""
        monkeypatch.setenv("SHOP_TOKEN", "hush")

        assert 3 == main([server.url, "/who", "--token-env", "SHOP_TOKEN"])

        assert "401" in (said := capsys.readouterr().err)
        assert "hush" not in said

    @pytest.mark.row(58)
    @pytest.mark.parametrize("text", ["", "\n", "hush hush", "hush\r\nX: y", "h\u00fcsh", "hush\x00"])
    def test_what_is_no_token_is_a_wrong_use(self, tmp_path, capsys, text):
        """And is not quoted: a part of it may be one."""
        (tmp_path / "token").write_text(text, encoding="utf-8", newline="")

        assert 2 == main([URL, "/who", "--token-file", str(tmp_path / "token")])
        assert 2 == main([URL, "/who", "--token-file", str(tmp_path / "none")])
        assert 2 == main([URL, "/who", "--token-env", "NO_SUCH_VARIABLE"])

        assert "h\u00fc" not in (said := capsys.readouterr().err) and "hush" not in said

    def test_a_token_has_one_source(self, capsys):
        """Nor can it stand on the command line itself, where everybody sees it."""
        for wrong in (["--token-env", "A", "--token-file", "b"], ["--token", "t"]):
            with pytest.raises(SystemExit):
                main([URL, "/who", *wrong])


class TestPrinter:
    @pytest.mark.parametrize("value", [None, True, 3, 1.5, "text", [1, [2]], {"a": {"b": None}}, "naïve 漢字 🌲"])
    def test_a_value_is_one_line_of_json(self, printer, out, value):
        """What any program that reads JSON takes; letters of any script stay readable."""
        printer.print(value)

        assert value == json.loads(out.getvalue())
        assert 1 == out.getvalue().count("\n")
        assert "\\u" not in out.getvalue()

    def test_bytes_are_base64_and_told_once(self, printer, out, notes):
        """JSON has no bytes: whoever reads the answer must know what became of them."""
        printer.print({"key": b"\x00\xff", "list": [b"\x01"]})
        printer.print(b"")

        assert ['{"key": "AP8=", "list": ["AQ=="]}', '""'] == out.getvalue().splitlines()
        assert "bytes are shown in base64\n" == notes.getvalue()

    def test_what_only_an_own_serializer_can_send_is_its_text(self, printer, out):
        """An answer is shown, even where it has no form in JSON."""
        printer.print({1 + 2j})

        assert '"{(1+2j)}"\n' == out.getvalue()

    @pytest.mark.row(46)
    @pytest.mark.parametrize("text", ["\x1b[2J", "a\x9bb", "\u202eevil", "\u2028"])
    def test_an_answer_does_not_drive_the_terminal(self, printer, out, text):
        """What a peer sends is escaped the JSON way, so it is still the same text for a program."""
        printer.print([text])

        assert [text] == json.loads(out.getvalue())
        assert out.getvalue().strip().isascii()

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", None])
    def test_an_output_that_is_not_unicode_gets_ascii(self, notes, encoding):
        """A pipe in the C locale gets JSON's escapes instead of an error."""
        out = io.StringIO()
        printer = Printer(type("Out", (io.StringIO,), {"encoding": encoding})(), notes)

        assert '"na\\u00efve"' == printer.text("naïve")
        assert "" == out.getvalue()


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ([], "the following arguments are required: URL, PATH"),
            ([URL, "/", "hi"], "the payload is no JSON: Expecting value: line 1 column 1 (char 0)"),
            ([URL, "/", '{"a": NaN}'], "the payload is no JSON: NaN is no JSON number"),
            ([URL, "/", "[" * 100_000], "the payload is no JSON: maximum recursion depth exceeded"),
            ([URL, "/", "--timeout", "soon"], "argument --timeout: 'soon' is no number of seconds"),
            ([URL, "/", "--timeout", "0"], "argument --timeout: 0 is not above 0"),
            ([URL, "/", "--timeout", "nan"], "argument --timeout: nan is not above 0"),
            ([URL, "/", "--header", "token"], "argument --header: 'token' is not of the form name=value"),
            ([URL, "/", "--header", "=x"], "argument --header: '=x' is not of the form name=value"),
        ],
    )
    def test_a_mistake_is_one_line_and_status_2(self, arguments, reason, capsys):
        """What makes no sense is told before anything is dialled."""
        with pytest.raises(SystemExit) as caught:
            main(arguments)

        out, err = capsys.readouterr()
        assert (2, "", 1) == (caught.value.code, out, err.count("\n"))
        assert err.startswith(f"webmesh call: error: {reason}")

    def test_stdin_that_is_no_json(self, monkeypatch, capsys):
        """The payload from standard input is checked in the same way."""
        monkeypatch.setattr(sys, "stdin", io.StringIO("{"))

        with pytest.raises(SystemExit):
            main([URL, "/", "-"])

        assert "the payload is no JSON" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ([URL, "/", "--serializer", "pickle"], "no serializer 'pickle'"),
            (["http:/x", "/"], ""),
        ],
    )
    def test_a_mistake_that_needs_the_library_is_the_same(self, arguments, reason, capsys):
        """A serializer that is not there or a URL that is none: status 2, one line."""
        assert 2 == main(arguments)

        out, err = capsys.readouterr()
        assert ("", 1) == (out, err.count("\n"))
        assert err.startswith(f"webmesh call: {reason}")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("no airport"), 1),
        (RemoteError("x", code="novel"), 1),
        (DeadlineExceeded(), 4),
        (RequestTimeout("/", 1.0), 4),
        (ConfigurationError("bad URL"), 2),
        (EncodeError("no"), 2),
        (ConnectFailed("x", []), 3),
        (HandshakeRejected(503, "full"), 3),
        (ConnectionClosed(), 3),
        (ReplyLost("/", started=True), 3),
        (RemoteProtocolError("no"), 1),
    ],
)
def test_every_error_has_its_status(error, status):
    """1 the other side, 2 we, 3 the way, 4 the time."""
    assert status == next(known for cls, known in STATUSES if isinstance(error, cls))
