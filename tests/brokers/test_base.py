"""What the contract itself decides."""

import pytest

from webmesh.brokers.base import Broker, Keep, in_parts


@pytest.mark.parametrize(
    ("keep", "numbered"),
    [(Keep(), False), (Keep(retain=True), False), (Keep(history=1), True), (Keep(ack=True), True)],
)
def test_what_can_be_asked_for_again_has_a_number(keep: Keep, numbered: bool):
    """Offsets are for history and for acknowledgements; a retained value alone needs none."""
    assert numbered is keep.numbered


def test_an_engine_must_do_all_of_it():
    """One that lacks a part cannot be made at all, rather than fail when that part is needed."""
    with pytest.raises(TypeError):
        type("Half", (Broker,), {"start": lambda self, sink: None})()


def test_records_come_in_parts():
    """Each in one, in their order; none of none."""
    records = dict.fromkeys("abcde", 1)
    assert ["ab", "cd", "e"] == ["".join(part) for part in in_parts(records, 2)]
    assert [] == list(in_parts({}, 2))
