"""Features of `memory://` only: gaps, retention, named brokers, several runs, a mock clock."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
import trio.testing

from tests.drivers.rig import PATIENCE, SETTINGS, Rig, outgoing, shared, until
from tests.lanes import run_jumping
from transport import App
from transport.drivers.base import RebalanceKind
from transport.drivers.memory import MemoryBroker, MemoryDriver
from transport.errors import ClientClosed, CommitRefused, DeliveryFailed, Fenced, UnknownTopic
from transport.types import TP, RecordMetadata

JUMPING = pytest.mark.trio(run=run_jumping)  # a module-level mark would have lower priority
TP0 = TP("topic", 0)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def rig(broker: MemoryBroker) -> Rig:
    return Rig(MemoryDriver(broker=broker))


@JUMPING
async def test_positions_pass_gaps_inside_and_at_end_of_log(rig: Rig, broker: MemoryBroker) -> None:
    async with rig.sender() as sender, rig.member(["topic"]) as member:
        broker.gap(TP0, 2)
        await sender.fill("topic", 1, partitions=1)
        broker.gap(TP0)
        await sender.fill("topic", 1, partitions=1)
        broker.gap(TP0, 3)
        assert [record.offset for _, record in await member.take(2)] == [2, 4]
        await member.nothing_comes()
        assert await member.client.positions([TP0]) == {TP0: 8}
        assert await member.client.end_offsets([TP0]) == {TP0: 8}
        assert member.client.highwater(TP0) == 8
        with trio.move_on_after(5.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(member.poll)
                await trio.sleep(1.0)
                broker.gap(TP0)  # while a poll waits
        assert await member.client.positions([TP0]) == {TP0: 9}


@JUMPING
async def test_position_below_start_of_log_is_reset(rig: Rig, broker: MemoryBroker) -> None:
    async with rig.sender() as sender, rig.member(["topic"]) as member:
        await sender.fill("topic", 10, partitions=1)
        await member.take(10)
        broker.delete_records(TP0, 6)
        assert await member.client.beginning_offsets([TP0]) == {TP0: 6}
        await member.client.seek(TP0, 2)
        assert [record.offset for _, record in await member.take(4)] == [6, 7, 8, 9]


@JUMPING
async def test_missing_topic_is_waited_for_without_auto_creation() -> None:
    broker = MemoryBroker(auto_create=False)
    rig = Rig(MemoryDriver(broker=broker))
    async with rig.sender() as sender, rig.member([]) as member:
        before = trio.current_time()
        with pytest.raises(UnknownTopic, match="missing"):
            await member.client.subscribe(["missing"])
        assert trio.current_time() == before + 10.0
        with pytest.raises(UnknownTopic):
            await member.client.partitions("missing")
        with pytest.raises(UnknownTopic):
            await sender.client.partition_count("missing", PATIENCE)
        missing = outgoing("missing")
        await sender.client.send([missing])
        failed = sender.outcomes[missing]
        assert isinstance(failed, DeliveryFailed)
        assert isinstance(failed.__cause__, UnknownTopic)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.client.subscribe, ["missing"])
            await trio.sleep(1.0)
            await sender.client.create_topic("missing", 2, 1, {}, PATIENCE)
        assert trio.current_time() == before + 11.0


@JUMPING
async def test_timestamps_count_from_fixed_time(rig: Rig) -> None:
    async with rig.sender() as sender:
        outcomes = await sender.send([outgoing("topic", partition=0) for _ in range(2)])
    first, second = (o.timestamp for o in outcomes if isinstance(o, RecordMetadata))
    assert first == 1_704_067_200.0
    assert second == pytest.approx(first + 0.001)


@pytest.mark.parametrize("offsets", [{TP("topic", 99): 1}, {TP0: -1}])
@JUMPING
async def test_commit_of_unknown_partition_or_negative_offset_is_refused(
    rig: Rig, offsets: dict[TP, int]
) -> None:
    async with rig.member(["topic"]) as member:
        await member.located([TP0])
        with pytest.raises(CommitRefused):
            await member.client.commit(offsets, PATIENCE)


@JUMPING
async def test_replaced_static_member_is_fenced(rig: Rig) -> None:
    group = rig.name()
    async with (
        rig.member(["topic"], group_id=group, group_instance_id="one") as old,
        rig.member(["topic"], group_id=group, group_instance_id="one") as new,
    ):
        await old.located([TP0])
        await until(lambda: len(new.assigned) == 4, new)
        with pytest.raises(Fenced):
            await old.client.commit({TP0: 1}, PATIENCE)
        with pytest.raises(Fenced):
            await old.poll()
        await new.client.commit({TP0: 1}, PATIENCE)


@JUMPING
async def test_partitions_take_turns_if_fetch_is_full(rig: Rig) -> None:
    async with (
        rig.sender() as sender,
        rig.member(["topic"], fetch_max_bytes=1000, max_partition_fetch_bytes=500) as member,
    ):
        tps = await sender.fill("topic", 400, size=80)
        await until(lambda: member.assigned, member)
        batches = [await member.poll() for _ in range(4)]
        turns = [sorted(batch) for batch in batches]
        assert turns in ([tps[:2], tps[2:]] * 2, [tps[2:], tps[:2]] * 2)


@JUMPING
async def test_idle_group_has_no_timer(rig: Rig) -> None:
    """The clock jumps from one deadline of the test to the next, and no other task wakes up."""
    woken = 0

    class Count(trio.abc.Instrument):
        def task_scheduled(self, task: trio.lowlevel.Task) -> None:
            nonlocal woken
            woken += 1

    group = rig.name()
    async with (
        rig.member(["topic"], group_id=group) as a,
        rig.member(["topic"], group_id=group) as b,
    ):
        await until(shared(tuple(TP("topic", n) for n in range(4)), a, b), a, b)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.poll)
            nursery.start_soon(b.poll)
            await trio.sleep(1000.0)
            count = Count()
            trio.lowlevel.add_instrument(count)
            await trio.sleep(2000.0)
            trio.lowlevel.remove_instrument(count)
            nursery.cancel_scope.cancel()
    assert woken < 10


@JUMPING
async def test_session_timeout_counts_from_kill_during_poll(rig: Rig) -> None:
    group = rig.name()

    async def poll() -> None:
        with pytest.raises(ClientClosed):
            await second.poll_on()

    async with (
        rig.member(["topic"], group_id=group) as first,
        rig.member(["topic"], group_id=group) as second,
    ):
        tps = [TP("topic", number) for number in range(4)]
        await until(shared(tps, first, second), first, second)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            nursery.start_soon(until, lambda: len(first.assigned) == 4, first)
            await trio.sleep(1.0)
            await second.client.kill()
            before = trio.current_time()
        assert trio.current_time() == pytest.approx(before + SETTINGS.session_timeout)


@JUMPING
async def test_rebalance_expires_without_poll(rig: Rig) -> None:
    async def until_expired(rebalance: object) -> None:
        await member.told[-1].expired.wait()
        expired.append(trio.current_time())

    expired: list[float] = []
    async with rig.member(["topic"], until_expired) as member:
        before = trio.current_time()
        with trio.move_on_after(1.0):
            await member.poll()
        await trio.sleep(100.0)
    assert expired == [before + 5.0]


def run(test: Callable[..., Awaitable[object]], *args: object) -> None:
    run_jumping(functools.partial(test, *args))


async def fill(driver: MemoryDriver, count: int) -> None:
    async with Rig(driver).sender() as sender:
        await sender.fill("topic", count)


async def ends(driver: MemoryDriver) -> int:
    async with Rig(driver).member([]) as member:
        if "topic" not in await member.client.topics():
            return 0
        tps = await member.client.partitions("topic")
        return sum((await member.client.end_offsets(tps)).values())


@JUMPING
async def test_drivers_with_same_name_share_broker() -> None:
    await fill(MemoryDriver("one"), 3)
    assert await ends(MemoryDriver("one")) == 3
    assert await ends(MemoryDriver("other")) == 0


def test_named_broker_ends_with_its_run() -> None:
    driver = MemoryDriver("one")

    async def check() -> None:
        assert await ends(driver) == 0
        await fill(driver, 3)

    run(check)
    run(check)


def test_broker_passed_to_driver_outlives_runs() -> None:
    broker = MemoryBroker()
    tps = [TP("topic", number) for number in range(4)]

    async def crash() -> None:
        await trio.sleep(2000.0)  # the clock of the next run starts again
        rig = Rig(MemoryDriver(broker=broker))
        async with rig.sender() as sender:
            await sender.fill("topic", 8)
        client = rig.driver.consumer(attrs.evolve(SETTINGS, group_id="group"))
        await client.open()
        await client.subscribe(["topic"])
        with trio.move_on_after(10.0):
            await client.poll()
        await client.commit({tps[0]: 1}, PATIENCE)

    async def come_back() -> None:
        rig = Rig(MemoryDriver(broker=broker))
        before = trio.current_time()
        async with rig.member(["topic"], group_id="group") as member:
            assert len(await member.take(7)) == 7
            assert trio.current_time() - before == pytest.approx(SETTINGS.session_timeout)
            assert member.events(RebalanceKind.ASSIGNED) == [frozenset(tps)]

    run(crash)
    run(come_back)


@JUMPING
async def test_broker_returns_written_records_and_committed_offsets() -> None:
    broker = MemoryBroker(default_partitions=2)
    async with App("group", broker) as app:
        for number in (1, 0, 1):
            await app.producer.send_and_wait("t", None, b"%d" % number, number)
        messages = app.topic("t").noack()
        for _ in range(3):
            (await anext(messages)).ack()
    assert [record.value for record in broker.records("t")] == [b"0", b"1", b"1"]
    assert broker.committed("group") == {TP("t", 0): 1, TP("t", 1): 2}
    assert broker.committed("another") == {}
    with pytest.raises(UnknownTopic):
        MemoryBroker(auto_create=False).records("t")
