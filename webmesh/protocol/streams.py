"""The two ends of a series of items: who may send how many, and in which order they came.

Pure counting. The items themselves, and who waits for them, belong to the layers above. Wire form:
docs/PROTOCOL.md section 2, "Streams".
"""

from __future__ import annotations


class ItemSender:
    """Numbers the items of one direction and keeps to the receiver's credit.

    Args:
        credit: Items that may be sent now; `None` when only TCP bounds the sender.
    """

    __slots__ = ("credit", "seq")

    def __init__(self, credit: int | None) -> None:
        self.credit = credit
        self.seq = 0

    @property
    def ready(self) -> bool:
        """Whether one more item may be sent now."""
        return self.credit is None or self.credit > 0

    def take(self) -> int:
        """The number of the item that is being sent; the caller has asked `ready`."""
        seq = self.seq
        self.seq = seq + 1
        if self.credit is not None:
            self.credit -= 1
        return seq

    def grant(self, credit: int) -> None:
        """The receiver allows *credit* more items; without a first bound there is nothing to count."""
        if self.credit is not None:
            self.credit += credit


class ItemReceiver:
    """Checks the numbers of the items that arrive, and says when to grant more.

    Args:
        window: Items that may be on their way or unread at once.
    """

    __slots__ = ("allowance", "consumed", "seq", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.allowance = window
        self.consumed = 0
        self.seq = 0

    def accept(self, seq: int) -> str | None:
        """Count one item in; the text of the fault when it is out of order or beyond the credit."""
        if seq != self.seq:
            return f"item {seq} came where item {self.seq} was due"
        if self.allowance <= 0:
            return f"item {seq} is beyond the credit of {self.window}"
        self.seq = seq + 1
        self.allowance -= 1
        return None

    def consume(self) -> int:
        """One item was handed on. Returns the credit to grant now, mostly 0.

        Credit goes back in halves of the window: one message for many items, and the sender never
        runs dry while the reader keeps up.
        """
        self.consumed += 1
        if self.consumed * 2 < self.window:
            return 0
        credit = self.consumed
        self.consumed = 0
        self.allowance += credit
        return credit
