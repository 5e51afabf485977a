"""A fetch of a deleted topic is not taken for one of the new topic with the same name."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from kafka import TopicPartition
from kafka.protocol.consumer import FetchResponse

from tests.drivers.rig import Rig
from transport.drivers.base import Rebalance
from transport.drivers.kafka.topic_ids import FETCH_BY_ID, Identities
from transport.types import TP


@pytest.mark.kafka
async def test_a_paused_partition_of_a_recreated_topic_delivers_the_new_messages(
    kafka_rig: Rig,
) -> None:
    topic = await kafka_rig.topic(1)
    tp = TP(topic, 0)

    # With such an offset, the partition has a position before the client checks its fetches.
    async def begin_at_zero(rebalance: Rebalance) -> dict[TP, int]:
        return dict.fromkeys(rebalance.of_new_topic, 0)

    async with (
        kafka_rig.sender(metadata_max_age=0.5) as sender,
        kafka_rig.member([topic], begin_at_zero) as member,
    ):
        with trio.fail_after(40):
            consumer: Any = member.client._consumer  # type: ignore[attr-defined]
            pause_with_fetch(consumer, TopicPartition(*tp))  # each fetch of the client
            await member.located([tp])
            await sender.fill(topic, 5, partitions=1, size=1)
            while TopicPartition(*tp) not in consumer._fetcher._paused_completed_fetches:
                await member.poll_for(0.1)
            await create_again_unseen(kafka_rig, topic, consumer._client.cluster)
            await sender.fill(topic, 7, partitions=1)
            new = await member.take(7)
        assert [(record.offset, record.value) for _, record in new] == [
            (number, b"%d" % number) for number in range(7)
        ]


def pause_with_fetch(consumer: Any, tp: TopicPartition) -> None:
    """Let the next fetch with records pause its partition as it arrives."""
    fetcher = consumer._fetcher
    handle = fetcher._handle_fetch_response

    def handle_and_pause(node_id: Any, offsets: Any, sent_at: Any, response: Any) -> None:
        if any(each.records for topic in response.responses for each in topic.partitions):
            fetcher._handle_fetch_response = handle
            consumer._subscription.pause(tp)
        handle(node_id, offsets, sent_at, response)

    fetcher._handle_fetch_response = handle_and_pause


async def create_again_unseen(rig: Rig, topic: str, cluster: Any) -> None:
    """Create a topic again while the client receives no metadata, so that it misses the gap."""
    update = cluster.update_metadata
    cluster.update_metadata = lambda _: None
    await rig.create_again(topic, 1)
    cluster.update_metadata = update
    cluster.request_update()


def test_a_late_answer_about_an_old_topic_has_no_partitions() -> None:
    identities = Identities()
    old, new, other = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    ids = {"t": old, "u": other}
    cluster: Any = SimpleNamespace(topic_id=ids.get)
    identities.note([TP("t", 0), TP("u", 0)], cluster)
    ids["t"] = new
    identities.note([TP("t", 0)], cluster)
    answer = answer_of(old, other)
    identities._restore_names(answer)
    assert {topic.topic: len(topic.partitions) for topic in answer.responses} == {"t": 0, "u": 1}


def answer_of(*topic_ids: uuid.UUID) -> Any:
    """Return the answer to a fetch of the first partition of each topic."""
    topic = FetchResponse.FetchableTopicResponse
    return SimpleNamespace(
        API_VERSION=FETCH_BY_ID,
        responses=[
            topic(topic_id=topic_id, partitions=[topic.PartitionData(partition_index=0)])
            for topic_id in topic_ids
        ],
    )
