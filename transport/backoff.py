"""Waiting between the tries of what nothing tells the end of but trying.

A member that keeps what it has is not told that a join is over, and nobody is told that a broker is
back.
"""

from __future__ import annotations

import math

import attrs
import trio

_FIRST = 0.02


@attrs.define
class Backoff:
    """Waits, each twice as long as the one before it.

    Args:
        longest: seconds of the longest wait.
        patience: seconds from now on that tries are made for.
    """

    longest: float
    patience: float = math.inf
    _next: float = attrs.field(default=_FIRST, init=False)
    _give_up: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._give_up = trio.current_time() + self.patience

    @property
    def is_spent(self) -> bool:
        """Whether the next try would come too late."""
        return trio.current_time() + self._next > self._give_up

    async def wait(self) -> None:
        """Wait before the next try. A checkpoint."""
        await trio.sleep(self._next)
        self._next = min(self._next * 2, self.longest)
