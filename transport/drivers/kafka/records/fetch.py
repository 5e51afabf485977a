"""Reading the batch headers of one partition's share of a fetch.

Only markers of transactions are decoded here, and nothing is decompressed. Many producers send
batches of one record, so the cost for each batch must be small.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

import attrs
from crc32c import crc32c

from transport.drivers.kafka.records.codec import (
    BEFORE_CRC_COUNTS,
    BEFORE_LENGTH_COUNTS,
    CODEC_BITS,
    CONTROL,
    HEADER,
    LEAST_RECORD,
    LEGACY_HEADER,
    MAGIC_AT,
    TRANSACTIONAL,
    Run,
)
from transport.drivers.kafka.records.legacy import LEAST_SIZE, is_compressed
from transport.drivers.kafka.records.pure import PureCodec

_MOST_OFFSET = (1 << 63) - 2
# The type of a marker of an aborted transaction; in its key, behind two bytes with the version.
_ABORT = b"\0\0"


@attrs.frozen
class Extent:
    """The offsets and the number of records of a fetch, as its batch headers claim.

    Attributes:
        first: the least offset that the first delivered record can have.
        end: the offset after the last batch.
        count: the number of records, as the batches claim.
        at, stop: the positions in the bytes where the batches with content begin and end.
        skipped: the positions of batches that are not delivered: markers, and aborted data.
        leader_epoch: of the last batch.
        damage: why the data after `stop` cannot be read; None: there is no damage.
    """

    first: int
    end: int
    count: int
    at: int
    stop: int
    skipped: frozenset[int]
    leader_epoch: int
    damage: str | None

    @property
    def has_content(self) -> bool:
        """Whether reading returns records or an error."""
        return self.count > 0


def extent_of(data: bytes, fetched_from: int, aborted: Iterable[Any] | None, limit: int) -> Extent:
    """Return the extent of a fetch, from its batch headers.

    Args:
        fetched_from: the offset of the request. Records below it are not delivered.
        aborted: the aborted transactions that the broker names: `first_offset`, `producer_id`.
            None: there are none, or their records are delivered as well.
        limit: most bytes of a batch when decompressed.
    """
    # Written as one loop over local names, because it runs once for each batch.
    size = len(data)
    at = start = count = 0
    first, end, epoch = -1, fetched_from, -1
    skipped: list[int] = []
    damage = None
    transactions = _Aborted(aborted) if aborted else None
    unpack, last_header = HEADER.unpack_from, size - HEADER.size
    while at + BEFORE_LENGTH_COUNTS <= size:
        if at <= last_header:
            base, length, leader_epoch, magic, _, attributes, delta, _, _, producer, _, _, claim = (
                unpack(data, at)
            )
            after = at + BEFORE_LENGTH_COUNTS + length
        else:  # a message of an old format, or the beginning of a batch
            base, length = LEGACY_HEADER.unpack_from(data, at)
            after = at + BEFORE_LENGTH_COUNTS + length
            magic = data[at + MAGIC_AT] if after <= size and length >= 5 else -1
        if after > size:
            break  # a fetch can end within a batch
        if magic == 2 and after - at >= HEADER.size:
            batch_end = base + delta + 1
            if delta < 0 or base < 0 or batch_end > _MOST_OFFSET:
                damage = f"a batch with the invalid offsets {base} to {batch_end - 1}"
                break
            epoch = leader_epoch
            if attributes & CONTROL or (transactions is not None and producer >= 0):
                is_left_out = bool(attributes & CONTROL)
                if transactions is not None and producer >= 0:
                    is_left_out |= transactions.has(data, at, after, limit)
                # The header counts only if the batch is whole. Otherwise reading it is an error.
                if is_left_out and _is_whole(data, at, after):
                    skipped.append(at)
                    at, end = after, max(end, batch_end)
                    continue
            if claim > 1:
                room = limit if attributes & CODEC_BITS else after - at - HEADER.size
                claim = min(claim, room // LEAST_RECORD + 1)
        elif magic in (0, 1) and after - at >= LEAST_SIZE:
            batch_end = base + 1
            if base < 0 or batch_end > _MOST_OFFSET:
                damage = f"a message with the invalid offset {base}"
                break
            claim = 1
            if is_compressed(data, at):  # then this is the last offset in it
                claim = min(batch_end - end, limit // LEAST_SIZE)
                base = min(end, base)
        elif 0 <= magic <= 2 or length < BEFORE_CRC_COUNTS - BEFORE_LENGTH_COUNTS:
            damage = f"a batch of {max(length, 0)} bytes is shorter than its header"
            break
        else:
            damage = f"a batch of the unknown format {magic} (its magic byte)"
            break
        if first < 0:
            if batch_end <= fetched_from:  # before the offset of the request
                at = after
                continue
            start, first = at, max(base, fetched_from)
        elif base < end:
            damage = f"a batch with offset {base} follows one that ends with offset {end - 1}"
            break
        count += claim if claim > 0 else 0
        if claim <= 0 and after - at > HEADER.size:
            count += 1  # an error
        at, end = after, batch_end
    stop = at
    if damage is not None:
        # The damage takes one offset, so that reading reaches it and ends there.
        first = end if first < 0 else first
        start = stop if count == 0 else start
        end, count = end + 1, count + 1
    if count == 0:
        first = end
    return Extent(first, end, count, start, stop, frozenset(skipped), epoch, damage)


def _is_whole(data: bytes, at: int, after: int) -> bool:
    crc: int = crc32c(memoryview(data)[at + BEFORE_CRC_COUNTS : after])
    return crc == int.from_bytes(data[at + BEFORE_CRC_COUNTS - 4 : at + BEFORE_CRC_COUNTS])


class _Aborted:
    """The aborted transactions of a fetch. `has` must be called in the order of the log."""

    def __init__(self, aborted: Iterable[Any]) -> None:
        self._to_come = collections.deque(sorted(aborted, key=lambda each: each.first_offset))
        self._producers: set[int] = set()

    def has(self, data: bytes, at: int, after: int, limit: int) -> bool:
        """Return whether the batch is data of an aborted transaction."""
        header = HEADER.unpack_from(data, at)
        attributes, producer = header[5], header[9]
        while self._to_come and self._to_come[0].first_offset <= header[0] + header[6]:
            self._producers.add(self._to_come.popleft().producer_id)
        if attributes & CONTROL:
            if _is_abort(data, at, after, limit):
                self._producers.discard(producer)
            return False
        return bool(attributes & TRANSACTIONAL and producer in self._producers)


def _is_abort(data: bytes, at: int, after: int, limit: int) -> bool:
    """Return whether a control batch has a marker of an aborted transaction. It may be empty."""
    base, _, _, _, _, attributes, _, first, latest, _, _, _, count = HEADER.unpack_from(data, at)
    run = Run(data, at + HEADER.size, after, min(count, 1), base, attributes, first, latest, limit)
    try:
        return any((record.key or b"")[2:4] == _ABORT for record in PureCodec().records(run))
    except Exception:  # noqa: BLE001  damaged: then it does not match its CRC, which is checked next
        return False
