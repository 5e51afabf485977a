"""The outcomes of messages, and the failures that no task has seen yet.

Each message that is not delivered has an error of its own, which awaiting its `Delivery` raises.
If no task has seen an error when the producer ends, the producer raises it. So no message is lost
in silence.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, overload

import attrs
import trio
from trio.lowlevel import checkpoint_if_cancelled

from transport.drivers.base import Outcome, Outgoing
from transport.drivers.written import Place
from transport.errors import DeliveryFailed
from transport.types import RecordMetadata


@attrs.define(eq=False)
class Delivery(Outgoing):
    """An accepted message. `await` it for the metadata of the written message.

    Any number of tasks may await it. Awaiting checks for cancellation. It is a full checkpoint if
    it has to wait, if the outcome was seen before, and otherwise at every Nth message. Cancelling
    ends only the waiting. Raises DeliveryFailed (with the cause), DeliveryTimeout, MessageTooLarge.

    The message and its delivery are one object, because a second object takes 0.3 us per message.

    Attributes:
        size: the bytes that the message takes of the send buffer.
        was_seen: a task has seen the outcome.
        on_end: called with the delivery once the outcome is known.
        gives_way: sending the message, and awaiting its known outcome, let other tasks run.
        hurry: called when a task begins to wait for the outcome. None: nothing has to be called.
    """

    size: int = 0
    was_seen: bool = False
    on_end: Callable[[Delivery], None] | None = None
    gives_way: bool = False
    hurry: Callable[[], object] | None = None
    # A written message has a place and its number there instead of an outcome. When a program waits
    # for many messages, each object that lives that long costs the garbage collector time.
    _outcome: Outcome | None = None
    _place: Place | None = None
    _at: int = 0
    _on_seen: Callable[[], object] | None = None
    # The first waiting task needs no event, which would be three objects for the collector.
    _waiter: trio.lowlevel.Task | None = None
    _ended: trio.Event | None = None  # for all other waiting tasks
    _calls: list[Callable[[], object]] | None = None  # to call once the outcome is known
    _waiting: int = 0

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known."""
        return self._place is not None or self._outcome is not None

    @property
    def outcome(self) -> Outcome | None:
        """The metadata of the written message, or the error. None: not known yet."""
        return self._outcome if self._place is None else self._place.of(self, self._at)

    @property
    def outgoing(self) -> Outgoing:
        """The message."""
        return self

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> RecordMetadata:
        """Wait for the outcome: the same as awaiting the object."""
        if self._place is None and self._outcome is None:
            if self.hurry is not None:
                self.hurry()
            self._waiting += 1
            try:
                if self._waiter is None:  # as `_end_known`, without a long-lived coroutine
                    self._waiter = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._leave)
                else:
                    await self._end_known()
            finally:
                self._waiting -= 1
        elif self.gives_way or self.was_seen:  # a loop over one outcome must not keep other tasks
            await trio.lowlevel.checkpoint()
        else:
            await checkpoint_if_cancelled()  # a full checkpoint takes 3.6 us, and this 0.2
        return self.result()

    def result(self) -> RecordMetadata:
        """Return the metadata, or raise the error. The outcome is known. Not a checkpoint."""
        self.was_seen = True
        if self._on_seen is not None:
            self._on_seen()
        if self._place is not None:
            return self._place.of(self, self._at)
        if isinstance(self._outcome, RecordMetadata):
            return self._outcome
        assert self._outcome is not None
        raise self._outcome

    def __await__(self) -> Generator[Any, Any, RecordMetadata]:
        return self.wait().__await__()

    def call_at_end(self, fn: Callable[[], object]) -> None:
        """Call `fn` once the outcome is known, for a waiter that is not a task of trio.

        The outcome must not be known yet. `fn` is called in trio's turn of the loop. Until
        `call_off`, it counts as a task that awaits the delivery.
        """
        if self._ended is None:
            self._ended = trio.Event()  # `end_at` does not check `_calls`
        if self._calls is None:
            self._calls = []
        self._calls.append(fn)
        self._waiting += 1
        if self.hurry is not None:
            self.hurry()

    def call_off(self, fn: Callable[[], object]) -> None:
        """Undo `call_at_end`, whether or not the outcome is known already."""
        if self._calls is not None and fn in self._calls:
            self._calls.remove(fn)
            self._waiting -= 1

    def on_seen(self) -> None:
        """Note that a waiter has seen the outcome."""
        self.was_seen = True
        if self._on_seen is not None:
            self._on_seen()

    def end(self, outcome: Outcome, on_seen: Callable[[], object] | None = None) -> None:
        """Record the outcome and notify the waiters. For the producer.

        Args:
            on_seen: called when a waiter has seen the outcome.
        """
        self._outcome = outcome
        self._on_seen = on_seen
        self._notify()

    def end_at(self, place: Place, at: int) -> None:
        """Record that the message was written, and notify the waiters. For the producer."""
        self._place, self._at = place, at
        if self._waiter is not None or self._ended is not None or self.on_end is not None:
            self._notify()

    def _notify(self) -> None:
        """Notify the waiters that the outcome is known."""
        if self.on_end is not None:
            self.on_end(self)
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            trio.lowlevel.reschedule(waiter)
        if self._ended is not None:
            self._ended.set()
        for call in self._calls or ():
            call()
        if self.was_seen or self._waiting:
            self.on_seen()

    @trio.lowlevel.enable_ki_protection
    async def _end_known(self) -> None:
        """Wait until the outcome is known."""
        if self.is_done:
            return
        if self._waiter is None:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._leave)
            return
        if self._ended is None:
            self._ended = trio.Event()
        await self._ended.wait()

    def _leave(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        """Remove the waiting task, which was cancelled."""
        self._waiter = None
        return trio.lowlevel.Abort.SUCCEEDED


class Failures:
    """The errors of messages that were not delivered, each until a task has seen it.

    Attributes:
        first: the first error of an accepted message since this was set to None, seen or not.
    """

    def __init__(self) -> None:
        self.first: Exception | None = None
        self._unseen: dict[int, tuple[str, Exception]] = {}
        self._numbers = itertools.count()
        self._raised = 0  # errors with lower numbers have ended the app

    def __len__(self) -> int:
        """Return the number of errors that no task has seen."""
        return len(self._unseen)

    @property
    def unseen(self) -> Exception | None:
        """The first error that no task has seen. None: there is none."""
        return next((error for _, error in self._unseen.values()), None)

    def add(self, topic: str, error: Exception) -> Callable[[], object]:
        """Keep an error, and return the function to call once it was seen, from any thread."""
        number = next(self._numbers)
        self._unseen[number] = topic, error
        return functools.partial(self._unseen.pop, number, None)

    def forget(self) -> None:
        """Count all errors as seen."""
        self._unseen.clear()

    def note_raised(self) -> None:
        """Note that the present errors end the app, so that `check_others` does not raise them."""
        self._raised = max(self._unseen, default=-1) + 1

    def check_others(self) -> None:
        """Raise DeliveryFailed if no task has seen one of the errors, and it ends nothing yet."""
        if any(number >= self._raised for number in self._unseen):
            self.check()

    def check(self) -> None:
        """Raise DeliveryFailed if no task has seen one of the errors."""
        for topic, error in self._unseen.values():
            raise DeliveryFailed(
                f"{len(self)} messages were not delivered, and no task awaited their outcomes; the"
                f" first of them was for topic {topic!r}, and its error is the cause of this one"
            ) from error


class ManyDeliveries(Sequence[Delivery]):
    """The deliveries of one `send_many`. `await` it for the metadata of all messages, in order.

    The object is a sequence of `Delivery` objects. A program can await each of them alone.

    Awaiting waits until all messages have outcomes. It is a checkpoint, and cancelling ends only
    the waiting. If messages were not delivered, it raises the error of the first of them.
    `outcomes` returns the outcome of each message.
    """

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        self._deliveries = deliveries

    @overload
    def __getitem__(self, at: int) -> Delivery: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Delivery]: ...
    def __getitem__(self, at: int | slice) -> Delivery | Sequence[Delivery]:
        return self._deliveries[at]

    def __len__(self) -> int:
        return len(self._deliveries)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self._deliveries)

    async def outcomes(self) -> list[Outcome]:
        """Wait for all outcomes and return them in order: metadata, or the error of a message.

        A checkpoint. Cancelling ends only the waiting.
        """
        await trio.lowlevel.checkpoint()
        left = [each for each in self._deliveries if not each.is_done]
        for delivery in left:
            delivery._waiting += 1
        if left and (hurry := left[0].hurry) is not None:  # all have the same producer
            hurry()
        try:
            for delivery in left:  # few of these wait, because outcomes arrive in batches
                await delivery._end_known()
        finally:
            for delivery in left:
                delivery._waiting -= 1
        return self.known_outcomes()

    def known_outcomes(self) -> list[Outcome]:
        """Return the outcomes, all of which are known. Not a checkpoint."""
        outcomes: list[Outcome] = []
        add = outcomes.append
        for delivery in self._deliveries:  # once for each message
            if (place := delivery._place) is not None:
                add(place.of(delivery, delivery._at))
            else:
                assert delivery._outcome is not None
                add(delivery._outcome)
                delivery.on_seen()
        return outcomes

    async def wait(self) -> list[RecordMetadata]:
        """Wait for all outcomes: the same as awaiting the object."""
        return written_of(await self.outcomes())

    def __await__(self) -> Generator[Any, Any, list[RecordMetadata]]:
        return self.wait().__await__()

    def __repr__(self) -> str:
        left = sum(not each.is_done for each in self._deliveries)
        return f"<ManyDeliveries of {len(self)} messages, {left} without an outcome>"


def written_of(outcomes: Iterable[Outcome]) -> list[RecordMetadata]:
    """Return the metadata of written messages, or raise the first error among the outcomes."""
    written = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        written.append(outcome)
    return written
