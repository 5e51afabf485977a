"""The producer: messages are accepted, sent in batches, and reported on."""

from __future__ import annotations

import contextlib
import functools
import logging
import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import attrs
import trio
from outcome import Error, Value
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from nurseries import Service
from transport.arguments import flag, instance, offsets_of, text, topic_name, wrong_type
from transport.drivers.base import Outcome, Outgoing, ProducerClient
from transport.errors import (
    AppClosed,
    ClientClosed,
    DeliveryFailed,
    Fenced,
    MessageTooLarge,
    TransactionAborted,
    TransportError,
    UnknownTopic,
)
from transport.partitioner import Partitioner, java_partitioner
from transport.producing.buffer import ProducerBuffer
from transport.producing.delivery import Delivery, Failures, InFlight, ManyDeliveries
from transport.producing.host import Host, Maker
from transport.producing.pending import FutureMessage, always, numbered, outgoing_of
from transport.producing.threaded import ThreadedProducer
from transport.producing.topic_creation import Creations
from transport.producing.transaction import Transaction
from transport.producing.transactional_producers import TransactionalProducers
from transport.types import TP, GroupMetadata, HeadersArg, RecordMetadata

logger = logging.getLogger("transport.producer")

# What a record takes beside its key, value and headers, at most, in bytes.
_OVERHEAD = 70
# Seconds for which a topic's number of partitions is not asked for again. The client has the number
# and refreshes it within `metadata_max_age`.
_TRUST = 1.0
_UNKNOWN = (0, float("-inf"))


