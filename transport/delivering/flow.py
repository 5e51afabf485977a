"""Flow control: whether messages are delivered, and which partitions are paused.

Delivery is stopped and resumed for the whole consumer, by a Gate. Fetching is paused per partition.
This module only stores which partitions the user has paused. Between two polls, the polling task
pauses and resumes partitions at the client to match. So no code has to repair the client's pauses
after a rebalance.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import trio

from nurseries import Gate
from transport.types import TP


class Flow:
    """The switch for all delivery of a consumer, and its paused partitions.

    Attributes:
        gate: open while messages are delivered.
        active: whether the gate is open, as a plain bool because it is read for each message.
        paused: the assigned partitions that the user has paused.
        ignored: how often `pause` or `unpause` named a partition that was not assigned.
        not_fetching: open while no poll is in progress that could return records for delivery.
    """

    def __init__(self) -> None:
        self.gate = Gate()
        self.active = True
        self.paused: set[TP] = set()
        self.ignored = 0
        self.not_fetching = Gate()

    @trio.lowlevel.enable_ki_protection
    def stop(self) -> None:
        """Stop all delivery."""
        self.active = False
        self.gate.close()

    @trio.lowlevel.enable_ki_protection
    def resume(self) -> None:
        """Restart delivery."""
        self.active = True
        self.gate.open()

    def pause(self, tps: Iterable[TP], assigned: Collection[TP]) -> None:
        """Store these pauses of the user. Count the partitions that are not assigned."""
        for tp in tps:
            if tp in assigned:
                self.paused.add(tp)
            else:
                self.ignored += 1

    def unpause(self, tps: Iterable[TP], assigned: Collection[TP]) -> None:
        """Undo `pause`."""
        for tp in tps:
            if tp in assigned:
                self.paused.discard(tp)
            else:
                self.ignored += 1

    def forget(self, tps: Iterable[TP]) -> None:
        """Remove the pauses of partitions that were revoked or lost."""
        self.paused.difference_update(tps)
