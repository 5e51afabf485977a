"""The producer of `memory://`: every message is in the log before `send` returns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import trio

from transport.drivers.base import Outcome, Outgoing, Reports
from transport.drivers.commit_metadata import metadata_of
from transport.drivers.memory.broker import MemoryBroker
from transport.drivers.memory.coordinator import Holder
from transport.drivers.memory.log import Log, content_size
from transport.drivers.memory.rejected_records import why_refused
from transport.drivers.settings import ClientSettings
from transport.errors import (
    ClientClosed,
    DeliveryFailed,
    Fenced,
    MessageTooLarge,
    RebalanceInProgress,
    TransactionAborted,
    UnknownTopic,
)
from transport.partitioner import java_partitioner
from transport.types import TP, GroupMetadata, RecordMetadata


class MemoryProducer:
    """A `ProducerClient` for `memory://`.

    The key decides the partition of a message without a partition. Messages without a key go to one
    partition for each `send`, and to the next partition with the next `send`.
    """

    def __init__(self, attach: Callable[[], MemoryBroker], settings: ClientSettings) -> None:
        self._attach = attach
        self._settings = settings
        self._may_create = settings.may_create_topics
        self._broker: MemoryBroker | None = None
        self._report: Reports | None = None
        self._sends = 0
        self._holder: Holder | None = None  # of the transactional id
        self._in_transaction = False
        self._has_lost = False  # a message of the transaction was rejected

    async def open(self, report: Reports) -> None:
        await trio.lowlevel.checkpoint()
        self._report = report
        broker = self._attach()
        if (transactional_id := self._settings.transactional_id) is not None:
            self._holder = broker.transactions.register(
                transactional_id, self._settings.transaction_timeout
            )
        self._broker = broker

    async def keep_deadlines(self) -> NoReturn:
        await trio.sleep_forever()  # every message has its outcome at once

    async def partition_count(self, topic: str, timeout: float) -> int:
        await trio.lowlevel.checkpoint()
        broker = self._open_broker()
        return len(broker.partitions(topic, create=self._may_create))

    def topic_id(self, topic: str) -> object:
        return self._open_broker().topic_id(topic)

    def send_now(self, batch: Sequence[Outgoing]) -> bool:
        self._open_broker()
        return False  # `send` is a checkpoint, so a test's schedule can order the calls

    @trio.lowlevel.enable_ki_protection
    async def send(self, batch: Sequence[Outgoing]) -> None:
        broker = self._open_broker()
        assert self._report is not None
        broker.transactions.expire(trio.current_time())
        written: dict[TP, Log] = {}
        outcomes: list[tuple[Outgoing, Outcome]] = []
        for message in batch:
            outcomes.append((message, self._write(broker, message, written)))
        self._sends += 1
        for log in written.values():
            log.changed.notify()
        self._report(outcomes)
        # After all effects, because a cancelled batch is accepted nevertheless.
        await trio.lowlevel.checkpoint()

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
        """Create a topic. `replication` has no effect: there are no replicas."""
        await trio.lowlevel.checkpoint()
        self._open_broker().create_topic(topic, partitions, config)

    def without_linger(self) -> contextlib.AbstractContextManager[None]:
        """Return a block without effect: a message is written when it is sent."""
        return contextlib.nullcontext()

    async def begin(self) -> None:
        broker, holder = await self._enter_transactions()
        broker.transactions.check(holder)
        self._in_transaction = True
        self._has_lost = False

    def hurry(self) -> None:
        """Do nothing: a message is written when it is sent."""

    async def send_offsets(
        self, offsets: Mapping[TP, int], group: GroupMetadata, timeout: float
    ) -> None:
        broker, holder = await self._enter_transactions()
        self._begun(broker, holder)
        now = trio.current_time()
        read_by = broker.group(group.group_id)
        read_by.expire(now)
        try:
            read_by.check_commit(group.member_id, group.generation_id)
        except RebalanceInProgress as error:
            raise TransactionAborted(str(error)) from error
        for tp in offsets:
            if group.topic_ids.get(tp) not in (None, broker.log_if_any(tp)):
                raise TransactionAborted(f"the topic of {tp} was deleted since it was read")
        metadata = {tp: metadata_of(group, tp) for tp in offsets}
        broker.transactions.hold(holder, read_by, offsets, now, metadata)

    async def commit(self, timeout: float) -> None:
        broker, holder = await self._enter_transactions()
        self._begun(broker, holder)
        broker.transactions.end(holder, committed=True)
        self._in_transaction = False

    async def abort(self, timeout: float) -> None:
        broker, holder = await self._enter_transactions()
        broker.transactions.end(holder, committed=False)
        self._in_transaction = False

    async def close(self, timeout: float) -> None:
        if self._broker is not None and self._holder is not None and self._in_transaction:
            with contextlib.suppress(Fenced):
                self._broker.transactions.end(self._holder, committed=False)
        self._broker = None
        await trio.lowlevel.checkpoint()

    async def kill(self) -> None:
        self._broker = None
        await trio.lowlevel.checkpoint()

    def _open_broker(self) -> MemoryBroker:
        if self._broker is None:
            raise ClientClosed("the producer is not open")
        return self._broker

    async def _enter_transactions(self) -> tuple[MemoryBroker, Holder]:
        """Run the checkpoint of a call, before all effects: a cancelled call changes nothing."""
        self._open_broker()
        if self._holder is None:
            raise ValueError("the producer has no transactional id")
        await trio.lowlevel.checkpoint()
        broker = self._open_broker()
        broker.transactions.expire(trio.current_time())
        return broker, self._holder

    def _begun(self, broker: MemoryBroker, holder: Holder) -> None:
        broker.transactions.check(holder)
        if not self._in_transaction:
            raise TransactionAborted("no transaction was begun")
        if self._has_lost:
            raise TransactionAborted(
                "a message of the transaction was rejected: abort the transaction"
            )

    def _write(self, broker: MemoryBroker, message: Outgoing, written: dict[TP, Log]) -> Outcome:
        size = content_size(message.key, message.value, message.headers)
        if size > self._settings.max_request_size:
            return MessageTooLarge(
                f"{size} bytes, but max_request_size is {self._settings.max_request_size}"
            )
        try:
            tp = TP(message.topic, self._partition(broker, message))
            log = broker.log(tp, create=self._may_create)
            if self._holder is not None:
                self._begun(broker, self._holder)
                broker.transactions.write(self._holder, tp, log, trio.current_time())
        except UnknownTopic as error:
            outcome = DeliveryFailed(f"the message was not written: {error}")
            outcome.__cause__ = error
            return outcome
        except (Fenced, TransactionAborted) as error:
            # As in Kafka: only the abort raises Fenced if another producer has the id.
            return TransactionAborted(f"the transaction can only be aborted: {error}")
        timestamp_ms = message.timestamp_ms
        if timestamp_ms is None:
            timestamp_ms = broker.clock()
        config = broker.config(tp.topic)
        if config and (
            why := why_refused(tp, config, message.key, size, timestamp_ms, broker.clock)
        ):
            self._has_lost = True
            return why
        offset = log.append(message.key, message.value, message.headers, timestamp_ms, self._holder)
        written[tp] = log
        if self._settings.acks == 0:
            offset = -1
        return RecordMetadata(tp.topic, tp.partition, offset, timestamp_ms / 1000)

    def _partition(self, broker: MemoryBroker, message: Outgoing) -> int:
        if message.partition is not None:
            return message.partition
        count = len(broker.partitions(message.topic, create=self._may_create))
        if message.key is None:
            return self._sends % count
        return java_partitioner(message.key, count)
