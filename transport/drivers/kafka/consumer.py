"""A member of a consumer group: kafka-python's consumer behind two threads.

The polling thread makes every call that must not run beside a `poll`. The committing thread makes
the commits, which must get through while the polling thread waits for a rebalance. Besides them the
client has an IO thread of its own, on which the rebalance callbacks and the queries run.

The polling thread polls until it has a fetch to return, so an idle consumer never wakes trio. A
change that concerns the poll ends its wait: see `PollInterrupt`.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar, TypeVarTuple

import kafka.errors
import trio
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.util import Timer

from nurseries.worker import Worker, WorkerClosed, WorkerStuck
from transport.drivers.base import DEFAULT_TIMEOUT, Rebalance, RebalanceKind, Reset
from transport.drivers.commit_metadata import joined, text_of
from transport.drivers.kafka.calls import CUT_TIMEOUT, Calls, join_workers, made
from transport.drivers.kafka.client_log import CLIENT_LOG
from transport.drivers.kafka.connecting import Attempt
from transport.drivers.kafka.errors import of_a_call, of_a_commit, translated
from transport.drivers.kafka.log_offsets import current_ends, first_records_since, log_ends
from transport.drivers.kafka.membership import Membership, check_rights
from transport.drivers.kafka.poll_interrupt import PollInterrupt
from transport.drivers.kafka.queries import (
    all_topics,
    committed_offsets,
    partitions_of,
    settings_of,
)
from transport.drivers.kafka.reader import Reader
from transport.drivers.kafka.rebalance import NOTHING, RebalanceListener
from transport.drivers.kafka.records.codec import Codec
from transport.drivers.kafka.starts import NO_POSITION, Starts
from transport.drivers.kafka.topic_ids import Identities, begin_anew, id_note
from transport.drivers.kafka.topics import known_partitions, partition_counts
from transport.drivers.kafka.unpacking import keep_encoded
from transport.drivers.kafka.waiting import Waiting, reason_of
from transport.drivers.kafka.workarounds.closed_connection import back_off_when_closed
from transport.drivers.kafka.workarounds.deleted_partitions import gone_from, raise_for_gone
from transport.drivers.kafka.workarounds.late_commit import CommitOf, refuse_late_commits
from transport.drivers.kafka.workarounds.moved_brokers import start_anew
from transport.drivers.kafka.workarounds.pending_join import drop_join, keep_join
from transport.drivers.kafka.workarounds.poll_spin import hurry_after_join, wait_regardless
from transport.drivers.kafka.workarounds.stale_claims import claim_what_it_has
from transport.drivers.kafka.workarounds.swallowed_errors import (
    Crash,
    Lookups,
    close_client,
    watch_fetches,
    watch_tasks,
)
from transport.drivers.named import check_named
from transport.drivers.settings import ClientSettings
from transport.errors import (
    ClientClosed,
    CommitUnknown,
    CommitWithdrawn,
    NotAssigned,
    PartitionGone,
    RebalanceInProgress,
    TopicReplaced,
    TransportError,
)
from transport.excerpt import excerpt_of_error
from transport.fetched import Fetched
from transport.types import TP, GroupMetadata

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Seconds of one turn of a poll. A change that concerns the poll ends the turn at once, by
# `PollInterrupt`. Two conditions have no notification, so a turn also ends after this time:
# - the client must count a poll now and then, or it leaves the group (`max_poll_interval`);
# - a partition can be looked up or fetched again, after a failure at its broker.
TURN = 1.0
# Seconds until a failed poll is retried, unless `PollInterrupt` ends the wait sooner.
RETRY = 0.05
# Seconds until a reset of a position ends the poll. In most cases the first records do that sooner.
AFTER_RESET = 0.2
# The most records of one poll of the client. The client can stall for ever on a partition that is
# paused while the client still has a part of its last fetch. So a poll takes whole fetches, whose
# size is bounded in bytes.
NO_LIMIT = 10**9


class KafkaConsumerClient:
    """A `ConsumerClient` on kafka-python; see the protocol for what each call promises.

    Args:
        options: the options of the KafkaConsumer.
        waiting: shared by the clients of one app.
        codec: decodes the fetches.
    """

    def __init__(
        self,
        settings: ClientSettings,
        options: Mapping[str, Any],
        waiting: Waiting,
        codec: Codec,
    ) -> None:
        if options["group_id"] is None and not settings.client_only:
            raise ValueError("a consumer needs a group_id: it is a member of a group")
        self._settings = settings
        self._options = options
        self._waiting = waiting
        self._codec = codec
        name = f"consumer {options['client_id']} of group {options['group_id']}"
        self._calls = Calls(name)
        self._polling = Worker(f"{name}: polling")
        self._committing = Worker(f"{name}: committing")
        self._client: Any = None  # the KafkaNetClient: connections, metadata, IO thread
        self._consumer: Any = None  # the KafkaConsumer
        self._membership: Membership | None = None
        self._crash = Crash(self._on_crash)
        self._lookups: Lookups | None = None
        self._listener: RebalanceListener | None = None
        self._wake = PollInterrupt()
        self._starts = Starts(settings, self._wake.notify)
        self._reader = None if settings.is_member else Reader(settings)
        self._unreleased: collections.deque[Rebalance] = collections.deque()
        self._events, self._next_event = trio.open_memory_channel[Rebalance](float("inf"))
        self._received = 0  # how many rebalances `next_rebalance` has returned
        self._interrupted = False
        self._giving_back = False
        # The fetches that no `poll` has returned yet. Written on the polling thread, or on the IO
        # thread while the polling thread is inside the client. Emptied in trio between calls of the
        # polling thread.
        self._fetched: dict[TP, Sequence[Fetched]] = {}
        self._identities = Identities()
        # Partitions of topics that were created again. The next poll raises the first ones as lost,
        # and the second ones as assigned.
        self._replaced: frozenset[TP] = frozenset()
        self._coming: frozenset[TP] = frozenset()

    @trio.lowlevel.enable_ki_protection
    async def open(self) -> None:
        self._calls.opened = True
        CLIENT_LOG.hold(self, self._settings.client_log_level)
        self._listener = RebalanceListener(
            self._settings.rebalance_bound, self._drop, self._deliver, self._note
        )
        self._polling.start()
        self._committing.start()
        opened = False
        try:
            await self._call("open", self._connect)
            opened = True
        finally:
            if not opened:
                with trio.CancelScope(shield=True):
                    await self.kill()

    async def subscribe(
        self, topics: Collection[str], *, may_be_gone: Collection[str] = ()
    ) -> None:
        wanted = sorted(set(topics))
        if expected := sorted(set(topics).difference(may_be_gone)):
            with self._calls.errors():
                counts = await partition_counts(
                    self._client,
                    expected,
                    self._settings.connect_timeout,
                    self._waiting,
                    self._starts.created,
                )
            check_named(self._settings.partitions, counts)
        await self._call("subscribe", self._subscribe, wanted)

    async def poll(self) -> Mapping[TP, Sequence[Fetched]]:
        if self._reader is not None:
            await self._reassign(self._reader)
        await self._raise_for_new_topics()
        held = await self._call("poll", self._poll)
        while self._unreleased:
            await self._unreleased[0].released.wait()
            self._unreleased.popleft()
        self._calls.check_open()
        self._interrupted = False
        self._starts.has_news = False  # `resets` is read after this
        # Only here: if this poll is cancelled before, the next poll must return the fetches.
        fetched, self._fetched = self._fetched, {}
        for tp in held:
            if tp in fetched:  # a seek may have dropped it meanwhile
                self._fetched[tp] = fetched.pop(tp)
        return fetched

    def resets(self) -> Sequence[Reset]:
        resets = self._starts.resets
        return [resets.popleft() for _ in range(len(resets))]

    def interrupt(self) -> None:
        self._interrupted = True
        self._wake.notify()

    async def next_rebalance(self) -> Rebalance:
        self._calls.check_open()
        try:
            rebalance = await self._next_event.receive()
            self._received += 1
            return rebalance
        except trio.EndOfChannel:
            raise ClientClosed("the consumer was closed") from None

    async def pause(self, tps: Collection[TP]) -> None:
        await self._call("pause", self._pause, tps)

    async def resume(self, tps: Collection[TP]) -> None:
        await self._call("resume", self._resume, tps)

    async def seek(self, tp: TP, offset: int) -> None:
        if offset < 0:
            raise ValueError(f"an offset is 0 or more, not {offset}")
        await self._call("seek", self._seek, tp, offset)

    async def positions(self, tps: Collection[TP]) -> dict[TP, int]:
        return await self._call("positions", self._positions, tps)

    def highwater(self, tp: TP) -> int | None:
        state = None if self._consumer is None else self._assignment().get(tp)
        return None if state is None else state.highwater

    async def commit(
        self, offsets: Mapping[TP, int], timeout: float, texts: Mapping[TP, str] | None = None
    ) -> None:
        if self._settings.client_only:
            self._calls.check_open()
            await trio.lowlevel.checkpoint()
            return
        # Read now: when the committing thread begins, the partitions may be those of another topic,
        # or belong to another member in a later generation.
        ids = {tp: self._identities.of.get(tp) for tp in offsets}
        with self._calls.errors():
            wanted = CommitOf(offsets, self._known_generation())
            await self._commit_in_time(wanted, dict(texts or {}), ids, timeout)

    async def committed(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        found = await self._committed(tps, timeout)
        return {tp: committed.offset for tp, committed in found.items()}

    async def committed_texts(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, str]:
        found = await self._committed(tps, timeout)
        texts = {tp: text_of(committed.metadata) for tp, committed in found.items()}
        return {tp: text for tp, text in texts.items() if text}

    async def beginning_offsets(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        with self._calls.errors():
            return await log_ends(self._consumer, tps, timeout, first=True)

    async def offsets_for_times(
        self, times: Mapping[TP, int], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, tuple[int, int]]:
        with self._calls.errors():
            return await first_records_since(self._consumer, times, timeout)

    async def end_offsets(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        with self._calls.errors():
            return await log_ends(self._consumer, tps, timeout, first=False)

    async def current_ends(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        with self._calls.errors():
            return await current_ends(self._consumer, tps, timeout)

    async def topics(self, timeout: float = DEFAULT_TIMEOUT) -> frozenset[str]:
        with self._calls.errors():
            names = await all_topics(self._client, timeout)
        self._starts.saw(names)
        return names

    async def partitions(self, topic: str, timeout: float = DEFAULT_TIMEOUT) -> frozenset[TP]:
        with self._calls.errors():
            return await partitions_of(self._client, topic, timeout)

    async def topic_settings(
        self, topic: str, timeout: float = DEFAULT_TIMEOUT
    ) -> Mapping[str, str]:
        with self._calls.errors():
            found: Mapping[str, str] = await settings_of(self._client, topic, timeout)
        return found

    def group_metadata(self) -> GroupMetadata:
        self._calls.check_open()
        if self._settings.client_only:
            return GroupMetadata("", -1, "")
        # The identity is read first: it changes only after the rebalance that led to it was raised.
        member = self._consumer.group_metadata()
        self._check_received()
        return GroupMetadata(
            member.group_id,
            member.generation_id,
            member.member_id,
            member.group_instance_id,
            self._identities.of.copy(),
            self._identities.of_gone(self._client.cluster),
            notes={topic: str(began) for topic, began in self._starts.began.items()},
        )

    async def close(self, timeout: float) -> None:
        try:
            await self._close(timeout)
        finally:
            CLIENT_LOG.release(self)

    async def _close(self, timeout: float) -> None:
        now = trio.current_time()
        self._stop_listening()
        left_group = None
        if self._client is not None and self._consumer is None:
            await self._cut(now + timeout)  # still connecting: there is no group to leave
        elif self._client is not None:
            with contextlib.suppress(WorkerClosed):
                # Most of the time is for leaving the group, the rest for the steps below.
                left_group = self._polling.submit("close", self._leave, timeout * 0.75)
        if await join_workers(now + timeout * 0.85, self._polling):
            await self._cut(now + timeout)
        stuck = await join_workers(now + timeout, self._polling, self._committing)
        if stuck:
            raise TransportError(f"abandoned: {'; '.join(stuck)}")
        if left_group is not None:
            # If the cut has freed a stuck thread, no thread is left to report. The group then
            # removes this member when its session times out.
            with translated(of_a_call), contextlib.suppress(WorkerStuck):
                await left_group.wait()

    async def kill(self) -> None:
        deadline = trio.current_time() + CUT_TIMEOUT
        try:
            self._stop_listening()
            stuck = await self._cut(deadline)
            stuck += await join_workers(deadline, self._polling, self._committing)
        finally:
            CLIENT_LOG.release(self)
        if stuck:
            raise TransportError(f"abandoned: {'; '.join(stuck)}")

    # In trio.

    async def _call(self, name: str, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """Make a call on the polling thread, as `Calls.make` does. It ends a poll under way."""
        with self._calls.errors():
            await trio.lowlevel.checkpoint_if_cancelled()
            call = self._polling.submit(name, made, fn, *args)
            if self._polling.waiting:
                self._wake.notify()
            return await call.wait()

    async def _committed(
        self, tps: Collection[TP], timeout: float
    ) -> Mapping[TP, OffsetAndMetadata]:
        if self._settings.client_only:
            self._calls.check_open()
            await trio.lowlevel.checkpoint()
            return {}
        with self._calls.errors():
            return await committed_offsets(self._consumer, tps, timeout)

    @trio.lowlevel.enable_ki_protection
    async def _commit_in_time(
        self,
        offsets: CommitOf,
        texts: Mapping[TP, str],
        ids: Mapping[TP, object],
        timeout: float,
    ) -> None:
        """Commit, or withdraw the commit, so that no commit stays in the queue after its timeout.

        Such a commit could be made after a rebalance, in the name of the new generation, and undo
        a commit of the next owner.
        """
        deadline = time.monotonic() + timeout
        call = self._committing.submit("commit", made, self._commit, offsets, texts, ids, deadline)
        try:
            with trio.move_on_after(timeout):
                return await call.wait()
        finally:
            taken_back = self._committing.withdraw(call)
        if taken_back:
            raise CommitWithdrawn(
                f"{self._calls.name} was still busy with {self._committing.current!r} after"
                f" {timeout:g} s: the commit was not begun and will not be made"
            )
        return await call.wait()  # the commit has begun, and its own timeout ends about now

    async def _reassign(self, reader: Reader) -> None:
        """Without a group, find the partitions to assign and revoke, and raise the rebalances."""
        for kind, tps in reader.changes(self._client.cluster):
            anew: frozenset[TP] = frozenset()
            if kind is RebalanceKind.REVOKED:
                await self._assign(reader.assigned - tps, {})
            else:
                anew = self._note(tps)
            starts, paused = await self._consent(kind, tps, 0, anew)
            if kind is RebalanceKind.ASSIGNED:
                named = {tp: at for tp in tps - anew if (at := reader.start_of(tp)) is not None}
                await self._assign(reader.assigned | tps, {**named, **starts}, paused)

    async def _raise_for_new_topics(self) -> None:
        """Raise LOST and ASSIGNED for the partitions of topics that were created again.

        Cancelled: the next poll continues.
        """
        if not self._replaced and not self._coming:
            return
        cluster = self._client.cluster
        generation = 0 if self._reader is not None else self._generation()
        if gone := self._replaced:
            self._coming |= {
                tp for tp in gone if tp.partition in known_partitions(cluster, tp.topic)
            }
            self._replaced = frozenset()
            self._drop(gone)
            await self._consent(RebalanceKind.LOST, gone, generation, gone)
            self._identities.note(gone, cluster)
        coming = self._coming
        starts, paused = await self._consent(RebalanceKind.ASSIGNED, coming, generation, coming)
        self._identities.note(coming, cluster)
        self._identities.fresh |= coming
        await self._call("begin anew", self._begin_anew, coming, starts, paused)
        self._coming = frozenset()

    def _known_generation(self) -> int:
        """Return the generation of which the caller of `commit` can know.

        The client may be in a later one already: it does not wait for a rebalance that has expired,
        for example while a handler blocked trio. Raises RebalanceInProgress.
        """
        # Read first: it changes only after the rebalance that led to it was raised.
        generation = self._generation()
        self._check_received()
        for rebalance in self._unreleased:
            if not rebalance.released.is_set():
                return rebalance.generation
        return generation

    def _check_received(self) -> None:
        assert self._listener is not None
        if self._listener.raised != self._received:
            raise RebalanceInProgress("the consumer has not received the last rebalance yet")

    def _generation(self) -> int:
        return int(self._consumer.group_metadata().generation_id)

    @trio.lowlevel.enable_ki_protection
    async def _consent(
        self,
        kind: RebalanceKind,
        tps: frozenset[TP],
        generation: int,
        of_new_topic: frozenset[TP] = frozenset(),
    ) -> tuple[Mapping[TP, int], frozenset[TP]]:
        """Raise a rebalance that the client itself does not raise, and wait for its release.

        Return the offsets to seek to and the partitions to pause.
        """
        answers: list[tuple[Mapping[TP, int], frozenset[TP]]] = []  # the first one counts

        def release(seek: Mapping[TP, int], pause: frozenset[TP]) -> None:
            answers.append((dict(seek), pause))

        bound = self._settings.rebalance_bound
        rebalance = Rebalance(kind, tps, generation, bound, release, of_new_topic=of_new_topic)
        assert self._listener is not None
        self._listener.raised += 1
        self._deliver(rebalance)
        with trio.move_on_after(bound) as scope:
            await rebalance.released.wait()
        if scope.cancelled_caught:
            rebalance.expired.set()
        return answers[0] if answers else NOTHING

    def _note(self, tps: Collection[TP]) -> frozenset[TP]:
        return self._identities.note(tps, self._client.cluster)

    async def _assign(
        self, tps: frozenset[TP], starts: Mapping[TP, int], paused: Collection[TP] = ()
    ) -> None:
        await self._call("assign", self._read_just, tps, starts, paused)

    def _deliver(self, rebalance: Rebalance) -> None:
        if self._calls.closed:
            rebalance.release()
        else:
            self._unreleased.append(rebalance)
            self._events.send_nowait(rebalance)

    def _stop_listening(self) -> None:
        self._calls.closed = True
        self._events.close()
        for rebalance in self._unreleased:
            rebalance.released.set()
        if self._listener is not None:
            self._listener.close()
        self._wake.notify()

    async def _cut(self, deadline: float) -> list[str]:
        """Close the client's sockets and end its loop, whatever the other threads are doing.

        Threads that wait for the loop then fail. Returns the texts about stuck threads.
        """
        if self._client is None:
            return []
        cutting = Worker(f"{self._calls.name}: cutting")
        cutting.start()
        cutting.submit("close the sockets", close_client, self._client)
        return await join_workers(deadline, cutting)

    # On the polling thread.

    def _connect(self) -> None:
        def built(client: Any) -> None:
            self._client = client
            watch_tasks(client, self._crash)
            start_anew(client, self._crash, self._waiting.log)
            back_off_when_closed(client)

        # The client starts its IO thread before it connects. `built` keeps the client, so that its
        # connections can be closed if the attempt fails or is cancelled.
        attempt = Attempt(self._options["bootstrap_servers"], built, self._waiting)
        with attempt.errors():
            self._consumer = KafkaConsumer(**{**attempt.options(KafkaConsumer), **self._options})
        watch_fetches(self._consumer, self._crash)
        self._lookups = Lookups(self._consumer)
        settings = self._settings
        keep_encoded(
            self._consumer,
            self._codec,
            settings.max_decompressed_bytes,
            waiting=settings.fetch_max_bytes,
        )
        assert self._listener is not None
        self._listener.attach(self._consumer)
        self._starts.attach(self._consumer)
        self._identities.use(self._consumer, self._starts.begin_at_the_start)
        raise_for_gone(self._consumer, self._identities)
        wait_regardless(self._consumer)
        self._wake.attach(self._consumer)
        self._wake.notify_of_metadata(self._consumer)
        if settings.is_member:
            claim_what_it_has(self._consumer)
            refuse_late_commits(self._consumer)
            hurry_after_join(self._consumer)
            self._membership = Membership(
                self._calls.name,
                self._consumer,
                settings.session_timeout,
                self._wake.notify,
                self._waiting.log,
            )

    def _read_just(
        self, tps: frozenset[TP], starts: Mapping[TP, int], paused: Collection[TP]
    ) -> None:
        """Read these partitions and no others. New ones begin at `starts`, or by the reset rule."""
        assert self._reader is not None
        self._drop(self._reader.assigned - tps)
        come = tps - self._reader.assigned
        self._reader.assigned = tps
        self._consumer.assign([TopicPartition(*tp) for tp in sorted(tps)])
        anew = come & self._identities.fresh
        begin_anew(self._consumer, anew, {}, self._starts.begin_at_the_start)
        for tp, offset in starts.items():
            self._consumer.seek(TopicPartition(*tp), offset)
        self._pause(paused)

    def _begin_anew(
        self, tps: Collection[TP], starts: Mapping[TP, int], paused: Collection[TP]
    ) -> None:
        self._drop(tps)
        begin_anew(self._consumer, tps, starts, self._starts.begin_at_the_start)
        self._pause(paused)

    def _subscribe(self, topics: list[str]) -> None:
        if self._reader is not None:
            self._reader.topics = frozenset(topics)
            return
        consumer = self._consumer
        self._giving_back = not topics and consumer.subscription() is not None
        if topics:
            consumer.subscribe(topics, listener=self._listener)
            # Without this, the first member of a group finds the topics only after its join, and
            # joins again.
            update = self._client.cluster.request_update()
            timeout_ms = self._settings.connect_timeout * 1000
            with contextlib.suppress(kafka.errors.RetriableError):
                self._client._net.run(self._client._manager.wait_for, update, timeout_ms)

    def _poll(self) -> Collection[TP]:
        """Poll until there is a reason to return; return the partitions of `_fetched` to hold back.

        The held fetches belong to paused partitions.
        """
        over = False
        first_by: float | None = None  # when a reset ends the poll, with or without records
        while True:
            self._wake.clear()  # first, so that a change after the checks below ends the turn
            held = self._held_back()  # in each turn: a rebalance may have dropped some
            if len(held) < len(self._fetched):
                return held
            if self._starts.has_news:
                first_by = first_by or time.monotonic() + AFTER_RESET
                if time.monotonic() >= first_by:
                    return held
            if over or self._polling.waiting or self._calls.closed:
                return held
            if self._reader is not None and self._reader.is_due(self._client.cluster):
                return held
            if replaced := self._identities.replaced(self._assignment(), self._client.cluster):
                self._replaced = replaced
                return held
            # Read before the turn. A poll that was interrupted before it began still makes one
            # turn, without a wait. So the group makes progress even if each poll is interrupted.
            over = self._interrupted
            try:
                if self._giving_back:
                    self._give_back()
                self._check_crash()
                if self._membership is not None:
                    self._membership.check()
                check_rights(self._consumer)
                keep_join(self._consumer)
                batches = self._poll_once(0.0 if over else self._patience(first_by))
            except kafka.errors.RetriableError as error:
                if self._calls.closed:
                    raise
                # A broker does not answer, or a partition has a new leader. The client retries
                # these, and so does this loop.
                self._log_failure(error)
                self._wake.sleep(RETRY)  # a failed poll does not wait: avoid a busy loop
                batches = {}
            except Exception:
                self._check_crash()  # which raises the cause
                raise
            for tp, records in batches.items():
                self._fetched[TP(*tp)] = records
            over = over or self._interrupted

    def _log_failure(self, error: Exception) -> None:
        # While a broker is away, polls fail for that reason, and `Waiting` has logged it.
        level = logging.DEBUG if self._waiting.is_away else logging.WARNING
        self._waiting.log.often(
            level,
            "poll_failed",
            "a poll failed and is retried until it succeeds: %s",
            reason_of(error),
            error=error,
        )

    def _patience(self, first_by: float | None) -> float:
        """Return the seconds that a turn may wait."""
        seconds = [TURN, self._settings.max_poll_interval / 3]
        if first_by is not None:
            seconds.append(first_by - time.monotonic())
        if self._membership is not None:
            seconds.append(self._membership.time_left())
        return max(0.0, min(seconds))

    def _on_crash(self, error: BaseException) -> None:
        self._waiting.log.error(
            "client_failed",
            "the thread of the client's %s failed: %s",
            *(self._calls.name, excerpt_of_error(error)),
            error=error,
        )
        self._wake.notify()

    def _check_crash(self) -> None:
        # `_net`, `_exception`: the error that ended the loop; each call into the loop raises it.
        error = self._crash.error or self._client._net._exception
        if error is None and self._lookups is not None:
            error = self._lookups.error()
        if error is not None:
            raise TransportError(
                f"{self._calls.name} cannot go on, because the client's own thread failed with"
                f" {error!r}. Restart the app"
            ) from error

    def _poll_once(self, seconds: float) -> Mapping[Any, Sequence[Fetched]]:
        try:
            with self._wake.waits():
                # `_poll_once`: the public poll() repeats it until its time is up.
                return self._consumer._poll_once(Timer(math.ceil(seconds * 1000)), NO_LIMIT)  # type: ignore[no-any-return]
        except NO_POSITION as error:
            reader = self._reader
            topics = self._consumer.subscription() if reader is None else reader.topics
            self._starts.serve(error, topics or (), self._fetched)
            return {}

    def _held_back(self) -> Collection[TP]:
        """Return the partitions whose fetches stay here until they are resumed."""
        if not self._fetched:
            return ()
        paused = self._consumer.paused()
        return [tp for tp in self._fetched if tp in paused]

    def _give_back(self) -> None:
        """Leave the group as `close` does; the client's unsubscribe() would raise no rebalance."""
        self._giving_back = False
        consumer = self._consumer
        # `_on_close_prepare_async`: calls the listener with all assigned partitions, as revoked or
        # as lost, and then removes them from the assignment.
        consumer._client._net.run(consumer._coordinator._on_close_prepare_async)
        consumer.unsubscribe()
        drop_join(consumer)

    def _drop(self, tps: Collection[TP]) -> None:
        self._starts.drop(tps)
        for tp in tps:
            self._fetched.pop(tp, None)

    def _pause(self, tps: Collection[TP]) -> None:
        self._consumer.pause(*self._assigned(tps))

    def _resume(self, tps: Collection[TP]) -> None:
        self._consumer.resume(*self._assigned(tps))

    def _seek(self, tp: TP, offset: int) -> None:
        try:
            self._consumer.seek(TopicPartition(*tp), offset)
        except ValueError:
            raise NotAssigned(f"{tp} is not assigned to {self._calls.name}") from None
        self._drop([tp])

    def _positions(self, tps: Collection[TP]) -> dict[TP, int]:
        positions = {}
        assignment = self._assignment()
        for tp in tps:
            if tp in self._fetched:  # the client's position is already after this fetch
                positions[tp] = self._fetched[tp][0].first
            elif tp in assignment and (position := assignment[tp].position) is not None:
                positions[tp] = position.offset
        return positions

    def _assigned(self, tps: Collection[TP]) -> list[Any]:
        assignment = self._assignment()
        return [TopicPartition(*tp) for tp in tps if tp in assignment]

    def _assignment(self) -> Mapping[TP, Any]:
        # `_subscription`: the public position() and pause() go through all partitions, or fail for
        # one that was just revoked. A lookup in this mapping is cheap.
        return self._consumer._subscription.assignment  # type: ignore[no-any-return]

    def _leave(self, timeout: float) -> None:
        try:
            # After a crash the client cannot leave the group: its session times out.
            if self._consumer is not None and self._client._net._exception is None:
                self._consumer.close(autocommit=False, timeout_ms=round(timeout * 1000))
        finally:
            close_client(self._client)  # does nothing if the consumer's close has done it

    # On the committing thread.

    def _commit(
        self,
        offsets: CommitOf,
        texts: Mapping[TP, str],
        ids: Mapping[TP, object],
        deadline: float,
    ) -> None:
        if replaced := self._identities.of_another(ids, self._client.cluster):
            raise TopicReplaced(replaced)
        note_of = self._starts.note_of
        wanted = {
            TopicPartition(*tp): OffsetAndMetadata(
                at, joined(texts.get(tp, ""), note_of(tp.topic), id_note(ids[tp])), -1
            )
            for tp, at in offsets.items()
        }
        try:
            with translated(of_a_commit):
                requested = CommitOf(wanted, offsets.generation)
                commit_until(deadline, self._consumer, requested, self._calls)
            self._identities.fresh.difference_update(offsets)
        except CommitUnknown as error:
            if gone := gone_from(self._client.cluster, offsets):
                raise PartitionGone(gone) from error
            if replaced := self._identities.of_another(ids, self._client.cluster):
                raise TopicReplaced(replaced) from error
            raise


def commit_until(deadline: float, consumer: Any, offsets: Mapping[Any, Any], calls: Calls) -> None:
    """Commit, and retry until the deadline while no broker can be reached.

    The client retries a commit itself, but not if it cannot get the metadata to find the
    coordinator. No later commit makes up for the last commit of an app.

    Args:
        deadline: by the monotonic clock, in seconds.
        consumer: the KafkaConsumer.
        offsets: by the client's partition, as its `commit` takes them.
        calls: the calls of the client. There are no retries after it was closed.

    Raises:
        KafkaError: the client's last error.
    """
    while True:
        # The time in the queue of the committing thread counts, too.
        left = max(0.0, deadline - time.monotonic())
        try:
            consumer.commit(offsets, timeout_ms=round(left * 1000))
            return
        except kafka.errors.KafkaConnectionError:
            pause = consumer.config["retry_backoff_ms"] / 1000
            if calls.closed or deadline - time.monotonic() <= pause:
                raise
            time.sleep(pause)  # on the committing thread; no event reports that a broker is back
