"""The contract: all messages of a transaction become visible together, or none does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from tests.drivers.rig import PATIENCE, SETTINGS, Member, Rig, Sender, outgoing, until
from transport.errors import (
    CommitFailed,
    DeliveryFailed,
    Fenced,
    RebalanceInProgress,
    TransactionAborted,
    TransportError,
)
from transport.types import TP, GroupMetadata, RecordMetadata


@asynccontextmanager
async def writer(rig: Rig, transactional_id: str, **settings: object) -> AsyncIterator[Sender]:
    settings = {"transaction_timeout": 10.0, **settings}
    async with rig.sender(transactional_id=transactional_id, **settings) as sender:
        yield sender


async def write(sender: Sender, topic: str, *values: bytes) -> None:
    batch = [outgoing(topic, partition=0, value=value) for value in values]
    for outcome in await sender.send(batch):
        assert isinstance(outcome, RecordMetadata), outcome


async def seen(rig: Rig, topic: str, count: int, **settings: object) -> list[bytes | None]:
    """Return the values that a reader gets, after it has waited for `count` values."""
    async with rig.member([topic], **settings) as reader:
        records = await reader.take(count)
        await reader.nothing_comes(0.2)
        return [record.value for _, record in records]


async def fence_of(member: Member) -> GroupMetadata:
    await until(lambda: member.assigned, member)
    return member.client.group_metadata()


async def test_committed_transaction_is_visible_and_aborted_one_is_not(rig: Rig) -> None:
    topic = await rig.topic(1)
    async with writer(rig, rig.name()) as sender:
        await sender.client.begin()
        await write(sender, topic, b"1", b"2")
        await sender.client.abort(PATIENCE)
        await sender.client.begin()
        await write(sender, topic, b"3", b"4")
        await sender.client.commit(PATIENCE)
    assert await seen(rig, topic, 2) == [b"3", b"4"]
    assert await seen(rig, topic, 4, isolation="read_uncommitted") == [b"1", b"2", b"3", b"4"]


async def test_open_transaction_and_later_messages_are_not_visible(rig: Rig) -> None:
    topic = await rig.topic(1)
    async with writer(rig, rig.name()) as sender, rig.sender() as plain:
        await sender.client.begin()
        await write(sender, topic, b"open")
        await write(plain, topic, b"behind")
        async with rig.member([topic]) as reader:
            await until(lambda: reader.assigned, reader)
            await reader.nothing_comes()
            assert (await reader.client.end_offsets([TP(topic, 0)])) == {TP(topic, 0): 0}
            await sender.client.commit(PATIENCE)
            values = [record.value for _, record in await reader.take(2)]
    assert values == [b"open", b"behind"]


async def test_position_passes_transaction_markers(rig: Rig) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)
    async with writer(rig, rig.name()) as sender:
        await sender.client.begin()
        await write(sender, topic, b"1")
        await sender.client.commit(PATIENCE)
        await sender.client.begin()
        await write(sender, topic, b"2")
        await sender.client.abort(PATIENCE)
        async with rig.member([topic]) as reader:
            await reader.take(1)
            await reader.nothing_comes(0.2)
            assert await reader.client.positions([tp]) == {tp: 4}
            assert await reader.client.end_offsets([tp]) == {tp: 4}


async def test_offsets_are_committed_with_transaction(rig: Rig) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)
    async with (
        writer(rig, rig.name()) as sender,
        rig.sender() as plain,
        rig.member([topic]) as member,
    ):
        await write(plain, topic, b"1", b"2", b"3")
        await member.take(3)
        for offset, end in (1, sender.client.abort), (2, sender.client.commit):
            await sender.client.begin()
            await sender.client.send_offsets({tp: offset}, await fence_of(member), PATIENCE)
            await end(PATIENCE)
            expected = {tp: 2} if offset == 2 else {}
            assert await member.client.committed([tp]) == expected


async def test_start_waits_for_offsets_of_open_transaction(rig: Rig) -> None:
    """Otherwise the next owner would start before the offset that is about to be committed."""
    topic = await rig.topic(1)
    tp, group = TP(topic, 0), rig.name()
    async with writer(rig, rig.name()) as sender:
        async with rig.sender() as plain:
            await write(plain, topic, b"1", b"2", b"3")
        async with rig.member([topic], group_id=group) as member:
            await member.take(3)
            await sender.client.begin()
            await sender.client.send_offsets({tp: 2}, await fence_of(member), PATIENCE)
        async with rig.member([topic], group_id=group) as heir:
            await until(lambda: heir.assigned, heir)
            await heir.nothing_comes()
            await sender.client.commit(PATIENCE)
            ((_, record),) = await heir.take(1)
    assert record.value == b"3"


async def test_new_owner_of_id_aborts_transaction_and_fences_old_owner(rig: Rig) -> None:
    topic, transactional_id = await rig.topic(1), rig.name()
    async with writer(rig, transactional_id) as old:
        await old.client.begin()
        await write(old, topic, b"of the old one")
        async with writer(rig, transactional_id) as new:
            await new.client.begin()
            await write(new, topic, b"of the new one")
            with pytest.raises(Fenced):
                await old.client.commit(PATIENCE)
            await new.client.commit(PATIENCE)
    assert await seen(rig, topic, 1) == [b"of the new one"]


async def test_fenced_producer_cannot_take_id_back(rig: Rig) -> None:
    topic, transactional_id = await rig.topic(1), rig.name()
    async with writer(rig, transactional_id) as old:
        await old.client.begin()
        await write(old, topic, b"of the old one")
        async with writer(rig, transactional_id) as new:
            await new.client.begin()
            await write(new, topic, b"of the new one")
            (outcome,) = await old.send([outgoing(topic, partition=0)])
            assert isinstance(outcome, TransportError)
            with pytest.raises((Fenced, TransactionAborted)):
                await old.client.commit(PATIENCE)
            with pytest.raises(Fenced):
                await old.client.abort(PATIENCE)
            await new.client.commit(PATIENCE)
    assert await seen(rig, topic, 1) == [b"of the new one"]


async def test_evicted_member_commits_no_offsets_in_transaction(rig: Rig) -> None:
    topic, group = await rig.topic(1), rig.name()
    tp = TP(topic, 0)
    async with writer(rig, rig.name()) as sender, rig.sender() as plain:
        await write(plain, topic, b"1")
        async with rig.member([topic], group_id=group) as member:
            await member.take(1)
            stale = await fence_of(member)
        async with rig.member([topic], group_id=group) as heir:
            await until(lambda: heir.assigned, heir)
            await sender.client.begin()
            with pytest.raises(CommitFailed):
                await sender.client.send_offsets({tp: 1}, stale, PATIENCE)
            await sender.client.abort(PATIENCE)
            assert await heir.client.committed([tp]) == {}
            await sender.client.begin()  # the producer works again
            await sender.client.send_offsets({tp: 1}, heir.client.group_metadata(), PATIENCE)
            await sender.client.commit(PATIENCE)
            assert await heir.client.committed([tp]) == {tp: 1}


async def test_group_metadata_is_refused_before_rebalance_is_received(rig: Rig) -> None:
    """Otherwise offsets of partitions that this member has lost could be committed."""
    topic = await rig.topic(1)
    client = rig.driver.consumer(attrs.evolve(SETTINGS, group_id=rig.name()))
    await client.open()
    await client.subscribe([topic])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.poll)
        with trio.fail_after(PATIENCE):
            while True:
                try:
                    client.group_metadata()
                except RebalanceInProgress:
                    break
                await trio.sleep(0.01)
            while (rebalance := await client.next_rebalance()).kind.value != "assigned":
                rebalance.release()
            assert client.group_metadata().generation_id > 0
            rebalance.release()
        client.interrupt()
        nursery.cancel_scope.cancel()
    await client.close(PATIENCE)


async def test_abort_ends_transaction_that_lost_message(rig: Rig) -> None:
    topic = await rig.topic(1)
    async with writer(rig, rig.name(), max_request_size=50_000) as sender:
        await sender.client.begin()
        large = outgoing(topic, partition=0, value=b"." * 200_000)
        outcomes = await sender.send([outgoing(topic, partition=0, value=b"lost"), large])
        assert not isinstance(outcomes[1], RecordMetadata)
        await sender.client.abort(PATIENCE)
        await sender.client.begin()
        await write(sender, topic, b"found")
        await sender.client.commit(PATIENCE)
    assert await seen(rig, topic, 1) == [b"found"]


async def test_message_outside_transaction_is_refused(rig: Rig) -> None:
    topic = await rig.topic(1)
    async with writer(rig, rig.name()) as sender:
        (outcome,) = await sender.send([outgoing(topic, partition=0)])
        assert isinstance(outcome, TransactionAborted)
        with pytest.raises(TransactionAborted):
            await sender.client.commit(PATIENCE)


async def test_transaction_open_for_too_long_is_aborted(rig: Rig) -> None:
    """After a crash only the broker aborts it. The broker checks every few seconds."""
    topic = await rig.topic(1)
    async with writer(rig, rig.name(), transaction_timeout=1.0) as sender, rig.sender() as plain:
        await sender.client.begin()
        await write(sender, topic, b"left behind")
        await write(plain, topic, b"behind it")
        await sender.client.kill()
        with trio.fail_after(30):
            assert await seen(rig, topic, 1) == [b"behind it"]


async def timed_out(rig: Rig, sender: Sender, topic: str) -> None:
    """Keep a transaction open until the broker, which checks every few seconds, aborts it."""
    async with rig.sender() as plain:
        await sender.client.begin()
        await write(sender, topic, b"timed out")
        await write(plain, topic, b"behind it")
        with trio.fail_after(30):
            assert await seen(rig, topic, 1) == [b"behind it"]


@pytest.mark.parametrize("step", ["send", "send offsets", "commit", "abort"])
async def test_timed_out_transaction_is_aborted_and_next_one_commits(rig: Rig, step: str) -> None:
    """The broker's timeout must not count as another owner of the id (KAFKA-9910)."""
    topic = await rig.topic(1)
    async with writer(rig, rig.name(), transaction_timeout=3.0) as sender:
        await timed_out(rig, sender, topic)
        if step == "send":
            (outcome,) = await sender.send([outgoing(topic, partition=0)])
            assert isinstance(outcome, TransactionAborted), outcome
        elif step == "send offsets":
            async with rig.member([topic]) as member:
                fence = await fence_of(member)
                with pytest.raises(TransactionAborted, match="transaction_timeout"):
                    await sender.client.send_offsets({TP(topic, 0): 1}, fence, PATIENCE)
        elif step == "commit":
            with pytest.raises(TransactionAborted, match="transaction_timeout"):
                await sender.client.commit(PATIENCE)
        await sender.client.abort(PATIENCE)
        await sender.client.begin()
        await write(sender, topic, b"again")
        await sender.client.commit(PATIENCE)
    assert await seen(rig, topic, 2) == [b"behind it", b"again"]


