"""Partitions that are gone while somebody commits for them: their topic was deleted.

The client takes "no such partition" for a passing thing, as it is with a broker that has not heard
of a new topic yet, and asks again until its time is up. That would hold up every rebalance, the one
that takes the partition away as well. So where the cluster, as the client knows it, has no such
partition either, the commit ends with that; where it has, the client learns anew what there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import kafka.errors

from transport.drivers.kafka.topics import known_partitions
from transport.errors import PartitionGone
from transport.types import TP

_UNKNOWN = kafka.errors.UnknownTopicOrPartitionError.errno


def gone_from(cluster: Any, tps: Iterable[TP]) -> list[TP]:
    """Those of which the cluster, as the client knows it, has none."""
    return [tp for tp in tps if tp.partition not in known_partitions(cluster, tp.topic)]


def tell_of_gone(consumer: Any) -> None:
    """Let a new consumer end a commit with PartitionGone where that is so."""
    # `_coordinator`, `_handle_offset_commit_response`: where the client reads the answer, on its
    # loop; what it raises of it for itself can be tried again.
    coordinator, cluster = consumer._coordinator, consumer._client.cluster
    handle = coordinator._handle_offset_commit_response

    def handle_strictly(offsets: Any, send_time: float, response: Any) -> Any:
        unknown = [
            TP(topic, partition)
            for topic, partitions in response.topics
            for partition, code in partitions
            if code == _UNKNOWN
        ]
        if unknown:
            if gone := gone_from(cluster, unknown):
                raise PartitionGone(gone)
            cluster.request_update()
        return handle(offsets, send_time, response)

    coordinator._handle_offset_commit_response = handle_strictly
