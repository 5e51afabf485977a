"""The calls of a consumer, for the tasks of an asyncio loop."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from transport.anyio.guest import Guest
from transport.consuming.consumer import Consumer
from transport.message import AnyMessage
from transport.types import TP


class AioConsumer:
    """The calls of a consumer, for asyncio's tasks; see `Consumer` for each."""

    def __init__(self, consumer: Consumer, guest: Guest) -> None:
        self.native = consumer
        self._guest = guest

    async def commit(
        self, topics: Collection[str | TP] | None = None, start_new_transaction: bool = True
    ) -> bool:
        """Commit the safe offsets, and return whether an offset moved; see `Consumer.commit`."""
        return await self._guest.call(self.native.commit, topics, start_new_transaction)

    async def seek(self, partition: TP, offset: int) -> None:
        """Continue at `offset` in a new epoch; see `Consumer.seek`."""
        await self._guest.call(self.native.seek, partition, offset)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every partition to its committed offset; see `Consumer.seek_to_committed`."""
        return await self._guest.call(self.native.seek_to_committed)

    async def wait_empty(self) -> None:
        """Wait until all delivered messages are acked, then commit; see `Consumer.wait_empty`."""
        await self._guest.call(self.native.wait_empty)

    async def wait_for_stopped_flow(self) -> None:
        """Wait until flow is really stopped; see `Consumer.wait_for_stopped_flow`."""
        await self._guest.call(self.native.wait_for_stopped_flow)

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
    def unacked(self) -> set[AnyMessage]:
        """The messages that are delivered and not acked."""
        return self.native.unacked
