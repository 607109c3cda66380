"""The command line of `serve`: what is read from it, and one line for what makes no sense."""

from __future__ import annotations

import argparse

import pytest

from webmesh.cli.arguments import ServeOptions, integer, parse_serve_options
from webmesh.options import DEFAULT_PORT

from tests.processes import run_program


def parse(*arguments: str) -> ServeOptions:
    return parse_serve_options(arguments, "webmesh serve")


def test_nothing_given_is_the_default():
    """Without arguments: patched, on the loopback interface, at the default port, text at level info."""
    options = parse()

    assert ServeOptions() == options
    assert (True, "127.0.0.1", DEFAULT_PORT, "info", "text") == (
        options.patch, options.host, options.port, options.log_level, options.log_format,
    )  # fmt: skip


def test_what_the_program_may_have_set_is_left_alone():
    """An option that was not given is None, so it overrides nothing."""
    options = parse("app")

    assert {None} == {
        options.serializer, options.pool_size, options.threads, options.certfile, options.keyfile, options.client_ca,
    }  # fmt: skip


def test_everything_given():
    """Each option lands in its field."""
    options = parse(
        "app:api", "--no-patch", "--host", "::1", "--port", "0",
        "--certfile", "c", "--keyfile", "k", "--client-ca", "a", "--serializer", "json",
        "--pool-size", "9", "--threads", "3", "--log-level", "debug", "--log-format", "json",
        "--metrics", "--reload", "--report-to", "7",
    )  # fmt: skip

    assert options == ServeOptions(
        target="app:api", patch=False, host="::1", port=0, certfile="c", keyfile="k", client_ca="a",
        serializer="json", pool_size=9, threads=3, log_level="debug", log_format="json", reload=True, report_to=7,
        metrics=True, addressed=True,
    )  # fmt: skip


def test_unix_socket():
    """A path is enough."""
    assert "/run/shop.sock" == parse("--unix", "/run/shop.sock").unix


def test_an_empty_host_is_all_interfaces():
    """The empty text is a host, not the absence of one."""
    assert "" == parse("--host", "").host


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--port", "x"], "argument --port: 'x' is no whole number"),
        (["--port", "65536"], "argument --port: 65536 is not from 0 to 65535"),
        (["--port", "-1"], "argument --port: -1 is not from 0 to 65535"),
        (["--pool-size", "0"], "argument --pool-size: 0 is not from 1 up"),
        (["--threads", "0"], "argument --threads: 0 is not from 1 up"),
        (["--unix", "/s", "--port", "1"], "--unix takes no --host and no --port"),
        (["--unix", "/s", "--host", "::1"], "--unix takes no --host and no --port"),
        (["--keyfile", "k"], "--keyfile needs --certfile"),
        (["--client-ca", "a"], "--client-ca needs --certfile"),
        (["--log-level", "loud"], "argument --log-level: invalid choice: 'loud'"),
        (["--log-format", "xml"], "argument --log-format: invalid choice: 'xml'"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["a", "b"], "unrecognized arguments: b"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, reason, capsys):
    """What makes no sense is said in one line on standard error, and the usage is not repeated."""
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)

    out, err = capsys.readouterr()
    assert (2, "") == (caught.value.code, out)
    assert err.startswith(f"webmesh serve: error: {reason}")
    assert 1 == err.count("\n")


def test_help_names_every_option(capsys):
    """--help tells all options but the one between parent and child of --reload, and the exit statuses."""
    with pytest.raises(SystemExit) as caught:
        parse("--help")

    out = capsys.readouterr().out
    assert 0 == caught.value.code
    for option in (
        "--no-patch", "--host", "--port", "--unix", "--certfile", "--keyfile", "--client-ca", "--serializer",
        "--pool-size", "--threads", "--log-level", "--log-format", "--metrics", "--reload",
    ):  # fmt: skip
        assert option in out
    assert "--report-to" not in out
    assert "143 or 130" in " ".join(out.split())


@pytest.mark.parametrize("text", ["1", "7", "10"])
def test_integer_takes_its_range(text):
    """The ends belong to the range."""
    assert int(text) == integer(1, 10)(text)


@pytest.mark.parametrize("text", ["0", "11", "", "1.5", "ten"])
def test_integer_refuses_the_rest(text):
    """What is outside, or no whole number, is an error of the argument."""
    with pytest.raises(argparse.ArgumentTypeError):
        integer(1, 10)(text)


@pytest.mark.row(90)
def test_reading_the_command_line_touches_no_socket():
    """Until the options are known, nothing is imported that patching would come too late for."""
    program = (
        "import sys, webmesh.serve, webmesh.cli.main\n"
        "print(sorted({'ssl', 'socket', 'select', 'selectors', 'queue', 'subprocess', 'gevent'} & set(sys.modules)))"
    )

    assert "[]\n" == run_program(program)
