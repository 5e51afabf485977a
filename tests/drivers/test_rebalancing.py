"""The contract: the owners of partitions, rebalances, and what waits for their release."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import trio

from tests.drivers.rig import PATIENCE, Member, Rig, shared, until
from transport.drivers.base import Rebalance, RebalanceKind
from transport.types import TP

BOTH = pytest.mark.parametrize("assignment", ["cooperative", "eager"])
ASSIGNED, REVOKED, LOST = RebalanceKind.ASSIGNED, RebalanceKind.REVOKED, RebalanceKind.LOST


def all_of(topic: str, partitions: int = 4) -> list[TP]:
    return [TP(topic, number) for number in range(partitions)]


def hold_at_once(rig: Rig, tps: Collection[TP]) -> None:
    """Check in the journal that no partition had two owners at the same time."""
    owners: dict[TP, Member] = {}
    for member, kind, partitions in rig.journal:
        for tp in partitions & set(tps):
            if kind is ASSIGNED:
                assert owners.get(tp, member) is member, f"{tp} has two owners"
                owners[tp] = member
            elif owners.get(tp) is member:  # a partition may be in two REVOKED rebalances
                del owners[tp]


@BOTH
async def test_members_share_partitions_and_lose_no_records(rig: Rig, assignment: str) -> None:
    topic, group = await rig.topic(6), rig.name()
    tps = all_of(topic, 6)
    seen: set[tuple[TP, int]] = set()

    def follow(member: Member) -> None:
        async def commit(rebalance: Rebalance) -> None:
            seen.update((tp, record.offset) for tp, record in member.records)
            if rebalance.kind is REVOKED and rebalance.partitions:
                offsets = {
                    tp: member.positions[tp] for tp in rebalance.partitions & set(member.positions)
                }
                await member.client.commit(offsets, PATIENCE)
            elif rebalance.kind is ASSIGNED:
                for tp in rebalance.partitions:
                    member.positions.pop(tp, None)

        member.answer = commit

    async with (
        rig.sender() as sender,
        rig.member([topic], group_id=group, assignment=assignment) as first,
        rig.member([topic], group_id=group, assignment=assignment) as second,
    ):
        follow(first)
        follow(second)
        await sender.fill(topic, 600, partitions=6)
        await until(shared(tps, first, second), first, second)
        async with rig.member([topic], group_id=group, assignment=assignment) as third:
            follow(third)
            await until(shared(tps, first, second, third), first, second, third)
            await sender.fill(topic, 600, partitions=6)
            await third.poll()
            await third.client.commit(third.positions, PATIENCE)
            seen.update((tp, record.offset) for tp, record in third.records)
            third.answer = None
        await until(shared(tps, first, second), first, second)
        await sender.fill(topic, 600, partitions=6)

        def complete() -> bool:
            for member in (first, second):
                seen.update((tp, record.offset) for tp, record in member.records)
            return len(seen) >= 1800

        await until(complete, first, second)
    assert seen == {(tp, offset) for tp in tps for offset in range(300)}


@BOTH
async def test_partition_is_revoked_before_it_is_assigned_elsewhere(
    rig: Rig, assignment: str
) -> None:
    topic, group = await rig.topic(), rig.name()
    tps = all_of(topic)

    async def slowly(rebalance: Rebalance) -> None:
        await trio.sleep(0.5)

    async with (
        rig.member([topic], slowly, group_id=group, assignment=assignment) as first,
        rig.member([topic], slowly, group_id=group, assignment=assignment) as second,
    ):
        await until(lambda: first.assigned == set(tps), first)
        await until(shared(tps, first, second), first, second)
        async with rig.member([topic], slowly, group_id=group, assignment=assignment) as third:
            await until(shared(tps, first, second, third), first, second, third)
    hold_at_once(rig, tps)


async def test_cooperative_rebalance_names_only_moved_partitions(rig: Rig) -> None:
    topic, group = await rig.topic(), rig.name()
    tps = all_of(topic)
    async with (
        rig.member([topic], group_id=group) as first,
        rig.member([topic], group_id=group) as second,
    ):
        await until(lambda: first.assigned == set(tps), first)
        generation = first.client.group_metadata().generation_id
        await until(shared(tps, first, second), first, second)
        assert first.events(ASSIGNED) == [frozenset(tps)]
        (moved,) = first.events(REVOKED)
        assert len(moved) == 2
        assert second.events(ASSIGNED) == [moved]
        assert second.events(REVOKED) == []
        assert second.client.group_metadata().generation_id == generation + 2


async def test_eager_rebalance_names_all_partitions(rig: Rig) -> None:
    topic, group = await rig.topic(), rig.name()
    tps = all_of(topic)
    async with (
        rig.member([topic], group_id=group, assignment="eager") as first,
        rig.member([topic], group_id=group, assignment="eager") as second,
    ):
        await until(lambda: first.assigned == set(tps), first)
        generation = first.client.group_metadata().generation_id
        await until(shared(tps, first, second), first, second)
        assert first.events(REVOKED) == [frozenset(tps)]
        assert [len(partitions) for partitions in first.events(ASSIGNED)] == [4, 2]
        assert first.client.group_metadata().generation_id == generation + 1


async def test_kept_partitions_keep_their_positions(rig: Rig) -> None:
    topic, group = await rig.topic(), rig.name()
    async with (
        rig.sender() as sender,
        rig.member([topic], group_id=group) as first,
    ):
        tps = await sender.fill(topic, 40)
        await first.take(40)
        async with rig.member([topic], group_id=group) as second:
            await until(shared(tps, first, second), first, second)
            kept = sorted(first.assigned)
            await sender.fill(topic, 4)
            await until(lambda: len(first.records) == 2, first)
        assert sorted((tp, record.offset) for tp, record in first.records) == [
            (tp, 10) for tp in kept
        ]


@BOTH
async def test_release_sets_start_offsets(rig: Rig, assignment: str) -> None:
    topic = await rig.topic()

    async def seek(rebalance: Rebalance) -> dict[TP, int]:
        return {TP(topic, 0): 5, TP(topic, 1): 9, TP("elsewhere", 0): 3}

    async with (
        rig.sender() as sender,
        rig.member([topic], seek, assignment=assignment) as member,
    ):
        tps = await sender.fill(topic, 40)
        taken = await member.take(26)
    assert sorted((tp, record.offset) for tp, record in taken) == [
        (tp, offset)
        for tp, start in zip(tps, [5, 9, 0, 0], strict=True)
        for offset in range(start, 10)
    ]


async def test_partitions_paused_by_release_return_no_records_until_resumed(
    rig: Rig,
) -> None:
    topic = await rig.topic(2)
    first, second = all_of(topic, 2)

    async def pause_one(rebalance: Rebalance) -> None:
        rebalance.release({first: 5}, pause=[first, TP("elsewhere", 0)])

    async with rig.sender() as sender, rig.member([topic], pause_one) as member:
        await sender.fill(topic, 20, partitions=2)
        taken = await member.take(10)
        await member.nothing_comes()
        await member.client.resume([first])
        resumed = await member.take(5)
    assert [(tp, record.offset) for tp, record in taken] == [(second, n) for n in range(10)]
    assert [(tp, record.offset) for tp, record in resumed] == [(first, n) for n in range(5, 10)]


async def test_reassigned_partition_starts_unpaused_from_committed_offset(rig: Rig) -> None:
    """kafka-python's eager consumer keeps the old position and pause flag; the driver must not."""
    topic, group = await rig.topic(1), rig.name()
    tp = TP(topic, 0)
    async with (
        rig.sender() as sender,
        rig.member([topic], group_id=group, assignment="eager") as member,
    ):
        await sender.fill(topic, 10, partitions=1)
        await member.take(10)
        await member.client.commit({tp: 4}, PATIENCE)
        await member.client.pause([tp])
        await member.client.subscribe([topic, await rig.topic(1)])  # starts a new generation
        taken = await member.take(6)
    assert [record.offset for _, record in taken] == [4, 5, 6, 7, 8, 9]


