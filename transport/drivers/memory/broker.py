"""The broker of `memory://`: topics, their logs, and the groups that read them. Pure.

It has no task, no thread and no clock: time comes with the calls, and timestamps count from
a fixed one. So a program that drives it in the same order gets the same results.
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

# Nothing here may depend on the wall clock: 2024-01-01, and a millisecond more with each record.
FIRST_TIMESTAMP_MS = 1_704_067_200_000


class MemoryBroker:
    """Holds the data and the commits; may outlive its clients, and the trio run they were in.

    Args:
        default_partitions: of a topic that is created on its first use.
        auto_create: whether first use creates a topic; else it raises UnknownTopic.
        clock: gives the timestamp, in milliseconds, of a record that comes without one.
        on_commit: called at each commit with the group's id and its new offsets.

    Attributes:
        topics_changed: rung when a topic was created or deleted, or got more partitions.
        topics_version: counts these changes.
        transactions: the coordinator of all of them.
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
        """The timestamp, in milliseconds, of a record that comes without one."""
        if self._clock is not None:
            return self._clock()
        self._last_ms = next(self._next_ms)
        return self._last_ms

    def now_ms(self) -> int:
        """Return the time. No record that is written from now on has an earlier timestamp."""
        return self._last_ms + 1 if self._clock is None else self._clock()

    def create_topic(
        self, topic: str, partitions: int, config: Mapping[str, str] | None = None
    ) -> bool:
        """Create the topic; False, and nothing changed, if it exists.

        Args:
            config: decides which records the topic refuses (see `refusal.py`).

        Raises UnknownTopic for a name that no topic can have.
        """
        topic_name("topic", topic)
        whole(f"partitions of {topic!r}", partitions, least=1)
        or_none(instance, "config", config, kind=Mapping, expected="a mapping of str to str")
        if not is_topic_name(topic):
            raise UnknownTopic(f"{topic!r} is no name of a topic")
        if topic in self._topics:
            return False
        self._topics[topic] = [Log() for _ in range(partitions)]
        self._configs[topic] = dict(config or {})
        self._ids[topic] = next(self._ids_given)
        self._tell_of_topics()
        return True

    def delete_topic(self, topic: str) -> None:
        """Delete the topic with its records and with the offsets that groups committed for it.

        A topic that is created under this name afterwards is another one, with another id.
        Raises UnknownTopic.
        """
        if topic not in self._topics:
            raise UnknownTopic(f"no such topic: {topic!r}")
        logs = self._topics.pop(topic)
        del self._configs[topic], self._ids[topic]
        self.transactions.forget(logs, topic)
        for group in self._groups.values():
            group.forget(topic)
        self._tell_of_topics()

    def topic_id(self, topic: str) -> int | None:
        """Return the identity of the topic; None: it does not exist. Creates none."""
        return self._ids.get(topic)

    def add_partitions(self, topic: str, count: int) -> None:
        """Let the topic have `count` more partitions. Raises UnknownTopic."""
        whole("count", count, least=1)
        self.partitions(topic)
        self._topics[topic] += [Log() for _ in range(count)]
        self._tell_of_topics()

    def config(self, topic: str) -> Mapping[str, str]:
        """What the topic was created with. Raises UnknownTopic."""
        if not self.has_topic(topic):
            raise UnknownTopic(f"no such topic: {topic!r}")
        return self._configs[topic]

    @property
    def topics(self) -> frozenset[str]:
        """The names of all topics."""
        return frozenset(self._topics)

    def has_topic(self, topic: str, *, create: bool = True) -> bool:
        """Whether the topic exists, or was created by this call.

        Args:
            create: whether the broker may create it, if `auto_create` is set. The same in other
                methods.
        """
        if type(topic) is not str:
            topic_name("topic", topic)
        if topic in self._topics:
            return True
        if create and self._auto_create and is_topic_name(topic):
            self.create_topic(topic, self._default_partitions)
        return topic in self._topics

    def partitions(self, topic: str, *, create: bool = True) -> list[TP]:
        """Every partition of the topic, in order. Raises UnknownTopic."""
        if not self.has_topic(topic, create=create):
            raise UnknownTopic(f"no such topic: {topic!r}")
        return [TP(topic, number) for number in range(len(self._topics[topic]))]

    def partitions_if_any(self, topic: str, *, create: bool = True) -> list[TP]:
        """Return the partitions of the topic; none if it does not exist."""
        there = self.has_topic(topic, create=create)
        return self.partitions(topic, create=False) if there else []

    def log(self, tp: TP, *, create: bool = True) -> Log:
        """The partition's log. Raises UnknownTopic, also where the topic has fewer partitions."""
        if type(tp) is not TP:
            tp = topic_partition("tp", tp)
        partitions = self._topics[tp[0]] if self.has_topic(tp[0], create=create) else []
        if not 0 <= tp[1] < len(partitions):
            raise UnknownTopic(f"{tp[0]}-{tp[1]}")
        return partitions[tp[1]]

    def log_if_any(self, tp: TP) -> Log | None:
        """Return the partition's log; None: it does not exist. Creates none."""
        partitions = self._topics.get(tp[0], [])
        return partitions[tp[1]] if 0 <= tp[1] < len(partitions) else None

    def records(self, topic: str) -> list[StoredRecord]:
        """What a reader of what is committed sees of the topic, partition by partition.

        Raises UnknownTopic.
        """
        return [
            record for tp in self.partitions(topic) for record in self.log(tp).committed_records()
        ]

    def committed(self, group_id: str) -> dict[TP, int]:
        """The offsets that the group has committed: of each partition the next one to be read."""
        return dict(self._groups[group_id].offsets) if group_id in self._groups else {}

    def group(self, group_id: str) -> Group:
        """The group of that name; an empty one where there was none."""
        if group_id not in self._groups:
            on_commit = functools.partial(self._on_commit, group_id)
            # A group creates no topic: its members ask for theirs.
            existing = functools.partial(self.partitions_if_any, create=False)
            self._groups[group_id] = Group(existing, on_commit)
        return self._groups[group_id]

    def gap(self, tp: TP, count: int = 1) -> None:
        """Let the next `count` offsets have no record, as compaction or markers do."""
        whole("count", count, least=1)
        log = self.log(tp)
        log.skip(count)
        log.bell.ring()

    def delete_records(self, tp: TP, before: int) -> None:
        """Forget the partition's records below the offset `before`, as retention does."""
        whole("before", before)
        log = self.log(tp)
        log.trim(before)
        log.bell.ring()

    def cut_off(self, tp: TP, end: int) -> None:
        """Lose the partition's records from the offset `end` on, as a broker does that comes back
        from an old copy. What is committed beyond it stays, as on Kafka."""
        whole("end", end)
        log = self.log(tp)
        log.cut_off(end)
        log.bell.ring()

    def attend(self, era: object, now: float) -> None:
        """Take part in `era`: a stretch of time with one clock, such as a trio run.

        The first time in a new one, those who were members before have lost their connection,
        and their sessions run out from `now`.
        """
        if era is not self._era:
            self._era = era
            for group in self._groups.values():
                group.restart(now)
            self.transactions.restart(now)

    def _tell_of_topics(self) -> None:
        self.topics_version += 1
        for group in self._groups.values():
            group.look_again()
        self.topics_changed.ring()

    def missing(self, topics: Collection[str], *, create: bool = True) -> list[str]:
        """Those topics that do not exist, sorted."""
        return sorted(topic for topic in topics if not self.has_topic(topic, create=create))
