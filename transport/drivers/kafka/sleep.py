"""The sleep of a producer's network thread, and when it must be ended.

The client wakes the thread for each new batch. The thread then sleeps again, until the linger of
its oldest batch ends. So a new batch needs a wake-up only if the thread would sleep beyond the
linger of that batch. A full batch and a flush need one at once. At 1,000 messages a second in 4
partitions, this saves two of three wake-ups. Each wake-up costs one pass of the client's loop.
"""

from __future__ import annotations

import math
import time
from typing import Any

# A due time in the past: the thread must wake at once.
NOW = 0.0
# Ends of a sleep that are not times.
# _AWAKE: the thread may have checked its batches already, so a new batch needs a wake-up.
# _WOKEN: the byte of a wake-up is not consumed yet, or the poll that consumed it has not returned.
# So the thread checks its batches after that.
_AWAKE, _WOKEN = math.inf, -math.inf


class Sleep:
    """The sleep of the network thread of a producer, whose client is new and not used yet."""

    def __init__(self, client: Any) -> None:
        # `_net`, `poll`: all waits of the thread are in this call.
        self._client = client
        self._poll = client._net.poll
        self._ends = _AWAKE
        client._net.poll = self._sleep

    def end_by(self, due: float) -> None:
        """Wake the network thread if its sleep ends after `due`. From any thread.

        Call it after the batch is in the client's queue.

        Args:
            due: by the monotonic clock, or NOW.
        """
        if self._ends > due:
            # Set before the byte is sent. The byte ends the current sleep or the next one.
            self._ends = _WOKEN
            self._client.wakeup()

    def _sleep(self, timeout_ms: float | None = None, future: Any = None) -> Any:
        self._ends = math.inf if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        try:
            return self._poll(timeout_ms=timeout_ms, future=future)
        finally:
            self._ends = _AWAKE  # before the next check: a later batch wakes the thread
