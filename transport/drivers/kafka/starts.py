"""Start offsets of partitions without a position, and new offsets for positions outside the log.

The client has one reset policy for every reason, and applies it silently. So the client gets the
policy "none", and a missing position is an error of a poll. This module catches that error and
applies the rule of `drivers/starts.py`. The client then asks the broker for the place in the log,
on its own loop, as it does for a policy of its own.

All of this runs on the polling thread, unless noted. Two functions in the client run on its loop.
"""

from __future__ import annotations

import collections
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import attrs
import kafka.errors
from kafka import OffsetAndMetadata, TopicPartition
from kafka.consumer.subscription_state import SubscriptionState
from kafka.protocol.consumer import OffsetSpec

from transport.drivers.base import Reset
from transport.drivers.kafka.topics import known_id, known_partitions
from transport.drivers.settings import ClientSettings
from transport.drivers.starts import Began, Group, Place, starts
from transport.errors import OffsetOutOfRange
from transport.fetched import Fetched
from transport.types import TP

# The client's errors for a missing position, or one outside the log.
NO_POSITION = (
    kafka.errors.NoOffsetForPartitionError,
    kafka.errors.OffsetOutOfRangeError,
    kafka.errors.LogTruncationError,
)
_EARLIEST, _LATEST = int(OffsetSpec.EARLIEST), int(OffsetSpec.LATEST)
# Most milliseconds to wait for the group's committed offsets. The next poll asks again.
_PATIENCE_MS = 1000


@attrs.frozen
class _Asked:
    """A place in a log that the client asks the broker for."""

    old: int | None
    is_new: bool
    must_commit: bool


