"""Decoding one partition's share of a fetch in portions, with all checks and bounds.

Anyone who may write to a topic chooses the bytes that its readers decode, so damaged and hostile
data arrives here. A batch is checked, decompressed and decoded when it is reached, a portion at a
time. These rules hold whichever implementation decodes:

- The CRC is right, and offsets rise within the batch's own range.
- A batch decompresses to `limit` bytes at most. So do the headers of a single record in memory.
- A long batch is cut at its records, so that no portion takes much memory at once.
- A batch that cannot be read ends the reading with `UnreadableBatch`, at each attempt, after all
  good records before it. Nothing is skipped.
"""

from __future__ import annotations

import traceback
from collections.abc import Generator, Iterator
from itertools import islice
from operator import attrgetter, lt

import kafka.errors
from crc32c import crc32c

from transport.drivers.kafka.decompression import TooLarge, decompress
from transport.drivers.kafka.records.codec import (
    BEFORE_CRC_COUNTS,
    BEFORE_LENGTH_COUNTS,
    CODEC_BITS,
    HEADER,
    LEAST_RECORD,
    LEGACY_HEADER,
    MAGIC_AT,
    Codec,
    Run,
)
from transport.drivers.kafka.records.fetch import Extent
from transport.drivers.kafka.records.legacy import legacy_records
from transport.drivers.kafka.records.pure import LEAST_HEADER, PureCodec, read_number
from transport.errors import UnreadableBatch
from transport.excerpt import excerpt, excerpt_of_error
from transport.fetched import PORTION, Portion
from transport.types import TP, Record
from transport.weights import HEADER_BYTES, RECORD_BYTES

# The most bytes of a portion. Longer batches are cut at records before they are decoded.
PORTION_BYTES = 256 << 10

_offset_of = attrgetter("offset")
_headers_of = attrgetter("headers")
_PURE = PureCodec()

# Some records that follow each other, and the bytes that they take in their batch.
Slice = tuple[list[Record], int]


