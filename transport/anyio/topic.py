"""A topic object, for the tasks of an asyncio loop.

An asyncio task sends, takes and acks messages in its own turn, without a turn of the guest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from transport.anyio.deliveries import AioDelivery, AioFutureMessage, AioManyDeliveries
from transport.anyio.guest import Guest
from transport.anyio.partitions import AioPartitions
from transport.anyio.reader import AioReader
from transport.anyio.sending import accept, accept_many
from transport.codecs import NotLoaded
from transport.codecs.errors import load_and_call
from transport.delivering.channel import Channel, DecodeErrorHook
from transport.delivering.in_hand import IN_HAND, InHand, Source
from transport.message import AnyBatch, AnyMessage, Batch, Message
from transport.producing.delivery import ManyDeliveries
from transport.topic import MessageArgs, Topic
from transport.types import HeadersArg, K, RecordMetadata, V

M = TypeVar("M", bound=AnyMessage | AnyBatch)


class AioTopic(Generic[K, V]):
    """A topic object for asyncio's tasks; see `Topic` for each call."""

    def __init__(self, topic: Topic[K, V], guest: Guest) -> None:
        self.native = topic
        self._guest = guest

    @property
    def name(self) -> str:
        """The topic's name, or the pattern of names."""
        return self.native.name

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """The pattern. None: the topic has a name."""
        return self.native.pattern

    @property
    def channel(self) -> Channel:
        """The buffer of the messages. For the transport."""
        return self.native.channel

    def matches(self, name: str) -> bool:
        """Return whether this object receives the messages of the topic with this name."""
        return self.native.matches(name)

    def another(self) -> AioTopic[K, V]:
        """Return another topic object for the same topic and types; see `Topic.another`."""
        return AioTopic(self.native.another(), self._guest)

    def listen(self) -> None:
        """Receive messages from now on, as making an iterator does; see `Topic.listen`."""
        self.native.listen()

    def __aiter__(self) -> AioReader[Message[K, V]]:
        """Return an iterator over the messages, which acks each when the loop asks for the next."""
        return self._read(self.native.channel.take, acks=True)

    def noack(self) -> AioReader[Message[K, V]]:
        """Return an iterator over messages that your handler acks."""
        return self._read(self.native.channel.take, acks=False)

    def batches(
        self, max_size: int | None = None, *, noack: bool = False
    ) -> AioReader[Batch[K, V]]:
        """Return an iterator over batches, each of one partition's messages."""
        most = self.native.batch_size(max_size)
        return self._read(lambda: self.native.channel.take_batch(most), acks=not noack)

    def partitions(self) -> AioPartitions[K, V]:
        """Return an iterator over the assigned partitions; see `Topic.partitions`."""
        return AioPartitions(self.native.partitions(), self._guest)

    @property
    def on_key_decode_error(self) -> DecodeErrorHook:
        """The hook for keys that cannot be decoded; see `Topic.on_key_decode_error`.

        The asyncio task that iterates awaits the hook.
        """
        return self.native.on_key_decode_error

    @on_key_decode_error.setter
    def on_key_decode_error(self, hook: DecodeErrorHook) -> None:
        self.native.on_key_decode_error = hook

    @property
    def on_value_decode_error(self) -> DecodeErrorHook:
        """The same as `on_key_decode_error`, for values."""
        return self.native.on_value_decode_error

    @on_value_decode_error.setter
    def on_value_decode_error(self, hook: DecodeErrorHook) -> None:
        self.native.on_value_decode_error = hook

    async def send(
        self,
        *,
        key: K | None = None,
        value: V | None = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
        source: Source | InHand | None = IN_HAND,
    ) -> AioDelivery:
        """Send a message; see `Topic.send`.

        Cancelled while it waits for room: the message may be accepted. Cancelled while it gives way
        to other tasks: the message is not accepted.

        If the message fits and the topic's partitions are known, the call gives way at every Nth
        message or after 2 ms, as on trio.
        """
        guest, native = self._guest, self.native
        try:
            writer, check, message = native.addressed(
                key, value, partition, timestamp, headers, source
            )
        except NotLoaded as missing:
            writer, check, message = await load_and_call(
                missing,
                lambda: native.addressed(key, value, partition, timestamp, headers, source),
                guest.load,
            )
        await accept(guest, writer, check, message)
        return AioDelivery(message, guest)

    async def send_many(
        self,
        messages: Iterable[tuple[K | None, V | None] | MessageArgs[K, V]],
        *,
        source: Source | InHand | None = IN_HAND,
    ) -> AioManyDeliveries:
        """Send several messages in one call; see `Topic.send_many`."""
        listed = await self.native.addressed_many_loaded(messages, self._guest.load)
        writer, check = self.native.writer_for(source)
        await accept_many(self._guest, writer, check, listed)
        return AioManyDeliveries(ManyDeliveries(listed), self._guest)

    def _read(self, take: Callable[[], M | None], *, acks: bool) -> AioReader[M]:
        self.native.listen()
        return AioReader(self.native.channel, self._guest, take, acks=acks)

    def send_soon(
        self,
        *,
        key: K | None = None,
        value: V | None = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
        source: Source | InHand | None = IN_HAND,
    ) -> AioFutureMessage:
        """Queue a message, without waiting; see `Topic.send_soon`."""
        message = self.native.send_soon(
            key=key,
            value=value,
            partition=partition,
            timestamp=timestamp,
            headers=headers,
            source=source,
        )
        return AioFutureMessage(message, self._guest)

    async def send_and_wait(
        self,
        *,
        key: K | None = None,
        value: V | None = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
        source: Source | InHand | None = IN_HAND,
    ) -> RecordMetadata:
        """Send a message and wait for its outcome; see `Topic.send_and_wait`."""
        delivery = await self.send(
            key=key,
            value=value,
            partition=partition,
            timestamp=timestamp,
            headers=headers,
            source=source,
        )
        return await delivery

    def __repr__(self) -> str:
        return f"<AioTopic {self.name}>"