async def test_poll_waits_for_release(rig: Rig) -> None:
    topic = await rig.topic(1)
    held = trio.Event()
    polled: list[float] = []

    async def hold(rebalance: Rebalance) -> None:
        if rebalance.kind is ASSIGNED:
            await held.wait()

    async def poll() -> None:
        await member.poll()
        polled.append(trio.current_time())

    async with rig.sender() as sender, rig.member([topic], hold) as member:
        await sender.fill(topic, 1, partitions=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await until_notified(member, 1)
            member.client.interrupt()
            await trio.sleep(1.0)
            assert polled == []
            held.set()
    assert polled


async def until_notified(member: Member, count: int) -> None:
    while len([rebalance for rebalance in member.told if rebalance.partitions]) < count:
        await member.heard.wait()


@BOTH
async def test_client_continues_after_bound_of_rebalance(rig: Rig, assignment: str) -> None:
    topic, group = await rig.topic(), rig.name()
    tps = all_of(topic)
    stuck: list[Rebalance] = []

    async def hold(rebalance: Rebalance) -> None:
        if rebalance.kind is REVOKED and rebalance.partitions and not stuck:
            stuck.append(rebalance)
            before = trio.current_time()
            assert 4.5 < rebalance.bound <= 5.0  # reduced by the time since the last poll
            await rebalance.expired.wait()
            assert 4.0 < trio.current_time() - before < 6.0

    async with (
        rig.member([topic], hold, group_id=group, assignment=assignment) as first,
        rig.member([topic], group_id=group, assignment=assignment) as second,
    ):
        await until(lambda: first.assigned == set(tps), first)
        await until(shared(tps, first, second), first, second)
        assert [rebalance.expired.is_set() for rebalance in stuck] == [True]
        stuck[0].release({tps[0]: 3})
        assert not any(rebalance.expired.is_set() for rebalance in second.told)


async def test_fetched_records_wait_for_release_even_after_expiry(rig: Rig) -> None:
    topic = await rig.topic(1)
    held = trio.Event()

    async def hold(rebalance: Rebalance) -> None:
        await held.wait()

    async with (
        rig.sender() as sender,
        rig.member([topic], hold) as member,
        trio.open_nursery() as nursery,
    ):
        await sender.fill(topic, 10, partitions=1)
        nursery.start_soon(member.poll)
        await until_notified(member, 1)
        member.assigned.clear()  # a poll that returns records before the release fails the test
        await member.told[0].expired.wait()
        await trio.sleep(1.0)
        assert member.records == []
        member.assigned = {TP(topic, 0)}
        held.set()
    assert [record.offset for _, record in member.records] == list(range(10))


async def test_only_first_release_has_effect(rig: Rig) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)

    async def release_at_once(rebalance: Rebalance) -> dict[TP, int]:
        rebalance.release({tp: 5})
        return {tp: 7}

    async with rig.sender() as sender, rig.member([topic], release_at_once) as member:
        await sender.fill(topic, 10, partitions=1)
        taken = await member.take(5)
        assert [record.offset for _, record in taken] == [5, 6, 7, 8, 9]
        member.told[-1].release({tp: 0})
        await member.nothing_comes()
        assert not member.told[-1].expired.is_set()


