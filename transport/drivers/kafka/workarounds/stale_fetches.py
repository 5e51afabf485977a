"""Fetches of a deleted topic that are taken for those of a new topic with the same name.

The client keeps the fetches of a paused partition until it is resumed. It takes a fetch if the
partition is at the offset of its request, and compares nothing else. So if a topic was deleted and
created again meanwhile, its records may be those of the old topic. The partition continues after
them, and the first messages of the new topic are never delivered.

So the fetches of a partition are dropped when it belongs to another topic.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from transport.types import TP


def drop_fetches(consumer: Any, tps: Collection[TP]) -> None:
    """Drop all fetches of these partitions that no poll has returned.

    On the polling thread, or on the client's loop while the polling thread is inside the client.
    """
    # `_fetcher`, `_paused_completed_fetches`, `_completed_fetches`: the fetches that have arrived.
    fetcher = consumer._fetcher
    for tp in tps:
        fetcher._paused_completed_fetches.pop(tp, None)
    fetches = fetcher._completed_fetches
    for _ in range(len(fetches)):  # the loop may append others meanwhile
        fetch = fetches.popleft()
        if TP(*fetch.topic_partition) not in tps:
            fetches.append(fetch)
