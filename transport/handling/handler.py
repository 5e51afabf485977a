"""The handler: a node of the tree that calls your function for each message of a topic.

Look here for the way of a message through a handler: taken, begun, handled, and acked, retried or
given up. `key_order.py` has the rule of the order in which messages begin.

**Messages that have not begun.** A handler takes messages before they may begin: they are parked
behind their key, or wait for a retry. When the partition is revoked, when delivery is suspended and
when the app stops, the handler returns these messages to their ledger (`recall`). So a drain waits
only for messages that have begun.

**Transactions.** A transaction can be committed only if it has the results of all messages below
its offset. So at a barrier, the handler returns only the messages above the highest one that has
begun, and handles the others. If a failed attempt has sent messages, they must not be committed.
Then the transaction is aborted (`_redo`), and the attempts are kept for the redelivered message.
`redelivery.py` has the rule for that message.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from nurseries import Service
from transport.backoff import Backoff
from transport.codecs import DecodeError
from transport.consuming.host import Host
from transport.delivering.channel import Failure
from transport.delivering.in_hand import in_hand
from transport.delivering.ledger import Lane, lane_of
from transport.errors import TransactionAborted, TransportError
from transport.excerpt import excerpt_of_error
from transport.handling.attempts import AttemptMemory, Attempts
from transport.handling.batch_intake import BatchIntake
from transport.handling.calls import BatchCalls, Calls, MessageCalls
from transport.handling.intake import MessageIntake
from transport.handling.key_order import KeyOrder, Work
from transport.handling.last_resort import LastResort
from transport.handling.observer import Counts, Events, Observer
from transport.handling.plan import Plan
from transport.handling.redelivery import Redelivery
from transport.handling.reported import AttemptTimes, Failures
from transport.handling.timers import Timers
from transport.handling.traced import traced
from transport.handling.workers import Workers
from transport.log import Log
from transport.message import AnyMessage

# A handler lets other tasks run after this many seconds.
_GIVE_WAY = 0.001
# With transactions, seconds for which a barrier may wait for a retry.
_SHORT_DELAY = 1.0
# The longest wait before a schema is loaded again, in seconds.
_LONGEST_WAIT = 5.0
# The share of the grace in which running messages may end when the app stops.
_SHARE_OF_GRACE = 0.5


class Handler(Service):
    """A handler of one topic, with worker tasks that it starts on demand.

    Args:
        must_hurry: whether the app has crashed, so that running messages are cancelled at once.
        observers: receive the events of the handler. The list may change.

    Attributes:
        plan: the arguments of `App.handler` or `App.batch_handler`.
    """

    def __init__(
        self,
        plan: Plan,
        app: Host,
        must_hurry: Callable[[], bool],
        observers: Sequence[Observer] = (),
    ) -> None:
        super().__init__(f"Handler {plan.name}", grace=app.settings.grace)
        self.plan = plan
        log = self._log = Log("transport.handler", app.id, trio.current_time)
        self._times: AttemptTimes | None = None  # None: there is no monitor
        failures: Failures | None = None
        if (probe := app.probe) is not None:
            self._times = AttemptTimes(plan.name, probe, trio.current_time)
            failures = Failures(probe)
        self._events = Events(plan, observers, log, failures)
        self.topic = plan.topic.another()
        self._app = app
        self._must_hurry = must_hurry
        self._in_transaction = app.consumer.in_transaction
        self._flow = app.consumer.flow
        channel = self._channel = self.topic.channel
        channel.holder = self
        self._order: KeyOrder[Any] = KeyOrder()
        self._retries: Timers[Work[Any]] = Timers(self._on_due)
        self._workers = Workers(plan.concurrency, self._start_worker)
        self._last_resort = LastResort(plan, self._events, log, group=app.id)
        # With transactions: the attempts of messages that may be redelivered.
        self._memory = AttemptMemory(channel.usage.limit)
        self._redelivery = Redelivery(self._memory, app.consumer, self._retries, self._spawn_call)
        self._intake: MessageIntake | BatchIntake
        self._calls: Calls
        called = self._called = plan if app.tracing is None else traced(plan, app.tracing)
        if plan.batch is None:
            self._intake = MessageIntake(
                plan,
                channel,
                self._order,
                self._redelivery,
                self._events,
                log,
                self._on_change,
                self._load,
            )
            self._calls = MessageCalls(
                called, channel, self._events, in_transaction=self._in_transaction
            )
        else:
            self._intake = BatchIntake(
                plan.batch, channel, self._order, self._redelivery, self._on_change
            )
            self._calls = BatchCalls(
                called, channel, self._memory, self._events, in_transaction=self._in_transaction
            )
        self._is_ending = False
        self._has_ended = trio.Event()
        self._has_stopped = False  # no task may be started any more

    @property
    def counts(self) -> Counts:
        """The numbers of events so far."""
        return self._events.counts

    @property
    def running(self) -> int:
        """The number of messages or batches that have begun and are not done."""
        heads = (head for each in self._order.partitions.values() for head in each.heads.values())
        return sum(head.is_running for head in heads)

    @property
    def waiting(self) -> int:
        """The number of messages or batches that are taken and have not begun, or wait again."""
        return sum(each.works for each in self._order.partitions.values()) - self.running

    # Life

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        self._warn_of_timeout()
        self.spawn("retries", self._retries.run)
        if isinstance(self._intake, BatchIntake):
            self.spawn("linger", self._intake.run)
        self.spawn("check of dead letters", self._last_resort.check, self._app.consumer.questions)
        self._app.conductor.add(self.topic)
        self._intake.may_take = True
        self._on_change()

    def _warn_of_timeout(self) -> None:
        bound = self._app.settings.client.rebalance_bound
        if self.plan.timeout is not None and self.plan.timeout > bound:
            self._log.warning(
                "timeout_too_long",
                "the handler %s may take %g s for a message, but a rebalance waits only %g s for"
                " it: after that, another member may handle the same message. Shorten the"
                " handler's timeout, or raise drain_timeout and max_poll_interval",
                *(self.plan.name, self.plan.timeout, bound),
                handler=self.plan.name,
                seconds=self.plan.timeout,
            )

    @trio.lowlevel.enable_ki_protection
    async def on_stop(self) -> None:
        """Return the messages that have not begun, and wait for the others."""
        self.end()
        if not self._must_hurry():
            with trio.move_on_after(self.time_left * _SHARE_OF_GRACE):
                await self._has_ended.wait()
        self._workers.stop()
        self._has_stopped = True

    def end(self) -> None:
        """Begin no more messages, and return those that have not begun. Not a checkpoint."""
        if self._is_ending:
            return
        self._is_ending = True
        for lane in list(self._intake.lanes.values()):
            self.recall(lane)
        self._note_end()

    def _note_end(self) -> None:
        if self._is_ending and self._order.is_empty:
            self._has_ended.set()

    # Called by the channel

    def filled(self, lane: Lane) -> None:
        """React to new messages of a lane. Not a checkpoint."""
        self._intake.filled(lane)

    def recall(self, lane: Lane) -> None:
        """Return the messages of a lane that have not begun. Not a checkpoint.

        Its partition is revoked, or delivery from it is suspended. With transactions, the messages
        below the highest one that has begun stay; see the top of this file.
        """
        tp = lane.ledger.tp
        partition = self._order.partitions.get(tp)
        if partition is not None and self._intake.lanes.get(tp) is lane:
            above = partition.highest if self._in_transaction else -1
            self._give_back(lane, self._order.cut(partition, above))
            waits = any(work.partition is partition for work in self._retries)
            if self._in_transaction and lane.ledger.is_draining and waits:
                consumer = self._app.consumer
                self._spawn_call(lambda: consumer.redo(tp))  # a drain waits for no retry
        if self._order.ready:
            self._workers.wake()

    def forget(self, lane: Lane) -> None:
        """Drop the works of a lane that has no messages any more. Not a checkpoint.

        Its epoch has ended, or the topic was discarded.
        """
        tp = lane.ledger.tp
        partition = self._order.partitions.get(tp)
        is_known = self._intake.lanes.get(tp) is lane
        self._intake.forget(lane)
        if partition is not None and is_known:
            for head in partition.heads.values():
                if head.is_running:
                    self._remember(head)
            works = self._order.end_epoch(partition)
            if lane.ledger.is_shut:
                self._drop(works)
            else:
                self._give_back(lane, works)
            self._note_end()
        if tp not in self._app.consumer.assignment:
            self._memory.forget(tp)  # the next owner counts from the first attempt
        elif (uncommitted := lane.ledger.uncommitted) is not None:
            self._memory.forget(tp, uncommitted)

    def due_of(self, lane: Lane, offset: int) -> float | None:
        """Return when the next or present attempt for a message is due; None: none has failed."""
        if (partition := self._order.partitions.get(lane.ledger.tp)) is None:
            return None
        for head in partition.heads.values():
            if head.attempts is not None and any(
                message.offset == offset for message in head.held.open_messages()
            ):
                return head.attempts.due
        return None

    def _give_back(self, lane: Lane, works: list[Work[Any]]) -> None:
        self._drop(works)
        if works:
            self._channel.give_back(
                [message for work in works for message in work.held.open_messages()]
            )
        self._intake.release(lane)
        self._note_end()

    def _drop(self, works: list[Work[Any]]) -> None:
        self._retries.keep(lambda work: work.partition is not None)
        for work in works:
            self._remember(work)

    # Beginning messages

    def _on_change(self) -> None:
        """React to new messages, to resumed delivery and to the end of the channel."""
        if self._channel.ended:
            self.end()
        self._workers.wake()

    def _on_due(self, work: Work[Any]) -> None:
        if self._redelivery.isolates(work):
            return
        if self._order.due(work):
            self._workers.wake()

    @trio.lowlevel.enable_ki_protection
    def _next(self) -> Work[Any] | None:
        """Begin the next message; None: none may begin now."""
        order = self._order
        if not self._flow.active:
            self._intake.listen()  # `resume_flow` notifies the channel
            return order.begin(self._must_finish) if self._in_transaction else None
        if not order.ready and self._intake.may_take and not self._is_ending:
            self._redelivery.advance()
            self._intake.take()
        return order.begin()

    def _must_finish(self, work: Work[Any]) -> bool:
        """Return whether a barrier or a drain waits for a ready message."""
        ledger = lane_of(work.held).ledger
        return ledger.is_suspended or ledger.is_draining

    def _load(self, lane: Lane, failure: Failure, message: AnyMessage) -> None:
        """Load a schema in a task, and take the messages of the lane again after that."""
        self.spawn("load of a schema", self._load_and_release, lane, failure, message)

    @trio.lowlevel.enable_ki_protection
    async def _load_and_release(self, lane: Lane, failure: Failure, message: AnyMessage) -> None:
        backoff = Backoff(_LONGEST_WAIT)
        while not lane.ledger.is_shut:
            try:
                self._intake.loaded(lane, await self._channel.error_after(failure, message))
                return
            except TransportError as error:
                self._log.often(
                    logging.WARNING,
                    "decoding_waits",
                    "handler %s: %s offset %d cannot be decoded yet, and its partition waits: %s",
                    *(self.plan.name, message.tp, message.offset, error),
                    handler=self.plan.name,
                    partitions=[message.tp],
                    offset=message.offset,
                    error=error,
                )
                await backoff.wait()

    # Handling messages

    def _start_worker(self, number: int) -> None:
        self.spawn(f"worker {number}", self._work, number)

    @trio.lowlevel.disable_ki_protection
    async def _work(self, number: int) -> None:
        """Handle messages, one after the other, until cancelled.

        Like your function, this loop can be interrupted by Ctrl-C: a message that was not acked is
        redelivered. The functions that it calls are protected.
        """
        workers, order, flow, intake = self._workers, self._order, self._flow, self._intake
        is_plain, fn, plan = self._calls.is_plain, self._called.fn, self.plan
        counts, observers = self._events.counts, self._events.observers
        now = trio.lowlevel.current_clock().current_time
        times = self._times
        # The start of an attempt. 0: the worker has waited since its last attempt. Otherwise an
        # attempt begins where the one before it ended, which saves a look at the clock.
        start = 0.0
        await workers.begin()
        while True:
            work = order.begin() if order.ready and flow.active else self._next()
            if work is None:
                start = 0.0
                if times is not None:
                    times.report()
                if intake.may_take and flow.active and not self._is_ending:
                    await workers.give_way()
                else:
                    await workers.rest()
                continue
            if not workers.is_waking and (order.ready or intake.may_take):
                workers.wake()
            workers.latest = number
            if is_plain and work.attempts is None:
                # As `_handle`, with fewer calls, because this runs for each message.
                message = work.held
                if times is not None and not start:
                    start = now()
                try:
                    await fn(message)
                    if message.refcount > 0:  # the function may have acked it
                        message.ack()
                except Exception as error:  # noqa: BLE001 - each is a failure of the message
                    if times is not None:
                        times.failed(start, error)
                        start = 0.0
                    await self._on_failure(work, error)
                else:
                    if times is not None:  # as `succeeded`
                        end = now()
                        times.seconds.append(end - start)
                        start = end
                        if end >= times.due:
                            times.report()
                    counts.handled += 1
                    for observer in observers:
                        observer.on_handled(plan, message)
                    self._end(work)
            else:
                start = 0.0
                await self._handle(work)
            if workers.latest != number:
                continue  # another worker has run, so the function has let other tasks run
            if not order.ready or now() - workers.gave_way > _GIVE_WAY:
                start = 0.0
                await workers.give_way()

    @trio.lowlevel.enable_ki_protection
    async def _handle(self, work: Work[Any]) -> None:
        """Handle a message, or what is left of a batch."""
        try:
            failures = await self._calls.prepare(work)
        except TransportError as error:  # a schema could not be loaded
            await self._on_failure(work, error)
            return
        for message, attempts in failures:
            if not await self._apply(work, message, attempts):
                return
        if work.attempts is not None and work.attempts.is_spent:
            await self._give_up(work, work.attempts)
            return
        times, start = self._times, trio.current_time()
        try:
            await self._calls.attempt(work)
        except Exception as error:  # noqa: BLE001 - each is a failure of the message
            if times is not None:
                times.failed(start, error)
            await self._on_failure(work, error)
        else:
            if times is not None:
                times.succeeded(start)
            self._end(work)

    @trio.lowlevel.enable_ki_protection
    def _end(self, work: Work[Any]) -> None:
        """End a message that has begun: the next one of its key may begin."""
        partition = work.partition
        assert partition is not None
        self._order.done(work)
        self._intake.done(partition)
        if self._in_transaction and self._memory:
            self._redelivery.advance()
        if self._is_ending:
            self._note_end()

    # Failures

    @trio.lowlevel.enable_ki_protection
    async def _on_failure(self, work: Work[Any], error: Exception) -> None:
        """Retry a message whose attempt has failed, or give it up."""
        lane, calls, events = lane_of(work.held), self._calls, self._events
        failed = calls.source(work)
        if lane.ledger.is_shut:  # not one of its attempts: it is redelivered, or has another owner
            events.failed(failed, Attempts.of(error, time.time()))
            self._log.often(
                logging.INFO,
                "attempt_void",
                "handler %s: %s failed after its partition was revoked or sought, or its"
                " transaction was aborted, and is not retried here: %s",
                *(self.plan.name, repr(work.held), excerpt_of_error(error)),
                handler=self.plan.name,
                partitions=[work.held.tp],
                offset=work.offset,
                error=error,
            )
            self._end(work)
            return
        if self._in_transaction and _is_abort(error):
            await self._redo(work, counts=True)
            return
        if calls.can_split(work):
            # Only a message that fails by itself uses up its attempts.
            events.failed(failed, Attempts.of(error, time.time()), 0.0)
            await self._split(work, error)
            return
        attempts = work.fail(error, time.time())
        if isinstance(error, DecodeError) or not self._allows_retry(work, attempts, error):
            attempts.is_spent = True
            events.failed(failed, attempts)
            await self._give_up(work, attempts)
            return
        delay = self.plan.retry.delay(attempts.failed)
        attempts.due = trio.current_time() + delay
        attempts.has_sent |= self._has_effect(work)
        if self._must_return(work):
            events.failed(failed, attempts)
            self._return(work)
            return
        events.failed(failed, attempts, delay)
        if self._must_redo(work, delay):
            await self._redo(work)
        elif self._in_transaction and delay > _SHORT_DELAY:
            self._return(work)
        else:
            self._order.retry(work)
            self._retries.add(work, attempts.due)
            self._intake.held_up(lane)

    def _allows_retry(self, work: Work[Any], attempts: Attempts, error: Exception) -> bool:
        try:
            return self.plan.retry.allows(attempts.failed, error)
        except Exception as mistake:  # of the user's function
            mistake.add_note(
                f"in the function `on` of the Retry of handler {self.plan.name}, for"
                f" {work.held.tp} offset {work.offset}"
            )
            raise

    async def _split(self, work: Work[Any], error: Exception) -> None:
        """Handle the parts of a batch that has failed."""
        must_redo = self._has_effect(work)
        self._calls.split(work)
        if must_redo:
            self._calls.remember_parts(work, self._memory, Attempts.none(error, time.time()))
            await self._redo(work)
        else:
            self._go_on(work)

    def _must_return(self, work: Work[Any]) -> bool:
        """Return whether a work may not wait here: a drain would wait for its retry."""
        lane = lane_of(work.held)
        ledger = lane.ledger
        is_closed = lane not in ledger.lanes
        must = ledger.is_draining or ledger.is_suspended or is_closed or self._is_ending
        return must and self._may_return(work)

    async def _give_up(self, work: Work[Any], attempts: Attempts) -> None:
        """Treat a message for which there are no more attempts as `dead_letters` says."""
        if self._has_effect(work) and not self._last_resort.fails:
            await self._redo(work)
            return
        for message in self._calls.failed(work):
            if not await self._apply(work, message, attempts):
                return
        if self._calls.skip(work):
            work.attempts = None
            self._go_on(work)
        else:
            self._end(work)

    async def _apply(self, work: Work[Any], message: AnyMessage, attempts: Attempts) -> bool:
        """Send a dead letter, or skip the message; return False if its transaction was aborted."""
        if self._in_transaction:
            in_hand.set(message)  # for a hook for decode errors
        is_kept = self._in_transaction and not isinstance(attempts.error, DecodeError)
        try:
            await self._last_resort.apply(message, attempts)
        except Exception as error:
            if not self._in_transaction or not _is_abort(error):
                raise
            if is_kept and message.tp in self._app.consumer.assignment:
                self._memory.keep(message.tp, message.offset, attempts)
            if lane_of(message).ledger.is_shut:
                self._end(work)
            else:
                await self._redo(work, counts=True)
            return False
        if is_kept and message.tp in self._app.consumer.assignment:
            self._memory.keep(message.tp, message.offset, attempts)
        return True

    def _go_on(self, work: Work[Any]) -> None:
        """Handle the other parts of a batch, one of which has failed."""
        if lane_of(work.held).ledger.is_shut:
            self._end(work)
        elif self._must_return(work):
            self._return(work)
        else:
            self._order.retry(work)
            self._order.due(work)

    def _return(self, work: Work[Any]) -> None:
        """Return the messages that are left of a work to their ledger.

        With transactions, nothing above it has begun, and nothing may begin before it.
        """
        lane, partition = lane_of(work.held), work.partition
        assert partition is not None
        self._remember(work)
        self._end(work)
        self._channel.give_back(list(work.held.open_messages()))
        if self._in_transaction:
            partition.highest = work.offset - 1
            self._give_back(lane, self._order.cut(partition, partition.highest))

    # Transactions

    def _has_effect(self, work: Work[Any]) -> bool:
        """Return whether a failed attempt has sent messages in a transaction, or acked its own."""
        if not self._in_transaction:
            return False
        source = self._calls.source(work)
        return not source.is_open or self._app.consumer.transactions.has_sent_for(source)

    def _must_redo(self, work: Work[Any], delay: float) -> bool:
        """Return whether a failed attempt must be undone, by an abort of its transaction.

        Without messages to undo, it must if its retry would delay a barrier for too long. In a
        transaction of its own, an abort undoes nothing else, and the other partitions wait for it.
        """
        if not self._in_transaction:
            return False
        ledger = lane_of(work.held).ledger
        is_isolated = self._app.consumer.transactions.is_isolated(ledger.tp)
        is_late = delay > _SHORT_DELAY or ledger.is_draining
        return self._has_effect(work) or is_isolated or (is_late and not self._is_highest(work))

    def _may_return(self, work: Work[Any]) -> bool:
        """Return whether a failed message may be returned to its ledger."""
        return not self._in_transaction or (
            self._is_highest(work) and not self._must_redo(work, 0.0)
        )

    def _is_highest(self, work: Work[Any]) -> bool:
        """Return whether no message above has begun."""
        assert work.partition is not None
        return work.offset >= work.partition.highest

    def _remember(self, work: Work[Any]) -> None:
        """With transactions, keep the attempts of a message that will be redelivered."""
        if self._in_transaction:
            self._calls.remember(work, self._memory)

    async def _redo(self, work: Work[Any], *, counts: bool = False) -> None:
        """Abort the transaction of a failed message, which is then redelivered.

        Args:
            counts: whether the abort counts as one of `transaction_attempts`. It does unless the
                attempts of the message are bounded.
        """
        self._remember(work)
        await _ignoring_errors(lambda: self._app.consumer.redo(work.held.tp, counts=counts))
        self._end(work)

    def _spawn_call(self, call: Callable[[], Awaitable[object]]) -> None:
        """Start a task that makes a commit or an abort."""
        if not self._has_stopped:
            self.spawn("commit", _ignoring_errors, call)


@trio.lowlevel.enable_ki_protection
async def _ignoring_errors(call: Callable[[], Awaitable[object]]) -> None:
    """Make a commit or an abort: its failure has a warning, or the committer raises it."""
    in_hand.set(None)  # no message of this task delays it
    with contextlib.suppress(TransportError):
        await call()


def _is_abort(error: Exception) -> bool:
    """Return whether a function has failed because its transaction was aborted."""
    if isinstance(error, ExceptionGroup):
        return any(_is_abort(each) for each in error.exceptions)
    return isinstance(error, TransactionAborted)
