"""The calls of a producer, for the tasks of an asyncio loop."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from transport.anyio.deliveries import AioDelivery
from transport.anyio.guest import Guest
from transport.anyio.sending import accept
from transport.producing.pending import always, outgoing_of
from transport.producing.producer import Producer
from transport.types import TP, GroupMetadata, HeadersArg, RecordMetadata


class AioProducer:
    """The calls of a producer, for asyncio's tasks; see `Producer` for each.

    A message for `send_soon` is queued by a topic: `AioTopic.send_soon`.
    """

    def __init__(self, producer: Producer, guest: Guest) -> None:
        self.native = producer
        self._guest = guest

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
        *,
        transactional_id: str | None = None,
    ) -> AioDelivery:
        """Send a message of bytes; see `Producer.send`, and `AioTopic.send` for cancelling."""
        message = outgoing_of(topic, key, value, partition, timestamp, headers)
        await accept(self._guest, self.native.writer(transactional_id), always, message)
        return AioDelivery(message, self._guest)

    async def send_and_wait(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
        *,
        transactional_id: str | None = None,
    ) -> RecordMetadata:
        """Send a message of bytes and wait for its outcome; see `Producer.send_and_wait`."""
        delivery = await self.send(
            topic, key, value, partition, timestamp, headers, transactional_id=transactional_id
        )
        return await delivery

    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int = 1,
        *,
        config: Mapping[str, Any] | None = None,
        timeout: float | timedelta = 30.0,
        retention: float | timedelta | None = None,
        compacting: bool | None = None,
        deleting: bool | None = None,
        ensure_created: bool = True,
    ) -> None:
        """Create a topic; see `Producer.create_topic`."""
        create = functools.partial(
            self.native.create_topic,
            config=config,
            timeout=timeout,
            retention=retention,
            compacting=compacting,
            deleting=deleting,
            ensure_created=ensure_created,
        )
        await self._guest.call(create, topic, partitions, replication)

    async def flush(self) -> None:
        """Wait until all accepted messages are delivered or have failed; see `Producer.flush`."""
        await self._guest.call(self.native.flush)

    def key_partition(self, topic: str, key: bytes) -> TP:
        """Return the partition of a key; see `Producer.key_partition`."""
        return self.native.key_partition(topic, key)

    def supports_headers(self) -> bool:
        """Return True: messages can have headers."""
        return self.native.supports_headers()

    @property
    def in_flight(self) -> int:
        """The number of messages that are accepted and have no outcome yet."""
        return self.native.in_flight

    async def begin_transaction(self, transactional_id: str) -> None:
        """Begin a transaction; see `Producer.begin_transaction`."""
        await self._guest.call(self.native.begin_transaction, transactional_id)

    async def maybe_begin_transaction(self, transactional_id: str) -> None:
        """Begin a transaction, unless one of this id is open."""
        await self._guest.call(self.native.maybe_begin_transaction, transactional_id)

    async def commit_transaction(self, transactional_id: str) -> None:
        """Commit a transaction; see `Producer.commit_transaction`."""
        await self._guest.call(self.native.commit_transaction, transactional_id)

    async def abort_transaction(self, transactional_id: str) -> None:
        """Abort a transaction; see `Producer.abort_transaction`."""
        await self._guest.call(self.native.abort_transaction, transactional_id)

    async def stop_transaction(self, transactional_id: str) -> None:
        """Abort a transaction and end its producer; see `Producer.stop_transaction`."""
        await self._guest.call(self.native.stop_transaction, transactional_id)

    async def commit_transactions(
        self,
        tid_to_offset_map: Mapping[str, Mapping[TP, int]],
        group_id: GroupMetadata | str,
        start_new_transaction: bool = True,
    ) -> None:
        """Commit several transactions with their offsets; see `Producer.commit_transactions`."""
        await self._guest.call(
            self.native.commit_transactions, tid_to_offset_map, group_id, start_new_transaction
        )

    async def kill(self) -> None:
        """End as a crash would; see `Producer.kill`."""
        await self._guest.call(self.native.kill)
