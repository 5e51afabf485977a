"""The rules for the start of a partition without a committed offset, without a driver."""

from __future__ import annotations

import attrs
import pytest

from transport.drivers.starts import Began, Group, Place, Start, parsed, starts
from transport.types import TP

ORDERS = [TP("orders", number) for number in range(6)]
PAYMENTS = TP("payments", 0)
NOW = 1_000_000_000
NEW_GROUP = Group({}, {}, set(), {"orders": 4, "payments": 1}, NOW)


def begun(at_ms: int, partitions: int = 4) -> Group:
    """Return a group that has begun with the topic `orders`, which a commit shows."""
    return attrs.evolve(NEW_GROUP, commits={ORDERS[0]: str(Began(at_ms, partitions))})


def start_of(tp: TP, group: Group, policy: str = "latest") -> Start:
    return starts([tp], policy, group)[0][tp]


@pytest.mark.parametrize("policy", ["earliest", "latest"])
def test_new_group_begins_by_policy(policy: str) -> None:
    found, began = starts(ORDERS[:4], policy, NEW_GROUP)
    place = Place.BEGINNING if policy == "earliest" else Place.END
    assert found == {tp: Start(place, is_new=True) for tp in ORDERS[:4]}
    assert began == {"orders": Began(NOW, 4)}


def test_member_that_joins_new_group_starts_at_begin_of_group() -> None:
    assert start_of(ORDERS[2], begun(NOW - 5)) == Start(Place.SINCE, True, NOW - 5)


def test_uncommitted_partition_starts_at_begin_of_group() -> None:
    """A member crashed before its first commit."""
    assert start_of(ORDERS[2], begun(NOW - 10**6)) == Start(Place.SINCE, True, NOW - 10**6)


@pytest.mark.parametrize("policy", ["earliest", "latest"])
def test_partition_added_later_starts_at_beginning(policy: str) -> None:
    assert start_of(ORDERS[4], begun(NOW - 5), policy) == Start(Place.BEGINNING, is_new=False)


def test_first_member_knows_begin_of_group_without_commit() -> None:
    group = attrs.evolve(NEW_GROUP, began={"orders": Began(NOW - 5, 4)})
    assert start_of(ORDERS[4], group) == Start(Place.BEGINNING, is_new=False)
    assert start_of(ORDERS[3], group) == Start(Place.SINCE, True, NOW - 5)


@pytest.mark.parametrize("metadata", [None, "", "of another program"])
def test_partition_starts_at_beginning_if_other_programs_committed(metadata: str | None) -> None:
    group = attrs.evolve(NEW_GROUP, commits={ORDERS[0]: metadata})
    assert start_of(ORDERS[1], group) == Start(Place.BEGINNING, is_new=False)
    assert start_of(PAYMENTS, group) == Start(Place.BEGINNING, is_new=False)


def test_topic_created_while_client_runs_starts_at_beginning() -> None:
    for group in (NEW_GROUP, begun(NOW - 10**6)):
        group = attrs.evolve(group, created={"payments"})
        found, began = starts([PAYMENTS], "latest", group)
        assert found[PAYMENTS].place is Place.BEGINNING
        assert began["payments"] == Began(0, 1)  # the other members start there, too


def test_topic_added_later_starts_at_begin_of_group() -> None:
    found, began = starts([PAYMENTS], "latest", begun(NOW - 10**6))
    assert found == {PAYMENTS: Start(Place.SINCE, False, NOW - 10**6)}
    assert began["payments"] == Began(NOW - 10**6, 1)


def test_topics_of_beginning_group_do_not_count_as_added() -> None:
    assert start_of(PAYMENTS, begun(NOW - 5)) == Start(Place.SINCE, True, NOW - 5)


def test_earliest_begin_in_commits_is_used() -> None:
    commits = {tp: str(Began(NOW - n, 4)) for n, tp in enumerate(ORDERS[:3])}
    group = attrs.evolve(NEW_GROUP, commits=commits)
    assert start_of(ORDERS[3], group) == Start(Place.SINCE, True, NOW - 2)


def test_metadata_of_commit_is_parsed_as_written() -> None:
    assert parsed(str(Began(NOW, 12))) == Began(NOW, 12)
    assert len(str(Began(10**15, 10**6))) < 100  # a broker accepts up to 4096 bytes
