"""Topics get more partitions, are deleted, and are created again under the same name."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio

from tests.drivers.rig import PATIENCE, Rig, outgoing, shared, until
from tests.kafka.toolchain import is_older_than
from transport import TP, DeliveryFailed, RecordMetadata, UnknownTopic
from transport.errors import CommitFailed, PartitionGone, RebalanceInProgress


async def test_producer_finds_added_partitions_within_metadata_max_age(rig: Rig) -> None:
    topic = await rig.topic(1)
    async with rig.sender(metadata_max_age=0.5) as sender:
        assert await sender.client.partition_count(topic, PATIENCE) == 1
        before = sender.client.topic_id(topic)
        await rig.widen(topic, 3)
        with trio.fail_after(PATIENCE):
            # No event reports it.
            while await sender.client.partition_count(topic, PATIENCE) == 1:  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert await sender.client.partition_count(topic, PATIENCE) == 3
        assert sender.client.topic_id(topic) == before
        (written,) = await sender.send([outgoing(topic, partition=2)])
    assert isinstance(written, RecordMetadata)


async def test_a_topic_that_is_created_again_has_another_id(rig: Rig) -> None:
    topic = await rig.topic(2)
    async with rig.sender(metadata_max_age=0.5) as sender:
        await sender.send([outgoing(topic, partition=1)])
        before = sender.client.topic_id(topic)
        assert before is not None
        await rig.create_again(topic, 2)
        with trio.fail_after(PATIENCE):
            while sender.client.topic_id(topic) in (None, before):  # noqa: ASYNC110 - as above
                await trio.sleep(0.1)
        (written,) = await sender.send([outgoing(topic, partition=1)])
    assert isinstance(written, RecordMetadata)
    assert written.offset == 0


async def test_message_for_removed_partition_fails_with_unknown_topic(rig: Rig) -> None:
    topic = await rig.topic(6)
    async with rig.sender(metadata_max_age=0.5) as sender:
        await sender.send([outgoing(topic, partition=5)])
        await rig.create_again(topic, 4)
        with trio.fail_after(PATIENCE):
            # No event reports it.
            while await sender.client.partition_count(topic, PATIENCE) == 6:  # noqa: ASYNC110
                await trio.sleep(0.1)
        failed, written = await sender.send(
            [outgoing(topic, partition=5), outgoing(topic, partition=3)]
        )
    assert isinstance(written, RecordMetadata)
    assert isinstance(failed, DeliveryFailed)
    assert isinstance(failed.__cause__, UnknownTopic)


@pytest.mark.parametrize("settings", [{}, {"client_only": True, "group_id": None}])
async def test_consumer_finds_added_partitions_within_metadata_max_age(
    rig: Rig, settings: dict[str, Any]
) -> None:
    topic = await rig.topic(1)
    async with rig.member([topic], metadata_max_age=0.5, **settings) as member:
        await until(shared([TP(topic, 0)], member), member)
        await rig.widen(topic, 3)
        tps = [TP(topic, number) for number in range(3)]
        with trio.fail_after(2 * PATIENCE):
            await until(shared(tps, member), member)


async def test_two_members_share_added_partitions(rig: Rig) -> None:
    topic = await rig.topic(1)
    settings = {"group_id": rig.name(), "metadata_max_age": 0.5}
    async with rig.member([topic], **settings) as one, rig.member([topic], **settings) as two:
        await until(shared([TP(topic, 0)], one, two), one, two)
        await rig.widen(topic, 4)
        tps = [TP(topic, number) for number in range(4)]
        with trio.fail_after(3 * PATIENCE):
            await until(shared(tps, one, two), one, two)


async def test_member_gets_rebalance_for_recreated_topic_and_skips_no_record(
    rig: Rig,
) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)
    settings = {"metadata_max_age": 0.5, "auto_offset_reset": "latest"}
    async with (
        rig.sender(metadata_max_age=0.5) as sender,
        rig.member([topic], **settings) as member,
    ):
        await until(shared([tp], member), member)
        await member.located([tp])
        await sender.fill(topic, 5, partitions=1)
        await member.take(5)
        await member.client.commit({tp: 5}, PATIENCE)
        await rig.create_again(topic, 1)
        await sender.fill(topic, 7, partitions=1)  # more than the old position
        new = await member.take(7)
        assert [record.offset for _, record in new] == list(range(7))
        # The group may also have found the deletion, and have made a rebalance for it.
        assert any(event.of_new_topic == {tp} for event in member.told)


async def test_recreated_topic_begins_at_its_start_after_rebalance_before_first_commit(
    rig: Rig,
) -> None:
    topic, group = await rig.topic(1), rig.name()
    tp = TP(topic, 0)
    settings = {"metadata_max_age": 0.5, "auto_offset_reset": "latest", "group_id": group}
    async with (
        rig.sender(metadata_max_age=0.5) as sender,
        rig.member([topic], **settings) as member,
    ):
        await until(shared([tp], member), member)
        await member.located([tp])
        await rig.create_again(topic, 1)
        await until(lambda: any(event.of_new_topic for event in member.told), member)
        await sender.fill(topic, 5, partitions=1)
        await member.client.subscribe([topic, await rig.topic(1)])
        new = await member.take(5)
        assert [record.offset for _, record in new][:5] == list(range(5))


async def test_a_commit_for_the_old_topic_does_not_reach_the_new_one(rig: Rig) -> None:
    topic, group = await rig.topic(1), rig.name()
    tp = TP(topic, 0)
    async with rig.sender() as sender, rig.member([topic], group_id=group) as member:
        await sender.fill(topic, 5, partitions=1)
        await member.take(5)
        await rig.create_again(topic, 1)
        # The last two: the group may be in a rebalance. Before Kafka 4.1, the broker may accept the
        # commit. Then its metadata makes it void for each client that knows the new topic.
        errors = (PartitionGone, RebalanceInProgress, CommitFailed)
        with contextlib.suppress(*errors) if is_older_than(4, 1) else pytest.raises(errors):
            await member.client.commit({tp: 5}, PATIENCE)
        async with rig.member([topic], group_id=group) as other:
            assert await other.client.committed([tp]) == {}
