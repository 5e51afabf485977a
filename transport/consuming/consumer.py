"""The consumer: what is ours, what is delivered, what is committed, and the road in and out."""

from __future__ import annotations

import contextlib
import enum
import functools
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from typing import ClassVar

import trio

from nurseries import Service, State, exposed, tick
from transport.arguments import (
    each_partition,
    flag,
    instance,
    is_number,
    or_none,
    seconds,
    some_of,
    topic_partition,
    wrong_type,
)
from transport.arguments import offset as offset_of
from transport.committing.autocommit import AnyCommitter, AutoCommitter
from transport.committing.barrier import BarrierCommitter, begun_are_done
from transport.committing.committer import Committer
from transport.consuming.ends import Ends
from transport.consuming.getmany import GetMany
from transport.consuming.host import Host, Maker
from transport.consuming.membership import Membership
from transport.consuming.ownership import Ownership
from transport.consuming.pauses import Pauses
from transport.consuming.poll_requests import PollRequests
from transport.consuming.polling import Polling
from transport.consuming.rebalance_handler import RebalanceHandler
from transport.consuming.resets import Resets
from transport.consuming.stall_detector import StallDetector, timeouts_of
from transport.consuming.stuck import Stuck
from transport.delivering.assignment import Assignment
from transport.delivering.flow import Flow
from transport.delivering.in_hand import in_hand
from transport.delivering.ledger import Ledger, ledger_of
from transport.drivers.base import ConsumerClient, Rebalance
from transport.errors import (
    AppClosed,
    AuthorizationFailed,
    ClientClosed,
    CommitRefused,
    CommitUnknown,
    Fenced,
    NotAssigned,
    RebalanceInProgress,
    TransactionAborted,
    TransportError,
    UnreadableBatch,
)
from transport.excerpt import excerpt_of_error, listed
from transport.fetched import Fetched
from transport.message import Message
from transport.types import TP

logger = logging.getLogger("transport.consumer")

# What each step of the end may take of the grace; what is left is the producer's.
_COMMIT_SHARE, _FETCHER_SHARE, _LEAVE_SHARE = 0.4, 0.1, 0.2

RecordsCallback = Callable[[Ledger, Fetched], None]
OwnershipCallback = Callable[[frozenset[TP]], Awaitable[None]]


class _Phase(enum.Enum):
    NEW = "new"
    OPEN = "open"  # from the joining of the group on
    CLOSING = "closing"  # and closed, or killed


