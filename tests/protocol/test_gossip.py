"""News, and whole states compared."""

from __future__ import annotations

from typing import Any

import pytest

from webmesh.exceptions import InvalidArgument
from webmesh.protocol.claims import Claim, claim_of
from webmesh.protocol.gossip import (
    Index, News, differences, digest, encoded_size, index_to_wire, read_ids, read_index, read_news,
)  # fmt: skip
from webmesh.protocol.node_record import NodeRecord


def say(node: str) -> Claim | None:
    return None if node == "gone" else claim_of(NodeRecord(id=node, epoch=1))


def ids(news: list[dict[str, Any]]) -> list[str]:
    return [claim["node"]["id"] for claim in news]


def news_of(*nodes: str, size: int = 1024) -> News:
    news = News(size)
    for node in nodes:
        news.add(node)
    return news


@pytest.mark.parametrize(("nodes", "times"), [(1, 8), (9, 8), (10, 12), (99, 12), (199, 16)])
def test_news_is_told_a_bounded_number_of_times(nodes: int, times: int) -> None:
    """Which grows with the digits of the number of nodes; then there is none any more."""
    news = news_of("a")

    told = [bool(news.take(nodes, say)) for _ in range(times + 1)]

    assert [True] * times + [False] == told
    assert not news


def test_a_message_holds_as_much_as_fits() -> None:
    """What was told least comes first, so that all of it is told in turn."""
    news = news_of("a", "b", "c", size=2 * encoded_size(say("a").to_wire()))  # type: ignore[union-attr]

    assert [["a", "b"], ["c", "a"], ["b", "c"]] == [ids(news.take(5, say)) for _ in range(3)]


def test_one_that_is_too_big_goes_alone() -> None:
    """Else it would never go."""
    news = news_of("a", "b", size=1)

    assert [["a"], ["b"]] == [ids(news.take(5, say)), ids(news.take(5, say))]


def test_the_receiver_is_not_told_what_it_has_just_told() -> None:
    """Nor does that count as told."""
    news = news_of("a", "b")

    assert ["b"] == ids(news.take(5, say, known=frozenset("a")))
    assert ["a", "b"] == ids(news.take(5, say))


def test_who_is_named_first_stands_there_in_any_case() -> None:
    """Once, whether there is other news of it or not."""
    assert ["z", "a", "b"] == ids(news_of("a", "b").take(5, say, first=("z", "a", "a")))


def test_news_of_who_is_forgotten_passes() -> None:
    """There is nothing to say any more."""
    news = news_of("gone")
    for _ in range(20):
        assert [] == news.take(5, say)
    assert not news


def test_what_is_no_claim_does_not_hide_the_rest() -> None:
    """A later version may word some otherwise; they are counted."""
    news = [None, say("a").to_wire(), {"id": "x"}]  # type: ignore[union-attr]
    claims, malformed = read_news({"news": news}, 10, "b")

    assert ([say("a")], 2) == (claims, malformed)


@pytest.mark.parametrize("news", ["text", {"a": 1}, 7, [{}] * 11])
def test_what_is_no_list_of_claims_is_refused(news: Any) -> None:
    """Nor is one that is longer than any honest one."""
    with pytest.raises(InvalidArgument):
        read_news({"news": news}, 10, "b")


def test_ids_are_read_with_distrust() -> None:
    """A list of text, or nothing."""
    assert ["a"] == read_ids(["a", 1, None], 5)
    assert [] == read_ids("ab", 5) == read_ids(["a"] * 6, 5) == read_ids(None, 5)


INDEX: Index = {"a": (1, 2, "ok"), "b": (1, 1, "lost")}


def test_the_same_state_has_the_same_digest() -> None:
    """Whatever the order; a suspicion, which passes by itself, makes no difference, a loss does."""
    assert digest(INDEX) == digest(dict(reversed(INDEX.items()))) == digest({**INDEX, "a": (1, 2, "suspect")})
    assert digest(INDEX) != digest({**INDEX, "a": (1, 2, "dead")})
    assert digest(INDEX) != digest({**INDEX, "a": (1, 3, "ok")})


def test_an_index_survives_the_wire() -> None:
    """As weights; what makes no sense is left out."""
    wire = index_to_wire(INDEX)
    odd = {"c": [1, 1], "d": [1, "1", "ok"], "e": [1, 1, "odd"], "f": "x", "g": [-1, 1, "ok"], 7: [1, 1, "ok"]}

    assert {"a": (1, 2, 0), "b": (1, 1, 2)} == read_index({**wire, **odd}, 10)


def test_each_side_gets_what_the_other_knows_better() -> None:
    """And what only one of them knows."""
    ours, theirs = {"a": (1, 2, 0), "b": (1, 1, 0), "c": (1, 1, 0)}, {"a": (1, 1, 3), "b": (1, 1, 0), "d": (1, 1, 2)}

    assert (["d"], ["a", "c"]) == differences(theirs, ours, 10)
    assert ([], ["a", "c"]) == differences(theirs, ours, 0)


@pytest.mark.parametrize("value", [None, [], "x", dict.fromkeys(map(str, range(11)))])
def test_what_is_no_index_is_refused(value: Any) -> None:
    """Also one of more nodes than a mesh has."""
    with pytest.raises(InvalidArgument):
        read_index(value, 10)
