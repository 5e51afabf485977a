"""What was accepted, until it has its outcome; and failures, until somebody has seen them.

Each message gets an error of its own: it goes to who awaits its `Delivery`. One that nobody has
looked at when the producer ends is raised there, so that no message is lost in silence.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, overload

import attrs
import trio
from outcome import Error, Value, capture
from trio.lowlevel import checkpoint_if_cancelled

from transport.drivers.base import Outcome, Outgoing
from transport.drivers.written import Outcomes, Place
from transport.errors import DeliveryFailed
from transport.types import RecordMetadata

# `send` and awaiting a known outcome give way to other tasks at every Nth message.
_TURN = 64


@attrs.define(eq=False)
class Delivery(Outgoing):
    """A message that was accepted: `await` it for where it was written.

    Any number of tasks may await it, from any task. Awaiting checks for cancellation; it is a full
    checkpoint if it has to wait, and otherwise at every Nth message. Cancelling ends only the
    waiting. Raises DeliveryFailed (with the cause), DeliveryTimeout, MessageTooLarge.

    The message itself is the same object, because a second object for each message takes 0.3 us.

    Attributes:
        size: the bytes that it takes of the send buffer.
        gives_way: sending it, and awaiting its known outcome, give way to other tasks.
        hurry: called when somebody begins to wait for the outcome. None: nothing has to be called.
    """

    size: int = 0
    was_seen: bool = False
    on_end: Callable[[Delivery], None] | None = None
    gives_way: bool = False
    hurry: Callable[[], object] | None = None
    # One that was written has a place and a number in it instead of an outcome: where a program
    # waits for many messages, every object that lives that long costs the garbage collector time.
    _outcome: Outcome | None = None
    _place: Place | None = None
    _at: int = 0
    _on_seen: Callable[[], object] | None = None
    # One task that waits needs no event, which is three objects for the collector.
    _waiter: trio.lowlevel.Task | None = None
    _ended: trio.Event | None = None  # for the others that wait
    _calls: list[Callable[[], object]] | None = None  # at the end
    _waiting: int = 0

    @property
    def is_done(self) -> bool:
        """Whether there is an outcome."""
        return self._place is not None or self._outcome is not None

    @property
    def outcome(self) -> Outcome | None:
        """Where it was written, or why it was not; None: not known yet."""
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
                if self._waiter is None:  # as `_end_known`, without a coroutine that lives so long
                    self._waiter = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._leave)
                else:
                    await self._end_known()
            finally:
                self._waiting -= 1
        elif self.gives_way:
            await trio.lowlevel.checkpoint()
        else:
            await checkpoint_if_cancelled()  # a full checkpoint takes 3.6 us, and this 0.2
        return self.result()

    def result(self) -> RecordMetadata:
        """Return the outcome, which is known, or raise it. Not a checkpoint."""
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
        """Have `fn` called once the outcome is known, for a waiter that is no task of trio.

        There is no outcome yet. `fn` is called in trio's turn. Until `call_off` it counts as a task
        that awaits the delivery.
        """
        if self._ended is None:
            self._ended = trio.Event()  # `InFlight.end` looks for this one alone
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
        """Somebody knows of the outcome."""
        self.was_seen = True
        if self._on_seen is not None:
            self._on_seen()

    def end(self, outcome: Outcome, on_seen: Callable[[], object] | None = None) -> None:
        """For the producer, which wants to know once somebody has seen a failure."""
        self._outcome = outcome
        self._on_seen = on_seen
        self._tell()

    def end_at(self, place: Place, at: int) -> None:
        """For the producer: it was written."""
        self._place, self._at = place, at
        if self._waiter is not None or self._ended is not None or self.on_end is not None:
            self._tell()

    def _tell(self) -> None:
        """Tell who waits that there is an outcome."""
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
        """Wait until there is an outcome."""
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
        """The task that waits is cancelled."""
        self._waiter = None
        return trio.lowlevel.Abort.SUCCEEDED


class Failures:
    """Why messages were not delivered, as long as nobody has looked.

    Attributes:
        first: of the messages that were accepted, since this was last None; seen or not.
    """

    def __init__(self) -> None:
        self.first: Exception | None = None
        self._unseen: dict[int, tuple[str, Exception]] = {}
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """How many nobody has seen."""
        return len(self._unseen)

    @property
    def unseen(self) -> Exception | None:
        """The first that nobody has seen."""
        return next((error for _, error in self._unseen.values()), None)

    def add(self, topic: str, error: Exception) -> Callable[[], object]:
        """Keep one; what is returned is to be called once somebody has seen it, by any thread."""
        number = next(self._numbers)
        self._unseen[number] = topic, error
        return functools.partial(self._unseen.pop, number, None)

    def forget(self) -> None:
        """Somebody knows of all of them."""
        self._unseen.clear()

    def check(self) -> None:
        """Raise DeliveryFailed if there is one that nobody has seen."""
        for topic, error in self._unseen.values():
            raise DeliveryFailed(
                f"{len(self)} messages were not delivered and nobody has awaited them;"
                f" the first went to {topic!r}"
            ) from error


class ManyDeliveries(Sequence[Delivery]):
    """The deliveries of one `send_many`: `await` it for the metadata of all, in their order.

    The object is a sequence of `Delivery` objects. A program can await each of them alone.

    Awaiting waits until all of them have outcomes. It is a checkpoint, and cancelling ends only the
    waiting. If messages were not delivered, it raises the error of the first of them; `outcomes`
    says what became of each.
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
        if left and (hurry := left[0].hurry) is not None:  # all of them have the same producer
            hurry()
        try:
            for delivery in left:  # outcomes come by the batch: few of these have to wait
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
    """Return where messages were written, or raise the first error of one that was not."""
    written = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        written.append(outcome)
    return written


