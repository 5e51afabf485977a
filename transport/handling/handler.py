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
Then the transaction is aborted (`_redo`), and the count of the attempts is kept for the
redelivered message. Before that message begins again, all messages below it are committed. So the
failures of one message never undo the work on the others twice.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Hashable, Sequence

import attrs
import trio

from nurseries import Service, exposed
from transport.codecs import DecodeError
from transport.consuming.host import Host
from transport.delivering.channel import raise_decode_error
from transport.delivering.in_hand import in_hand
from transport.delivering.ledger import Lane, lane_of
from transport.errors import AppClosed, ClientClosed, HandlerTimeout
from transport.excerpt import excerpt_of, excerpt_of_error
from transport.handling.attempts import Attempts
from transport.handling.dead_letters import DeadLetters
from transport.handling.key_order import KeyOrder, Partition, Work
from transport.handling.observer import Observer
from transport.handling.plan import Plan
from transport.handling.retry_queue import RetryQueue
from transport.handling.workers import Workers
from transport.message import AnyMessage
from transport.topic import Topic
from transport.types import TP

logger = logging.getLogger("transport.handler")

# A handler lets other tasks run after this many seconds.
_GIVE_WAY = 0.001
# The most turns of partitions to take at once, and the number of ready works that is enough.
_MOST_TURNS, _ENOUGH = 4, 64
# With order="partition" more than this is not taken from a partition in advance.
_MOST_PARKED = 64
# With transactions, seconds for which a barrier may wait for a retry.
_SHORT_DELAY = 1.0
# The share of the grace in which running messages may end when the app stops.
_SHARE_OF_GRACE = 0.5


@attrs.define
class Counts:
    """The numbers of messages since a handler has started.

    Attributes:
        handled: the function has returned.
        filtered: the filter has refused the message.
        failed: attempts that have failed.
        dead_letters: a dead letter was sent.
        skipped: the message was skipped after its last attempt.
    """

    handled: int = 0
    filtered: int = 0
    failed: int = 0
    dead_letters: int = 0
    skipped: int = 0


def _no_key(message: AnyMessage) -> Hashable:
    return None


def _one_key(message: AnyMessage) -> Hashable:
    return True


def _key_of_record(message: AnyMessage) -> Hashable:
    return message.record.key


_KEYS: dict[str, Callable[[AnyMessage], Hashable]] = {
    "none": _no_key,
    "partition": _one_key,
    "key": _key_of_record,
}