class Producer(Service):
    """Sends messages, in batches, from one task.

    What is accepted and not yet delivered is bounded in messages and bytes; `send` is where the
    bound is felt.

    One with a transactional id sends within transactions only. It belongs to the producer that made
    it (`begin_transaction`), and ends with it.

    Attributes:
        transactional: the producers with transactional ids, for the transactions of this one.
        transaction: that of a producer with an id.
        failures: why messages were not delivered; the first of this transaction.
    """

    def __init__(self, transport: Maker, *, transactional_id: str | None = None) -> None:
        self.transport = transport
        self.app: Host = transport.app
        settings = self.app.settings
        name = "Producer" if transactional_id is None else f"Producer of {transactional_id}"
        super().__init__(name, grace=settings.grace)
        self.transaction: Transaction | None = None
        if transactional_id is not None:
            self.transaction = Transaction(self, transactional_id)
        self.transactional = TransactionalProducers(self)
        self._client_settings = attrs.evolve(settings.client, transactional_id=transactional_id)
        self.client_id = settings.client.client_id
        self.linger_ms = round(self._client_settings.producer_linger * 1000)
        self.max_batch_size = settings.client.max_batch_size
        self.max_request_size = settings.client.max_request_size
        self.acks = settings.client.acks
        self.compression_type = settings.client.compression_type
        self.request_timeout = settings.client.request_timeout
        self.partitioner = settings.partitioner
        self.ssl_context = settings.client.ssl_context
        self.buffer = ProducerBuffer(self, settings.send_buffer_messages)
        self.threaded_producer = ThreadedProducer(self)
        self.client: ProducerClient = transport.driver.producer(self._client_settings)
        # Messages of a transaction wait for others, unless somebody waits for them.
        self.hurry = None if transactional_id is None else self._hurry
        self.failures = Failures()
        self._in_flight = InFlight(
            settings.send_buffer_messages, settings.send_buffer_bytes, self.failures
        )
        self._in_flight.on_line = self._on_line
        self._without_linger = contextlib.ExitStack()  # while senders wait for room
        self._most_size = min(self.max_request_size, settings.send_buffer_bytes)
        self._queue: list[Outgoing] = []
        self._filled = trio.Event()
        self._partitions: dict[str, tuple[int, float]] = {}  # topic: how many, until when
        self._now: Callable[[], float] = lambda: 0.0  # trio's clock, also outside of trio
        self._topic_ids: dict[str, object] = {}
        self._creations = Creations(self.client)
        self._accepts = False
        self._is_killed = False

    # Life

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        await self.client.open(self._report)
        self._now = trio.lowlevel.current_clock().current_time
        self._accepts = True
        self.buffer.open()
        self.spawn("sender", self._send_batches)
        self.spawn("buffer", self.buffer.run)
        self.spawn("deadlines", self.client.keep_deadlines)

    @trio.lowlevel.enable_ki_protection
    async def on_stop(self) -> None:
        """Deliver what was accepted, then close; raises if a failure was never looked at."""
        self.buffer.close()
        if not self._is_killed:
            with trio.move_on_after(self.time_left * 0.3):
                await self.buffer.wait()
        self.buffer.refuse_all(AppClosed("the app was closed"))
        self._accepts = False
        self._in_flight.call_all()
        if self._is_killed:
            return
        await self.stop_children()
        left = self.time_left
        try:
            with trio.move_on_after(left * 0.6):
                await self._finish()
        finally:
            await self.client.close(max(0.1, left * 0.3))
            await trio.lowlevel.checkpoint()  # what close failed has been reported by now
            self._fail(DeliveryFailed("the app was closed"))
        self.failures.check()

    async def _finish(self) -> None:
        if self.transaction is None:
            await self.flush()
        elif self.transaction.is_open:
            try:
                await self.transaction.abort(TransactionAborted("the app is closing"))
            except Fenced:
                pass  # who has the id now has ended what was open
            except TransportError as exc:
                logger.warning("%s has left its transaction to run out: %s", self.name, exc)

    async def kill(self) -> None:
        """Go as a crash would. For demonstrations and tests."""
        self._is_killed = True
        self.buffer.close()
        self._accepts = False
        self._in_flight.call_all()
        for writer in self.transactional:
            await writer.kill()
        await self.client.kill()
        self._fail(DeliveryFailed("the app was killed"))

    # Sending

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
    ) -> Delivery:
        """Wait for room, accept a message and return its delivery.

        Each call checks for cancellation. It is a full checkpoint now and then, and whenever it has
        to wait. Cancelled: nothing was accepted.

        Args:
            partition: None: by the key (see `key_partition`); without a key the client chooses.
            timestamp: seconds since 1970; None: now.
            headers: pairs or a mapping of str to bytes; None stands for a header without a value.
            transactional_id: of the open transaction that it belongs to.

        Raises:
            TransactionAborted: no transaction of this id is open.
            UnknownTopic, BrokerUnavailable, AuthorizationFailed: the topic's metadata is not
                available.
            MessageTooLarge: larger than `max_request_size` or the send buffer.
            ValueError: the topic has no such partition (the partitioner may have chosen it), or an
                argument is out of range, such as a timestamp in milliseconds.
            TypeError: an argument of another type.
            AppClosed: the app is not open.
        """
        outgoing = outgoing_of(topic, key, value, partition, timestamp, headers)
        return await self.writer(transactional_id).send_while(always, outgoing)

    async def send_while(self, check: Callable[[], None], message: Delivery) -> Delivery:
        """Accept a message as `send` does, unless `check` raises at that moment."""
        await checkpoint_if_cancelled()
        if self.accept_now(message, check) is None:
            await self._accept_later(check, message)
        elif message.gives_way:
            await cancel_shielded_checkpoint()  # nobody is cancelled whose message is accepted
        return message

    async def _accept_later(self, check: Callable[[], None], message: Delivery) -> None:
        """Accept a message once its topic is known and it has room. A checkpoint."""
        count = self.known_partitions(message.topic)
        if count is None:
            count = await self.ask_partitions(message.topic)
        if self.accept_now(message, check, count) is None:
            await self._in_flight.wait_for_room((message,), functools.partial(self._accept, check))

    @trio.lowlevel.enable_ki_protection
    def accept_now(
        self,
        message: Delivery,
        check: Callable[[], None] | None = None,
        count: int | None = None,
    ) -> Delivery | None:
        """Accept a message without waiting; None: its sender has to wait (`send_while`).

        It has to wait if there is no room, if others wait for room, or if the topic's partitions
        are not known. Not a checkpoint, and callable outside of trio, in the app's thread.

        Args:
            message: made by `outgoing_of`; nobody else has it.
            check: raises if the message must not be accepted.
            count: how many partitions the topic has; None: if it is known.

        Raises what `send` does, but for the errors of waiting.
        """
        if count is None:
            count, until = self._partitions.get(message.topic, _UNKNOWN)
            if self._now() >= until:
                return None
        self._prepare(message, count)
        # As `_accept`, without its call, because this runs for each message.
        if not self._accepts:
            raise AppClosed("the app is not open: nothing can be sent")
        if check is not None and check is not always:
            if not self._in_flight.has_room(message.size):
                return None
            check()
        if not self._in_flight.accept_if_room(message):
            return None
        if not self._queue:
            self._filled.set()
        self._queue.append(message)
        return message

    def accept_in_turn(
        self,
        check: Callable[[], None],
        messages: Sequence[Delivery],
        answer: Callable[[Value[None] | Error], object],
    ) -> Callable[[], None]:
        """Wait for room without a task of trio, for messages for which there was none.

        `accept_now` or `accept_many_now` has returned None for want of room. `answer` is called, at
        once or in trio's turn, when all are accepted or one was refused. The returned function ends
        the waiting: messages that are not accepted by then are not sent.
        """
        if not self._accepts:
            raise AppClosed("the app is not open: nothing can be sent")
        accept = functools.partial(self._accept, check)
        return self._in_flight.call_in_turn(messages, accept, answer)

    async def send_many_while(
        self, check: Callable[[], None], messages: Sequence[Delivery]
    ) -> ManyDeliveries:
        """Accept messages for one topic, in order, as `send_while` accepts each.

        All are checked before the first is accepted. No message of another sender comes between
        those that wait for room. Cancelled: the first ones may have been accepted.
        """
        many = ManyDeliveries(messages)
        if not messages:
            await trio.lowlevel.checkpoint()
            return many
        topic = messages[0].topic
        count = self.known_partitions(topic)
        if count is None:
            count = await self.ask_partitions(topic)
        self._prepare_all(messages, count)
        await trio.lowlevel.checkpoint()
        accepted = self._accept_first(check, messages)
        if accepted < len(messages):
            await self._in_flight.wait_for_room(
                messages[accepted:], functools.partial(self._accept, check)
            )
        return many

    def accept_many_now(
        self,
        messages: Sequence[Delivery],
        check: Callable[[], None] | None = None,
        count: int | None = None,
    ) -> ManyDeliveries | None:
        """Accept messages for one topic without waiting; None: none of them was accepted.

        As `accept_now`; either all of them have room or none is accepted.
        """
        if count is None:
            count = 0 if not messages else self.known_partitions(messages[0].topic)
        if count is None:
            return None
        self._prepare_all(messages, count)
        if self._accepts and not self._in_flight.have_room(messages):
            return None
        self._accept_first(always if check is None else check, messages)
        return ManyDeliveries(messages)

    def send_soon(self, fut: FutureMessage) -> None:
        """Send a message from code that cannot wait, or from another thread. Not a checkpoint.

        It is sent in its turn, and `fut` gets the outcome; a failure that nobody has looked at is
        raised at the end of the app. One topic that does not answer delays no other.

        Raises:
            BufferFull: `send_buffer_messages` are to be sent already.
            ValueError: `fut` was given to a producer before.
            AppClosed: the app is not open.
        """
        instance("fut", fut, FutureMessage, "a FutureMessage")
        self.buffer.put(fut)

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
        """Send a message and wait for its delivery; raises as both do.

        A checkpoint. Cancelled while it waits for the delivery: the message is sent all the same.
        """
        message = outgoing_of(topic, key, value, partition, timestamp, headers)
        await self.writer(transactional_id).send_while(always, message)
        return await message.wait()

    async def flush(self) -> None:
        """Wait until all that was accepted before the call is delivered or has failed.

        So is what was to be sent soon. A checkpoint. Cancelling changes nothing.
        """
        with self._in_flight.flushing() as flushed, self.client.without_linger():
            await self.buffer.wait()  # for what it holds now: no checkpoint comes between
            await flushed.wait()

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
        """Create a topic; one that exists is fine, and stays as it is.

        A checkpoint. Cancelled: it may be created all the same. For one topic there is one
        request at a time: calls that ask for the same share it, others wait for its end.

        Args:
            config: the topic's, such as `{"retention.ms": 60000}`; the following go before it.
            timeout: seconds, or a timedelta, for the broker's answer and the waiting.
            retention: seconds, or a timedelta, for which records are kept.
            compacting: whether old records go by their keys.
            deleting: whether old records go by their age.
            ensure_created: wait until it can be written.

        Raises:
            UnknownTopic: no topic can have the name. AuthorizationFailed.
            BrokerUnavailable: no answer within the timeout, or it cannot be written yet; it may be
                created all the same.
            TransportError: the broker does not take the options; it says why.
            ValueError: less than one partition, or a topic that neither compacts nor deletes.
            AppClosed: the app is not open.
        """
        if not self._accepts:
            raise AppClosed("the app is not open: no topic can be created")
        await self._creations.create(
            topic,
            partitions,
            replication,
            config=config,
            timeout=timeout,
            retention=retention,
            compacting=compacting,
            deleting=deleting,
            ensure_created=ensure_created,
        )

    def key_partition(self, topic: str, key: bytes) -> TP:
        """The partition that a key belongs to, by the partitioner.

        Not a checkpoint. Raises LookupError if nothing was sent to the topic yet, since only
        the broker knows how many partitions it has; ValueError: the partitioner chose none of
        them.
        """
        topic_name("topic", topic)
        instance("key", key, (bytes, bytearray, memoryview), "bytes")
        if topic not in self._partitions:
            raise LookupError(f"the partitions of {topic!r} are not known yet")
        count, _ = self._partitions[topic]
        return TP(topic, self._ask_partitioner(topic, bytes(key), count))

    def supports_headers(self) -> bool:
        """Whether messages can have headers: yes."""
        return True

    # Transactions

    def writer(self, transactional_id: str | None) -> Producer:
        """The producer with this id; None: this one. Raises TransactionAborted: there is none."""
        if transactional_id is None:
            return self
        text("transactional_id", transactional_id)
        return self.transactional.in_transaction(transactional_id)

    async def begin_transaction(self, transactional_id: str) -> None:
        """Begin a transaction; the first one of an id starts a producer for it.

        That fences whoever had the id before, and aborts what that one left open. A checkpoint.
        Cancelled: the start is undone, or the transaction has begun.

        Raises RuntimeError: one of this id is open, or being begun. Fenced, BrokerUnavailable,
        AuthorizationFailed.
        """
        text("transactional_id", transactional_id)
        await self.transactional.begin(transactional_id)

    async def maybe_begin_transaction(self, transactional_id: str) -> None:
        """Begin a transaction unless one of this id is open; otherwise as `begin_transaction`."""
        text("transactional_id", transactional_id)
        if self.transactional.is_open(transactional_id):
            await trio.lowlevel.checkpoint()
        else:
            await self.begin_transaction(transactional_id)

    async def commit_transaction(self, transactional_id: str) -> None:
        """Commit what was sent in it, all or nothing. A checkpoint.

        Cancelled: it is committed or not; `abort_transaction` settles that. Raises
        TransactionAborted, CommitUnknown: it is to be aborted; Fenced, AuthorizationFailed,
        BrokerUnavailable.
        """
        text("transactional_id", transactional_id)
        await self.transactional.transaction_of(transactional_id).commit({}, None)

    async def abort_transaction(self, transactional_id: str) -> None:
        """Undo what was sent in it; its deliveries fail. A checkpoint; raises Fenced."""
        text("transactional_id", transactional_id)
        await self.transactional.transaction_of(transactional_id).abort(
            TransactionAborted("it was aborted")
        )

    async def stop_transaction(self, transactional_id: str) -> None:
        """Abort what is open, and end the producer of this id, if there is one. A checkpoint.

        Cancelled: it ends all the same.
        """
        text("transactional_id", transactional_id)
        await self.transactional.stop(transactional_id)

    async def commit_transactions(
        self,
        tid_to_offset_map: Mapping[str, Mapping[TP, int]],
        group_id: GroupMetadata | str,
        start_new_transaction: bool = True,
    ) -> None:
        """Commit several transactions, each with its offsets, one after the other. A checkpoint.

        Args:
            tid_to_offset_map: the offsets for each transactional id.
            group_id: the group whose offsets they are. Given as this consumer's metadata
                it is a fence as well: what a member thrown out of its group commits is refused.
            start_new_transaction: begin the next one of each.

        Raises as `commit_transaction` does, at the first that fails; those before it are committed.
        """
        what = "tid_to_offset_map"
        instance(what, tid_to_offset_map, Mapping, "a mapping of transactional ids to offsets")
        instance("group_id", group_id, (str, GroupMetadata), "a str or a GroupMetadata")
        flag("start_new_transaction", start_new_transaction)
        for transactional_id, offsets in tid_to_offset_map.items():
            text(f"each key of {what}", transactional_id)
            offsets_of(f"the offsets of {transactional_id!r}", offsets)
        group = GroupMetadata(group_id, -1, "") if isinstance(group_id, str) else group_id
        for transactional_id, offsets in tid_to_offset_map.items():
            transaction = self.transactional.transaction_of(transactional_id)
            await transaction.commit(offsets, group)
            if start_new_transaction:
                await transaction.begin()

    def give_up(self, why: TransportError) -> None:
        """Fail what is accepted and has no outcome; what was not handed over is never sent."""
        self.buffer.refuse_all(why)
        self._queue.clear()
        self._fail(why)
        self.failures.forget()  # who aborts a transaction knows

    @property
    def in_flight(self) -> int:
        """How many messages are accepted and have no outcome yet."""
        return len(self._in_flight) + sum(each.in_flight for each in self.transactional)

    @property
    def unfinished(self) -> int:
        """The number of messages that a flush would wait for."""
        return self.in_flight + len(self.buffer)

    def _prepare(self, message: Delivery, count: int) -> int:
        """Measure a message, give it one of `count` partitions, and return its size."""
        key, partition = message.key, message.partition
        size = _OVERHEAD + len(key or b"") + len(message.value or b"")
        if message.headers:
            for name, data in message.headers:
                size += len(name if name.isascii() else name.encode()) + len(data or b"")
        if size > self._most_size:
            raise MessageTooLarge(
                f"a message of {size} bytes for {message.topic!r}: {self._most_size} fit"
            )
        message.size = size
        message.hurry = self.hurry
        if partition is None:
            if key is not None:
                message.partition = (
                    java_partitioner(key, count)
                    if self.partitioner is java_partitioner
                    else self._ask_partitioner(message.topic, key, count)
                )
        elif not 0 <= partition < count:
            raise ValueError(f"{message.topic!r} has {count} partitions, none is {partition}")
        return size

    def _prepare_all(self, messages: Sequence[Delivery], count: int) -> None:
        with numbered() as at:
            for at.number, message in enumerate(messages):
                self._prepare(message, count)

    def known_partitions(self, topic: str) -> int | None:
        """Return the number of partitions of a topic; None: the broker must be asked first."""
        count, until = self._partitions.get(topic, _UNKNOWN)
        return count if self._now() < until else None

    async def ask_partitions(self, topic: str) -> int:
        """Ask the broker for it. A checkpoint; raises what `send` does for want of metadata."""
        if not self._accepts:
            raise AppClosed("the app is not open: nothing can be sent")
        patience = self.app.settings.client.connect_timeout
        count = await self.client.partition_count(topic, patience)
        self._note_identity(topic, count)
        self._partitions[topic] = count, self._now() + _TRUST
        return count

    def _hurry(self) -> None:
        self.client.hurry()

    def _on_line(self, waits: bool) -> None:
        """Senders begin to wait for room, or no sender waits any more."""
        if waits:
            self._without_linger.enter_context(self.client.without_linger())
        else:
            self._without_linger.close()

    def _note_identity(self, topic: str, count: int) -> None:
        if (now := self.client.topic_id(topic)) is None:
            return
        before = self._topic_ids.setdefault(topic, now)
        if before != now:
            self._topic_ids[topic] = now
            logger.warning(
                "topic %s was deleted and created again while messages were sent to it: it has %d"
                " partitions now, and the records of the old topic are gone",
                topic,
                count,
            )

    def _ask_partitioner(self, topic: str, key: bytes, count: int) -> int:
        chosen = _exposed(self.partitioner, key, count)
        if not hasattr(chosen, "__index__"):
            raise wrong_type(
                f"the partition that the partitioner chooses for {topic!r}", "an int", chosen
            )
        chosen = operator.index(chosen)
        if not 0 <= chosen < count:
            raise ValueError(
                f"the partitioner chose {chosen} for a key: {topic!r} has {count} partitions"
            )
        return chosen

    @trio.lowlevel.enable_ki_protection
    def _accept(self, check: Callable[[], None], message: Delivery) -> None:
        if not self._accepts:
            raise AppClosed("the app is not open: nothing can be sent")
        check()
        self._in_flight.accept(message)
        if not self._queue:
            self._filled.set()
        self._queue.append(message)

    @trio.lowlevel.enable_ki_protection
    def _accept_first(self, check: Callable[[], None], messages: Sequence[Delivery]) -> int:
        """Accept the first of these, as far as they have room; return how many."""
        if not self._accepts:
            raise AppClosed("the app is not open: nothing can be sent")
        check()
        accepted = self._in_flight.accept_first(messages)
        if accepted:
            if not self._queue:
                self._filled.set()
            self._queue += messages if accepted == len(messages) else messages[:accepted]
        return accepted

    @trio.lowlevel.enable_ki_protection
    async def _send_batches(self) -> None:
        while True:
            await self._filled.wait()
            batch, self._queue = self._queue, []
            self._filled = trio.Event()
            if (probe := self.app.probe) is not None:
                probe(probe.sensor.on_sends_initiated, self, len(batch))
            try:
                if not self.client.send_now(batch):
                    await self.client.send(batch)
            except ClientClosed:
                if not self._is_killed:
                    raise
                return

    @trio.lowlevel.enable_ki_protection
    def _report(self, reports: Sequence[tuple[Outgoing, Outcome]]) -> None:
        ended, failed = self._in_flight.end(reports)
        if (probe := self.app.probe) is not None:
            probe.delivered(self, [delivery.outcome for delivery in ended])
        for delivery in failed:
            why = delivery.outcome
            if isinstance(why, Exception) and isinstance(why.__cause__, UnknownTopic):
                # It was there before: ask again.
                self._partitions.pop(delivery.topic, None)

    def _fail(self, why: TransportError) -> None:
        self._report([(outgoing, why) for outgoing in self._in_flight])


@trio.lowlevel.disable_ki_protection
def _exposed(partitioner: Partitioner, key: bytes, count: int) -> int:
    """Run code of a user, which Ctrl-C may interrupt anywhere."""
    return partitioner(key, count)
