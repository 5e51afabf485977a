"""Where a partition begins without a committed offset: the rules by themselves."""

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
    """The group has begun with the topic `orders`, and this client has it from a commit."""
    return attrs.evolve(NEW_GROUP, commits={ORDERS[0]: str(Began(at_ms, partitions))})


def start_of(tp: TP, group: Group, policy: str = "latest") -> Start:
    return starts([tp], policy, group)[0][tp]


@pytest.mark.parametrize("policy", ["earliest", "latest"])
def test_a_new_group_begins_where_the_policy_says(policy: str) -> None:
    found, began = starts(ORDERS[:4], policy, NEW_GROUP)
    place = Place.BEGINNING if policy == "earliest" else Place.END
    assert found == {tp: Start(place, is_new=True) for tp in ORDERS[:4]}
    assert began == {"orders": Began(NOW, 4)}


def test_a_member_that_comes_at_the_same_moment_begins_at_that_moment() -> None:
    assert start_of(ORDERS[2], begun(NOW - 5)) == Start(Place.SINCE, True, NOW - 5)


def test_a_partition_that_was_never_committed_begins_when_the_group_began() -> None:
    """A member has crashed before its first commit."""
    assert start_of(ORDERS[2], begun(NOW - 10**6)) == Start(Place.SINCE, True, NOW - 10**6)


@pytest.mark.parametrize("policy", ["earliest", "latest"])
def test_a_partition_that_was_added_begins_at_its_beginning(policy: str) -> None:
    assert start_of(ORDERS[4], begun(NOW - 5), policy) == Start(Place.BEGINNING, is_new=False)


def test_it_is_known_without_a_commit_to_the_member_that_began() -> None:
    group = attrs.evolve(NEW_GROUP, began={"orders": Began(NOW - 5, 4)})
    assert start_of(ORDERS[4], group) == Start(Place.BEGINNING, is_new=False)
    assert start_of(ORDERS[3], group) == Start(Place.SINCE, True, NOW - 5)


@pytest.mark.parametrize("metadata", [None, "", "of another program"])
def test_next_to_the_commits_of_other_programs_it_is_the_beginning(metadata: str | None) -> None:
    group = attrs.evolve(NEW_GROUP, commits={ORDERS[0]: metadata})
    assert start_of(ORDERS[1], group) == Start(Place.BEGINNING, is_new=False)
    assert start_of(PAYMENTS, group) == Start(Place.BEGINNING, is_new=False)


def test_a_topic_that_was_created_meanwhile_begins_at_its_beginning() -> None:
    for group in (NEW_GROUP, begun(NOW - 10**6)):
        group = attrs.evolve(group, created={"payments"})
        found, began = starts([PAYMENTS], "latest", group)
        assert found[PAYMENTS].place is Place.BEGINNING
        assert began["payments"] == Began(0, 1)  # so it is for the other members


def test_a_second_topic_begins_when_the_group_began() -> None:
    found, began = starts([PAYMENTS], "latest", begun(NOW - 10**6))
    assert found == {PAYMENTS: Start(Place.SINCE, False, NOW - 10**6)}
    assert began["payments"] == Began(NOW - 10**6, 1)


def test_topics_with_which_a_group_begins_are_no_news() -> None:
    assert start_of(PAYMENTS, begun(NOW - 5)) == Start(Place.SINCE, True, NOW - 5)


def test_the_earliest_of_several_moments_counts() -> None:
    commits = {tp: str(Began(NOW - n, 4)) for n, tp in enumerate(ORDERS[:3])}
    group = attrs.evolve(NEW_GROUP, commits=commits)
    assert start_of(ORDERS[3], group) == Start(Place.SINCE, True, NOW - 2)


def test_the_metadata_of_a_commit_is_read_as_it_was_written() -> None:
    assert parsed(str(Began(NOW, 12))) == Began(NOW, 12)
    assert len(str(Began(10**15, 10**6))) < 100  # a broker takes 4096