class EncodedRecords:
    """A `Fetched` of batches that are decoded as they are read.

    Args:
        data: the bytes of the fetch.
        extent: the offsets and the number of records, from the headers of its batches.
        limit: most bytes that a batch may decompress to, and that the headers of a record may take
            in memory.
    """

    __slots__ = (
        "_codec",
        "_data",
        "_extent",
        "_limit",
        "_most",
        "_tp",
        "count",
        "end",
        "first",
        "weight",
    )

    def __init__(self, tp: TP, data: bytes, extent: Extent, codec: Codec, limit: int) -> None:
        self._tp = tp
        self._data = data
        self._extent = extent
        self._codec = codec
        self._limit = limit
        # So many bytes cannot contain more headers than a single record may have.
        self._most = max(1, min(PORTION_BYTES, limit // HEADER_BYTES * LEAST_HEADER))
        self.first = extent.first
        self.end = extent.end
        self.count = extent.count
        self.weight = len(data)

    def __repr__(self) -> str:
        return f"<{self.count} encoded records of {self._tp}, {self.first} to {self.end}>"

    def read(self) -> Iterator[Portion]:
        """Decode the records; see `Fetched.read`."""
        first, most = self.first, self._most
        found: list[Record] = []
        size = 0
        try:
            for records, length in self._slices():
                if records[0].offset < first:
                    records = [record for record in records if record.offset >= first]
                    if not records:
                        continue
                if found and (len(found) + len(records) > PORTION or size + length > most):
                    yield _portion(found, size)
                    found, size = [], 0
                if found:
                    found += records
                else:
                    found = records
                size += length
        except UnreadableBatch:
            if found:
                yield _portion(found, size)
            raise
        if found:
            yield _portion(found, size)

    def _slices(self) -> Iterator[Slice]:
        """Decode one batch after the other. Raises UnreadableBatch at the first damaged one."""
        data, extent = self._data, self._extent
        at, stop, skipped, place = extent.at, extent.stop, extent.skipped, extent.first
        view = memoryview(data)
        while at < stop:
            records, after = self._small(view, at)
            if records:
                yield records, after - at
                at, place = after, max(place, records[-1].offset + 1)
                continue
            if data[at + MAGIC_AT] != 2:
                at, place = yield from self._legacy(at, place)
                continue
            base, length, _, _, crc, _, delta, *_ = HEADER.unpack_from(data, at)
            after = at + BEFORE_LENGTH_COUNTS + length
            if at not in skipped:
                place = max(place, base)
                if crc32c(view[at + BEFORE_CRC_COUNTS : after]) != crc:
                    raise self._unreadable(place, ValueError("the batch does not match its crc"))
                try:
                    for records, size in self._batch(at, after):
                        yield records, size
                        place = max(place, records[-1].offset + 1)
                except Exception as error:
                    raise self._unreadable(place, error) from error
                place = max(place, base + delta + 1)
            at = after
        if extent.damage is not None:
            raise self._unreadable(place, ValueError(extent.damage))

    def _small(self, view: memoryview, at: int) -> tuple[list[Record], int]:
        """Decode the batches from `at` on that have few records, up to a portion of them.

        This takes a third of the time of `_batch`. It ends at a batch that is large, compressed, in
        an old format, skipped or damaged.

        Returns:
            The records, and where they end; no record if the batch at `at` is such a batch.
        """
        # Written as one loop over local names, because it runs once for each batch.
        data, whole, unpack, least = self._data, self._codec.whole, HEADER.unpack_from, at
        stop, skipped = self._extent.stop, self._extent.skipped
        found: list[Record] = []
        while at < stop and data[at + MAGIC_AT] == 2 and at not in skipped:
            base, length, _, _, crc, attributes, delta, _, _, _, _, _, count = unpack(data, at)
            after = at + BEFORE_LENGTH_COUNTS + length
            if (
                attributes & CODEC_BITS
                or len(found) + count > PORTION
                or after - least > self._most
                or crc32c(view[at + BEFORE_CRC_COUNTS : after]) != crc
            ):
                break
            try:
                records = whole(view, at, after)
            except Exception:  # noqa: BLE001  `_batch` raises it, after what is good
                break
            if count == 1 and records:
                if not base <= records[0].offset <= base + delta:
                    break
            elif not records or _ordered(records, base, base + delta) < len(records):
                break
            found += records
            at = after
        return found, at

    def _legacy(self, at: int, place: int) -> Generator[Slice, None, tuple[int, int]]:
        """Decode a batch of an old format; return where the next begins, and its least offset."""
        last, length = LEGACY_HEADER.unpack_from(self._data, at)
        after = at + BEFORE_LENGTH_COUNTS + length
        iterator = legacy_records(self._data, at, after, self._limit)
        before = -1
        while True:
            records: list[Record] = []
            failure: Exception | None = None
            try:
                records.extend(islice(iterator, PORTION))
            except Exception as error:  # noqa: BLE001  raised below, after what is good
                failure = error
            good = _ordered(records, before + 1, last)
            if good:
                before = records[good - 1].offset
                yield records[:good], sum(map(_size_of, records[:good]))
                place = max(place, before + 1)
            if good < len(records):
                failure = _disorder(records[good], before)
            if failure is not None:
                raise self._unreadable(place, failure) from failure
            if len(records) < PORTION:
                return after, max(place, last + 1)

    def _batch(self, at: int, after: int) -> Iterator[Slice]:
        """Decode a batch in format 2. Its good records come before the error about damage."""
        data, limit = self._data, self._limit
        base, _, _, _, _, attributes, delta, first, latest, _, _, _, count = HEADER.unpack_from(
            data, at
        )
        at += HEADER.size
        if codec := attributes & CODEC_BITS:
            data = decompress(codec, memoryview(data)[at:after], limit)
            at, after = 0, len(data)
        before = base - 1
        for start, end, n in runs(data, at, after, max(count, 0), self._most):
            run = Run(data, start, end, n, base, attributes, first, latest, limit)
            for records, size in self._decoded(run):
                good = _ordered(records, before + 1, base + delta)
                if good:
                    yield records[:good], size
                if good < len(records):
                    raise _disorder(records[good], records[good - 1].offset if good else before)
                before = records[-1].offset

    def _decoded(self, run: Run) -> Iterator[Slice]:
        """Decode a run. If the compiled code fails, the code in Python decodes the rest."""
        size = run.end - run.at
        claimed = min(run.total, size // LEAST_RECORD + 1) or 1
        codec = _PURE if size > self._most else self._codec  # it checks the headers of each record
        iterator = codec.records(run)
        done = 0
        while True:
            records: list[Record] = []
            failure: Exception | None = None
            try:
                records.extend(islice(iterator, PORTION))  # those before an error stay in the list
            except Exception as error:  # noqa: BLE001  raised below, after what is good
                failure = error
            if records:
                done += len(records)
                yield records, size * len(records) // claimed
            if failure is not None:
                if codec is _PURE:
                    raise failure
                codec, iterator = _PURE, islice(_PURE.records(run), done, None)
            elif len(records) < PORTION:
                return

    def _unreadable(self, place: int, error: Exception) -> UnreadableBatch:
        # The lane keeps the error, and its frames would keep a decompressed batch in memory.
        traceback.clear_frames(error.__traceback__)
        return UnreadableBatch(f"{self._tp} offset {place}: {_excerpt_of(error)}")


def runs(data: bytes, at: int, end: int, count: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Cut the records of a batch into runs of at most `most` bytes, or of a single record.

    Yields the begin, the end and the number of records of each run. Damaged data is in the last
    run, and decoding that run fails.
    """
    if end - at <= most:
        yield at, end, count
        return
    while count > 0:
        start = pos = at
        n = 0
        while n < PORTION and n < count:
            try:
                number, after = read_number(data, pos)
            except (IndexError, ValueError):
                break
            after += (number >> 1) ^ -(number & 1)
            if not pos < after <= end or (n and after - start > most):
                break
            pos = after
            n += 1
        if n == 0:
            yield at, end, count
            return
        yield start, pos, n
        at, count = pos, count - n
    if at != end:
        raise ValueError(f"{end - at} bytes follow the last record")


def _ordered(records: list[Record], least: int, most: int) -> int:
    """Return how many of the records have rising offsets within the bounds."""
    if not records:
        return 0
    offsets = list(map(_offset_of, records))
    first, last, count = offsets[0], offsets[-1], len(offsets)
    if first >= least and last <= most:
        # Most batches have no gaps. Comparing all offsets at once takes a quarter of the time.
        if last - first == count - 1 and offsets == [*range(first, last + 1)]:
            return count
        if all(map(lt, offsets, offsets[1:])):
            return count
    good = 0
    for offset in offsets:
        if not least <= offset <= most:
            break
        least = offset + 1
        good += 1
    return good


def _disorder(record: Record, before: int) -> ValueError:
    return ValueError(f"a record of offset {record.offset} follows offset {before}")


def _portion(records: list[Record], size: int) -> Portion:
    weight = RECORD_BYTES * len(records) + size
    if any(map(_headers_of, records)):
        weight += HEADER_BYTES * sum(map(len, map(_headers_of, records)))
    return Portion(records, weight)


def _size_of(record: Record) -> int:
    return len(record.key or b"") + len(record.value or b"")


def _excerpt_of(error: Exception) -> str:
    if isinstance(error, (ValueError, TooLarge, kafka.errors.KafkaError)):
        return excerpt(str(error))
    return excerpt_of_error(error)
