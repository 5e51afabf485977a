"""The producer: messages are accepted, sent in batches, and reported on."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import trio
from trio.lowlevel import checkpoint_if_cancelled

from nurseries import Service
from transport.drivers.base import Outcome, Outgoing, ProducerClient
from transport.errors import AppClosed, ClientClosed, DeliveryFailed, MessageTooLarge
from transport.types import TP, Headers, HeadersArg, RecordMetadata

if TYPE_CHECKING:
    from transport.app import App
    from transport.base import Transport

# What a record takes beside its key, value and headers, at most, in bytes.
_OVERHEAD = 70
# `send` gives way to other tasks after so many messages.
_TURN = 64


@attrs.define(eq=False)
class Delivery:
    """A message that was accepted: `await` it for where it was written.

    Any number of tasks may await it, from any task. Awaiting is a checkpoint; cancelling ends
    only the waiting. Raises DeliveryFailed (with the cause), DeliveryTimeout, MessageTooLarge.
    """

    outgoing: Outgoing
    size: int
    outcome: Outcome | None = None
    was_seen: bool = False
    _on_seen: Callable[[], object] | None = None
    _ended: trio.Event | None = None
    _waiting: int = 0

    async def wait(self) -> RecordMetadata:
        """Wait for the outcome: the same as awaiting the object."""
        if self.outcome is None:
            if self._ended is None:
                self._ended = trio.Event()
            self._waiting += 1
            try:
                await self._ended.wait()
            finally:
                self._waiting -= 1
        else:
            await trio.lowlevel.checkpoint()
        self.was_seen = True
        if self._on_seen is not None:
            self._on_seen()
        if isinstance(self.outcome, RecordMetadata):
            return self.outcome
        assert self.outcome is not None
        raise self.outcome

    def __await__(self) -> Generator[Any, Any, RecordMetadata]:
        return self.wait().__await__()

    def end(self, outcome: Outcome, on_seen: Callable[[], object]) -> None:
        """For the producer, which wants to know once somebody has seen a failure."""
        self.outcome = outcome
        self._on_seen = on_seen
        if self._ended is not None:
            self._ended.set()
        self.was_seen = self.was_seen or self._waiting > 0


@attrs.define(eq=False)
class _Flush:
    """What was accepted before a flush and has no outcome yet."""

    left: set[Delivery]
    ended: trio.Event = attrs.field(factory=trio.Event)

    def look(self) -> None:
        if not self.left:
            self.ended.set()


class Producer(Service):
    """Sends messages, in batches, from one task.

    What is accepted and not yet delivered is bounded in messages and bytes; `send` is where the
    bound is felt.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.app: App = transport.app
        settings = self.app.settings
        super().__init__("Producer", grace=settings.grace)
        self.client_id = settings.client.client_id
        self.linger_ms = round(settings.client.linger * 1000)
        self.max_batch_size = settings.client.max_batch_size
        self.max_request_size = settings.client.max_request_size
        self.acks = settings.client.acks
        self.compression_type = settings.client.compression_type
        self.request_timeout = settings.client.request_timeout
        self.partitioner = settings.partitioner
        self.client: ProducerClient = transport.driver.producer(settings.client)
        self._max_messages = settings.send_buffer_messages
        self._max_bytes = settings.send_buffer_bytes
        self._bytes = 0
        self._queue: list[Outgoing] = []
        self._filled = trio.Event()
        self._in_flight: dict[Outgoing, Delivery] = {}
        self._flushes: list[_Flush] = []
        self._room = trio.Event()
        self._turn = 0
        self._partitions: dict[str, tuple[int, float]] = {}  # topic: how many, until when
        self._unseen: dict[int, tuple[str, Exception]] = {}  # failed, and nobody has asked
        self._failed = itertools.count()
        self._accepts = False
        self._is_killed = False

    # Life

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        await self.client.open(self._report)
        self._accepts = True
        self.spawn("sender", self._send_batches)
        self.spawn("deadlines", self.client.keep_deadlines)

    @trio.lowlevel.enable_ki_protection
    async def on_stop(self) -> None:
        """Deliver what was accepted, then close; raises if a failure was never looked at."""
        self._accepts = False
        self._wake_senders()
        if self._is_killed:
            return
        left = trio.current_effective_deadline() - trio.current_time()
        try:
            with trio.move_on_after(left * 0.6):
                await self.flush()
        finally:
            await self.client.close(max(0.1, left * 0.3))
            await trio.lowlevel.checkpoint()  # what close failed has been reported by now
            self._give_up("the app was closed")
        for topic, error in self._unseen.values():
            raise DeliveryFailed(
                f"{len(self._unseen)} messages were not delivered and nobody has awaited them;"
                f" the first went to {topic!r}"
            ) from error

    async def kill(self) -> None:
        """Go as a crash would. For demonstrations and tests."""
        self._is_killed = True
        self._accepts = False
        self._wake_senders()
        await self.client.kill()
        self._give_up("the app was killed")

    # Sending

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
    ) -> Delivery:
        """Accept a message; returns once there is room for it, with its delivery.

        Looks for cancellation at each call and is a full checkpoint now and then, and whenever
        it has to wait. Cancelled: nothing was accepted.

        Args:
            partition: None: by the key (see `key_partition`), without one as the client likes.
            timestamp: seconds since 1970; None: now.
            headers: pairs or a mapping of str to bytes.

        Raises:
            UnknownTopic, BrokerUnavailable, AuthorizationFailed: the topic's metadata can't be had.
            MessageTooLarge: larger than `max_request_size` or the send buffer.
            ValueError: no such partition.
            AppClosed: the app is not open.
        """
        outgoing = Outgoing(
            topic,
            partition,
            key,
            value,
            _pairs(headers),
            None if timestamp is None else round(timestamp * 1000),
        )
        size = self._measure(outgoing)
        count = self._known_partitions(topic)
        if count is None:
            count = await self._ask_partitions(topic)
        if partition is None:
            if key is not None:
                outgoing.partition = self.partitioner(key, count)
        elif not 0 <= partition < count:
            raise ValueError(f"{topic!r} has {count} partitions, none is {partition}")
        self._turn += 1
        if self._turn % _TURN:
            await checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while self._accepts and not self._has_room(size):
            await self._room.wait()
        if not self._accepts:
            raise AppClosed("the app is not open: nothing can be sent")
        return self._accept(outgoing, size)

    async def send_and_wait(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
    ) -> RecordMetadata:
        """Send a message and wait for its delivery; raises as both do.

        A checkpoint. Cancelled while it waits for the delivery: the message is sent all the same.
        """
        delivery = await self.send(topic, key, value, partition, timestamp, headers)
        return await delivery

    async def flush(self) -> None:
        """Wait until all that was accepted before the call is delivered or has failed.

        A checkpoint. Cancelling changes nothing.
        """
        flush = _Flush(set(self._in_flight.values()))
        flush.look()
        self._flushes.append(flush)
        try:
            await flush.ended.wait()
        finally:
            self._flushes.remove(flush)

    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int = 1,
        *,
        config: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Create a topic and wait until it can be written; one that exists is fine.

        A checkpoint. Cancelled: it may be created all the same.

        Args:
            config: the topic's, such as `{"retention.ms": "60000"}`.
            timeout: seconds.

        Raises:
            UnknownTopic: no topic can have the name. BrokerUnavailable, AuthorizationFailed.
            AppClosed: the app is not open.
        """
        if not self._accepts:
            raise AppClosed("the app is not open: no topic can be created")
        await self.client.create_topic(topic, partitions, replication, config or {}, timeout)

    def key_partition(self, topic: str, key: bytes) -> TP:
        """The partition that a key belongs to, by the partitioner.

        Not a checkpoint. Raises LookupError if nothing was sent to the topic yet, since only
        the broker knows how many partitions it has.
        """
        if topic not in self._partitions:
            raise LookupError(f"the partitions of {topic!r} are not known yet")
        count, _ = self._partitions[topic]
        return TP(topic, self.partitioner(key, count))

    def supports_headers(self) -> bool:
        """Whether messages can have headers: yes."""
        return True

    def _measure(self, outgoing: Outgoing) -> int:
        size = _OVERHEAD + len(outgoing.key or b"") + len(outgoing.value or b"")
        for name, data in outgoing.headers:
            size += len(name) + len(data)
        most = min(self.max_request_size, self._max_bytes)
        if size > most:
            raise MessageTooLarge(f"a message of {size} bytes for {outgoing.topic!r}: {most} fit")
        return size

    def _known_partitions(self, topic: str) -> int | None:
        count, until = self._partitions.get(topic, (0, 0.0))
        return count if trio.current_time() < until else None

    def _has_room(self, size: int) -> bool:
        return not self._in_flight or (
            len(self._in_flight) < self._max_messages and self._bytes + size <= self._max_bytes
        )

    async def _ask_partitions(self, topic: str) -> int:
        if not self._accepts:
            raise AppClosed("the app is not open: nothing can be sent")
        settings = self.app.settings
        count = await self.client.partition_count(topic, settings.client.connect_timeout)
        self._partitions[topic] = count, trio.current_time() + settings.metadata_max_age
        return count

    @trio.lowlevel.enable_ki_protection
    def _accept(self, outgoing: Outgoing, size: int) -> Delivery:
        delivery = Delivery(outgoing, size)
        self._in_flight[outgoing] = delivery
        self._bytes += size
        if not self._queue:
            self._filled.set()
        self._queue.append(outgoing)
        return delivery

    @trio.lowlevel.enable_ki_protection
    async def _send_batches(self) -> None:
        while True:
            await self._filled.wait()
            batch, self._queue = self._queue, []
            self._filled = trio.Event()
            try:
                await self.client.send(batch)
            except ClientClosed:
                if not self._is_killed:
                    raise
                return

    @trio.lowlevel.enable_ki_protection
    def _report(self, reports: Sequence[tuple[Outgoing, Outcome]]) -> None:
        ended = []
        for outgoing, outcome in reports:
            delivery = self._in_flight.pop(outgoing, None)
            if delivery is None:
                continue  # it has its outcome
            self._bytes -= delivery.size
            number = next(self._failed) if isinstance(outcome, Exception) else -1
            delivery.end(outcome, functools.partial(self._unseen.pop, number, None))
            ended.append(delivery)
            if not delivery.was_seen and isinstance(outcome, Exception):
                self._unseen[number] = outgoing.topic, outcome
        for flush in self._flushes:
            flush.left.difference_update(ended)
            flush.look()
        self._wake_senders()

    def _give_up(self, why: str) -> None:
        self._report([(outgoing, DeliveryFailed(why)) for outgoing in self._in_flight])

    def _wake_senders(self) -> None:
        self._room.set()
        self._room = trio.Event()


def _pairs(headers: HeadersArg) -> Headers:
    if headers is None:
        return ()
    return tuple(headers.items()) if isinstance(headers, Mapping) else tuple(headers)
