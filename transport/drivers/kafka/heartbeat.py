"""A `poll` of the client that waits although a heartbeat is due.

The client ends each wait of a poll when the next heartbeat is due, though its own thread sends them
and no poll is needed for that. So with one that has no answer yet (the broker hangs, the network is
cut) it does not wait at all: it takes a whole core, and leaves something on every fetch under way
each time it asks, some megabytes a second.
"""

from __future__ import annotations

import math
from typing import Any


def wait_regardless(consumer: Any) -> None:
    """Let a new consumer wait in each poll for as long as the poll was asked to."""
    # `_coordinator`, `time_to_next_poll`: where a poll looks for how long it may wait. Commits by
    # the clock, which it is also for, are off.
    consumer._coordinator.time_to_next_poll = lambda: math.inf
