"""What stands beside a publication that is kept."""

import pytest

from webmesh.brokers.base import Keep
from webmesh.brokers.nats_marks import mark_for, read_mark


@pytest.mark.parametrize(
    ("keep", "offset", "text"),
    [
        (Keep(history=5), 8, "8 e1 5 - n."),
        (Keep(history=5, ttl=1.5, retain=True), 8, "8 e1 5 1500 nr."),
        (Keep(retain=True), None, "7 e1 0 - r."),
        (Keep(ack=True), 8, "8 e1 0 - na."),
    ],
)
def test_a_mark_is_read_as_it_was_written(keep: Keep, offset: int | None, text: str):
    """What is not numbered leaves the count as it is."""
    mark = mark_for(keep, 7, "e1")
    assert text == str(mark)
    assert mark == read_mark(text)
    assert offset == mark.offset


@pytest.mark.row(98)
@pytest.mark.parametrize(
    "text",
    ["", "8 e1 5 - n", "-8 e1 5 - n.", "08 e1 5 - n.", "8 E1 5 - n.", "8 e1 5 - an.", "8 e1 5 x n.", "8 e1 5 - n.\n",
     f"{10**16} e1 5 - n.", "8 e1 5 - n. 9", "\u0668 e1 5 - n."],
)  # fmt: skip
def test_what_no_node_writes_is_no_mark(text: str):
    """Numbers are ASCII, not negative and below 2^53."""
    with pytest.raises(ValueError, match="mark"):
        read_mark(text)


def test_without_a_mark_there_is_none():
    """As with live messages."""
    assert read_mark(None) is None
