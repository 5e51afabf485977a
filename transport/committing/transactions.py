"""Which transaction a message belongs to: that of the message it was made of.

A *scope* is what shares a transaction: a partition that is read from, or everything that the
member reads. Its transactional id says who may write for it. What is written while a message is
handled, and that message's offset, are in the transaction of one and the same scope, so a crash
leaves both or neither (I9).
"""

from __future__ import annotations

import contextlib
import logging
import math
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Protocol

import attrs
import trio

from transport.arguments import flag, instance, offsets_of, text, topic_partition
from transport.delivering.assignment import Assignment
from transport.delivering.in_hand import IN_HAND, InHand, Source, in_hand
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
from transport.excerpt import listed
from transport.message import Batch, Message
from transport.producing.delivery import Delivery
from transport.producing.pending import FutureMessage, outgoing_of
from transport.producing.producer import Producer
from transport.settings import Settings
from transport.types import TP, GroupMetadata, HeadersArg, RecordMetadata

logger = logging.getLogger("transport.consumer")


class Host(Protocol):
    """What the transactions need of their app."""

    @property
    def id(self) -> str: ...

    @property
    def settings(self) -> Settings: ...

    def transaction_group(self, tp: TP) -> str:
        """Return what the transactional id of a partition names beside its number."""


class Maker(Protocol):
    """The transport that makes the transactions of an app."""

    @property
    def app(self) -> Host: ...


class Committing(Protocol):
    """What the transactions need of the consumer whose offsets they commit."""

    @property
    def assignment(self) -> Assignment: ...

    @property
    def client(self) -> ConsumerClient: ...

    async def commit(self, topics: Collection[TP]) -> bool:
        """Commit, or undo, what is done of some partitions."""


@attrs.frozen
class TPG:
    """A partition as the transactional id names it."""

    topic: str
    partition: int
    group: str


@attrs.define(eq=False)
class Scope:
    """Who shares a transaction.

    Attributes:
        is_ready: its transaction has begun.
        is_suspended: it is at a barrier.
        written: the epochs whose messages something was sent for in this transaction.
        aborts: how many transactions in a row were aborted.
    """

    transactional_id: str
    is_ready: bool = False
    is_suspended: bool = False
    written: set[Ledger] = attrs.field(factory=set)
    aborts: int = 0

    @property
    def delivers(self) -> bool:
        """Whether its messages may be given to handlers."""
        return self.is_ready and not self.is_suspended


