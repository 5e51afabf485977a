"""The topic ids of partitions: the id identifies a topic, not its name.

A topic that is deleted and created again keeps its name and gets another id. The client knows the
ids, but makes requests by name: it would continue in the new topic at the position of the old one,
and commit there. So this module notes the id when a partition is assigned, and requests name it:

- A fetch is made by id (version 13, brokers from 3.1 on). It never returns a record of another
  topic, also if its answer is late.
- A commit is made by id (version 10, brokers from 4.1 on). It never lands on another topic.
- A commit carries the id in its metadata, with every broker. A member never starts from an offset
  that names another topic.

A broker before 2.8 has no ids. Then requests are made by name alone.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import kafka.errors
from kafka.consumer.subscription_state import TopicPartitionState
from kafka.future import Future
from kafka.protocol.consumer import FetchRequest, OffsetCommitRequest

from transport.drivers.commit_metadata import notes_of
from transport.drivers.kafka.topics import known_id
from transport.drivers.kafka.workarounds.stale_fetches import drop_fetches
from transport.types import TP

FETCH_BY_ID = 13
COMMIT_BY_ID = 10
_KEY = "topic-id="
_NAMED = re.compile(rf"{_KEY}([0-9a-f-]{{36}})$")


def id_note(topic_id: object) -> str:
    """Return the note for the metadata of a commit, which then holds for this topic only.

    Args:
        topic_id: None: it is not known.
    """
    return "" if topic_id is None else f"{_KEY}{topic_id}"


def named_id(metadata: str | None) -> uuid.UUID | None:
    """Return the topic id in the metadata of a committed offset; None: it has none."""
    match = _NAMED.search(notes_of(metadata))
    return None if match is None else uuid.UUID(match[1])


class Identities:
    """The topic ids of one consumer's partitions. Safe from any thread, unless noted.

    Attributes:
        of: the id of each partition's topic at the time of its assignment.
        fresh: partitions of topics that were created again, until an offset is committed for them.
            They start from the offset committed for the new topic, or at its beginning.
    """

    def __init__(self) -> None:
        self.of: dict[TP, uuid.UUID] = {}
        self.fresh: set[TP] = set()
        self._names: dict[uuid.UUID, str] = {}
        self._changes = 0  # how often a partition got another id
        # The last result of `of_gone`, after the values that it was computed from.
        self._gone: tuple[object, tuple[int, int], frozenset[TP]] | None = None
        self._seen: object = None  # the client's ids at the last check
        self._sessions: dict[object, int] = {}  # by node: `_changes` when its fetch session began
        self._sessions_by_id: set[object] = set()  # nodes whose session names ids

    def note(self, tps: Collection[TP], cluster: Any) -> frozenset[TP]:
        """Note assigned partitions; return those that belonged to another topic before."""
        before = self.of.copy()
        for tp in tps:
            now = known_id(cluster, tp.topic)
            if now is not None:
                self._names[now] = tp.topic
                self.of[tp] = now
        anew = frozenset(tp for tp in tps if before.get(tp, self.of.get(tp)) != self.of.get(tp))
        self._changes += len(anew)
        self.fresh |= anew
        return anew

    def replaced(self, assigned: Iterable[Any], cluster: Any) -> frozenset[TP]:
        """Return the partitions whose topic was created again, as far as the client knows.

        Checks only if the client has received metadata since the last call that found nothing.
        """
        # `_topic_ids`: a new mapping with each answer. The client's listeners are not reliable: if
        # one of them raises, the others are not called.
        if (seen := cluster._topic_ids) is self._seen:
            return frozenset()
        known: dict[str, uuid.UUID | None] = {}
        found = set()
        for tp in assigned:
            if tp.topic not in known:
                known[tp.topic] = known_id(cluster, tp.topic)
            now = known[tp.topic]
            if now is not None and self.of.get(TP(*tp), now) != now:
                found.add(TP(*tp))
        if not found:
            self._seen = seen
        return frozenset(found)

    def of_gone(self, cluster: Any) -> frozenset[TP]:
        """Return partitions of topics that were deleted, as far as the client knows.

        Cheap while the client receives no metadata.
        """
        seen, changes = cluster._topic_ids, (self._changes, len(self.of))
        if self._gone is None or self._gone[0] is not seen or self._gone[1] != changes:
            ids = {tp.topic: known_id(cluster, tp.topic) for tp in self.of}
            gone = frozenset(tp for tp, topic_id in self.of.items() if ids[tp.topic] != topic_id)
            self._gone = seen, changes, gone
        return self._gone[2]

    def of_another(self, ids: Mapping[TP, object], cluster: Any) -> list[TP]:
        """Return the partitions whose topic has another id, as far as the client knows."""
        return [
            tp
            for tp, topic_id in ids.items()
            if topic_id is not None and known_id(cluster, tp.topic) not in (None, topic_id)
        ]

    def use(self, consumer: Any, begin: Callable[[Collection[TP]], None]) -> None:
        """Let a new consumer fetch and commit by these ids, and start only from valid offsets.

        Args:
            begin: called with partitions that have no such offset in the new topic. They begin at
                its start.
        """
        # `_manager`: all requests go through its `send`, on the client's loop.
        manager = consumer._client._manager
        send = manager.send

        def send_by_id(request: Any, node_id: Any = None, **options: Any) -> Any:
            if isinstance(request, FetchRequest):
                if self._is_outdated(request, node_id):
                    # The fetcher then begins another session, with the current ids.
                    return Future().failure(kafka.errors.Cancelled("a topic was created again"))
                self._name_fetched(request, node_id)
            elif isinstance(request, OffsetCommitRequest):
                _name_committed(request)
            answer = send(request, node_id=node_id, **options)
            if isinstance(request, FetchRequest):
                answer.add_callback(self._restore_names)  # before the callbacks of the client
            return answer

        manager.send = send_by_id
        # `_coordinator`, `_handle_offset_fetch_response`: where the client reads committed offsets.
        coordinator = consumer._coordinator
        handle = coordinator._handle_offset_fetch_response

        def handle_strictly(response: Any) -> Any:
            valid, anew = self._valid_offsets(handle(response), _answered(response), consumer)
            begin(anew)
            return valid

        coordinator._handle_offset_fetch_response = handle_strictly

    # On the client's loop.

    def _is_outdated(self, request: Any, node_id: object) -> bool:
        """Whether the fetch continues a session in which a partition had another id."""
        if request.session_epoch > 0:
            return self._sessions.get(node_id) != self._changes
        self._sessions[node_id] = self._changes
        return False

    def _name_fetched(self, request: Any, node_id: object) -> None:
        topics, forgotten = request.topics, request.forgotten_topics_data
        tps = [TP(t.topic, p.partition) for t in topics for p in t.partitions]
        tps += [TP(t.topic, number) for t in forgotten for number in t.partitions]
        if not tps:
            # The request only continues its session, so it needs the version of the session. With
            # another one, the broker would refuse it and end the session. Then each idle fetch
            # would name all partitions.
            if node_id in self._sessions_by_id:
                request._max_version = FETCH_BY_ID
            return
        if any(tp not in self.of for tp in tps):
            self._sessions_by_id.discard(node_id)
            return  # by name, as the client has made it
        self._sessions_by_id.add(node_id)
        request.topics = [
            FetchRequest.FetchTopic(topic=topic, topic_id=topic_id, partitions=partitions)
            for (topic, topic_id), partitions in self._by_id(
                (TP(t.topic, p.partition), p) for t in topics for p in t.partitions
            ).items()
        ]
        request.forgotten_topics_data = [
            FetchRequest.ForgottenTopic(topic=topic, topic_id=topic_id, partitions=numbers)
            for (topic, topic_id), numbers in self._by_id(
                (TP(t.topic, number), number) for t in forgotten for number in t.partitions
            ).items()
        ]
        # `_max_version`: the client itself goes up to 12. A broker with a lower version gets the
        # request by name.
        request._max_version = FETCH_BY_ID

    def _by_id(self, entries: Iterable[tuple[TP, Any]]) -> dict[tuple[str, uuid.UUID], list[Any]]:
        grouped: dict[tuple[str, uuid.UUID], list[Any]] = {}
        for tp, entry in entries:
            grouped.setdefault((tp.topic, self.of[tp]), []).append(entry)
        return grouped

    def _restore_names(self, response: Any) -> None:
        if response.API_VERSION < FETCH_BY_ID:
            return
        for topic in response.responses:
            topic.topic = name = self._names[topic.topic_id]
            # An answer about an old topic may arrive after the new one was assigned.
            topic.partitions = [
                each
                for each in topic.partitions
                if self.of.get(TP(name, each.partition_index)) == topic.topic_id
            ]

    def _valid_offsets(
        self, offsets: Mapping[Any, Any], answered: Collection[TP], consumer: Any
    ) -> tuple[dict[Any, Any], list[TP]]:
        """Return the valid offsets, and the partitions without one that wait for a position."""
        # `_subscription`: a partition without a position is about to get one.
        subscription, cluster = consumer._subscription, consumer._client.cluster
        valid = {}
        anew = {tp for tp in self.fresh if tp in answered}
        for tp, committed in offsets.items():
            of = named_id(committed.metadata)
            wanted = self.of.get(TP(*tp)) if tp in subscription.assignment else None
            if wanted is None:
                wanted = known_id(cluster, tp.topic)
            if of is not None and wanted is not None and of != wanted:
                anew.add(TP(*tp))
            elif of is not None or TP(*tp) not in self.fresh:
                valid[tp] = committed
                anew.discard(TP(*tp))
        states = {tp: subscription.assignment.get(tp) for tp in anew}
        return valid, [tp for tp, state in states.items() if state and state.is_missing_position()]


def begin_anew(
    consumer: Any,
    tps: Collection[TP],
    starts: Mapping[TP, int],
    begin: Callable[[Collection[TP]], None],
) -> None:
    """Remove the client's positions in partitions. On the polling thread, between polls.

    Args:
        starts: the offsets at which some of them begin.
        begin: called with each other partition if there is no group, and so no committed offset.
            It begins at the start of its log.
    """
    drop_fetches(consumer, tps)
    # `_subscription`: no public call removes a position.
    assignment = consumer._subscription.assignment
    for tp in tps:
        if tp not in assignment:
            continue
        assignment[tp] = state = TopicPartitionState()
        if tp in starts:
            state.seek(starts[tp])
        elif consumer.config["group_id"] is None:
            begin([tp])


def _name_committed(request: Any) -> None:
    for topic in request.topics:
        ids = {named_id(partition.committed_metadata) for partition in topic.partitions}
        topic_id = ids.pop()
        if ids or topic_id is None:
            return  # by name, as the client has made it
        topic.topic_id = topic_id
    # `_max_version`: the client itself goes up to 8.
    request._max_version = COMMIT_BY_ID


def _answered(response: Any) -> set[TP]:
    topics = response.groups[0].topics if response.API_VERSION >= 8 else response.topics
    return {TP(topic.name, each.partition_index) for topic in topics for each in topic.partitions}
