"""The contract: an accepted message is written once, and has one outcome."""

from __future__ import annotations

import pytest
import trio

from tests.drivers.rig import PATIENCE, Rig, outgoing
from transport.drivers.base import Outgoing
from transport.errors import ClientClosed, DeliveryFailed, MessageTooLarge, TransportError
from transport.types import RecordMetadata

YEAR_2100_MS = 4_102_444_800_000
# A configuration of a topic, and the fields of a message that the topic rejects.
REFUSED = {
    "no key": ({"cleanup.policy": "compact"}, {"key": None}),
    "ahead": ({"message.timestamp.after.max.ms": "1000"}, {"timestamp_ms": YEAR_2100_MS}),
    "past": ({"message.timestamp.before.max.ms": "60000"}, {"timestamp_ms": 1}),
    "large": ({"max.message.bytes": "2000"}, {"value": b"." * 5000}),
}


async def test_outcome_has_place_of_message(rig: Rig) -> None:
    topic = await rig.topic()
    batch = [outgoing(topic, partition=n % 4, timestamp_ms=1_700_000_000_500) for n in range(100)]
    async with rig.sender() as sender:
        outcomes = await sender.send(batch)
    assert outcomes == [RecordMetadata(topic, n % 4, n // 4, 1_700_000_000.5) for n in range(100)]


async def test_send_now_and_send_keep_order(rig: Rig) -> None:
    """`send_now` accepts a whole batch or no message of it. Then `send` accepts the batch."""
    topic = await rig.topic()
    batches = [[outgoing(topic, partition=0) for _ in range(n)] for n in (1, 3, 2000, 1, 5)]
    async with rig.sender() as sender:
        await sender.client.partition_count(topic, PATIENCE)
        for batch in batches:
            if not sender.client.send_now(batch):
                await sender.client.send(batch)
        outcomes = await sender.reported([each for batch in batches for each in batch])
    assert [each.offset for each in outcomes if isinstance(each, RecordMetadata)] == [*range(2010)]
    with pytest.raises(ClientClosed):
        sender.client.send_now(batches[0])


async def test_key_stays_on_its_partition(rig: Rig) -> None:
    topic = await rig.topic()
    keys = [b"key-%d" % (n % 20) for n in range(200)]
    async with rig.sender() as sender:
        outcomes = await sender.send([outgoing(topic, key=key) for key in keys])
        places = {(key, written.partition) for key, written in zip(keys, outcomes, strict=True)}
        assert len(places) == 20
        assert len({partition for _, partition in places}) == 4


async def test_messages_without_key_are_spread(rig: Rig) -> None:
    topic = await rig.topic()
    used = set()
    async with rig.sender() as sender:
        for _ in range(50):
            (written,) = await sender.send([outgoing(topic)])
            used.add(written.partition)
    assert used <= {0, 1, 2, 3}
    assert len(used) > 1


async def test_rejected_message_stops_no_other_message(rig: Rig) -> None:
    topic = await rig.topic()
    batch = [
        outgoing(topic, partition=0),
        outgoing(topic, partition=0, value=b"." * 200_000),
        outgoing(topic, partition=77),
        outgoing(topic, partition=0),
    ]
    async with rig.sender() as sender:
        before, large, nowhere, after = await sender.send(batch)
    assert isinstance(large, MessageTooLarge)
    assert isinstance(nowhere, TransportError)
    assert (before.offset, after.offset) == (0, 1)


async def numbered(rig: Rig, reason: str, bad: set[int], count: int) -> list[Outgoing]:
    """Return messages for a new topic, which rejects the messages in `bad` for this reason."""
    config, refused = REFUSED[reason]
    topic = await rig.topic(1, config)
    return [
        outgoing(topic, partition=0, **{"key": b"k", "value": b"%d" % n, **refused})
        if n in bad
        else outgoing(topic, partition=0, key=b"k", value=b"%d" % n)
        for n in range(count)
    ]


@pytest.mark.parametrize("acks", ["all", 1])
@pytest.mark.parametrize("reason", REFUSED)
async def test_rejected_record_costs_no_neighbor_and_keeps_order(
    rig: Rig, reason: str, acks: str | int
) -> None:
    bad = {0, 3, 4, 17, 29}
    batch = await numbered(rig, reason, bad, 30)
    async with rig.sender(linger=0.05, acks=acks) as sender:
        outcomes = await sender.send(batch)
        (later,) = await sender.send([outgoing(batch[0].topic, partition=0, key=b"k")])
    offsets = []
    for n, outcome in enumerate(outcomes):
        if n in bad:
            assert isinstance(outcome, DeliveryFailed), (n, outcome)
            assert isinstance(outcome, MessageTooLarge) == (reason == "large")
        else:
            assert isinstance(outcome, RecordMetadata), (n, outcome)
            offsets.append(outcome.offset)
    assert offsets == list(range(25))
    assert later.offset == 25
    async with rig.member([batch[0].topic]) as reader:
        taken = await reader.take(26)
        await reader.nothing_comes(0.2)
    assert [record.value for _, record in taken[:25]] == [
        message.value for n, message in enumerate(batch) if n not in bad
    ]


@pytest.mark.parametrize("reason", REFUSED)
async def test_each_rejected_record_of_batch_has_its_error(rig: Rig, reason: str) -> None:
    batch = await numbered(rig, reason, set(range(5)), 5)
    async with rig.sender(linger=0.05) as sender:
        for outcome in await sender.send(batch):
            assert isinstance(outcome, DeliveryFailed), outcome
        (fine,) = await sender.send([outgoing(batch[0].topic, partition=0, key=b"k")])
    assert fine.offset == 0


@pytest.mark.parametrize("reason", REFUSED)
async def test_close_sends_neighbors_of_rejected_record(rig: Rig, reason: str) -> None:
    batch = await numbered(rig, reason, {1}, 4)
    async with rig.sender(linger=60.0) as sender:
        await sender.client.partition_count(batch[0].topic, PATIENCE)
        await sender.client.send(batch)
        await sender.client.close(PATIENCE)
        await trio.lowlevel.checkpoint()
        outcomes = await sender.reported(batch)
    assert [n for n, each in enumerate(outcomes) if not isinstance(each, RecordMetadata)] == [1]
    assert isinstance(outcomes[1], DeliveryFailed)


async def test_rejected_record_costs_no_message_of_other_topic(rig: Rig) -> None:
    batch = await numbered(rig, "no key", {2}, 5)
    other = await rig.topic(1)
    batch += [outgoing(other, partition=0) for _ in range(5)]
    async with rig.sender(linger=0.05) as sender:
        outcomes = await sender.send(batch)
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Exception)] == [2]


