"""Exponential backoff for operations whose completion can be detected only by retrying.

For example, a member that keeps its partitions in a rebalance is not notified of the end of the
join. And no event reports that a broker is available again.
"""

from __future__ import annotations

import math

import trio

_FIRST = 0.02


class Backoff:
    """A series of waits, each twice as long as the one before it, from 0.02 seconds on.

    Args:
        longest: the longest wait, in seconds.
        patience: the time from now on in which retries are allowed, in seconds.
    """

    def __init__(self, longest: float, patience: float = math.inf) -> None:
        self._longest = longest
        self._next = _FIRST
        self._give_up = trio.current_time() + patience

    @property
    def is_spent(self) -> bool:
        """Whether the next retry would come after the patience has ended."""
        return trio.current_time() + self._next > self._give_up

    async def wait(self) -> None:
        """Wait before the next retry. A checkpoint."""
        await trio.sleep(self._next)  # no event reports that the cause of a failure is gone
        self._next = min(self._next * 2, self._longest)