class InFlight:
    """What was accepted and has no outcome yet; bounded.

    Args:
        most_messages: so many may be in it at once.
        most_bytes: likewise; one message alone may be larger.
        failures: where those go that are not delivered.

    Attributes:
        on_line: called with True when a first sender has to wait for room, and with False once no
            sender waits any more.
    """

    def __init__(self, most_messages: int, most_bytes: int, failures: Failures) -> None:
        self.most_bytes = most_bytes
        self._most_messages = most_messages
        self._failures = failures
        # Each by itself, in order. A report names messages that may have ended already.
        self._deliveries: dict[Outgoing, Delivery] = {}
        self._bytes = 0
        self._turn = 0
        self._flushes: list[_Flush] = []
        self._line: collections.OrderedDict[_Place, None] = collections.OrderedDict()
        self._is_line = False  # as `on_line` was told
        self.on_line: Callable[[bool], object] = lambda waits: None

    def __len__(self) -> int:
        return len(self._deliveries)

    def __iter__(self) -> Iterator[Outgoing]:
        return iter(self._deliveries)

    def has_room(self, size: int) -> bool:
        """Whether a message of this size can be accepted now and no other waits before it."""
        if self._line:
            return False
        held = len(self._deliveries)  # the rule of `_fits`, without its call
        return not held or (held < self._most_messages and self._bytes + size <= self.most_bytes)

    def _fits(self, size: int) -> bool:
        return not self._deliveries or (
            len(self._deliveries) < self._most_messages and self._bytes + size <= self.most_bytes
        )

    async def wait_for_room(
        self, messages: Sequence[Delivery], accept: Callable[[Delivery], object]
    ) -> None:
        """Accept messages in their turn: once they fit and all earlier waiters are accepted.

        So no later message, however small, overtakes a large one, and no message of another
        sender comes between these. Raises what `accept` does; the messages before are accepted. A
        checkpoint. Cancelled: the first ones may have been accepted, and the others are not.
        """
        resume = functools.partial(trio.lowlevel.reschedule, trio.lowlevel.current_task())
        leave_line = self._line_up(messages, accept, resume)

        def leave(raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            leave_line()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    def call_in_turn(
        self,
        messages: Sequence[Delivery],
        accept: Callable[[Delivery], object],
        answer: Callable[[Value[None] | Error], object],
    ) -> Callable[[], None]:
        """Accept messages as `wait_for_room` does, for a sender that is no task of trio.

        `answer` is called once all are accepted or one was refused; at once if they fit now. Until
        then, calling the returned function takes the sender out of the line, as cancelling does.
        """
        leave = self._line_up(messages, accept, answer)
        self._call_next()
        return leave

    def _line_up(
        self,
        messages: Sequence[Delivery],
        accept: Callable[[Delivery], object],
        answer: Callable[[Value[None] | Error], object],
    ) -> Callable[[], None]:
        place = _Place(messages, accept, answer)
        self._line[place] = None
        self._look_at_line()

        def leave() -> None:
            if place in self._line:
                del self._line[place]
                self._call_next()  # a smaller one behind it may fit

        return leave

    def call_all(self) -> None:
        """Call `accept` for all waiting senders at once, because no more room is given."""
        line, self._line = self._line, collections.OrderedDict()
        for place in line:
            place.call(lambda _: True)
        self._look_at_line()

    def _call_next(self) -> None:
        while self._line:
            place = next(iter(self._line))
            if not place.call(self._fits):
                break
            del self._line[place]
        self._look_at_line()

    def _look_at_line(self) -> None:
        if self._is_line != bool(self._line):
            self._is_line = not self._is_line
            self.on_line(self._is_line)

    def have_room(self, messages: Sequence[Delivery]) -> bool:
        """Whether all of these can be accepted now and no other waits before them."""
        return not self._line and (
            len(self._deliveries) + len(messages) <= self._most_messages
            and self._bytes + sum([each.size for each in messages]) <= self.most_bytes
        )

    def accept_first(self, messages: Sequence[Delivery]) -> int:
        """Accept as many of the first of these as there is room for; return how many."""
        if self.have_room(messages):  # in a quarter of the time that one by one takes
            for message in messages[_TURN - 1 :: _TURN]:
                message.gives_way = True
            self._deliveries.update(zip(messages, messages, strict=True))
            self._bytes += sum([each.size for each in messages])
            return len(messages)
        for accepted, message in enumerate(messages):
            if not self.has_room(message.size):
                return accepted
            self.accept(message)
        return len(messages)

    def accept_if_room(self, delivery: Delivery) -> bool:
        """Accept a message, unless there is no room or another waits before it."""
        # `has_room` and `accept`, without their calls, because this runs for each message.
        deliveries, size = self._deliveries, delivery.size
        if self._line or (
            deliveries
            and (len(deliveries) >= self._most_messages or self._bytes + size > self.most_bytes)
        ):
            return False
        deliveries[delivery] = delivery
        self._bytes += size
        self._turn += 1
        if not self._turn % _TURN:
            delivery.gives_way = True
        return True

    def accept(self, delivery: Delivery) -> None:
        """Note that a message is in flight. Its size is known."""
        self._deliveries[delivery] = delivery
        self._bytes += delivery.size
        self._turn += 1
        if not self._turn % _TURN:
            delivery.gives_way = True

    def end(
        self, reports: Iterable[tuple[Outgoing, Outcome]]
    ) -> tuple[list[Delivery], list[Delivery]]:
        """Record the outcomes of messages.

        Return the messages that had no outcome before, and those of them that failed.
        """
        ended: list[Delivery] = []
        failed: list[Delivery] = []
        take, add = self._deliveries.pop, ended.append
        freed = 0
        if isinstance(reports, Outcomes):
            for written in reports.written:
                place = written.place
                for at, message in enumerate(written.messages):  # once for each message
                    delivery = take(message, None)
                    if delivery is not None:
                        freed += delivery.size
                        delivery.end_at(place, at)
                        add(delivery)
            reports = reports.others
        for outgoing, outcome in reports:  # once for each message
            delivery = take(outgoing, None)
            if delivery is None:
                continue
            freed += delivery.size
            if isinstance(outcome, Exception):
                if self._failures.first is None:
                    self._failures.first = outcome
                delivery.end(outcome, self._failures.add(outgoing.topic, outcome))
                failed.append(delivery)
            else:
                delivery.end(outcome)
            add(delivery)
        self._bytes -= freed
        for flush in self._flushes:
            flush.left.difference_update(ended)
            flush.look()
        self._call_next()
        return ended, failed

    @contextlib.contextmanager
    def flushing(self) -> Iterator[trio.Event]:
        """An event that is set once all has ended that is in here now; as long as in the block."""
        flush = _Flush(set(self._deliveries.values()))
        flush.look()
        self._flushes.append(flush)
        try:
            yield flush.ended
        finally:
            self._flushes.remove(flush)


@attrs.define(eq=False)
class _Place:
    """The place of a sender that waits for room, for one message or several."""

    messages: Sequence[Delivery]
    accept: Callable[[Delivery], object]
    answer: Callable[[Value[None] | Error], object]  # resumes the sender
    accepted: int = 0

    def call(self, fits: Callable[[int], bool]) -> bool:
        """Accept what fits now, and return whether the sender is done with its place.

        The messages are accepted before the sender resumes, so that no other comes between. Once it
        is done, the sender cannot be cancelled before it has the deliveries.
        """
        while self.accepted < len(self.messages):
            message = self.messages[self.accepted]
            if not fits(message.size):
                return False
            ended = capture(self.accept, message)
            if isinstance(ended, Error):
                self.answer(ended)
                return True
            self.accepted += 1
        self.answer(Value(None))
        return True


@attrs.define(eq=False)
class _Flush:
    """What was accepted before a flush and has no outcome yet."""

    left: set[Delivery]
    ended: trio.Event = attrs.field(factory=trio.Event)

    def look(self) -> None:
        if not self.left:
            self.ended.set()
