"""GroupShares: who of a group's nodes gets what, and that nothing is lost between them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from webmesh.protocol.group_shares import GroupShares


def shares(**windows: int) -> GroupShares:
    made = GroupShares()
    for node, window in windows.items():
        made.join(node, window)
    return made


def test_work_goes_to_who_has_least_to_do_for_its_window() -> None:
    """In the order in which it came, and never more than a window."""
    made = shares(a=1, b=3)
    for token in range(6):
        made.add(token, f"w{token}")
    assert ["a", "b", "b", "b"] == [node for node, _, _ in made.give()]
    assert [] == made.give()
    assert made.done("b", 1) and not made.done("b", 1) and not made.done("a", 2)
    assert [("b", 4, "w4")] == made.give()


def test_what_a_node_has_not_done_goes_to_others_before_what_is_newer() -> None:
    """It has waited longest."""
    made = shares(a=2)
    for token in range(3):
        made.add(token, token)
    made.give()
    made.leave("a")
    assert "a" not in made and 0 == len(made) and not made.done("a", 0)
    made.join("b", 5)
    assert [("b", 0, 0), ("b", 1, 1), ("b", 2, 2)] == made.give()


def test_another_window_takes_effect() -> None:
    """More at once; or less, once what it has is done."""
    made = shares(a=1)
    for token in range(3):
        made.add(token, token)
    assert 1 == len(made.give())
    made.join("a", 3)
    assert (2, 3, "a") == (len(made.give()), made.window, made.any())


@given(st.lists(st.tuples(st.sampled_from(["join", "leave", "add", "done"]), st.integers(0, 3)), max_size=40))
def test_each_piece_is_done_once_by_one_who_has_it(events: list[tuple[str, int]]) -> None:
    """Whoever comes and goes."""
    made, number, held, done = GroupShares(), 0, {}, set()
    for what, index in events:
        node = "abcd"[index]
        if what == "join":
            made.join(node, index + 1)
        elif what == "leave":
            made.leave(node)
            held = {token: holder for token, holder in held.items() if holder != node}
        elif what == "add":
            made.add(number, number)
            number += 1
        else:
            mine = [token for token, holder in held.items() if holder == node]
            if mine:
                assert made.done(node, mine[0])
                done.add(mine[0])
                del held[mine[0]]
        for holder, token, work in made.give():
            assert token == work and token not in held and token not in done
            held[token] = holder
    made.join("z", 1000)
    held |= {token: "z" for _, token, _ in made.give()}
    assert set(range(number)) == set(held) | done
