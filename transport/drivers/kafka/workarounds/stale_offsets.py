"""Committed offsets that were fetched long ago, and are returned as if they were new.

A fetch of committed offsets that outlasts its call stays with the client, by its partitions. The
next fetch for the same partitions returns that answer, however old it is. There are two harms:

- The answer is older than a rebalance in which another member had a partition. Then the partition
  starts before the commits of that member. Its messages are delivered again, and with transactions
  their results are committed twice.
- The answer is older than a commit without an answer. Then the app takes that commit for one that
  was not made.

So the fetches are forgotten at each assignment, and a query makes its own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def forget_fetches(consumer: Any) -> None:
    """Let the next fetch of committed offsets make a request. On the client's loop."""
    # `_coordinator`, `_offset_fetch_futures`: the fetches that are under way, or were left behind.
    consumer._coordinator._offset_fetch_futures.clear()


async def fetch_anew(consumer: Any, tps: Collection[Any], timeout_ms: float) -> Any:
    """Fetch committed offsets as of now. A coroutine of the client's loop.

    Args:
        tps: partitions of the client.

    Raises KafkaTimeoutError.
    """
    fetches, key = consumer._coordinator._offset_fetch_futures, frozenset(tps)
    fetches.pop(key, None)
    try:
        return await consumer._coordinator.fetch_committed_offsets_async(tps, timeout_ms)
    finally:
        fetches.pop(key, None)
