"""Flow control: whether messages are delivered, and which partitions are fetched from.

Delivery is stopped and resumed as a whole, by a Gate. Fetching is stopped per partition, and only
declared here: the fetcher compares what is wanted with what the client was told, between two
polls, and tells it the difference. So nobody has to undo a pause that a rebalance took away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import trio

from nurseries import Gate
from transport.types import TP


class Flow:
    """What of a consumer's partitions may move.

    Attributes:
        gate: open while messages are delivered.
        active: the same, as a plain value for the fast path.
        paused: partitions that the user has paused; only assigned ones.
        ignored: how often a pause or a resume named a partition that was not assigned.
    """

    def __init__(self) -> None:
        self.gate = Gate()
        self.active = True
        self.paused: set[TP] = set()
        self.ignored = 0
        # Open while no poll is under way that could bring records to be delivered.
        self.not_fetching = Gate()

    @trio.lowlevel.enable_ki_protection
    def stop(self) -> None:
        """Deliver nothing from now on."""
        self.active = False
        self.gate.close()

    @trio.lowlevel.enable_ki_protection
    def resume(self) -> None:
        """Deliver again."""
        self.active = True
        self.gate.open()

    def pause(self, tps: Iterable[TP], assigned: Collection[TP]) -> None:
        for tp in tps:
            if tp in assigned:
                self.paused.add(tp)
            else:
                self.ignored += 1

    def unpause(self, tps: Iterable[TP], assigned: Collection[TP]) -> None:
        for tp in tps:
            if tp in assigned:
                self.paused.discard(tp)
            else:
                self.ignored += 1

    def forget(self, tps: Iterable[TP]) -> None:
        """The partitions are not ours any more: a pause does not outlive that."""
        self.paused.difference_update(tps)
