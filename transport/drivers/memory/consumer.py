"""The consumer of `memory://`: trio calls around the pure rules of log and group.

The client has no task of its own. Its polls wait for the signals of the group, the logs, the
transactions and the topics, and for the next deadline of the group or of a transaction. While all
members poll and no transaction is open, there is no deadline. So an idle program has no timer, and
a mock clock may jump.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import attrs
import trio

from transport.drivers.base import DEFAULT_TIMEOUT, Rebalance, RebalanceKind, Reset
from transport.drivers.commit_metadata import joined, text_of
from transport.drivers.memory.broker import MemoryBroker
from transport.drivers.memory.change_signal import ChangeSignal
from transport.drivers.memory.group import Group
from transport.drivers.memory.log import Log
from transport.drivers.memory.membership import Change, Membership
from transport.drivers.memory.pending_rebalance import PendingRebalance
from transport.drivers.memory.reader import Reader
from transport.drivers.named import check_named
from transport.drivers.settings import ClientSettings
from transport.drivers.starts import Began, Place, starts
from transport.drivers.starts import Group as GroupSoFar
from transport.errors import (
    BrokerUnavailable,
    ClientClosed,
    CommitFailed,
    CommitRefused,
    NotAssigned,
    OffsetOutOfRange,
    PartitionGone,
    RebalanceInProgress,
    TopicReplaced,
    UnknownTopic,
)
from transport.fetched import Fetched, FetchedRecords
from transport.types import TP, GroupMetadata

# The bytes of an offset's metadata that a broker with default settings accepts.
MOST_METADATA = 4096


@attrs.frozen(eq=False)
class Connection:
    """The broker, group and membership of an open client."""

    broker: MemoryBroker
    group: Group
    membership: Membership | Reader


class MemoryConsumer:
    """A `ConsumerClient` for `memory://`.

    The client fetches nothing ahead: a poll reads the logs in the same step in which it returns. So
    a cancelled poll loses nothing, and a seek drops nothing.
    """

    def __init__(self, attach: Callable[[], MemoryBroker], settings: ClientSettings) -> None:
        if settings.group_id is None and not settings.client_only:
            raise ValueError("a consumer needs a group_id: it is a member of a group")
        self._attach = attach
        self._settings = settings
        self._group_id = "" if settings.client_only else settings.group_id or ""
        self._may_create = settings.may_create_topics
        self._committed_only = settings.isolation == "read_committed"
        self._connection: Connection | None = None
        self._closed = False
        self._logs: dict[TP, Log] = {}  # of assigned partitions, in the order of the next fetch
        self._sources: dict[TP, Log] = {}  # of all partitions ever assigned, at that time
        self._topics_version = 0  # of the broker's topics, at the last check
        self._replaced: frozenset[TP] = frozenset()  # of new topics, for the next ASSIGNED
        self._fresh: set[TP] = set()  # of new topics: the reset policy does not apply to them
        self._topics: frozenset[str] = frozenset()  # the subscription
        self._positions: dict[TP, int] = {}
        self._ends: dict[TP, int] = {}
        self._paused: set[TP] = set()
        self._wake = trio.Event()
        self._interrupted = False
        self._consent: PendingRebalance | None = None
        self._rebalances: deque[Rebalance] = deque()  # not yet returned by next_rebalance
        self._unreleased: deque[Rebalance] = deque()
        self._raised = trio.Event()
        self._resets: list[Reset] = []
        self._began: Mapping[str, Began] = {}  # when the group began with each topic
        self._created: set[str] = set()  # topics that were created while this client ran
        self._first_seen: frozenset[str] | None = None

    async def open(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise ClientClosed("the consumer was closed")
        broker = self._attach()
        settings = self._settings
        # Without a group, a private one stores the offsets.
        group = (
            Group(broker.partitions_if_any)
            if settings.client_only
            else broker.group(self._group_id)
        )
        membership: Membership | Reader
        if settings.is_member:
            membership = Membership(group, settings)
        else:
            partitions = functools.partial(broker.partitions_if_any, create=self._may_create)
            membership = Reader(group, settings, partitions)
        self._connection = Connection(broker, group, membership)

    @trio.lowlevel.enable_ki_protection
    async def subscribe(
        self, topics: Collection[str], *, may_be_gone: Collection[str] = ()
    ) -> None:
        connection = await self._enter()
        broker = connection.broker
        expected = set(topics).difference(may_be_gone)
        self._created |= set(topics) - broker.topics
        with trio.move_on_after(self._settings.connect_timeout):
            while broker.missing(expected, create=self._may_create):
                await _wait_for_change([broker.topics_changed], trio.Event())
        if missing := broker.missing(expected, create=self._may_create):
            raise UnknownTopic(", ".join(missing))
        check_named(
            self._settings.partitions,
            {topic: len(broker.partitions(topic, create=False)) for topic in expected},
        )
        self._topics = frozenset(topics)
        connection.membership.subscribe(self._topics)

    @trio.lowlevel.enable_ki_protection
    async def poll(self) -> Mapping[TP, Sequence[Fetched]]:
        connection = await self._enter()
        connection.membership.begin_poll(trio.current_time())
        try:
            while True:
                connection.broker.transactions.expire(trio.current_time())
                await self._attend_group(connection)
                if self._all_released():
                    batch = self._fetch(connection)
                    if batch or self._interrupted:
                        self._interrupted = False
                        return batch
                await self._change(connection)
                self._connected()
        finally:
            if self._connection is connection:
                connection.membership.end_poll(trio.current_time())

    def resets(self) -> Sequence[Reset]:
        resets, self._resets = self._resets, []
        return resets

    def interrupt(self) -> None:
        self._interrupted = True
        self._stir()

    async def next_rebalance(self) -> Rebalance:
        await self._enter()
        while not self._rebalances:
            self._raised = trio.Event()
            await self._raised.wait()
            self._connected()
        return self._rebalances.popleft()

    async def pause(self, tps: Collection[TP]) -> None:
        await self._enter()
        self._paused.update(tp for tp in tps if tp in self._logs)

    async def resume(self, tps: Collection[TP]) -> None:
        await self._enter()
        self._paused.difference_update(tps)

    async def seek(self, tp: TP, offset: int) -> None:
        if offset < 0:
            raise ValueError(f"an offset is 0 or more, not {offset}")
        await self._enter()
        if tp not in self._logs:
            raise NotAssigned(f"{tp} is not assigned to this consumer")
        self._positions[tp] = offset

    async def positions(self, tps: Collection[TP]) -> dict[TP, int]:
        await self._enter()
        return {tp: self._positions[tp] for tp in tps if tp in self._positions}

    def highwater(self, tp: TP) -> int | None:
        return self._ends.get(tp)

    async def commit(
        self, offsets: Mapping[TP, int], timeout: float, texts: Mapping[TP, str] | None = None
    ) -> None:
        sources = {tp: self._sources.get(tp) for tp in offsets}
        connection = await self._enter()
        for tp, offset in offsets.items():
            log = connection.broker.log_if_any(tp)
            if log is None:
                raise PartitionGone([tp])
            if sources[tp] not in (None, log):
                raise TopicReplaced([tp])
            if offset < 0:
                raise CommitRefused(f"offset {offset} of {tp} is negative and cannot be committed")
        metadata = self._metadata(offsets, texts or {})
        if any(len(each.encode()) > MOST_METADATA for each in metadata.values()):
            raise CommitRefused(f"the metadata of an offset has more than {MOST_METADATA} bytes")
        try:
            if offsets:
                connection.membership.commit(offsets, trio.current_time(), metadata)
        except CommitFailed:
            self._stir()  # the poll raises the loss
            raise

    async def committed(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        group = await self._stable_group(tps, timeout)
        return {tp: group.offsets[tp] for tp in tps if tp in group.offsets}

    async def committed_texts(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, str]:
        group = await self._stable_group(tps, timeout)
        return {tp: text for tp in tps if (text := text_of(group.metadata.get(tp)))}

    @trio.lowlevel.enable_ki_protection
    async def _stable_group(self, tps: Collection[TP], timeout: float) -> Group:
        """Wait until no open transaction holds an offset of these partitions."""
        connection = await self._enter()
        if self._settings.client_only:  # the private group stores what nobody else may see
            return Group(connection.broker.partitions_if_any)
        transactions, group = connection.broker.transactions, connection.group
        with trio.move_on_after(timeout):
            while self._committed_only and any(tp in group.unstable for tp in tps):
                with trio.CancelScope(deadline=transactions.next_deadline()):
                    await _wait_for_change([transactions.changed], trio.Event())
                transactions.expire(trio.current_time())
                self._connected()
            return group
        raise BrokerUnavailable(
            f"open transactions held the offsets for more than {timeout:g} s; try again"
        )

    async def beginning_offsets(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        broker = (await self._enter()).broker
        return {tp: broker.log(tp, create=False).start for tp in tps}

    async def offsets_for_times(
        self, times: Mapping[TP, int], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, tuple[int, int]]:
        broker = (await self._enter()).broker
        found: dict[TP, tuple[int, int]] = {}
        for tp, time in times.items():
            log = broker.log(tp, create=False)
            record = log.first_since(time)
            end = log.stable_end if self._committed_only else log.end
            if record is not None and record.offset < end:
                found[tp] = record.offset, record.timestamp
        return found

    async def end_offsets(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        broker = (await self._enter()).broker
        logs = {tp: broker.log(tp, create=False) for tp in tps}
        stable = self._committed_only
        return {tp: log.stable_end if stable else log.end for tp, log in logs.items()}

    async def current_ends(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        broker = (await self._enter()).broker
        logs = {tp: log for tp in tps if (log := broker.log_if_any(tp)) is not None}
        stable = self._committed_only
        return {tp: log.stable_end if stable else log.end for tp, log in logs.items()}

    async def topics(self, timeout: float = DEFAULT_TIMEOUT) -> frozenset[str]:
        names = (await self._enter()).broker.topics
        if self._first_seen is None:
            self._first_seen = names
        self._created |= names - self._first_seen
        return names

    async def partitions(self, topic: str, timeout: float = DEFAULT_TIMEOUT) -> frozenset[TP]:
        broker = (await self._enter()).broker
        return frozenset(broker.partitions(topic, create=False))

    async def topic_settings(
        self, topic: str, timeout: float = DEFAULT_TIMEOUT
    ) -> Mapping[str, str]:
        broker = (await self._enter()).broker
        broker.partitions(topic, create=False)  # raises UnknownTopic
        return broker.config(topic)

    def group_metadata(self) -> GroupMetadata:
        connection = self._connected()
        membership, log_of = connection.membership, connection.broker.log_if_any
        if self._rebalances:
            raise RebalanceInProgress(
                "a rebalance has been raised and not handled yet; try again after it"
            )
        return GroupMetadata(
            self._group_id,
            membership.generation,
            membership.member_id,
            self._settings.group_instance_id,
            self._sources.copy(),
            frozenset(tp for tp, log in self._sources.items() if log_of(tp) is not log),
            self._notes(),
        )

    async def close(self, timeout: float) -> None:
        if (connection := self._disconnected()) is not None:
            connection.membership.leave(trio.current_time())
        await trio.lowlevel.checkpoint()

    async def kill(self) -> None:
        if (connection := self._disconnected()) is not None:
            connection.membership.disconnect(trio.current_time())
        await trio.lowlevel.checkpoint()

    async def _enter(self) -> Connection:
        """Run the checkpoint of a call, before all effects: a cancelled call changes nothing."""
        self._connected()
        await trio.lowlevel.checkpoint()
        return self._connected()

    def _connected(self) -> Connection:
        if self._connection is None:
            raise ClientClosed("the consumer is not open")
        return self._connection

    def _disconnected(self) -> Connection | None:
        """Drop the connection and return it; wake all waiting calls."""
        self._closed = True
        connection, self._connection = self._connection, None
        if self._consent is not None:
            self._consent.expire()
        self._wake.set()
        self._raised.set()
        return connection

    async def _attend_group(self, connection: Connection) -> None:
        """Apply the group's changes, and wait for the release of each rebalance.

        If the poll is cancelled meanwhile, the next poll waits for the release.
        """
        while True:
            if self._consent is not None:
                await self._consent.settled.wait()
                self._connected()
                self._consent = None
            # Creates missing topics, as the periodic metadata requests of a Kafka client do.
            connection.broker.missing(self._topics, create=self._may_create)
            change = self._of_new_topics(connection)
            if change is None:
                change = connection.membership.advance(trio.current_time())
            if change is None:
                return
            if change.kind is RebalanceKind.ASSIGNED:
                change = attrs.evolve(change, of_new_topic=self._of_another(connection, change))
            self._apply(connection, change)
            self._consent = PendingRebalance(
                change, self._settings.rebalance_bound, self._start, self._stir
            )
            self._unreleased.append(self._consent.rebalance)
            self._rebalances.append(self._consent.rebalance)
            self._raised.set()

    def _of_new_topics(self, connection: Connection) -> Change | None:
        """Return the next change for topics that were created again: the loss, then the assignment.

        The group itself reports a deleted topic.
        """
        generation = connection.membership.generation
        if come := self._replaced:
            self._replaced = frozenset()
            return Change(RebalanceKind.ASSIGNED, come, generation)
        if connection.broker.topics_version == self._topics_version:
            return None
        self._topics_version = connection.broker.topics_version
        log_of, id_of = connection.broker.log_if_any, connection.broker.topic_id
        gone = {
            tp
            for tp, log in self._logs.items()
            if id_of(tp.topic) is not None and log_of(tp) is not log
        }
        if not gone:
            return None
        self._replaced = frozenset(tp for tp in gone if log_of(tp) is not None)
        return Change(RebalanceKind.LOST, frozenset(gone), generation, frozenset(gone))

    def _of_another(self, connection: Connection, change: Change) -> frozenset[TP]:
        """Return the partitions that belonged to a deleted topic when this client had them."""
        log_of, had = connection.broker.log_if_any, self._sources
        return frozenset(
            tp
            for tp in change.partitions
            if tp in had and log_of(tp) is not None and had[tp] is not log_of(tp)
        )

    def _all_released(self) -> bool:
        while self._unreleased and self._unreleased[0].released.is_set():
            self._unreleased.popleft()
        return not self._unreleased

    def _stir(self) -> None:
        """Wake a waiting poll."""
        self._wake.set()

    def _apply(self, connection: Connection, change: Change) -> None:
        self._fresh |= change.of_new_topic
        for tp in sorted(change.partitions):
            self._positions.pop(tp, None)
            self._ends.pop(tp, None)
            self._paused.discard(tp)
            self._resets = [reset for reset in self._resets if reset.tp != tp]
            if change.kind is RebalanceKind.ASSIGNED:
                # A topic that was deleted meanwhile is empty until the group revokes it.
                log = self._logs[tp] = connection.broker.log_if_any(tp) or Log()
                self._sources[tp] = log
                start = (self._settings.partitions or {}).get(tp)
                if tp in change.of_new_topic:
                    self._created.add(tp.topic)
                    self._began = {t: began for t, began in self._began.items() if t != tp.topic}
                if tp in self._fresh and (start := connection.group.offsets.get(tp)) is None:
                    self._put(tp, None, log.start, is_new=True)
                if start is not None:
                    self._positions[tp] = start
            else:
                self._logs.pop(tp, None)

    def _start(self, seek: Mapping[TP, int], pause: frozenset[TP]) -> None:
        """Apply the positions and pauses with which an ASSIGNED was released."""
        self._positions.update((tp, offset) for tp, offset in seek.items() if tp in self._logs)
        self._paused.update(tp for tp in pause if tp in self._logs)

    def _fetch(self, connection: Connection) -> dict[TP, Sequence[Fetched]]:
        """Read records, and move the positions past them.

        All errors of positions are raised before the first position moves.
        """
        self._locate(connection)
        batch: dict[TP, Sequence[Fetched]] = {}
        room = self._settings.fetch_max_bytes
        most = min(room, self._settings.max_partition_fetch_bytes)
        for tp, log in self._logs.items():
            if tp in self._paused or room < most:  # a read gets its full size or waits
                continue
            if tp not in self._positions:
                continue
            found = log.read(self._positions[tp], most, committed=self._committed_only)
            self._positions[tp] = found.position
            self._ends[tp] = log.end
            if found.records:
                batch[tp] = [FetchedRecords(found.records)]
                room -= found.weight
        for tp in batch:  # partitions with records are read last in the next fetch
            self._logs[tp] = self._logs.pop(tp)
        return batch

    def _locate(self, connection: Connection) -> None:
        """Give each partition a position in its log."""
        missing = []
        for tp, log in self._logs.items():
            position = self._positions.get(tp)
            if position is None:
                if self._committed_only and tp in connection.group.unstable:
                    continue  # an open transaction may soon change the committed offset
                position = connection.group.offsets.get(tp)
            if position is None:
                missing.append(tp)
            elif log.start <= position <= log.end or tp in self._paused:
                self._positions[tp] = position
            else:
                self._check_policy(tp, f"offset {position}")
                policy = self._settings.auto_offset_reset
                self._put(tp, position, log.start if policy == "earliest" else log.end)
        if missing:
            self._begin(missing, connection)

    def _begin(self, tps: Collection[TP], connection: Connection) -> None:
        """Start partitions without a committed offset."""
        broker, group = connection.broker, connection.group
        for tp in tps:
            self._check_policy(tp, "no committed offset")
        topics = {tp.topic for tp in (*tps, *group.offsets)} & broker.topics
        so_far = GroupSoFar(
            {tp: group.metadata.get(tp) for tp in group.offsets},
            self._began,
            self._created,
            {topic: len(broker.partitions(topic)) for topic in topics},
            broker.now_ms(),
        )
        found, self._began = starts(tps, self._settings.auto_offset_reset, so_far)
        for tp, start in found.items():
            log = self._logs[tp]
            match start.place:
                case Place.BEGINNING:
                    offset = log.start
                case Place.END:
                    offset = log.end
                case _:
                    offset = log.since(start.since_ms)
            self._put(tp, None, offset, is_new=start.is_new or self._settings.client_only)

    def _put(self, tp: TP, old: int | None, new: int, *, is_new: bool = False) -> None:
        self._positions[tp] = new
        must_commit = self._settings.auto_offset_reset == "latest"
        self._resets.append(Reset(tp, old, new, is_new, must_commit))
        self._interrupted = True  # the poll returns, so that `resets` is read

    def _check_policy(self, tp: TP, where: str) -> None:
        if self._settings.auto_offset_reset == "error":
            log = self._logs[tp]
            raise OffsetOutOfRange(f"{tp}: {where}; the log is [{log.start}, {log.end}]", [tp])

    def _notes(self) -> dict[str, str]:
        return {topic: str(began) for topic, began in self._began.items()}

    def _metadata(self, tps: Iterable[TP], texts: Mapping[TP, str]) -> dict[TP, str]:
        notes = self._notes()
        return {tp: joined(texts.get(tp, ""), notes.get(TP(*tp).topic, "")) for tp in tps}

    @trio.lowlevel.enable_ki_protection
    async def _change(self, connection: Connection) -> None:
        """Wait for the next event that a poll must handle."""
        logs = [log.changed for tp, log in self._logs.items() if tp not in self._paused]
        self._wake = trio.Event()
        group, transactions = connection.group, connection.broker.transactions
        with trio.CancelScope(deadline=min(group.next_deadline(), transactions.next_deadline())):
            topics = connection.broker.topics_changed
            await _wait_for_change([group.changed, transactions.changed, topics, *logs], self._wake)


async def _wait_for_change(signals: Collection[ChangeSignal], event: trio.Event) -> None:
    """Wait until one of the signals notifies or another task sets the event."""
    for signal in signals:
        signal.listen(event.set)
    try:
        await event.wait()
    finally:
        for signal in signals:
            signal.ignore(event.set)
