"""Transactions by scope: a sent message belongs to the transaction of its source.

A *scope* is the partitions that share one transaction: a single partition, or all partitions of the
member. Only the owner of its transactional id may write for it. The messages that a handler sends,
and the offset of their source, are in the transaction of the same scope. So a crash leaves both or
neither (I9).
"""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Protocol

import attrs
import trio

from transport.arguments import flag, instance, offsets_of, text, topic_partition
from transport.delivering.assignment import Assignment
from transport.delivering.in_hand import IN_HAND, InHand, Source, check_source, in_hand
from transport.delivering.ledger import Ledger, ledger_of
from transport.drivers.base import ConsumerClient
from transport.errors import (
    AppClosed,
    ClientClosed,
    NotInTransaction,
    RebalanceInProgress,
    TransactionAborted,
    TransportError,
)
from transport.excerpt import ranges
from transport.log import Log
from transport.message import Batch
from transport.producing.delivery import Delivery
from transport.producing.pending import FutureMessage, outgoing_of
from transport.producing.producer import Producer
from transport.settings import Settings
from transport.types import TP, GroupMetadata, HeadersArg, RecordMetadata


class Host(Protocol):
    """The part of an app that its transactions need."""

    @property
    def id(self) -> str: ...

    @property
    def settings(self) -> Settings: ...

    def transaction_group(self, tp: TP) -> str:
        """Return the group in the transactional id of a partition."""


class Maker(Protocol):
    """The transport that makes the transactions of an app."""

    @property
    def app(self) -> Host: ...


class Committing(Protocol):
    """The part of a consumer that the transactions need to commit its offsets."""

    @property
    def assignment(self) -> Assignment: ...

    @property
    def client(self) -> ConsumerClient: ...

    async def commit(self, topics: Collection[TP]) -> bool:
        """Commit, or abort, the transactions of some partitions."""


@attrs.frozen
class TPG:
    """A partition as the transactional id names it."""

    topic: str
    partition: int
    group: str


@attrs.define(eq=False)
class Scope:
    """The partitions that share one transaction.

    Attributes:
        is_ready: whether its transaction has begun.
        is_suspended: whether it is at a barrier.
        written: the messages and batches that are sources of messages in this transaction: their
            first offsets, by ledger.
        aborts: how many transactions in a row were aborted.
        must_abort: its transaction must be aborted, because a handler has failed in it.
        is_redone: the next abort does not count, because the attempts of a handler are bounded.
        alone: the only partition that delivers until the next commit or abort; None: all do.
    """

    transactional_id: str
    is_ready: bool = False
    is_suspended: bool = False
    written: dict[Ledger, set[int]] = attrs.field(factory=dict)
    aborts: int = 0
    must_abort: bool = False
    is_redone: bool = False
    alone: TP | None = None

    def delivers(self, tp: TP) -> bool:
        """Return whether messages of one of its partitions may be delivered."""
        return self.is_ready and not self.is_suspended and self.alone in (None, tp)


