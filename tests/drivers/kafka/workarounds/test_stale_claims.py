"""No partition has two owners, whatever the members of a cooperative group claim."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import confluent_kafka
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.consumer.metadata import (
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
)

from tests.drivers.rig import Rig, until
from transport.drivers.base import RebalanceKind
from transport.drivers.kafka.workarounds.stale_claims import CooperativeAssignor
from transport.types import TP

COUNT = 6  # partitions of the topic "orders"
# Clients that name no generation have this one.
NONE = -1


class Cluster:
    """The metadata of the topic "orders"."""

    def topics(self) -> set[str]:
        return {"orders"}

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(COUNT))


def member(name: str, generation: int, *claimed: int) -> Any:
    owned = [ConsumerProtocolSubscription.TopicPartition(topic="orders", partitions=list(claimed))]
    metadata = ConsumerProtocolSubscription(
        version=2,
        topics=["orders"],
        user_data=b"",
        owned_partitions=owned if claimed else [],
        generation_id=generation,
    )
    sent = ConsumerProtocolSubscription.decode(metadata.encode())
    return SimpleNamespace(member_id=name, metadata=sent)


def shares(assigned: Mapping[str, ConsumerProtocolAssignment]) -> dict[str, set[int]]:
    """Return the partitions of each member, as it decodes them."""
    decoded = {
        name: ConsumerProtocolAssignment.decode(share.encode()) for name, share in assigned.items()
    }
    return {name: {tp.partition for tp in share.partitions()} for name, share in decoded.items()}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_stale_claim_moves_no_partition(is_first: bool) -> None:
    """The member "old" was evicted in generation 3, and "new" has its partitions since then."""
    old, new = member("old", 3, 3, 4, 5), member("new", 4, 0, 1, 2, 3, 4, 5)
    members = [old, new] if is_first else [new, old]
    found = shares(CooperativeAssignor().assign(Cluster(), members))
    assert found["old"] == set()
    assert len(found["new"]) == COUNT / 2


@pytest.mark.parametrize("is_first", [True, False])
def test_a_claim_with_generation_beats_one_without(is_first: bool) -> None:
    other, ours = member("other", NONE, 3, 4, 5), member("ours", 4, 0, 1, 2, 3, 4, 5)
    members = [other, ours] if is_first else [ours, other]
    assert shares(CooperativeAssignor().assign(Cluster(), members))["other"] == set()


def test_partitions_that_nobody_claims_are_assigned_at_once() -> None:
    found = shares(CooperativeAssignor().assign(Cluster(), [member("a", NONE), member("b", NONE)]))
    assert found["a"] | found["b"] == set(range(COUNT))


def test_claims_of_one_generation_need_another_round() -> None:
    """Clients that name no generation claim the same partition. The leader cannot decide."""
    assignor, joins = CooperativeAssignor(), list[None]()
    assignor.join_again = lambda: joins.append(None)
    members = [member("a", NONE, 0, 1, 2), member("b", NONE, 2, 3), member("c", NONE)]
    assigned = assignor.assign(Cluster(), members)
    found = shares(assigned)
    assert set().union(*found.values()) == set(range(COUNT)) - {2}
    assignor.on_assignment(assigned["a"], 5)
    assert len(joins) == 1
    assignor.on_assignment(assigned["a"], 6)  # a round of another leader
    assert len(joins) == 1


claims = st.dictionaries(
    st.sampled_from("abcd"),
    st.tuples(st.integers(NONE, 5), st.sets(st.integers(0, COUNT - 1))),
    min_size=1,
)


@given(claims)
def test_nobody_gets_a_partition_that_another_member_may_have(
    claimed: dict[str, tuple[int, set[int]]],
) -> None:
    """Model: the members with the latest claim to a partition may have it."""
    members = [member(name, generation, *each) for name, (generation, each) in claimed.items()]
    found = shares(CooperativeAssignor().assign(Cluster(), members))
    for partition in range(COUNT):
        latest = max((gen for gen, each in claimed.values() if partition in each), default=None)
        may_have = {
            name for name, (gen, each) in claimed.items() if gen == latest and partition in each
        }
        owners = {name for name, share in found.items() if partition in share}
        assert len(owners) <= 1
        if latest is None:
            assert owners
        elif len(may_have) > 1:
            assert not owners
        else:
            assert owners <= may_have


def test_a_member_claims_the_partitions_that_it_has_in_its_generation() -> None:
    assignor, has = CooperativeAssignor(), {TP("orders", 1), TP("orders", 0)}
    assignor.owned = lambda: has
    share = ConsumerProtocolAssignment(1, [("orders", [0, 1])], b"")
    assignor.on_assignment(share, 7)
    claim = ConsumerProtocolSubscription.decode(assignor.metadata(["orders"]).encode())
    assert (claim.generation_id, claim.owned_partitions[0].partitions) == (7, [0, 1])
    has.clear()
    assert assignor.metadata(["orders"]).owned_partitions == []


@pytest.mark.kafka
async def test_a_member_that_was_evicted_claims_nothing(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(2)
    async with kafka_rig.member([topic], heartbeat_interval=0.2) as evicted:
        await until(lambda: len(evicted.assigned) == 2, evicted)
        coordinator: Any = evicted.client._consumer._coordinator  # type: ignore[attr-defined]
        protocols, claimed = coordinator.group_protocols, list[int]()

        def noted() -> Any:
            found = protocols()
            ((_, metadata),) = found
            claimed.append(sum(len(each.partitions) for each in metadata.owned_partitions))
            return found

        coordinator.group_protocols = noted
        coordinator.request_rejoin()
        await until(lambda: bool(claimed), evicted)
        assert claimed.pop() == 2  # as a member, it claims what it has
        await evicted.poll_for(1)
        claimed.clear()
        coordinator.reset_generation()
        await until(lambda: bool(evicted.events(RebalanceKind.LOST)), evicted)
        await until(lambda: len(evicted.assigned) == 2, evicted)
        assert set(claimed) == {0}


@pytest.mark.kafka
@pytest.mark.parametrize("leads", [True, False])
async def test_a_member_of_librdkafka_shares_a_group_with_ours(
    kafka_rig: Rig, kafka_bootstrap: str, leads: bool
) -> None:
    """Each kind reads the claims of the other, whichever of them is the leader."""
    topic, group = await kafka_rig.topic(4), kafka_rig.name()
    other = confluent_kafka.Consumer(
        {
            "bootstrap.servers": kafka_bootstrap,
            "group.id": group,
            "partition.assignment.strategy": "cooperative-sticky",
            "heartbeat.interval.ms": 200,
        }
    )

    async def poll_other() -> set[TP]:
        await trio.to_thread.run_sync(other.poll, 0.1)
        return {TP(each.topic, each.partition) for each in other.assignment()}

    try:
        if leads:
            other.subscribe([topic])
            with trio.fail_after(30):
                while len(await poll_other()) < 4:
                    pass
        async with kafka_rig.member([topic], group_id=group, heartbeat_interval=0.2) as ours:
            if not leads:
                await until(lambda: len(ours.assigned) == 4, ours)
                other.subscribe([topic])
            theirs = set[TP]()
            with trio.fail_after(60):
                while not len(theirs) == len(ours.assigned) == 2:
                    theirs = await poll_other()
                    assert not theirs & ours.assigned
                    await ours.poll_for(0.1)
    finally:
        other.close()