class Consumer(Service):
    """One member of the group: assignment, flow, ledgers, commits.

    It joins the group when the Conductor has a first topic. Everything that it knows of a partition
    is in that partition's `Ledger`.

    Args:
        callback: takes what was fetched of one partition, in order; not a coroutine function.
        on_partitions_revoked: awaited when partitions go, after their last commit.
        on_partitions_assigned: awaited when partitions have come, before they are fetched from.
        commit_interval: seconds between two commits.
        commit_livelock_soft_timeout: seconds after which an offset that stands still while
            acks go on is warned of.

    Attributes:
        transactions: what is sent by handlers, and the offsets, as a whole.
        in_transaction: whether they are used.
        scheduler: makes the strategy by which each topic object's partitions take turns.
        randomly_assigned_topics: names that need not be among what is assigned. Nothing in here
            asks for a topic to be, so this is kept for those who do.
        consumer_stopped_errors: errors that mean that the client is closing.
    """

    consumer_stopped_errors: ClassVar[tuple[type[BaseException], ...]] = (ClientClosed,)
    _was_active = True  # the flow before the end began, for a restart

    def __init__(
        self,
        transport: Maker,
        callback: RecordsCallback,
        on_partitions_revoked: OwnershipCallback,
        on_partitions_assigned: OwnershipCallback,
        *,
        commit_interval: float | None = None,
        commit_livelock_soft_timeout: float | None = None,
    ) -> None:
        self.transport = transport
        self.app: Host = transport.app
        settings = self.app.settings
        super().__init__("Consumer", grace=settings.grace)
        self.callback = callback
        or_none(seconds, "commit_interval", commit_interval)
        or_none(seconds, "commit_livelock_soft_timeout", commit_livelock_soft_timeout)
        self.commit_interval = (
            settings.commit_interval if commit_interval is None else commit_interval
        )
        self.commit_livelock_soft_timeout = (
            settings.commit_livelock_soft_timeout
            if commit_livelock_soft_timeout is None
            else commit_livelock_soft_timeout
        )
        self.assignment = Assignment()
        self.flow = Flow()
        self.in_transaction = settings.transactions is not None
        self.transactions = transport.create_transaction_manager(self, self.app.producer)
        self.requests = PollRequests(self._interrupt_poll)
        self.ownership = Ownership(
            self.assignment,
            self.flow,
            self.app.conductor,
            self.transactions if self.in_transaction else None,
            self.app.probe,
            requests=self.requests,
        )
        self._become_member()
        self.scheduler = settings.scheduler
        self.randomly_assigned_topics: set[str] = set()
        self._on_partitions_revoked = on_partitions_revoked
        self._on_partitions_assigned = on_partitions_assigned
        self._autocommit = AutoCommitter(
            self.assignment,
            self.commit,
            self.commit_and_end_transactions,
            self.ending_quietly,
            timeout=settings.client.commit_timeout,
            livelock_timeout=self.commit_livelock_soft_timeout,
            raises_refusals=not self.in_transaction,
        )
        self._stuck_interval = settings.stuck_interval
        self._unreadable: UnreadableBatch | None = None
        self._phase = _Phase.NEW

    def _make_committer(self) -> AnyCommitter:
        """Make a committer for the present client."""
        settings, probe = self.app.settings, self.app.probe
        around = (
            None
            if probe is None
            else functools.partial(probe.commit, self, self.assignment.values())
        )
        if self.in_transaction:
            return BarrierCommitter(
                self.assignment,
                self.client,
                self.transactions,
                rewind=self.ownership.rewind,
                resume=self.app.conductor.resume,
                bound=min(settings.client.rebalance_bound, settings.client.transaction_timeout / 2),
                attempts=settings.transaction_attempts,
                around=around,
            )
        return Committer(
            self.assignment,
            self.client,
            timeout=settings.client.commit_timeout,
            patience=settings.client.rebalance_bound,
            can_join=lambda: not self.rebalances.is_under_way,
            suspend=self.suspend_delivery,
            resume=self.resume_delivery,
            around=around,
        )

    def _become_member(self) -> None:
        """Make a client, and the parts that live as long as it does."""
        app, settings = self.app, self.app.settings
        timeout = settings.client.commit_timeout
        self.client: ConsumerClient = self.transport.driver.consumer(settings.client)
        self.committer = self._make_committer()
        self.pauses = Pauses(self.assignment, self.flow, app.conductor.is_held_back)
        self.rebalances = RebalanceHandler(
            self,
            self.client,
            self.assignment,
            self.ownership,
            self.flow,
            self.pauses,
            self.requests,
            Membership(app.id, settings.client.session_timeout),
        )
        self.resets = Resets(
            self.assignment,
            self.ownership,
            self.committer.commit,
            app.conductor.offer,
            in_transaction=self.in_transaction,
            policy=settings.client.auto_offset_reset,
            probe=app.probe,
        )
        self.polling = Polling(
            self.client,
            self.requests,
            self.assignment,
            self.ownership,
            self.flow,
            self.pauses,
            app.conductor,
            self.rebalances,
            self.resets,
            lambda ledger, fetched: self.callback(ledger, fetched),
        )
        self.fetcher = self.transport.Fetcher(app)
        self.ends = Ends(self.assignment, self.client, self.polling.positions, timeout=timeout)
        self._stall_detector = StallDetector(
            self.assignment,
            self.client,
            self.flow,
            self.pauses,
            self.polling.positions,
            self.requests,
            lambda: self.rebalances.is_under_way,
            timeouts=timeouts_of(settings, self.commit_interval),
            patience=timeout,
        )

    # Life

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        self.app.conductor.on_change = self.requests.note_change
        self.spawn("subscription", self._join_group)

    @trio.lowlevel.enable_ki_protection
    async def on_stop(self) -> None:
        """Stop flow, commit what is safe, stop fetching, leave the group, join the threads.

        What goes wrong on the way is raised at its end. Each step has its share of the grace,
        so that one which waits for a dead broker takes nothing from those after it.
        """
        self._was_active = self.flow.active
        self.flow.stop()
        self.requests.note_change()
        if not self.is_restarting:
            self.app.conductor.end()
        if self._phase is not _Phase.OPEN:
            return
        left = self.time_left
        self.polling.give_up_subscribing()
        try:
            await self._autocommit.last(self.committer, left * _COMMIT_SHARE)
        finally:
            # What is unacked now will never be acked: a hand-over must not wait for it, and the
            # poll, which waits for the hand-over, can end.
            self.rebalances.end()
            self._tell_what_is_left()
            self.ownership.abandon(self.assignment)
            with trio.move_on_after(left * _FETCHER_SHARE):
                await self.fetcher.stop()
            self._phase = _Phase.CLOSING
            await self.client.close(left * _LEAVE_SHARE)

    def _tell_what_is_left(self) -> None:
        """Name what handlers had in hand and will never ack."""
        for tp, ledger in self.assignment.items():
            if offsets := [message.offset for message in ledger.unacked]:
                logger.warning(
                    "%s: %d delivered %s not acked at shutdown and will be redelivered,"
                    " from offset %d",
                    tp,
                    len(offsets),
                    "message was" if len(offsets) == 1 else "messages were",
                    min(offsets),
                )

    @trio.lowlevel.enable_ki_protection
    async def on_restart(self) -> None:
        """Be another member: with a new client, from what is committed. The iterators go on."""
        self._become_member()
        self.requests.reopen()
        self._unreadable = None
        self._phase = _Phase.NEW
        self.app.conductor.on_subscribed(frozenset())
        if self._was_active:
            self.resume_flow()

    def on_ended(self) -> None:
        """End delivery. A restart that failed, or that a stop overtook, has not ended it yet."""
        self.app.conductor.end()

    async def kill(self) -> None:
        """Go as a crash would: no commit, no leaving. For demonstrations and tests."""
        was, self._phase = self._phase, _Phase.CLOSING
        self.stop_flow()
        self.app.conductor.end()
        self.rebalances.end()
        self.ownership.drop(self.assignment)
        if was is _Phase.OPEN:
            await self.client.kill()

    @trio.lowlevel.enable_ki_protection
    async def _join_group(self) -> None:
        await self.app.conductor.wait_until_wanted()
        if self._phase is _Phase.CLOSING:
            return
        self._phase = _Phase.OPEN
        # Before the client connects: a commit that is asked for meanwhile finds nothing to do.
        self.spawn("committer", self.committer.run)
        with self.ending_quietly():
            await self.client.open()
            self.spawn("rebalance", self._serve_rebalances)
            waits = self.app.conductor.wait_for_subscriptions
            self.spawn("joining", self.rebalances.tell_of_waiting, waits)
            self.spawn("starts", self._commit_starts)
            self.spawn("commit ticker", tick, self.commit_interval, self._autocommit.beat)
            self.spawn("lookout", tick, self._stuck_interval, self.verify_all_partitions_active)
            if self.app.probe is not None:
                self.spawn("lag", tick, self.app.settings.lag_interval, self.ends.look)
            self.spawn("patterns", self._look_for_topics)
            if self.app.settings.client.client_only:
                self.spawn("client only", self._tell_of_client_only)
            await self.add_service(self.fetcher)

    @trio.lowlevel.enable_ki_protection
    async def _commit_starts(self) -> None:
        with self.ending_quietly():
            await self.resets.run()

    @trio.lowlevel.enable_ki_protection
    async def _look_for_topics(self) -> None:
        conductor, interval = self.app.conductor, self.app.settings.pattern_interval
        while True:
            await conductor.wait_for_patterns()
            if (topics := await self._topics()) is not None:
                conductor.on_topics(topics)
            with trio.move_on_after(interval):
                await conductor.wait_for_change()

    async def _topics(self) -> Collection[str] | None:
        """Return the names of all topics; warn and return None if the query failed.

        The next search comes soon, so only an error that no retry can mend ends the app.
        """
        try:
            with self.ending_quietly():
                return await self.client.topics()
        except (AuthorizationFailed, Fenced, ClientClosed):
            raise
        except Exception as exc:  # noqa: BLE001 - an error of the client that we do not know, too
            logger.warning(
                "%s: the search for topics that match a pattern failed and will be repeated: %s",
                self.app.id,
                excerpt_of_error(exc) if not isinstance(exc, TransportError) else exc,
            )
        return None

    @trio.lowlevel.enable_ki_protection
    async def _tell_of_client_only(self) -> None:
        with contextlib.suppress(AppClosed):  # it may end before it is subscribed to anything
            await exposed(self.app.conductor.on_client_only_start)

    @contextlib.contextmanager
    def ending_quietly(self) -> Iterator[None]:
        """`consumer_stopped_errors` end the block and are no errors, once the end was begun."""
        try:
            yield
        except self.consumer_stopped_errors:
            if self._phase is not _Phase.CLOSING:
                raise

    def on_init_dependencies(self) -> list[Service]:
        """The services that run below this one."""
        return [self.fetcher]

    def close(self) -> None:
        """Ask for the end: delivery stops, what is safe is committed, the group is left.

        The app goes on, to send for example. Not a checkpoint; `ended` tells when it is done.
        """
        self.stop_soon()

    # Flow

    @property
    def flow_active(self) -> bool:
        """Whether messages are delivered."""
        return self.flow.active

    @property
    def can_resume_flow(self) -> trio.Event:
        """Set while flow is active. Ask again after each change: an Event is set once."""
        return self.flow.gate.opened

    @property
    def suspend_flow(self) -> trio.Event:
        """Set while flow is stopped. Ask again after each change."""
        return self.flow.gate.shut

    @property
    def not_waiting_next_records(self) -> trio.Event:
        """Set while no poll is under way that could bring messages to be delivered."""
        return self.flow.not_fetching.opened

    def stop_flow(self) -> None:
        """Deliver no message from now on; the membership is kept. Not a checkpoint.

        While the consumer restarts, the call counts for the time after the restart.
        """
        self._was_active = False
        self.flow.stop()
        self.requests.note_change()

    def resume_flow(self) -> None:
        """Deliver again. Not a checkpoint.

        While the consumer restarts, the call counts for the time after the restart. After the end
        of the consumer it does nothing.
        """
        self._was_active = True
        if self._phase is _Phase.CLOSING or self.state in (State.STOPPING, State.ENDED):
            return
        self.flow.resume()
        self.app.conductor.wake_iterators()
        self.requests.note_change()

    async def wait_for_stopped_flow(self) -> None:
        """Wait until flow is stopped and nothing is being fetched for delivery.

        After it no message is delivered until `resume_flow`. A checkpoint; cancelling changes
        nothing.
        """
        await trio.lowlevel.checkpoint()
        while self.flow.active or not self.flow.not_fetching.is_open:
            await self.flow.gate.shut.wait()
            await self.flow.not_fetching.passed()

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Fetch nothing of these; what was fetched is still delivered. Not a checkpoint.

        Those that are not assigned are passed over and counted in `flow.ignored`. A partition
        that goes and comes back is not paused any more.
        """
        self.flow.pause(each_partition("tps", tps), self.assignment)
        self.requests.note_change()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Fetch of these again. Not a checkpoint."""
        self.flow.unpause(each_partition("tps", tps), self.assignment)
        self.requests.note_change()

    def on_unreadable(self, error: UnreadableBatch) -> None:
        """The turn of a batch has come that cannot be decoded: end the app with the error.

        All records before it were taken. Not a checkpoint.
        """
        if self._unreadable is None:
            self._unreadable = error
            self.spawn("unreadable batch", self._raise_unreadable)

    async def _raise_unreadable(self) -> None:
        assert self._unreadable is not None
        raise self._unreadable

    def on_buffer_full(self, tp: TP) -> None:
        """A channel of the partition's topic is full: its fetching pauses before the next poll.

        Called by who fills it, and that is who polls.
        """
        if (probe := self.app.probe) is not None:
            probe(probe.sensor.on_topic_buffer_full, tp)

    def on_buffer_drop(self, tp: TP) -> None:
        """The channel has drained to half: fetching goes on."""
        self.requests.note_change()

    def suspend_delivery(self) -> None:
        """Stop delivery from the assigned partitions, because the group has evicted the consumer.

        Without a group no loss would end this, so nothing is held. Not a checkpoint.
        """
        if self.app.settings.client.is_member:
            for ledger in self.assignment.values():
                ledger.suspend()

    def resume_delivery(self) -> None:
        """Deliver again from the partitions that `suspend_delivery` has held. Not a checkpoint."""
        self.app.conductor.resume(list(self.assignment.values()))

    def _interrupt_poll(self) -> None:
        if self._phase is _Phase.OPEN:
            self.client.interrupt()

    # Messages without iterators

    def getmany(self, timeout: float) -> GetMany:
        """An async iterator over (TP, Message): what there is now of all topics of the Conductor.

        It waits at most `timeout` seconds for a first message, and for none after it. Partitions
        take turns by the scheduler, topic objects one after the other; what is stale, or not ours
        any more, does not come. The messages are to be acked, and shared with the iterators of the
        same topic objects. A topic is listened to from `app.conductor.add(topic)` on.

        Each step is a checkpoint. Cancelled: no message was taken.
        """
        seconds("timeout", timeout, least=0, finite=False)
        return GetMany(self.app.conductor, trio.current_time() + timeout)

    def track_message(self, message: Message) -> None:
        """Nothing is left to do: a message is tracked from the moment it is handed out (I1).

        Raises ValueError: it is none of this consumer's, or was acked or given up already.
        """
        instance("message", message, Message, "a Message")
        if not message.is_open or ledger_of(message) not in self.assignment.values():
            raise ValueError(f"{message!r} is not in anybody's hands")

    async def on_task_error(self, exc: BaseException) -> None:
        """The handling of a message has failed: commit what is safe, then do as the policy says.

        The message stays unacked. With transactions nothing is safe that is in one with it: what is
        not committed is undone, and delivered again; after `transaction_attempts` of that in a row
        the app fails whatever the policy is. To be called by who catches the error of a handler; an
        error that leaves the block of `async with app` ends the app in order without it. A
        checkpoint.

        Args:
            exc: raised again where the setting `on_task_error` is "fail"; logged with "go_on".
        """
        instance("exc", exc, BaseException, "an exception")
        try:
            held = in_hand.get()
            if not await self.committer.abort_and_rewind(None if held is None else {held.tp}):
                await self.commit()
        except TransportError as error:
            logger.warning("no commit after a handler has failed: %s", error)
        if self.app.settings.on_task_error == "fail":
            raise exc
        logger.error("a handler has failed, its message stays unacked", exc_info=exc)

    # Acks and commits

    @property
    def unacked(self) -> set[Message]:
        """The messages that are delivered and not acked."""
        return {message for ledger in self.assignment.values() for message in ledger.unacked}

    def ack(self, message: Message) -> bool:
        """See `Message.ack`. One of another consumer is not acked: False, and it is counted."""
        if type(message) is not Message:
            instance("message", message, Message, "a Message")
        if ledger_of(message).tally is not self.assignment.tally:
            self.assignment.tally.stale += 1
            return False
        return message.ack()

    async def commit(
        self,
        topics: Collection[str | TP] | None = None,
        start_new_transaction: bool = True,
    ) -> bool:
        """Commit the safe offsets; return whether an offset moved.

        Overlapping calls share one commit. False if there is nothing to commit, such as before the
        consumer joins its group and after its end. False also if the group was in a rebalance, or
        the consumer was not its member, for longer than the bound of a rebalance (a warning says
        so). A checkpoint. Cancelled: the commit is made as a whole or not at all, and its outcome
        is entered into the ledgers.

        Args:
            topics: names and partitions, mixed; None: everything assigned.
            start_new_transaction: with transactions: go on after this one. Else nothing is
                delivered until the next commit.

        With transactions the call stops delivery and waits until all begun messages are acked. Then
        it commits their offsets together with the messages that the handlers have sent.

        Raises:
            TransactionAborted: everything since the last commit is undone and redelivered.
            NotInTransaction: with transactions, if the caller holds a message that the call would
                wait for.
            CommitUnknown: no answer within the commit timeout, or within twice that time if the
                client does not answer either. The next commit settles it. CommitWithdrawn, a
                subclass: the client did not begin the commit, and never will.
            CommitRefused, AuthorizationFailed, Fenced, ClientClosed: as they say.
            AppClosed: the app ended before the commit was begun.
            TypeError: `topics` is a single name or a single TP: write `{"orders"}`.
        """
        topics = some_of("topics", topics)
        flag("start_new_transaction", start_new_transaction)
        if self._phase is not _Phase.OPEN:
            await trio.lowlevel.checkpoint()
            return False
        await self._catch_up()
        self._prove()
        try:
            return await self.committer.commit(topics, goes_on=start_new_transaction)
        finally:
            self.resets.resume()

    def _prove(self) -> None:
        """Find out whether the sought positions are in their logs."""
        for tp, ledger in self.assignment.items():
            if not ledger.is_proven and (end := self.client.highwater(tp)) is not None:
                ledger.prove(end)

    @trio.lowlevel.enable_ki_protection
    async def _catch_up(self) -> None:
        """At a bad moment, or where the client hangs, a commit goes without the last markers."""
        bound = trio.move_on_after(self.app.settings.client.commit_timeout)
        with contextlib.suppress(RebalanceInProgress, AppClosed), bound:
            await self.polling.catch_up()

    async def force_commit(
        self,
        topics: Collection[str | TP] | None = None,
        start_new_transaction: bool = True,
    ) -> bool:
        """Commit now, whatever the interval: the same as `commit`."""
        return await self.commit(topics, start_new_transaction)

    async def commit_and_end_transactions(self) -> None:
        """Commit what is safe, and begin no transaction after it.

        Nothing is delivered until the next commit. An abort is no error here: a warning tells of
        it, and its messages come again. Otherwise the same as `commit`.
        """
        with contextlib.suppress(TransactionAborted):
            await self.commit(start_new_transaction=False)

    async def maybe_wait_for_commit_to_finish(self) -> bool:
        """Wait for a commit that is under way, if there is one; returns whether there was.

        A checkpoint; cancelling changes nothing. What became of it is raised to who commits.
        """
        return await self.committer.wait_for_running()

    async def wait_empty(self) -> None:
        """Wait until all messages that began before the call are acked, then commit.

        Messages that begin later do not count. The wait has no bound, and a handler that waits for
        its own message waits for ever: use a cancel scope. A checkpoint; cancelling changes
        nothing. Raises the errors of `commit`.
        """
        await begun_are_done(list(self.assignment.values()))
        await self.commit()

    # Seek

    async def seek(self, partition: TP, offset: int) -> None:
        """Continue at `offset`, in a new epoch: earlier messages can no longer be acked.

        It counts as given up: a rebalance does not wait for who still works on it.

        A checkpoint. Cancelled: either nothing happened, or the seek is made as a whole.

        Raises:
            ValueError: a negative offset.
            NotAssigned: the partition is not ours, or no longer.
            RebalanceInProgress: partitions are being let go, which waits for their handlers, or
                are coming; fails at once so that the two do not wait for each other. Those
                that come may be sought in `on_partitions_assigned`.
            AppClosed: the app is not open.
            TransactionAborted: with transactions: what was to be committed first could not be.
            NotInTransaction: with transactions: a message is in hand; ack it first.
        """
        partition = topic_partition("partition", partition)
        offset = offset_of("offset", offset)
        await trio.lowlevel.checkpoint()
        self._check_open("seek in")
        if partition not in self.assignment:
            raise NotAssigned(f"{partition} is not assigned to this consumer")
        if self.in_transaction and not self.rebalances.is_under_way:
            await self.commit({partition})  # what was done before the seek stays done
        if not self.rebalances.start_at(partition, offset):
            await self.polling.seek(partition, offset)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every partition that has a committed offset there; returns those offsets.

        With transactions, what is not committed is undone, and so delivered again as a whole.

        A checkpoint at each partition. Cancelled: some are sought and some are not.

        Raises:
            NotAssigned, RebalanceInProgress, AppClosed: as `seek` does, at any of them.
            BrokerUnavailable, AuthorizationFailed: the offsets are not available.
        """
        self._check_open("seek in")
        if await self.committer.abort_and_rewind():
            starts = {tp: ledger.uncommitted for tp, ledger in self.assignment.items()}
            return {tp: offset for tp, offset in starts.items() if offset is not None}
        committed = await self.client.committed(list(self.assignment))
        for tp, offset in committed.items():
            await self.seek(tp, offset)
        return committed

    def _check_open(self, to: str) -> None:
        if not self.app.is_open or self._phase is not _Phase.OPEN:
            raise AppClosed(f"the app is not open, or has read nothing yet: nothing to {to}")

    async def perform_seek(self) -> None:
        """Seek all partitions to their committed offsets: the same as `seek_to_committed`."""
        await self.seek_to_committed()

    # Partitions that are stuck

    @property
    def stuck(self) -> tuple[Stuck, ...]:
        """What the last look at all partitions has found: which are stuck, and where."""
        return self._stall_detector.stuck

    async def verify_all_partitions_active(self) -> None:
        """Look for partitions that are stuck; a warning names each, once, and where it is.

        Done every `stuck_interval`. The broker is asked for the end of those logs of which nothing
        was heard for a while; that takes three times `commit_timeout` at most. What was found
        is kept in `stuck`.

        A checkpoint; cancelling changes nothing. Raises nothing: no answer is a finding.
        """
        await trio.lowlevel.checkpoint()
        if self._phase is _Phase.OPEN:
            await self._stall_detector.look_at_all()

    def verify_event_path(self, now: float, tp: TP) -> Stuck | None:
        """Whether a partition is stuck, as far as it can be told without asking the broker.

        So one of which nothing comes is found by `verify_all_partitions_active` alone. What is
        new is warned of as there. Not a checkpoint.

        Args:
            now: seconds on trio's clock. tp: if it is not assigned, the answer is None.
        """
        _check_look(now, tp)
        return self._stall_detector.look_at(now, tp, whole=True)

    def verify_recovery_event_path(self, now: float, tp: TP) -> Stuck | None:
        """The same for a partition that is read to catch up, say from an offset kept elsewhere.

        Of such a one it matters whether the client is polled and brings something, not whether
        handlers and commits get on; and polled it has to be while delivery is stopped or the
        partition paused as well, for that keeps the membership. Not a checkpoint.
        """
        _check_look(now, tp)
        return self._stall_detector.look_at(now, tp, whole=False)

    # Ownership

    @contextlib.contextmanager
    def serving(self, event: Rebalance) -> Iterator[None]:
        """Tell the monitor of a rebalance, around the serving of it. For the rebalance handler."""
        if (probe := self.app.probe) is None:
            yield
            return
        try:
            with probe.rebalance(self.app, self, event):
                yield
        finally:
            self.requests.note_change()  # an idle poll ends, and tells the end of the rebalance

    def on_polled(self) -> None:
        """Tell the monitor that a poll has ended. For the handover."""
        if (probe := self.app.probe) is not None:
            probe.polled(self.app)

    def stop_abandoned(self) -> None:
        """End, soon, the producers of what was abandoned. For the handover; not a checkpoint."""
        if self._phase is _Phase.OPEN:
            self.spawn("abandon", self.transactions.stop_what_is_gone)

    async def _serve_rebalances(self) -> None:
        with self.ending_quietly():
            await self.rebalances.run()

    async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
        """Wait for what is begun of these partitions, commit, and tell the app.

        Delivery has stopped before. Bounded from outside; past the bound it is cancelled.
        """
        await begun_are_done([self.assignment[tp] for tp in revoked if tp in self.assignment])
        self._prove()
        try:
            await self.committer.commit(revoked)
        except (AppClosed, CommitUnknown, CommitRefused, TransactionAborted) as exc:
            logger.warning("the last commit of %s failed: %s", _names(revoked), exc)
        await self.transactions.on_partitions_revoked(revoked)
        await exposed(self._on_partitions_revoked, revoked)
        await self.committer.leave(revoked)

    async def on_partitions_assigned(self, assigned: frozenset[TP], generation_id: int = 0) -> None:
        """Tell the channels, the conductor and the app; nothing is fetched of them before.

        Bounded from outside; past the bound it is cancelled.
        """
        for tp in sorted(assigned):
            self.ownership.enter_epoch(self.assignment[tp])
        if self.in_transaction:
            # Nothing is delivered before what the last owner has left open is ended.
            await self.transactions.on_rebalance(frozenset(self.assignment), frozenset(), assigned)
        await exposed(self.app.conductor.on_partitions_assigned, assigned)
        await exposed(self._on_partitions_assigned, assigned)

    async def on_partitions_lost(self, lost: frozenset[TP]) -> None:
        """Tell the app; they are gone already, without a commit. Bounded as the others are.

        Messages that were sent for them in a transaction are undone.
        """
        self.transactions.on_partitions_lost(lost)
        await self.transactions.on_partitions_revoked(lost)
        await exposed(self._on_partitions_revoked, lost)

    async def on_topics_replaced(self, lost: frozenset[TP]) -> None:
        """Call the hook for partitions that are gone, because their topic was created again.

        They went without a commit, and the partitions of the new topic come next. Messages that
        were sent for them in a transaction are undone. The hook has the bound of a rebalance.
        """
        await self.transactions.on_partitions_revoked(lost)
        await exposed(self._on_partitions_revoked, lost)


def _check_look(now: float, tp: TP) -> None:
    if not is_number(now):
        raise wrong_type("now", "a number of seconds on trio's clock", now)
    topic_partition("tp", tp)


def _names(tps: Iterable[TP]) -> str:
    return listed(sorted(tps))
