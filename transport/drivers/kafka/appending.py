"""Appending messages to the client's accumulator, many at a time.

`KafkaProducer.send` takes 20 us for each message: it reads the metadata, calls serializers, takes a
lock, makes a future and encodes in Python. This module encodes many messages of one partition under
one lock, and a batch of the client has one future. This takes 1 us for each message, and 9 us
without the compiled encoder.

This module also does the other work of `send`, in the same order: it checks the messages, chooses
missing partitions, adds the partition to the transaction, detects full batches, and wakes the
network thread if that would sleep for too long (`sleep.py`). `send` refuses messages without key
and value, and headers without a value. This module accepts both, as Kafka and the encoder do.

The client splits a batch that is too large: it moves the futures of the records to new batches.
`workarounds/rejected_record.py` does the same for refused records. A `FilledBatch` makes these
futures when they are first read.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import kafka.errors
from kafka import KafkaProducer, TopicPartition
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder

from transport.drivers.base import Outgoing
from transport.drivers.kafka.records.building import records_builder
from transport.drivers.kafka.sleep import NOW, Sleep

# The most bytes that the client's estimate adds to key and value of a message without headers: the
# header of a batch, 21 bytes, and the lengths of key, value and headers.
_MOST_OVERHEAD = 100
# The most bytes that the lengths of a header take.
_HEADER_OVERHEAD = 10


class FilledBatch(ProducerBatch):  # type: ignore[misc]
    """A batch of the client that makes the futures of its records when they are first read.

    Attributes:
        parts: the appended messages, in order. It does not grow after the client begins to send
            the batch.
    """

    def __init__(self, tp: TopicPartition, records: MemoryRecordsBuilder, now: float) -> None:
        self.parts: list[Part] = []
        self._futures: list[FutureRecordMetadata] | None = None
        self._lock = threading.Lock()
        self._watchers: list[Callable[[], object]] | None = []
        super().__init__(tp, records, now)

    @property
    def futures(self) -> Sequence[FutureRecordMetadata] | None:
        """The futures of the records once the batch was split, else None. From any thread."""
        return self._futures

    def watch(self, call: Callable[[], object]) -> None:
        """Call a function once the batch has an outcome or was split. From any thread."""
        with self._lock:
            if self._watchers is not None:
                self._watchers.append(call)
                return
        call()

    # `_record_futures`: the client's split and `rejected_record.py` move these to other batches.
    @property
    def _record_futures(self) -> list[FutureRecordMetadata]:
        if self._futures is None:
            self._futures = [
                FutureRecordMetadata(self.produce_future, part.first + at, stamp, None, -1, -1, -1)
                for part in self.parts
                for at, stamp in enumerate(part.stamps())
            ]
            self._call_watchers()
        return self._futures

    @_record_futures.setter
    def _record_futures(self, futures: object) -> None:
        """Ignore the empty list that the client assigns to a new batch."""

    def _complete_future(self, *result: Any) -> None:
        # `_complete_future`: the client calls it with each outcome of a batch, also with an error.
        super()._complete_future(*result)
        self._call_watchers()

    def _call_watchers(self) -> None:
        with self._lock:
            watchers, self._watchers = self._watchers, None
        for call in watchers or ():
            call()


@attrs.define(eq=False)
class Part:
    """Messages that were appended to one batch together, in order.

    Attributes:
        first: the position of the first message in the batch.
        now_ms: the time of messages without a timestamp, in milliseconds since 1970.
    """

    held: FilledBatch
    first: int
    now_ms: int
    messages: list[Outgoing]

    def stamps(self) -> list[int]:
        """The time of each message, in milliseconds since 1970."""
        return [
            self.now_ms if message.timestamp_ms is None else message.timestamp_ms
            for message in self.messages
        ]


@attrs.define(eq=False)
class Appending:
    """A series of appends to one producer of the client; for one thread at a time.

    Attributes:
        sleep: the sleep of the producer's network thread. None: the producer was discarded.
        compiled: whether compiled code encodes the messages.
        parts: the appended messages.
        refused: the messages that the client refuses, with its errors.
        due: the time by which the network thread must check its batches, by the monotonic clock.
            Infinite: no wake-up is needed.
    """

    producer: KafkaProducer
    sleep: Sleep | None
    compiled: bool = attrs.field(kw_only=True)
    parts: list[Part] = attrs.field(factory=list)
    refused: list[tuple[Outgoing, Exception]] = attrs.field(factory=list)
    due: float = math.inf

    def append(self, tp: TopicPartition, messages: Sequence[Outgoing]) -> None:
        """Append messages to a partition's batches, in order; add refused ones to `refused`.

        Raises the client's error if the client takes no messages: it was closed, or its
        transaction can only be aborted. Then `left_by` returns the messages that are left.
        """
        # `_accumulator`, `_closed`, `_transaction_manager`: nothing below `send` is public.
        producer, accumulator = self.producer, self.producer._accumulator
        if producer._closed:
            raise kafka.errors.IllegalStateError("KafkaProducer already closed!")
        manager = producer._transaction_manager
        if manager is not None and manager.is_transactional():
            manager.maybe_add_partition_to_transaction(tp)
            if manager.is_partition_pending_add(tp):
                self.due = NOW  # the thread requests the partition while the batch lingers
        at = 0
        # `_appends_in_progress`: a client that is closed by force repeats the abort of its batches
        # while an append is under way.
        accumulator._appends_in_progress.increment()
        try:
            while at < len(messages):
                at += self._fill_one(tp, messages, at)
        finally:
            accumulator._appends_in_progress.decrement()

    def append_anywhere(self, topic: str, messages: Sequence[Outgoing]) -> None:
        """Append messages of one topic that name no partition; see `append`.

        The partition is the one that the client's own partitioner chooses: by the key, or at random
        among the partitions that have a leader. The metadata is read once for all messages.
        """
        # `_metadata`, `_partition`: `send` uses them in the same way.
        producer, cluster = self.producer, self.producer._metadata
        pool = list(cluster.available_partitions_for_topic(topic) or ())
        pool = pool or sorted(cluster.partitions_for_topic(topic))
        groups: dict[int, list[Outgoing]] = {}
        for message, at in zip(messages, random.choices(pool, k=len(messages)), strict=True):
            key, value = message.key, message.value
            if key is not None:
                at = producer._partition(topic, None, key, value, key, value)
            groups.setdefault(at, []).append(message)
        for at, group in groups.items():
            self.append(TopicPartition(topic, at), group)

    def left_by(self, messages: Sequence[Outgoing]) -> list[Outgoing]:
        """Return the messages that are neither appended nor refused."""
        done = {id(message) for message, _ in self.refused}
        done.update(id(message) for part in self.parts for message in part.messages)
        return [message for message in messages if id(message) not in done]

    def wake(self) -> None:
        """Wake the network thread if it would sleep for too long."""
        if self.due < math.inf and self.sleep is not None:
            # `flush_in_progress`: read after the appends. A flush that begins later wakes the
            # thread itself. The end of a linger counts as a flush.
            flushes = self.producer._accumulator.flush_in_progress()
            self.sleep.end_by(NOW if flushes else self.due)
            self.due = math.inf

    def _fill_one(self, tp: TopicPartition, messages: Sequence[Outgoing], at: int) -> int:
        """Append to one batch until it is full; return how many were appended or refused."""
        accumulator = self.producer._accumulator
        # `_tp_lock`, `_batches`: the queue of a partition, from which the network thread takes
        # batches. That thread may wait here for as long as it takes to fill one batch.
        with accumulator._tp_lock(tp):
            if accumulator._closed:
                raise kafka.errors.IllegalStateError("RecordAccumulator is closed")
            queue = accumulator._batches[tp]
            held = queue[-1] if queue else None
            taken = 0
            # A batch that a split has made gets no more messages: its records have futures.
            if isinstance(held, FilledBatch):
                taken = self._write(held, messages, at)
            if not taken:
                held = self._new_batch(tp)
                taken = self._write(held, messages, at)
                assert taken, "the first message of a batch fits, whatever its size"
                if held.parts:
                    queue.append(held)
                    # `_incomplete`: a flush, and the end of the client, wait for these batches.
                    accumulator._incomplete.add(held)
                    # `linger_ms`: the thread sends a batch when it is that old, or at once if
                    # another batch of the partition follows.
                    linger = accumulator.config["linger_ms"] / 1000
                    self.due = NOW if len(queue) > 1 else min(self.due, held.created + linger)
            if held is not None and held.records.is_full():
                self.due = NOW  # filled by this call: a batch that was full takes no message
        return taken

    def _new_batch(self, tp: TopicPartition) -> FilledBatch:
        config = self.producer._accumulator.config
        if config["transaction_manager"] is not None and config["message_version"] < 2:
            raise kafka.errors.UnsupportedVersionError(
                "an idempotent producer needs a broker of Kafka 0.11 or later"
            )
        version, codec, size = (
            config[name] for name in ("message_version", "compression_attrs", "batch_size")
        )
        records = (
            records_builder(codec, size, compiled=self.compiled)
            if version == 2
            else MemoryRecordsBuilder(version, codec, size)
        )
        return FilledBatch(tp, records, time.monotonic())

    def _write(self, held: FilledBatch, messages: Sequence[Outgoing], at: int) -> int:
        """Write messages into a batch until it is full; return how many were written or refused.

        Returns 0 if the batch is full or closed already.
        """
        # `_closed`, `_builder`, `_next_offset`: `MemoryRecordsBuilder.append` uses them for each
        # message.
        records = held.records
        if records._closed:
            return 0
        part = Part(held, records._next_offset, int(time.time() * 1000), [])
        number, now_ms = part.first, part.now_ms
        append, add = records._builder.append, part.messages.append
        easy = self.producer.config["max_request_size"] - _MOST_OVERHEAD
        taken = 0
        # Often the same for all messages: none, or the context of a trace.
        given: Any = ()
        headers: list[Any] = []
        size_of_headers = 0
        for message in messages[at:] if at else messages:  # this loop runs once per message
            key, value, stamp = message.key, message.value, message.timestamp_ms
            try:
                if message.headers is not given:
                    size_of_headers = _most_bytes(message.headers)
                    given, headers = message.headers, list(message.headers)
                if len(key or b"") + len(value or b"") + size_of_headers > easy:
                    self._check_size(key, value, headers)
                if append(number, now_ms if stamp is None else stamp, key, value, headers) is None:
                    break
            except Exception as error:  # noqa: BLE001 - whatever it is, it concerns one message
                self.refused.append((message, error))
            else:
                number += 1
                add(message)
            taken += 1
        if part.messages:
            records._next_offset = number
            held.last_append = time.monotonic()
            held.parts.append(part)
            self.parts.append(part)
        return taken

    def _check_size(self, key: Any, value: Any, headers: list[Any]) -> None:
        # `_estimate_size_in_bytes`, `_ensure_valid_record_size`: `send` makes the same check.
        size = self.producer._estimate_size_in_bytes(key, value, headers)
        self.producer._ensure_valid_record_size(size)


def _most_bytes(headers: Iterable[tuple[str, bytes | None]]) -> int:
    """Return the most bytes that the client's estimate adds for the headers of a message."""
    return sum(4 * len(name) + len(data or b"") + _HEADER_OVERHEAD for name, data in headers)
