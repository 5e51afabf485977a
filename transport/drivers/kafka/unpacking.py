"""Taking fetches from the client encoded, before it decompresses or decodes them.

The client would decode all fetched records of all partitions at once, long before they are needed,
and without a bound on their memory. Here each partition's share of a fetch becomes one `Fetched`,
which is decoded as it is read: see `records/`.
"""

from __future__ import annotations

from typing import Any

import kafka.errors
from kafka.consumer.fetcher import IsolationLevel

from transport.drivers.kafka.records.codec import Codec
from transport.drivers.kafka.records.encoded import EncodedRecords
from transport.drivers.kafka.records.fetch import extent_of
from transport.errors import UnreadableBatch
from transport.types import TP


def keep_encoded(consumer: Any, codec: Codec, limit: int, waiting: int) -> None:
    """Let the polls of a new KafkaConsumer return `Fetched` in place of records.

    Args:
        codec: decodes a fetch when it is read.
        limit: most bytes that a batch may decompress to, and that a record's headers may take in
            memory.
        waiting: the most bytes of fetches that wait because their partitions were paused. The rest
            is dropped, and fetched again after the resume.
    """
    # `_fetcher`, `PartitionRecords`, `_parse_fetched_data`: the client unpacks a fetch here.
    # `fetched_records`: a poll takes the fetches here, one partition after the other.
    # `_paused_completed_fetches`: the fetches that wait for a resume. There is at most one for each
    # partition, so with many partitions the client sets no bound.
    fetcher = consumer._fetcher
    parse, fetched = fetcher._parse_fetched_data, fetcher.fetched_records

    def parse_naming_the_place(fetch: Any) -> Any:
        try:
            return parse(fetch)
        except kafka.errors.CorruptRecordError as error:  # the broker reports it
            tp = TP(*fetch.topic_partition)
            raise UnreadableBatch(f"{tp} offset {fetch.fetched_offset}: {error}") from error

    def share_of(*args: Any, **options: Any) -> Share:
        return Share(codec, limit, *args, **options)

    def fetched_records(*args: Any, **options: Any) -> Any:
        try:
            return fetched(*args, **options)
        finally:
            _drop_beyond(waiting, fetcher._paused_completed_fetches)

    fetcher._parse_fetched_data = parse_naming_the_place
    fetcher.PartitionRecords = share_of
    fetcher.fetched_records = fetched_records


def _drop_beyond(most: int, fetches: dict[Any, Any]) -> None:
    """Drop the last waiting fetches beyond a size. They are fetched again, from the positions."""
    size = 0
    for tp, fetch in list(fetches.items()):
        size += len(fetch.partition_data.records or b"")
        if size > most:
            del fetches[tp]


class Share:
    """One partition's share of a fetch, in place of the client's PartitionRecords.

    The client takes it once, appends the result to the answer of its poll, and moves the
    partition's position to `next_fetch_offset`.

    Args:
        codec, limit: see `keep_encoded`. The others are those that the client gives to a
            PartitionRecords.
    """

    def __init__(
        self,
        codec: Codec,
        limit: int,
        fetch_offset: int,
        tp: Any,
        records: Any,
        *,
        isolation_level: Any = None,
        aborted_transactions: Any = None,
        metric_aggregator: Any = None,
        on_drain: Any = None,
        **_: Any,
    ) -> None:
        self.topic_partition = tp
        self.next_fetch_offset = fetch_offset
        self.leader_epoch = -1
        self.bytes_read = 0
        self._count = 0
        self._codec = codec
        self._limit = limit
        self._records = records
        committed_only = isolation_level == IsolationLevel.READ_COMMITTED
        self._aborted = aborted_transactions if committed_only else None
        self._metrics = metric_aggregator
        self._on_drain = on_drain

    def __bool__(self) -> bool:
        """Return whether it was not taken yet."""
        return self._records is not None

    def take(self, n: int | None = None) -> list[EncodedRecords]:
        """Return all of it as one `Fetched`; an empty list if it has no records."""
        # `_buffer`: all bytes of the fetch.
        data = bytes(self._records._buffer)
        extent = extent_of(data, self.next_fetch_offset, self._aborted, self._limit)
        self.next_fetch_offset, self.leader_epoch = extent.end, extent.leader_epoch
        self.bytes_read = len(data)
        self._count = extent.count
        self.drain()
        if not extent.count:
            return []
        tp = TP(*self.topic_partition)
        return [EncodedRecords(tp, data, extent, self._codec, self._limit)]

    def drain(self) -> None:
        """Release the bytes of the fetch, whether they were taken or not."""
        if self._records is None:
            return
        self._records = None
        if self._metrics is not None:
            self._metrics.record(self.topic_partition, self.bytes_read, self._count)
        if self._on_drain is not None:
            self._on_drain(self)
