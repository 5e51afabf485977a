"""The rules of groups and members, in random order and without a clock.

The state machine has the role of the clients. They poll (which advances their membership), release
a change late or never, stop polling, change their subscription, leave and crash. The machine also
advances the time.
"""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from transport.drivers.base import RebalanceKind
from transport.drivers.memory.group import Group
from transport.drivers.memory.membership import Change, Membership
from transport.drivers.settings import ClientSettings
from transport.errors import CommitFailed, RebalanceInProgress
from transport.types import TP

TOPICS = {"a": 5, "b": 1, "c": 3}
SESSION, MAX_POLL = 10.0, 100.0


def partitions(topic: str) -> list[TP]:
    return [TP(topic, number) for number in range(TOPICS[topic])]


@attrs.define(eq=False)
class Client:
    """One client, as the code above the driver sees it.

    Attributes:
        held: the partitions of its handlers: added at the release of ASSIGNED, removed at the
            release of REVOKED.
    """

    membership: Membership
    topics: frozenset[str]
    pending: Change | None = None
    polling: bool = False
    held: frozenset[TP] = frozenset()


class Groups(RuleBasedStateMachine):
    assignment: str

    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.group = Group(partitions)
        self.alive: list[Client] = []
        self.generation = 0

    # The actions of clients.

    @rule(target=clients, topics=st.frozensets(st.sampled_from("abc"), min_size=1))
    @precondition(lambda self: len(self.alive) < 5)
    def come(self, topics: frozenset[str]) -> Client:
        config = ClientSettings(
            group_id="g",
            assignment=self.assignment,
            session_timeout=SESSION,
            max_poll_interval=MAX_POLL,
        )
        client = Client(Membership(self.group, config), topics)
        client.membership.subscribe(topics)
        self.alive.append(client)
        return client

    @rule(client=clients)
    def poll(self, client: Client) -> None:
        """Begin a poll, if none is under way, and advance to the next change."""
        if client not in self.alive:
            return
        if not client.polling:
            client.polling = True
            client.membership.begin_poll(self.now)
        if client.pending is None:
            client.pending = client.membership.advance(self.now)
        if client.pending is not None and client.pending.kind is RebalanceKind.LOST:
            client.held -= client.pending.partitions

    @rule(client=clients)
    def consent(self, client: Client) -> None:
        change, client.pending = client.pending, None
        if change is None or client not in self.alive:
            return
        if change.kind is RebalanceKind.ASSIGNED:
            client.held |= change.partitions
        else:
            client.held -= change.partitions
        client.pending = client.membership.advance(self.now)

    @rule(client=clients)
    def stop_polling(self, client: Client) -> None:
        if client in self.alive and client.polling:
            client.polling = False
            client.membership.end_poll(self.now)

    @rule(client=clients, topics=st.frozensets(st.sampled_from("abc")))
    def subscribe(self, client: Client, topics: frozenset[str]) -> None:
        if client in self.alive and not client.polling:
            client.topics = topics
            client.membership.subscribe(topics)

    @rule(client=consumes(clients))
    def leave(self, client: Client) -> None:
        if client in self.alive:
            client.membership.leave(self.now)
            self.alive.remove(client)

    @rule(client=consumes(clients))
    def crash(self, client: Client) -> None:
        if client in self.alive:
            client.membership.disconnect(self.now)
            self.alive.remove(client)

    @rule(seconds=st.sampled_from([0.1, SESSION, MAX_POLL]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(client=clients)
    def commit(self, client: Client) -> None:
        """Commit. The group must accept it from a member in its generation, and keep the offset."""
        if client not in self.alive or not client.held or not client.membership.member_id:
            return
        offset = len(self.group.offsets) + 1
        tp = min(client.held)
        joined = self.member(client) is not None and self.member(client).joined
        try:
            client.membership.commit({tp: offset}, self.now)
        except RebalanceInProgress:
            assert self.member(client) is not None
        except CommitFailed:
            assert self.member(client) is None
        else:
            assert not joined
            assert self.group.offsets[tp] == offset

    @rule()
    def settle(self) -> None:
        """Let live clients poll and dead ones time out, until the group is stable."""
        for client in self.alive:
            self.poll(client)
        self.now += max(SESSION, MAX_POLL)
        self.group.expire(self.now)
        for _ in range(100):
            before = [(c.pending, c.membership.generation, c.held) for c in self.alive]
            for client in list(self.alive):
                self.poll(client)
                self.consent(client)
            if before == [(c.pending, c.membership.generation, c.held) for c in self.alive]:
                break
        else:
            raise AssertionError("the group does not become stable")
        self.check_rest()

    # Invariants.

    def member(self, client: Client):
        return self.group.members.get(client.membership.member_id)

    @invariant()
    def no_partition_has_two_owners(self) -> None:
        owners: dict[TP, Client] = {}
        for client in self.alive:
            if self.member(client) is None:
                continue  # evicted: a LOST follows
            for tp in client.held | client.membership.assigned:
                assert owners.setdefault(tp, client) is client, f"{tp} has two owners"

    @invariant()
    def no_share_overlaps_another_of_the_generation(self) -> None:
        shares = [
            tp
            for member in self.group.members.values()
            if member.generation == self.group.generation
            for tp in member.share
        ]
        assert len(shares) == len(set(shares))

    @invariant()
    def generations_rise(self) -> None:
        assert self.group.generation >= self.generation
        self.generation = self.group.generation

    def check_rest(self) -> None:
        assert not self.group.rebalancing
        assert self.group.next_deadline() == math.inf, "a stable group has a timer"
        members = [client for client in self.alive if client.topics]
        assert len(self.group.members) == len(members)
        wanted = {tp for client in members for topic in client.topics for tp in partitions(topic)}
        owned = [tp for client in self.alive for tp in client.held]
        assert sorted(owned) == sorted(wanted)
        for giver in members:
            assert giver.held == giver.membership.assigned
            for taker in members:
                if len(giver.held) - len(taker.held) >= 2:
                    assert not any(tp.topic in taker.topics for tp in giver.held)


class CooperativeGroups(Groups):
    assignment = "cooperative"


class EagerGroups(Groups):
    assignment = "eager"


TestCooperative = CooperativeGroups.TestCase
TestEager = EagerGroups.TestCase
TestCooperative.settings = TestEager.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)


def join(group: Group, *, topics: str = "a", now: float = 0.0, **options: object) -> Membership:
    config = ClientSettings(
        group_id="g", session_timeout=SESSION, max_poll_interval=MAX_POLL, **options
    )
    membership = Membership(group, config)
    membership.subscribe(frozenset(topics))
    membership.begin_poll(now)
    return membership


def changes(*memberships: Membership, now: float = 0.0) -> list[Change]:
    """Advance the members until there are no changes, and return all changes."""
    told: list[Change] = []
    quiet = 0
    while quiet < 2:  # after the first pass without a change, all are in the barrier
        step = [c for m in memberships if (c := m.advance(now)) is not None]
        told += step
        quiet = 0 if step else quiet + 1
    return told


def test_kept_partitions_are_in_no_change() -> None:
    group = Group(partitions)
    first = join(group)
    assert [c.kind for c in changes(first)] == [RebalanceKind.ASSIGNED]
    second = join(group)
    told = changes(first, second)
    assert [(c.kind, len(c.partitions)) for c in told] == [
        (RebalanceKind.REVOKED, 2),
        (RebalanceKind.ASSIGNED, 2),
    ]
    assert first.generation == second.generation == 3


def test_commit_of_old_generation_is_refused() -> None:
    group = Group(partitions)
    first = join(group)
    changes(first)
    old = first.generation
    second = join(group)
    changes(first, second)
    with pytest.raises(RebalanceInProgress):
        group.commit(first.member_id, old, {TP("a", 0): 1})
    group.commit(first.member_id, first.generation, {TP("a", 0): 1})
    with pytest.raises(CommitFailed):
        group.commit("nobody", first.generation, {TP("a", 0): 1})
    with pytest.raises(CommitFailed):
        group.commit("", -1, {TP("a", 0): 1})  # not a member, while the group has members
    first.leave(0.0)
    second.leave(0.0)
    group.commit("", -1, {TP("a", 0): 9})
    assert group.offsets == {TP("a", 0): 9}


def test_begin_of_poll_clears_poll_deadline() -> None:
    group = Group(partitions)
    first = join(group)
    changes(first)
    assert group.next_deadline() == math.inf
    first.end_poll(5.0)
    assert group.next_deadline() == 5.0 + MAX_POLL
    first.begin_poll(6.0)
    assert group.next_deadline() == math.inf
    first.disconnect(7.0)
    assert group.next_deadline() == 7.0 + SESSION
    group.expire(7.0 + SESSION)
    assert group.members == {}


def test_group_signals_only_an_earlier_deadline() -> None:
    group = Group(partitions)
    first, second = join(group), join(group)
    changes(first, second)
    signaled: list[float] = []
    group.changed.listen(lambda: signaled.append(group.next_deadline()))
    group.next_deadline()
    first.end_poll(1.0)
    assert signaled == [1.0 + MAX_POLL]
    first.begin_poll(2.0)
    first.end_poll(3.0)
    second.end_poll(3.0)
    assert len(signaled) == 1, "the group signaled a deadline that is not earlier than 101"


def test_heir_continues_with_share_of_replaced_member() -> None:
    group = Group(partitions)
    first = join(group, group_instance_id="one")
    second = join(group)
    changes(first, second)
    share, generation = first.assigned, group.generation
    heir = join(group, group_instance_id="one")
    (assigned,) = changes(heir, second)
    assert assigned == Change(RebalanceKind.ASSIGNED, share, generation)
    assert group.generation == generation