class TransactionManager:
    """The transactions of one consumer, by the partitions that it reads.

    Every app has one. It has an effect only if the setting `transactions` is on.

    Attributes:
        transactional_id_format: the format of a partition's transactional id. `tpg` has `topic`,
            `partition` and `group` (see `App.transaction_group`).
    """

    transactional_id_format: ClassVar[str] = "{group_id}-{tpg.group}-{tpg.partition}"

    def __init__(self, transport: Maker, *, consumer: Committing, producer: Producer) -> None:
        self.transport = transport
        self.app = transport.app
        self._log = Log("transport.consumer", self.app.id)
        self.consumer = consumer
        self.producer = producer
        self._scopes: dict[TP | None, Scope] = {}
        self._released: list[Scope] = []  # their producers are still open
        self._loss = trio.Event()  # set at the next loss of partitions
        if self.app.settings.transactions == "member":
            self._scopes[None] = Scope(self._id_of_member())

    # Scopes

    @property
    def scopes(self) -> Collection[Scope]:
        return self._scopes.values()

    def scope_of(self, tp: TP) -> Scope | None:
        """Return the scope of a partition. None: the partition is not assigned."""
        return self._scopes.get(None) or self._scopes.get(tp)

    def delivers(self, tp: TP) -> bool:
        """Return whether messages of a partition may be delivered now."""
        scope = self.scope_of(tp)
        return scope is not None and scope.delivers(tp)

    def is_alone(self, tp: TP) -> bool:
        """Return whether no other partition delivers in the transaction of this one."""
        return tp in self._scopes or self.is_isolated(tp)

    def is_isolated(self, tp: TP) -> bool:
        """Return whether the other partitions of the same scope wait for this one."""
        scope = self.scope_of(tp)
        return scope is not None and scope.alone == tp

    def transactional_id(self, tp: TP) -> str:
        """Return the transactional id under which messages of a partition are handled."""
        tp = topic_partition("tp", tp)
        group = self.app.transaction_group(tp)
        text(f"the value that transaction_group returns for {tp}", group)
        tpg = TPG(tp.topic, tp.partition, group)
        return self.transactional_id_format.format(group_id=self.app.id, tpg=tpg)

    async def on_rebalance(
        self, assigned: Collection[TP], revoked: Collection[TP], newly_assigned: Collection[TP]
    ) -> None:
        """Begin the transactions of newly assigned partitions. Their delivery waits for this.

        The begin fences the last owner, and ends the transaction that it left open. A checkpoint.
        Cancelled: the next commit does the rest.

        Args:
            assigned: all partitions of this consumer.
            revoked: the revoked ones; not used.
            newly_assigned: those of `assigned` that are new.
        """
        if None not in self._scopes:
            for tp in newly_assigned:
                self._scopes.setdefault(tp, Scope(self.transactional_id(tp)))
        if any(not scope.is_ready for scope in self._scopes.values()):
            await self._settle(newly_assigned)

    async def on_partitions_revoked(self, revoked: Collection[TP]) -> None:
        """Release the transactional ids of revoked partitions, after their last commit.

        Their open transactions are aborted. A checkpoint. Cancelled: the ids are released all the
        same.
        """
        self.release(revoked)
        await self.settle_released()

    def release(self, tps: Collection[TP]) -> None:
        """Remove the scopes of these partitions: nothing more can be sent in them.

        A scope of the whole member stays. Not a checkpoint.
        """
        self._released += [self._scopes.pop(tp) for tp in tps if tp in self._scopes]
        for scope in self._scopes.values():
            if scope.alone in tps:
                scope.alone = None

    async def settle_released(self) -> None:
        """Let the committer end the producers of released partitions. A checkpoint."""
        if self._released:
            await self._settle(())
        else:
            await trio.lowlevel.checkpoint()

    async def _settle(self, tps: Collection[TP]) -> None:
        """Let the committer begin and end transactions, because only it makes their steps."""
        # The committer has warned of an abort, which may be of another scope. After the end or a
        # kill of the app there is nothing to do.
        with contextlib.suppress(TransactionAborted, AppClosed, ClientClosed):
            await self.consumer.commit(tps)

    async def begin_scope(self, scope: Scope) -> None:
        """Begin the scope's transaction."""
        await self.producer.maybe_begin_transaction(scope.transactional_id)
        scope.is_ready = True

    @trio.lowlevel.enable_ki_protection
    async def stop_released(self) -> None:
        """Abort the open transactions of the released scopes, and end their producers.

        For the committer.
        """
        released, self._released = self._released, []
        async with trio.open_nursery() as nursery:
            for scope in released:
                nursery.start_soon(self.producer.stop_transaction, scope.transactional_id)

    def on_partitions_lost(self, lost: Collection[TP]) -> None:
        """Warn of transactions that the loss undoes, and wake the barriers that wait for it.

        Messages sent for a lost partition are never committed, because its ledger is shut. Not a
        checkpoint.
        """
        for scope in self._scopes.values():
            if tps := {ledger.tp for ledger in scope.written if ledger.tp in lost}:
                self._log.warning(
                    "transaction_lost",
                    "this member was evicted from its group during the transaction of %r and lost"
                    " %s: the transaction is undone",
                    scope.transactional_id,
                    ranges(tps),
                    transactional_id=scope.transactional_id,
                    partitions=tps,
                )
        self._loss.set()
        self._loss = trio.Event()

    async def next_loss(self) -> None:
        """Wait until partitions are lost. A checkpoint; cancelling changes nothing."""
        await self._loss.wait()

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
        source: Source | InHand | None = IN_HAND,
    ) -> Delivery:
        """Accept a message as `Producer.send` does, in the transaction of its source.

        Args:
            transactional_id: the transaction to use, whatever the source.
            source: the message or the batch from which this message is made; by default the one
                that the task has in hand. None: use no transaction. Readers then see the message
                at once, and no abort removes it.

        Raises:
            NotInTransaction: the source is acked already or belongs to another app, or no message
                is in hand.
            TransactionAborted: the transaction of the source was aborted, so the source is
                redelivered.
        """
        if source is not IN_HAND:
            check_source(source)
        if transactional_id is not None or source is None:
            return await self.producer.send(
                topic, key, value, partition, timestamp, headers, transactional_id=transactional_id
            )
        outgoing = outgoing_of(topic, key, value, partition, timestamp, headers)
        writer, check = self.claim(source)
        return await writer.send_while(check, outgoing)

    def claim(self, source: Source | InHand) -> tuple[Producer, Callable[[], None]]:
        """Return the producer that writes for a source, and a check to call before each write.

        The check raises if nothing may be written for the source any more. Raises as `send` does.
        Not a checkpoint.
        """
        return self._claim(_origin(source))

    def has_sent_for(self, source: Source) -> bool:
        """Return whether its transaction has messages of this source. Not a checkpoint.

        Messages with the source None do not count.
        """
        ledger = ledger_of(source)
        scope = self.scope_of(ledger.tp)
        if scope is None:
            return False
        places = scope.written.get(ledger, ())
        if not isinstance(source, Batch):
            return source.offset in places
        return bool(places) and any(record.offset in places for record in source.records)

    def send_soon(self, fut: FutureMessage, *, source: Source | InHand | None = IN_HAND) -> None:
        """Send a message as `Producer.send_soon` does, in the transaction of its source.

        The commit waits for the message, so the source may be acked right after the call. Call it
        only in trio's thread. Not a checkpoint. Raises as `send` and `Producer.send_soon` do.
        """
        instance("fut", fut, FutureMessage, "a FutureMessage")
        if source is not IN_HAND:
            check_source(source)
        if source is None:
            self.producer.send_soon(fut)
        else:
            writer, _ = self.claim(source)
            writer.send_soon(fut)

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
        source: Source | InHand | None = IN_HAND,
    ) -> RecordMetadata:
        """Send a message as `send` does, wait for its delivery, and return its metadata.

        Readers of committed messages see it once the transaction is committed.
        """
        delivery = await self.send(
            topic,
            key,
            value,
            partition,
            timestamp,
            headers,
            transactional_id=transactional_id,
            source=source,
        )
        return await delivery

    async def flush(self) -> None:
        """Wait until all accepted messages are delivered or have failed. See `Producer.flush`."""
        await self.producer.flush()
        for scope in list(self._scopes.values()):
            if scope.is_ready:
                await self.producer.writer(scope.transactional_id).flush()

    async def create_topic(self, topic: str, partitions: int, *args: Any, **options: Any) -> None:
        """Create a topic; see `Producer.create_topic`."""
        await self.producer.create_topic(topic, partitions, *args, **options)

    def key_partition(self, topic: str, key: bytes) -> TP:
        """Return the partition of a key; see `Producer.key_partition`."""
        return self.producer.key_partition(topic, key)

    def supports_headers(self) -> bool:
        """Return True: messages can have headers."""
        return self.producer.supports_headers()

    # Ending

    async def commit(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        """Commit offsets, each in the transaction of its partition's scope.

        The messages sent in these transactions are committed with them. Only for the owner of the
        barrier: no message of these scopes may be unacked. A checkpoint. Cancelled: some scopes are
        committed and some are not.

        Raises, at the first scope that cannot be committed:
            TransactionAborted, CommitUnknown: its transaction must be aborted.
            CommitFailed: the same, because the group has evicted this member.
            RebalanceInProgress: nothing was done for this scope.
            Fenced, AuthorizationFailed: as their classes say.
        """
        flag("start_new_transaction", start_new_transaction)
        by_scope: dict[Scope, dict[TP, int]] = {}
        for tp, offset in offsets_of("offsets", offsets).items():
            scope = self.scope_of(tp)
            if scope is None:
                raise TransactionAborted(f"{tp} is not assigned to this consumer")
            by_scope.setdefault(scope, {})[tp] = offset
        for scope, share in by_scope.items():
            await self.commit_scope(scope, share)
            if start_new_transaction:
                await self.begin_scope(scope)
        return bool(by_scope)

    async def commit_scope(
        self,
        scope: Scope,
        offsets: Mapping[TP, int],
        deadline: float = math.inf,
        texts: Mapping[TP, str] | None = None,
    ) -> None:
        """Commit the transaction of one scope, and begin no other; see `commit`.

        Args:
            deadline: the end of the wait for the delivery of the sent messages, on trio's clock.
            texts: stored with the offsets of some of the partitions.
        """
        if any(ledger.is_shut for ledger in scope.written):
            raise TransactionAborted(
                "the transaction holds results of messages that will be redelivered"
            )
        group = attrs.evolve(self._fence(), texts=texts or {})
        if gone := sorted(group.of_gone_topics.intersection(offsets)):
            raise TransactionAborted(f"the topic of {', '.join(map(str, gone))} was deleted")
        transaction = self.producer.transactional.transaction_of(scope.transactional_id)
        await transaction.commit(offsets, group, deadline)
        if self._moves(offsets):
            scope.aborts = 0
        scope.is_ready = False
        scope.written.clear()

    async def abort_scope(self, scope: Scope, why: TransportError) -> None:
        """Abort the transaction of a scope, and begin no other."""
        scope.is_ready = False
        with contextlib.suppress(TransactionAborted):  # the end of its producer has aborted it
            await self.producer.transactional.transaction_of(scope.transactional_id).abort(why)
        scope.written.clear()
        if not scope.is_redone:
            scope.aborts += 1
        scope.must_abort = scope.is_redone = False

    def _moves(self, offsets: Mapping[TP, int]) -> bool:
        """Return whether these offsets include new work.

        After an abort, a commit may only confirm the offsets at which the work begins again.
        """
        assignment = self.consumer.assignment
        starts = {tp: assignment[tp].start for tp in offsets if tp in assignment}
        return any(offset != starts.get(tp) for tp, offset in offsets.items())

    def _fence(self) -> GroupMetadata:
        group = self.consumer.client.group_metadata()
        # The broker does not fence a commit without a member id.
        if group.generation_id < 0 or not group.member_id:
            raise RebalanceInProgress("this consumer is not a member of its group at the moment")
        return group

    def _claim(self, origin: Source) -> tuple[Producer, Callable[[], None]]:
        """Return the producer that writes for a source, and the check of `claim`."""
        ledger = ledger_of(origin)
        if ledger.tally is not self.consumer.assignment.tally:
            raise NotInTransaction(f"{origin!r} is of another app: send with the app that has it")

        def check() -> None:
            if ledger.is_shut:
                raise TransactionAborted(
                    f"nothing more can be sent for {origin!r}: its transaction was aborted, or its"
                    " partition was revoked or sought"
                )
            if not origin.is_open:
                raise NotInTransaction(f"{origin!r} is acked: nothing more can be sent for it")
            if (places := written.get(ledger)) is None:
                places = written[ledger] = set()
            places.add(place)

        place = origin.first if isinstance(origin, Batch) else origin.offset
        scope = self.scope_of(ledger.tp)
        written = {} if scope is None else scope.written
        check()
        assert scope is not None, "an epoch that is open belongs to a scope"
        return self.producer.writer(scope.transactional_id), check

    def _id_of_member(self) -> str:
        client = self.app.settings.client
        return f"{self.app.id}-{client.group_instance_id or uuid.uuid4()}"


def _origin(source: Source | InHand) -> Source:
    if not isinstance(source, InHand):
        return source
    held = in_hand.get()
    if held is None:
        raise NotInTransaction(
            "no message is in hand: name the source, or source=None to send outside of transactions"
        )
    return held