async def test_new_owner_of_id_fences_old_owner_after_timeout(rig: Rig) -> None:
    topic, transactional_id = await rig.topic(1), rig.name()
    async with writer(rig, transactional_id, transaction_timeout=3.0) as old:
        await timed_out(rig, old, topic)
        async with writer(rig, transactional_id) as new:
            (outcome,) = await old.send([outgoing(topic, partition=0)])
            assert isinstance(outcome, TransactionAborted), outcome
            with pytest.raises(Fenced):
                await old.client.commit(PATIENCE)
            with pytest.raises(Fenced):
                await old.client.abort(PATIENCE)
            await new.client.begin()
            await write(new, topic, b"of the new one")
            await new.client.commit(PATIENCE)
    assert await seen(rig, topic, 2) == [b"behind it", b"of the new one"]


async def begin_and_commit(sender: Sender, topic: str) -> None:
    await sender.client.begin()
    await sender.send([outgoing(topic, partition=0)])
    await sender.client.commit(PATIENCE)


async def test_new_owner_of_id_fences_old_owner_between_transactions(rig: Rig) -> None:
    topic, transactional_id = await rig.topic(1), rig.name()
    async with writer(rig, transactional_id) as old:
        await old.client.begin()
        await write(old, topic, b"of the old one")
        await old.client.commit(PATIENCE)
        async with writer(rig, transactional_id) as new:
            with pytest.raises(Fenced):
                await begin_and_commit(old, topic)
            await new.client.begin()
            await write(new, topic, b"of the new one")
            await new.client.commit(PATIENCE)
    assert await seen(rig, topic, 2) == [b"of the old one", b"of the new one"]


