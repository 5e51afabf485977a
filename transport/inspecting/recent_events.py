"""`RecentEvents`: the last rebalances, errors and dead letters of an app.

Look here for what is kept of an event, and for how long. Keys and values of messages are not kept.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import attrs
import trio

from transport.codecs import DecodeError
from transport.delivering.ledger import lane_of
from transport.excerpt import excerpt, ranges
from transport.handling.attempts import Attempts
from transport.handling.observer import Held, Observer
from transport.handling.plan import Plan
from transport.leaves import leaves
from transport.message import Batch
from transport.probe import Points
from transport.tee import Tee
from transport.topic import Topic
from transport.types import TP

ENDS_APP = "the app ends"  # the outcome of an error

_MOST = 100  # of each kind


@attrs.define
class RecentRebalance:
    """A change of ownership: partitions were assigned, revoked or lost.

    Attributes:
        number: counts the events of the app.
        at: the time of its begin, in seconds since 1970.
        kind: "assigned", "revoked" or "lost".
        partitions: the partitions as a text, such as "orders[0-3,7]".
        count: how many partitions these are.
        seconds: the time until the app had served it. None: the app still serves it.
    """

    number: int
    at: float
    kind: str
    partitions: str
    count: int
    seconds: float | None = None


@attrs.frozen
class RecentError:
    """An error. Equal errors that follow one another are one.

    Attributes:
        number, at: as in `RecentRebalance`, of the last one.
        count: how many equal errors followed one another.
        place: the part of the app, such as "handler bill" or "commit".
        partition: the partition, such as "orders-3". None: the error has none.
        offsets: the offset of the message, or the first and the last of a batch. None: no message.
        error: the class of the error.
        text: the text of the error, cut.
        outcome: what follows, such as "is retried in 2 s".
        ends_app: the app ends because of it.
    """

    number: int
    at: float
    count: int
    place: str
    partition: str | None
    offsets: str | None
    error: str
    text: str
    outcome: str
    ends_app: bool

    @property
    def identity(self) -> tuple[object, ...]:
        """The attributes that equal errors share."""
        return self.place, self.partition, self.offsets, self.error


@attrs.frozen
class RecentDeadLetter:
    """A dead letter that was delivered.

    Attributes:
        number, at, partition, offsets, error, text: as in `RecentError`.
        handler: the name of the handler.
        topic: the topic of the dead letter.
        attempts: how many attempts have failed.
    """

    number: int
    at: float
    handler: str
    topic: str
    partition: str
    offsets: str
    attempts: int
    error: str
    text: str


class RecentEvents(Points):
    """A sensor that keeps the last 100 rebalances, errors and dead letters of an app.

    The setting `web` adds one to the app, for its page. If your program mounts `transport.web.page`
    instead, pass one as the setting `monitor`, alone or in `Sensors`.

    Attributes:
        rebalances, errors, dead_letters: the last ones, the oldest first.
    """

    def __init__(self) -> None:
        self.rebalances: deque[RecentRebalance] = deque(maxlen=_MOST)
        self.errors: deque[RecentError] = deque(maxlen=_MOST)
        self.dead_letters: deque[RecentDeadLetter] = deque(maxlen=_MOST)
        self._last = 0  # the number of the last event

    def on_open(self, app: Any) -> None:
        app.handlers.observers.append(_Failures(self))

    def on_rebalance_start(
        self, app: Any, kind: str, partitions: frozenset[TP]
    ) -> tuple[RecentRebalance, float]:
        found = RecentRebalance(
            number=self._number(),
            at=time.time(),
            kind=kind,
            partitions=ranges(partitions),
            count=len(partitions),
        )
        self.rebalances.append(found)
        return found, trio.current_time()

    def on_rebalance_return(self, app: Any, state: Any) -> None:
        found, since = state
        found.seconds = trio.current_time() - since

    def on_commit_error(self, consumer: Any, state: Any, error: Exception) -> None:
        self.add_error("commit", error, "is tried again, unless the app ends")

    def on_sends_error(self, producer: Any, errors: Sequence[Exception]) -> None:
        kinds = {type(error): error for error in reversed(errors)}
        for kind, error in kinds.items():
            count = sum(type(each) is kind for each in errors)
            self.add_error("send", error, "is raised where the program awaits it", count=count)

    def on_assignment_error(self, consumer: Any, state: Any, error: BaseException) -> None:
        if isinstance(error, Exception):  # else the end of the app has cancelled it
            self.add_error("assignment", error, ENDS_APP)

    def add_error(
        self,
        place: str,
        error: Exception,
        outcome: str,
        *,
        held: Held | None = None,
        count: int = 1,
    ) -> None:
        """Keep an error. See `RecentError` for the arguments.

        Args:
            outcome: what follows. `ENDS_APP`: the app ends because of it.
            held: the message or the batch of the error.
        """
        found = RecentError(
            number=self._number(),
            at=time.time(),
            count=count,
            place=place,
            partition=None if held is None else str(held.tp),
            offsets=None if held is None else _offsets(held),
            error=_class_of(error),
            text=_text_of(error),
            outcome=outcome,
            ends_app=outcome == ENDS_APP,
        )
        if self.errors and self.errors[-1].identity == found.identity:
            found = attrs.evolve(found, count=self.errors.pop().count + count)
        self.errors.append(found)

    def add_error_of_block(self, error: BaseException) -> None:
        """Keep the error that has ended the block of `async with app`, or the errors in a group.

        An error that only cancels the block is not kept.
        """
        for each in leaves(error):
            if isinstance(each, Exception):
                self.add_error("the block of the app", each, ENDS_APP)

    def add_dead_letter(self, plan: Plan, held: Held, attempts: Attempts) -> None:
        """Keep a dead letter that was delivered."""
        assert isinstance(plan.dead_letters, Topic)
        self.dead_letters.append(
            RecentDeadLetter(
                number=self._number(),
                at=time.time(),
                handler=plan.name,
                topic=plan.dead_letters.name,
                partition=str(held.tp),
                offsets=_offsets(held),
                attempts=attempts.failed,
                error=_class_of(attempts.error),
                text=_text_of(attempts.error),
            )
        )

    def _number(self) -> int:
        self._last += 1
        return self._last


class _Failures(Observer):
    """The failures of handlers. A sensor does not receive the offsets of these."""

    def __init__(self, recent: RecentEvents) -> None:
        self._recent = recent

    def on_failed(self, plan: Plan, held: Held, attempts: Attempts, delay: float | None) -> None:
        outcome = _outcome(plan, held, delay)
        self._recent.add_error(f"handler {plan.name}", attempts.error, outcome, held=held)

    def on_dead_letter(self, plan: Plan, held: Held, attempts: Attempts) -> None:
        if isinstance(plan.dead_letters, Topic):  # else a hook for decode errors has handled it
            self._recent.add_dead_letter(plan, held, attempts)


def recent_events_of(sensor: Points | None) -> RecentEvents | None:
    """Return the `RecentEvents` that is a sensor, or is one of several in it."""
    if isinstance(sensor, RecentEvents):
        return sensor
    if isinstance(sensor, Tee):
        return next(filter(None, map(recent_events_of, sensor.sensors)), None)
    return None


def _outcome(plan: Plan, held: Held, delay: float | None) -> str:
    """Return what happens to a message after a failed attempt."""
    if delay is not None:
        return f"is retried in {delay:.3g} s"
    if lane_of(held).ledger.is_shut:
        return "is redelivered: its partition has gone"
    if isinstance(plan.dead_letters, Topic):
        return f"becomes a dead letter in {plan.dead_letters.name}"
    return "is skipped" if plan.dead_letters == "skip" else ENDS_APP


def _offsets(held: Held) -> str:
    if not isinstance(held, Batch):
        return str(held.offset)
    last = held.records[-1].offset
    return f"{held.first}-{last}" if last > held.first else str(held.first)


def _class_of(error: BaseException) -> str:
    return excerpt(type(error).__name__)


def _text_of(error: BaseException) -> str:
    """Return the text of an error of any class, cut, without the value of a message."""
    if isinstance(error, DecodeError):  # its text shows the first bytes
        return f"the {error.part} cannot be decoded: the log has the error"
    try:
        return excerpt(str(error))
    except Exception as failure:  # noqa: BLE001 - the class belongs to the user
        return f"the text of this error cannot be shown: {excerpt(type(failure).__name__)}"
