"""One change of ownership that stands until it is released, or until its bound has passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from transport.drivers.base import Rebalance, RebalanceKind
from transport.drivers.memory.membership import Change
from transport.types import TP


class PendingRebalance:
    """Holds a `Rebalance` for those above, and its timer.

    The bound holds whether or not a poll is under way, so the timer is a task of its own; it
    lasts as long as the change stands.

    Args:
        bound: seconds from now.
        start: takes the positions, and the partitions to pause, with which an ASSIGNED was
            released in time.
        released: called at each release, in time or not.

    Attributes:
        settled: set by the release or by the expiry.
    """

    def __init__(
        self,
        change: Change,
        bound: float,
        start: Callable[[Mapping[TP, int], frozenset[TP]], None],
        released: Callable[[], None],
    ) -> None:
        self.settled = trio.Event()
        self.rebalance = Rebalance(
            change.kind,
            change.partitions,
            change.generation,
            bound,
            self._release,
            of_new_topic=change.of_new_topic,
        )
        self._start = start
        self._released = released
        trio.lowlevel.spawn_system_task(
            self._run_timer, trio.current_time() + bound, name="bound of a rebalance"
        )

    def expire(self) -> None:
        """The client goes on without a release."""
        if not self.settled.is_set():
            self.rebalance.expired.set()
            self.settled.set()

    def _release(self, seek: Mapping[TP, int], pause: frozenset[TP]) -> None:
        if not self.settled.is_set():
            if self.rebalance.kind is RebalanceKind.ASSIGNED:
                self._start(seek, pause)
            self.settled.set()
        self._released()

    @trio.lowlevel.enable_ki_protection
    async def _run_timer(self, deadline: float) -> None:
        with trio.move_on_at(deadline):
            await self.settled.wait()
        self.expire()
