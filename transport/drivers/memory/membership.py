"""The member's side of the group protocol: when it joins, and what it gains and gives up. Pure.

`advance` continues until the member gains or loses partitions, and returns that change. The client
calls it again after the release of the rebalance. None means: wait for the group's `changed`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import attrs

from transport.drivers.base import RebalanceKind
from transport.drivers.memory.group import Group
from transport.drivers.settings import ClientSettings
from transport.errors import CommitFailed
from transport.types import TP


@attrs.frozen
class Change:
    """A change of ownership that becomes a `Rebalance`, with the same fields."""

    kind: RebalanceKind
    partitions: frozenset[TP]
    generation: int
    of_new_topic: frozenset[TP] = frozenset()


class Membership:
    """One client as a member of its group.

    Attributes:
        assigned: the client's partitions, which `advance` updates before it returns a change.
        member_id: "" while the client is not a member.
        generation: the last generation that the client has seen; -1: none.
    """

    def __init__(self, group: Group, settings: ClientSettings) -> None:
        self.assigned: frozenset[TP] = frozenset()
        self.member_id = ""
        self.generation = -1
        self._group = group
        self._settings = settings
        self._eager = settings.assignment == "eager"
        self._topics: frozenset[str] = frozenset()
        self._must_join = False
        self._gave_up = False  # the revocation before the join was returned
        self._in_barrier = False
        self._changes: deque[Change] = deque()

    def subscribe(self, topics: frozenset[str]) -> None:
        """Replace the subscription. `advance` sends it to the group."""
        self._must_join = self._must_join or topics != self._topics
        self._topics = topics

    def advance(self, now: float) -> Change | None:
        """Return the next change of ownership; None: there is none now. Raises Fenced."""
        self._group.expire(now)
        change = self._lost()
        while change is None:
            if not self._topics:
                change = self._withdraw(now)
                if change is None:
                    return None
            elif self._in_barrier and not self._see_generation():
                return None
            elif self._changes:
                change = self._changes.popleft()
            elif self._must_join or not self.member_id or self._group.rebalancing:
                change = self._give_up()
                if change is None:
                    self._join(now)
            else:
                return None
        self._apply(change)
        return change

    def begin_poll(self, now: float) -> None:
        """Note the begin of a poll, so that `max_poll_interval` does not run."""
        self._group.expire(now)
        self._group.polling(self.member_id)

    def end_poll(self, now: float) -> None:
        """Note the end of a poll. The next one must begin within `max_poll_interval`."""
        self._group.idle(self.member_id, now)

    def leave(self, now: float) -> None:
        """Leave the group at once, without a change of ownership.

        A member with an instance id stays until its session times out. If it returns before, it
        gets its share back.
        """
        if self._settings.group_instance_id is None:
            self._group.leave(self.member_id, now)
        else:
            self._group.disconnect(self.member_id, now)

    def disconnect(self, now: float) -> None:
        """Lose the connection, as in a crash."""
        self._group.disconnect(self.member_id, now)

    def commit(
        self, offsets: Mapping[TP, int], now: float, metadata: Mapping[TP, str] | None = None
    ) -> None:
        """Commit as this member. Raises what `Group.commit` does."""
        self._group.expire(now)
        if self._topics and not self.member_id:
            raise CommitFailed("the consumer is subscribed, but not a member of the group")
        self._group.commit(self.member_id, self.generation, offsets, metadata)

    def _lost(self) -> Change | None:
        self._group.check_identity(self.member_id)
        if not self.member_id or self.member_id in self._group.members:
            return None
        self._reset()
        if not self.assigned:
            return None
        return Change(RebalanceKind.LOST, self.assigned, self.generation)

    def _withdraw(self, now: float) -> Change | None:
        if self.assigned:
            return Change(RebalanceKind.REVOKED, self.assigned, self.generation)
        self._group.leave(self.member_id, now)
        self._reset()
        return None

    def _give_up(self) -> Change | None:
        """Return the revocation before a join: of all partitions if eager, else of old topics."""
        if self._gave_up:
            return None
        self._gave_up = True
        gone = self.assigned
        if not self._eager:
            gone = frozenset(tp for tp in gone if tp.topic not in self._topics)
            if not gone:
                return None
        return Change(RebalanceKind.REVOKED, gone, self.generation)

    def _join(self, now: float) -> None:
        if not self.member_id:
            self.member_id = self._group.enter(
                self._settings.client_id,
                self._settings.session_timeout,
                self._settings.max_poll_interval,
                self._settings.group_instance_id,
            )
        self._must_join = self._gave_up = False
        self._in_barrier = True
        self._group.join(self.member_id, self._topics, self.assigned, now)

    def _see_generation(self) -> bool:
        member = self._group.members[self.member_id]
        if member.joined:
            return False
        self._in_barrier = False
        self.generation = member.generation
        revoked = self.assigned - member.share
        # The subscription may have changed since the join.
        added = frozenset(tp for tp in member.share - self.assigned if tp.topic in self._topics)
        if revoked:
            self._changes.append(Change(RebalanceKind.REVOKED, revoked, self.generation))
            self._must_join = True  # without these partitions, so that others can get them
        # An eager client raises ASSIGNED even without new partitions, as Kafka's clients do.
        if added or self._eager:
            self._changes.append(Change(RebalanceKind.ASSIGNED, added, self.generation))
        return True

    def _apply(self, change: Change) -> None:
        if change.kind is RebalanceKind.ASSIGNED:
            self.assigned |= change.partitions
        else:
            self.assigned -= change.partitions

    def _reset(self) -> None:
        self.member_id = ""
        self.generation = -1
        self._must_join = self._gave_up = self._in_barrier = False
        self._changes.clear()
