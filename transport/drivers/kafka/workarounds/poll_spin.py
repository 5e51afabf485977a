"""When the client sends heartbeats, and what waits for them.

A group tells its members of a rebalance in the answers to their heartbeats, and in nothing else. So
a join takes as long as the slowest member takes to send one. With cooperative rebalancing there are
two rounds, and for the second the new member itself has to send one. So here a member that has just
joined sends its heartbeats sooner, and then less and less often.

The client also ends each wait of a poll when the next heartbeat is due, though its own loop sends
them and no poll is needed for that. With one that has no answer yet (the broker hangs, the network
is cut) it does not wait at all: it takes a whole core, and leaves something on every fetch under
way each time it asks, some megabytes a second.
"""

from __future__ import annotations

import math
from typing import Any

# Milliseconds from a join to the first heartbeat. The next ones follow after twice as long each
# time, up to `heartbeat_interval`. So a further round is found after at most twice the time that
# the other members took to begin it. A join costs four heartbeats more, with an interval of 1 s.
AFTER_JOIN_MS = 100


def wait_regardless(consumer: Any) -> None:
    """Let a new consumer wait in each poll for as long as the poll was asked to."""
    # `_coordinator`, `time_to_next_poll`: how long a poll may wait. It is also meant for commits by
    # the clock, which are off.
    consumer._coordinator.time_to_next_poll = lambda: math.inf


def hurry_after_join(consumer: Any) -> None:
    """Let a new consumer send its heartbeats sooner after each join."""
    # `_coordinator`, `_enable_heartbeat`: called when a join has succeeded. It lets the loop of the
    # heartbeats look again for when the next one is due.
    # `heartbeat`, `config`: a dictionary of its own, in which it looks each time.
    coordinator = consumer._coordinator
    heartbeat = coordinator.heartbeat
    config, calm = heartbeat.config, heartbeat.config["heartbeat_interval_ms"]
    enable, sent = coordinator._enable_heartbeat, heartbeat.sent_heartbeat

    def enable_soon() -> None:
        config["heartbeat_interval_ms"] = min(AFTER_JOIN_MS, calm)
        enable()

    def sent_and_slow_down() -> None:
        sent()
        config["heartbeat_interval_ms"] = min(2 * config["heartbeat_interval_ms"], calm)

    coordinator._enable_heartbeat = enable_soon
    heartbeat.sent_heartbeat = sent_and_slow_down