class Handler(Service):
    """A handler of one topic, with worker tasks that it starts on demand.

    Args:
        must_hurry: whether the app has crashed, so that running messages are cancelled at once.
        observers: receive the events of the handler. The list may change.

    Attributes:
        plan: the arguments of `App.handler`.
        counts: the numbers of messages so far.
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
        self._must_hurry = must_hurry
        self._observers = observers
        self.counts = Counts()
        self.topic = plan.topic.another()
        self._app = app
        self._channel = self.topic.channel
        self._channel.holder = self
        self._flow = app.consumer.flow
        self._order: KeyOrder[AnyMessage] = KeyOrder()
        self._retries = RetryQueue(self._on_due)
        self._workers = Workers(plan.concurrency, self._start_worker)
        self._in_transaction = app.consumer.in_transaction
        # A key that is computed, and a filter, need the decoded message.
        self._decodes_early = plan.key is not None or plan.filter is not None
        self._is_plain = not (
            self._channel.must_decode or self._in_transaction or plan.timeout is not None
        )
        self._key_of = _KEYS[plan.order] if plan.key is None else plan.key
        self._letters: DeadLetters | None = None
        if isinstance(plan.dead_letters, Topic):
            self._letters = DeadLetters(plan.dead_letters, group=app.id, handler=plan.name)
        # The lane that messages were taken from last, and the works of its partition.
        self._lane: Lane | None = None
        self._partition: Partition[AnyMessage] | None = None
        self._lanes: dict[TP, Lane] = {}  # of the partitions that have works
        self._held: dict[Partition[AnyMessage], Lane] = {}  # nothing is taken from them now
        self._window = _MOST_PARKED
        self._may_take = False  # the channel may have messages to take
        self._is_listening = False  # the channel will call `_on_change`
        self._is_ending = False
        self._has_ended = trio.Event()
        # With transactions: the attempts of messages that will be redelivered.
        self._remembered: dict[tuple[TP, int], Attempts] = {}

    @property
    def running(self) -> int:
        """The number of messages that have begun and are not done."""
        heads = (head for each in self._order.partitions.values() for head in each.heads.values())
        return sum(head.is_running for head in heads)

    @property
    def waiting(self) -> int:
        """The number of messages that the handler has taken and not begun, or that wait again."""
        return sum(each.works for each in self._order.partitions.values()) - self.running

    # Life

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        self._warn_of_timeout()
        self.spawn("retries", self._retries.run)
        self._app.conductor.add(self.topic)
        self._on_change()

    def _warn_of_timeout(self) -> None:
        bound = self._app.settings.client.rebalance_bound
        if self.plan.timeout is not None and self.plan.timeout > bound:
            logger.warning(
                "the handler %s may take %g s for a message, but a rebalance waits only %g s for"
                " it: after that, another member may handle the same message. Shorten the"
                " handler's timeout, or raise drain_timeout and max_poll_interval",
                *(self.plan.name, self.plan.timeout, bound),
            )

    @trio.lowlevel.enable_ki_protection
    async def on_stop(self) -> None:
        """Return the messages that have not begun, and wait for the others."""
        self.end()
        if not self._must_hurry():
            with trio.move_on_after(self.time_left * _SHARE_OF_GRACE):
                await self._has_ended.wait()
        self._workers.stop()

    def end(self) -> None:
        """Begin no more messages, and return those that have not begun. Not a checkpoint."""
        if self._is_ending:
            return
        self._is_ending = True
        for lane in list(self._lanes.values()):
            self.recall(lane)
        self._note_end()

    def _note_end(self) -> None:
        if self._is_ending and self._order.is_empty:
            self._has_ended.set()

    # Called by the channel

    def recall(self, lane: Lane) -> None:
        """Return the messages of a lane that have not begun. Not a checkpoint.

        Its partition is revoked, or delivery from it is suspended. With transactions, the messages
        below the highest one that has begun stay; see the top of this file.
        """
        tp = lane.ledger.tp
        partition = self._order.partitions.get(tp)
        if partition is not None and self._lanes.get(tp) is lane:
            above = partition.highest if self._in_transaction else -1
            self._give_back(lane, self._order.cut(partition, above))
            if self._in_transaction and lane.ledger.is_draining and self._retries.has(partition):
                self.spawn("abort", self._abort, tp)  # a drain waits for no retry
        if lane.ledger.is_draining:  # the next owner counts from the first attempt
            for place in [place for place in self._remembered if place[0] == tp]:
                del self._remembered[place]
        if self._order.ready:
            self._workers.wake()

    def forget(self, lane: Lane) -> None:
        """Drop the works of a lane that has no messages any more. Not a checkpoint.

        Its epoch has ended, or the topic was discarded.
        """
        partition = self._order.partitions.get(lane.ledger.tp)
        if partition is None or self._lanes.get(partition.tp) is not lane:
            return
        del self._lanes[partition.tp]
        self._held.pop(partition, None)
        if partition.tp in self._app.consumer.assignment:
            for head in partition.heads.values():
                if head.is_running:
                    self._remember(head)
        works = self._order.end_epoch(partition)
        if lane.ledger.is_shut:
            self._drop(works)
        else:
            self._give_back(lane, works)
        self._note_end()

    def _give_back(self, lane: Lane, works: list[Work[AnyMessage]]) -> None:
        self._drop(works)
        if works:
            self._channel.give_back([work.held for work in works])
        self._release(lane)
        self._note_end()

    def _drop(self, works: list[Work[AnyMessage]]) -> None:
        self._retries.prune()
        for work in works:
            self._remember(work)

    # Taking messages

    def _on_change(self) -> None:
        """React to new messages, to resumed delivery and to the end of the channel."""
        self._is_listening = False
        self._may_take = True
        if self._channel.ended:
            self.end()
        self._workers.wake()

    def _listen(self) -> None:
        """Let the channel call `_on_change` at its next change."""
        if not self._is_listening:
            self._is_listening = True
            self._channel.call_at_change(self._on_change)

    def _on_due(self, work: Work[AnyMessage]) -> None:
        if self._order.due(work):
            if self._in_transaction:
                self._release(lane_of(work.held))  # see `_redeliver`
            self._workers.wake()

    def _next(self) -> Work[AnyMessage] | None:
        """Begin the next message; None: none may begin now."""
        order = self._order
        if not self._flow.active and not self._must_finish:
            self._listen()  # `resume_flow` notifies the channel
            return None
        if not order.ready and self._may_take and not self._is_ending:
            self._take()
        return order.begin()

    @property
    def _must_finish(self) -> bool:
        """Whether a barrier or a drain waits for the next ready message."""
        if not self._in_transaction or not self._order.ready:
            return False
        ledger = lane_of(self._order.ready[0].held).ledger
        return ledger.is_suspended or ledger.is_draining

    def _take(self) -> None:
        """Take waiting messages, until enough of them may begin."""
        channel, order = self._channel, self._order
        is_simple = not self._decodes_early and not self._remembered
        for _ in range(_MOST_TURNS):
            if not (messages := channel.take_some(_ENOUGH if is_simple else 1)):
                self._may_take = False
                self._listen()
                return
            if messages[0].lane is not self._lane:
                self._enter(lane_of(messages[0]))
            partition = self._partition
            assert partition is not None
            if is_simple:
                key_of, put = self._key_of, order.put
                for message in messages:
                    put(Work(message, message.offset, key_of(message)), partition)
            else:
                self._admit(messages[0], partition)
            if partition.parked >= self._window:
                self._hold(partition)
            if len(order.ready) >= _ENOUGH:
                return

    def _enter(self, lane: Lane) -> None:
        """Note the lane from which messages are taken now."""
        tp = lane.ledger.tp
        self._lane, self._partition = lane, self._order.partition(tp)
        self._lanes[tp] = lane
        # Messages behind busy keys take at most half of the buffer.
        share = self._channel.usage.limit // 2 // len(self._lanes)
        most = _MOST_PARKED if self.plan.order == "partition" else share
        self._window = max(1, min(share, most))

    def _admit(self, message: AnyMessage, partition: Partition[AnyMessage]) -> None:
        """Put a message that needs more than its key: a decoded value, or its earlier attempts."""
        # If the key function fails, the message has the place that it has without that function.
        work = Work(message, message.offset, _KEYS[self.plan.order](message))
        attempts = self._remembered.get((partition.tp, message.offset))
        if attempts is not None and not self._redeliver(work, attempts, partition):
            return
        try:
            if self._decodes_early:
                self._decode(message)
                if self.plan.filter is not None and not self.plan.filter(message):
                    self.counts.filtered += 1
                    message.ack()
                    for observer in self._observers:
                        observer.on_filtered(self.plan, message)
                    return
            key = self._key_of(message)
            hash(key)
            work.key = work if key is None else key
        except Exception as error:  # noqa: BLE001 - it is a failure of the message
            attempts = self._count(work, error)
            attempts.is_spent = True
            self._report_failure(message, attempts)
        self._order.put(work, partition, waits=self._waits(work))

    def _waits(self, work: Work[AnyMessage]) -> bool:
        """Enter a redelivered message into the retries; return whether it has to wait."""
        attempts = work.attempts
        if attempts is None or attempts.is_spent or attempts.due <= trio.current_time():
            return False
        self._retries.add(work, attempts.due)
        return True

    def _redeliver(
        self, work: Work[AnyMessage], attempts: Attempts, partition: Partition[AnyMessage]
    ) -> bool:
        """Prepare a message that has failed in an aborted transaction; False: it waits again.

        All messages below it are committed first, and no message above it begins before it.
        """
        message = work.held
        ledger = lane_of(message).ledger
        uncommitted = ledger.uncommitted
        if uncommitted is not None and uncommitted < message.offset:
            ledger.must_commit = message.offset
            self._channel.give_back([message])
            return False
        del self._remembered[partition.tp, message.offset]
        work.attempts = attempts
        if not attempts.is_spent and attempts.due > trio.current_time():
            self._hold(partition)
        return True

    def _hold(self, partition: Partition[AnyMessage]) -> None:
        """Take no more messages of a partition for now."""
        if partition in self._held:
            return
        lane = self._lanes[partition.tp]
        self._held[partition] = lane
        self._channel.hold(lane)
        failed = [head for head in partition.heads.values() if head.attempts is not None]
        if failed and self.plan.order == "key" and partition.parked >= self._window:
            blocking = min(failed, key=lambda head: head.offset)
            logger.warning(
                "handler %s: %d messages of %s wait behind keys whose message has failed, such as"
                " the key %s at offset %d. Nothing more of this partition begins until fewer wait",
                *(self.plan.name, partition.parked, partition.tp),
                *(excerpt_of(blocking.held.record.key), blocking.offset),
            )

    def _release(self, lane: Lane) -> None:
        """Take messages of a lane again, if it was held back."""
        for partition, held in list(self._held.items()):
            if held is lane:
                del self._held[partition]
                self._channel.release(lane)
                self._may_take = True

    # Handling messages

    def _start_worker(self, number: int) -> None:
        self.spawn(f"worker {number}", self._work)

    @trio.lowlevel.enable_ki_protection
    async def _work(self) -> None:
        """Handle messages, one after the other, until cancelled."""
        workers, order, flow, fn = self._workers, self._order, self._flow, self.plan.fn
        is_plain, decodes = self._is_plain, self._channel.must_decode and not self._decodes_early
        now = trio.lowlevel.current_clock().current_time
        await workers.begin()
        since = now()
        while True:
            work = order.begin() if order.ready and flow.active else self._next()
            if work is None:
                if self._may_take and flow.active and not self._is_ending:
                    await workers.give_way()
                    since = now()
                else:
                    await workers.rest()
                continue
            if order.ready or self._may_take:
                workers.wake()
            if work.attempts is not None:
                await self._try_again(work, work.attempts)
            else:
                try:
                    # As `_attempt`, without a second coroutine, because this runs for each message.
                    await (
                        exposed(fn, work.held) if is_plain else self._attempt(work.held, decodes)
                    )
                except Exception as error:  # noqa: BLE001 - each is a failure of the message
                    await self._on_failure(work, error)
                else:
                    self._on_success(work)
            if not order.ready or now() - since > _GIVE_WAY:
                await workers.give_way()
                since = now()

    async def _try_again(self, work: Work[AnyMessage], attempts: Attempts) -> None:
        """Handle a message of which attempts have failed."""
        message = work.held
        if attempts.is_spent:
            await self._give_up(work, attempts)
            return
        # The attempt before may have changed the decoded value.
        message.key, message.value = message.record.key, message.record.value
        try:
            await self._attempt(message, self._channel.must_decode)
        except Exception as error:  # noqa: BLE001 - each is a failure of the message
            await self._on_failure(work, error)
        else:
            self._on_success(work)

    @trio.lowlevel.disable_ki_protection
    async def _attempt(self, message: AnyMessage, decodes: bool) -> None:
        """Call the function for a message. Raises its error, DecodeError or HandlerTimeout."""
        plan = self.plan
        if decodes and (failure := self._channel.try_decode(message)) is not None:
            error = await self._channel.error_after(failure, message)
            if error is not None:
                raise error
        if self._in_transaction:
            in_hand.set(message)
        if plan.timeout is None:
            await plan.fn(message)
            return
        with trio.move_on_after(plan.timeout) as scope:
            await plan.fn(message)
        if scope.cancelled_caught:
            raise HandlerTimeout(
                f"the handler {plan.name} did not end within {plan.timeout:g} s, for {message.tp}"
                f" offset {message.offset}"
            )

    def _on_success(self, work: Work[AnyMessage]) -> None:
        self.counts.handled += 1
        if work.held.refcount > 0:  # the function may have acked it
            work.held.ack()
        if self._observers:
            for observer in self._observers:
                observer.on_handled(self.plan, work.held)
        self._end(work)

    def _decode(self, message: AnyMessage) -> None:
        if (failure := self._channel.try_decode(message)) is not None:
            raise self._channel.decode_error(message, failure)

    def _end(self, work: Work[AnyMessage]) -> None:
        """End a message that has begun: the next one of its key may begin."""
        partition = work.partition
        assert partition is not None
        self._order.done(work)
        if self._held and partition in self._held and partition.parked <= self._window // 2:
            self._release(self._held[partition])
        if self._is_ending:
            self._note_end()

    # Failures

    def _count(self, work: Work[AnyMessage], error: Exception) -> Attempts:
        """Add a failed attempt to a work."""
        self.counts.failed += 1
        now = time.time()
        if work.attempts is None:
            work.attempts = Attempts(now, now, error)
        work.attempts.add(error, now)
        return work.attempts

    def _report_failure(
        self, message: AnyMessage, attempts: Attempts, delay: float | None = None
    ) -> None:
        for observer in self._observers:
            observer.on_failed(self.plan, message, attempts, delay)

    async def _on_failure(self, work: Work[AnyMessage], error: Exception) -> None:
        """Retry a message whose attempt has failed, or give it up."""
        message, attempts = work.held, self._count(work, error)
        ledger = lane_of(message).ledger
        if ledger.is_shut:
            self._report_failure(message, attempts)
            logger.info(
                "handler %s: %s offset %d failed after its partition was revoked or sought, and"
                " is not retried here: %s",
                *(self.plan.name, message.tp, message.offset, excerpt_of_error(error)),
            )
            self._end(work)
            return
        retry = self.plan.retry
        if isinstance(error, DecodeError) or not retry.allows(attempts.failed, error):
            attempts.is_spent = True
            self._report_failure(message, attempts)
            await self._give_up(work, attempts)
            return
        delay = retry.delay(attempts.failed)
        attempts.due = trio.current_time() + delay
        if self._in_transaction and (
            delay > _SHORT_DELAY or ledger.is_draining or self._has_sent(message)
        ):
            self._report_failure(message, attempts, delay)
            await self._redo(work)
        elif not self._in_transaction and self._must_return(lane_of(message)):
            self._report_failure(message, attempts)
            self._end(work)
            self._channel.give_back([message])
        else:
            self._report_failure(message, attempts, delay)
            self._order.retry(work)
            self._retries.add(work, attempts.due)

    def _must_return(self, lane: Lane) -> bool:
        """Whether no message of a lane may wait here: a drain would wait for its retry."""
        ledger = lane.ledger
        is_closed = lane not in ledger.lanes
        return ledger.is_draining or ledger.is_suspended or is_closed or self._is_ending

    async def _give_up(self, work: Work[AnyMessage], attempts: Attempts) -> None:
        """Treat a message for which there are no more attempts as `dead_letters` says."""
        message, error, plan = work.held, attempts.error, self.plan
        where = f"{message.tp} offset {message.offset}"
        is_letter = False
        if isinstance(error, DecodeError) and await self._is_handled(error):
            pass
        elif plan.dead_letters == "fail":
            error.add_note(f"in the handler {plan.name}, for {where}, attempt {attempts.failed}")
            raise error
        elif self._in_transaction and self._has_sent(message):
            await self._redo(work)
            return
        elif self._letters is not None:
            await self._letters.send(message, attempts)
            self.counts.dead_letters += 1
            is_letter = True
        else:
            self.counts.skipped += 1
            logger.warning(
                "handler %s skips %s after %d failed attempts: %s",
                *(plan.name, where, attempts.failed, excerpt_of_error(error)),
            )
        if message.refcount > 0:
            message.ack()
        for observer in self._observers:
            report = observer.on_dead_letter if is_letter else observer.on_skipped
            report(plan, message, attempts)
        self._end(work)

    async def _is_handled(self, error: DecodeError) -> bool:
        """Await the hook for decode errors of the topic object; return whether there is one."""
        given = self.plan.topic.channel
        is_key = error.part == "key"
        hook = given.on_key_decode_error if is_key else given.on_value_decode_error
        if hook is raise_decode_error:
            return False
        await exposed(hook, error, error.message)
        return True

    # Transactions

    def _has_sent(self, message: AnyMessage) -> bool:
        return self._app.consumer.transactions.has_sent_for(message)

    def _remember(self, work: Work[AnyMessage]) -> None:
        """With transactions, keep the attempts of a message that will be redelivered."""
        if work.attempts is None or not self._in_transaction:
            return
        self._remembered[work.held.tp, work.held.offset] = work.attempts
        if len(self._remembered) > self._channel.usage.limit:
            del self._remembered[next(iter(self._remembered))]

    async def _redo(self, work: Work[AnyMessage]) -> None:
        """Abort the transaction of a failed message, which is then redelivered."""
        self._remember(work)
        await self._abort(work.held.tp)
        self._end(work)

    async def _abort(self, tp: TP) -> None:
        with contextlib.suppress(AppClosed, ClientClosed):
            await self._app.consumer.redo(tp)
