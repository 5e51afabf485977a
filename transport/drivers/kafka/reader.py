"""The partitions of a consumer without a group: all of its topics, or those that it names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transport.drivers.base import RebalanceKind
from transport.drivers.settings import ClientSettings
from transport.types import TP


class Reader:
    """The partitions of one consumer without a group. Changed on the polling thread.

    Attributes:
        assigned: the partitions that it reads.
        topics: the subscribed topics.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self.assigned: frozenset[TP] = frozenset()
        self.topics: frozenset[str] = frozenset()
        self._named = settings.partitions

    def changes(self, cluster: Any) -> Iterator[tuple[RebalanceKind, frozenset[TP]]]:
        """Yield the partitions to revoke and to assign, by the client's metadata of now."""
        wanted = self._wanted(cluster)
        if gone := self.assigned - wanted:
            yield RebalanceKind.REVOKED, gone
        if come := wanted - self.assigned:
            yield RebalanceKind.ASSIGNED, come

    def is_due(self, cluster: Any) -> bool:
        """Return whether there are changes."""
        return self._wanted(cluster) != self.assigned

    def start_of(self, tp: TP) -> int | None:
        """Return the start offset that the setting `partitions` gives; None: none."""
        return None if self._named is None else self._named.get(tp)

    def _wanted(self, cluster: Any) -> frozenset[TP]:
        wanted = {
            TP(topic, number)
            for topic in self.topics
            # Assigned partitions stay while the client has no metadata of the topic.
            for number in cluster.partitions_for_topic(topic) or self._numbers(topic)
        }
        return frozenset(wanted if self._named is None else wanted & set(self._named))

    def _numbers(self, topic: str) -> list[int]:
        return [tp.partition for tp in self.assigned if tp.topic == topic]
