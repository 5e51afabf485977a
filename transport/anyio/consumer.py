"""The calls of a consumer, for the tasks of an asyncio loop."""

from __future__ import annotations

import functools
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import overload

import trio

from transport.anyio.guest import Guest
from transport.arguments import seconds
from transport.consuming.consumer import Consumer
from transport.consuming.getmany import GetMany, until_set
from transport.consuming.stuck import Stuck
from transport.message import AnyMessage
from transport.types import TP, OffsetAndTimestamp


class AioConsumer:
    """The calls of a consumer, for asyncio's tasks; see `Consumer` for each."""

    def __init__(self, consumer: Consumer, guest: Guest) -> None:
        self.native = consumer
        self._guest = guest

    async def commit(
        self,
        topics: str | TP | Collection[str | TP] | None = None,
        *others: str | TP | bool,
        start_new_transaction: bool = True,
        metadata: str | None = None,
    ) -> bool:
        """Commit the safe offsets, and return whether an offset moved; see `Consumer.commit`."""
        commit = functools.partial(
            self.native.commit, start_new_transaction=start_new_transaction, metadata=metadata
        )
        return await self._guest.call(commit, topics, *others)

    async def force_commit(
        self,
        topics: str | TP | Collection[str | TP] | None = None,
        *others: str | TP | bool,
        start_new_transaction: bool = True,
        metadata: str | None = None,
    ) -> bool:
        """Commit now, regardless of the interval: the same as `commit`."""
        return await self.commit(
            topics, *others, start_new_transaction=start_new_transaction, metadata=metadata
        )

    async def commit_and_end_transactions(self) -> None:
        """Commit the safe offsets, and begin no transaction after that.

        See `Consumer.commit_and_end_transactions`.
        """
        await self._guest.call(self.native.commit_and_end_transactions)

    async def maybe_wait_for_commit_to_finish(self) -> bool:
        """Wait for the commit that is under way or queued; return whether there was one."""
        return await self._guest.call(self.native.maybe_wait_for_commit_to_finish)

    async def seek(self, partition: TP, offset: int) -> None:
        """Continue at `offset` in a new epoch; see `Consumer.seek`."""
        await self._guest.call(self.native.seek, partition, offset)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every partition to its committed offset; see `Consumer.seek_to_committed`."""
        return await self._guest.call(self.native.seek_to_committed)

    async def perform_seek(self) -> None:
        """Seek all partitions to their committed offsets: the same as `seek_to_committed`."""
        await self._guest.call(self.native.perform_seek)

    async def seek_to_beginning(self, *tps: TP) -> dict[TP, int]:
        """Seek partitions to the first offsets of their logs; see `Consumer.seek_to_beginning`."""
        return await self._guest.call(self.native.seek_to_beginning, *tps)

    async def seek_to_end(self, *tps: TP) -> dict[TP, int]:
        """Seek partitions to the ends of their logs; see `Consumer.seek_to_end`."""
        return await self._guest.call(self.native.seek_to_end, *tps)

    async def seek_to_time(self, times: float | Mapping[TP, float]) -> dict[TP, int]:
        """Seek partitions to their first messages since a time; see `Consumer.seek_to_time`."""
        return await self._guest.call(self.native.seek_to_time, times)

    async def position(self, tp: TP) -> int:
        """Return the offset of the next message of a partition; see `Consumer.position`."""
        return await self._guest.call(self.native.position, tp)

    @overload
    async def committed(self, tps: TP) -> int | None: ...
    @overload
    async def committed(self, tps: Iterable[TP]) -> dict[TP, int | None]: ...
    async def committed(self, tps: TP | Iterable[TP]) -> int | dict[TP, int | None] | None:
        """Return the offsets that the group has committed; see `Consumer.committed`."""
        return await self._guest.call(self.native.committed, tps)

    @overload
    async def committed_metadata(self, tps: TP) -> str | None: ...
    @overload
    async def committed_metadata(self, tps: Iterable[TP]) -> dict[TP, str | None]: ...
    async def committed_metadata(self, tps: TP | Iterable[TP]) -> str | dict[TP, str | None] | None:
        """Return the texts of committed offsets; see `Consumer.committed_metadata`."""
        return await self._guest.call(self.native.committed_metadata, tps)

    async def beginning_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Return the first offset of each log; see `Consumer.beginning_offsets`."""
        return await self._guest.call(self.native.beginning_offsets, tps)

    async def end_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Return the offset after the last one of each log; see `Consumer.end_offsets`."""
        return await self._guest.call(self.native.end_offsets, tps)

    async def offsets_for_times(
        self, times: Mapping[TP, float]
    ) -> dict[TP, OffsetAndTimestamp | None]:
        """Return the first message of each log since a time; see `Consumer.offsets_for_times`."""
        return await self._guest.call(self.native.offsets_for_times, times)

    async def topics(self) -> frozenset[str]:
        """Return the names of all topics; see `Consumer.topics`."""
        return await self._guest.call(self.native.topics)

    async def partitions(self, topic: str) -> frozenset[TP]:
        """Return all partitions of a topic; see `Consumer.partitions`."""
        return await self._guest.call(self.native.partitions, topic)

    async def wait_empty(self) -> None:
        """Wait until all delivered messages are acked, then commit; see `Consumer.wait_empty`."""
        await self._guest.call(self.native.wait_empty)

    async def wait_for_stopped_flow(self) -> None:
        """Wait until flow is really stopped; see `Consumer.wait_for_stopped_flow`."""
        await self._guest.call(self.native.wait_for_stopped_flow)

    def close(self) -> None:
        """Start the stop of the consumer; see `Consumer.close`."""
        self._guest.soon(self.native.close)

    async def kill(self) -> None:
        """Stop as in a crash, without a commit or a leave; see `Consumer.kill`."""
        await self._guest.call(self.native.kill)

    @property
    def flow_active(self) -> bool:
        """Whether messages are delivered."""
        return self.native.flow_active

    async def restart(self) -> None:
        """Leave the group, and join it again as a new member; see `Consumer.on_restart`."""
        await self._guest.call(self.native.restart)

    def stop_flow(self) -> None:
        """Stop delivery of all messages; see `Consumer.stop_flow`."""
        self.native.stop_flow()

    def resume_flow(self) -> None:
        """Resume delivery; see `Consumer.resume_flow`."""
        self.native.resume_flow()

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Stop fetching from partitions; see `Consumer.pause_partitions`."""
        self.native.pause_partitions(tps)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Fetch from paused partitions again; see `Consumer.resume_partitions`."""
        self.native.resume_partitions(tps)

    @property
    def assignment(self) -> frozenset[TP]:
        """The partitions that the group has given to this member."""
        return frozenset(self.native.assignment)

    @property
    def unacked(self) -> set[AnyMessage]:
        """The messages that are delivered and not acked."""
        return self.native.unacked

    def ack(self, message: AnyMessage) -> bool:
        """Ack a message; see `Consumer.ack`."""
        return self.native.ack(message)

    def track_message(self, message: AnyMessage) -> None:
        """Check that a message is tracked; see `Consumer.track_message`."""
        self.native.track_message(message)

    def getmany(self, timeout: float) -> GetMany:
        """Return an async iterator over all available messages; see `Consumer.getmany`.

        The asyncio task that iterates takes the messages and awaits the hooks for decode errors.
        """
        seconds("timeout", timeout, least=0, finite=False)
        deadline = time.monotonic() + timeout

        async def wait(events: Sequence[trio.Event]) -> bool:
            return await self._guest.call(_until_set, deadline - time.monotonic(), events)

        guest = self._guest
        return GetMany(self.native.app.conductor, wait, guest.give_way, guest.load)

    async def on_task_error(self, exc: BaseException) -> None:
        """Handle the error of a handler; see `Consumer.on_task_error`."""
        if await self._guest.call(_is_raised_again, self.native, exc):
            raise exc

    @property
    def is_member(self) -> bool:
        """Whether the consumer has its share of the partitions; see `Consumer.is_member`."""
        return self.native.is_member

    @property
    def stuck(self) -> tuple[Stuck, ...]:
        """The stuck partitions that the last search has found, and where they are stuck."""
        return self.native.stuck

    async def verify_all_partitions_active(self) -> None:
        """Search for stuck partitions; see `Consumer.verify_all_partitions_active`."""
        await self._guest.call(self.native.verify_all_partitions_active)


async def _until_set(patience: float, events: Sequence[trio.Event]) -> bool:
    return await until_set(trio.current_time() + patience, events)


async def _is_raised_again(consumer: Consumer, exc: BaseException) -> bool:
    """Handle the error of a handler; return whether the caller has to raise it again.

    An error such as CancelledError is for tasks of asyncio, so no task of trio may raise it.
    """
    try:
        await consumer.on_task_error(exc)
    except BaseException as error:  # `exc` may be any, such as CancelledError
        if error is not exc:
            raise
        return True
    return False
