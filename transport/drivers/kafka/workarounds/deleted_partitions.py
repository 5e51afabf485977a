"""Commits for partitions whose topic was deleted fail at once.

The client treats UNKNOWN_TOPIC_OR_PARTITION as temporary, because a broker may not know a new topic
yet. So the client retries the commit until its timeout. That would delay every rebalance, also the
one that revokes the deleted partition.

This module compares the answer with the client's metadata. If the metadata has no such partition
either, the commit fails. If it has, the client retries, and requests new metadata.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import kafka.errors
from kafka.protocol.consumer import OffsetCommitResponse

from transport.drivers.kafka.topic_ids import COMMIT_BY_ID, Identities, named_id
from transport.drivers.kafka.topics import known_partitions
from transport.errors import PartitionGone, TopicReplaced
from transport.types import TP

_UNKNOWN = kafka.errors.UnknownTopicOrPartitionError.errno
_UNKNOWN_ID = kafka.errors.UnknownTopicIdError.errno


def gone_from(cluster: Any, tps: Iterable[TP]) -> list[TP]:
    """Return the partitions that are not in the client's metadata."""
    return [tp for tp in tps if tp.partition not in known_partitions(cluster, tp.topic)]


def raise_for_gone(consumer: Any, identities: Identities) -> None:
    """Let a new consumer's commits for deleted topics fail with PartitionGone or TopicReplaced."""
    # `_coordinator`, `_handle_offset_commit_response`: reads the answer, on the client's loop. The
    # error that the client itself raises for such an answer is retriable.
    coordinator, cluster = consumer._coordinator, consumer._client.cluster
    handle = coordinator._handle_offset_commit_response

    def handle_strictly(offsets: Any, send_time: float, response: Any) -> Any:
        if response.API_VERSION >= COMMIT_BY_ID:
            response = _by_name(offsets, response)
        unknown = [
            TP(topic, partition)
            for topic, partitions in response.topics
            for partition, code in partitions
            if code == _UNKNOWN
        ]
        if unknown:
            if gone := gone_from(cluster, unknown):
                raise PartitionGone(gone)
            ids = {TP(*tp): named_id(committed.metadata) for tp, committed in offsets.items()}
            if replaced := identities.of_another({tp: ids[tp] for tp in unknown}, cluster):
                raise TopicReplaced(replaced)
            cluster.request_update()
        return handle(offsets, send_time, response)

    coordinator._handle_offset_commit_response = handle_strictly


def _by_name(offsets: Any, response: Any) -> Any:
    """Return the same answer with topic names instead of ids, because the client reads names."""
    names = {named_id(committed.metadata): tp.topic for tp, committed in offsets.items()}
    topic_of, version = OffsetCommitResponse.OffsetCommitResponseTopic, COMMIT_BY_ID - 2
    partition_of = topic_of.OffsetCommitResponsePartition
    topics = [
        topic_of(
            version=version,
            name=names[topic.topic_id],
            partitions=[
                partition_of(
                    version=version,
                    partition_index=each.partition_index,
                    error_code=_UNKNOWN if each.error_code == _UNKNOWN_ID else each.error_code,
                )
                for each in topic.partitions
            ],
        )
        for topic in response.topics
    ]
    return OffsetCommitResponse(version=version, topics=topics)
