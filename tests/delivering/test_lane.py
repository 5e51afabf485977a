"""Lanes: waiting records, counts, weights, and messages that are given back."""

from __future__ import annotations

import pytest

from tests.delivering.lanes import take, take_batch
from tests.records import Encoded, fetched
from transport.delivering.ledger import BufferUsage, Lane, Ledger
from transport.errors import UnreadableBatch
from transport.fetched import PORTION
from transport.types import TP
from transport.weights import MemoryUsage, weight_of

ORDERS = TP("orders", 0)
DAMAGED = UnreadableBatch("orders-0 offset 2: a bad CRC")


# Which records wait


def test_an_unreadable_first_batch_holds_the_commit_at_the_start_of_the_fetch(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(Encoded(DAMAGED, [7], first=5, count=2))
    assert not lane.ready()
    assert lane.error is DAMAGED
    assert (lane.first_waiting, ledger.safe) == (5, 5)


def test_no_later_fetch_is_read_past_an_unreadable_batch(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0], DAMAGED, end=2, count=2))
    ledger.put(Encoded([2, 3]))
    take(lane)
    assert not lane.ready()
    assert not lane.ready()
    assert lane.error is DAMAGED


def test_an_unreadable_batch_is_no_error_while_a_message_before_it_waits(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(Encoded([0, 1], DAMAGED, end=3, count=3))
    taken = take(lane, 2)
    assert lane.error is DAMAGED
    ledger.give_back(lane, taken[1:])
    assert lane.error is None
    take(lane)
    assert lane.error is DAMAGED


def test_no_message_is_ready_while_delivery_is_suspended(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0, 1]))
    ledger.is_suspended = True
    assert lane.ready() == 0
    ledger.is_suspended = False
    assert lane.ready() == 2


@pytest.mark.parametrize(("most", "portions"), [(2, 1), (3, 2), (4, 2), (5, 3), (9, 3)])
def test_a_batch_spans_portions_and_fetches_up_to_its_size(
    ledger: Ledger, lane: Lane, most: int, portions: int
) -> None:
    several = [Encoded([0, 1]), Encoded([2, 3]), Encoded([4])]
    for each in several:
        ledger.put(each)
    batch = take_batch(lane, most)
    assert [record.offset for record in batch.records] == list(range(min(most, 5)))
    assert sum(each.decoded for each in several) == portions, "no portion is decoded early"


def test_a_batch_of_a_whole_portion_decodes_the_next_one_of_its_fetch_only(
    ledger: Ledger, lane: Lane
) -> None:
    first, second = Encoded([0, 1], [2, 3]), Encoded([4])
    ledger.put(first)
    ledger.put(second)
    take_batch(lane, 2)
    assert (first.decoded, second.decoded) == (2, 0)
    take_batch(lane, 2)
    assert second.decoded == 0


def test_a_batch_ends_before_must_commit(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0, 1], [2, 3]))
    ledger.must_commit = 2
    assert lane.ready() == 2
    assert len(lane.take_batch(9)) == 2
    assert lane.ready() == 0
    ledger.must_commit = 3
    assert len(take_batch(lane)) == 1
    ledger.must_commit = None
    assert len(take_batch(lane)) == 1


# How many messages are counted


@pytest.mark.parametrize(
    ("claim", "mark", "falls"),
    [(5, 2, 1), (5, 3, 1), (5, 1, 0), (2, 9, 0)],
    ids=["to the mark", "below the mark", "not to the mark", "exact headers"],
)
def test_missing_records_that_the_header_claims_free_room_like_acks(
    ledger: Ledger, lane: Lane, claim: int, mark: int, falls: int
) -> None:
    fallen: list[int] = []
    ledger.put(Encoded([0], [1], count=claim))
    lane.usage.mark, lane.usage.on_fall = mark, lambda: fallen.append(lane.usage.held)
    take(lane, 2)
    assert lane.usage.held == 2
    assert fallen == [2] * falls


@pytest.mark.parametrize("claim", [1, 2])
def test_records_beyond_the_claim_of_the_header_are_counted(
    ledger: Ledger, lane: Lane, claim: int
) -> None:
    ledger.put(Encoded([0, 1, 2], count=claim))
    take(lane)
    assert (lane.usage.held, lane.waiting) == (3, 2)


def test_acked_counts_single_messages_and_batches(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0, 1, 2, 3, 4, 5]))
    alone, batch = take(lane)[0], take_batch(lane, 3)
    assert lane.acked == 0
    batch[1].ack()
    assert lane.acked == 1
    alone.ack()
    assert lane.acked == 2
    batch.ack()
    assert lane.acked == 4
    take_batch(lane, 2)
    ledger.shut()
    assert lane.acked == 4
    assert (lane.usage.held, lane.usage.begun) == (0, 0)


