"""What a producer of the client was handed and has no outcome of yet.

The client resolves a future per batch of its own on its network thread; then we wake trio, which
makes the outcomes of the messages in it. A batch of the client may hold messages of several that
were handed over, and the other way round: a *run* is what the two share.

The client may take a batch apart, as where it splits one. Then each message has a future. We ask to
be called for the last message of the run, and look at the others then; where a later message
overtakes an earlier one we ask again for what is left.

With idempotence on, the client may never resolve what expired while its broker did not answer. So
each batch has a deadline of ours. The client gives up a little before it by itself. It counts from
when it was handed a message, though: what waited long for its topic before is failed alone.
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
    """Messages of one batch that are in one batch of the client, in order.

    Attributes:
        is_done: all of them have been reported.
        waiting: where the client has taken its batch apart: those without an outcome, each with the
            client's future.
    """

    batch: Batch
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
class Batch:
    """What one `send` handed over.

    Attributes:
        deadline: when it is failed, in trio's time.
        is_short: the client gets less time for it than it takes to give up.
        runs: None until the client has taken the messages.
        left: how many messages have not been reported.
    """

    messages: Sequence[Outgoing]
    deadline: float
    is_short: bool = False
    left: int = attrs.field(default=attrs.Factory(lambda self: len(self.messages), takes_self=True))
    runs: list[Run] | None = None

    def reported(self, number: int) -> None:
        """Note that so many more messages were reported; the last ones let go of all of them."""
        self.left -= number
        if not self.left:
            self.messages, self.runs = (), []  # runs refer to the batch, and messages keep much

    def unreported(self) -> Iterator[Outgoing]:
        if self.runs is None:
            yield from self.messages
        else:
            for run in self.runs:
                yield from run.unreported()


class Deliveries:
    """The batches of one producer, the next deadline first.

    Made in trio; called there unless it says so.

    Args:
        report: called with the outcomes, once for each message.
        timeout: seconds from the handing over to the deadline; for the error.
        answered: whether the broker says where it wrote (acks is not 0).
        translate: gives the outcome for an error of the client.
        set_aside: called with messages of topics that the client does not know, or that a client
            never sent before it failed, and with their deadline. They are no longer tracked here.
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
        self._batches: collections.deque[Batch] = collections.deque()  # with something left
        self._next_deadline = float("inf")  # that is waited for
        self._sooner = trio.Event()  # there is one before it
        self._landed: collections.deque[Run] = collections.deque()
        # Given to a second client, because the first failed before it sent them.
        self._given_again: weakref.WeakSet[Outgoing] = weakref.WeakSet()
        self._collecting = False

    def add(self, batch: Batch) -> None:
        """A batch was handed over."""
        batch.is_short = batch.deadline - trio.current_time() < self._timeout * GIVES_UP_AFTER
        at = len(self._batches)
        while at and batch.deadline < self._batches[at - 1].deadline:
            at -= 1
        self._batches.insert(at, batch)
        if batch.deadline < self._next_deadline:
            self._sooner.set()

    def taken(
        self,
        batch: Batch,
        runs: list[Run],
        refused: Sequence[tuple[Outgoing, Outcome]],
        absent: Sequence[Outgoing],
    ) -> None:
        """The client has taken a batch, but for what it refused, and what is of topics that it does
        not know. From any thread."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.enter, batch, runs, refused, absent)

    def collect(self) -> None:
        """Report what the client has resolved."""
        self._collecting = False  # first: what lands from now on wakes us again
        outcomes = Outcomes()
        while self._landed:
            run = self._landed.popleft()
            if run.batch.left == 0 or run.is_done:
                continue  # failed by us, or it has landed twice
            never_sent: list[Outgoing] = []
            before = len(outcomes)
            if run.part.held.futures is None:
                self._look_at_whole(run, outcomes, never_sent)
            else:
                self._look_at_each(run, outcomes.others, never_sent)
            run.batch.reported(len(outcomes) - before + len(never_sent))
            if never_sent:
                self._given_again.update(never_sent)
                self._set_aside(never_sent, run.batch.deadline)
        while self._batches and self._batches[0].left == 0:
            self._batches.popleft()
        if outcomes:
            self._report(outcomes)

    def _look_at_whole(self, run: Run, outcomes: Outcomes, never_sent: list[Outgoing]) -> None:
        """Note the outcomes of a run whose client's batch has one, if it has."""
        part = run.part
        if not part.held.produce_future.is_done:
            return
        run.is_done = True
        # Nobody takes a batch apart that has an outcome. It must not keep its messages: else each
        # of them waits for the garbage collector, which takes up to 5 us for a message.
        part.held.parts = []
        offset, stored_ms, error_of = part.held.produce_future.value
        if error_of is not None:
            for at, message in enumerate(part.messages, part.first):
                self._note_error(message, error_of(at), outcomes.others, never_sent)
            return
        topic, partition = part.held.topic_partition
        # Where the client asked for no answer it gives numbers of its own.
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

    def _look_at_each(
        self, run: Run, outcomes: list[tuple[Outgoing, Outcome]], never_sent: list[Outgoing]
    ) -> None:
        """Look at the futures of a run whose client's batch was taken apart."""
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
        """Fail all that is left."""
        self._fail(list(self._batches), error)

    def call_soon(self, fn: Callable[[], object]) -> None:
        """Call a function in trio, after all outcomes that are known by now. From any thread."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(fn)

    @trio.lowlevel.enable_ki_protection
    async def keep_deadlines(self, discard: Callable[[], None]) -> NoReturn:
        """Fail what passes its deadline, until cancelled.

        One timer for all. Where the client should have given up by itself, all else that it holds
        is failed as well.

        Args:
            discard: lets the client go that does not resolve what it holds.
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

    def _expire(self, first: Batch, discard: Callable[[], None]) -> None:
        now = trio.current_time()
        if first.is_short:
            held = [b for b in self._batches if b.is_short and b.deadline <= now]
        else:
            held = [b for b in self._batches if b.runs is not None or b.deadline <= now]
            discard()
        self._fail(held, DeliveryTimeout(f"not acknowledged within {self._timeout:g} s"))

    def _fail(self, batches: Sequence[Batch], error: TransportError) -> None:
        # A message may have an outcome while a later one of its run has none.
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
        batch: Batch,
        runs: list[Run],
        refused: Sequence[tuple[Outgoing, Outcome]],
        absent: Sequence[Outgoing],
    ) -> None:
        """The same as `taken`, in trio's thread."""
        if batch.left == 0:
            return  # its deadline came first
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
        """Mostly on the client's network thread: wake trio, unless somebody did already."""
        self._landed.append(run)
        if not self._collecting:
            self._collecting = True
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self.collect)
