"""Shares of partitions: balanced, complete, and with as few moves as possible."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.drivers.memory.assignor import balance, hold_back
from transport.types import TP

TOPICS = {"a": 5, "b": 1, "c": 3}
PARTITIONS = [TP(topic, number) for topic, count in TOPICS.items() for number in range(count)]
MEMBERS = [f"m{number}" for number in range(5)]


@st.composite
def groups(
    draw: st.DrawFn, alike: bool
) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[TP]]]:
    """Draw the topics and the owned partitions of members. No partition has two owners."""
    members = draw(st.lists(st.sampled_from(MEMBERS), unique=True, min_size=1))
    some = st.frozensets(st.sampled_from(sorted(TOPICS)), min_size=1)
    if alike:
        topics = dict.fromkeys(members, draw(some))
    else:
        topics = {member: draw(some) for member in members}
    owners = draw(st.dictionaries(st.sampled_from(PARTITIONS), st.sampled_from(members)))
    owned = {m: frozenset(tp for tp, owner in owners.items() if owner == m) for m in members}
    return topics, owned


@given(group=st.one_of(groups(alike=True), groups(alike=False)))
def test_each_wanted_partition_has_one_owner_that_wants_it(group) -> None:
    topics, owned = group
    shares = balance(topics, owned, PARTITIONS)
    wanted = {tp for tp in PARTITIONS if any(tp.topic in some for some in topics.values())}
    given_out = [tp for share in shares.values() for tp in share]
    assert sorted(given_out) == sorted(wanted)
    assert all(tp.topic in topics[member] for member, share in shares.items() for tp in share)


@given(group=st.one_of(groups(alike=True), groups(alike=False)))
def test_no_partition_can_move_to_member_with_two_fewer(group) -> None:
    topics, owned = group
    shares = balance(topics, owned, PARTITIONS)
    for giver, share in shares.items():
        for taker, other in shares.items():
            if len(share) - len(other) >= 2:
                assert not any(tp.topic in topics[taker] for tp in share), (giver, taker)


@given(group=groups(alike=True))
def test_same_subscriptions_move_fewest_partitions(group) -> None:
    topics, owned = group
    (wanted,) = set(topics.values())
    shares = balance(topics, owned, PARTITIONS)
    kept = sum(len(shares[member] & owned[member]) for member in topics)
    few, more = divmod(sum(TOPICS[topic] for topic in wanted), len(topics))
    loads = sorted((sum(tp.topic in wanted for tp in tps) for tps in owned.values()), reverse=True)
    most = sum(min(load, few + (number < more)) for number, load in enumerate(loads))
    assert kept == most


@given(group=groups(alike=True))
def test_same_subscriptions_are_balanced_after_two_steps(group) -> None:
    topics, owned = group
    first = hold_back(balance(topics, owned, PARTITIONS), owned)
    # Members own the shares of the first step by then, and revoked partitions are free.
    second = hold_back(balance(topics, first, PARTITIONS), first)
    assert all(first[member] <= second[member] for member in topics)
    assert second == balance(topics, second, PARTITIONS)


@given(group=groups(alike=False))
def test_each_step_assigns_only_free_partitions_and_steps_end(group) -> None:
    topics, owned = group
    for _ in range(len(PARTITIONS)):
        share = hold_back(balance(topics, owned, PARTITIONS), owned)
        assert all(share[member] <= owned[member] | unowned(owned) for member in topics)
        if share == owned:
            return
        owned = share
    raise AssertionError("the moves do not end")


def unowned(owned: dict[str, frozenset[TP]]) -> frozenset[TP]:
    return frozenset(PARTITIONS) - frozenset().union(*owned.values())


def test_order_of_members_decides_ties() -> None:
    topics = dict.fromkeys(["z", "a"], frozenset(["b"]))
    none: dict[str, frozenset[TP]] = {"z": frozenset(), "a": frozenset()}
    assert balance(topics, none, [TP("b", 0)]) == {"z": {TP("b", 0)}, "a": set()}