async def test_cancelled_send_is_accepted(rig: Rig) -> None:
    topic = await rig.topic()
    batch = [outgoing(topic, partition=0) for _ in range(10)]
    async with rig.sender() as sender:
        await sender.client.partition_count(topic, PATIENCE)
        with trio.CancelScope() as scope:
            scope.cancel()
            await sender.client.send(batch)
        assert scope.cancelled_caught
        outcomes = await sender.reported(batch)
    assert [outcome.offset for outcome in outcomes] == list(range(10))


async def test_batch_is_sent_at_once_without_linger(rig: Rig) -> None:
    topic = await rig.topic()
    async with rig.sender(linger=60.0) as sender:
        await sender.client.partition_count(topic, PATIENCE)
        with trio.fail_after(PATIENCE), sender.client.without_linger():
            await sender.send([outgoing(topic, partition=0)])
            with sender.client.without_linger():
                await sender.send([outgoing(topic, partition=0)])
            await sender.send([outgoing(topic, partition=0)])


async def test_offset_is_unknown_without_acks(rig: Rig) -> None:
    topic = await rig.topic()
    async with rig.sender(acks=0) as sender:
        (written,) = await sender.send([outgoing(topic, partition=1)])
    assert (written.partition, written.offset) == (1, -1)


async def test_close_sends_waiting_messages(rig: Rig) -> None:
    topic = await rig.topic()
    batch = [outgoing(topic, partition=0) for _ in range(1000)]
    async with rig.sender(linger=0.5) as sender:
        await sender.client.partition_count(topic, PATIENCE)
        await sender.client.send(batch)
    assert [sender.outcomes[each].offset for each in batch] == list(range(1000))


async def test_kill_gives_every_message_an_outcome(rig: Rig) -> None:
    topic = await rig.topic()
    batch = [outgoing(topic, partition=0) for _ in range(1000)]
    async with rig.sender(linger=0.5) as sender:
        await sender.client.partition_count(topic, PATIENCE)
        await sender.client.send(batch)
        await sender.client.kill()
        with trio.fail_after(PATIENCE):
            outcomes = await sender.reported(batch)
    assert all(isinstance(each, RecordMetadata | TransportError) for each in outcomes)


async def test_topic_is_created_once(rig: Rig) -> None:
    topic = rig.name()
    async with rig.sender() as sender:
        await sender.client.create_topic(topic, 3, 1, {}, 10.0)
        assert await sender.client.partition_count(topic, PATIENCE) == 3
        await sender.send([outgoing(topic, partition=2)])
        await sender.client.create_topic(topic, 5, 1, {}, 10.0)
        assert await sender.client.partition_count(topic, PATIENCE) == 3


@pytest.mark.parametrize("count", [0, 1])
async def test_send_accepts_empty_and_single_batches(rig: Rig, count: int) -> None:
    topic = await rig.topic()
    async with rig.sender() as sender:
        assert len(await sender.send([outgoing(topic)] * count)) == count
