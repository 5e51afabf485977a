"""Reading without being a member: all partitions of the topics, or those that are named. Pure.

Has the side of `Membership` that a client sees; without a coordinator every change is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from transport.drivers.base import RebalanceKind
from transport.drivers.memory.group import Group
from transport.drivers.memory.membership import Change
from transport.drivers.settings import ClientSettings
from transport.types import TP


class Reader:
    """One client by itself; for what its attributes mean see `Membership`.

    Args:
        group: whose offsets are committed; nobody else's where the client has no group.
        partitions: every partition of a topic.
    """

    def __init__(
        self, group: Group, settings: ClientSettings, partitions: Callable[[str], Iterable[TP]]
    ) -> None:
        self.assigned: frozenset[TP] = frozenset()
        self.member_id = ""
        self.generation = 0
        self._group = group
        self._settings = settings
        self._partitions = partitions
        self._topics: frozenset[str] = frozenset()

    def subscribe(self, topics: frozenset[str]) -> None:
        self._topics = topics

    def advance(self, now: float) -> Change | None:
        """What has come, or gone, since the last change."""
        wanted = frozenset(tp for topic in self._topics for tp in self._partitions(topic))
        if self._settings.partitions is not None:
            wanted &= frozenset(self._settings.partitions)
        if gone := self.assigned - wanted:
            self.assigned -= gone
            return Change(RebalanceKind.REVOKED, gone, self.generation)
        if come := wanted - self.assigned:
            self.assigned |= come
            return Change(RebalanceKind.ASSIGNED, come, self.generation)
        return None

    def begin_poll(self, now: float) -> None:
        """Nobody waits for a poll."""

    def end_poll(self, now: float) -> None:
        """Nobody waits for a poll."""

    def leave(self, now: float) -> None:
        """There is nothing to leave."""

    def disconnect(self, now: float) -> None:
        """Nobody misses it."""

    def commit(
        self, offsets: Mapping[TP, int], now: float, notes: Mapping[str, str] | None = None
    ) -> None:
        """Commit without being a member. Raises CommitFailed where the group has members."""
        self._group.expire(now)
        self._group.commit("", -1, offsets, notes)
