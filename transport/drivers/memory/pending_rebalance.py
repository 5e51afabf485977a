"""A rebalance that is pending until it is released or expires."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from transport.drivers.base import Rebalance, RebalanceKind
from transport.drivers.memory.membership import Change
from transport.types import TP


class PendingRebalance:
    """A `Rebalance` that has not been released yet, and its timer.

    The bound applies even if no poll is under way. So the timer is a separate task, which ends when
    the rebalance is released or expires.

    Args:
        bound: seconds from now to the expiry.
        start: called when an ASSIGNED is released in time, with the positions and the partitions to
            pause.
        released: called at each release, also after the expiry.

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
        """Let the client continue without a release."""
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
