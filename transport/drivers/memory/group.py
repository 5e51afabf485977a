"""The coordinator of a consumer group, by the classic protocol of Kafka. Pure.

All rules of the group are in this file:

- A **generation** begins when every member has joined the barrier. A member raises the barrier when
  it joins (it is new, has another subscription, or gave up partitions), leaves or is evicted. A
  member that does not join within `max_poll_interval` after that is evicted.
- The barrier is also raised when a topic that a member wants is created, is deleted, or gets more
  partitions. Kafka's members detect that by their metadata.
- A **share** is the set of partitions that a generation assigns to a member. Members that own
  partitions when they join keep them if the balance allows. A partition that moves is assigned to
  no member until its owner has joined without it, so a move takes two generations. Members that own
  nothing when they join (eager members) get their whole share at once.
- A **member** is removed when it leaves, after `max_poll_interval` without a poll, or, if its
  connection is lost, after `session_timeout`. A connected member inside a poll needs no heartbeat
  here, so it has no timer. A member with an instance id can be replaced: the new member inherits
  its share, and the old member is fenced.
- A **commit** is accepted from a member in its own generation. This includes a member that has not
  joined a raised barrier yet, so the offsets of revoked partitions can be committed. A member in
  the barrier gets RebalanceInProgress, and an evicted member gets CommitFailed.

Kafka's SyncGroup, which distributes the shares that a leader computes, is part of the end of the
barrier. Callers pass the time, in seconds of one monotonic clock. A caller that waits uses
`next_deadline`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import attrs

from transport.drivers.memory.assignor import balance, hold_back
from transport.drivers.memory.change_signal import ChangeSignal
from transport.errors import CommitFailed, Fenced, RebalanceInProgress
from transport.types import TP


@attrs.define(eq=False)
class Member:
    """The group's record of one member.

    Attributes:
        owned: the partitions that it owned at its last join.
        share: the partitions that its generation assigned to it.
        joined: whether it is in the barrier.
        heir: whether it has replaced another member and has not joined since.
        expires: when it is evicted, unless it polls before.
    """

    session_timeout: float
    max_poll_interval: float
    instance_id: str | None = None
    topics: frozenset[str] = frozenset()
    owned: frozenset[TP] = frozenset()
    share: frozenset[TP] = frozenset()
    generation: int = -1
    joined: bool = False
    heir: bool = False
    expires: float = math.inf


class Group:
    """The coordinator's state of one group.

    Args:
        partitions: returns every partition of a topic.
        on_commit: called with the offsets of each commit.

    Attributes:
        members: by id, in the order in which they entered.
        generation: the current generation; while the barrier is up, the previous one.
        offsets: the committed offsets.
        metadata: the metadata of the committed offsets.
        unstable: the number of open transactions that hold an offset of each partition.
        changed: signals that a member may have work, or that `next_deadline` is earlier.
    """

    def __init__(
        self,
        partitions: Callable[[str], Iterable[TP]],
        on_commit: Callable[[Mapping[TP, int]], None] = lambda offsets: None,
    ) -> None:
        self.members: dict[str, Member] = {}
        self.generation = 0
        self.offsets: dict[TP, int] = {}
        self.metadata: dict[TP, str] = {}
        self.unstable: dict[TP, int] = {}
        self.changed = ChangeSignal()
        self._partitions = partitions
        self._on_commit = on_commit
        self._names = 0
        self._fenced: set[str] = set()
        self._shared_out: list[TP] = []  # every partition that the current generation has assigned
        self._must_compare = False
        self._barrier = math.inf  # its deadline; inf: the barrier is not up
        self._deadline = math.inf  # the deadline that callers wait for

    @property
    def rebalancing(self) -> bool:
        """Whether the barrier is up and every member must join."""
        return self._barrier < math.inf

    def enter(
        self,
        client_id: str,
        session_timeout: float,
        max_poll_interval: float,
        instance_id: str | None = None,
    ) -> str:
        """Add a member, which must join next, and return its id.

        If a member has the same instance id, the new member replaces it and inherits its share.
        """
        self._names += 1
        member_id = f"{client_id}-{self._names}"
        member = Member(session_timeout, max_poll_interval, instance_id)
        for old_id, old in list(self.members.items()):
            if instance_id is not None and old.instance_id == instance_id:
                member = attrs.evolve(
                    member, topics=old.topics, share=old.share, generation=old.generation, heir=True
                )
                del self.members[old_id]
                self._fenced.add(old_id)
                self.changed.notify()
        self.members[member_id] = member
        return member_id

    def join(
        self, member_id: str, topics: frozenset[str], owned: frozenset[TP], now: float
    ) -> None:
        """Join the barrier. The last member that joins begins the next generation.

        An heir with the same topics continues with its share, without a barrier.

        Args:
            owned: the partitions that the member keeps during the rebalance.
        """
        member = self.members[member_id]
        heir, member.heir = member.heir, False
        if heir and topics == member.topics and not self.rebalancing:
            return
        member.topics = topics
        member.owned = owned
        member.joined = True
        self._raise_barrier(now)
        self._try_begin()

    def leave(self, member_id: str, now: float) -> None:
        """Remove the member at once. Does nothing if it is not a member."""
        if self.members.pop(member_id, None) is None:
            return
        if self.members:
            self._raise_barrier(now)
        self._try_begin()

    def polling(self, member_id: str) -> None:
        """Note that the member is inside a poll, which has no deadline."""
        member = self.members.get(member_id)
        if member is not None:
            member.expires = math.inf

    def idle(self, member_id: str, now: float) -> None:
        """Note the end of a poll. The next poll must begin within `max_poll_interval`."""
        member = self.members.get(member_id)
        if member is not None:
            self._expect(member, now + member.max_poll_interval)

    def disconnect(self, member_id: str, now: float) -> None:
        """Note the loss of the member's connection. It is evicted after `session_timeout`."""
        member = self.members.get(member_id)
        if member is not None:
            self._expect(member, min(member.expires, now + member.session_timeout))

    def expire(self, now: float) -> None:
        """Evict members after their deadline. Call it before any other call with this time."""
        for member_id, member in list(self.members.items()):
            if member.expires <= now:
                self.leave(member_id, now)
        if self._must_compare:
            self._must_compare = False
            if self.members and not self.rebalancing and self._wanted() != self._shared_out:
                self._raise_barrier(now)
        if self._barrier <= now:
            for member_id, member in list(self.members.items()):
                if not member.joined:
                    del self.members[member_id]
            self._try_begin()

    def restart(self, now: float) -> None:
        """Continue with another clock. All members count as disconnected since `now`."""
        self._barrier = math.inf
        for member in self.members.values():
            member.joined = False
            member.expires = now + member.session_timeout
        if self.members:
            self._raise_barrier(now)

    def next_deadline(self) -> float:
        """Return the time when `expire` must be called; `changed` signals if it becomes earlier."""
        self._deadline = min((m.expires for m in self.members.values()), default=math.inf)
        self._deadline = min(self._deadline, self._barrier)
        return self._deadline

    def check_identity(self, member_id: str) -> None:
        """Raise Fenced if another member has replaced this one."""
        if member_id in self._fenced:
            raise Fenced(f"another member with its group_instance_id has replaced {member_id!r}")

    def on_topics_changed(self) -> None:
        """Note that topics have changed; the next `expire` compares them with the shares."""
        self._must_compare = True
        self.changed.notify()

    def forget(self, topic: str) -> None:
        """Forget the committed offsets of a deleted topic."""
        self.offsets = {tp: offset for tp, offset in self.offsets.items() if tp.topic != topic}
        self.metadata = {tp: each for tp, each in self.metadata.items() if tp.topic != topic}

    def release(self, tp: TP) -> None:
        """Note that a transaction has released its offset of a partition."""
        self.unstable[tp] -= 1
        if not self.unstable[tp]:
            del self.unstable[tp]

    def commit(
        self,
        member_id: str,
        generation: int,
        offsets: Mapping[TP, int],
        metadata: Mapping[TP, str] | None = None,
    ) -> None:
        """Commit all the offsets, or none.

        A caller with an empty member id is not a member. It may commit while the group has no
        members.

        Args:
            metadata: the metadata of the offsets.

        Raises:
            RebalanceInProgress: the member is in the barrier, or has not seen its end yet.
            CommitFailed: the group has no such member.
            Fenced: another member has replaced this one.
        """
        self.check_commit(member_id, generation)
        self.take(offsets, metadata)

    def take(self, offsets: Mapping[TP, int], metadata: Mapping[TP, str] | None = None) -> None:
        """Commit the offsets without a check: `check_commit` was called before."""
        self.offsets.update(offsets)
        self.metadata.update((tp, (metadata or {}).get(tp, "")) for tp in offsets)
        self._on_commit(offsets)

    def check_commit(self, member_id: str, generation: int) -> None:
        """Raise what `commit` would raise."""
        self.check_identity(member_id)
        member = self.members.get(member_id)
        if member is None:
            if member_id or self.members:
                raise CommitFailed(f"{member_id!r} is not a member of the group")
        elif member.joined or member.generation != generation:
            raise RebalanceInProgress(
                f"{member_id!r} committed in generation {generation} during a rebalance"
            )

    def _wanted(self) -> list[TP]:
        """Return every existing partition of the topics that the members want."""
        topics = sorted({topic for member in self.members.values() for topic in member.topics})
        return [tp for topic in topics for tp in self._partitions(topic)]

    def _expect(self, member: Member, deadline: float) -> None:
        member.expires = deadline
        if deadline < self._deadline:
            self._deadline = deadline
            self.changed.notify()

    def _raise_barrier(self, now: float) -> None:
        if not self.rebalancing:
            patience = max(member.max_poll_interval for member in self.members.values())
            self._barrier = now + patience
            self.changed.notify()

    def _try_begin(self) -> None:
        if not all(member.joined for member in self.members.values()):
            return
        self.generation += 1
        self._barrier = math.inf
        topics = {member_id: member.topics for member_id, member in self.members.items()}
        owned = {member_id: member.owned for member_id, member in self.members.items()}
        self._shared_out = self._wanted()
        shares = hold_back(balance(topics, owned, self._shared_out), owned)
        for member_id, member in self.members.items():
            member.share = shares[member_id]
            member.generation = self.generation
            member.joined = False
        self.changed.notify()
