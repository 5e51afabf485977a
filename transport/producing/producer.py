"""The producer, which accepts messages, sends them in batches and records their outcomes.

Look here for what each way of sending does when it is cancelled, and for the calls of transactions.
"""

from __future__ import annotations

import contextlib
import functools
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
from transport.log import Log
from transport.partitioner import Partitioner, java_partitioner
from transport.producing.buffer import ProducerBuffer
from transport.producing.delivery import Delivery, Failures, ManyDeliveries
from transport.producing.host import Host, Maker
from transport.producing.in_flight import InFlight
from transport.producing.pending import FutureMessage, always, numbered, outgoing_of
from transport.producing.threaded import ThreadedProducer
from transport.producing.topic_creation import Creations
from transport.producing.transaction import Transaction
from transport.producing.transactional_producers import TransactionalProducers
from transport.types import TP, GroupMetadata, HeadersArg, RecordMetadata

# The most bytes that a record takes beside its key, value and headers.
_OVERHEAD = 70
# Seconds until a send asks the client again for a topic's number of partitions. The client itself
# refreshes the number within `metadata_max_age`.
_TRUST = 1.0
# Seconds. If the oldest message in the queue has waited for so long, the next `send` lets the
# producer's task run.
_TURN_TIME = 0.002
_UNKNOWN = (0, float("-inf"))


