"""Channels, their iterators and backpressure: `transport/delivering/channel.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import A_WHILE, app_on, broker_with, committed, nothing_comes, take, write
from tests.nurseries.clock import jumping
from tests.records import FakeRecord, fetched
from transport import JSON, TP, Batch, Codec, DecodeError, Message, Topic
from transport.codecs import codec_for
from transport.delivering.channel import Batches, Channel, Messages
from transport.delivering.flow import Flow
from transport.delivering.ledger import Ledger, Tally
from transport.fetched import FetchedRecords

A, B, C = TP("a", 0), TP("a", 1), TP("a", 2)
ORDERS = TP("orders", 0)


@attrs.define
class Bench:
    """A channel of three partitions into which the test puts fetches."""

    limit: int = 1000
    key: Codec | None = None
    value: Codec | None = None
    flow: Flow = attrs.field(factory=Flow)
    ledgers: dict[TP, Ledger] = attrs.field(factory=dict)
    turns: list[bool] = attrs.field(factory=list)  # the values of `is_full`, at each change
    channel: Channel = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.channel = Channel(
            "a",
            self.flow,
            limit=self.limit,
            key=self.key,
            value=self.value,
            on_full=lambda channel: self.turns.append(channel.is_full),
        )
        for tp in (A, B, C):
            self.ledgers[tp] = Ledger(tp, 1, 1, Tally())
            self.channel.open_lane(self.ledgers[tp])

    def put(self, tp: TP, *offsets: int) -> None:
        assert self.ledgers[tp].put(fetched(*offsets))

    def take(self) -> list[Message]:
        """Return all messages that may be delivered now."""
        return list(self._take())

    def _take(self) -> Iterator[Message]:
        while (message := self.channel.take()) is not None:
            yield message

    def noack(self) -> Messages:
        return Messages(self.channel, acks=False)

    def acked(self) -> Messages:
        return Messages(self.channel, acks=True)


# Turns of the partitions


def test_partitions_take_turns() -> None:
    bench = Bench()
    for tp in (A, B, C):
        bench.put(tp, *range(200))
    turns: list[TP] = []
    for message in bench.take():
        if not turns or turns[-1] != message.tp:
            turns.append(message.tp)
    assert turns == [A, B, C] * 3 + [A, B, C]


def test_a_busy_partition_does_not_starve_a_quiet_one() -> None:
    bench = Bench(limit=10**6)
    bench.put(A, *range(10000))
    bench.channel.take()
    bench.put(B, 0)
    delivered = [bench.channel.take() for _ in range(2 * 64)]
    assert any(message is not None and message.tp == B for message in delivered)


def test_messages_of_a_partition_are_delivered_in_offset_order() -> None:
    bench = Bench()
    bench.put(A, 0, 1, 5)
    bench.put(B, 7, 8)
    bench.put(A, 9)
    messages = bench.take()
    assert [m.offset for m in messages if m.tp == A] == [0, 1, 5, 9]
    assert [m.offset for m in messages if m.tp == B] == [7, 8]


def test_batches_take_turns_too() -> None:
    bench = Bench()
    for tp in (A, B):
        bench.put(tp, *range(5))
    batches = [bench.channel.take_batch(3) for _ in range(4)]
    assert [(batch.tp, len(batch)) for batch in batches if batch] == [
        (A, 3),
        (B, 3),
        (A, 2),
        (B, 2),
    ]
    assert bench.channel.take_batch(3) is None


def test_a_batch_spans_several_fetches_of_its_partition() -> None:
    bench = Bench(limit=5)
    for first in range(0, 9, 3):
        bench.put(A, first, first + 1, first + 2)
    batch = bench.channel.take_batch(4)
    assert batch is not None
    assert [message.offset for message in batch] == [0, 1, 2, 3]
    rest = bench.channel.take_batch(4)
    assert rest is not None
    assert [message.offset for message in rest] == [4]  # the limit of unacked messages is reached


def test_partition_suspended_at_its_turn_delivers_first_after_it_resumes() -> None:
    """All partitions are suspended and resumed together, as around each transaction."""
    bench = Bench()
    for tp in (A, B, C):
        bench.put(tp, *range(9))
    turns: list[TP] = []
    for _ in range(3):
        batches = [bench.channel.take_batch(3) for _ in range(2)]
        turns += [batch.tp for batch in batches if batch is not None]
        for ledger in bench.ledgers.values():
            ledger.suspend()
        assert bench.channel.take_batch(3) is None
        for ledger in bench.ledgers.values():
            ledger.is_suspended = False
        bench.channel.reschedule()
    assert turns == [A, B, C, A, B, C]


def test_suspended_partition_has_no_turn_when_others_resume() -> None:
    bench = Bench()
    for tp in (A, B):
        bench.put(tp, 0)
        bench.ledgers[tp].is_suspended = True
    assert bench.take() == []
    bench.ledgers[B].is_suspended = False
    bench.channel.reschedule()
    assert [message.tp for message in bench.take()] == [B]
    bench.ledgers[A].is_suspended = False
    bench.channel.reschedule()
    assert [message.tp for message in bench.take()] == [A]


@pytest.mark.parametrize("goes", ["shut", "closed"])
def test_partition_shut_or_closed_while_suspended_has_no_turn(goes: str) -> None:
    bench = Bench()
    bench.put(A, 0)
    bench.ledgers[A].is_suspended = True
    assert bench.take() == []
    if goes == "shut":
        bench.ledgers[A].shut()
    else:
        bench.ledgers[A].close_lanes_of(bench.channel.usage)
    bench.ledgers[A].is_suspended = False
    bench.channel.reschedule()
    assert bench.take() == []


def test_waiting_messages_are_not_delivered_after_their_epoch_ends() -> None:
    bench = Bench()
    bench.put(A, 0, 1, 2)
    bench.put(B, 0)
    assert bench.channel.take() is not None  # in the middle of A's turn
    bench.ledgers[A].shut()
    assert [message.tp for message in bench.take()] == [B]


# Limits


def test_no_more_than_the_limit_is_delivered_and_unacked() -> None:
    bench = Bench(limit=5)
    bench.put(A, *range(10))
    messages = bench.take()
    assert len(messages) == 5
    messages[3].ack()
    assert [message.offset for message in bench.take()] == [5]
    assert bench.channel.take_batch(9) is None


def test_batch_size_is_bounded_by_the_free_room_of_the_channel() -> None:
    bench = Bench(limit=5)
    bench.put(A, *range(10))
    bench.channel.take()
    batch = bench.channel.take_batch(9)
    assert batch is not None
    assert len(batch) == 4


def test_channel_is_full_from_its_limit_until_it_is_half_empty() -> None:
    bench = Bench(limit=6)
    bench.put(A, 0, 1, 2)
    assert bench.turns == []
    bench.put(B, 0, 1, 2)
    assert bench.turns == [True]
    messages = bench.take()
    for message in messages[:2]:
        message.ack()
    assert bench.turns == [True]
    messages[2].ack()
    assert bench.turns == [True, False]


def test_full_channel_wants_messages_of_dry_lanes_when_nothing_can_be_taken() -> None:
    bench = Bench(limit=6)
    bench.put(A, *range(6))
    bench.put(B, 0)
    assert [bench.channel.wants(tp) for tp in (A, B, C)] == [False, False, False]
    bench.channel.hold(bench.ledgers[A].lanes[0])
    assert bench.channel.take() is not None, "of B"
    assert [bench.channel.wants(tp) for tp in (A, B, C)] == [False, False, False]
    assert bench.channel.take() is None
    assert [bench.channel.wants(tp) for tp in (A, B, C)] == [False, True, True]
    assert bench.channel.take() is None
    assert bench.turns == [True, True], "it asks once"
    bench.put(C, 0)
    assert [bench.channel.wants(tp) for tp in (A, B, C)] == [False, False, False]
    bench.take()
    assert [bench.channel.wants(tp) for tp in (A, B, C)] == [False, True, True]
    bench.channel.hold(bench.ledgers[C].lanes[0])
    assert [bench.channel.wants(tp) for tp in (A, B, C)] == [False, True, False], "C has enough"
    bench.channel.release(bench.ledgers[C].lanes[0])
    bench.take()
    assert bench.channel.wants(C)


def test_full_channel_wants_nothing_if_nothing_more_may_be_delivered() -> None:
    """I8."""
    bench = Bench(limit=6)
    bench.put(A, *range(6))
    assert len(bench.take()) == 6
    assert [bench.channel.wants(tp) for tp in (A, B, C)] == [False, False, False]


def test_full_channel_wants_no_messages_of_a_closed_lane() -> None:
    bench = Bench(limit=6)
    bench.put(A, *range(6))
    bench.channel.hold(bench.ledgers[A].lanes[0])
    bench.ledgers[B].shut()
    bench.channel.take()
    assert [bench.channel.wants(tp) for tp in (A, B, C)] == [False, False, True]


def test_end_of_an_epoch_frees_room_in_the_channel() -> None:
    bench = Bench(limit=4)
    bench.put(A, 0, 1, 2)
    bench.put(B, 0)
    bench.ledgers[A].shut()
    assert bench.turns == [True, False]


def test_closed_lanes_free_room_in_the_channel() -> None:
    bench = Bench(limit=2)
    bench.put(A, 0, 1)
    for ledger in bench.ledgers.values():
        ledger.close_lanes_of(bench.channel.usage)
    assert bench.turns == [True, False]
    assert bench.take() == []


def test_nothing_is_delivered_while_flow_is_stopped() -> None:
    bench = Bench()
    bench.put(A, 0, 1)
    bench.channel.take()  # in the middle of a turn
    bench.flow.stop()
    assert bench.channel.take() is None
    assert bench.channel.take_batch(1) is None
    bench.flow.resume()
    assert bench.channel.take() is not None


# Iterators


@jumping
async def test_anext_acks_the_current_message_before_anything_else() -> None:
    bench = Bench()
    bench.put(A, 0, 1)
    messages = bench.acked()
    first = await anext(messages)
    assert not first.acked
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(messages)
    assert scope.cancelled_caught
    assert first.acked


@jumping
async def test_anext_acks_the_current_message_while_flow_is_stopped() -> None:
    bench = Bench()
    bench.put(A, 0, 1)
    messages = bench.acked()
    first = await anext(messages)
    bench.flow.stop()
    assert await nothing_comes(messages)
    assert first.acked


@jumping
async def test_a_cancelled_wait_loses_no_message() -> None:
    bench = Bench()
    messages = bench.noack()
    for _ in range(3):
        with trio.move_on_after(1) as scope:
            await anext(messages)
        assert scope.cancelled_caught
    bench.put(A, 0)
    assert (await anext(messages)).offset == 0


@pytest.mark.parametrize("steps", range(5))
@jumping
async def test_a_wait_cancelled_as_a_message_arrives_loses_no_message(steps: int) -> None:
    bench = Bench()
    got: list[int] = []
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            got.append((await anext(bench.noack())).offset)

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        bench.put(A, 0, 1)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    got.append((await anext(bench.noack())).offset)
    assert got in ([0], [0, 1])


@jumping
async def test_iterators_of_one_channel_share_its_messages() -> None:
    bench = Bench()
    got: list[int] = []
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            async for message in bench.acked():
                got.append(message.offset)
                await trio.sleep(1)

        for _ in range(3):
            nursery.start_soon(read)
        await wait_all_tasks_blocked()
        bench.put(A, *range(9))
        await trio.sleep(3.5)
        assert sorted(got) == list(range(9))
        bench.channel.end()


@jumping
async def test_an_iterator_lets_other_tasks_run() -> None:
    bench = Bench(limit=10**6)
    bench.put(A, *range(10000))
    turns: list[str] = []
    async with trio.open_nursery() as nursery:

        async def other() -> None:
            for _ in range(50):
                turns.append("other")
                await trio.lowlevel.checkpoint()

        nursery.start_soon(other)
        messages = bench.acked()
        for _ in range(10000):
            await anext(messages)
            turns.append("message")
    last = len(turns) - 1 - turns[::-1].index("other")
    assert turns[:last].count("message") < 64 * 55


@jumping
async def test_iterators_end_with_their_channel() -> None:
    bench = Bench()
    async with trio.open_nursery() as nursery:

        async def read(messages: Messages | Batches) -> None:
            assert [message async for message in messages] == []

        nursery.start_soon(read, bench.acked())
        nursery.start_soon(read, Batches(bench.channel, acks=True, most=5))
        await wait_all_tasks_blocked()
        bench.channel.end()


@jumping
async def test_anext_acks_the_current_batch() -> None:
    bench = Bench()
    bench.put(A, 0, 1, 2)
    batches = Batches(bench.channel, acks=True, most=2)
    first = await anext(batches)
    assert [message.offset for message in first] == [0, 1]
    assert bench.ledgers[A].safe == 0
    await anext(batches)
    assert bench.ledgers[A].safe == 2


@jumping
async def test_without_acks_the_handler_acks_batches_itself() -> None:
    bench = Bench()
    bench.put(A, 0, 1, 2)
    batches = Batches(bench.channel, acks=False, most=2)
    first, _ = await take(batches, 2)
    assert bench.ledgers[A].safe == 0
    assert first.ack()
    assert bench.ledgers[A].safe == 2


# `async with`


@jumping
async def test_a_clean_exit_acks() -> None:
    bench = Bench()
    bench.put(A, 0)
    async with await anext(bench.noack()) as message:
        assert not message.acked
    assert message.acked


@jumping
async def test_an_exception_does_not_ack() -> None:
    bench = Bench()
    bench.put(A, 0)
    message = await anext(bench.noack())
    with pytest.raises(ZeroDivisionError):
        async with message:
            raise ZeroDivisionError
    assert not message.acked


@jumping
async def test_a_cancellation_does_not_ack() -> None:
    bench = Bench()
    bench.put(A, 0)
    message = await anext(bench.noack())
    with trio.move_on_after(1):
        async with message:
            await trio.sleep_forever()
    assert not message.acked


@jumping
async def test_clean_exit_acks_even_if_the_task_is_cancelled() -> None:
    bench = Bench()
    bench.put(A, 0, 1)
    batches = Batches(bench.channel, acks=False, most=2)
    with trio.CancelScope() as scope:
        async with await anext(batches) as batch:
            scope.cancel()
    assert all(message.acked for message in batch)


# Decoding


def decoding(**hooks: object) -> Bench:
    """Return a bench whose keys are text and whose values are JSON."""
    bench = Bench(key=codec_for(str), value=JSON)
    for name, hook in hooks.items():
        setattr(bench.channel, name, hook)
    return bench


def feed(bench: Bench, *contents: tuple[bytes | None, bytes | None]) -> None:
    found = [FakeRecord(offset, key, value) for offset, (key, value) in enumerate(contents)]
    bench.ledgers[A].put(FetchedRecords(found))


@jumping
async def test_key_and_value_are_decoded() -> None:
    bench = decoding()
    feed(bench, (b"k", b'{"n":1}'), (None, None))
    first, second = await take(bench.noack(), 2)
    assert (first.key, first.value) == ("k", {"n": 1})
    assert (second.key, second.value) == (None, None)


@pytest.mark.parametrize(
    ("key", "value", "part"), [(b"\xff", b"1", "key"), (b"k", b"{", "value")], ids=["key", "value"]
)
@jumping
async def test_decode_error_is_raised_and_its_message_stays_unacked(
    key: bytes, value: bytes, part: str
) -> None:
    bench = decoding()
    feed(bench, (b"k", b"1"), (key, value))
    messages = bench.acked()
    await anext(messages)
    with pytest.raises(DecodeError, match=rf"the {part} of a-0 offset 1") as caught:
        await anext(messages)
    assert isinstance(caught.value.__cause__, ValueError)
    assert bench.ledgers[A].safe == 1


@jumping
async def test_message_is_acked_and_skipped_if_its_decode_error_hook_returns() -> None:
    told: list[tuple[str, int, bytes]] = []

    async def bad_key(error: DecodeError, message: Message) -> None:
        told.append(("key", message.offset, message.key))

    async def bad_value(error: DecodeError, message: Message) -> None:
        told.append(("value", message.offset, message.value))

    bench = decoding(on_key_decode_error=bad_key, on_value_decode_error=bad_value)
    feed(bench, (b"\xff", b"{"), (b"k", b"{"), (b"k", b"1"))
    message = await anext(bench.noack())
    assert message.offset == 2
    assert told == [("key", 0, b"\xff"), ("value", 1, b"{")]
    assert bench.ledgers[A].safe == 2


@jumping
async def test_a_batch_leaves_out_messages_that_do_not_decode() -> None:
    async def bad(error: DecodeError, message: Message) -> None:
        pass

    bench = decoding(on_value_decode_error=bad)
    feed(bench, (b"k", b"0"), (b"k", b"{"), (b"k", b"2"))
    batch = await anext(Batches(bench.channel, acks=True, most=10))
    assert [message.value for message in batch] == [0, 2]
    assert batch.ack()
    assert bench.ledgers[A].safe == 3


@jumping
async def test_a_batch_in_which_no_message_decodes_is_skipped() -> None:
    async def bad(error: DecodeError, message: Message) -> None:
        pass

    bench = decoding(on_value_decode_error=bad)
    feed(bench, (b"k", b"{"), (b"k", b"{"), (b"k", b"2"))
    batch = await anext(Batches(bench.channel, acks=True, most=2))
    assert [message.offset for message in batch] == [2]


# In an app


@jumping
async def test_a_full_channel_pauses_and_resumes_at_half() -> None:
    broker = broker_with(ORDERS)
    app = app_on(broker, buffer_size=10)
    async with app:
        messages = app.topic("orders").noack()
        await wait_all_tasks_blocked()
        write(broker, ORDERS, 15)
        await wait_all_tasks_blocked()
        write(broker, ORDERS, 100)
        await wait_all_tasks_blocked()
        ledger = app.consumer.assignment[ORDERS]
        assert ledger.position == 15  # one fetch, and no more
        taken = await take(messages, 10)
        assert await nothing_comes(messages)
        for message in taken[:9]:
            message.ack()
        await wait_all_tasks_blocked()
        assert ledger.position == 15
        taken[9].ack()
        await wait_all_tasks_blocked()
        assert ledger.position == 115
        assert len(broker.group("group").members) == 1


@jumping
async def test_a_slow_handler_holds_at_most_the_buffer_and_one_fetch() -> None:
    broker = broker_with(ORDERS, records=500)
    app = app_on(broker, buffer_size=20, max_partition_fetch_bytes=210)
    most = 0
    async with app:
        async for message in app.topic("orders"):
            most = max(most, app.consumer.assignment[ORDERS].lanes[0].usage.held)
            await trio.sleep(1)
            if message.offset == 499:
                break
    assert most <= 20 + 10  # the buffer and one fetch
    assert committed(broker) == {ORDERS: 499}


@jumping
async def test_a_full_topic_does_not_stop_other_topics() -> None:
    bills = TP("bills", 0)
    broker = broker_with(ORDERS, bills, records=30)
    app = app_on(broker, buffer_size=10)
    async with app:
        app.topic("orders").noack()
        got = [message.offset async for message in _first(app.topic("bills"), 30)]
        assert got == list(range(30))


async def _first(topic: Topic, count: int) -> AsyncIterator[Message]:
    async for message in topic:
        yield message
        count -= 1
        if not count:
            return


@jumping
async def test_each_topic_object_of_one_name_gets_all_messages_and_commits_wait_for_both() -> None:
    broker = broker_with(ORDERS, records=4)
    app = app_on(broker, commit_interval=1.0)
    async with app:
        one, other = app.topic("orders").noack(), app.topic("orders").noack()
        mine, theirs = await take(one, 4), await take(other, 4)
        assert [m.offset for m in mine] == [m.offset for m in theirs] == [0, 1, 2, 3]
        for message in mine:
            message.ack()
        await trio.sleep(5)
        assert committed(broker).get(ORDERS, 0) == 0
        for message in theirs:
            message.ack()
        await trio.sleep(5)
        assert committed(broker) == {ORDERS: 4}


@jumping
async def test_iterators_of_one_topic_object_share_its_messages() -> None:
    broker = broker_with(ORDERS, records=30)
    app = app_on(broker)
    orders = app.topic("orders")
    got: Counter[int] = Counter()
    async with app, trio.open_nursery() as nursery:

        async def read() -> None:
            async for message in orders:
                got[message.offset] += 1
                await trio.sleep(0.1)

        for _ in range(3):
            nursery.start_soon(read)
        await trio.sleep(A_WHILE)
        app.stop()
    assert got == Counter(range(30))
    assert committed(broker) == {ORDERS: 30}


@jumping
async def test_batches_are_of_one_partition_and_bounded() -> None:
    broker = broker_with(ORDERS, TP("orders", 1), records=25)
    app = app_on(broker)
    sizes: list[tuple[int, int]] = []
    async with app:
        async for batch in app.topic("orders").batches(max_size=10):
            assert isinstance(batch, Batch)
            assert {message.tp for message in batch} == {batch.tp}
            sizes.append((batch.tp.partition, len(batch)))
            if len(sizes) == 6:
                app.stop()
    assert sorted(sizes) == [(0, 5), (0, 10), (0, 10), (1, 5), (1, 10), (1, 10)]
    assert committed(broker) == {ORDERS: 25, TP("orders", 1): 25}


def test_a_batch_has_at_least_one_message() -> None:
    orders = app_on(broker_with(ORDERS)).topic("orders")
    with pytest.raises(ValueError, match="not 0"):
        orders.batches(max_size=0)


@jumping
async def test_a_message_has_the_fields_of_its_record() -> None:
    broker = broker_with(ORDERS)
    broker.log(ORDERS).append(b"key", b"value", (("h", b"1"),), 1_500)
    app = app_on(broker)
    async with app:
        message = await anext(app.topic("orders").noack())
    assert (message.tp, message.topic, message.partition, message.offset) == (
        ORDERS,
        "orders",
        0,
        0,
    )
    assert (message.key, message.value, list(message.headers)) == (b"key", b"value", [("h", b"1")])
    assert (message.timestamp, message.timestamp_type) == (1.5, 0)
    assert (message.serialized_key_size, message.serialized_value_size) == (3, 5)
    assert message.generation_id == 1