class TransactionManager:
    """The transactions of one consumer, by the partitions that it reads.

    Made for every app; of use where its setting `transactions` is on.

    Attributes:
        transactional_id_format: of a partition's transactional id; `tpg` has `topic`, `partition`
            and `group` (see `App.transaction_group`).
    """

    transactional_id_format: ClassVar[str] = "{group_id}-{tpg.group}-{tpg.partition}"

    def __init__(self, transport: Maker, *, consumer: Committing, producer: Producer) -> None:
        self.transport = transport
        self.app = transport.app
        self.consumer = consumer
        self.producer = producer
        self._scopes: dict[TP | None, Scope] = {}
        self._gone: list[Scope] = []  # whose producers are still there
        self._loss = trio.Event()  # set at the next loss of partitions
        if self.app.settings.transactions == "member":
            self._scopes[None] = Scope(self._id_of_member())

    # Scopes

    @property
    def scopes(self) -> Collection[Scope]:
        return self._scopes.values()

    def scope_of(self, tp: TP) -> Scope | None:
        """Whose transaction the messages of a partition belong to; None: it is not ours."""
        return self._scopes.get(None) or self._scopes.get(tp)

    def delivers(self, tp: TP) -> bool:
        """Whether messages of a partition may be given to handlers now."""
        scope = self.scope_of(tp)
        return scope is not None and scope.delivers

    def transactional_id(self, tp: TP) -> str:
        """The id under which is written for a partition."""
        tp = topic_partition("tp", tp)
        group = self.app.transaction_group(tp)
        text(f"what transaction_group returns for {tp}", group)
        tpg = TPG(tp.topic, tp.partition, group)
        return self.transactional_id_format.format(group_id=self.app.id, tpg=tpg)

    async def on_rebalance(
        self, assigned: Collection[TP], revoked: Collection[TP], newly_assigned: Collection[TP]
    ) -> None:
        """Take over what has come; nothing of it is delivered before that is done.

        That fences its last owner and ends what that one left open. A checkpoint. Cancelled: what
        is not done is done before the next commit.

        Args:
            assigned: what is ours now. revoked: what is gone. newly_assigned: what has come.
        """
        if None not in self._scopes:
            for tp in newly_assigned:
                self._scopes.setdefault(tp, Scope(self.transactional_id(tp)))
        if any(not scope.is_ready for scope in self._scopes.values()):
            await self._settle(newly_assigned)

    async def on_partitions_revoked(self, revoked: Collection[TP]) -> None:
        """Let go of the transactional ids of partitions that are going, after their last commit.

        What is open of them is aborted. A checkpoint. Cancelled: they are let go all the same.
        """
        self.let_go(revoked)
        await self.stop_what_is_gone()

    def let_go(self, tps: Collection[TP]) -> None:
        """Nothing can be sent for these partitions any more. Not a checkpoint."""
        self._gone += [self._scopes.pop(tp) for tp in tps if tp in self._scopes]

    async def stop_what_is_gone(self) -> None:
        """Have the producers ended of what was let go. A checkpoint."""
        if self._gone:
            await self._settle(())
        else:
            await trio.lowlevel.checkpoint()

    async def _settle(self, tps: Collection[TP]) -> None:
        """Let the committer, which makes every step of a transaction, do what is to be done."""
        # An abort, be it of another scope, has its warning. At the end, and after a kill, nothing
        # has to be done.
        with contextlib.suppress(TransactionAborted, AppClosed, ClientClosed):
            await self.consumer.commit(tps)

    async def begin_scope(self, scope: Scope) -> None:
        """Begin the scope's transaction."""
        await self.producer.maybe_begin_transaction(scope.transactional_id)
        scope.is_ready = True

    @trio.lowlevel.enable_ki_protection
    async def stop_gone(self) -> None:
        """End the producers of the scopes that were let go.

        A warning names a producer that does not close cleanly. The app sends nothing with it any
        more, and its error must not end a commit of other scopes.
        """
        gone, self._gone = self._gone, []
        async with trio.open_nursery() as nursery:
            for scope in gone:
                nursery.start_soon(self._stop, scope.transactional_id)

    async def _stop(self, transactional_id: str) -> None:
        try:
            await self.producer.stop_transaction(transactional_id)
        except TransportError as exc:
            logger.warning("the producer of %r did not close cleanly: %s", transactional_id, exc)

    def on_partitions_lost(self, lost: Collection[TP]) -> None:
        """Warn of transactions that the loss undoes, and wake the barriers that wait for it.

        Messages sent for a lost partition are never committed: its ledger is shut. Not a
        checkpoint.
        """
        for scope in self._scopes.values():
            if tps := {ledger.tp for ledger in scope.written if ledger.tp in lost}:
                logger.warning(
                    "this member was evicted from its group during the transaction of %r and lost"
                    " %s: the transaction is undone",
                    scope.transactional_id,
                    listed(sorted(tps)),
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
            transactional_id: names the transaction, whatever the source.
            source: the message or the batch that it is made of; by default what the task has in
                hand. None: in no transaction, it is seen at once and stays whatever comes.

        Raises:
            NotInTransaction: the source is acked already, or there is none.
            TransactionAborted: the source's transaction was aborted; it will be delivered again.
        """
        if source is not IN_HAND and source is not None:
            _check_source(source)
        if transactional_id is not None or source is None:
            return await self.producer.send(
                topic, key, value, partition, timestamp, headers, transactional_id=transactional_id
            )
        outgoing = outgoing_of(topic, key, value, partition, timestamp, headers)
        writer, check = self.claim(source)
        return await writer.send_while(check, outgoing)

    def claim(self, source: Source | InHand) -> tuple[Producer, Callable[[], None]]:
        """Return the producer that writes for a source, and what raises once nothing may be
        written for it. Raises as `send` does. Not a checkpoint."""
        return self._claim(_origin(source))

    def send_soon(self, fut: FutureMessage, *, source: Source | InHand | None = IN_HAND) -> None:
        """Send a message as `Producer.send_soon` does, in the transaction of its source.

        The commit waits for it, so the source may be acked right after. Not a checkpoint; from
        trio's thread only. Raises as `send` and `Producer.send_soon` do.
        """
        instance("fut", fut, FutureMessage, "a FutureMessage")
        if source is not IN_HAND and source is not None:
            _check_source(source)
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
        """The same, and wait for its delivery; it is seen once the transaction is committed."""
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
        """Wait until all that was accepted is delivered or has failed. See `Producer.flush`."""
        await self.producer.flush()
        for scope in list(self._scopes.values()):
            if scope.is_ready:
                await self.producer.writer(scope.transactional_id).flush()

    async def create_topic(self, topic: str, partitions: int, *args: Any, **options: Any) -> None:
        """See `Producer.create_topic`."""
        await self.producer.create_topic(topic, partitions, *args, **options)

    def key_partition(self, topic: str, key: bytes) -> TP:
        """See `Producer.key_partition`."""
        return self.producer.key_partition(topic, key)

    def supports_headers(self) -> bool:
        """Whether messages can have headers: yes."""
        return self.producer.supports_headers()

    # Ending

    async def commit(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        """Commit offsets, each in the transaction of its partition's scope, with all sent in it.

        For who holds the barrier: nothing of these scopes may be in a handler's hands. A
        checkpoint. Cancelled: some scopes are committed and some are not.

        Raises TransactionAborted, CommitUnknown, at the first scope that cannot be committed: it is
        to be aborted. CommitFailed: the same, because the group has evicted this member.
        RebalanceInProgress: nothing was done there. Fenced, AuthorizationFailed.
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
        self, scope: Scope, offsets: Mapping[TP, int], deadline: float = math.inf
    ) -> None:
        """Commit the transaction of one scope, and begin no other; see `commit`.

        Args:
            deadline: the end of the wait for the sent messages.
        """
        if any(ledger.is_shut for ledger in scope.written):
            raise TransactionAborted("it holds results of messages that will be redelivered")
        group = self._fence()
        if gone := sorted(group.of_gone_topics.intersection(offsets)):
            raise TransactionAborted(f"the topic of {', '.join(map(str, gone))} was deleted")
        transaction = self.producer.transactional.transaction_of(scope.transactional_id)
        await transaction.commit(offsets, group, deadline)
        if scope.written or self._moves(offsets):
            scope.aborts = 0
        scope.is_ready = False
        scope.written.clear()

    async def abort_scope(self, scope: Scope, why: TransportError) -> None:
        """Undo what was sent in the transaction of a scope, and begin the next one."""
        scope.is_ready = False
        with contextlib.suppress(TransactionAborted):  # by the end of its producer, already
            await self.producer.transactional.transaction_of(scope.transactional_id).abort(why)
        scope.written.clear()
        scope.aborts += 1

    def _moves(self, offsets: Mapping[TP, int]) -> bool:
        """Whether work was done. After an abort a commit may confirm where the work begins anew."""
        assignment = self.consumer.assignment
        starts = {tp: assignment[tp].start for tp in offsets if tp in assignment}
        return any(
            tp not in starts or (start := starts[tp]) is None or offset > start
            for tp, offset in offsets.items()
        )

    def _fence(self) -> GroupMetadata:
        group = self.consumer.client.group_metadata()
        # The broker takes whatever comes without a member's name for unfenced.
        if group.generation_id < 0 or not group.member_id:
            raise RebalanceInProgress("this consumer is no member of its group at the moment")
        return group

    def _claim(self, origin: Source) -> tuple[Producer, Callable[[], None]]:
        """Who writes for a source; and what raises once nothing may be written for it."""
        ledger = ledger_of(origin)
        if ledger.tally is not self.consumer.assignment.tally:
            raise NotInTransaction(f"{origin!r} is of another app, which commits it")

        def check() -> None:
            if ledger.is_shut:
                raise TransactionAborted(f"{origin!r} is delivered again, or is not ours any more")
            if not origin.is_open:
                raise NotInTransaction(f"{origin!r} is acked: nothing more can be sent for it")
            written.add(ledger)

        scope = self.scope_of(ledger.tp)
        written = set() if scope is None else scope.written
        check()
        assert scope is not None, "an epoch that is open belongs to a scope"
        return self.producer.writer(scope.transactional_id), check

    def _id_of_member(self) -> str:
        client = self.app.settings.client
        return f"{self.app.id}-{client.group_instance_id or uuid.uuid4()}"


def _check_source(source: object) -> None:
    instance("source", source, (Message, Batch, InHand), "a Message, a Batch or None")


def _origin(source: Source | InHand) -> Source:
    if not isinstance(source, InHand):
        return source
    held = in_hand.get()
    if held is None:
        raise NotInTransaction(
            "no message is in hand: name the source, or source=None to send outside of transactions"
        )
    return held