class Producer(Service):
    """A producer, which sends messages in batches from one task.

    The messages in flight are bounded in number and in bytes. At the bound, `send` waits.

    A producer with a transactional id sends only in transactions. It belongs to the producer that
    started it (`begin_transaction`), and ends with that producer.

    Attributes:
        transactional: the producers with transactional ids that this producer has started.
        transaction: the transactions of a producer with an id. None: the producer has no id.
        failures: the errors that no task has seen, and the first error of the open transaction.
    """

    def __init__(self, transport: Maker, *, transactional_id: str | None = None) -> None:
        self.transport = transport
        self.app: Host = transport.app
        self._log = Log("transport.producer", self.app.id)
        settings = self.app.settings
        name = "Producer" if transactional_id is None else f"Producer of {transactional_id}"
        super().__init__(name, grace=settings.grace)
        self.transaction: Transaction | None = None
        if transactional_id is not None:
            timeout = settings.client.commit_timeout
            self.transaction = Transaction(self, transactional_id, timeout=timeout)
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
        # The linger of a transaction ends when a task awaits an outcome.
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
        self._turn_ends = 0.0  # by trio's clock; then a send lets other tasks run
        self._partitions: dict[str, tuple[int, float]] = {}  # topic: their number, valid until
        self._now: Callable[[], float] = lambda: 0.0  # trio's clock, also outside of trio
        self._topic_ids: dict[str, object] = {}
        self._tracing = self.app.tracing
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
        """Deliver the accepted messages, then close. Raises if no task has seen a failure."""
        self.buffer.close()
        if not self._is_killed:
            with trio.move_on_after(self.time_left * 0.3):
                await self.buffer.wait()
        self.buffer.refuse_all(AppClosed("the producer was closed before the message was accepted"))
        self._accepts = False
        self._in_flight.refuse_all()
        if self._is_killed:
            return
        await self.stop_children()
        left = self.time_left
        try:
            with trio.move_on_after(left * 0.6):
                await self._finish()
        finally:
            await self._close_client(max(0.1, left * 0.3))
            await trio.lowlevel.checkpoint()  # the messages that `close` failed are reported now
            self._fail(DeliveryFailed("the producer was closed before the message was delivered"))
        self.failures.check_others()

    async def _finish(self) -> None:
        if self.transaction is None:
            await self.flush()
        elif self.transaction.is_open:
            try:
                await self.transaction.abort(TransactionAborted("the app is closing"))
            except Fenced:
                pass  # the new owner of the id has aborted the open transaction
            except TransportError as exc:
                self._log.warning(
                    "abort_failed",
                    "%s could not abort its transaction, and the broker will abort it after"
                    " transaction_timeout: %s",
                    self.name,
                    exc,
                    transactional_id=self.transaction.transactional_id,
                    error=exc,
                )

    async def _close_client(self, timeout: float) -> None:
        try:
            await self.client.close(timeout)
        except TransportError as exc:
            if self.transaction is None:
                raise
            # The partitions of this producer may be released, and the app goes on.
            self._log.warning(
                "close_failed", "%s did not close cleanly: %s", self.name, exc, error=exc
            )

    async def kill(self) -> None:
        """End as a crash would. For demonstrations and tests."""
        self._is_killed = True
        self.buffer.close()
        self._accepts = False
        self._in_flight.refuse_all()
        for writer in self.transactional:
            await writer.kill()
        await self.client.kill()
        self._fail(DeliveryFailed("the app was killed before the message was delivered"))

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

        Each call checks for cancellation. These calls are full checkpoints: each one that waits,
        each Nth one, and one that finds an older message still queued after 2 ms. Cancelled: the
        message was not accepted.

        Args:
            partition: None: the key decides (see `key_partition`). Without a key, the client
                chooses.
            timestamp: seconds since 1970. None: now.
            headers: pairs or a mapping of str to bytes; None stands for a header without a value.
            transactional_id: the id of the open transaction that the message belongs to. None: no
                transaction.

        Raises:
            TransactionAborted: no transaction of this id is open.
            UnknownTopic, BrokerUnavailable, AuthorizationFailed: the topic's metadata is not
                available.
            MessageTooLarge: the message is larger than `max_request_size` or `send_buffer_bytes`.
            ValueError: the topic has no such partition (the partitioner may have chosen it), or an
                argument is out of range, such as a timestamp in milliseconds.
            TypeError: an argument has a wrong type.
            AppClosed: the app is not open.
        """
        outgoing = outgoing_of(topic, key, value, partition, timestamp, headers)
        return await self.writer(transactional_id).send_while(always, outgoing)

    async def send_while(self, check: Callable[[], None], message: Delivery) -> Delivery:
        """Accept a message as `send` does, unless `check` raises at that moment."""
        try:
            await checkpoint_if_cancelled()
            if self.accept_now(message, check) is None:
                await self._accept_later(check, message)
            elif message.gives_way:
                await cancel_shielded_checkpoint()  # an accepted message: too late to be cancelled
        except BaseException as why:  # also Cancelled: the spans end
            self.refused((message,), why)
            raise
        return message

    async def _accept_later(self, check: Callable[[], None], message: Delivery) -> None:
        """Accept a message once its topic's partitions are known and it fits. A checkpoint."""
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
        """Accept a message without waiting. None: its sender has to wait (`send_while`).

        The sender has to wait if there is no room, if others wait for room, or if the topic's
        partitions are not known. Not a checkpoint. May be called outside of trio, in the app's
        thread.

        Args:
            message: a message of `outgoing_of` that was not accepted before.
            check: raises if the message must not be accepted.
            count: the number of the topic's partitions. None: the number that is known, if any.

        Raises what `send` raises, except for errors about the topic's metadata.
        """
        now = self._now()
        try:
            if self._tracing is not None:
                self._tracing.sending(message)
            if count is None:
                count, until = self._partitions.get(message.topic, _UNKNOWN)
                if now >= until:
                    return None
            self._prepare(message, count)
            # As `_accept`, without its call, because this runs for each message.
            if not self._accepts:
                raise AppClosed("the app is not open: nothing can be sent")
            if check is not None and check is not always:
                if not self._in_flight.has_room(message.size):
                    return None
                check()
        except BaseException as why:  # also a Ctrl-C: the spans end
            self.refused((message,), why)
            raise
        if not self._in_flight.accept_if_room(message):
            return None
        if not self._queue:
            self._filled.set()
            self._turn_ends = now + _TURN_TIME
        elif now >= self._turn_ends:
            self._turn_ends = now + _TURN_TIME
            message.gives_way = True
        self._queue.append(message)
        return message

    def refused(self, messages: Sequence[Delivery], why: BaseException) -> None:
        """End the spans of those messages that were not accepted, because of an error.

        Call it if a message is not to be sent after `accept_now` has returned None for it.
        """
        if self._tracing is not None:
            held = self._in_flight
            self._tracing.refused([each for each in messages if each not in held], why)

    def accept_in_turn(
        self,
        check: Callable[[], None],
        messages: Sequence[Delivery],
        answer: Callable[[Value[None] | Error], object],
    ) -> Callable[[], None]:
        """Accept messages once they fit, for a sender that is not a task of trio.

        Call it after `accept_now` or `accept_many_now` has returned None for want of room. `answer`
        is called when all messages are accepted or one was refused: at once, or in trio's turn of
        the loop. The returned function ends the waiting. Messages that are not accepted by then are
        not sent.
        """
        if not self._accepts:
            raise AppClosed("the app is not open: nothing can be sent")
        accept = functools.partial(self._accept, check)
        return self._in_flight.call_in_turn(messages, accept, answer)

    async def send_many_while(
        self, check: Callable[[], None], messages: Sequence[Delivery]
    ) -> ManyDeliveries:
        """Accept messages for one topic, in order, as `send_while` accepts each of them.

        All are checked before the first is accepted. No message of another sender comes between
        those that wait for room. A checkpoint. Cancelled: the first messages may have been
        accepted.
        """
        many = ManyDeliveries(messages)
        if not messages:
            await trio.lowlevel.checkpoint()
            return many
        topic = messages[0].topic
        try:
            if self._tracing is not None:
                self._tracing.sending_many(messages)
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
        except BaseException as why:  # also Cancelled: the spans end
            self.refused(messages, why)
            raise
        return many

    def accept_many_now(
        self,
        messages: Sequence[Delivery],
        check: Callable[[], None] | None = None,
        count: int | None = None,
    ) -> ManyDeliveries | None:
        """Accept messages for one topic without waiting. None: none of them was accepted.

        Otherwise the same as `accept_now`. Either all messages fit, or none is accepted.
        """
        try:
            if self._tracing is not None:
                self._tracing.sending_many(messages)
            if count is None:
                count = 0 if not messages else self.known_partitions(messages[0].topic)
            if count is None:
                return None
            self._prepare_all(messages, count)
            if self._accepts and not self._in_flight.have_room(messages):
                return None
            self._accept_first(always if check is None else check, messages)
        except BaseException as why:  # also a Ctrl-C: the spans end
            self.refused(messages, why)
            raise
        return ManyDeliveries(messages)

    def send_soon(self, fut: FutureMessage) -> None:
        """Queue a message, from code that cannot wait or from another thread. Not a checkpoint.

        Queued messages are sent in order, and `fut` gets the outcome. A failure that no task has
        seen is raised at the end of the app. A topic whose partitions are not known delays no other
        topic.

        Raises:
            BufferFull: the queue holds `send_buffer_messages` already.
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
        """Send a message and wait for its outcome. Raises what `send` and the delivery raise.

        A checkpoint. Cancelled while it waits for the outcome: the message is still sent.
        """
        message = outgoing_of(topic, key, value, partition, timestamp, headers)
        await self.writer(transactional_id).send_while(always, message)
        return await message.wait()

    async def flush(self) -> None:
        """Wait until all messages accepted or queued before the call are delivered or have failed.

        A checkpoint. Cancelling ends only the waiting.
        """
        with self._in_flight.flushing() as flushed, self.client.without_linger():
            await self.buffer.wait()  # of the same moment: there is no checkpoint in between
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
        """Create a topic. A topic that exists already is left as it is, without an error.

        A checkpoint. Cancelled: the topic may still be created. The producer makes one request at a
        time for each topic. Identical concurrent calls share one request, and others wait for its
        end.

        Args:
            config: the topic's configuration, such as `{"retention.ms": 60000}`. The arguments
                below take precedence.
            timeout: seconds, or a timedelta, for the broker's answer and for `ensure_created`.
            retention: seconds, or a timedelta, for which records are kept.
            compacting: whether the broker removes old records that have a newer one of their key.
            deleting: whether the broker removes old records by age or size.
            ensure_created: wait until the topic can be written to.

        Raises:
            UnknownTopic: no topic can have the name. AuthorizationFailed.
            BrokerUnavailable: the broker did not answer within the timeout, or the topic cannot be
                written to yet. The topic may still be created.
            TransportError: the broker refused the options. The text has its reason.
            ValueError: the topic would have no partition, or neither compact nor delete.
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
        """Return the partition that the partitioner chooses for a key. Not a checkpoint.

        Raises LookupError: the producer does not know the topic's number of partitions, because
        nothing was sent to the topic yet. ValueError: the partitioner chose a partition that the
        topic does not have.
        """
        topic_name("topic", topic)
        instance("key", key, (bytes, bytearray, memoryview), "bytes")
        if topic not in self._partitions:
            raise LookupError(
                f"the partitions of {topic!r} are not known yet: send a message to it first"
            )
        count, _ = self._partitions[topic]
        return TP(topic, self._ask_partitioner(topic, bytes(key), count))

    def supports_headers(self) -> bool:
        """Return True: messages can have headers."""
        return True

    # Transactions

    def writer(self, transactional_id: str | None) -> Producer:
        """Return the producer with an open transaction of this id. None: return this producer.

        Raises TransactionAborted: no transaction of this id is open.
        """
        if transactional_id is None:
            return self
        text("transactional_id", transactional_id)
        return self.transactional.in_transaction(transactional_id)

    async def begin_transaction(self, transactional_id: str) -> None:
        """Begin a transaction. The first transaction of an id starts a producer for it.

        That start fences the previous owner of the id, and aborts its open transaction. A
        checkpoint. Cancelled: the start is undone, or the transaction has begun.

        Raises RuntimeError: a transaction of this id is open, or another call begins one. Fenced,
        BrokerUnavailable, AuthorizationFailed.
        """
        text("transactional_id", transactional_id)
        await self.transactional.begin(transactional_id)

    async def maybe_begin_transaction(self, transactional_id: str) -> None:
        """Begin a transaction as `begin_transaction` does, unless one of this id is open."""
        text("transactional_id", transactional_id)
        if self.transactional.is_open(transactional_id):
            await trio.lowlevel.checkpoint()
        else:
            await self.begin_transaction(transactional_id)

    async def commit_transaction(self, transactional_id: str) -> None:
        """Commit all messages that were sent in a transaction, or none. A checkpoint.

        Cancelled: the transaction may be committed or not. Call `abort_transaction` then: it ends
        the transaction in either case.

        Raises TransactionAborted, CommitUnknown: call `abort_transaction`. Fenced,
        AuthorizationFailed, BrokerUnavailable.
        """
        text("transactional_id", transactional_id)
        await self.transactional.transaction_of(transactional_id).commit({}, None)

    async def abort_transaction(self, transactional_id: str) -> None:
        """Abort a transaction. Its deliveries without an outcome fail. A checkpoint.

        Cancelled: the transaction may be aborted or not. Raises Fenced. TransactionAborted: no
        transaction of this id was ever begun.
        """
        text("transactional_id", transactional_id)
        await self.transactional.transaction_of(transactional_id).abort(
            TransactionAborted("the transaction was aborted by abort_transaction")
        )

    async def stop_transaction(self, transactional_id: str) -> None:
        """Abort the open transaction of this id, and end its producer, if any. A checkpoint.

        Cancelled: the producer still ends.
        """
        text("transactional_id", transactional_id)
        await self.transactional.stop(transactional_id)

    async def commit_transactions(
        self,
        tid_to_offset_map: Mapping[str, Mapping[TP, int]],
        group_id: GroupMetadata | str,
        start_new_transaction: bool = True,
    ) -> None:
        """Commit several transactions, each with its offsets, one after the other.

        A checkpoint. Cancelled: the first transactions may be committed.

        Args:
            tid_to_offset_map: the offsets for each transactional id.
            group_id: the group whose offsets these are. If the consumer's `GroupMetadata` is given,
                it is also a fence: the broker refuses the commit of a member that was evicted.
            start_new_transaction: begin the next transaction of each id.

        Raises what `commit_transaction` raises, at the first transaction that fails; those before
        it are committed. CommitFailed: the group does not know the member in `group_id`.
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
        """Fail all messages without an outcome. Those that the client does not have are not sent.

        For an abort.
        """
        self.buffer.refuse_all(why)
        self._queue.clear()
        self._fail(why)
        self.failures.forget()  # the caller, which aborts the transaction, knows of them

    @property
    def in_flight(self) -> int:
        """The number of messages that are accepted and have no outcome yet."""
        return len(self._in_flight) + sum(each.in_flight for each in self.transactional)

    @property
    def unfinished(self) -> int:
        """The number of messages that a flush would wait for."""
        return self.in_flight + len(self.buffer)

    def _prepare(self, message: Delivery, count: int) -> int:
        """Measure a message, choose one of `count` partitions for it, and return its size."""
        key, partition = message.key, message.partition
        size = _OVERHEAD + len(key or b"") + len(message.value or b"")
        if message.headers:
            for name, data in message.headers:
                size += len(name if name.isascii() else name.encode()) + len(data or b"")
        if size > self._most_size:
            raise MessageTooLarge(
                f"a message for {message.topic!r} has {size} bytes, and max_request_size and"
                f" send_buffer_bytes allow {self._most_size}"
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
            raise ValueError(
                f"{message.topic!r} has {count} partitions, numbered from 0: there is no"
                f" partition {partition}"
            )
        return size

    def _prepare_all(self, messages: Sequence[Delivery], count: int) -> None:
        with numbered() as at:
            for at.number, message in enumerate(messages):
                self._prepare(message, count)

    def known_partitions(self, topic: str) -> int | None:
        """Return a topic's number of partitions. None: call `ask_partitions` first."""
        count, until = self._partitions.get(topic, _UNKNOWN)
        return count if self._now() < until else None

    async def ask_partitions(self, topic: str) -> int:
        """Ask the client for a topic's number of partitions, and return it.

        A checkpoint. Raises UnknownTopic, BrokerUnavailable, AuthorizationFailed, AppClosed.
        """
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
        """Switch the linger off while senders wait for room, and on again."""
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
            self._log.warning(
                "sent_topic_recreated",
                "topic %s was deleted and created again while messages were sent to it: it has %d"
                " partitions now, and the records of the old topic are gone",
                topic,
                count,
                topic=topic,
                count=count,
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
                f"the partitioner chose partition {chosen} for a key, but {topic!r} has {count}"
                " partitions, numbered from 0"
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
        """Accept the first of these messages, as many as fit; return their number."""
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
                probe.sending(self, batch)
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
            probe.delivered(self, ended, failed)
        if self._tracing is not None:
            self._tracing.sent(ended)
        for delivery in failed:
            why = delivery.outcome
            if isinstance(why, Exception) and isinstance(why.__cause__, UnknownTopic):
                # The topic existed when the message was accepted: ask for its partitions again.
                self._partitions.pop(delivery.topic, None)

    def _fail(self, why: TransportError) -> None:
        self._report([(outgoing, why) for outgoing in self._in_flight])


@trio.lowlevel.disable_ki_protection
def _exposed(partitioner: Partitioner, key: bytes, count: int) -> int:
    """Call the user's partitioner, which Ctrl-C may interrupt anywhere."""
    return partitioner(key, count)
