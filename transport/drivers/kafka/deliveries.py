"""The messages in flight of one producer of the client, and their outcomes.

The client resolves one future for each of its batches, on its network thread. That wakes trio,
which makes the outcomes of the messages in the batch. A batch of the client may hold messages of
several calls of `send`, and one call may fill several batches. A *run* is the messages of one call
in one batch of the client.

If the client splits a batch, each message has a future. The future of the last message of a run
then calls back, and the futures of the other messages are checked at that time. If a later message
overtakes an earlier one, the last of the messages that are left calls back.

With idempotence, the client may never resolve messages that expired while their broker did not
answer. So each call of `send` has a deadline here. The client gives a message up a little before
that. It counts from the time at which it took the message. So a message that waited long for its
topic before that fails here, and no other message with it.
"""

from __future__ import annotations

import collections
import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import attrs
import trio

from transport.drivers.base import Outcome, Outgoing, Reports
from transport.drivers.kafka.appending import Part
from transport.drivers.kafka.errors import of_a_delivery
from transport.drivers.kafka.options import GIVES_UP_AFTER
from transport.drivers.kafka.workarounds.swallowed_errors import NeverSent
from transport.drivers.written import Outcomes, Place
from transport.errors import DeliveryTimeout, TransportError
from transport.types import RecordMetadata


@attrs.define(eq=False)
class Run:
    """Messages of one `HandedBatch` that are in one batch of the client, in order.

    Attributes:
        is_done: whether all of them have been reported.
        waiting: after a split of the client's batch: the messages without an outcome, each with the
            client's future.
    """

    batch: HandedBatch
    part: Part
    is_done: bool = False
    waiting: list[tuple[Outgoing, Any]] | None = None

    def unreported(self) -> Iterable[Outgoing]:
        if self.is_done:
            return ()
        if self.waiting is None:
            return self.part.messages
        return [message for message, _ in self.waiting]


@attrs.define(eq=False)
class HandedBatch:
    """The messages of one call of `send`.

    Attributes:
        deadline: the time at which they fail, by trio's clock.
        is_short: whether the client has less time for them than it takes to give up.
        runs: None until the client has taken the messages.
        left: how many messages have not been reported.
    """

    messages: Sequence[Outgoing]
    deadline: float
    is_short: bool = False
    left: int = attrs.field(default=attrs.Factory(lambda self: len(self.messages), takes_self=True))
    runs: list[Run] | None = None

    def reported(self, number: int) -> None:
        """Note that `number` more messages were reported; after the last one, drop all of them."""
        self.left -= number
        if not self.left:
            self.messages, self.runs = (), []  # runs refer to the batch, and messages can be large

    def unreported(self) -> Iterator[Outgoing]:
        if self.runs is None:
            yield from self.messages
        else:
            for run in self.runs:
                yield from run.unreported()


