"""Reading without membership: all partitions of the topics, or those that are named. Pure.

`Reader` has the interface of `Membership`, and makes all changes of ownership itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from transport.drivers.base import RebalanceKind
from transport.drivers.memory.group import Group
from transport.drivers.memory.membership import Change
from transport.drivers.settings import ClientSettings
from transport.types import TP


class Reader:
    """One client that is not a member of a group. `Membership` describes the attributes.

    Args:
        group: stores the committed offsets; a private group if the client has none.
        partitions: returns every partition of a topic.
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
        """Return the next change: first the revocation, then the assignment; None: no change."""
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
        """Do nothing: no group evicts this client."""

    def end_poll(self, now: float) -> None:
        """Do nothing: no group evicts this client."""

    def leave(self, now: float) -> None:
        """Do nothing: the client is in no group."""

    def disconnect(self, now: float) -> None:
        """Do nothing: the client is in no group."""

    def commit(
        self, offsets: Mapping[TP, int], now: float, metadata: Mapping[TP, str] | None = None
    ) -> None:
        """Commit without membership. Raises CommitFailed if the group has members."""
        self._group.expire(now)
        self._group.commit("", -1, offsets, metadata)
