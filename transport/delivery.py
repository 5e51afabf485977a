"""What was accepted, until it has its outcome; and failures, until somebody has seen them.

Each message gets an error of its own: it goes to who awaits its `Delivery`. One that nobody has
looked at when the producer ends is raised there, so that no message is lost in silence.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import attrs
import trio
from outcome import capture

from transport.drivers.base import Outcome, Outgoing
from transport.errors import DeliveryFailed
from transport.types import RecordMetadata


@attrs.define(eq=False)
class Delivery:
    """A message that was accepted: `await` it for where it was written.

    Any number of tasks may await it, from any task. Awaiting is a checkpoint; cancelling ends
    only the waiting. Raises DeliveryFailed (with the cause), DeliveryTimeout, MessageTooLarge.
    """

    outgoing: Outgoing
    size: int
    outcome: Outcome | None = None
    was_seen: bool = False
    on_end: Callable[[Delivery], None] | None = None
    _on_seen: Callable[[], object] | None = None
    _ended: trio.Event | None = None
    _waiting: int = 0

    async def wait(self) -> RecordMetadata:
        """Wait for the outcome: the same as awaiting the object."""
        if self.outcome is None:
            if self._ended is None:
                self._ended = trio.Event()
            self._waiting += 1
            try:
                await self._ended.wait()
            finally:
                self._waiting -= 1
        else:
            await trio.lowlevel.checkpoint()
        self.on_seen()
        if isinstance(self.outcome, RecordMetadata):
            return self.outcome
        assert self.outcome is not None
        raise self.outcome

    def __await__(self) -> Generator[Any, Any, RecordMetadata]:
        return self.wait().__await__()

    def on_seen(self) -> None:
        """Somebody knows of the outcome."""
        self.was_seen = True
        if self._on_seen is not None:
            self._on_seen()

    def end(self, outcome: Outcome, on_seen: Callable[[], object] | None = None) -> None:
        """For the producer, which wants to know once somebody has seen a failure."""
        self.outcome = outcome
        self._on_seen = on_seen
        if self.on_end is not None:
            self.on_end(self)
        if self._ended is not None:
            self._ended.set()
        if self.was_seen or self._waiting:
            self.on_seen()


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


class InFlight:
    """What was accepted and has no outcome yet; bounded.

    Args:
        most_messages: so many may be in it at once.
        most_bytes: likewise; one message alone may be larger.
        failures: where those go that are not delivered.
    """

    def __init__(self, most_messages: int, most_bytes: int, failures: Failures) -> None:
        self.most_bytes = most_bytes
        self._most_messages = most_messages
        self._failures = failures
        self._deliveries: dict[Outgoing, Delivery] = {}
        self._bytes = 0
        self._flushes: list[_Flush] = []
        self._line: collections.OrderedDict[_Place, None] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._deliveries)

    def __iter__(self) -> Iterator[Outgoing]:
        return iter(self._deliveries)

    def has_room(self, size: int) -> bool:
        """Whether a message of this size can be accepted now and no other waits before it."""
        return not self._line and self._fits(size)

    def _fits(self, size: int) -> bool:
        return not self._deliveries or (
            len(self._deliveries) < self._most_messages and self._bytes + size <= self.most_bytes
        )

    async def wait_for_room(self, size: int, accept: Callable[[], Delivery]) -> Delivery:
        """Accept a message in its turn: once it fits and all earlier waiters are accepted.

        So no later message, however small, overtakes a large one. Returns or raises what `accept`
        does. A checkpoint. Cancelled: the message is not accepted.
        """
        place = _Place(size, accept, trio.lowlevel.current_task())
        self._line[place] = None

        def leave(raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            del self._line[place]
            self._call_next()  # a smaller one behind it may fit
            return trio.lowlevel.Abort.SUCCEEDED

        delivery: Delivery = await trio.lowlevel.wait_task_rescheduled(leave)
        return delivery

    def call_all(self) -> None:
        """Call `accept` for all waiting senders at once, because no more room is given."""
        line, self._line = self._line, collections.OrderedDict()
        for place in line:
            place.call()

    def _call_next(self) -> None:
        while self._line and self._fits(next(iter(self._line)).size):
            place, _ = self._line.popitem(last=False)
            place.call()

    def accept(self, outgoing: Outgoing, size: int) -> Delivery:
        """A message of so many bytes is on its way."""
        delivery = self._deliveries[outgoing] = Delivery(outgoing, size)
        self._bytes += size
        return delivery

    def end(self, reports: Iterable[tuple[Outgoing, Outcome]]) -> list[Delivery]:
        """Messages have their outcomes; which of them had none before."""
        ended = []
        for outgoing, outcome in reports:
            delivery = self._deliveries.pop(outgoing, None)
            if delivery is None:
                continue
            self._bytes -= delivery.size
            if isinstance(outcome, Exception):
                if self._failures.first is None:
                    self._failures.first = outcome
                delivery.end(outcome, self._failures.add(outgoing.topic, outcome))
            else:
                delivery.end(outcome)
            ended.append(delivery)
        for flush in self._flushes:
            flush.left.difference_update(ended)
            flush.look()
        self._call_next()
        return ended

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
    """The place of a sender that waits for room."""

    size: int
    accept: Callable[[], Delivery]
    task: trio.lowlevel.Task

    def call(self) -> None:
        """Accept the message now, before the sender resumes, so that no other comes between.

        From here on the sender cannot be cancelled before it has the delivery.
        """
        trio.lowlevel.reschedule(self.task, capture(self.accept))


@attrs.define(eq=False)
class _Flush:
    """What was accepted before a flush and has no outcome yet."""

    left: set[Delivery]
    ended: trio.Event = attrs.field(factory=trio.Event)

    def look(self) -> None:
        if not self.left:
            self.ended.set()
