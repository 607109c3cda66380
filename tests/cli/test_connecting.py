"""How commands get to a node."""

from __future__ import annotations

import argparse

import pytest

from webmesh.cli.connecting import add_login, add_url, dialling, finite_seconds, login, seconds
from webmesh.exceptions import ConfigurationError


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_url(parser)
    add_login(parser)
    return parser.parse_args(arguments)


def test_without_a_token_there_is_no_login():
    """Nothing is sent that would be refused."""
    assert {} == login(options("ws://a"))


@pytest.mark.parametrize("token", ["", "two words", "\u00e4"])
def test_what_is_no_token_is_refused_and_not_quoted(token, monkeypatch):
    """It may be a secret all the same."""
    monkeypatch.setenv("A_TOKEN", token)
    with pytest.raises(ConfigurationError, match="no token in the variable A_TOKEN: one is"):
        login(options("ws://a", "--token-env", "A_TOKEN"))


def test_a_token_is_shown_at_the_upgrade(monkeypatch):
    """As a bearer's."""
    monkeypatch.setenv("A_TOKEN", " abc\n")
    assert {"Authorization": "Bearer abc"} == login(options("ws://a", "--token-env", "A_TOKEN"))


def test_a_wrong_url_is_told_before_anything_is_dialled():
    """As a mistake of the command line."""
    with pytest.raises(ConfigurationError):
        dialling(options("http://a"))


@pytest.mark.parametrize("text", ["0", "-1", "nan", "soon"])
def test_what_is_no_time_is_refused(text):
    """Seconds above 0."""
    with pytest.raises(argparse.ArgumentTypeError):
        seconds(text)


def test_some_times_must_end():
    """Others may last for ever."""
    assert float("inf") == seconds("inf")
    with pytest.raises(argparse.ArgumentTypeError, match="an end"):
        finite_seconds("inf")
