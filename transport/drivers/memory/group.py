"""A consumer group as its coordinator sees it: the classic protocol of Kafka. Pure.

The rules, which all stand in this file:

- A **generation** begins when every member has joined the barrier. The barrier is raised by a
  member that joins (a new one, one with another subscription, one that gave something up) and by
  one that goes. Who has not joined `max_poll_interval` after that is thrown out.
- A barrier is also raised when a topic that a member wants is created, deleted, or gets more
  partitions; Kafka's members find that out by their metadata.
- A **share** is what a generation gives to a member. Members that say what they own keep it
  if the balance allows; a partition that is to move is given to nobody until its owner has
  joined without it, so a move takes two generations. Members that own nothing when they join
  (the eager ones) get all of their share at once.
- A **member** goes by leaving, by `max_poll_interval` without a poll, or, after its connection is
  lost, by `session_timeout`. A member that is connected and inside a poll needs no
  heartbeat here, hence no timer. One with an instance id can be replaced: the new one
  inherits the share, and the old one is fenced.
- A **commit** is taken from a member in its own generation, also while the barrier is up and it
  has not joined yet; so what is revoked can be committed. From a member in the barrier it is
  refused for the moment (RebalanceInProgress), from one that was thrown out for good
  (CommitFailed).

Collecting the shares from a leader, Kafka's SyncGroup, is one with the end of the barrier.
Time is passed in, in seconds of one monotonic clock; a caller that waits uses `next_deadline`.
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
    """What the group knows of one member.

    Attributes:
        owned: what it said to own when it joined last.
        share: what its generation gave to it.
        joined: it stands in the barrier.
        heir: it took over an identity, and has not joined since.
        expires: when it is thrown out, if nothing is heard of it.
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
    """The coordinator's side of one group.

    Args:
        partitions: every partition of a topic.
        on_commit: called with the offsets of each commit.

    Attributes:
        members: by id, in the order in which they came.
        generation: the running one; the last one while the barrier is up.
        offsets: the committed offsets.
        notes: the metadata of the committed offsets.
        unstable: how many open transactions hold an offset of a partition.
        bell: rung when a member may have to do something, or to wait for less long.
    """

    def __init__(
        self,
        partitions: Callable[[str], Iterable[TP]],
        on_commit: Callable[[Mapping[TP, int]], None] = lambda offsets: None,
    ) -> None:
        self.members: dict[str, Member] = {}
        self.generation = 0
        self.offsets: dict[TP, int] = {}
        self.notes: dict[TP, str] = {}
        self.unstable: dict[TP, int] = {}
        self.bell = ChangeSignal()
        self._partitions = partitions
        self._on_commit = on_commit
        self._names = 0
        self._fenced: set[str] = set()
        self._shared_out: list[
            TP
        ] = []  # every partition that the running generation has shared out
        self._must_look = False
        self._barrier = math.inf  # when it ends at the latest; inf: there is none
        self._told = math.inf  # no waiting member waits for longer than this

    @property
    def rebalancing(self) -> bool:
        """The barrier is up: every member has to join."""
        return self._barrier < math.inf

    def enter(
        self,
        client_id: str,
        session_timeout: float,
        max_poll_interval: float,
        instance_id: str | None = None,
    ) -> str:
        """Make a member, which is to join next; its id.

        With the instance id of a member that is there it takes that one's place and share.
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
                self.bell.ring()
        self.members[member_id] = member
        return member_id

    def join(
        self, member_id: str, topics: frozenset[str], owned: frozenset[TP], now: float
    ) -> None:
        """Step into the barrier; the last one to do so begins the next generation.

        An heir that wants the same topics goes on with its share, without a barrier.

        Args:
            owned: what the member keeps on working on meanwhile.
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
        """Go at once. One that has gone already changes nothing."""
        if self.members.pop(member_id, None) is None:
            return
        if self.members:
            self._raise_barrier(now)
        self._try_begin()

    def polling(self, member_id: str) -> None:
        """The member is inside a poll, and may stay there."""
        member = self.members.get(member_id)
        if member is not None:
            member.expires = math.inf

    def idle(self, member_id: str, now: float) -> None:
        """The member's poll has ended; the next one is due within max_poll_interval."""
        member = self.members.get(member_id)
        if member is not None:
            self._expect(member, now + member.max_poll_interval)

    def disconnect(self, member_id: str, now: float) -> None:
        """Nothing will be heard of the member any more; its session runs out."""
        member = self.members.get(member_id)
        if member is not None:
            self._expect(member, min(member.expires, now + member.session_timeout))

    def expire(self, now: float) -> None:
        """Throw out whose time is over; to be called before anything else at a moment."""
        for member_id, member in list(self.members.items()):
            if member.expires <= now:
                self.leave(member_id, now)
        if self._must_look:
            self._must_look = False
            if self.members and not self.rebalancing and self._wanted() != self._shared_out:
                self._raise_barrier(now)
        if self._barrier <= now:
            for member_id, member in list(self.members.items()):
                if not member.joined:
                    del self.members[member_id]
            self._try_begin()

    def restart(self, now: float) -> None:
        """Go on with another clock: nobody who was there is connected any more."""
        self._barrier = math.inf
        for member in self.members.values():
            member.joined = False
            member.expires = now + member.session_timeout
        if self.members:
            self._raise_barrier(now)

    def next_deadline(self) -> float:
        """When `expire` has something to do; the bell rings if it becomes earlier."""
        self._told = min((m.expires for m in self.members.values()), default=math.inf)
        self._told = min(self._told, self._barrier)
        return self._told

    def check_identity(self, member_id: str) -> None:
        """Raise Fenced if another member has taken this one's place."""
        if member_id in self._fenced:
            raise Fenced(f"the place of {member_id!r} was taken by its instance id")

    def look_again(self) -> None:
        """Note that topics have changed; the next `expire` compares them with the shares."""
        self._must_look = True
        self.bell.ring()

    def forget(self, topic: str) -> None:
        """Forget a deleted topic and the offsets that are committed for it."""
        self.offsets = {tp: offset for tp, offset in self.offsets.items() if tp.topic != topic}
        self.notes = {tp: note for tp, note in self.notes.items() if tp.topic != topic}

    def release(self, tp: TP) -> None:
        """Note that an open transaction no longer holds the offset of a partition."""
        self.unstable[tp] -= 1
        if not self.unstable[tp]:
            del self.unstable[tp]

    def commit(
        self,
        member_id: str,
        generation: int,
        offsets: Mapping[TP, int],
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """Take the offsets, all or none.

        A caller without a member id is no member and may commit while there is none.

        Args:
            notes: their metadata, by topic.

        Raises:
            RebalanceInProgress: the member is in the barrier, or has not seen its end yet.
            CommitFailed: there is no such member (any more).
            Fenced: another one has taken its place.
        """
        self.check_commit(member_id, generation)
        self.take(offsets, notes)

    def take(self, offsets: Mapping[TP, int], notes: Mapping[str, str] | None = None) -> None:
        """These offsets are committed now; who commits them was allowed to."""
        self.offsets.update(offsets)
        self.notes.update((tp, (notes or {}).get(TP(*tp).topic, "")) for tp in offsets)
        self._on_commit(offsets)

    def check_commit(self, member_id: str, generation: int) -> None:
        """Raise what `commit` would."""
        self.check_identity(member_id)
        member = self.members.get(member_id)
        if member is None:
            if member_id or self.members:
                raise CommitFailed(f"{member_id!r} is no member of the group")
        elif member.joined or member.generation != generation:
            raise RebalanceInProgress(
                f"{member_id!r} commits in generation {generation} between two generations"
            )

    def _wanted(self) -> list[TP]:
        """Return every existing partition of the topics that the members want."""
        topics = sorted({topic for member in self.members.values() for topic in member.topics})
        return [tp for topic in topics for tp in self._partitions(topic)]

    def _expect(self, member: Member, deadline: float) -> None:
        member.expires = deadline
        if deadline < self._told:
            self._told = deadline
            self.bell.ring()

    def _raise_barrier(self, now: float) -> None:
        if not self.rebalancing:
            patience = max(member.max_poll_interval for member in self.members.values())
            self._barrier = now + patience
            self.bell.ring()

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
        self.bell.ring()
