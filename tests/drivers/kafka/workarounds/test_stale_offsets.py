"""A committed offset is that of now, even if an earlier fetch of it was left behind."""

from __future__ import annotations

from typing import Any

import pytest
from kafka import OffsetAndMetadata, TopicPartition
from kafka.future import Future

from tests.drivers.rig import PATIENCE, Member, Rig, until
from transport.drivers.base import RebalanceKind
from transport.types import TP

pytestmark = pytest.mark.kafka


def leave_behind(client: Any, tp: TP, offset: int) -> Any:
    """Leave a fetch with an old answer, as after a poll that was too short; return the fetches."""
    coordinator = client._consumer._coordinator
    place = TopicPartition(*tp)
    answer = Future()
    answer.success({place: OffsetAndMetadata(offset, "", -1)})
    coordinator._offset_fetch_futures[frozenset([place])] = answer
    return coordinator._offset_fetch_futures


async def with_commit(member: Member, tp: TP) -> None:
    await member.located([tp])
    await member.client.commit({tp: 2}, PATIENCE)


async def test_a_query_makes_its_own_fetch_and_leaves_none_behind(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    tp = TP(topic, 0)
    async with kafka_rig.member([topic]) as member:
        await with_commit(member, tp)
        fetches = leave_behind(member.client, tp, 1)
        assert await member.client.committed([tp]) == {tp: 2}
        assert not fetches


async def test_a_partition_that_is_assigned_again_starts_at_its_commit_of_now(
    kafka_rig: Rig,
) -> None:
    topic = await kafka_rig.topic(1)
    tp = TP(topic, 0)
    async with kafka_rig.sender() as sender:
        await sender.fill(topic, 3, partitions=1)
    async with kafka_rig.member([topic], heartbeat_interval=0.2) as member:
        await with_commit(member, tp)
        leave_behind(member.client, tp, 1)
        coordinator: Any = member.client._consumer._coordinator  # type: ignore[attr-defined]
        coordinator.reset_generation()
        await until(lambda: bool(member.events(RebalanceKind.LOST)), member)
        await until(lambda: bool(member.assigned), member)
        member.records.clear()
        ((_, record),) = await member.take(1)
        assert record.offset == 2
