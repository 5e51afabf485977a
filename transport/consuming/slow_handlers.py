"""Log lines about topics that are paused because their handlers are slow.

Look here for what counts as slow. The app pauses and resumes partitions often, as its buffers fill
and fall. That is normal work, and only a pause of `SLOW` seconds is worth a line.
"""

from __future__ import annotations

from collections.abc import Collection

import trio

from transport.consuming.pauses import Pauses
from transport.delivering.assignment import Assignment
from transport.log import Log
from transport.types import TP

# Seconds for which a partition must be paused without a break, or fetched from, to count.
SLOW = 5.0


class SlowHandlers:
    """The topics of one consumer that are paused because a buffer is full, for the log."""

    def __init__(self, assignment: Assignment, pauses: Pauses, log: Log) -> None:
        self._assignment = assignment
        self._pauses = pauses
        self._log = log
        self._slow: dict[str, float] = {}  # by topic: since when it has been paused
        self._free: dict[str, float] = {}  # of those: since when no partition has been paused

    async def check(self) -> None:
        """Log the topics that are slow since the last check, and those that are not any more.

        A checkpoint.
        """
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        paused = self._pauses.full_since()
        for topic in sorted({tp.topic for tp, since in paused.items() if now - since >= SLOW}):
            if topic not in self._slow:
                tps = [tp for tp in paused if tp.topic == topic]
                self._slow[topic] = min(paused[tp] for tp in tps)
                self._log_pause(topic, tps, now - self._slow[topic])
        full = {tp.topic for tp in paused}
        for topic, since in list(self._slow.items()):
            if topic in full:
                self._free.pop(topic, None)
            elif now - self._free.setdefault(topic, now) >= SLOW:
                seconds = self._free.pop(topic) - since
                del self._slow[topic]
                self._log.info(
                    "resumed",
                    "fetches from the topic %s again, %.0f s after its handlers became slow",
                    *(topic, seconds),
                    topic=topic,
                    seconds=seconds,
                )

    def _log_pause(self, topic: str, tps: Collection[TP], seconds: float) -> None:
        ledgers = [self._assignment[tp] for tp in self._assignment if tp.topic == topic]
        count = sum(ledger.waiting + sum(1 for _ in ledger.unacked) for ledger in ledgers)
        self._log.info(
            "paused",
            "fetches nothing more from the topic %s until its handlers are done with some of its"
            " %d messages here: its buffer has been full for %.0f s",
            *(topic, count, seconds),
            topic=topic,
            partitions=tps,
            count=count,
            seconds=seconds,
        )
