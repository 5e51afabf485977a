"""Which partitions a consumer reads that is no member: all of its topics, or those it names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transport.drivers.base import RebalanceKind
from transport.drivers.settings import ClientSettings
from transport.types import TP


class Reader:
    """Compares what is to be read with what is read. The polling thread changes it.

    Attributes:
        assigned: what is read.
        topics: what is subscribed to.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self.assigned: frozenset[TP] = frozenset()
        self.topics: frozenset[str] = frozenset()
        self._named = settings.partitions

    def changes(self, cluster: Any) -> Iterator[tuple[RebalanceKind, frozenset[TP]]]:
        """What goes and what comes, as far as the client's metadata knows by now."""
        wanted = self._wanted(cluster)
        if gone := self.assigned - wanted:
            yield RebalanceKind.REVOKED, gone
        if come := wanted - self.assigned:
            yield RebalanceKind.ASSIGNED, come

    def is_due(self, cluster: Any) -> bool:
        """Whether there are changes."""
        return self._wanted(cluster) != self.assigned

    def start_of(self, tp: TP) -> int | None:
        """The offset that was named for a partition."""
        return None if self._named is None else self._named.get(tp)

    def _wanted(self, cluster: Any) -> frozenset[TP]:
        wanted = {
            TP(topic, number)
            for topic in self.topics
            # What was seen once stays, while the metadata is being fetched anew.
            for number in cluster.partitions_for_topic(topic) or self._numbers(topic)
        }
        return frozenset(wanted if self._named is None else wanted & set(self._named))

    def _numbers(self, topic: str) -> list[int]:
        return [tp.partition for tp in self.assigned if tp.topic == topic]
