"""The rules of `transport/delivering/ledger.py`, one by one.

`test_ledger_model.py` tests them in combination.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import pytest

from tests.delivering.lanes import take_all, take_batch, take_one
from tests.records import fetched, records
from transport.delivering.in_hand import in_hand
from transport.delivering.ledger import BufferUsage, Lane, Ledger, Tally
from transport.fetched import FetchedRecords
from transport.message import Batch, Message
from transport.types import TP

ORDERS = TP("orders", 0)


def new_ledger(**options: int | None) -> Ledger:
    return Ledger(ORDERS, 1, 1, Tally(), **options)


def open_lane(ledger: Ledger, limit: int = 100) -> Lane:
    return ledger.open_lane(BufferUsage(limit))


@pytest.fixture
def ledger() -> Ledger:
    return new_ledger()


@pytest.fixture
def lane(ledger: Ledger) -> Lane:
    return open_lane(ledger)


# Cases in which other transports failed


def test_offset_0_is_committed_like_any_other(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0))
    assert ledger.safe == 0
    message = take_one(lane)
    assert ledger.safe == ledger.due == 0
    assert message.ack()
    assert ledger.due == 1


def test_a_committed_0_is_not_due_again(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0))
    ledger.committed = 0
    assert ledger.due is None


def test_a_gap_in_the_offsets_does_not_stop_commits(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1, 7, 8, 20))
    for message in take_all(lane):
        message.ack()
    assert ledger.due == 21


def test_a_gap_between_two_fetches_does_not_stop_commits(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1))
    ledger.put(fetched(50, 51))
    for message in take_all(lane):
        message.ack()
    assert ledger.due == 52


def test_a_duplicate_ack_does_not_block_commits(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1, 2))
    first, second, third = take_all(lane)
    assert first.ack()
    assert not first.ack()
    assert first.refcount == 0
    assert ledger.due == 1
    assert second.ack()
    assert third.ack()
    assert ledger.due == 3
    assert ledger.tally == Tally(doubled=1, stale=0)


def test_a_message_without_references_is_still_unacked(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0))
    take_one(lane)  # no reference to it is kept
    assert [message.offset for message in ledger.unacked] == [0]


# The offset to commit


def test_safe_and_due_are_none_before_the_first_fetch(ledger: Ledger, lane: Lane) -> None:
    assert ledger.safe is None
    assert ledger.due is None


def test_start_position_of_an_epoch_is_safe() -> None:
    ledger = new_ledger(position=7)
    assert ledger.safe == ledger.due == 7


def test_waiting_messages_hold_the_offset_back(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(3, 4))
    assert ledger.safe == 3


def test_unacked_messages_hold_the_offset_back(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(3, 4))
    take_all(lane)
    assert ledger.safe == 3


def test_acks_in_any_order_move_the_offset_to_the_oldest_unacked_message(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(fetched(0, 1, 2, 3))
    messages = take_all(lane)
    seen = []
    for index in (2, 0, 3, 1):
        messages[index].ack()
        seen.append(ledger.safe)
    assert seen == [0, 1, 1, 4]


def test_with_all_acked_the_position_is_safe(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1))
    for message in take_all(lane):
        message.ack()
    assert ledger.is_idle
    assert ledger.safe == ledger.position == 2


def sought_to(position: int) -> Ledger:
    """Return a ledger whose position is not known to lie in the log."""
    ledger = new_ledger(position=position)
    ledger.is_proven = False
    return ledger


def test_sought_position_is_due_once_the_log_is_known_to_reach_it() -> None:
    ledger = sought_to(7)
    assert ledger.due is None
    ledger.prove(6)
    assert ledger.due is None
    ledger.prove(7)
    assert ledger.due == 7


def test_a_fetch_proves_the_sought_position() -> None:
    ledger = sought_to(7)
    open_lane(ledger)
    ledger.put(fetched(7))
    assert ledger.due == 7


def test_a_fetch_before_the_client_seeks_back_does_not_prove_the_position() -> None:
    ledger = sought_to(7)
    ledger.must_refetch = True
    ledger.put(fetched(3))
    assert ledger.due is None


def test_a_position_that_advances_is_proven() -> None:
    ledger = sought_to(7)
    ledger.advance(8)
    assert ledger.due == 8


def test_delivery_goes_on_once_must_commit_is_committed() -> None:
    ledger = new_ledger(position=5)
    ledger.must_commit = 5
    assert not ledger.clear_must_commit()
    ledger.committed = 4
    assert not ledger.clear_must_commit()
    ledger.committed = 5
    assert ledger.clear_must_commit()
    assert ledger.must_commit is None
    assert not ledger.clear_must_commit()


def test_nothing_is_due_without_a_position() -> None:
    assert new_ledger(committed=7).due is None


def test_only_an_offset_past_the_committed_one_is_due() -> None:
    ledger = new_ledger(position=7, committed=7)
    assert ledger.due is None
    lane = open_lane(ledger)
    ledger.put(fetched(7))
    take_one(lane).ack()
    assert ledger.due == 8


def test_a_position_past_markers_lets_the_lag_reach_0(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0))
    take_one(lane).ack()
    ledger.advance(3)
    assert ledger.due == 3


def test_a_position_never_goes_back(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1))
    ledger.advance(1)
    assert ledger.position == 2


def test_unacked_messages_hold_the_offset_back_if_the_position_advances(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(fetched(0))
    take_one(lane)
    ledger.advance(9)
    assert ledger.safe == 0


def test_a_fetch_before_the_position_is_behind(ledger: Ledger, lane: Lane) -> None:
    assert not ledger.is_behind(0)
    ledger.put(fetched(0, 1, 2))
    assert ledger.is_behind(2)
    assert not ledger.is_behind(3)


def test_fetches_are_discarded_until_the_client_seeks_back(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(5, 6, 7))
    ledger.must_refetch = True
    assert not ledger.is_behind(0)
    assert not ledger.put(fetched(0, 1))
    assert ledger.refetch_from == 8


# Taking


def test_a_message_has_its_epoch_and_its_generation() -> None:
    ledger = Ledger(ORDERS, 5, 3, Tally())
    lane = open_lane(ledger)
    ledger.put(fetched(0))
    message = take_one(lane)
    assert (message.epoch, message.generation_id) == (5, 3)
    assert (message.topic, message.partition) == ORDERS


def test_messages_are_taken_in_offset_order_across_fetches(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1))
    ledger.put(fetched(4))
    assert lane.waiting == 3
    assert [message.offset for message in take_all(lane)] == [0, 1, 4]
    assert lane.waiting == 0
    assert not lane.ready()


def test_ready_counts_the_rest_of_one_fetch(ledger: Ledger, lane: Lane) -> None:
    assert lane.ready() == 0
    ledger.put(fetched(0, 1, 2))
    ledger.put(fetched(3))
    assert lane.ready() == 3
    take_one(lane)
    assert lane.ready() == 2
    take_batch(lane, 2)
    assert lane.ready() == 1
    take_one(lane)
    assert lane.ready() == 0


def test_suspended_messages_are_not_ready_and_not_lost(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1))
    ledger.is_suspended = True
    assert lane.ready() == 0
    assert lane.waiting == 2
    ledger.is_suspended = False
    assert lane.ready() == 2


def test_a_batch_spans_several_fetches_up_to_its_size(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1, 2))
    ledger.put(fetched(3))
    ledger.put(fetched(5, 6, 7))
    assert [message.offset for message in take_batch(lane, 2)] == [0, 1]
    assert [message.offset for message in take_batch(lane, 3)] == [2, 3, 5]
    assert lane.ready() == 2
    assert [message.offset for message in take_batch(lane, 1)] == [6]
    assert [message.offset for message in take_batch(lane, 9)] == [7]
    assert lane.ready() == lane.waiting == 0


@pytest.mark.parametrize(
    "taken", [take_one, lambda lane: take_batch(lane, 1)], ids=["take", "batch"]
)
def test_acked_messages_are_freed(
    ledger: Ledger, lane: Lane, taken: Callable[[Lane], Message | Batch]
) -> None:
    found = records(0, 1, 2)
    seen = [weakref.ref(record) for record in found]
    ledger.put(FetchedRecords(found))
    del found
    for done in range(3):
        taken(lane).ack()
        assert [ref() is None for ref in seen] == [number <= done for number in range(3)]


def test_each_of_two_lanes_delivers_all_of_a_fetch(ledger: Ledger) -> None:
    first, second = open_lane(ledger), open_lane(ledger)
    ledger.put(fetched(0, 1))
    assert [message.offset for message in take_all(first)] == [0, 1]
    assert [message.offset for message in take_all(second)] == [0, 1]


def test_buffer_usage_counts_held_and_unacked_messages(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1, 2))
    first = take_one(lane)
    assert (lane.usage.held, lane.usage.begun) == (3, 1)
    first.ack()
    assert (lane.usage.held, lane.usage.begun) == (2, 0)
    take_batch(lane, 5).ack()
    assert (lane.usage.held, lane.usage.begun) == (0, 0)


def test_on_fall_is_called_at_acks_at_or_below_the_mark(ledger: Ledger) -> None:
    held: list[int] = []
    usage = BufferUsage(9, on_fall=lambda: held.append(usage.held))
    lane = ledger.open_lane(usage)
    ledger.put(fetched(0, 1, 2, 3, 4))
    take_one(lane).ack()
    assert held == []  # the mark is -1
    usage.mark = math.inf
    take_one(lane).ack()
    take_batch(lane, 2).ack()
    ledger.shut()
    assert held == [3, 1, 0]


# Acking


def test_a_batch_is_acked_as_a_whole(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1, 2))
    batch = take_batch(lane, 5)
    assert batch.ack()
    assert all(message.acked for message in batch)
    assert ledger.due == 3


def test_a_second_ack_of_a_batch_does_not_count(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1))
    batch = take_batch(lane, 5)
    assert batch.ack()
    assert not batch.ack()
    assert ledger.tally.doubled == 2
    assert lane.usage.held == 0


def test_ack_of_a_batch_acks_the_messages_that_are_left(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1, 2))
    batch = take_batch(lane, 5)
    batch[1].ack()
    assert batch.ack()
    assert ledger.due == 3
    assert ledger.tally == Tally()


def test_a_batch_with_a_shared_message_waits_for_the_other_holder(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(fetched(0, 1))
    batch = take_batch(lane, 5)
    batch[0].incref()
    assert not batch.ack()
    assert ledger.safe == 0
    assert batch[0].ack()
    assert ledger.safe == 2


def test_a_batch_of_shared_messages_waits_for_the_other_holders(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1))
    batch = take_batch(lane, 5)
    for message in batch:
        message.incref()
    assert not batch.ack()
    assert ledger.safe == 0
    assert batch.ack()
    assert ledger.safe == 2


def test_acked_messages_have_no_holder(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1))
    first, second = take_one(lane), take_batch(lane, 1)
    assert (first.refcount, second[0].refcount) == (1, 1)
    first.ack()
    second.ack()
    assert (first.refcount, second[0].refcount) == (0, 0)


def test_a_shared_message_is_acked_by_its_last_holder(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0))
    message = take_one(lane)
    message.incref(2)
    assert not message.ack()
    assert not message.ack()
    assert ledger.safe == 0
    assert message.ack()
    assert ledger.safe == 1
    assert ledger.tally == Tally()


def test_an_ack_from_an_epoch_that_has_ended_changes_nothing(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0))
    message = take_one(lane)
    ledger.shut()
    assert not message.ack()
    assert not message.acked
    assert ledger.tally == Tally(doubled=0, stale=1)


def test_ack_of_a_batch_from_an_ended_epoch_changes_nothing(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1))
    batch = take_batch(lane, 5)
    ledger.shut()
    assert not batch.ack()
    assert ledger.tally == Tally(doubled=0, stale=2)


async def test_async_with_sets_the_source_only_with_names_source() -> None:
    ledger = new_ledger()
    plain, naming = (
        ledger.open_lane(BufferUsage(9)),
        ledger.open_lane(BufferUsage(9, names_source=True)),
    )
    ledger.put(fetched(0, 1))
    async with take_one(plain), take_batch(plain, 1):
        assert in_hand.get() is None
    async with take_one(naming) as message:
        assert in_hand.get() is message
    async with take_batch(naming, 1) as batch:
        assert in_hand.get() is batch
    assert ledger.is_idle


# Several channels


def test_the_slowest_channel_holds_the_offset_back(ledger: Ledger) -> None:
    one, other = open_lane(ledger), open_lane(ledger)
    ledger.put(fetched(0, 1))
    for message in take_all(one):
        message.ack()
    assert ledger.safe == 0
    for message in take_all(other):
        message.ack()
    assert ledger.safe == 2


def test_a_new_lane_gets_only_later_fetches(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1))
    late = open_lane(ledger)
    ledger.put(fetched(2))
    assert [message.offset for message in take_all(late)] == [2]


def test_closed_lane_holds_the_offset_back_until_its_unacked_messages_are_acked(
    ledger: Ledger, lane: Lane
) -> None:
    open_lane(ledger)
    ledger.put(fetched(0, 1))
    message = take_one(lane)
    ledger.close_lane(lane)
    for other in take_all(ledger.lanes[-1]):
        other.ack()
    assert ledger.safe == 0
    assert message.ack()
    assert ledger.safe == 2


def test_a_closed_lane_gets_no_later_fetch(ledger: Ledger, lane: Lane) -> None:
    other = open_lane(ledger)
    ledger.put(fetched(0))
    message = take_one(lane)
    ledger.close_lane(lane)
    ledger.put(fetched(1))
    assert lane.waiting == 0
    message.ack()
    for left in take_all(other):
        left.ack()
    assert lane.usage.held == 0
    assert ledger.safe == 2


def test_waiting_messages_of_the_last_closed_lane_are_fetched_again(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(fetched(0, 1, 2))
    take_one(lane).ack()
    ledger.close_lane(lane)
    assert ledger.safe == 1
    assert ledger.refetch_from is None  # there is no lane
    again = open_lane(ledger)
    assert ledger.refetch_from == 1
    ledger.end_refetch()
    ledger.put(fetched(1, 2))
    assert [message.offset for message in take_all(again)] == [1, 2]


def test_records_fetched_without_lanes_are_fetched_again(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0))
    message = take_one(lane)
    ledger.close_lane(lane)  # it has an unacked message
    assert ledger.put(fetched(1, 2)) == 0
    again = open_lane(ledger)
    assert ledger.refetch_from == 1
    ledger.end_refetch()
    ledger.put(fetched(1, 2))
    message.ack()
    assert ledger.safe == 1
    assert [message.offset for message in take_all(again)] == [1, 2]


def test_without_lanes_the_safe_offset_does_not_move(ledger: Ledger) -> None:
    assert ledger.put(fetched(5, 6)) == 0
    assert ledger.safe == 5
    ledger.advance(9)
    assert ledger.safe == 5


def test_last_closed_lane_is_fetched_again_while_another_has_unacked_messages(
    ledger: Ledger, lane: Lane
) -> None:
    other = open_lane(ledger)
    ledger.put(fetched(0, 1))
    take_one(lane).ack()
    begun = take_one(lane)
    ledger.close_lane(lane)
    ledger.close_lane(other)  # it has delivered nothing
    begun.ack()
    assert ledger.safe == 0
    open_lane(ledger)
    assert ledger.refetch_from == 0


# The end of an epoch


def test_a_drain_drops_the_waiting_messages(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1, 2))
    message = take_one(lane)
    assert not ledger.is_draining
    ledger.drain()
    assert ledger.is_draining
    assert lane.take() is None
    assert not lane.ready()
    assert ledger.safe == 0
    message.ack()
    assert ledger.safe == 1  # the dropped messages will be fetched again
    assert lane.usage.held == 0


def test_a_drain_drops_all_waiting_fetches(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0))
    ledger.put(fetched(1))
    ledger.put(fetched(2))
    take_one(lane).ack()
    ledger.drain()
    assert lane.waiting == lane.ready() == 0
    assert ledger.safe == 1


def test_a_drain_goes_back_to_the_first_message_that_a_lane_has_not_delivered(
    ledger: Ledger,
) -> None:
    fast, slow = open_lane(ledger), open_lane(ledger)
    ledger.put(fetched(0, 1, 2))
    for message in take_all(fast):
        message.ack()
    take_one(slow).ack()
    ledger.drain()
    assert ledger.safe == 1


def test_a_drain_goes_back_to_the_slowest_of_several_lanes(
    ledger: Ledger,
) -> None:
    lanes = [open_lane(ledger) for _ in range(3)]
    ledger.put(fetched(0, 1, 2, 3))
    for lane, had in zip(lanes, (2, 1, 3), strict=True):
        take_batch(lane, had).ack()
    ledger.drain()
    assert ledger.safe == 1


def test_a_drain_ends_when_no_lane_has_unacked_messages(
    ledger: Ledger,
) -> None:
    one, other = open_lane(ledger), open_lane(ledger)
    ledger.put(fetched(0))
    mine, theirs = take_one(one), take_one(other)
    ledger.drain()
    ends: list[str] = []
    ledger.when_empty(lambda: ends.append("empty"))
    mine.ack()
    assert not ends
    theirs.ack()
    assert ends == ["empty"]


def test_later_acks_of_one_lane_do_not_count_for_another(ledger: Ledger) -> None:
    one, other = open_lane(ledger), open_lane(ledger)
    ledger.put(fetched(0, 1))
    mine, theirs = take_one(one), take_one(other)
    ends: list[str] = []
    ledger.when_empty(lambda: ends.append("empty"))
    mine.ack()
    take_one(one).ack()
    assert not ends
    theirs.ack()
    assert ends == ["empty"]


def test_a_drain_waits_for_a_closed_lane_too(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0))
    message = take_one(lane)
    ledger.close_lane(lane)
    ledger.drain()
    ends: list[str] = []
    ledger.when_empty(lambda: ends.append("empty"))
    assert not ends
    message.ack()
    assert ends == ["empty"]


def test_when_empty_calls_at_once_without_unacked_messages(ledger: Ledger, lane: Lane) -> None:
    ends: list[str] = []
    ledger.when_empty(lambda: ends.append("empty"))
    new_ledger().when_empty(lambda: ends.append("no channel"))
    assert ends == ["empty", "no channel"]


def test_when_empty_calls_at_the_end_of_the_epoch(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0))
    take_one(lane)
    ends: list[str] = []
    ledger.when_empty(lambda: ends.append("empty"))
    ledger.shut()
    assert ends == ["empty"]


def test_a_shut_ledger_is_not_due(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0))
    take_one(lane).ack()
    ledger.shut()
    assert ledger.due is None


def test_a_shut_ledger_leaves_no_count_in_any_channel(ledger: Ledger) -> None:
    lanes = [open_lane(ledger) for _ in range(3)]
    ledger.put(fetched(0, 1))
    messages = [take_one(lane) for lane in lanes]
    ledger.close_lane(lanes[0])
    ledger.shut()
    assert [(lane.usage.held, lane.usage.begun) for lane in lanes] == [(0, 0)] * 3
    assert not any(message.ack() for message in messages)
    assert ledger.tally.stale == 3


def test_a_cancelled_when_empty_makes_no_call(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0))
    message = take_one(lane)
    ends: list[str] = []
    leave = ledger.when_empty(lambda: ends.append("empty"))
    ledger.when_empty(lambda: ends.append("still waiting"))
    leave()
    leave()
    message.ack()
    assert ends == ["still waiting"]


def test_each_when_empty_makes_one_call(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1))
    first, second = take_all(lane)
    ends: list[str] = []
    ledger.when_empty(lambda: ends.append("one"))
    ledger.when_empty(lambda: ends.append("other"))
    first.ack()
    assert not ends
    second.ack()
    ledger.shut()
    assert ends == ["one", "other"]


def test_a_drain_ends_with_the_ack_of_a_batch(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1))
    batch = take_batch(lane, 2)
    ends: list[str] = []
    ledger.when_empty(lambda: ends.append("empty"))
    batch.ack()
    assert ends == ["empty"]


# Start, counts and oldest messages


def test_start_of_an_epoch_is_the_given_position(ledger: Ledger) -> None:
    ledger = new_ledger(position=5)
    open_lane(ledger)
    ledger.put(fetched(7))
    assert ledger.start == 5
    ledger.advance(9)
    assert ledger.start == 5


def test_start_of_an_epoch_without_a_position_is_the_first_fetched_offset(
    ledger: Ledger, lane: Lane
) -> None:
    assert ledger.start is None
    ledger.put(fetched(7, 8))
    ledger.put(fetched(9))
    assert ledger.start == 7


def test_start_of_an_epoch_without_records_is_its_first_position(ledger: Ledger) -> None:
    ledger.advance(4)
    ledger.advance(6)
    assert (ledger.start, ledger.position) == (4, 6)


def test_start_of_an_epoch_without_lanes_is_the_first_fetched_offset(ledger: Ledger) -> None:
    ledger.put(fetched(7, 8))
    ledger.put(fetched(9))
    assert (ledger.start, ledger.position) == (7, 7)


def test_uncommitted_is_the_committed_offset_or_else_the_start(ledger: Ledger, lane: Lane) -> None:
    assert ledger.uncommitted is None
    ledger.put(fetched(7, 8))
    assert ledger.uncommitted == 7
    ledger.committed = 0
    assert ledger.uncommitted == 0


def test_oldest_begun_is_the_least_over_the_lanes(ledger: Ledger) -> None:
    lanes = [open_lane(ledger) for _ in range(3)]
    ledger.put(fetched(0, 1))
    assert ledger.oldest_begun is None
    for lane in lanes[:2]:
        take_all(lane)
    assert ledger.oldest_begun == 0
    for lane in lanes[:2]:
        lane.begun[0].ack()
    assert ledger.oldest_begun == 1


def test_waiting_is_the_sum_over_the_lanes(ledger: Ledger) -> None:
    one, other = open_lane(ledger), open_lane(ledger)
    ledger.put(fetched(0, 1, 2))
    take_one(one)
    assert (ledger.waiting, one.waiting, other.waiting) == (5, 2, 3)


def test_acked_is_the_sum_over_open_and_closed_lanes(ledger: Ledger) -> None:
    lanes = [open_lane(ledger) for _ in range(3)]
    ledger.put(fetched(0, 1))
    assert ledger.acked == ledger.newly_acked() == 0
    for lane in lanes:
        take_one(lane).ack()
    assert (ledger.acked, ledger.newly_acked()) == (3, 3)
    left = take_one(lanes[0])
    ledger.close_lane(lanes[0])  # it has an unacked message
    ledger.close_lane(lanes[1])  # it has none
    assert (ledger.acked, ledger.newly_acked()) == (3, 0)
    left.ack()
    assert (ledger.acked, ledger.newly_acked()) == (4, 1)
    ledger.close_lane(lanes[2])
    assert (ledger.acked, ledger.newly_acked()) == (4, 0)


def test_acks_of_batches_are_counted(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0, 1, 2))
    batch = take_batch(lane, 2)
    assert lane.acked == 0
    batch.ack()
    assert lane.acked == 2


def test_messages_given_up_at_the_end_of_an_epoch_do_not_count_as_acked(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(fetched(0, 1, 2))
    first, *_ = take_all(lane)
    first.ack()
    ledger.shut()
    assert (lane.acked, ledger.acked) == (1, 1)


# Calls to the channels


def test_suspended_ledger_calls_the_channel_of_each_lane(ledger: Ledger) -> None:
    called: list[Lane] = []
    lanes = [ledger.open_lane(BufferUsage(100, on_suspended=called.append)) for _ in range(2)]
    ledger.suspend()
    assert called == lanes


def test_lane_that_is_closed_or_shut_is_gone_for_its_channel(ledger: Ledger) -> None:
    gone: list[Lane] = []
    closed, shut = (ledger.open_lane(BufferUsage(100, on_gone=gone.append)) for _ in range(2))
    ledger.close_lane(closed)
    assert gone == [closed]
    ledger.shut()
    assert gone == [closed, shut]


def test_ledger_is_idle_if_no_message_waits_or_is_unacked(ledger: Ledger, lane: Lane) -> None:
    ledger.put(fetched(0))
    assert not ledger.is_idle
    message = take_one(lane)
    assert not ledger.is_idle
    message.ack()
    assert ledger.is_idle


def test_a_channel_that_listens_again_gets_no_message_twice(ledger: Ledger, lane: Lane) -> None:
    """I6: messages 2 and 4 were given back, so 3 and 5 are fetched again."""
    ledger.put(fetched(0, 1, 2, 3, 4, 5))
    messages = take_all(lane)
    messages[1].ack()
    messages[3].ack()
    ledger.close_lane(lane)
    ledger.give_back(lane, [messages[2], messages[4]])
    again = ledger.open_lane(lane.usage)
    other = open_lane(ledger)
    assert ledger.refetch_from == 2
    ledger.end_refetch()
    ledger.put(fetched(2, 3, 4, 5, 6))
    assert again.usage.held == 2 + 5, "they are not decoded yet"
    assert [message.offset for message in take_all(again)] == [2, 4, 6]
    assert again.usage.held == 2 + 3
    assert [message.offset for message in take_all(other)] == [2, 3, 4, 5, 6]
    assert ledger.safe == 0
    messages[0].ack()
    assert ledger.safe == 2


def test_a_message_that_is_given_back_late_waits_in_the_new_lane(
    ledger: Ledger, lane: Lane
) -> None:
    ledger.put(fetched(0, 1, 2))
    first = take_one(lane)
    ledger.close_lane(lane)
    again = ledger.open_lane(lane.usage)
    ledger.end_refetch()
    ledger.put(fetched(1, 2))
    second = take_one(again)
    ledger.give_back(lane, [first])
    assert ledger.safe == 0
    assert [message.offset for message in take_all(again)] == [0, 2]
    second.ack()
    assert ledger.safe == 0


@pytest.mark.parametrize("drains", [True, False])
def test_a_message_that_is_given_back_before_the_client_seeks_is_fetched_again(
    ledger: Ledger, lane: Lane, drains: bool
) -> None:
    ledger.put(fetched(0, 1, 2))
    first = take_one(lane)
    ledger.close_lane(lane)
    ledger.open_lane(lane.usage)
    if drains:
        ledger.drain()
    ledger.give_back(lane, [first])
    assert ledger.safe == ledger.refetch_from == 0


def test_a_channel_gets_what_it_missed_while_another_one_listened(
    ledger: Ledger, lane: Lane
) -> None:
    """The other one has not got it either."""
    other = open_lane(ledger)
    ledger.put(fetched(0, 1))
    for message in take_all(lane):
        message.ack()
    ledger.close_lane(lane)
    ledger.put(fetched(2, 3))
    take_one(other).ack()
    ledger.close_lane(other)
    again = ledger.open_lane(lane.usage)
    ledger.end_refetch()
    ledger.put(fetched(1, 2, 3))
    assert [message.offset for message in take_all(again)] == [2, 3]
