"""The messages in flight: their bounds, the order in which senders get room, and flushes.

Look here for when a send has to wait, and for what a flush waits for.
"""

from __future__ import annotations

import collections
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import trio
from outcome import Error, Value, capture

from transport.drivers.base import Outcome, Outgoing
from transport.drivers.written import Outcomes
from transport.producing.delivery import Delivery, Failures

# At every Nth message, `send` and awaiting a known outcome let other tasks run. With N = 64, each
# message takes 3 us more of CPU, and with 1 kB 4 us: the client appends smaller parts.
_TURN = 256


class InFlight:
    """The messages in flight, bounded in number and in bytes, and the senders that wait for room.

    Args:
        most_messages: the most messages at once.
        most_bytes: the most bytes at once. One message alone may be larger.
        failures: receives the errors of messages that are not delivered.

    Attributes:
        on_line: called with True when a first sender has to wait for room, and with False once no
            sender waits.
    """

    def __init__(self, most_messages: int, most_bytes: int, failures: Failures) -> None:
        self.most_bytes = most_bytes
        self._most_messages = most_messages
        self._failures = failures
        # Maps each message to itself, in order. A report may name messages that have ended already.
        self._deliveries: dict[Outgoing, Delivery] = {}
        self._bytes = 0
        self._turn = 0
        self._flushes: list[_Flush] = []
        self._line: collections.OrderedDict[_Sender, None] = collections.OrderedDict()
        self._is_line = False  # the last argument of `on_line`
        self.on_line: Callable[[bool], object] = lambda waits: None

    def __len__(self) -> int:
        return len(self._deliveries)

    def __iter__(self) -> Iterator[Outgoing]:
        return iter(self._deliveries)

    def __contains__(self, message: Outgoing) -> bool:
        return message in self._deliveries

    def has_room(self, size: int) -> bool:
        """Return whether a message of this size fits now, and no other waits before it."""
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
        """Accept messages in turn: each once it fits, after those of all earlier senders.

        So no later message, however small, overtakes a large one, and no message of another
        sender comes between these. Raises what `accept` raises; the messages before that one are
        accepted. A checkpoint. Cancelled: the first messages may have been accepted, and the others
        are not.
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
        """Accept messages as `wait_for_room` does, for a sender that is not a task of trio.

        `answer` is called once all messages are accepted or one was refused; at once if they fit
        now. Until then, the returned function removes the sender from the line, as cancelling does.
        """
        leave = self._line_up(messages, accept, answer)
        self._accept_next()
        return leave

    def _line_up(
        self,
        messages: Sequence[Delivery],
        accept: Callable[[Delivery], object],
        answer: Callable[[Value[None] | Error], object],
    ) -> Callable[[], None]:
        sender = _Sender(messages, accept, answer)
        self._line[sender] = None
        self._report_line()

        def leave() -> None:
            if sender in self._line:
                del self._line[sender]
                self._accept_next()  # a smaller message behind it may fit

        return leave

    def refuse_all(self) -> None:
        """Refuse the messages that wait for room, at the end of the producer.

        This calls `accept` for all senders, whether or not their messages fit. It raises AppClosed.
        """
        line, self._line = self._line, collections.OrderedDict()
        for sender in line:
            sender.accept_fitting(lambda _: True)
        self._report_line()

    def _accept_next(self) -> None:
        while self._line:
            sender = next(iter(self._line))
            if not sender.accept_fitting(self._fits):
                break
            del self._line[sender]
        self._report_line()

    def _report_line(self) -> None:
        if self._is_line != bool(self._line):
            self._is_line = not self._is_line
            self.on_line(self._is_line)

    def have_room(self, messages: Sequence[Delivery]) -> bool:
        """Return whether all of these messages fit now, and no other waits before them."""
        return not self._line and (
            len(self._deliveries) + len(messages) <= self._most_messages
            and self._bytes + sum([each.size for each in messages]) <= self.most_bytes
        )

    def accept_first(self, messages: Sequence[Delivery]) -> int:
        """Accept the first of these messages, as many as fit; return their number."""
        if self.have_room(messages):  # a quarter of the time that one by one takes
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
        """Accept a message if it fits and no other waits first; return whether it was accepted."""
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
        """Count a message, whose size is known, as in flight."""
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
            flush.check()
        self._accept_next()
        return ended, failed

    @contextlib.contextmanager
    def flushing(self) -> Iterator[trio.Event]:
        """Yield an event, which is set in the block once all messages in flight now have ended."""
        flush = _Flush(set(self._deliveries.values()))
        flush.check()
        self._flushes.append(flush)
        try:
            yield flush.ended
        finally:
            self._flushes.remove(flush)


@attrs.define(eq=False)
class _Sender:
    """A sender that waits for room, for one message or several."""

    messages: Sequence[Delivery]
    accept: Callable[[Delivery], object]
    answer: Callable[[Value[None] | Error], object]  # resumes the sender
    accepted: int = 0

    def accept_fitting(self, fits: Callable[[int], bool]) -> bool:
        """Accept the messages that fit now, and return whether the sender leaves the line.

        The messages are accepted before the sender resumes, so that no other comes between. Once
        all are accepted, the sender cannot be cancelled before it has the deliveries.
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
    """The messages that were accepted before a flush and have no outcome yet."""

    left: set[Delivery]
    ended: trio.Event = attrs.field(factory=trio.Event)

    def check(self) -> None:
        if not self.left:
            self.ended.set()
