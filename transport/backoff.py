"""Waiting between the tries of what nothing tells the end of but trying.

A member that keeps what it has is not told that a join is over, and nobody is told that a broker is
back.
"""

from __future__ import annotations

import math

import trio

_FIRST = 0.02


class Backoff:
    """Waits, each twice as long as the one before it.

    Args:
        longest: seconds of the longest wait.
        patience: seconds from now on that tries are made for.
    """

    def __init__(self, longest: float, patience: float = math.inf) -> None:
        self._longest = longest
        self._next = _FIRST
        self._give_up = trio.current_time() + patience

    @property
    def is_spent(self) -> bool:
        """Whether the next try would come too late."""
        return trio.current_time() + self._next > self._give_up

    async def wait(self) -> None:
        """Wait before the next try. A checkpoint."""
        await trio.sleep(self._next)
        self._next = min(self._next * 2, self._longest)
