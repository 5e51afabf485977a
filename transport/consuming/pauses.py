"""The pauses of a client, as they are and as they should be.

Pauses have two sources: the user (`Flow`), and full channels (the conductor). Before each poll the
polling task applies the difference to the client.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio

from transport.delivering.flow import Flow
from transport.types import TP


class Pauses:
    """The pauses of one client.

    Args:
        assigned: the partitions of the consumer.
        is_held_back: whether a partition has no channel, or a channel that has enough.
    """

    def __init__(
        self, assigned: Collection[TP], flow: Flow, is_held_back: Callable[[TP], bool]
    ) -> None:
        self._assigned = assigned
        self._flow = flow
        self._is_held_back = is_held_back
        self._paused: frozenset[TP] = frozenset()  # at the client
        self._since: dict[TP, float] = {}  # by trio's clock

    def is_wanted(self, tp: TP) -> bool:
        """Return whether to fetch from the partition: it is not stopped, paused or held back."""
        flow = self._flow
        return flow.active and tp not in flow.paused and not self._is_held_back(tp)

    def changes(self) -> tuple[frozenset[TP], frozenset[TP]]:
        """Return the partitions to pause and those to resume at the client."""
        unwanted = frozenset(tp for tp in self._assigned if not self.is_wanted(tp))
        if not self._flow.active:
            unwanted |= self._paused  # while flow is stopped, no dropped partition is resumed
        return unwanted - self._paused, self._paused - unwanted

    def note_applied(self, paused: frozenset[TP], resumed: frozenset[TP]) -> None:
        """Note the pauses and resumes that the client has made."""
        self._set((self._paused | paused) - resumed)

    def paused_at_start(self, tps: frozenset[TP]) -> frozenset[TP]:
        """Return which of these partitions must start paused; note that the client starts all."""
        paused = frozenset(tp for tp in tps if not self.is_wanted(tp))
        self._set(self._paused - tps | paused)
        return paused

    def forget(self, tps: frozenset[TP]) -> None:
        """Note that the client has started these partitions without a pause."""
        self._set(self._paused - tps)

    def full_since(self) -> dict[TP, float]:
        """Return the partitions that are paused because a channel has enough, and since when.

        The time is on trio's clock. A channel that is not full fetches again after the next poll.
        """
        return {tp: since for tp, since in self._since.items() if self._is_full(tp)}

    def _is_full(self, tp: TP) -> bool:
        is_chosen = self._flow.active and tp not in self._flow.paused
        return is_chosen and tp in self._assigned and self._is_held_back(tp)

    def _set(self, paused: frozenset[TP]) -> None:
        if paused != self._paused:
            now = trio.current_time()
            self._since = {tp: self._since.get(tp, now) for tp in paused}
            self._paused = paused
