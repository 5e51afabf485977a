"""Which partitions are ours: `transport/delivering/assignment.py`."""

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
    """Fetch these, take all of them and ack the first `acked`."""
    lane = ledger.open_lane(BufferUsage(100))
    ledger.fetched(fetched(*offsets))
    lane.ready()
    for message in lane.take_batch(100)[:acked]:
        message.ack()
    return lane


def test_before_the_first_rebalance_there_is_no_generation(assignment: Assignment) -> None:
    assert assignment.generation == -1


def test_partitions_come_in_order_of_topic_and_number(assignment: Assignment) -> None:
    assignment.assign([B0, A1], 1)
    assignment.assign([A0], 2)
    assert list(assignment) == [A0, A1, B0]


def test_what_is_not_assigned_has_no_ledger(assignment: Assignment) -> None:
    assert A0 not in assignment
    with pytest.raises(KeyError):
        assignment[A0]
    with pytest.raises(KeyError):
        assignment.seek(A0, 1)
    assert assignment.let_go([A0]) == []


def test_each_assignment_and_each_seek_is_an_epoch_of_its_own(assignment: Assignment) -> None:
    assignment.assign([A0], 1)
    first = assignment[A0]
    second = assignment.seek(A0, 5)
    assignment.let_go([A0])
    assignment.assign([A0], 2)
    third = assignment[A0]
    assert [first.epoch, second.epoch, third.epoch] == [1, 2, 3]
    assert [first.is_shut, second.is_shut, third.is_shut] == [True, True, False]


def test_a_seek_sets_the_position_and_keeps_the_generation(assignment: Assignment) -> None:
    assignment.assign([A0], 7)
    ledger = assignment.seek(A0, 5)
    assert (ledger.position, ledger.generation) == (5, 7)
    assert assignment[A0] is ledger


def test_a_kept_partition_keeps_its_ledger_though_the_generation_rises(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    kept = assignment[A0]
    assignment.assign([A1], 2)
    assert assignment[A0] is kept
    assert not kept.is_shut
    assert assignment.generation == 2


def test_a_partition_that_is_assigned_twice_begins_anew(assignment: Assignment) -> None:
    assignment.assign([A0], 1)
    old = assignment[A0]
    assignment.assign([A0], 2)
    assert old.is_shut
    assert assignment[A0] is not old


def test_what_is_let_go_is_not_ours_and_not_due(assignment: Assignment) -> None:
    assignment.assign([A0, A1], 1)
    deliver(assignment[A0], 0, 1, acked=2)
    assert [ledger.tp for ledger in assignment.let_go([A0])] == [A0]
    assert list(assignment) == [A1]
    assert assignment.due() == {}


def test_given_back_in_the_next_generation_it_starts_where_it_stood(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    deliver(assignment[A0], 0, 1, 2, acked=2)
    assignment.let_go([A0])
    assert assignment.assign([A0], 2) == {A0: 2}
    assert assignment[A0].position == 2


def test_what_was_fetched_and_not_delivered_comes_again_when_given_back(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    assignment[A0].open_lane(BufferUsage(100))
    assignment[A0].fetched(fetched(4, 5))
    [gone] = assignment.let_go([A0])
    assert gone.position == 4
    assert assignment.assign([A0], 2) == {A0: 4}


def test_given_back_later_it_starts_from_what_the_group_committed(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    deliver(assignment[A0], 0, acked=1)
    assignment.let_go([A0])
    assert assignment.assign([A0], 3) == {}
    assert assignment[A0].position is None


def test_given_back_after_others_came_and_went_it_starts_from_what_was_committed(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    deliver(assignment[A0], 0, acked=1)
    assignment.let_go([A0])
    assignment.assign([A1], 2)
    assert assignment.assign([A0], 3) == {}


def test_a_lost_partition_starts_from_what_the_group_committed(assignment: Assignment) -> None:
    assignment.assign([A0], 1)
    deliver(assignment[A0], 0, acked=1)
    assignment.let_go([A0], lost=True)
    assert assignment.assign([A0], 2) == {}


def test_what_was_given_up_before_others_came_is_forgotten_though_generations_begin_anew(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    deliver(assignment[A0], 0, acked=1)
    assignment.let_go([A0])
    assignment.assign([A1], 2)
    assert assignment.assign([A0], 2) == {}  # of a group that was made anew


def test_given_back_with_nothing_known_it_starts_from_what_the_group_committed(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], 1)
    assignment.let_go([A0])
    assert assignment.assign([A0], 2) == {}


def test_generation_0_is_a_generation(assignment: Assignment) -> None:
    assignment.assign([A0], 0)
    deliver(assignment[A0], 0, acked=1)
    assignment.let_go([A0])
    assert assignment.assign([A0], 1) == {A0: 1}


def test_without_a_generation_nothing_is_known_of_who_came_between(
    assignment: Assignment,
) -> None:
    assignment.assign([A0], -1)
    deliver(assignment[A0], 0, acked=1)
    assignment.let_go([A0])
    assert assignment.assign([A0], 0) == {}


def test_a_partition_that_comes_back_after_two_rebalances_is_committed_again(
    assignment: Assignment,
) -> None:
    for generation in (1, 2, 3):
        assignment.assign([A0], generation)
        deliver(assignment[A0], generation * 10, acked=1)
        assert assignment.due() == {assignment[A0]: generation * 10 + 1}
        assignment.let_go([A0])


def test_due_is_what_a_commit_would_move(assignment: Assignment) -> None:
    assignment.assign([A0, A1, B0], 1)
    for tp in assignment:
        deliver(assignment[tp], 0, 1, acked=1)
    assignment[A1].committed = 1
    assert assignment.due() == {assignment[A0]: 1, assignment[B0]: 1}


def test_due_may_be_asked_for_names_and_partitions_mixed(assignment: Assignment) -> None:
    assignment.assign([A0, A1, B0], 1)
    for tp in assignment:
        deliver(assignment[tp], 0, acked=1)
    assert [ledger.tp for ledger in assignment.due(["b", A1])] == [A1, B0]
    assert [ledger.tp for ledger in assignment.due(["a"])] == [A0, A1]
    assert assignment.due([]) == {}
    assert assignment.due(["c", TP("a", 9)]) == {}
