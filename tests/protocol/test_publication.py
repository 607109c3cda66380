"""What publish options mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webmesh.exceptions import InvalidArgument
from webmesh.protocol.publication import OPTION_SIZE, Publication, option_headers, read_publication, read_stored


def read(headers=None) -> Publication:
    return read_publication("a", 1, headers, publisher="me", now=100.0)


def test_without_options():
    """Nothing ends, nothing is left out."""
    publication = read()
    assert Publication("a", 1, publisher="me", at=100.0) == publication
    assert not publication.expired(1e12)
    assert publication.left_ms(1e12) is None


def test_options_travel_in_headers():
    """What is written on one side is read on the other, beside the publisher's own headers."""
    headers = option_headers(
        {"traceparent": "00-1"}, ttl=1.5, dedupe_id="d", conflate_key="c", key="k", exclude_self=True
    )
    publication = read(headers)
    assert (1.5, "d", "c", "k", True) == (
        publication.ttl, publication.dedupe_id, publication.conflate_key, publication.key, publication.exclude_self
    )  # fmt: skip
    assert "00-1" == publication.headers["traceparent"]


def test_no_option_is_no_header():
    """Absent options cost nothing on the wire."""
    assert {} == option_headers()


def test_a_time_to_live_counts_down():
    """From when it was accepted; what is left is told to the next node."""
    publication = read({"ttl-ms": "1500"})
    assert (1500, 500) == (publication.left_ms(100.0), publication.left_ms(101.0))
    assert not publication.expired(101.4)
    assert publication.expired(101.5)
    assert 1 == publication.left_ms(200.0)


@pytest.mark.parametrize(
    "headers",
    [
        {"ttl-ms": "0"}, {"ttl-ms": "-1"}, {"ttl-ms": "1.5"}, {"ttl-ms": "\u0661"}, {"ttl-ms": "9" * 12},
        {"ttl-ms": "9" * 5000}, {"dedupe-id": ""}, {"conflate-key": "x" * (OPTION_SIZE + 1)}, {"key": ""},
        {"exclude-self": "yes"}, {"will": "lost"},
    ],
)  # fmt: skip
def test_an_option_that_makes_no_sense_is_refused(headers):
    """Also a peer's claim to be somebody's last will."""
    with pytest.raises(InvalidArgument):
        read(headers)


def test_what_a_node_accepted_before_is_read_again():
    """As it was; a will's message too."""
    headers = {"ttl-ms": "1000", "will": "lost"}
    assert Publication("a", 1, headers, ttl=1.0, at=5.0) == read_stored("a", 1, headers, at=5.0)


def test_the_retained_value_is_marked():
    """And the publication itself is not."""
    publication = read()
    assert publication.as_retained().retained
    assert not publication.retained


@given(st.dictionaries(st.sampled_from(["ttl-ms", "dedupe-id", "conflate-key", "key", "exclude-self"]), st.text()))
def test_any_headers_are_read_or_refused(headers):
    """No text of a peer's raises anything else."""
    try:
        publication = read(headers)
    except InvalidArgument:
        return
    assert publication.ttl is None or 0 < publication.ttl < 1e9
