"""Partitions that a member claims in a join although another member owns them.

A member of a cooperative group names its partitions when it joins. The leader of the group moves a
partition only after its owner has given it up. But the client names the partitions of its last
assignment, also after the group has evicted it and given them to another member. And the client's
leader does not compare generations, so it may believe the stale claim. Then two members own a
partition in one generation. The new owner starts before the last commit of the old one, and the
results of both are committed.

So a member claims only the partitions that it has, with the generation of its last assignment. A
leader believes only the latest claim to a partition. Several latest claims of one generation come
from clients that name no generation. Then no member gets the partition in this round, and the
leader joins again. By then no claim is stale.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import (
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
)

from transport.types import TP

# The first version of a subscription that has a generation.
_WITH_GENERATION = 2


class CooperativeAssignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """The client's cooperative assignor, without stale claims.

    Attributes:
        owned: returns the partitions that the member has.
        join_again: makes the member join again after this round.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owned: Callable[[], Collection[Any]] = tuple
        self.join_again: Callable[[], object] = lambda: None
        self._is_another_round_due = False

    def metadata(self, topics: Collection[str]) -> ConsumerProtocolSubscription:
        # `member_assignment`, `generation`: of the last assignment, which the member may have lost.
        self.member_assignment = sorted(self.owned())
        claim = super().metadata(topics)
        return ConsumerProtocolSubscription(
            version=_WITH_GENERATION,
            topics=claim.topics,
            user_data=claim.user_data,
            owned_partitions=claim.owned_partitions,
            generation_id=self.generation,
        )

    def assign(self, cluster: Any, members: Sequence[Any]) -> dict[str, ConsumerProtocolAssignment]:
        contested = believe_the_latest([member.metadata for member in members])
        self._is_another_round_due = bool(contested)
        found: dict[str, ConsumerProtocolAssignment] = super().assign(cluster, members)
        if not contested:
            return found
        return {member: _without(contested, share) for member, share in found.items()}

    def on_assignment(self, assignment: ConsumerProtocolAssignment, generation: int) -> None:
        super().on_assignment(assignment, generation)
        if self._is_another_round_due:
            self._is_another_round_due = False
            self.join_again()


def claim_what_it_has(consumer: Any) -> None:
    """Let a new consumer claim, in each join, the partitions that it has then."""
    # `_coordinator`, `_assignors`, `_subscription`: no public name has the assignors. They do not
    # know the assigned partitions.
    coordinator = consumer._coordinator
    for assignor in coordinator._assignors.values():
        if isinstance(assignor, CooperativeAssignor):
            assignor.owned = coordinator._subscription.assigned_partitions
            assignor.join_again = lambda: coordinator.request_rejoin()


def believe_the_latest(subscriptions: Sequence[Any]) -> set[TP]:
    """Remove all claims but the latest one to each partition, in place.

    Return the partitions that several members claim in one generation. Nobody keeps these claims.

    Args:
        subscriptions: a `ConsumerProtocolSubscription` of each member. Without a generation, it has
            -1.
    """
    claims: defaultdict[TP, list[int]] = defaultdict(list)  # the generations, by partition
    for subscription in subscriptions:
        for tp in _claimed(subscription):
            claims[tp].append(subscription.generation_id)
    latest = {tp: max(generations) for tp, generations in claims.items()}
    contested = {tp for tp, each in claims.items() if each.count(latest[tp]) > 1}
    for subscription in subscriptions:
        for claim in getattr(subscription, "owned_partitions", None) or ():
            claim.partitions = [
                n
                for n in claim.partitions
                if (tp := TP(claim.topic, n)) not in contested
                and latest[tp] == subscription.generation_id
            ]
    return contested


def _claimed(subscription: Any) -> Iterator[TP]:
    # `owned_partitions`: missing in the first version of a subscription.
    for claim in getattr(subscription, "owned_partitions", None) or ():
        for n in claim.partitions:
            yield TP(claim.topic, n)


def _without(
    contested: Collection[TP], share: ConsumerProtocolAssignment
) -> ConsumerProtocolAssignment:
    kept = [
        (topic, [n for n in partitions if TP(topic, n) not in contested])
        for topic, partitions in share.assigned_partitions
    ]
    return ConsumerProtocolAssignment(CooperativeAssignor.version, kept, share.user_data)
