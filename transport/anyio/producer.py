"""The calls of a producer, for the tasks of an asyncio loop."""

from __future__ import annotations

import functools
from typing import Any

from transport.anyio.guest import Guest
from transport.producing.producer import Producer
from transport.types import TP


class AioProducer:
    """The calls of a producer, for asyncio's tasks; see `Producer` for each. Topics send."""

    def __init__(self, producer: Producer, guest: Guest) -> None:
        self.native = producer
        self._guest = guest

    async def create_topic(
        self, topic: str, partitions: int, replication: int = 1, **options: Any
    ) -> None:
        """Create a topic; see `Producer.create_topic`."""
        create = functools.partial(self.native.create_topic, **options)
        await self._guest.call(create, topic, partitions, replication)

    async def flush(self) -> None:
        """Wait until all accepted messages are delivered or have failed; see `Producer.flush`."""
        await self._guest.call(self.native.flush)

    def key_partition(self, topic: str, key: bytes) -> TP:
        """Return the partition of a key; see `Producer.key_partition`."""
        return self.native.key_partition(topic, key)
