"""The two ends of a series of items: who may send how many, and in which order they came.

Pure counting. The items themselves, and who waits for them, belong to the layers above. Wire form:
docs/PROTOCOL.md section 2, "Streams".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webmesh.protocol.retained import Retained


class ItemSender:
    """Numbers the items of one direction and keeps to the receiver's credit.

    Args:
        credit: Items that may be sent now; `None` when only TCP bounds the sender.

    Attributes:
        retained: The items that the receiver may not have yet, where the stream outlives its connection.
    """

    __slots__ = ("_granted", "_window", "credit", "retained", "seq")

    def __init__(self, credit: int | None) -> None:
        self.credit = credit
        self.seq = 0
        self.retained: Retained | None = None
        self._window = credit or 0
        self._granted = 0

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
        """The receiver allows *credit* more items; without a first bound there is nothing to count.

        It does so for as many that it has taken, which need not be retained any longer.
        """
        if self.credit is not None:
            self.credit += credit
        if self.retained is not None:
            self._granted = min(self._granted + credit, self.seq)
            self.retained.acknowledge(self._granted)

    def resume(self, seq: int, credit: int) -> bool:
        """The receiver has had *seq* items and allows *credit* more from there on; False when it misses some that
        are not retained. `retained.after(seq)` is to be sent once more."""
        retained = self.retained
        if retained is None or not retained.first <= seq <= self.seq or seq + credit < self.seq:
            return False
        retained.acknowledge(seq)
        # What has come and waits for its reader there: credit for it is still to come, and acknowledges nothing.
        self._granted = max(0, min(seq, seq + credit - self._window))
        self.credit = seq + credit - self.seq
        return True


class ItemReceiver:
    """Checks the numbers of the items that arrive, and says when to grant more.

    Args:
        window: Items that may be on their way or unread at once.

    Attributes:
        seq: Number of the item that comes next.
        allowance: Items that may still come.
        resumed: Items that had come when the stream went on over a new connection: they may come again.
    """

    __slots__ = ("allowance", "consumed", "resumed", "seq", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.allowance = window
        self.consumed = 0
        self.resumed = 0
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
