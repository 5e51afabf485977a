"""The contract: commits, and when the group accepts them."""

from __future__ import annotations

import pytest
import trio

from tests.drivers.rig import PATIENCE, Member, Rig, shared, until
from transport.drivers.base import Rebalance, RebalanceKind
from transport.errors import CommitFailed, RebalanceInProgress
from transport.types import TP


async def test_group_keeps_committed_offsets(rig: Rig) -> None:
    topic, group = await rig.topic(), rig.name()
    tps = [TP(topic, number) for number in range(4)]
    async with rig.member([topic], group_id=group) as member:
        await member.located(tps)
        assert await member.client.committed(tps) == {}
        await member.client.commit({tps[0]: 0, tps[1]: 5}, PATIENCE)
        await member.client.commit({tps[1]: 7}, PATIENCE)
        assert await member.client.committed(tps) == {tps[0]: 0, tps[1]: 7}
        await member.client.commit({}, PATIENCE)
    async with (
        rig.member([], group_id=group) as reader,
        rig.member([]) as stranger,
    ):
        assert await reader.client.committed(tps) == {tps[0]: 0, tps[1]: 7}
        assert await stranger.client.committed(tps) == {}


async def test_commit_runs_beside_poll(rig: Rig) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)
    async with rig.member([topic]) as member:
        await member.located([tp])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.poll)
            await trio.sleep(0.2)
            await member.client.commit({tp: 3}, PATIENCE)
            assert await member.client.committed([tp]) == {tp: 3}
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("assignment", ["cooperative", "eager"])
async def test_offsets_of_revoked_partitions_can_be_committed(rig: Rig, assignment: str) -> None:
    topic, group = await rig.topic(), rig.name()

    async def commit(rebalance: Rebalance) -> None:
        if rebalance.kind is RebalanceKind.REVOKED:
            offsets = {tp: first.positions[tp] for tp in rebalance.partitions}
            await first.client.commit(offsets, PATIENCE)

    async with (
        rig.sender() as sender,
        rig.member([topic], commit, group_id=group, assignment=assignment) as first,
    ):
        tps = await sender.fill(topic, 40)
        await first.take(40)
        async with rig.member([topic], group_id=group, assignment=assignment) as second:
            await until(shared(tps, first, second), first, second)
            await sender.fill(topic, 4)
            await until(lambda: len(first.records) + len(second.records) >= 4, first, second)
            taken = first.records + second.records
            assert sorted((tp, record.offset) for tp, record in taken) == [(tp, 10) for tp in tps]


async def test_commit_is_refused_while_member_waits_for_other_joins(rig: Rig) -> None:
    topic, group = await rig.topic(), rig.name()
    tps = [TP(topic, number) for number in range(4)]
    async with (
        rig.member([topic], group_id=group) as waiting,
        rig.member([topic], group_id=group) as late,
    ):
        await until(shared(tps, waiting, late), waiting, late)
        kept = next(iter(waiting.assigned))
        await waiting.client.commit({kept: 1}, PATIENCE)
        await waiting.client.subscribe([topic, await rig.topic()])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting.poll_on)
            with pytest.raises(RebalanceInProgress):
                await commit_on(waiting, kept)
            await until(lambda: waiting.client.group_metadata().generation_id >= 3, late)
            nursery.cancel_scope.cancel()
        await until(lambda: len(waiting.assigned) + len(late.assigned) == 8, waiting, late)
        async with trio.open_nursery() as nursery:
            for member in (waiting, late):
                nursery.start_soon(member.poll_on)
            await commit_once_settled(waiting, {kept: 2})
            nursery.cancel_scope.cancel()


async def commit_once_settled(member: Member, offsets: dict[TP, int]) -> None:
    """Commit. Retry during a second rebalance, in which no partition moves."""
    while True:
        try:
            return await member.client.commit(offsets, PATIENCE)
        except RebalanceInProgress:
            await trio.sleep(0.05)


async def commit_on(member: Member, tp: TP) -> None:
    while True:
        await member.client.commit({tp: 1}, PATIENCE)
        await trio.sleep(0.05)


async def test_member_that_does_not_poll_is_evicted(rig: Rig) -> None:
    topic, group = await rig.topic(), rig.name()
    tps = [TP(topic, number) for number in range(4)]
    async with rig.member([topic], group_id=group) as member:
        await member.located(tps)
        await trio.sleep(12.0)
        with pytest.raises(CommitFailed):
            await member.client.commit({tps[0]: 1}, PATIENCE)
        member.told.clear()
        await until(lambda: member.events(RebalanceKind.ASSIGNED), member)
        lost, assigned = (rebalance for rebalance in member.told if rebalance.partitions)
        assert (lost.kind, lost.partitions) == (RebalanceKind.LOST, frozenset(tps))
        assert (assigned.kind, assigned.partitions) == (RebalanceKind.ASSIGNED, frozenset(tps))
        await member.client.commit({tps[0]: 1}, PATIENCE)


async def test_member_that_does_not_join_is_evicted(rig: Rig) -> None:
    topic, group = await rig.topic(), rig.name()
    tps = [TP(topic, number) for number in range(4)]
    async with (
        rig.member([topic], group_id=group) as asleep,
        rig.member([topic], group_id=group) as awake,
    ):
        await asleep.located(tps)
        await until(lambda: awake.assigned == set(tps), awake)
        with pytest.raises(CommitFailed):
            await asleep.client.commit({tps[0]: 1}, PATIENCE)
        await until(shared(tps, asleep, awake), asleep, awake)
        assert asleep.events(RebalanceKind.LOST) == [frozenset(tps)]
