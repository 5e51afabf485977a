"""The broker of `memory://`: topics, their logs, and the groups that read them. Pure.

The broker has no task, no thread and no clock: callers pass the time, and timestamps count from a
fixed one. So the same calls in the same order give the same results.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Mapping

from transport.arguments import (
    flag,
    function,
    instance,
    or_none,
    topic_name,
    topic_partition,
    whole,
)
from transport.drivers.memory.change_signal import ChangeSignal
from transport.drivers.memory.coordinator import Coordinator
from transport.drivers.memory.group import Group
from transport.drivers.memory.log import Log, StoredRecord
from transport.errors import UnknownTopic
from transport.types import TP, is_topic_name

# 2024-01-01, and one millisecond more with each record: no result may depend on the wall clock.
FIRST_TIMESTAMP_MS = 1_704_067_200_000


class MemoryBroker:
    """An in-process broker with its records and commits.

    It may outlive its clients and the trio run in which they were.

    Args:
        default_partitions: the number of partitions of a topic that is created on its first use.
        auto_create: whether the first use creates a topic; otherwise it raises UnknownTopic.
        clock: returns the timestamp, in milliseconds, of a record without a timestamp.
        on_commit: called at each commit with the group's id and its new offsets.

    Attributes:
        topics_changed: signals that a topic was created or deleted, or got more partitions.
        topics_version: the number of these changes.
        transactions: the coordinator of all transactions.
    """

    def __init__(
        self,
        *,
        default_partitions: int = 4,
        auto_create: bool = True,
        clock: Callable[[], int] | None = None,
        on_commit: Callable[[str, Mapping[TP, int]], None] = lambda group_id, offsets: None,
    ) -> None:
        whole("default_partitions", default_partitions, least=1)
        flag("auto_create", auto_create)
        or_none(function, "clock", clock, expected="a function that gives milliseconds")
        function("on_commit", on_commit, "a function of a group's id and its offsets")
        self._clock = clock
        self._next_ms = itertools.count(FIRST_TIMESTAMP_MS)
        self._last_ms = FIRST_TIMESTAMP_MS
        self.topics_changed = ChangeSignal()
        self.topics_version = 0
        self.transactions = Coordinator()
        self._default_partitions = default_partitions
        self._auto_create = auto_create
        self._on_commit = on_commit
        self._topics: dict[str, list[Log]] = {}
        self._ids: dict[str, int] = {}
        self._ids_given = itertools.count(1)
        self._configs: dict[str, dict[str, str]] = {}
        self._groups: dict[str, Group] = {}
        self._era: object = None

    def clock(self) -> int:
        """Return the timestamp, in milliseconds, of a new record without a timestamp."""
        if self._clock is not None:
            return self._clock()
        self._last_ms = next(self._next_ms)
        return self._last_ms

    def now_ms(self) -> int:
        """Return the time in milliseconds. `clock` returns no earlier timestamp from now on."""
        return self._last_ms + 1 if self._clock is None else self._clock()

    def create_topic(
        self, topic: str, partitions: int, config: Mapping[str, str] | None = None
    ) -> bool:
        """Create the topic; return False and change nothing if it exists.

        Args:
            config: decides which records the topic rejects (see `rejected_records.py`).

        Raises UnknownTopic: the name is not valid.
        """
        topic_name("topic", topic)
        whole(f"partitions of {topic!r}", partitions, least=1)
        or_none(instance, "config", config, kind=Mapping, expected="a mapping of str to str")
        if not is_topic_name(topic):
            raise UnknownTopic(f"{topic!r} is not a valid topic name")
        if topic in self._topics:
            return False
        self._topics[topic] = [Log() for _ in range(partitions)]
        self._configs[topic] = dict(config or {})
        self._ids[topic] = next(self._ids_given)
        self._on_topics_changed()
        return True

    def delete_topic(self, topic: str) -> None:
        """Delete the topic with its records and with the offsets that groups committed for it.

        A topic that is created with this name afterwards is a different topic with another id.
        Raises UnknownTopic.
        """
        if topic not in self._topics:
            raise UnknownTopic(f"no such topic: {topic!r}")
        logs = self._topics.pop(topic)
        del self._configs[topic], self._ids[topic]
        self.transactions.forget(logs, topic)
        for group in self._groups.values():
            group.forget(topic)
        self._on_topics_changed()

    def topic_id(self, topic: str) -> int | None:
        """Return the id of the topic; None: it does not exist. Creates no topic."""
        return self._ids.get(topic)

    def add_partitions(self, topic: str, count: int) -> None:
        """Add `count` partitions to the topic. Raises UnknownTopic."""
        whole("count", count, least=1)
        self.partitions(topic)
        self._topics[topic] += [Log() for _ in range(count)]
        self._on_topics_changed()

    def config(self, topic: str) -> Mapping[str, str]:
        """Return the configuration of the topic. Raises UnknownTopic."""
        if not self.has_topic(topic):
            raise UnknownTopic(f"no such topic: {topic!r}")
        return self._configs[topic]

    def set_config(self, topic: str, changes: Mapping[str, str | None]) -> None:
        """Change the configuration of the topic; None removes a value. Raises UnknownTopic."""
        config = {**self.config(topic), **changes}
        self._configs[topic] = {name: value for name, value in config.items() if value is not None}

    @property
    def groups(self) -> frozenset[str]:
        """The ids of all groups that have had a member or a commit."""
        return frozenset(id for id, group in self._groups.items() if group.members or group.offsets)

    @property
    def topics(self) -> frozenset[str]:
        """The names of all topics."""
        return frozenset(self._topics)

    def has_topic(self, topic: str, *, create: bool = True) -> bool:
        """Return whether the topic exists, or was created by this call.

        Args:
            create: whether the broker may create the topic, if `auto_create` is set. Other methods
                have the same argument.
        """
        if type(topic) is not str:
            topic_name("topic", topic)
        if topic in self._topics:
            return True
        if create and self._auto_create and is_topic_name(topic):
            self.create_topic(topic, self._default_partitions)
        return topic in self._topics

    def partitions(self, topic: str, *, create: bool = True) -> list[TP]:
        """Return every partition of the topic, in order. Raises UnknownTopic."""
        if not self.has_topic(topic, create=create):
            raise UnknownTopic(f"no such topic: {topic!r}")
        return [TP(topic, number) for number in range(len(self._topics[topic]))]

    def partitions_if_any(self, topic: str, *, create: bool = True) -> list[TP]:
        """Return every partition of the topic; an empty list if the topic does not exist."""
        there = self.has_topic(topic, create=create)
        return self.partitions(topic, create=False) if there else []

    def log(self, tp: TP, *, create: bool = True) -> Log:
        """Return the partition's log. Raises UnknownTopic: no such topic or partition."""
        if type(tp) is not TP:
            tp = topic_partition("tp", tp)
        partitions = self._topics[tp[0]] if self.has_topic(tp[0], create=create) else []
        if not 0 <= tp[1] < len(partitions):
            raise UnknownTopic(f"no such partition: {tp[0]}-{tp[1]}")
        return partitions[tp[1]]

    def log_if_any(self, tp: TP) -> Log | None:
        """Return the partition's log; None: it does not exist. Creates no topic."""
        partitions = self._topics.get(tp[0], [])
        return partitions[tp[1]] if 0 <= tp[1] < len(partitions) else None

    def records(self, topic: str) -> list[StoredRecord]:
        """Return the records of the topic that "read_committed" shows, partition by partition.

        Raises UnknownTopic.
        """
        return [
            record for tp in self.partitions(topic) for record in self.log(tp).committed_records()
        ]

    def committed(self, group_id: str) -> dict[TP, int]:
        """Return the offsets that the group has committed: the next offset to read."""
        return dict(self._groups[group_id].offsets) if group_id in self._groups else {}

    def group(self, group_id: str) -> Group:
        """Return the group with this id; creates an empty group if there is none."""
        if group_id not in self._groups:
            on_commit = functools.partial(self._on_commit, group_id)
            # A group creates no topic: its members request their topics.
            existing = functools.partial(self.partitions_if_any, create=False)
            self._groups[group_id] = Group(existing, on_commit)
        return self._groups[group_id]

    def gap(self, tp: TP, count: int = 1) -> None:
        """Leave the next `count` offsets without records, as compaction or markers do."""
        whole("count", count, least=1)
        log = self.log(tp)
        log.skip(count)
        log.changed.notify()

    def delete_records(self, tp: TP, before: int) -> None:
        """Delete the partition's records below the offset `before`, as retention does."""
        whole("before", before)
        log = self.log(tp)
        log.trim(before)
        log.changed.notify()

    def cut_off(self, tp: TP, end: int) -> None:
        """Drop the partition's records from the offset `end` on.

        A broker that restarts from an old copy loses records in this way. Committed offsets beyond
        `end` stay, as in Kafka.
        """
        whole("end", end)
        log = self.log(tp)
        log.cut_off(end)
        log.changed.notify()

    def attend(self, era: object, now: float) -> None:
        """Enter `era`, a period with one clock, such as a trio run.

        At the first call with a new era, all existing members of groups are disconnected. Their
        sessions, and the timeouts of open transactions, start at `now`.
        """
        if era is not self._era:
            self._era = era
            for group in self._groups.values():
                group.restart(now)
            self.transactions.restart(now)

    def _on_topics_changed(self) -> None:
        self.topics_version += 1
        for group in self._groups.values():
            group.on_topics_changed()
        self.topics_changed.notify()

    def missing(self, topics: Collection[str], *, create: bool = True) -> list[str]:
        """Return the topics that do not exist, sorted."""
        return sorted(topic for topic in topics if not self.has_topic(topic, create=create))