# How much memory the lane counts


def test_weight_of_a_fetch_is_replaced_by_that_of_its_decoded_records(
    ledger: Ledger, lane: Lane
) -> None:
    """The records of `FetchedRecords` are already decoded, so reading them adds no weight."""
    several = fetched(*range(PORTION + 2))
    memory = lane.usage.memory
    ledger.put(several)
    whole = memory.bytes
    assert whole == several.weight
    messages = take(lane, PORTION + 1)
    assert memory.bytes == whole
    for message in messages:
        message.ack()
    assert memory.bytes == weight_of([messages[0].record])
    ledger.shut()
    assert memory.bytes == 0


def test_the_weight_of_an_encoded_fetch_is_counted_until_all_of_it_is_decoded(
    ledger: Ledger, lane: Lane
) -> None:
    memory = lane.usage.memory
    ledger.put(Encoded([0], [1], weight=100))
    assert memory.bytes == 100
    take(lane)
    assert memory.bytes == 100 + 200
    take(lane)
    assert memory.bytes == 200, "the encoded fetch is freed"


@pytest.mark.parametrize("is_opened", [False, True])
def test_an_acked_batch_leaves_no_weight(ledger: Ledger, lane: Lane, is_opened: bool) -> None:
    ledger.put(Encoded([0, 1, 2], weight=7))
    batch = take_batch(lane)
    if is_opened:
        assert [message.weight for message in batch] == [7, 7, 7]
    assert lane.usage.memory.bytes == 21
    assert batch.ack()
    assert lane.usage.memory.bytes == 0
    assert not batch.is_open
    assert [message.acked for message in batch] == [True] * 3


def test_give_back_does_not_change_the_weight(ledger: Ledger, lane: Lane) -> None:
    memory = lane.usage.memory
    ledger.put(Encoded([0], weight=100))
    ledger.put(Encoded([1, 2], weight=10))
    messages = take(lane)
    assert lane.ready()
    assert memory.bytes == 100 + 20 + 10
    ledger.give_back(lane, messages)
    assert memory.bytes == 100 + 20 + 10
    for message in take(lane, 3):
        message.ack()
    assert memory.bytes == 0


def test_memory_is_0_after_shares_of_weight_are_rounded(ledger: Ledger, lane: Lane) -> None:
    memory = lane.usage.memory
    for offset, weight in enumerate((100, 10, 3)):
        ledger.put(Encoded([offset], weight=weight))
    ledger.give_back(lane, take(lane, 3))
    for message in take(lane, 3):
        message.ack()
    assert memory.bytes == 0


def full(lane: Lane, limit: int) -> list[int]:
    """Set the memory's limit so that it is full; return a list that gets its size at each fall."""
    fallen: list[int] = []
    memory = lane.usage.memory
    memory.limit, memory.on_fall = limit, lambda: fallen.append(memory.bytes)
    memory.add(0)
    assert memory.is_full
    return fallen


def test_acks_resume_fetching_at_half_of_the_memory_limit(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0, 1, 2, 3], weight=10))
    messages = take(lane, 4)
    fallen = full(lane, 40)
    messages[0].ack()
    assert fallen == []
    messages[1].ack()
    messages[2].ack()
    assert fallen == [20]


@pytest.mark.parametrize("end", ["an ack of a batch", "a drain", "the end of the epoch"])
def test_batch_ack_drain_and_end_of_epoch_resume_fetching(
    ledger: Ledger, lane: Lane, end: str
) -> None:
    ledger.put(Encoded([0, 1], [2, 3], weight=10))
    batch = take_batch(lane, 2)
    fallen = full(lane, 40)
    if end == "an ack of a batch":
        take_batch(lane, 2)
        assert fallen == []
        batch.ack()
    elif end == "a drain":
        ledger.drain()
    else:
        ledger.shut()
    assert fallen == [20]


def test_decoding_the_end_of_a_fetch_resumes_fetching(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0], weight=100))
    assert lane.ready()
    fallen = full(lane, 200)
    take(lane)
    assert fallen == [100]


def test_empty_channel_is_fetched_for_while_others_fill_the_memory(
    ledger: Ledger, lane: Lane
) -> None:
    lane.usage.memory.add(1000)  # of another channel
    ledger.put(Encoded([0, 1], weight=10))
    messages = take(lane, 2)
    fallen = full(lane, 500)
    messages[0].ack()
    assert fallen == []
    messages[1].ack()
    assert fallen == [1000]
    assert lane.usage.memory.is_full


# Messages that are given back


