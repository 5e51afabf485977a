"""`Reader`: records of one topic, read without a group and without a commit.

It uses a driver's client directly, because nothing here is acked, and the exact starts and ends of
the partitions matter.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Literal

import attrs
import trio

from transport.command_line.moments import BEGINNING, LogsOf, Moment
from transport.command_line.usage import UsageError
from transport.drivers.base import ConsumerClient, RebalanceKind
from transport.fetched import Fetched
from transport.types import TP, Record

# Seconds after which a reader without new records checks whether it has passed only markers.
_PATIENCE = 0.2
# How much further from the end each search for the last records begins.
_FURTHER = 4

Isolation = Literal["read_committed", "read_uncommitted"]


@attrs.define(eq=False)
class Reader:
    """The records of some partitions, from their starts on.

    Attributes:
        starts: where the reading of each partition has begun.
        ends: where it ends. Beyond that, `take` returns records only if `follows`.
        follows: whether the reading goes on at the ends.
    """

    starts: dict[TP, int]
    ends: Mapping[TP, int]
    follows: bool
    _beginnings: Mapping[TP, int]
    _client: ConsumerClient
    _positions: dict[TP, int]

    @property
    def is_at_end(self) -> bool:
        """Whether all records up to the ends were returned."""
        return all(self._positions[tp] >= end for tp, end in self.ends.items())

    @trio.lowlevel.enable_ki_protection
    async def take(self) -> list[tuple[TP, Record]]:
        """Wait for the next records, for a short time. Empty: none came. A checkpoint.

        Raises UnreadableBatch. Cancelled: the next call returns the records.
        """
        fetched: Mapping[TP, Sequence[Fetched]] = {}
        with trio.move_on_after(_PATIENCE):
            fetched = await self._client.poll()
        found: list[tuple[TP, Record]] = []
        for tp, portions in fetched.items():
            for each in portions:
                found += [(tp, record) for part in each.read() for record in part.records]
                self._positions[tp] = each.end
        if not fetched and not self.is_at_end:
            self._positions.update(await self._client.positions(self.ends))
        if self.follows:
            return found
        return [(tp, record) for tp, record in found if self._is_wanted(tp, record)]

    async def go_back(self, found: Mapping[TP, int], least: int) -> Sequence[TP]:
        """Read again from an earlier start where fewer records were found than wanted.

        Compaction and transactions leave offsets without records. Call this at the end. A
        checkpoint.

        Args:
            found: the number of records of each partition since its start.
            least: the number that is wanted of each.

        Returns: the partitions that are read again, if they have earlier records at all.
        """
        short = [
            tp
            for tp, start in self.starts.items()
            if found.get(tp, 0) < least and start > self._beginnings[tp]
        ]
        for tp in short:
            back = _FURTHER * (self.ends[tp] - self.starts[tp])
            start = max(self._beginnings[tp], self.ends[tp] - back)
            await self._client.seek(tp, start)
            self.starts[tp] = self._positions[tp] = start
        return short

    def _is_wanted(self, tp: TP, record: Record) -> bool:
        return tp in self.ends and record.offset < self.ends[tp]


@contextlib.asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def reading(
    client: ConsumerClient,
    topic: str,
    first: Moment | int,
    last: Moment,
    partitions: Collection[int] = (),
    *,
    follows: bool = False,
) -> AsyncIterator[Reader]:
    """Open a client and read a topic in the block.

    Args:
        first: where each partition begins. A number: so many offsets before `last`.
        partitions: only these. Empty: all, and with `follows` those that are added later as well.

    Raises UnknownTopic, BrokerUnavailable, AuthorizationFailed, UsageError.
    """
    try:
        await client.open()
        tps = await _chosen(client, topic, partitions)
        ends = await last.offsets(LogsOf(client), tps)
        beginnings = await BEGINNING.offsets(LogsOf(client), tps)
        if isinstance(first, Moment):
            starts = await first.offsets(LogsOf(client), tps)
        else:
            starts = {tp: max(beginnings[tp], end - first) for tp, end in ends.items()}
        reader = Reader(starts, ends, follows, beginnings, client, dict(starts))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_assign, client, starts, bool(partitions))
            await client.subscribe([topic])
            yield reader
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await client.kill()  # the client is in no group, which it could leave


async def _chosen(client: ConsumerClient, topic: str, numbers: Collection[int]) -> Sequence[TP]:
    there = await client.partitions(topic)
    if missing := sorted(set(numbers) - {tp.partition for tp in there}):
        raise UsageError(f"{topic!r} has {len(there)} partitions, and not the number {missing[0]}")
    return sorted(tp for tp in there if not numbers or tp.partition in numbers)


async def _assign(client: ConsumerClient, starts: Mapping[TP, int], is_fixed: bool) -> None:
    """Give each assigned partition its start. Pause those that were not asked for."""
    while True:
        rebalance = await client.next_rebalance()
        if rebalance.kind is RebalanceKind.ASSIGNED:
            old = rebalance.partitions - rebalance.of_new_topic
            seek = {tp: starts[tp] for tp in old if tp in starts}
            rebalance.release(seek, [tp for tp in rebalance.partitions - set(starts) if is_fixed])
        else:
            rebalance.release()
