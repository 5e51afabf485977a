"""The consumer: it makes the parts of one group member, starts and stops them, and has their calls.

Look here for the calls of `app.consumer`, for the order of start and stop, and for the steps of a
rebalance.
"""

from __future__ import annotations

import contextlib
import enum
import functools
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from typing import ClassVar, overload

import trio

from nurseries import Service, State, exposed, tick
from transport.arguments import (
    each_partition,
    flag,
    instance,
    is_number,
    metadata_text,
    or_none,
    seconds,
    times_of,
    topic_name,
    topic_partition,
    topics_of,
    wrong_type,
)
from transport.arguments import offset as offset_of
from transport.arguments import time as time_of
from transport.committing.autocommit import AutoCommitter
from transport.committing.barrier import BarrierCommitter
from transport.committing.committer import Committer
from transport.committing.contract import AnyCommitter
from transport.consuming.ends import Ends
from transport.consuming.getmany import GetMany, until_set
from transport.consuming.host import Host, Maker
from transport.consuming.membership import Membership
from transport.consuming.opening import Opening
from transport.consuming.ownership import Ownership
from transport.consuming.pauses import Pauses
from transport.consuming.poll_requests import PollRequests
from transport.consuming.polling import Polling
from transport.consuming.questions import Questions
from transport.consuming.rebalance_handler import RebalanceHandler, in_progress
from transport.consuming.resets import Resets
from transport.consuming.slow_handlers import SLOW, SlowHandlers
from transport.consuming.stall_detector import StallDetector, timeouts_of
from transport.consuming.stuck import Stuck
from transport.delivering.assignment import Assignment
from transport.delivering.drain import until_done
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
    DeliveryFailed,
    Fenced,
    NotAssigned,
    RebalanceInProgress,
    TransactionAborted,
    TransportError,
    UnreadableBatch,
)
from transport.excerpt import excerpt_of_error, listed, ranges
from transport.fetched import Fetched
from transport.log import Log
from transport.message import AnyMessage, Message
from transport.types import TP, OffsetAndTimestamp

# The share of the grace that each step of the stop may take; the rest is left for the producer.
_COMMIT_SHARE, _FETCHER_SHARE, _LEAVE_SHARE = 0.4, 0.1, 0.2

RecordsCallback = Callable[[Ledger, Fetched], None]
OwnershipCallback = Callable[[frozenset[TP]], Awaitable[None]]


class _Phase(enum.Enum):
    NEW = "new"
    OPEN = "open"  # since the consumer began to join its group
    CLOSING = "closing"  # the client is being closed, or is closed or killed


