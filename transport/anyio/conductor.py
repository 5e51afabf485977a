"""The set of the topic objects that an app reads, for the tasks of an asyncio loop."""

from __future__ import annotations

from collections.abc import Collection

from transport.anyio.guest import Guest
from transport.anyio.topic import AioTopic
from transport.consuming.conductor import Conductor, Listener
from transport.types import TP


class AioConductor:
    """The calls of a conductor, for asyncio's tasks; see `Conductor` for each."""

    def __init__(self, conductor: Conductor, guest: Guest) -> None:
        self.native = conductor
        self._guest = guest

    def add(self, topic: Listener) -> None:
        """Listen to a topic from now on; see `Conductor.add`."""
        self.native.add(_native(topic))

    def discard(self, topic: Listener) -> None:
        """Stop listening to a topic; see `Conductor.discard`."""
        self.native.discard(_native(topic))

    def clear(self) -> None:
        """Stop listening to all topics."""
        self.native.clear()

    def __contains__(self, topic: Listener) -> bool:
        return _native(topic) in self.native

    def __len__(self) -> int:
        return len(self.native)

    @property
    def wanted(self) -> frozenset[str]:
        """The names of the topics with at least one channel."""
        return self.native.wanted

    @property
    def subscribed(self) -> frozenset[str]:
        """The names of the topics that the consumer is subscribed to."""
        return self.native.subscribed

    async def wait_for_subscriptions(self) -> None:
        """Wait until the consumer is subscribed; see `Conductor.wait_for_subscriptions`."""
        await self._guest.call(self.native.wait_for_subscriptions)

    async def maybe_wait_for_subscriptions(self) -> None:
        """Wait as `wait_for_subscriptions` does; return at once if there is no topic."""
        await self._guest.call(self.native.maybe_wait_for_subscriptions)

    @property
    def acking_topics(self) -> set[str]:
        """The names of the topics whose messages must be acked."""
        return self.native.acking_topics

    def acks_enabled_for(self, topic: str) -> bool:
        """Return whether the messages of a topic must be acked."""
        return self.native.acks_enabled_for(topic)

    async def commit(self, topics: Collection[str | TP]) -> bool:
        """Commit the safe offsets of some topics or partitions: see `Consumer.commit`."""
        return await self._guest.call(self.native.commit, topics)


def _native(topic: Listener) -> Listener:
    return topic.native if isinstance(topic, AioTopic) else topic
