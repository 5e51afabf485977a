"""A producer: kafka-python's producer, behind one thread that appends messages to it.

If a message is in flight at its deadline, the driver discards the client with all its messages, and
the next `send` makes another client. `deliveries.py` has the outcome of each message.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import kafka.errors
import trio
from kafka import KafkaProducer, TopicPartition

from nurseries.worker import Worker, WorkerClosed, WorkerStuck
from transport.drivers.base import Outcome, Outgoing, Reports
from transport.drivers.kafka.appending import Appending, Part
from transport.drivers.kafka.calls import CUT_TIMEOUT, Calls
from transport.drivers.kafka.client_log import CLIENT_LOG
from transport.drivers.kafka.connecting import Attempt
from transport.drivers.kafka.deliveries import Deliveries, HandedBatch, Run
from transport.drivers.kafka.errors import of_a_delivery, of_a_delivery_in_a_transaction
from transport.drivers.kafka.linger import Linger
from transport.drivers.kafka.options import admin_options, producer_options
from transport.drivers.kafka.records.compiled_code import compiled_code
from transport.drivers.kafka.sleep import Sleep
from transport.drivers.kafka.topic_creation import Creation
from transport.drivers.kafka.topic_wait_queue import TopicWaitQueue
from transport.drivers.kafka.topics import known_id, known_partitions, partition_counts
from transport.drivers.kafka.transaction import (
    Displaced,
    Transaction,
    abort_on_failure,
    no_right_to,
)
from transport.drivers.kafka.transactional_id import has_open, identity_of, take_back, take_over
from transport.drivers.kafka.waiting import Waiting
from transport.drivers.kafka.workarounds.closed_connection import back_off_when_closed
from transport.drivers.kafka.workarounds.concurrent_transactions import ask_again_soon
from transport.drivers.kafka.workarounds.expired_batch import outlive_expiry
from transport.drivers.kafka.workarounds.forgotten_requests import keep_requests
from transport.drivers.kafka.workarounds.moved_brokers import start_anew
from transport.drivers.kafka.workarounds.rejected_record import (
    spare_neighbors,
    tolerate_rejected_records,
)
from transport.drivers.kafka.workarounds.sender_spin import wait_for_brokers
from transport.drivers.kafka.workarounds.swallowed_errors import Crash, watch_sender, watch_tasks
from transport.drivers.settings import ClientSettings
from transport.errors import (
    AuthorizationFailed,
    BrokerUnavailable,
    ClientClosed,
    DeliveryFailed,
    Fenced,
    TransactionAborted,
    TransportError,
    UnknownTopic,
)
from transport.excerpt import excerpt_of_error
from transport.types import TP, GroupMetadata

# Seconds in which a network thread ends if it waits for nothing.
QUICK = 0.25
# Extra seconds beyond the client's own timeout, so that its more specific error wins.
MOMENT = 0.25
# The most messages (with and without compiled code), and the most bytes of their keys and values,
# that are appended on trio's thread. That takes 1 ms at most, and 3 ms without compiled code.
_FEW, _FEW_WITHOUT, _SMALL = 1024, 256, 512 << 10

Taken: TypeAlias = Callable[
    [HandedBatch, list[Run], Sequence[tuple[Outgoing, Outcome]], Sequence[Outgoing]], None
]


def _no_partition(message: Outgoing, count: int) -> DeliveryFailed:
    """Return the error for a partition that was removed after the message was accepted."""
    tp = TP(message.topic, message.partition or 0)
    error = DeliveryFailed(
        f"topic {tp.topic!r} has {count} partitions now, and no partition {tp.partition}"
    )
    error.__cause__ = UnknownTopic(f"the broker has no partition {tp} any more")
    return error


def _by_place(messages: Sequence[Outgoing]) -> Mapping[tuple[str, int | None], Sequence[Outgoing]]:
    """Group messages by topic and partition, in their order."""
    if len(messages) == 1:  # the usual case at a low rate
        return {(messages[0].topic, messages[0].partition): messages}
    groups: dict[tuple[str, int | None], list[Outgoing]] = {}
    for message in messages:  # this loop runs once per message
        place = (message.topic, message.partition)
        group = groups.get(place)
        if group is None:
            groups[place] = [message]
        else:
            group.append(message)
    return groups


class KafkaProducerClient:
    """A `ProducerClient` on kafka-python; see the protocol for what each call promises.

    Args:
        servers: "HOST:PORT" of some brokers.
        security: the client's options for TLS and SASL.
    """

    def __init__(
        self,
        servers: Sequence[str],
        security: Mapping[str, Any],
        settings: ClientSettings,
        waiting: Waiting,
    ) -> None:
        self._settings = settings
        self._waiting = waiting
        self._compiled = settings.record_codec != "pure" and compiled_code()[0] is not None
        self._options = producer_options(servers, security, settings)
        self._admin_options = admin_options(servers, security, settings)
        self._calls = Calls(f"producer {settings.client_id}")
        self._sending = Worker(f"{self._calls.name}: sending")
        self._administering = Worker(f"{self._calls.name}: administering")
        self._client: Any = None  # the KafkaNetClient of the current producer
        self._opening: Any = None  # the KafkaNetClient of a producer that is being made
        self._creations: set[Creation] = set()  # the creations of topics under way
        self._producer: KafkaProducer | None = None
        self._linger: Linger | None = None  # of the current producer
        self._sleep: Sleep | None = None  # of its network thread
        self._crash: Crash | None = None  # of the current producer
        # Set after a crash, until trio knows which messages go to the next client. Later messages
        # must not overtake those.
        self._is_settling = False
        self._discarded: list[KafkaProducer] = []
        self._deliveries: Deliveries | None = None  # `open` makes it
        self._absent: TopicWaitQueue | None = None  # `open` makes it
        self._transaction: Transaction | None = None  # begun, and neither committed nor aborted
        self._identity: Any = None  # the identity that we were granted for the transactional id
        self._was_open = False  # a discarded client had an open transaction

    @trio.lowlevel.enable_ki_protection
    async def open(self, report: Reports) -> None:
        self._calls.opened = True
        CLIENT_LOG.hold(self, self._settings.client_log_level)
        self._absent = absent = TopicWaitQueue(
            look_up=self.partition_count,
            hand_over=self._submit_again,
            report=report,
            patience=self._settings.connect_timeout,
        )
        self._deliveries = Deliveries(
            report,
            timeout=self._settings.delivery_timeout,
            answered=self._options["acks"] != 0,
            translate=of_a_delivery
            if self._settings.transactional_id is None
            else of_a_delivery_in_a_transaction,
            set_aside=absent.add,
        )
        self._sending.start()
        opened = False
        try:
            await self._calls.make(self._sending, "open", self._connect)
            opened = True
        finally:
            if not opened:
                with trio.CancelScope(shield=True):
                    await self.kill()

    @trio.lowlevel.enable_ki_protection
    async def keep_deadlines(self) -> NoReturn:
        assert self._absent is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._absent.wait_for_topics)
            await self._opened.keep_deadlines(self._discard)

    async def partition_count(self, topic: str, timeout: float) -> int:
        self._calls.check_open()
        for _ in range(2):
            if self._producer is None or self._has_crashed:
                await self._calls.make(self._sending, "open", self._connect)
            with self._calls.errors():
                try:
                    return (await partition_counts(self._client, [topic], timeout, self._waiting))[
                        topic
                    ]
                except ClientClosed as error:
                    if not self._has_crashed:  # discarded: the next client can answer
                        raise BrokerUnavailable(
                            f"the client was closed before it knew topic {topic!r}"
                        ) from error
        reason = None if self._crash is None else self._crash.error
        raise TransportError(
            f"topic {topic!r} was not looked up: the network threads of two clients in a row"
            f" failed, the second with {reason!r}"
        )

    def topic_id(self, topic: str) -> object:
        return None if self._client is None else known_id(self._client.cluster, topic)

    @trio.lowlevel.enable_ki_protection
    def send_now(self, batch: Sequence[Outgoing]) -> bool:
        self._calls.check_open()
        assert self._absent is not None
        if self._absent.topics:
            return False
        return self._submit_here(
            batch, trio.current_time() + self._settings.delivery_timeout, again=False
        )

    async def send(self, batch: Sequence[Outgoing]) -> None:
        self._calls.check_open()
        assert self._absent is not None
        deadline = trio.current_time() + self._settings.delivery_timeout
        if waited_for := frozenset(self._absent.topics):
            self._absent.add([m for m in batch if m.topic in waited_for], deadline)
            batch = [m for m in batch if m.topic not in waited_for]
        if batch:
            await self._submit(batch, deadline)
        else:
            await trio.lowlevel.checkpoint()

    @trio.lowlevel.enable_ki_protection
    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int,
        config: Mapping[str, str],
        timeout: float,
        *,
        wait: bool = True,
    ) -> None:
        self._calls.check_open()
        if self._administering.current is None and not self._administering.alive:
            with contextlib.suppress(WorkerClosed):
                self._administering.start()
        wanted = {
            "num_partitions": partitions,
            "replication_factor": replication,
            "configs": dict(config),
        }
        creation = Creation(self._admin_options, topic, wanted, timeout, self._waiting, wait=wait)
        self._creations.add(creation)
        try:
            with trio.move_on_after(timeout + MOMENT) as scope:
                await self._calls.make(self._administering, "create topic", creation.make)
        finally:
            self._creations.discard(creation)
            creation.give_up()
        if scope.cancelled_caught:
            raise BrokerUnavailable(f"{topic!r} was not created within {timeout:g} s")

    async def begin(self) -> None:
        await self._calls.make(self._sending, "begin", self._begin)

    def hurry(self) -> None:
        transaction = self._transaction
        if transaction is not None and transaction.producer is self._producer:
            transaction.hurry()

    def without_linger(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._linger is None else self._linger.suspended()

    async def send_offsets(
        self, offsets: Mapping[TP, int], group: GroupMetadata, timeout: float
    ) -> None:
        await self._calls.make(
            self._sending, "send offsets", self._send_offsets, offsets, group, timeout
        )

    async def commit(self, timeout: float) -> None:
        await self._calls.make(self._sending, "commit", self._commit, timeout)

    async def abort(self, timeout: float) -> None:
        self._fail_absent(TransactionAborted("the transaction was aborted"))
        try:
            await self._calls.make(self._sending, "abort", self._abort, timeout)
        finally:
            # A `_send` under way may have added messages since. They must not get into the next
            # transaction.
            self._fail_absent(TransactionAborted("the transaction was aborted"))

    @trio.lowlevel.enable_ki_protection
    async def close(self, timeout: float) -> None:
        end = trio.current_time() + timeout
        if self._producer is not None and not self._calls.closed:
            with contextlib.suppress(WorkerClosed):
                flushed = self._sending.submit("flush", self._flush, timeout * 0.75)
                with trio.CancelScope(deadline=end - timeout * 0.2, shield=True):
                    await flushed.wait()
        await self._end(end)

    async def kill(self) -> None:
        await self._end(trio.current_time() + CUT_TIMEOUT)

    # In trio.

    async def _submit(
        self, messages: Sequence[Outgoing], deadline: float, *, again: bool = False
    ) -> None:
        if self._submit_here(messages, deadline, again=again):
            await trio.lowlevel.checkpoint()
            return
        handed = HandedBatch(list(messages), deadline)
        with self._calls.errors():
            call = self._sending.submit("send", self._send, handed, again, self._opened.taken)
            if handed.messages:
                self._opened.add(handed)
            await call.wait()

    def _submit_here(self, messages: Sequence[Outgoing], deadline: float, *, again: bool) -> bool:
        """Append messages on trio's thread, or return False."""
        self._calls.check_open()
        if (here := self._client_here(messages)) is None:
            return False
        handed = HandedBatch(list(messages), deadline)
        self._opened.add(handed)
        try:
            self._send(handed, again, self._opened.enter, here)
        except Exception:
            # Only here, because entering the block takes as long as sending a message.
            with self._calls.errors():
                raise
        return True

    async def _submit_again(self, messages: Sequence[Outgoing], deadline: float) -> None:
        await self._submit(messages, deadline, again=True)

    def _client_here(self, messages: Sequence[Outgoing]) -> KafkaProducer | None:
        """Return the client if messages may be appended on trio's thread, else None.

        That saves the switch to the sending thread. It is quick if the messages are few, the client
        exists, and the sending thread is idle. With compression, trio's thread would have to wait
        while the client compresses a batch.
        """
        producer = self._producer
        if producer is None or self._has_crashed or self._is_settling:
            return None
        if self._sending.current is not None or self._settings.compression_type is not None:
            return None
        # `_transaction_manager`: after a fatal error the sending thread must make another client.
        manager = producer._transaction_manager
        if manager is not None and manager.has_fatal_error():
            return None
        if not 0 < len(messages) <= (_FEW if self._compiled else _FEW_WITHOUT):
            return None
        size = sum([len(each.key or b"") + len(each.value or b"") for each in messages])
        return producer if size <= _SMALL else None

    @property
    def _opened(self) -> Deliveries:
        assert self._deliveries is not None
        return self._deliveries

    def _fail_absent(self, error: TransportError) -> None:
        if self._absent is not None:
            self._absent.fail(error)

    async def _end(self, deadline: float) -> None:
        """Fail the messages that are left, then end the threads."""
        try:
            await self._end_threads(deadline)
        finally:
            CLIENT_LOG.release(self)

    async def _end_threads(self, deadline: float) -> None:
        self._calls.closed = True
        if self._deliveries is not None:
            self._deliveries.collect()
            self._deliveries.fail(ClientClosed(f"{self._calls.name} was closed"))
        self._fail_absent(ClientClosed(f"{self._calls.name} was closed"))
        self._discard()
        if self._opening is not None:
            # `_manager`: an open waits for a broker on a loop that its thread runs itself. This
            # ends the wait. Only that thread may call the client's close().
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._opening._manager.close()
        for creation in self._creations:
            creation.give_up()
        stuck = []
        for worker in (self._sending, self._administering):
            if worker is self._sending:
                with contextlib.suppress(WorkerClosed):
                    worker.submit("join", self._join, deadline - trio.current_time())
            try:
                await worker.stop(max(0.0, deadline - trio.current_time()))
            except WorkerStuck as error:
                stuck.append(str(error))
        if stuck:
            raise TransportError(f"abandoned: {'; '.join(stuck)}")

    def _discard(self) -> None:
        """Discard the current client with all its messages; the next `send` makes another."""
        if self._producer is None:
            return
        producer = self._producer
        self._producer = self._linger = self._sleep = None
        if self._identity is not None:
            self._was_open = self._was_open or has_open(producer)
        # `_closed`, `_unregister_cleanup`: otherwise close() is called at garbage collection and at
        # exit, and waits up to a second each time. `_closed` first: `take_over` checks it.
        producer._closed = True
        producer._unregister_cleanup()
        # `_sender`: the public close() waits for the messages, or raises and changes nothing.
        producer._sender.force_close()
        self._discarded = [p for p in self._discarded if p._sender.is_alive()]
        self._discarded.append(producer)

    # On the sending thread; `_send` also on trio's, while the sending thread is idle.

    def _connect(self) -> KafkaProducer:
        """Return the current producer; make it if there is none, or if it can send no more."""
        if (current := self._producer) is not None:  # read once: trio may discard it meanwhile
            # `_transaction_manager`: after a fatal error the producer fails each message.
            manager = current._transaction_manager
            is_fatal = manager is not None and manager.has_fatal_error()
            if not is_fatal and not self._has_crashed:
                return current
            self._discard()
            if self._has_crashed:
                self._is_settling = True
                current._sender.join(QUICK)  # by then each of its messages has an outcome
                self._opened.call_soon(self._settle)

        sleep: Sleep | None = None

        def built(client: Any) -> None:
            nonlocal sleep
            self._opening = client
            watch_tasks(client, crash)
            start_anew(client, crash, self._waiting.log)
            back_off_when_closed(client)
            sleep = Sleep(client)

        producer = None
        crash = Crash(lambda error: self._on_crash(producer, error))
        attempt = Attempt(self._options["bootstrap_servers"], built, self._waiting)
        try:
            with attempt.errors():
                producer = KafkaProducer(**{**attempt.options(KafkaProducer), **self._options})
        finally:
            made, self._opening = self._opening, None
            if producer is None and made is not None:
                made.close()  # its thread was not started, but sockets are open
        self._client = made
        self._producer = producer
        self._linger = Linger(producer)
        self._sleep = sleep
        self._crash = crash
        # Messages of a transaction fail with it: none of them goes to the next client.
        watch_sender(producer, crash, keeps=self._settings.transactional_id is None)
        keep_requests(producer)
        wait_for_brokers(producer)
        if self._settings.transactional_id is None:
            tolerate_rejected_records(producer)
            spare_neighbors(producer)
            outlive_expiry(producer)
        else:
            abort_on_failure(producer)
            ask_again_soon(producer)
            self._take_id_over(producer, attempt)
        return producer

    def _on_crash(self, producer: KafkaProducer | None, error: BaseException) -> None:
        """Close the producer by force: its network thread fails the messages that it holds.

        On the network thread, which ends now.
        """
        self._waiting.log.error(
            "client_failed",
            "the network thread of the client's %s failed, and a new client is made: %s",
            *(self._calls.name, excerpt_of_error(error)),
            error=error,
        )
        if producer is not None:
            producer._sender.force_close()

    def _settle(self) -> None:
        self._is_settling = False

    @property
    def _has_crashed(self) -> bool:
        """Whether the current producer has crashed; the sending thread then makes another."""
        return self._crash is not None and self._crash.error is not None

    def _take_id_over(self, producer: KafkaProducer, attempt: Attempt) -> None:
        """Fence the previous owner of the transactional id and end its open transaction.

        Only the first client does this. Later ones take the id back, unless another process
        took it.
        """
        taken = False
        try:
            with attempt.errors():
                try:
                    if self._identity is None:
                        take_over(producer)
                    else:
                        take_back(producer, self._identity, was_open=self._was_open)
                except kafka.errors.TransactionalIdAuthorizationFailedError as error:
                    raise no_right_to(str(self._settings.transactional_id), error) from error
            self._identity = identity_of(producer)
            self._was_open = False
            taken = True
        finally:
            if not taken:
                self._discard()

    def _begin(self) -> None:
        producer = self._connect()
        assert self._linger is not None  # that of this producer
        self._transaction = Transaction(producer, self._linger)
        self._transaction.begin()

    def _open_transaction(self) -> Transaction:
        transaction = self._transaction
        if transaction is None or transaction.producer is not self._producer or self._has_crashed:
            raise TransactionAborted("no transaction was begun, or its client was discarded")
        return transaction

    def _send_offsets(
        self, offsets: Mapping[TP, int], group: GroupMetadata, timeout: float
    ) -> None:
        with self._taking_back():
            self._open_transaction().send_offsets(offsets, group, timeout)

    def _commit(self, timeout: float) -> None:
        with self._taking_back():
            self._open_transaction().commit(timeout)
        self._transaction = None

    @contextlib.contextmanager
    def _taking_back(self) -> Iterator[None]:
        """Find out why the broker refuses our epoch; raise Fenced if another producer has our id.

        Otherwise the transaction was open for too long, and the broker has aborted it already.
        """
        try:
            yield
        except Displaced:
            self._discard()
            self._connect()
            raise

    def _abort(self, timeout: float) -> None:
        """Abort the transaction. If that fails, discard the client; the next one then ends it."""
        transaction, self._transaction = self._transaction, None
        if transaction is None or transaction.producer is not self._producer or self._has_crashed:
            self._connect()
            return
        try:
            transaction.abort(timeout)
        except (Fenced, AuthorizationFailed):
            raise
        except TransportError:
            self._discard()
            self._connect()

    @trio.lowlevel.enable_ki_protection  # a batch of the client must not be torn
    def _send(
        self, batch: HandedBatch, again: bool, taken: Taken, here: KafkaProducer | None = None
    ) -> None:
        """Append messages. `here` is the client if this is trio's thread, which makes no other."""
        refused: list[tuple[Outgoing, Outcome]] = []
        absent: list[Outgoing] = []
        parts: list[Part] = []
        if batch.left == 0:
            return  # its deadline has passed while it waited for the thread
        try:
            if self._settings.transactional_id is not None:
                producer = self._open_transaction().producer
            elif again and (current := self._producer) is not None:
                # Even if the broker has refused this client meanwhile. It fails the messages for
                # that reason. Each new client would be refused, too, and know no topic at first.
                producer = current
            else:
                producer = self._connect() if here is None else here
        except TransportError as error:
            refused = [(message, error) for message in batch.messages]
        else:
            parts = self._append(producer, batch.messages, again, refused, absent)
        taken(batch, [Run(batch, part) for part in parts], refused, absent)

    def _append(
        self,
        producer: KafkaProducer,
        messages: Sequence[Outgoing],
        again: bool,
        refused: list[tuple[Outgoing, Outcome]],
        absent: list[Outgoing],
    ) -> list[Part]:
        """Append messages to the client's batches; add the others to `refused` and `absent`."""
        # `_metadata`: the public calls wait for a missing topic, as `send` does.
        cluster = producer._metadata
        known: dict[str, Collection[int]] = {}
        # Trio may discard the client meanwhile. Then `_sleep` is None, and the thread was woken.
        appending = Appending(producer, self._sleep, compiled=self._compiled)
        for (topic, partition), group in _by_place(messages).items():
            if topic not in known:
                must_wait = not again and self._must_wait(topic)
                known[topic] = () if must_wait else known_partitions(cluster, topic)
            if not known[topic]:
                absent += group
                continue
            if partition is not None and partition not in known[topic]:
                count = len(known[topic])
                refused += [(message, _no_partition(message, count)) for message in group]
                continue
            try:
                if partition is not None:
                    appending.append(TopicPartition(topic, partition), group)
                else:
                    appending.append_anywhere(topic, group)
            except Exception as error:  # noqa: BLE001 - whatever it is, it concerns these messages
                left = appending.left_by(group)
                if self._settings.transactional_id is None and self._has_crashed:
                    absent += left  # for the next client
                else:
                    refused += [(each, self._translate(producer, error)) for each in left]
        refused += [
            (message, self._translate(producer, error)) for message, error in appending.refused
        ]
        appending.wake()
        return appending.parts

    def _must_wait(self, topic: str) -> bool:
        """Return whether messages for a topic must queue behind earlier ones."""
        return self._absent is not None and (self._is_settling or topic in self._absent.topics)

    def _translate(self, producer: KafkaProducer, error: Exception) -> Exception:
        """Translate the error with which the client refused a message."""
        manager = producer._transaction_manager
        if self._settings.transactional_id is not None and manager.has_error():
            aborted = TransactionAborted(f"the transaction can only be aborted: {error}")
            aborted.__cause__ = error
            return aborted
        return of_a_delivery(error)

    def _flush(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while self._producer is not None and (left := end - time.monotonic()) > 0:
            try:
                self._producer.flush(left)
            except kafka.errors.KafkaTimeoutError:
                return
            except kafka.errors.UnknownError:
                continue  # a batch was split, and the next flush waits for its halves
            return

    def _join(self, timeout: float) -> None:
        """Wait for the network threads of discarded producers, which close their sockets."""
        for producer in self._discarded:
            sender = producer._sender
            sender.join(min(QUICK, max(0.0, timeout)))
            if sender.is_alive():
                # The thread waits for a broker. `_client`, `_manager`: closing the connections ends
                # that wait.
                with contextlib.suppress(RuntimeError):  # the thread has ended meanwhile
                    sender._client._manager.close()
                sender.join(max(0.0, timeout - QUICK))
