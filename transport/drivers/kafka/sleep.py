"""The sleep of a producer's network thread, and when it must be ended.

The client wakes the thread for each new batch. The thread then sleeps again, until the linger of
its oldest batch ends. So it has to be woken for a new batch only if it has no older one. At 1,000
messages a second in 4 partitions, that leaves a third of the wake-ups. Each of them takes a round
of the client's loop.
"""

from __future__ import annotations

import math
import time
from typing import Any

# A time at which the thread always has to be awake.
NOW = 0.0
# Ends of a sleep. An awake thread may have checked its batches. A woken one will check them.
_AWAKE, _WOKEN = math.inf, -math.inf


class Sleep:
    """The sleep of the network thread of a new producer."""

    def __init__(self, producer: Any) -> None:
        # `_sender`, `_client`, `poll`: the thread checks its batches, and then sleeps in this call.
        self._sender = producer._sender
        self._poll = producer._sender._client.poll
        self._ends = _AWAKE
        producer._sender._client.poll = self._sleep

    def end_by(self, due: float) -> None:
        """Wake the thread, unless it wakes by `due` without that. From any thread.

        What the thread has to do must be in the client's queues already.

        Args:
            due: by the monotonic clock, or NOW.
        """
        if self._ends > due:
            self._ends = _WOKEN  # set first: the byte that is sent next ends this or the next sleep
            self._sender.wakeup()

    def _sleep(self, timeout_ms: float | None = None, future: Any = None) -> Any:
        self._ends = math.inf if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        try:
            return self._poll(timeout_ms=timeout_ms, future=future)
        finally:
            self._ends = _AWAKE  # before the next check: a later batch wakes the thread
