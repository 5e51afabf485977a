"""Fetches that stay encoded until a lane needs their records, and batches as single entries."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import pytest
import trio

from tests.apps import app_on, broker_with
from tests.delivering.lanes import take, take_all
from tests.nurseries.clock import jumping
from tests.records import Encoded
from transport.delivering.ledger import BufferUsage, Lane, Ledger
from transport.errors import UnreadableBatch
from transport.message import Batch
from transport.types import TP

ORDERS = TP("orders", 0)
DAMAGED = UnreadableBatch("orders-0 offset 2: a bad CRC")


def test_a_fetch_is_not_decoded_before_a_message_is_taken(ledger: Ledger, lane: Lane) -> None:
    fetched = Encoded([0, 1], [2, 3])
    ledger.put(fetched)
    assert (lane.waiting, ledger.safe, ledger.position) == (4, 0, 4)
    assert fetched.decoded == 0


def test_the_next_portion_is_decoded_when_all_of_the_one_before_is_taken(
    ledger: Ledger, lane: Lane
) -> None:
    first, second = Encoded([0, 1], [2, 3]), Encoded([4])
    ledger.put(first)
    ledger.put(second)
    decoded = []
    for _ in range(5):
        take(lane, 1)
        decoded.append((first.decoded, second.decoded))
    assert decoded == [(1, 0), (2, 0), (2, 0), (2, 0), (2, 1)]


def test_encoded_records_hold_back_the_commit(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([1, 2], [5, 6], first=0, end=9))
    assert ledger.safe == 0, "the headers give only the first offset"
    for message in take(lane, 2):
        message.ack()
    assert ledger.safe == 5


def test_when_all_is_acked_the_next_commit_reaches_the_end_of_the_fetch(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(Encoded([1, 2], first=0, end=9))
    for message in take(lane, 2):
        message.ack()
    assert ledger.safe == 9
    assert ledger.is_idle


@pytest.mark.parametrize("claimed", [2, 7])
def test_a_header_that_claims_a_wrong_number_is_corrected(
    ledger: Ledger, lane: Lane, claimed: int
) -> None:
    ledger.put(Encoded([0, 1], [2, 3], count=claimed))
    assert lane.usage.held == claimed
    messages = take(lane, 4)
    assert (lane.usage.held, lane.waiting) == (4, 0)
    for message in messages:
        message.ack()
    assert lane.usage.held == 0


def test_fetch_without_records_leaves_nothing_waiting(ledger: Ledger, lane: Lane) -> None:
    """All of its records lie before the requested offset, or were compacted."""
    falls: list[int] = []
    lane.usage.mark, lane.usage.on_fall = math.inf, lambda: falls.append(lane.usage.held)
    ledger.put(Encoded(first=0, end=3, count=3))
    ledger.put(Encoded([3]))
    assert [message.offset for message in take_all(lane)] == [3]
    assert falls == [1], "on_fall is called because room was freed"


def test_each_lane_decodes_a_fetch_separately(ledger: Ledger, lane: Lane) -> None:
    other = ledger.open_lane(BufferUsage(1000))
    fetched = Encoded([0], [1])
    ledger.put(fetched)
    assert [m.offset for m in take_all(lane)] == [m.offset for m in take_all(other)] == [0, 1]
    assert fetched.decoded == 4


def test_unreadable_batch_is_an_error_after_all_records_before_it(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(Encoded([0, 1], DAMAGED, end=9, count=4))
    first = take(lane, 1)
    assert lane.error is None
    last = take_all(lane)
    assert [message.offset for message in first + last] == [0, 1]
    for _ in range(2):
        assert lane.ready() == 0
        assert lane.error is DAMAGED
    for message in first + last:
        message.ack()
    assert ledger.safe == 2, "the commit does not pass the unreadable batch"


def test_a_batch_ends_before_unreadable_records(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0], [1], DAMAGED, end=9, count=4))
    assert lane.ready()
    assert [record.offset for record in lane.take_batch(9).records] == [0, 1]
    assert lane.ready() == 0
    assert lane.error is DAMAGED


def test_unreadable_records_are_fetched_again_after_a_drain(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0], DAMAGED, end=9, count=4))
    (message,) = take_all(lane)
    ledger.drain()
    assert (ledger.position, ledger.must_refetch) == (1, True)
    assert lane.error is None
    message.ack()
    assert lane.usage.held == 0


def test_memory_is_that_of_the_encoded_fetches_and_of_the_decoded_messages(
    ledger: Ledger, lane: Lane
) -> None:
    memory = lane.usage.memory
    ledger.put(Encoded([0, 1], [2], weight=10))
    assert memory.bytes == 10
    first, second = take(lane, 2)
    assert memory.bytes == 10 + 3 * 10, "the second portion is decoded too"
    (third,) = take(lane, 1)
    assert memory.bytes == 3 * 10, "the encoded fetch is freed"
    for message, left in ((first, 20), (second, 10), (third, 0)):
        message.ack()
        assert memory.bytes == left


@pytest.mark.parametrize("most", [None, 9])
def test_messages_given_back_do_not_let_later_ones_pass_must_commit(
    ledger: Ledger, lane: Lane, most: int | None
) -> None:
    ledger.put(Encoded([0, 1]))
    messages = take(lane, 2)
    ledger.must_commit = 5
    ledger.put(Encoded([5, 6], first=5))
    assert lane.ready() == 0
    ledger.give_back(lane, [messages[1]])
    assert lane.ready() == 1
    taken = (
        [m.offset for m in take_all(lane)]
        if most is None
        else [record.offset for record in lane.take_batch(most).records]
    )
    assert taken == [1]
    assert lane.ready() == 0


# A batch is one entry


def test_a_batch_is_one_entry_and_makes_no_messages_until_they_are_used(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(Encoded([0, 1], [2, 3]))
    assert lane.ready()
    batch = lane.take_batch(3)
    assert len(lane.begun) == 1
    assert batch.values() == [b"value"] * 3
    assert batch.keys() == [None] * 3
    assert [record.offset for record in batch.records] == [0, 1, 2]
    assert batch.left is None, "no message is made yet"
    assert (ledger.oldest_begun, lane.usage.begun) == (0, 3)
    assert batch.ack()
    assert (ledger.safe, lane.usage.begun, lane.usage.held) == (3, 0, 1)


def test_messages_of_a_batch_can_be_acked_one_by_one(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0, 1, 2]))
    assert lane.ready()
    batch = lane.take_batch(9)
    assert batch[0].ack()
    assert (ledger.safe, len(batch), batch.is_open) == (1, 3, True)
    assert batch[2].ack()
    assert ledger.safe == 1, "offset 1 is not acked"
    assert batch.ack()
    assert (ledger.safe, lane.acked, batch.is_open) == (3, 3, False)
    assert not batch.ack()
    assert ledger.tally.doubled == 3


def test_shared_message_stays_unacked_after_the_ack_of_its_batch(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(Encoded([0, 1]))
    assert lane.ready()
    batch = lane.take_batch(9)
    batch[0].incref()
    assert not batch.ack()
    assert ledger.safe == 0
    assert batch[0].ack()
    assert ledger.safe == 2


def test_messages_made_after_the_ack_of_their_batch_are_acked(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0, 1]))
    assert lane.ready()
    batch = lane.take_batch(9)
    batch.ack()
    assert [message.acked for message in batch] == [True, True]
    assert not batch[0].ack()
    assert ledger.tally.doubled == 1


def test_acks_of_messages_made_after_the_epoch_are_stale(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0, 1]))
    assert lane.ready()
    batch = lane.take_batch(9)
    ledger.shut()
    assert lane.usage.held == lane.usage.begun == lane.usage.memory.bytes == 0
    assert not batch.is_open
    assert not batch[0].ack()
    assert not batch.ack()
    assert ledger.tally.stale == 3


def _ack_each(batch: Batch, _: Ledger) -> None:
    for message in batch:
        message.ack()


def _ack_one_and_the_rest(batch: Batch, _: Ledger) -> None:
    batch[1].ack()
    batch.ack()


def _ack_whole(batch: Batch, _: Ledger) -> None:
    assert len(list(batch)) == 3
    batch.ack()


def _ack_before_they_are_made(batch: Batch, _: Ledger) -> None:
    batch.ack()
    assert len(list(batch)) == 3


def _end_the_epoch(batch: Batch, ledger: Ledger) -> None:
    assert len(list(batch)) == 3
    ledger.shut()


def _make_after_the_epoch(batch: Batch, ledger: Ledger) -> None:
    ledger.shut()
    assert len(list(batch)) == 3


@pytest.mark.parametrize(
    "finish",
    [
        _ack_each,
        _ack_one_and_the_rest,
        _ack_whole,
        _ack_before_they_are_made,
        _end_the_epoch,
        _make_after_the_epoch,
    ],
)
def test_a_done_batch_leaves_no_reference_cycle(
    ledger: Ledger, lane: Lane, finish: Callable[[Batch, Ledger], None]
) -> None:
    """With a cycle of references, hundreds of done batches would stay in memory."""
    ledger.put(Encoded([0, 1, 2]))
    assert lane.ready()
    gc.collect()
    gc.disable()
    try:
        finish(lane.take_batch(9), ledger)
        assert gc.collect() == 0, "there are objects that only the garbage collector can free"
    finally:
        gc.enable()


def test_when_empty_waits_until_all_messages_of_a_batch_are_acked(
    ledger: Ledger, lane: Lane
) -> None:
    done: list[bool] = []
    ledger.put(Encoded([0, 1]))
    assert lane.ready()
    batch = lane.take_batch(9)
    ledger.when_empty(lambda: done.append(True))
    batch[0].ack()
    assert not done
    batch[1].ack()
    assert done


def test_batch_given_back_in_part_leaves_an_entry_for_each_other_message(
    ledger: Ledger, lane: Lane
) -> None:
    done: list[bool] = []
    ledger.put(Encoded([0, 1, 2]))
    assert lane.ready()
    batch = lane.take_batch(9)
    kept = batch[1]
    ledger.when_empty(lambda: done.append(True))
    ledger.give_back(lane, [batch[0], batch[2]])
    assert lane.ready() == 2
    again = lane.take_batch(9)
    assert [record.offset for record in again.records] == [0, 2]
    again.ack()
    assert (ledger.safe, kept.is_open, done) == (1, True, [])
    assert kept.ack()
    assert (ledger.safe, lane.usage.held, lane.usage.memory.bytes) == (3, 0, 0)
    assert done


@jumping
async def test_app_fails_with_unreadable_batch_after_all_messages_before_it() -> None:
    handled: list[int] = []
    unreadable = pytest.RaisesExc(UnreadableBatch, match="offset 2: a bad CRC")
    with pytest.RaisesGroup(unreadable, flatten_subgroups=True):
        async with app_on(broker_with(ORDERS, records=0)) as app:
            topic = app.topic("orders")
            topic.listen()
            await app.conductor.wait_for_subscriptions()
            await trio.sleep(1.0)
            ledger = app.consumer.assignment[ORDERS]
            app.conductor.on_records(ledger, Encoded([0, 1], DAMAGED, end=9, count=4))
            async for message in topic:
                handled.append(message.offset)
    assert handled == [0, 1]
