"""What a URL names: the parts that engines and discoveries share."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.exceptions import ConfigurationError
from webmesh.url_openers import open_url


def opened(url: str, *, depth: int = 1) -> tuple[str, int]:
    return url, depth


OPENERS: dict[str, Any] = {"a": opened, "b": "tests.test_url_openers:opened"}


@pytest.mark.parametrize("scheme", ["a", "b", "B"])
def test_a_scheme_has_its_opener_or_the_place_of_one(scheme: str) -> None:
    """Whatever its case; with options."""
    assert (f"{scheme}://x", 3) == open_url("thing", OPENERS, f"{scheme}://x", {"depth": 3})


@pytest.mark.parametrize("url", ["c://user:s3cret@x", "nothing", "", 5])
def test_what_there_is_not_is_told_without_the_url(url: Any) -> None:
    """A password may stand in it."""
    with pytest.raises(ConfigurationError, match="no thing has .* a://, b://") as caught:
        open_url("thing", OPENERS, url, {})
    assert "s3cret" not in str(caught.value)


def test_an_option_that_is_not_taken_is_told() -> None:
    """With the scheme that does not take it."""
    with pytest.raises(ConfigurationError, match="the thing of a:// does not take these options"):
        open_url("thing", OPENERS, "a://x", {"width": 3})