class Deliveries:
    """The batches of one producer, ordered by deadline.

    Made in trio. Calls are made in trio's thread unless noted.

    Args:
        report: called with the outcomes, once for each message.
        timeout: seconds from `send` to the deadline; for the error.
        answered: whether the broker answers where it wrote (acks is not 0).
        translate: returns the outcome for an error of the client.
        set_aside: called with messages of topics that the client does not know, or that a client
            never sent before it failed, and with their deadline. This object then drops them.
    """

    def __init__(
        self,
        report: Reports,
        *,
        timeout: float,
        answered: bool,
        translate: Callable[[Exception], Exception] = of_a_delivery,
        set_aside: Callable[[Sequence[Outgoing], float], None],
    ) -> None:
        self._report = report
        self._set_aside = set_aside
        self._timeout = timeout
        self._answered = answered
        self._translate = translate
        self._token = trio.lowlevel.current_trio_token()
        self._batches: collections.deque[HandedBatch] = (
            collections.deque()
        )  # with unreported messages
        self._next_deadline = float("inf")  # that `keep_deadlines` waits for
        self._sooner = trio.Event()  # an earlier deadline was added
        self._landed: collections.deque[Run] = collections.deque()
        # Messages for a second client, because the first failed before it sent them.
        self._given_again: weakref.WeakSet[Outgoing] = weakref.WeakSet()
        self._collecting = False

    def add(self, batch: HandedBatch) -> None:
        """Track a batch from now on."""
        batch.is_short = batch.deadline - trio.current_time() < self._timeout * GIVES_UP_AFTER
        at = len(self._batches)
        while at and batch.deadline < self._batches[at - 1].deadline:
            at -= 1
        self._batches.insert(at, batch)
        if batch.deadline < self._next_deadline:
            self._sooner.set()

    def taken(
        self,
        batch: HandedBatch,
        runs: list[Run],
        refused: Sequence[tuple[Outgoing, Outcome]],
        absent: Sequence[Outgoing],
    ) -> None:
        """Note that the client has taken a batch. From any thread.

        Args:
            runs: the messages that it has taken.
            refused: the messages that it has refused, with their outcomes.
            absent: the messages of topics that it does not know.
        """
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.enter, batch, runs, refused, absent)

    def collect(self) -> None:
        """Report the outcomes that the client has resolved."""
        self._collecting = False  # first, so that a run that lands from now on wakes trio again
        outcomes = Outcomes()
        while self._landed:
            run = self._landed.popleft()
            if run.batch.left == 0 or run.is_done:
                continue  # it failed at its deadline, or it has landed twice
            never_sent: list[Outgoing] = []
            before = len(outcomes)
            if run.part.held.futures is None:
                self._note_whole(run, outcomes, never_sent)
            else:
                self._note_each(run, outcomes.others, never_sent)
            run.batch.reported(len(outcomes) - before + len(never_sent))
            if never_sent:
                self._given_again.update(never_sent)
                self._set_aside(never_sent, run.batch.deadline)
        while self._batches and self._batches[0].left == 0:
            self._batches.popleft()
        if outcomes:
            self._report(outcomes)

    def _note_whole(self, run: Run, outcomes: Outcomes, never_sent: list[Outgoing]) -> None:
        """Note the outcomes of a run in a batch that was not split, if the batch has one."""
        part = run.part
        if not part.held.produce_future.is_done:
            return
        run.is_done = True
        # A batch with an outcome is never split. It must not keep its messages: otherwise the
        # garbage collector must free them, which takes up to 5 us for a message.
        part.held.parts = []
        offset, stored_ms, error_of = part.held.produce_future.value
        if error_of is not None:
            for at, message in enumerate(part.messages, part.first):
                self._note_error(message, error_of(at), outcomes.others, never_sent)
            return
        topic, partition = part.held.topic_partition
        # With acks=0, the offsets of the client are not those of the broker.
        has_offset = self._answered and offset != -1
        has_own_times = stored_ms in (None, -1)
        place = Place(
            topic,
            partition,
            offset + part.first if has_offset else -1,
            1 if has_offset else 0,
            (part.now_ms if has_own_times else stored_ms) / 1000,
            has_own_times,
        )
        outcomes.add_written(part.messages, place)

    def _note_each(
        self, run: Run, outcomes: list[tuple[Outgoing, Outcome]], never_sent: list[Outgoing]
    ) -> None:
        """Note the outcomes of a run in a batch that was split."""
        part, futures = run.part, run.part.held.futures
        assert futures is not None
        if run.waiting is None:
            own = futures[part.first : part.first + len(part.messages)]
            run.waiting = list(zip(part.messages, own, strict=True))
        waiting = []
        for taken in run.waiting:
            message, future = taken
            if not future.is_done:
                waiting.append(taken)
            elif future.exception is None:
                done = future.value
                offset = done.offset if self._answered else -1
                written = RecordMetadata(done.topic, done.partition, offset, done.timestamp / 1000)
                outcomes.append((message, written))
            else:
                self._note_error(message, future.exception, outcomes, never_sent)
        run.waiting = waiting
        run.is_done = not waiting
        if waiting:
            waiting[-1][1].add_both(lambda _: self._has_landed(run))

    def _note_error(
        self,
        message: Outgoing,
        error: Exception,
        outcomes: list[tuple[Outgoing, Outcome]],
        never_sent: list[Outgoing],
    ) -> None:
        if isinstance(error, NeverSent) and message not in self._given_again:
            never_sent.append(message)
        else:
            outcomes.append((message, self._translate(error)))

    def fail(self, error: TransportError) -> None:
        """Fail all messages without an outcome."""
        self._fail(list(self._batches), error)

    def call_soon(self, fn: Callable[[], object]) -> None:
        """Call a function in trio, after the report of all outcomes so far. From any thread."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(fn)

    @trio.lowlevel.enable_ki_protection
    async def keep_deadlines(self, discard: Callable[[], None]) -> NoReturn:
        """Fail messages at their deadline, until cancelled.

        There is one timer for all. If the client should have given up by itself, the driver
        discards it, and all other messages that it has taken fail as well.

        Args:
            discard: discards the client, which does not resolve its messages.
        """
        while True:
            self._sooner = trio.Event()
            first = self._batches[0] if self._batches else None
            self._next_deadline = float("inf") if first is None else first.deadline
            with trio.move_on_at(self._next_deadline):
                await self._sooner.wait()
                continue
            self.collect()
            if first is not None and first.left:
                self._expire(first, discard)

    def _expire(self, first: HandedBatch, discard: Callable[[], None]) -> None:
        now = trio.current_time()
        if first.is_short:
            held = [b for b in self._batches if b.is_short and b.deadline <= now]
        else:
            held = [b for b in self._batches if b.runs is not None or b.deadline <= now]
            discard()
        self._fail(held, DeliveryTimeout(f"not acknowledged within {self._timeout:g} s"))

    def _fail(self, batches: Sequence[HandedBatch], error: TransportError) -> None:
        # A message may have an outcome while a later one of its run has none: report it first.
        for batch in batches:
            self._landed.extend(batch.runs or ())
        self.collect()
        outcomes = [(message, error) for batch in batches for message in batch.unreported()]
        for batch in batches:
            batch.reported(batch.left)
        self._batches = collections.deque(batch for batch in self._batches if batch.left)
        if outcomes:
            self._report(outcomes)

    def enter(
        self,
        batch: HandedBatch,
        runs: list[Run],
        refused: Sequence[tuple[Outgoing, Outcome]],
        absent: Sequence[Outgoing],
    ) -> None:
        """Do the same as `taken`, in trio's thread."""
        if batch.left == 0:
            return  # its deadline has passed before
        batch.runs = runs
        batch.reported(len(refused) + len(absent))
        if refused:
            self._report(refused)
        if absent:
            self._set_aside(absent, batch.deadline)
        for run in runs:
            self._expect(run)

    def _expect(self, run: Run) -> None:
        run.part.held.watch(lambda: self._has_landed(run))

    def _has_landed(self, run: Run) -> None:
        """Wake trio, unless it was woken already. Mostly on the client's network thread."""
        self._landed.append(run)
        if not self._collecting:
            self._collecting = True
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self.collect)