async def test_cancelled_poll_leaves_rebalance_to_next_poll(rig: Rig) -> None:
    topic = await rig.topic(1)

    async def slowly(rebalance: Rebalance) -> None:
        await trio.sleep(1.0)

    async with rig.sender() as sender, rig.member([topic], slowly) as member:
        await sender.fill(topic, 3, partitions=1)
        for _ in range(3):
            with trio.move_on_after(0.3):
                await member.poll()
        assert [record.offset for _, record in await member.take(3)] == [0, 1, 2]
        assert member.events(ASSIGNED) == [frozenset([TP(topic, 0)])]


@BOTH
async def test_partitions_of_killed_member_move_after_session_timeout(
    rig: Rig, assignment: str
) -> None:
    topic, group = await rig.topic(), rig.name()
    tps = all_of(topic)
    async with (
        rig.member([topic], group_id=group, assignment=assignment) as first,
        rig.member([topic], group_id=group, assignment=assignment) as second,
    ):
        await until(shared(tps, first, second), first, second)
        before = trio.current_time()
        await second.client.kill()
        await until(lambda: first.assigned == set(tps), first)
        assert 3.0 < trio.current_time() - before < 10.0


@BOTH
async def test_partitions_of_closed_member_move_at_once(rig: Rig, assignment: str) -> None:
    topic, group = await rig.topic(), rig.name()
    tps = all_of(topic)
    async with (
        rig.member([topic], group_id=group, assignment=assignment) as first,
        rig.member([topic], group_id=group, assignment=assignment) as second,
    ):
        await until(shared(tps, first, second), first, second)
        before = trio.current_time()
        told = len(second.told)
        await second.client.close(PATIENCE)
        await until(lambda: first.assigned == set(tps), first)
        assert trio.current_time() - before < 3.0
        assert len(second.told) == told, "closing raised a rebalance"


@BOTH
async def test_subscription_is_replaced(rig: Rig, assignment: str) -> None:
    one, two = await rig.topic(), await rig.topic(2)
    async with (
        rig.sender() as sender,
        rig.member([one], assignment=assignment) as member,
    ):
        await until(lambda: member.assigned == set(all_of(one)), member)
        await member.client.subscribe([one, two])
        await until(lambda: member.assigned == {*all_of(one), *all_of(two, 2)}, member)
        await member.client.subscribe([two])
        await until(lambda: member.assigned == set(all_of(two, 2)), member)
        await sender.fill(one, 4)
        await sender.fill(two, 4, partitions=2)
        assert {tp.topic for tp, _ in await member.take(4)} == {two}
        await member.client.subscribe([])
        await until(lambda: not member.assigned, member)
        await sender.fill(two, 2, partitions=2)
        await member.nothing_comes()
        await member.client.subscribe([one])
        assert {tp.topic for tp, _ in await member.take(4)} == {one}


async def test_group_metadata_names_member(rig: Rig) -> None:
    topic, group = await rig.topic(), rig.name()
    async with rig.member([topic], group_id=group) as member:
        before = member.client.group_metadata()
        assert (before.group_id, before.generation_id, before.member_id) == (group, -1, "")
        await until(lambda: member.assigned, member)
        after = member.client.group_metadata()
        assert after.group_id == group
        assert after.generation_id >= 1
        assert after.member_id
        assert member.told[-1].generation == after.generation_id


async def test_static_member_gets_its_share_back(rig: Rig) -> None:
    topic, group = await rig.topic(), rig.name()
    tps = all_of(topic)
    async with rig.member([topic], group_id=group) as other:
        async with rig.member([topic], group_id=group, group_instance_id="static") as member:
            await until(shared(tps, other, member), other, member)
            share = set(member.assigned)
        told = len(other.told)
        async with rig.member([topic], group_id=group, group_instance_id="static") as member:
            await until(lambda: member.assigned == share, member, other)
            assert len(other.told) == told
