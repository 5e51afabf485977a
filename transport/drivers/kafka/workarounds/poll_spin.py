"""The times of heartbeats, and polls that spin while a heartbeat has no answer.

A member learns of a rebalance only from the answer to a heartbeat. So a join takes as long as the
slowest member takes to send a heartbeat. A cooperative rebalance needs two joins, and for the
second one the new member itself must send a heartbeat. Therefore a member sends the first
heartbeats after a join sooner, and increases the interval step by step.

The client also ends each wait of a poll when the next heartbeat is due, although its own loop sends
the heartbeats. While a heartbeat has no answer (the broker hangs, the network is cut), a poll does
not wait at all: it uses a whole core. Each pass also leaves an object on every fetch in flight,
which takes some megabytes a second.
"""

from __future__ import annotations

import math
from typing import Any

# Milliseconds from a join to the first heartbeat. Each next interval is twice as long, up to
# `heartbeat_interval`. So a member detects a second rebalance after at most twice the time that the
# other members took to begin it. With an interval of 1 s, a join costs four extra heartbeats.
AFTER_JOIN_MS = 100


def wait_regardless(consumer: Any) -> None:
    """Let each poll of a new consumer wait for its whole timeout."""
    # `_coordinator`, `time_to_next_poll`: limits the wait of a poll. It also serves the automatic
    # commits of the client, which are off.
    consumer._coordinator.time_to_next_poll = lambda: math.inf


def hurry_after_join(consumer: Any) -> None:
    """Let a new consumer send its heartbeats sooner after each join."""
    # `_coordinator`, `_enable_heartbeat`: called when a join has succeeded. It wakes the heartbeat
    # loop, which then computes again when the next heartbeat is due.
    # `heartbeat`, `config`: a separate dictionary, which is read each time.
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