class Starts:
    """The positions of one consumer that come from neither a commit nor a seek.

    Args:
        on_news: called whenever `has_news` was set, on the client's loop or the polling thread.

    Attributes:
        began: when the group began with each topic, as far as this client knows. Replaced, never
            modified.
        created: topics that were created while this client ran. Written from any thread.
        resets: the positions that were set, oldest first. Written on the client's loop or the
            polling thread.
        has_news: `resets` has grown since this was last set to False.
    """

    def __init__(self, settings: ClientSettings, on_news: Callable[[], None]) -> None:
        self._on_news = on_news
        self.began: Mapping[str, Began] = {}
        self.created: set[str] = set()
        self.resets: collections.deque[Reset] = collections.deque()
        self.has_news = False
        self._settings = settings
        self._asked: dict[TP, _Asked] = {}
        self._ids: dict[str, uuid.UUID | None] = {}  # of the topics in `began`
        self._first_seen: Collection[str] | None = None
        self._consumer: Any = None

    def saw(self, topics: Collection[str]) -> None:
        """Note all topics that exist. Those that the first call did not have are new topics."""
        if self._first_seen is None:
            self._first_seen = topics
        self.created.update(set(topics) - set(self._first_seen))

    def attach(self, consumer: Any) -> None:
        """Use this object for a new consumer, which has the policy "none"."""
        self._consumer = consumer
        _fall_back_to_the_end(consumer)
        # `_fetcher`, `_reset_offset_if_needed`: where the client applies the broker's answer. Only
        # here can the position be seen before anything is fetched from it.
        fetcher = consumer._fetcher
        take = fetcher._reset_offset_if_needed

        def take_and_report(partition: Any, timestamp: int, offset: int) -> None:
            state = self._subscription.assignment.get(partition)
            # `next_allowed_retry_time`: set with each request, and removed by each new reset. An
            # answer to an earlier request may concern an old topic of the same name. The client
            # requests the place again.
            if state is not None and state.next_allowed_retry_time is None:
                return
            take(partition, timestamp, offset)
            self._report_reset(TP(*partition), offset)

        fetcher._reset_offset_if_needed = take_and_report

    def begin_at_the_start(self, tps: Collection[TP]) -> None:
        """Start partitions of topics that were created again at the beginning of their logs.

        The policy has no effect. Also called on the client's loop while the polling thread waits.
        """
        for tp in tps:
            self.created.add(tp.topic)
            self._ask(tp, _EARLIEST, _Asked(None, True, self._must_commit))

    def drop(self, tps: Collection[TP]) -> None:
        """Forget the resets of partitions. From any thread."""
        for tp in tps:
            self._asked.pop(tp, None)
        # No other thread removes resets meanwhile: they are read after a poll, not during it.
        for reset in [reset for reset in self.resets if reset.tp in tps]:
            self.resets.remove(reset)

    def note_of(self, topic: str) -> str:
        """Return the note for the metadata of a topic's commits. From any thread."""
        began = self.began.get(topic)
        return "" if began is None else str(began)

    def serve(
        self,
        error: Exception,
        topics: Iterable[str],
        held: MutableMapping[TP, Sequence[Fetched]],
    ) -> None:
        """Ask for the places of the partitions that a `NO_POSITION` error names.

        Args:
            topics: the subscribed topics.
            held: fetches that no `poll` of the driver has returned yet. Those of a truncated log
                are removed, to be fetched again.

        Raises OffsetOutOfRange with the policy "error"; the client's retriable errors.
        """
        if isinstance(error, kafka.errors.NoOffsetForPartitionError):
            missing = [TP(*tp) for tp in error.args[0]]
            self._check(error, dict.fromkeys(missing))
            self._begin(missing, topics)
        elif isinstance(error, kafka.errors.LogTruncationError):
            cut_off = {
                TP(*tp): place
                for tp, place in error.divergent_offsets.items()
                if self._is_read_on(TP(*tp))
            }
            if cut_off:
                self._check(error, {tp: self._position(tp) for tp in cut_off})
            for tp, place in cut_off.items():
                self._continue_at(tp, place, held.pop(tp, ()))
        else:
            outside = {TP(*tp): offset for tp, offset in error.args[0].items()}
            self._check(error, outside)
            for tp, offset in outside.items():
                self._ask(tp, self._policy, _Asked(offset, False, self._must_commit))

    @property
    def _must_commit(self) -> bool:
        return self._settings.auto_offset_reset == "latest"

    @property
    def _policy(self) -> int:
        return _EARLIEST if self._settings.auto_offset_reset == "earliest" else _LATEST

    def _check(self, error: Exception, positions: Mapping[TP, int | None]) -> None:
        if self._settings.auto_offset_reset != "error":
            return
        places = [
            f"{tp}: {'no committed offset' if at is None else f'offset {at} is not in the log'}"
            for tp, at in sorted(positions.items())
        ]
        raise OffsetOutOfRange(
            f"{'; '.join(places)}. With auto_offset_reset='error' the app chooses no other offset:"
            " seek to an offset in the log, or commit one for the group",
            positions,
        ) from error

    def _position(self, tp: TP) -> int | None:
        state = self._subscription.assignment.get(TopicPartition(*tp))
        return None if state is None or state.position is None else int(state.position.offset)

    def _is_read_on(self, tp: TP) -> bool:
        """Whether the position follows a record that was read, and is not that of a new start.

        The client raises a truncation in the poll after the answer. By then, the partition may have
        been sought, or revoked and assigned again, and must begin where that left it.
        """
        state = self._subscription.assignment.get(TopicPartition(*tp))
        if state is None or state.position is None:
            return False
        # `leader_epoch`: of the last record; a seek and an assignment set -1.
        return bool(state.position.leader_epoch >= 0)

    def _begin(self, tps: Collection[TP], topics: Iterable[str]) -> None:
        cluster = self._consumer._client.cluster
        again = {topic for topic, old in self._ids.items() if known_id(cluster, topic) != old}
        self.created |= again  # they were deleted, and created again
        self.began = {topic: began for topic, began in self.began.items() if topic not in again}
        counts = {topic: len(known_partitions(cluster, topic)) for topic in topics}
        group = Group(
            self._commits(counts),
            self.began,
            self.created,
            counts,
            round(time.time() * 1000),
        )
        found, self.began = starts(tps, self._settings.auto_offset_reset, group)
        self._ids = {topic: known_id(cluster, topic) for topic in self.began}
        for tp, start in found.items():
            place = {Place.BEGINNING: _EARLIEST, Place.END: _LATEST}.get(
                start.place, start.since_ms
            )
            is_new = start.is_new or self._settings.client_only
            self._ask(tp, place, _Asked(None, is_new, self._must_commit))

    def _commits(self, counts: Mapping[str, int]) -> dict[TP, str | None]:
        if self._settings.client_only:
            return {}
        tps = [TopicPartition(topic, n) for topic, count in counts.items() for n in range(count)]
        # `_coordinator`: the public committed() makes one request for each partition.
        committed = self._consumer._coordinator.fetch_committed_offsets(
            tps, timeout_ms=_PATIENCE_MS
        )
        return {TP(*tp): commit.metadata for tp, commit in committed.items()}

    def _continue_at(
        self, tp: TP, place: OffsetAndMetadata | None, held: Sequence[Fetched]
    ) -> None:
        """Continue a truncated log at the offset where it diverged."""
        state = self._subscription.assignment.get(TopicPartition(*tp))
        if state is None:
            return
        asked = _Asked(self._position(tp), False, self._must_commit)
        if place is None:  # the broker does not know where
            self._ask(tp, self._policy, asked)
            return
        if held and held[0].first < place.offset:
            place = OffsetAndMetadata(held[0].first, "", -1)
        state.seek(place)
        self._asked[tp] = asked
        self._report_reset(tp, place.offset)

    def _ask(self, tp: TP, place: int, asked: _Asked) -> None:
        # `_subscription`, `request_offset_reset`: the public calls reset only to an end of the log.
        if TopicPartition(*tp) in self._subscription.assignment:
            self._asked[tp] = asked
            self._subscription.request_offset_reset(TopicPartition(*tp), place)

    def _report_reset(self, tp: TP, offset: int) -> None:
        state = self._subscription.assignment.get(TopicPartition(*tp))
        at = None if state is None else state.position
        if at is not None and at.offset == offset and (asked := self._asked.pop(tp, None)):
            self.resets.append(Reset(tp, asked.old, offset, asked.is_new, asked.must_commit))
            self.has_news = True
            self._on_news()

    @property
    def _subscription(self) -> SubscriptionState:
        return self._consumer._subscription


def _fall_back_to_the_end(consumer: Any) -> None:
    """Let a reset to a time go to the end of a log that has no later record.

    The client leaves such a partition without a position, and repeats the request for ever.
    """
    # `_fetcher`, `_send_list_offsets_request`: one request to one broker, and its answer.
    fetcher = consumer._fetcher
    send = fetcher._send_list_offsets_request

    async def send_twice(node_id: Any, places: Mapping[Any, Any]) -> Any:
        found, again = await send(node_id, places)
        silent = {
            tp: (_LATEST, epoch)
            for tp, (place, epoch) in places.items()
            if place > 0 and tp not in found and tp not in again
        }
        if silent:
            ends, more = await send(node_id, silent)
            found, again = {**found, **ends}, {*again, *more}
        return found, again

    fetcher._send_list_offsets_request = send_twice