class Consumer(Service):
    """One member of the group: assignment, flow, ledgers, commits.

    The consumer joins the group when the Conductor has a first topic. All data about a partition
    is in the `Ledger` of that partition.

    Args:
        callback: takes each fetch of a partition, in order; not a coroutine function.
        on_partitions_revoked: awaited after the last commit of revoked partitions, and after a
            loss.
        on_partitions_assigned: awaited before newly assigned partitions are fetched from.
        commit_interval: seconds between two commits.
        commit_livelock_soft_timeout: a warning follows when an offset has not moved for this many
            seconds while acks continue.

    Attributes:
        assignment: the partitions that the group has given to this member, each with its ledger.
        transactions: commit the messages that handlers send together with the offsets.
        in_transaction: whether transactions are used.
        scheduler: makes the strategy by which the partitions of each topic object take turns.
        randomly_assigned_topics: names of topics that may be missing from the assignment. The
            consumer requires no topic and ignores this set. It exists for programs that use it.
        consumer_stopped_errors: the errors that mean that the client is closing.
    """

    consumer_stopped_errors: ClassVar[tuple[type[BaseException], ...]] = (ClientClosed,)
    _was_active: bool  # whether flow was active before the stop, for a restart

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
        self._log = Log("transport.consumer", self.app.id)
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
            self._log,
            timeout=settings.client.commit_timeout,
            livelock_timeout=self.commit_livelock_soft_timeout,
            raises_refusals=not self.in_transaction,
            note_undelivered=self.app.producer.failures.note_raised,
        )
        self.questions = Questions(self._opened_client, timeout=settings.client.request_timeout)
        self._stuck_interval = settings.stuck_interval
        self._unreadable: UnreadableBatch | None = None
        self._phase = _Phase.NEW

    def _make_committer(self) -> AnyCommitter:
        """Make a committer for the current client."""
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
                self._log,
                rewind=self.ownership.rewind,
                resume=self.app.conductor.resume,
                bound=min(settings.client.rebalance_bound, settings.client.transaction_timeout / 2),
                attempts=settings.transaction_attempts,
                around=around,
            )
        return Committer(
            self.assignment,
            self.client,
            self._log,
            timeout=settings.client.commit_timeout,
            patience=settings.client.rebalance_bound,
            can_join=lambda: not self.rebalances.is_under_way,
            suspend=self.suspend_delivery,
            resume=self.resume_delivery,
            confirm=self._confirm_results,
            around=around,
        )

    async def _confirm_results(self) -> None:
        """Wait until all messages that were sent before the call are delivered.

        Raises DeliveryFailed: one was not delivered, and no task has seen its error.
        """
        producer = self.app.producer
        if producer.unfinished:
            await producer.flush()
        producer.failures.check()

    def _become_member(self) -> None:
        """Make a client, and the parts that live as long as the client."""
        app, settings = self.app, self.app.settings
        timeout = settings.client.commit_timeout
        self.client: ConsumerClient = self.transport.driver.consumer(settings.client)
        self._opening = Opening(self.client, self.spawn, self._on_not_opened)
        self.committer = self._make_committer()
        self.pauses = Pauses(self.assignment, self.flow, app.conductor.is_held_back)
        self._membership = Membership(
            self._log,
            self.client.group_metadata,
            settings.client.session_timeout,
            is_member=settings.client.is_member,
        )
        self._slow_handlers = SlowHandlers(self.assignment, self.pauses, self._log)
        self.rebalances = RebalanceHandler(
            self,
            self.client,
            self.assignment,
            self.ownership,
            self.flow,
            self.pauses,
            self.requests,
            self._membership,
            self._log,
        )
        self.resets = Resets(
            self.assignment,
            self.ownership,
            self.committer.commit,
            app.conductor.reschedule,
            self._log,
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
            app.probe,
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
            self._log,
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
        """Stop flow, commit the safe offsets, stop fetching, leave the group, join the threads.

        An error of the last commit is raised after the other steps. Each step has its share of the
        grace, so a step that waits for a dead broker takes no time from the later steps.
        """
        self._was_active = self.flow.active
        self.flow.stop()
        self.requests.note_change()
        if not self.is_restarting:
            self.app.conductor.end()
        left = self.time_left
        if self._phase is not _Phase.OPEN:
            await self._close_client(left * _LEAVE_SHARE)
            return
        self.polling.give_up_subscribing()
        try:
            await self._autocommit.last(self.committer, left * _COMMIT_SHARE)
        finally:
            # The messages that are unacked now will never be acked. A rebalance must not wait for
            # them, so that the poll that waits for the rebalance can end.
            self.rebalances.end()
            self._warn_of_unacked()
            self.ownership.abandon(self.assignment)
            with trio.move_on_after(left * _FETCHER_SHARE):
                await self.fetcher.stop()
            await self._close_client(left * _LEAVE_SHARE)

    async def _close_client(self, timeout: float) -> None:
        """Close the client, if it is open or being opened, after the end of all questions."""
        was, self._phase = self._phase, _Phase.CLOSING
        self.questions.end()
        if was is not _Phase.CLOSING and self._opening.has_begun:
            await self.client.close(timeout)

    def _warn_of_unacked(self) -> None:
        """Warn about the delivered messages that will never be acked."""
        unacked = {
            tp: offsets
            for tp, ledger in sorted(self.assignment.items())
            if (offsets := [message.offset for message in ledger.unacked])
        }
        if count := sum(map(len, unacked.values())):
            self._log.warning(
                "shut_down_unacked",
                "%d delivered %s not acked at shutdown and will be redelivered: %s",
                count,
                "message was" if count == 1 else "messages were",
                listed(f"{tp} from offset {min(offsets)}" for tp, offsets in unacked.items()),
                count=count,
                partitions=unacked,
            )

    @trio.lowlevel.enable_ki_protection
    async def on_restart(self) -> None:
        """Join as a new member, from the committed offsets. The iterators continue."""
        self._become_member()
        self.requests.reopen()
        self._phase = _Phase.NEW
        self.app.conductor.on_subscribed(frozenset())
        if self._was_active:
            self.resume_flow()

    def on_ended(self) -> None:
        """End delivery. `on_stop` does not end it before a restart, and the restart may fail."""
        self.app.conductor.end()

    async def kill(self) -> None:
        """Stop as in a crash, without a commit or a leave. For demonstrations and tests."""
        was, self._phase = self._phase, _Phase.CLOSING
        self.stop_flow()
        self.app.conductor.end()
        self.rebalances.end()
        self.ownership.drop(self.assignment)
        self.questions.end()
        if was is not _Phase.CLOSING and self._opening.has_begun:
            await self.client.kill()

    @trio.lowlevel.enable_ki_protection
    async def _join_group(self) -> None:
        await self.app.conductor.wait_until_wanted()
        if self._phase is _Phase.CLOSING:
            return
        self._phase = _Phase.OPEN
        # The committer runs before the client connects, so that a `commit` made meanwhile ends.
        self.spawn("committer", self.committer.run)
        with self.ending_quietly():
            await self._opening.wait()
            self.spawn("rebalance", self._until_closed, self.rebalances.run)
            subscribed = self.app.conductor.wait_for_subscriptions
            self.spawn("joining", self._membership.warn_if_not_joined, subscribed)
            self.spawn("starts", self._until_closed, self.resets.run)
            self.spawn("commit ticker", tick, self.commit_interval, self._autocommit.beat)
            self.spawn(
                "stall detector", tick, self._stuck_interval, self.verify_all_partitions_active
            )
            self.spawn("slow handlers", tick, SLOW, self._slow_handlers.check)
            if self.app.probe is not None:
                self.spawn("lag", tick, self.app.settings.lag_interval, self.ends.refresh)
            self.spawn("patterns", self._find_topics)
            if self.app.settings.client.client_only:
                self.spawn("client only", self._call_client_only_hook)
            await self.add_service(self.fetcher)

    def _on_not_opened(self) -> None:
        """Make another client: only a question needed this one, and its caller has the error."""
        if self._phase is _Phase.NEW:
            self._become_member()

    async def _opened_client(self) -> ConsumerClient:
        """Return the client when it is open. The first call opens it, without joining the group."""
        self._check_asking()
        client = self.client
        await self._opening.wait()
        return client

    def _check_asking(self) -> None:
        if not self.app.is_open or self._phase is _Phase.CLOSING:
            raise AppClosed("the app or its consumer is not open: nothing can be asked")

    @trio.lowlevel.enable_ki_protection
    async def _find_topics(self) -> None:
        conductor, interval = self.app.conductor, self.app.settings.pattern_interval
        while True:
            await conductor.wait_for_patterns()
            if (topics := await self._topics()) is not None:
                conductor.on_topics(topics)
            with trio.move_on_after(interval):
                await conductor.wait_for_change()

    async def _topics(self) -> Collection[str] | None:
        """Return the names of all topics; warn and return None if the query failed.

        The next search follows soon, so only an error that no retry can fix ends the app.
        """
        try:
            with self.ending_quietly():
                return await self.client.topics()
        except (AuthorizationFailed, Fenced, ClientClosed):
            raise
        except Exception as exc:  # noqa: BLE001 - an error of the client that we do not know, too
            self._log.warning(
                "pattern_search_failed",
                "the search for topics that match a pattern failed and will be repeated: %s",
                exc if isinstance(exc, TransportError) else excerpt_of_error(exc),
                error=exc,
            )
        return None

    @trio.lowlevel.enable_ki_protection
    async def _call_client_only_hook(self) -> None:
        with contextlib.suppress(AppClosed):  # the app may end before the first subscription
            await exposed(self.app.conductor.on_client_only_start)

    @trio.lowlevel.enable_ki_protection
    async def _until_closed(self, run: Callable[[], Awaitable[None]]) -> None:
        with self.ending_quietly():
            await run()

    @contextlib.contextmanager
    def ending_quietly(self) -> Iterator[None]:
        """Suppress `consumer_stopped_errors` in the block once the client is closing or killed."""
        try:
            yield
        except self.consumer_stopped_errors:
            if self._phase is not _Phase.CLOSING:
                raise

    def on_init_dependencies(self) -> list[Service]:
        """Return the services that run below this service."""
        return [self.fetcher]

    def close(self) -> None:
        """Start the stop: delivery ends, the safe offsets are committed, and the group is left.

        The app continues, for example to send. Not a checkpoint. `ended` is set after the stop.
        """
        self.stop_soon()

    # Flow

    @property
    def flow_active(self) -> bool:
        """Whether messages are delivered."""
        return self.flow.active

    @property
    def can_resume_flow(self) -> trio.Event:
        """Set while flow is active. Get a new event after each change: an Event is set once."""
        return self.flow.gate.opened

    @property
    def suspend_flow(self) -> trio.Event:
        """Set while flow is stopped. Get a new event after each change."""
        return self.flow.gate.shut

    @property
    def not_waiting_next_records(self) -> trio.Event:
        """Set while no poll is under way that could return messages to deliver."""
        return self.flow.not_fetching.opened

    def stop_flow(self) -> None:
        """Stop delivery of all messages; the consumer stays in its group. Not a checkpoint.

        While the consumer restarts, the call applies to the time after the restart.
        """
        self._was_active = False
        self.flow.stop()
        self.requests.note_change()

    def resume_flow(self) -> None:
        """Resume delivery. Not a checkpoint.

        While the consumer restarts, the call applies to the time after the restart. After the end
        of the consumer the call does nothing.
        """
        self._was_active = True
        if self._phase is _Phase.CLOSING or self.state in (State.STOPPING, State.ENDED):
            return
        self.flow.resume()
        self.app.conductor.notify_iterators()
        self.requests.note_change()

    async def wait_for_stopped_flow(self) -> None:
        """Wait until flow is stopped and no poll fetches messages for delivery.

        After this call no message is delivered until `resume_flow`. A checkpoint; cancelling
        changes nothing.
        """
        await trio.lowlevel.checkpoint()
        while self.flow.active or not self.flow.not_fetching.is_open:
            await self.flow.gate.shut.wait()
            await self.flow.not_fetching.passed()

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Pause partitions: stop fetching from them. Not a checkpoint.

        Waiting messages are still delivered. Partitions that are not assigned are ignored and
        counted in `flow.ignored`. A pause ends when the partition is revoked or lost.
        """
        self.flow.pause(each_partition("tps", tps), self.assignment)
        self.requests.note_change()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Resume partitions: fetch from them again. Not a checkpoint."""
        self.flow.unpause(each_partition("tps", tps), self.assignment)
        self.requests.note_change()

    def on_unreadable(self, error: UnreadableBatch) -> None:
        """End the app with the error of a batch that cannot be decoded. Not a checkpoint.

        A channel calls this when all messages before the batch have been taken.
        """
        if self._unreadable is None:
            self._unreadable = error
            self.spawn("unreadable batch", self._raise_unreadable)

    async def _raise_unreadable(self) -> None:
        assert self._unreadable is not None
        raise self._unreadable

    def on_buffer_full(self, tp: TP) -> None:
        """Notify the monitor that a channel of the partition's topic is full.

        The polling task calls this, and pauses the partition before its next poll.
        """
        if (probe := self.app.probe) is not None:
            probe(probe.sensor.on_topic_buffer_full, tp)

    def on_buffer_drop(self, tp: TP) -> None:
        """Resume fetching from the partition, if all channels of its topic want messages.

        A channel is down to half its limit, or nothing that it holds can be taken.
        """
        self.requests.note_change()

    def suspend_delivery(self) -> None:
        """Suspend delivery of the assigned partitions: the consumer is not in its group.

        Without a group no loss would end the suspension, so nothing is suspended then. Not a
        checkpoint.
        """
        if self.app.settings.client.is_member:
            for ledger in self.assignment.values():
                ledger.suspend()

    def resume_delivery(self) -> None:
        """Resume delivery after `suspend_delivery`. Not a checkpoint."""
        self.app.conductor.resume(list(self.assignment.values()))

    def _interrupt_poll(self) -> None:
        if self._phase is _Phase.OPEN:
            self.client.interrupt()

    # Messages without iterators

    def getmany(self, timeout: float) -> GetMany:
        """Return an async iterator over (TP, Message) of all available messages of all topics.

        The topics are those of the Conductor: `app.conductor.add(topic)` adds one. The iterator
        waits at most `timeout` seconds for the first message, and does not wait for later ones. The
        partitions of a topic object take turns by its scheduler, and the topic objects take turns
        as well. No message of an ended epoch or of a revoked partition is returned. Your code must
        ack the messages. The iterators of the same topic objects share them.

        Each step is a checkpoint. Cancelled: no message was taken.
        """
        seconds("timeout", timeout, least=0, finite=False)
        deadline = trio.current_time() + timeout
        return GetMany(self.app.conductor, functools.partial(until_set, deadline))

    def track_message(self, message: AnyMessage) -> None:
        """Check that a message is tracked: a message is tracked from its delivery on (I1).

        Raises ValueError: the message is not an unacked message of this consumer.
        """
        instance("message", message, Message, "a Message")
        if not message.is_open or ledger_of(message) not in self.assignment.values():
            raise ValueError(f"{message!r} is not an unacked message of this consumer")

    async def on_task_error(self, exc: BaseException) -> None:
        """Handle the error of a handler: commit the safe offsets, then do as `on_task_error` says.

        Call this where you catch the error of a handler. An error that leaves the block of
        `async with app` stops the app in order without this call. The message stays unacked.

        With transactions, the transaction of the message is aborted and its messages are
        redelivered. After `transaction_attempts` aborts in a row the app fails, whatever the
        setting is. A checkpoint.

        Args:
            exc: raised again if the setting `on_task_error` is "fail"; logged if it is "go_on".
        """
        instance("exc", exc, BaseException, "an exception")
        try:
            held = in_hand.get()
            if not await self.committer.abort_and_rewind(None if held is None else {held.tp}):
                await self.commit()
        except TransportError as error:
            self._log.warning(
                "commit_after_error_failed",
                "the commit after an error of a handler failed: %s",
                error,
                error=error,
            )
        if self.app.settings.on_task_error == "fail":
            raise exc
        self._log.failure(
            "handler_failed", "a handler has failed, and its message stays unacked", exc
        )

    async def redo(self, tp: TP, *, counts: bool = False) -> None:
        """With transactions, abort that of a partition, so that its unacked messages come again.

        For handlers. Without transactions it does nothing. A checkpoint. Cancelled: the abort goes
        on. Raises AppClosed, ClientClosed, and the errors of `commit` that end the app.

        Args:
            counts: whether the abort counts as one of `transaction_attempts`.
        """
        await self.committer.redo(tp, counts=counts)

    async def isolate(self, tp: TP) -> None:
        """With transactions, commit that of a partition, and begin one for this partition alone.

        For handlers. All other partitions of the scope wait until the next commit or abort. A
        checkpoint. Cancelled: the commit goes on. Raises what `commit` raises.
        """
        self._prove()
        try:
            await self.committer.isolate(tp)
        finally:
            self.resets.after_commit()

    # Acks and commits

    @property
    def unacked(self) -> set[AnyMessage]:
        """The messages that are delivered and not acked."""
        return {message for ledger in self.assignment.values() for message in ledger.unacked}

    def ack(self, message: AnyMessage) -> bool:
        """Ack a message: see `Message.ack`. A message of another consumer is counted as stale."""
        if type(message) is not Message:
            instance("message", message, Message, "a Message")
        if ledger_of(message).tally is not self.assignment.tally:
            self.assignment.tally.stale += 1
            return False
        return message.ack()

    async def commit(
        self,
        topics: str | TP | Collection[str | TP] | None = None,
        *others: str | TP | bool,
        start_new_transaction: bool = True,
        metadata: str | None = None,
    ) -> bool:
        """Commit the safe offsets; return whether an offset moved.

        Overlapping calls share one commit. False if there is nothing to commit, such as before the
        consumer joins its group and after its end. False also, with a warning, if a rebalance of
        the group lasted longer than its bound, or the consumer was not a member for that time.

        A checkpoint. Cancelled: the commit is made as a whole or not at all, and its outcome is
        entered into the ledgers.

        Args:
            topics: the first of the names and partitions to commit, or one collection of all of
                them; None: everything assigned.
            others: more names and partitions. After a collection or None: `start_new_transaction`.
            start_new_transaction: with transactions, begin the next transaction. If False, nothing
                is delivered until the next commit.
            metadata: a text that the broker stores with each of these offsets, also with those that
                are committed already. `committed_metadata` returns it. The next commit of an offset
                replaces it, and a commit at `commit_interval` has none. None: the call adds none.

        With transactions the call suspends delivery and waits until all unacked messages are acked.
        Then it commits their offsets together with the messages that the handlers have sent.

        Raises:
            TransactionAborted: everything since the last commit is undone and redelivered.
            NotInTransaction: with transactions, if the caller has an unacked message in hand, for
                which the call would wait.
            CommitUnknown: no answer within the commit timeout, or within twice that time if the
                client does not answer either. The next commit settles it. CommitWithdrawn, a
                subclass: the client did not begin the commit, and never will.
            DeliveryFailed: a message that was sent before was not delivered, and no task has seen
                its error. Nothing was committed.
            CommitRefused, AuthorizationFailed, Fenced, ClientClosed: see these classes.
            AppClosed: the app ended before the commit began.
            ValueError: `metadata` has more than 3,800 bytes in UTF-8.
        """
        if others and not isinstance(topics, (str, TP)):
            start_new_transaction, *others = others  # type: ignore[assignment]
        meant = topics_of("topics", topics, others)
        flag("start_new_transaction", start_new_transaction)
        or_none(metadata_text, "metadata", metadata)
        if self._phase is not _Phase.OPEN:
            await trio.lowlevel.checkpoint()
            return False
        await self._catch_up()
        self._prove()
        try:
            return await self.committer.commit(
                meant, begins_next=start_new_transaction, text=metadata
            )
        finally:
            self.resets.after_commit()

    def _prove(self) -> None:
        """Prove sought positions that their logs are known to reach."""
        for tp, ledger in self.assignment.items():
            if not ledger.is_proven and (end := self.client.highwater(tp)) is not None:
                ledger.prove(end)

    @trio.lowlevel.enable_ki_protection
    async def _catch_up(self) -> None:
        """Move idle ledgers past markers; skip that in a rebalance or if the client hangs."""
        bound = trio.move_on_after(self.app.settings.client.commit_timeout)
        with contextlib.suppress(RebalanceInProgress, AppClosed), bound:
            await self.polling.catch_up()

    async def force_commit(
        self,
        topics: str | TP | Collection[str | TP] | None = None,
        *others: str | TP | bool,
        start_new_transaction: bool = True,
        metadata: str | None = None,
    ) -> bool:
        """Commit now, regardless of the interval: the same as `commit`."""
        return await self.commit(
            topics, *others, start_new_transaction=start_new_transaction, metadata=metadata
        )

    async def commit_and_end_transactions(self) -> None:
        """Commit the safe offsets, and begin no transaction after that.

        With transactions, nothing is delivered until the next commit. An abort raises no error: a
        warning reports it, and its messages are redelivered. Otherwise the same as `commit`.
        """
        with contextlib.suppress(TransactionAborted):
            await self.commit(start_new_transaction=False)

    async def maybe_wait_for_commit_to_finish(self) -> bool:
        """Wait for the commit that is under way or queued; return whether there was one.

        A checkpoint; cancelling changes nothing. An error of that commit is raised only to the
        callers of `commit`.
        """
        return await self.committer.wait_for_running()

    async def wait_empty(self) -> None:
        """Wait until all messages delivered before the call are acked or given up, then commit.

        Messages that are delivered later do not count. The wait has no bound, and a handler that
        waits for its own message waits forever: use a cancel scope. A checkpoint; cancelling
        changes nothing. Raises the errors of `commit`.
        """
        await until_done(list(self.assignment.values()))
        await self.commit()

    # Seek

    async def seek(self, partition: TP, offset: int) -> None:
        """Continue at `offset` in a new epoch; acks of messages of the old epoch have no effect.

        The unacked messages of the old epoch are given up: a rebalance does not wait for their
        handlers.

        A checkpoint. Cancelled: either nothing happened, or the seek is made as a whole.

        Raises:
            ValueError: a negative offset.
            NotAssigned: the partition is not assigned, or was revoked during the call.
            RebalanceInProgress: a rebalance is being served. The call fails at once, because the
                rebalance may wait for the caller. A hook `on_partitions_assigned` may seek the
                partitions that are being assigned.
            AppClosed: the app is not open.
            TransactionAborted: with transactions, the commit before the seek failed.
            NotInTransaction: with transactions, the caller has a message in hand; ack it first.
        """
        partition = topic_partition("partition", partition)
        offset = offset_of("offset", offset)
        await trio.lowlevel.checkpoint()
        self._check_open("seek in")
        if partition not in self.assignment:
            raise NotAssigned(f"{partition} is not assigned to this consumer")
        if self.in_transaction and not self.rebalances.is_under_way:
            await self.commit({partition})  # the work of acked messages is kept
        if not self.rebalances.start_at(partition, offset):
            await self.polling.seek(partition, offset)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every partition to its committed offset, if it has one; return those offsets.

        With transactions, the open transactions are aborted, and their messages are redelivered.

        A checkpoint at each partition. Cancelled: some partitions are sought and some are not.

        Raises:
            NotAssigned, RebalanceInProgress, AppClosed: as `seek` does, at any partition.
            BrokerUnavailable, AuthorizationFailed: the committed offsets are not available.
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
            raise AppClosed(f"the app is not open or has not begun to read: nothing to {to}")

    async def seek_to_beginning(self, *tps: TP) -> dict[TP, int]:
        """Seek partitions to the first offsets of their logs; return those offsets.

        A checkpoint at each partition. Cancelled: some partitions are sought and some are not.

        Args:
            tps: the partitions. None at all: everything assigned.

        Raises:
            NotAssigned, RebalanceInProgress, AppClosed, TransactionAborted, NotInTransaction: as
                `seek` does, at any partition.
            BrokerUnavailable, AuthorizationFailed, UnknownTopic: as `beginning_offsets` does. No
                partition is sought then.
        """
        wanted = self._assigned_of(tps)
        return await self._seek_all(await self.questions.beginning_offsets(wanted))

    async def seek_to_end(self, *tps: TP) -> dict[TP, int]:
        """Seek partitions to the ends of their logs; return those offsets.

        The end is that of `end_offsets` at the time of the call. Messages that are written after
        that are delivered. All else is as in `seek_to_beginning`.
        """
        wanted = self._assigned_of(tps)
        return await self._seek_all(await self.questions.end_offsets(wanted))

    async def seek_to_time(self, times: float | Mapping[TP, float]) -> dict[TP, int]:
        """Seek partitions to their first messages of a time or later; return those offsets.

        A partition without such a message is sought to its end. All else is as in
        `seek_to_beginning`.

        Args:
            times: seconds since 1970, for everything assigned; or such a time for each of some
                partitions.
        """
        if isinstance(times, Mapping):
            wanted = times_of("times", times)
            self._assigned_of(wanted)
        else:
            wanted = dict.fromkeys(self._assigned_of(()), time_of("times", times))
        found = await self.questions.offsets_for_times(wanted)
        starts = {tp: record.offset for tp, record in found.items() if record is not None}
        late = [tp for tp in found if tp not in starts]
        ends = await self.questions.end_offsets(late) if late else {}
        return await self._seek_all({tp: {**starts, **ends}[tp] for tp in found})

    def _assigned_of(self, tps: Iterable[TP]) -> list[TP]:
        """Return these partitions, or all assigned ones. Raises NotAssigned, AppClosed."""
        wanted = each_partition("tps", tps)
        self._check_open("seek in")
        if absent := [tp for tp in wanted if tp not in self.assignment]:
            raise NotAssigned(f"not assigned to this consumer: {listed(absent)}")
        return wanted or list(self.assignment)

    async def _seek_all(self, starts: dict[TP, int]) -> dict[TP, int]:
        for tp, offset in starts.items():
            await self.seek(tp, offset)
        return starts

    async def perform_seek(self) -> None:
        """Seek all partitions to their committed offsets: the same as `seek_to_committed`."""
        await self.seek_to_committed()

    # Questions about offsets and topics

    async def position(self, tp: TP) -> int:
        """Return the offset of the next message that this consumer delivers from a partition.

        Of several topic objects, the one that is behind counts. Messages that are fetched and wait
        are not delivered yet. If the start of the partition is not known yet, the call waits for
        it.

        A checkpoint. Cancelled: only the waiting ends.

        Raises:
            NotAssigned: the partition is not assigned, or was revoked during the call.
            RebalanceInProgress: only in a hook, for a partition that is being assigned: its start
                is not known, because the group has no committed offset of it.
            BrokerUnavailable: the start was not known within `request_timeout`.
            AppClosed: the app is not open, or closes during the call.
        """
        tp = topic_partition("tp", tp)
        await trio.lowlevel.checkpoint()
        self._check_asking()
        return await self.questions.within(f"the position of {tp}", lambda: self._position(tp))

    async def _position(self, tp: TP) -> int:
        while True:
            if (ledger := self.assignment.get(tp)) is None:
                self._check_asking()
                raise NotAssigned(f"{tp} is not assigned to this consumer")
            if (offset := ledger.next_offset) is not None:
                return offset
            start = await self._start_of(tp)
            if ledger.next_offset is None and not ledger.is_shut:
                if start is not None:
                    return start
                located = trio.Event()
                ledger.when_located(located.set)
                await located.wait()

    async def _start_of(self, tp: TP) -> int | None:
        """Return where an assigned partition starts; None: the next poll finds that out."""
        with contextlib.suppress(RebalanceInProgress):
            if (found := await self.polling.positions([tp])).get(tp) is not None:
                return found[tp]
            return (await self.questions.committed([tp]))[tp]
        # A hook may ask. Only members of a group start at the committed offset in every case.
        start = None
        if self.app.settings.client.is_member:
            start = (await self.questions.committed([tp]))[tp]
        if start is None and self.rebalances.is_under_way:
            raise in_progress()
        return start

    @overload
    async def committed(self, tps: TP) -> int | None: ...
    @overload
    async def committed(self, tps: Iterable[TP]) -> dict[TP, int | None]: ...
    async def committed(self, tps: TP | Iterable[TP]) -> int | dict[TP, int | None] | None:
        """Return the offset that the group has committed; None: it has committed none.

        The answer is the broker's. The partitions need not be assigned, nor exist. With the default
        `isolation`, the call waits for transactions that are about to commit an offset. Without a
        group (`client_only`) there are no committed offsets.

        A checkpoint. Cancelled: only the waiting ends. A question needs no group and no topic
        object: the first one opens a connection to the broker, and the consumer joins no group by
        that. Hooks may ask as well.

        Args:
            tps: one partition, or several. For several, the result is a dict.

        Raises:
            BrokerUnavailable: no answer within `request_timeout`.
            AuthorizationFailed: the broker refuses the question.
            AppClosed: the app is not open, or closes during the call.
        """
        if isinstance(tps, TP):
            (offset,) = (await self.questions.committed([topic_partition("tps", tps)])).values()
            return offset
        return await self.questions.committed(each_partition("tps", tps))

    @overload
    async def committed_metadata(self, tps: TP) -> str | None: ...
    @overload
    async def committed_metadata(self, tps: Iterable[TP]) -> dict[TP, str | None]: ...
    async def committed_metadata(self, tps: TP | Iterable[TP]) -> str | dict[TP, str | None] | None:
        """Return the text that `commit` has stored with the committed offset; None: there is none.

        All else is as in `committed`.
        """
        if isinstance(tps, TP):
            (text,) = (await self.questions.committed_texts([topic_partition("tps", tps)])).values()
            return text
        return await self.questions.committed_texts(each_partition("tps", tps))

    async def beginning_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Return the first offset of each partition's log. The partitions need not be assigned.

        All else is as in `committed`. Raises UnknownTopic: a topic or a partition does not exist. A
        question creates no topic.
        """
        return await self.questions.beginning_offsets(each_partition("tps", tps))

    async def end_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Return the offset after the last message of each partition's log.

        With `isolation="read_committed"`, the default, that is the first offset of an open
        transaction. All else is as in `beginning_offsets`.
        """
        return await self.questions.end_offsets(each_partition("tps", tps))

    async def offsets_for_times(
        self, times: Mapping[TP, float]
    ) -> dict[TP, OffsetAndTimestamp | None]:
        """Return the first message of each partition with the given or a later timestamp.

        The result has its offset and its timestamp; None: there is no such message. It can be a
        message of an aborted transaction, which is never delivered. All else is as in
        `beginning_offsets`.

        Args:
            times: seconds since 1970, as in `Message.timestamp`.
        """
        return await self.questions.offsets_for_times(times_of("times", times))

    async def topics(self) -> frozenset[str]:
        """Return the names of all topics that this app may see, without internal topics.

        All else is as in `committed`.
        """
        return await self.questions.topics()

    async def partitions(self, topic: str) -> frozenset[TP]:
        """Return all partitions of a topic, not only the assigned ones.

        All else is as in `beginning_offsets`.
        """
        topic_name("topic", topic)
        return await self.questions.partitions(topic)

    # Partitions that are stuck

    @property
    def is_member(self) -> bool:
        """Whether the consumer has its share of the partitions, maybe none, in its group.

        False before the first assignment, and after the group has removed the consumer.
        """
        return self.rebalances.is_member

    @property
    def stuck(self) -> tuple[Stuck, ...]:
        """The stuck partitions that the last search has found, and where they are stuck."""
        return self._stall_detector.stuck

    async def verify_all_partitions_active(self) -> None:
        """Search for stuck partitions: warn once about each, and keep the findings in `stuck`.

        The consumer calls this every `stuck_interval`. The call asks the broker for the ends of the
        logs that have been quiet for a while. That takes three times `commit_timeout` at most.

        A checkpoint; cancelling changes nothing. Raises nothing: a missing answer is a finding.
        """
        await trio.lowlevel.checkpoint()
        if self._phase is _Phase.OPEN:
            await self._stall_detector.check_all()

    def verify_event_path(self, now: float, tp: TP) -> Stuck | None:
        """Return where a partition is stuck, without asking the broker; None: it is not stuck.

        Without the broker, a client that fetches nothing is not found. Only
        `verify_all_partitions_active` finds that. A new finding is a warning, as there. Not a
        checkpoint.

        Args:
            now: seconds on trio's clock.
            tp: for a partition that is not assigned, the result is None.
        """
        _check_arguments(now, tp)
        return self._stall_detector.check(now, tp, whole=True)

    def verify_recovery_event_path(self, now: float, tp: TP) -> Stuck | None:
        """Return whether polling is stuck, for a partition that is read to rebuild a state.

        Only polling is checked, not handlers and commits. Polling is checked also while delivery is
        stopped or the partition is paused, because polling keeps the membership. Not a checkpoint.
        """
        _check_arguments(now, tp)
        return self._stall_detector.check(now, tp, whole=False)

    # Ownership

    @contextlib.contextmanager
    def serving(self, event: Rebalance) -> Iterator[None]:
        """Notify the monitor of a rebalance that the block serves. For the rebalance handler."""
        if (probe := self.app.probe) is None:
            yield
            return
        try:
            with probe.rebalance(self.app, self, event):
                yield
        finally:
            self.requests.note_change()  # the end of a poll notifies the monitor: end an idle poll

    def on_polled(self) -> None:
        """Notify the monitor that a poll has ended. For the rebalance handler."""
        if (probe := self.app.probe) is not None:
            probe.polled(self.app)

    def stop_abandoned(self) -> None:
        """Start to stop the producers of abandoned partitions. For the rebalance handler."""
        if self._phase is _Phase.OPEN:
            self.spawn("abandon", self.transactions.settle_released)

    async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
        """Wait for the unacked messages of these partitions, commit, and call the app's hook.

        The partitions are draining already. The caller cancels this at the bound of the rebalance.
        """
        await until_done([self.assignment[tp] for tp in revoked if tp in self.assignment])
        self._prove()
        try:
            await self.committer.commit(revoked)
        except (
            AppClosed,
            CommitUnknown,
            CommitRefused,
            DeliveryFailed,
            TransactionAborted,
        ) as exc:
            self._log.warning(
                "last_commit_failed",
                "the last commit of %s failed: %s",
                ranges(revoked),
                exc,
                partitions=revoked,
                error=exc,
            )
        await self.transactions.on_partitions_revoked(revoked)
        await exposed(self._on_partitions_revoked, revoked)
        await self.committer.leave(revoked)

    async def on_partitions_assigned(self, assigned: frozenset[TP], generation_id: int = 0) -> None:
        """Open the lanes and transactions of new partitions, and call the hooks for them.

        Nothing is fetched from the partitions before the return. The caller cancels this at the
        bound of the rebalance.
        """
        for tp in sorted(assigned):
            self.ownership.enter_epoch(self.assignment[tp])
        if self.in_transaction:
            # The open transactions of the last owner must end before the first delivery.
            await self.transactions.on_rebalance(frozenset(self.assignment), frozenset(), assigned)
        await exposed(self.app.conductor.on_partitions_assigned, assigned)
        await exposed(self._on_partitions_assigned, assigned)

    async def on_partitions_lost(self, lost: frozenset[TP]) -> None:
        """Call the app's hook for lost partitions, which were dropped without a commit.

        Messages that were sent for them in a transaction are undone. The caller cancels this at the
        bound of the rebalance.
        """
        self.transactions.on_partitions_lost(lost)
        await self.transactions.on_partitions_revoked(lost)
        await exposed(self._on_partitions_revoked, lost)

    async def on_topics_replaced(self, lost: frozenset[TP]) -> None:
        """Call the app's hook for partitions of a topic that was deleted and created again.

        They are lost without a commit, and the partitions of the new topic are assigned next.
        Messages that were sent for them in a transaction are undone. The caller cancels this at the
        bound of the rebalance.
        """
        await self.transactions.on_partitions_revoked(lost)
        await exposed(self._on_partitions_revoked, lost)


def _check_arguments(now: float, tp: TP) -> None:
    if not is_number(now):
        raise wrong_type("now", "a number of seconds on trio's clock", now)
    topic_partition("tp", tp)