async def test_rejected_record_aborts_its_transaction(rig: Rig) -> None:
    """The transaction is incomplete without the record, so its neighbors are aborted as well."""
    topic = await rig.topic(1, {"cleanup.policy": "compact"})
    keys = [b"1", None, b"3"]
    async with writer(rig, rig.name(), transaction_linger=0.05) as sender:
        await sender.client.begin()
        batch = [outgoing(topic, partition=0, key=key) for key in keys]
        _, refused, after = await sender.send(batch)
        assert isinstance(refused, DeliveryFailed), refused
        assert "without key" in str(refused)
        assert isinstance(after, TransactionAborted), after
        with pytest.raises(TransactionAborted):
            await sender.client.commit(PATIENCE)
        await sender.client.abort(PATIENCE)
        await sender.client.begin()
        (fine,) = await sender.send([outgoing(topic, partition=0, key=b"4", value=b"again")])
        assert isinstance(fine, RecordMetadata)
        await sender.client.commit(PATIENCE)
    assert await seen(rig, topic, 1) == [b"again"]


async def test_hurry_ends_linger_of_open_transaction(rig: Rig) -> None:
    """This applies to messages accepted before and after `hurry`, until the transaction ends."""
    topic = await rig.topic(1)
    settings = {"transaction_linger": 60.0, "transaction_timeout": 30.0}
    async with writer(rig, rig.name(), **settings) as sender:
        for number in range(3):
            await sender.client.begin()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, sender, topic, b"%d before" % number)
                await trio.sleep(0.2)
                with trio.fail_after(PATIENCE):
                    sender.client.hurry()
                    sender.client.hurry()  # repeated calls change nothing
                    await write(sender, topic, b"%d after" % number)
            await (sender.client.abort if number == 1 else sender.client.commit)(PATIENCE)
        sender.client.hurry()  # does nothing without a transaction
    shown = [b"%d %s" % (number, when) for number in (0, 2) for when in (b"before", b"after")]
    assert await seen(rig, topic, 4) == shown
