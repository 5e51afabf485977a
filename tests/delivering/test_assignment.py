"""Assigned partitions, their ledgers and start offsets: `transport/delivering/assignment.py`."""

from __future__ import annotations

import pytest

from tests.records import fetched
from transport.delivering.assignment import Assignment
from transport.delivering.ledger import BufferUsage, Lane, Ledger
from transport.types import TP

A0, A1, B0 = TP("a", 0), TP("a", 1), TP("b", 0)


@pytest.fixture
def assignment() -> Assignment:
    return Assignment()


def deliver(ledger: Ledger, *offsets: int, acked: int) -> Lane:
    """Fetch records at these offsets, take all of them, and ack the first `acked`."""
    lane = ledger.open_lane(BufferUsage(100))
    ledger.put(fetched(*offsets))
    lane.ready()
    for message in lane.take_batch(100)[:acked]:
        message.ack()
    return lane


def test_generation_is_minus_1_before_the_first_rebalance(assignment: Assignment) -> None:
    assert assignment.generation == -1


def test_partitions_are_sorted_by_topic_and_number(assignment: Assignment) -> None:
    assignment.assign([B0, A1], 1)
    assignment.assign([A0], 2)
    assert list(assignment) == [A0, A1, B0]


def test_unassigned_partition_has_no_ledger(assignment: Assignment) -> None:
    assert A0 not in assignment
    with pytest.raises(KeyError):
        assignment[A0]
    with pytest.raises(KeyError):
        assignment.seek(A0, 1)
    assert assignment.remove([A0]) == []


def test_each_assignment_and_each_seek_begins_a_new_epoch(assignment: Assignment) -> None:
    assignment.assign([A0], 1)
    first = assignment[A0]
    second = assignment.seek(A0, 5)
    assignment.remove([A0])
    assignment.assign([A0], 2)
    third = assignment[A0]
    assert [first.epoch, second.epoch, third.epoch] == [1, 2, 3]
    assert [first.is_shut, second.is_shut, third.is_shut] == [True, True, False]


def test_a_seek_sets_the_position_and_keeps_the_generation(assignment: Assignment) -> None:
    assignment.assign([A0], 7)
    ledger = assignment.seek(A0, 5)
    assert (ledger.position, ledger.generation) == (5, 7)
    assert assignment[A0] is ledger


def test_sought_offset_that_may_lie_beyond_the_log_is_not_due(assignment: Assignment) -> None:
    assignment.assign([A0, A1], 1)
    proven = assignment.seek(A0, 5)
    assignment.seek(A1, 5, is_proven=False)
    assert assignment.due() == {proven: 5}


def test_kept_partition_keeps_its_ledger_in_the_next_generation(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    kept = assignment[A0]
    assignment.assign([A1], 2)
    assert assignment[A0] is kept
    assert not kept.is_shut
    assert assignment.generation == 2


def test_second_assign_of_a_partition_opens_a_new_ledger(assignment: Assignment) -> None:
    assignment.assign([A0], 1)
    old = assignment[A0]
    assignment.assign([A0], 2)
    assert old.is_shut
    assert assignment[A0] is not old


def test_revoked_partition_is_not_assigned_and_not_due(assignment: Assignment) -> None:
    assignment.assign([A0, A1], 1)
    deliver(assignment[A0], 0, 1, acked=2)
    assert [ledger.tp for ledger in assignment.remove([A0])] == [A0]
    assert list(assignment) == [A1]
    assert assignment.due() == {}


def test_partition_reassigned_in_the_next_generation_starts_at_its_safe_offset(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    deliver(assignment[A0], 0, 1, 2, acked=2)
    assignment.remove([A0])
    assert assignment.assign([A0], 2) == {A0: 2}
    assert assignment[A0].position == 2


def test_reassigned_partition_starts_at_its_first_undelivered_record(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    assignment[A0].open_lane(BufferUsage(100))
    assignment[A0].put(fetched(4, 5))
    [gone] = assignment.remove([A0])
    assert gone.position == 4
    assert assignment.assign([A0], 2) == {A0: 4}


def test_partition_reassigned_in_a_later_generation_starts_at_the_committed_offset(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    deliver(assignment[A0], 0, acked=1)
    assignment.remove([A0])
    assert assignment.assign([A0], 3) == {}
    assert assignment[A0].position is None


def test_partition_reassigned_after_another_rebalance_starts_at_the_committed_offset(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    deliver(assignment[A0], 0, acked=1)
    assignment.remove([A0])
    assignment.assign([A1], 2)
    assert assignment.assign([A0], 3) == {}


def test_lost_partition_starts_at_the_committed_offset(assignment: Assignment) -> None:
    assignment.assign([A0], 1)
    deliver(assignment[A0], 0, acked=1)
    assignment.remove([A0], lost=True)
    assert assignment.assign([A0], 2) == {}


def test_safe_offset_of_a_revoked_partition_is_dropped_at_the_next_rebalance(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    deliver(assignment[A0], 0, acked=1)
    assignment.remove([A0])
    assignment.assign([A1], 2)
    assert assignment.assign([A0], 2) == {}  # generations restarted: the group was created again


def test_reassigned_partition_without_a_position_starts_at_the_committed_offset(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    assignment.remove([A0])
    assert assignment.assign([A0], 2) == {}


def test_generation_0_is_a_generation(assignment: Assignment) -> None:
    assignment.assign([A0], 0)
    deliver(assignment[A0], 0, acked=1)
    assignment.remove([A0])
    assert assignment.assign([A0], 1) == {A0: 1}


def test_without_a_generation_a_reassigned_partition_starts_at_the_committed_offset(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], -1)
    deliver(assignment[A0], 0, acked=1)
    assignment.remove([A0])
    assert assignment.assign([A0], 0) == {}


def test_partition_reassigned_at_each_rebalance_is_committed_each_time(
    assignment: Assignment,
) -> None:
    for generation in (1, 2, 3):
        assignment.assign([A0], generation)
        deliver(assignment[A0], generation * 10, acked=1)
        assert assignment.due() == {assignment[A0]: generation * 10 + 1}
        assignment.remove([A0])


def test_due_has_only_offsets_beyond_the_committed_ones(assignment: Assignment) -> None:
    assignment.assign([A0, A1, B0], 1)
    for tp in assignment:
        deliver(assignment[tp], 0, 1, acked=1)
    assignment[A1].committed = 1
    assert assignment.due() == {assignment[A0]: 1, assignment[B0]: 1}


def test_due_accepts_topic_names_and_partitions_mixed(assignment: Assignment) -> None:
    assignment.assign([A0, A1, B0], 1)
    for tp in assignment:
        deliver(assignment[tp], 0, acked=1)
    assert [ledger.tp for ledger in assignment.due(["b", A1])] == [A1, B0]
    assert [ledger.tp for ledger in assignment.due(["a"])] == [A0, A1]
    assert assignment.due([]) == {}
    assert assignment.due(["c", TP("a", 9)]) == {}