def test_message_given_back_holds_back_the_commit_and_is_taken_first(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(Encoded([0, 1, 2, 3]))
    old, other = take(lane, 2)
    ledger.give_back(lane, [old])
    assert (ledger.safe, lane.acked, lane.waiting) == (0, 0, 3)
    (new,) = take(lane)
    assert (new.offset, lane.oldest_begun) == (0, 0)
    assert not old.ack(), "an ack of the old object is stale"
    assert ledger.tally.stale == 1
    assert new.ack()
    assert ledger.safe == 1
    assert other.ack()
    assert (ledger.safe, lane.acked) == (2, 2)


def test_messages_given_back_are_taken_again_in_offset_order(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0, 1, 2, 3]))
    taken = take(lane, 3)
    ledger.give_back(lane, [taken[0]])
    ledger.give_back(lane, [taken[2], taken[1]])
    assert [message.offset for message in take(lane, 4)] == [0, 1, 2, 3]
    assert lane.oldest_begun == 0


def test_safe_offset_is_the_least_after_begun_is_out_of_order(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0, 1, 2, 3]))
    taken = take(lane, 2)
    ledger.give_back(lane, [taken[0]])
    assert taken[1].ack()
    (again,) = take(lane)
    ledger.give_back(lane, [again])  # now no message is unacked
    assert ledger.safe == 0
    last = take(lane, 3)
    ledger.give_back(lane, [last[0]])
    assert ledger.safe == 0
    take(lane)
    assert lane.oldest_begun == 0


def test_batch_given_back_in_part_counts_each_message_once(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0, 1, 2, 3]))
    batch = take_batch(lane, 4)
    done: list[bool] = []
    batch[0].ack()
    lane.when_empty(lambda: done.append(True))
    ledger.give_back(lane, [batch[3]])
    assert (lane.usage.begun, lane.usage.held, lane.acked) == (2, 3, 1)
    assert ledger.safe == 1
    batch[1].ack()
    assert not done
    batch[2].ack()
    assert done, "all messages that were unacked then are done or wait again"
    assert (lane.usage.begun, lane.acked, ledger.safe) == (0, 3, 3)


def test_acks_of_an_opened_batch_after_its_epoch_are_stale(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0, 1]))
    batch = take_batch(lane)
    assert len(list(batch)) == 2
    ledger.shut()
    assert not batch.ack()
    assert ledger.tally.stale == 2
    assert not batch.ack()
    assert ledger.tally.stale == 4


def test_a_message_left_out_of_a_batch_is_not_acked_with_it(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0, 1, 2]))
    batch = take_batch(lane)
    left_out, *batch.messages = batch
    assert batch.ack()
    assert (ledger.safe, ledger.acked, lane.usage.held) == (0, 2, 1)
    assert left_out.ack()
    assert (ledger.safe, ledger.acked, lane.usage.held) == (3, 3, 0)


def test_a_second_ack_of_an_opened_batch_is_counted(ledger: Ledger, lane: Lane) -> None:
    ledger.put(Encoded([0, 1]))
    batch = take_batch(lane)
    assert len(list(batch)) == 2
    assert batch.ack()
    assert not batch.ack()
    assert (ledger.tally.doubled, ledger.tally.stale) == (2, 0)
    assert not batch[0].ack()
    assert ledger.tally.doubled == 3


# Messages that are given back during a drain, or to a closed channel


def test_messages_given_back_during_a_drain_are_dropped_and_fetched_again(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(Encoded([0, 1, 2, 3]))
    first, second = take(lane, 2)
    ledger.drain()
    ledger.give_back(lane, [second])
    assert (lane.waiting, lane.usage.held, ledger.safe) == (0, 1, 0)
    first.ack()
    assert (lane.usage.held, ledger.safe) == (0, 1)


def test_messages_given_back_to_the_last_closed_channel_are_fetched_again(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(Encoded([0, 1]))
    first, second = take(lane, 2)
    ledger.close_lane(lane)
    ledger.give_back(lane, [second])
    assert (lane.waiting, lane.usage.held) == (0, 1)
    first.ack()
    assert (ledger.refetch_from, ledger.safe) == (None, 1)
    ledger.open_lane(lane.usage)
    assert ledger.refetch_from == 1


def test_messages_given_back_to_a_closed_channel_stay_with_the_others(
    ledger: Ledger, lane: Lane
) -> None:
    other = ledger.open_lane(BufferUsage(1000, memory=MemoryUsage()))
    ledger.put(Encoded([0, 1]))
    (mine,) = take(lane)
    ledger.close_lane(lane)
    ledger.give_back(lane, [mine])
    assert (lane.waiting, lane.usage.held) == (0, 0)
    assert (ledger.refetch_from, ledger.safe) == (None, 0)
    for message in take(other, 2):
        message.ack()
    assert ledger.safe == 2
