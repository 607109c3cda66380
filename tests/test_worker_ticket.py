"""WorkerTicket: what a worker is told."""

from __future__ import annotations

from webmesh.worker_ticket import WorkerTicket, read_ticket


def test_a_ticket_arrives_as_it_was_given() -> None:
    """In one line; its secret stands in no log."""
    ticket = WorkerTicket(
        slot=2, life=7, folder="/run/webmesh-x", secret="s" * 64, host="::", port=4269, fellows=1
    )  # fmt: skip
    text = ticket.to_text()
    assert ticket == read_ticket(text) and "\n" not in text
    assert "sss" not in repr(ticket)
    assert "webmesh-x" == ticket.group
