"""The contract: the records that polls return, and where partitions start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import pytest
import trio

from tests.drivers.rig import Rig, outgoing, until
from transport.drivers.base import Reset
from transport.errors import NotAssigned, OffsetOutOfRange
from transport.types import TP, Record, RecordMetadata


def by_partition(taken: Iterable[tuple[TP, Record]]) -> dict[TP, list[int]]:
    offsets: dict[TP, list[int]] = defaultdict(list)
    for tp, record in taken:
        offsets[tp].append(record.offset)
    return offsets


async def test_records_arrive_in_offset_order(rig: Rig) -> None:
    topic = await rig.topic()
    async with rig.sender() as sender, rig.member([topic]) as member:
        tps = await sender.fill(topic, 100)
        taken = await member.take(100)
    assert by_partition(taken) == {tp: list(range(25)) for tp in tps}
    assert all(record.value == b"%d" % (record.offset * 4 + tp[1]) for tp, record in taken)


async def test_record_has_content_of_sent_message(rig: Rig) -> None:
    topic = await rig.topic(1)
    headers = [("h", b"1"), ("h", b"2")]
    batch = [
        outgoing(topic, partition=0, key=b"key", headers=headers, timestamp_ms=1_700_000_000_123),
        outgoing(topic, partition=0, key=None, value=None),
    ]
    async with rig.sender() as sender, rig.member([topic]) as member:
        await sender.send(batch)
        (_, full), (_, empty) = await member.take(2)
    assert (full.key, full.value, list(full.headers)) == (b"key", b"value", headers)
    assert (full.timestamp, full.timestamp_type) == (1_700_000_000_123, 0)
    assert (empty.key, empty.value, list(empty.headers)) == (None, None, [])
    assert empty.timestamp > 0


@pytest.mark.parametrize("compression", [None, "gzip"])
async def test_header_without_value_and_message_with_only_headers_arrive(
    rig: Rig, compression: str | None
) -> None:
    topic = await rig.topic()
    headers = [("trace", None), ("empty", b""), ("\u00e9", b"1"), ("trace", None)]
    batch = [
        outgoing(topic, partition=0, key=b"key", headers=headers),
        outgoing(topic, partition=0, value=None, headers=headers),
        outgoing(topic, key=b"key", value=None, headers=[("only", None)]),
        outgoing(topic, partition=0, value=b"a neighbor"),
    ]
    async with rig.sender(compression_type=compression) as sender:
        for outcome in await sender.send(batch):
            assert isinstance(outcome, RecordMetadata), outcome
    async with rig.member([topic]) as member:
        records = [record for _, record in await member.take(4)]
    found = {(record.key, record.value): list(record.headers) for record in records}
    assert found == {
        (b"key", b"value"): headers,
        (None, None): headers,
        (b"key", None): [("only", None)],
        (None, b"a neighbor"): [],
    }


async def test_poll_waits_for_records(rig: Rig) -> None:
    topic = await rig.topic()
    async with rig.sender() as sender, rig.member([topic]) as member:

        async def later() -> None:
            await trio.sleep(1.0)
            await sender.fill(topic, 1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(later)
            while not (batch := await member.poll()):
                pass  # the first rebalance interrupts a poll
        assert [len(records) for records in batch.values()] == [1]


@pytest.mark.parametrize("delay", [0.0, 0.5])
async def test_interrupted_poll_returns_nothing(rig: Rig, delay: float) -> None:
    topic = await rig.topic()
    async with rig.member([topic]) as member:
        await member.located([TP(topic, number) for number in range(4)])
        async with trio.open_nursery() as nursery:
            if not delay:
                member.client.interrupt()  # ends the next poll, because none is under way
            else:

                async def later() -> None:
                    await trio.sleep(delay)
                    member.client.interrupt()

                nursery.start_soon(later)
            before = trio.current_time()
            assert not await member.poll()
            assert trio.current_time() - before < delay + 0.5


async def test_cancelled_poll_loses_no_records(rig: Rig) -> None:
    topic = await rig.topic()
    async with rig.sender() as sender, rig.member([topic]) as member:
        taken = []
        for count in range(0, 100, 10):
            with trio.move_on_after(0.03 * (count % 30)):
                while True:
                    await member.poll()
            await sender.fill(topic, 10)
            with trio.CancelScope() as scope:
                scope.cancel()
                await member.poll()
        taken = await member.take(100)
    assert sorted(by_partition(taken).items()) == [
        (TP(topic, n), list(range(30 if n < 2 else 20))) for n in range(4)
    ]


@pytest.mark.parametrize("committed", [0, 7, 25])
async def test_partition_starts_from_committed_offset(rig: Rig, committed: int) -> None:
    topic, group = await rig.topic(), rig.name()
    async with rig.sender() as sender:
        tps = await sender.fill(topic, 100)
        async with rig.member([topic], group_id=group) as first:
            await first.take(100)
            await first.client.commit({tps[1]: committed}, 3.0)
        # "latest" proves that a committed offset 0 is used as well.
        async with rig.member([topic], group_id=group, auto_offset_reset="latest") as second:
            positions = await second.located(tps)
            taken = second.records or await second.take(25 - committed)
    assert by_partition(taken) == ({tps[1]: list(range(committed, 25))} if taken else {})
    assert positions[tps[0]] == 25


async def test_partition_without_committed_offset_starts_by_policy(rig: Rig) -> None:
    topic = await rig.topic()
    async with rig.sender() as sender:
        tps = await sender.fill(topic, 8)
        async with rig.member([topic], auto_offset_reset="earliest") as member:
            assert by_partition(await member.take(8)) == {tp: [0, 1] for tp in tps}
        async with rig.member([topic], auto_offset_reset="latest") as member:
            assert await member.located(tps) == dict.fromkeys(tps, 2)
            await sender.fill(topic, 4)
            assert by_partition(await member.take(4)) == {tp: [2] for tp in tps}
        async with rig.member([topic], auto_offset_reset="error") as member:
            with pytest.raises(OffsetOutOfRange):
                await member.poll_on()


@pytest.mark.parametrize("policy", ["earliest", "latest", "error"])
async def test_position_outside_log_is_reset_by_policy(rig: Rig, policy: str) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)

    async def start_at_0(_: object) -> dict[TP, int]:
        return {tp: 0}

    async with (
        rig.sender() as sender,
        rig.member([topic], start_at_0, auto_offset_reset=policy) as member,
    ):
        await sender.fill(topic, 3, partitions=1)
        await member.take(3)
        await member.client.seek(tp, 1000)
        if policy == "error":
            with pytest.raises(OffsetOutOfRange):
                await member.poll()
        elif policy == "earliest":
            assert by_partition(await member.take(3)) == {tp: [0, 1, 2]}
        else:
            await member.reset()
            await member.nothing_comes()
            assert await member.client.positions([tp]) == {tp: 3}


@pytest.mark.parametrize("policy", ["earliest", "latest"])
async def test_new_group_begins_by_policy_and_reports_reset(rig: Rig, policy: str) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)
    async with rig.sender() as sender:
        await sender.fill(topic, 3, partitions=1)
        async with rig.member([topic], auto_offset_reset=policy) as member:
            await member.located([tp])
            latest = policy == "latest"
            expected = Reset(tp, None, 3 if latest else 0, is_new=True, must_commit=latest)
            assert member.resets == [expected]
            await member.nothing_comes(0.2)
            assert member.resets == [expected]  # not reported again


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_partition_that_is_added_begins_at_its_beginning(rig: Rig, is_there: bool) -> None:
    """With "latest", also for a member that joins after the partition was added."""
    topic, group = await rig.topic(1), rig.name()
    settings = {"group_id": group, "auto_offset_reset": "latest", "metadata_max_age": 0.5}
    first, added = TP(topic, 0), TP(topic, 1)
    async with rig.sender(metadata_max_age=0.5) as sender:
        await sender.fill(topic, 3, partitions=1)
        async with rig.member([topic], **settings) as member:
            await member.located([first])
            await member.client.commit({first: 3}, 3.0)
            await rig.widen(topic, 2)
            if is_there:
                await until(lambda: added in member.assigned, member)
        async with rig.sender() as later:
            await later.send([outgoing(topic, partition=1, value=b"%d" % n) for n in range(3)])
        async with rig.member([topic], **settings) as member:
            assert by_partition(await member.take(3)) == {added: [0, 1, 2]}
            told = [reset for reset in member.resets if reset.tp == added]
            assert told == [Reset(added, None, 0, is_new=False, must_commit=True)]


async def test_uncommitted_partition_starts_at_begin_of_group(
    rig: Rig,
) -> None:
    """With "latest", after a member crashed before it committed all its starts."""
    topic, group = await rig.topic(2), rig.name()
    settings = {"group_id": group, "auto_offset_reset": "latest"}
    first, second = TP(topic, 0), TP(topic, 1)
    async with rig.sender() as sender:
        await sender.fill(topic, 6, partitions=2)
        await trio.sleep(0.01)  # the next timestamps are later
        async with rig.member([topic], **settings) as member:
            await member.located([first, second])
            await member.client.commit({first: 3}, 3.0)
        await trio.sleep(0.01)
        await sender.fill(topic, 2, partitions=2)
        async with rig.member([topic], **settings) as member:
            assert by_partition(await member.take(2)) == {first: [3], second: [3]}


@pytest.mark.parametrize("policy", ["earliest", "latest"])
async def test_position_outside_log_is_reported_as_reset(rig: Rig, policy: str) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)

    async def start_at_0(_: object) -> dict[TP, int]:
        return {tp: 0}

    async with (
        rig.sender() as sender,
        rig.member([topic], start_at_0, auto_offset_reset=policy) as member,
    ):
        await sender.fill(topic, 3, partitions=1)
        await member.take(3)
        assert member.resets == []
        await member.client.seek(tp, 1000)
        await until(lambda: member.resets, member)
        latest = policy == "latest"
        expected = Reset(tp, 1000, 3 if latest else 0, is_new=False, must_commit=latest)
        assert member.resets == [expected]
        assert expected.skipped == 0


async def test_paused_partition_returns_no_records(rig: Rig) -> None:
    topic = await rig.topic()
    elsewhere = TP(topic, 99)
    async with rig.sender() as sender, rig.member([topic]) as member:
        tps = await sender.fill(topic, 4)
        await member.take(4)
        await member.client.pause([tps[0], tps[2], elsewhere])
        await sender.fill(topic, 400)
        assert set(by_partition(await member.take(200))) == {tps[1], tps[3]}
        await member.nothing_comes()
        await member.client.resume([tps[0], elsewhere])
        assert by_partition(await member.take(100)) == {tps[0]: list(range(1, 101))}
        await member.client.pause(tps)
        await member.client.resume(tps)
        assert by_partition(await member.take(100)) == {tps[2]: list(range(1, 101))}


async def test_pause_inside_log_loses_no_records(rig: Rig) -> None:
    """The client could lose records of a batch that was returned in part: all 6000 must arrive."""
    topic = await rig.topic(2)
    async with (
        rig.sender(max_batch_size=1000) as sender,
        rig.member([topic], max_partition_fetch_bytes=5_000) as member,
    ):
        tps = await sender.fill(topic, 6000, partitions=2)
        turns = 0
        while len(member.records) < 6000:
            tp = tps[turns % 2]
            await member.client.pause([tp])
            member.client.interrupt()
            await member.poll()
            await member.client.resume([tp])
            if len(member.records) < 6000:
                await member.poll()
            turns += 1
    assert turns > 3
    assert by_partition(member.records) == {tp: list(range(3000)) for tp in tps}


async def test_seek_moves_back_and_forward(rig: Rig) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)
    async with (
        rig.sender() as sender,
        rig.member([topic], max_partition_fetch_bytes=1000) as member,
    ):
        await sender.fill(topic, 1000, partitions=1)
        await member.take(10)
        for offset in (900, 3, 500, 0):
            await member.client.seek(tp, offset)
            taken = by_partition(await member.take(20))
            assert taken[tp][0] == offset
            assert taken[tp] == list(range(offset, offset + len(taken[tp])))


async def test_seek_takes_effect_on_paused_partition(rig: Rig) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)
    async with rig.sender() as sender, rig.member([topic]) as member:
        await sender.fill(topic, 10, partitions=1)
        await member.take(10)
        await member.client.pause([tp])
        await member.client.seek(tp, 8)
        await member.nothing_comes()
        await member.client.resume([tp])
        assert by_partition(await member.take(2)) == {tp: [8, 9]}


async def test_seek_of_unassigned_partition_is_refused(rig: Rig) -> None:
    topic = await rig.topic(1)
    async with rig.member([topic]) as member:
        with pytest.raises(NotAssigned):
            await member.client.seek(TP(topic, 0), 0)  # not assigned yet
        await member.located([TP(topic, 0)])
        await member.client.seek(TP(topic, 0), 0)
        with pytest.raises(NotAssigned):
            await member.client.seek(TP(topic, 1), 0)
        with pytest.raises(ValueError, match="offset"):
            await member.client.seek(TP(topic, 0), -1)


async def test_positions_has_only_assigned_partitions(rig: Rig) -> None:
    topic = await rig.topic(2)
    first, second = TP(topic, 0), TP(topic, 1)
    async with rig.sender() as sender, rig.member([topic]) as member:
        assert await member.client.positions([first]) == {}
        await sender.fill(topic, 5, partitions=1)
        await member.take(5)
        assert await member.located([first, second]) == {first: 5, second: 0}
        assert await member.client.positions([TP(topic, 7), first]) == {first: 5}


async def test_highwater_is_end_of_log_at_last_fetch(rig: Rig) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)
    async with (
        rig.sender() as sender,
        rig.member([topic], max_partition_fetch_bytes=1000) as member,
    ):
        assert member.client.highwater(tp) is None
        await sender.fill(topic, 100, partitions=1, size=100)
        await member.take(1)
        assert member.client.highwater(tp) == 100
        assert member.client.highwater(TP(topic, 1)) is None


async def test_beginning_and_end_offsets_of_logs(rig: Rig) -> None:
    topic = await rig.topic(2)
    async with rig.sender() as sender, rig.member([]) as member:
        await sender.fill(topic, 5, partitions=1)
        tps = await member.client.partitions(topic)
        assert tps == {TP(topic, 0), TP(topic, 1)}
        assert await member.client.beginning_offsets(tps) == dict.fromkeys(tps, 0)
        assert await member.client.end_offsets(tps) == {TP(topic, 0): 5, TP(topic, 1): 0}


async def test_topics_returns_every_topic_without_internal_topics(rig: Rig) -> None:
    topic, other = await rig.topic(1), await rig.topic(1)
    async with rig.member([topic]) as member:
        assert {topic, other} <= await member.client.topics(5.0)
        assert not any(name.startswith("__") for name in await member.client.topics(5.0))
        assert await member.client.end_offsets([]) == {}
        assert await member.client.committed([]) == {}


async def test_fetches_are_bounded_in_bytes(rig: Rig) -> None:
    topic = await rig.topic(1)
    async with (
        rig.sender(max_batch_size=1000) as sender,
        rig.member([topic], max_partition_fetch_bytes=5_000) as member,
    ):
        outcomes = await sender.send([outgoing(topic, value=b"." * 500) for _ in range(100)])
        assert all(isinstance(outcome, RecordMetadata) for outcome in outcomes)
        largest = 0
        while len(member.records) < 100:
            batch = await member.poll()
            largest = max(largest, *(len(records) for records in batch.values()), 0)
    assert 0 < largest <= 12


async def test_current_ends_leaves_out_unknown_partitions(rig: Rig) -> None:
    topic = await rig.topic(2)
    async with rig.sender() as sender, rig.member([topic]) as member:
        tps = await sender.fill(topic, 6, partitions=2)
        await member.take(6)
        absent = TP(rig.name(), 0)
        assert await member.client.current_ends([*tps, absent], 3.0) == dict.fromkeys(tps, 3)
        assert await member.client.current_ends([], 3.0) == {}


async def test_current_end_is_last_stable_offset_with_read_committed(
    rig: Rig,
) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)
    async with rig.sender(transactional_id=rig.name()) as writer, rig.member([topic]) as member:
        await writer.client.begin()
        await writer.send([outgoing(topic, partition=0) for _ in range(3)])
        async with rig.member([topic], isolation="read_uncommitted") as other:
            await other.take(3)
            assert await other.client.current_ends([tp], 3.0) == {tp: 3}
        await until(lambda: tp in member.assigned, member)
        assert await member.client.current_ends([tp], 3.0) == {tp: 0}
        await writer.client.commit(5.0)
