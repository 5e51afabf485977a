"""The events of handlers, for tests and for metrics.

Look here to follow what handlers do with each message. `Handlers.observers` has the observers of an
app. A driver for tests can bring one along, in its attribute `observer`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeAlias

import attrs

from transport.excerpt import excerpt_of_error
from transport.handling.attempts import Attempts
from transport.handling.plan import Plan
from transport.log import Log
from transport.message import AnyBatch, AnyMessage, Batch

Held: TypeAlias = AnyMessage | AnyBatch


class Observer:
    """The base class of observers. A subclass overrides the methods of the events that it needs.

    All methods are called in trio's thread, in the step in which the event happens, and are not
    async. They must be quick, must not change the app, and must not raise.

    With transactions, the events of an aborted transaction were reported, and its messages are
    redelivered. So an event can come more often than its effect.
    """

    def on_added(self, plan: Plan) -> None:
        """Called when a handler was added to the app, which may not be open yet."""

    def on_handled(self, plan: Plan, held: Held) -> None:
        """Called when the function has returned, and the message was acked if it had no holder."""

    def on_filtered(self, plan: Plan, held: Held) -> None:
        """Called when the filter has refused a message, which was acked."""

    def on_failed(self, plan: Plan, held: Held, attempts: Attempts, delay: float | None) -> None:
        """Called when an attempt has failed.

        Args:
            attempts: all failed attempts so far, with the error of this one.
            delay: seconds until the next attempt. None: this handler makes no further attempt. Its
                policy for dead letters applies, or the message is redelivered, perhaps to another
                member.
        """

    def on_dead_letter(self, plan: Plan, held: Held, attempts: Attempts) -> None:
        """Called when a dead letter was delivered, and its message was acked."""

    def on_skipped(self, plan: Plan, held: Held, attempts: Attempts) -> None:
        """Called when a failed message was skipped and acked, by policy or by a hook."""


@attrs.define
class Counts:
    """The numbers of events since a handler has started.

    Attributes:
        handled: calls of the function that have returned: messages, or batches.
        filtered: messages that the filter has refused.
        failed: attempts that have failed.
        dead_letters: dead letters that were delivered.
        skipped: messages that were skipped after their last attempt.
    """

    handled: int = 0
    filtered: int = 0
    failed: int = 0
    dead_letters: int = 0
    skipped: int = 0


class Events:
    """The events of one handler: it counts them, and passes them on to the observers.

    Args:
        observers: the list may change.
        reports: an observer that receives only failures, dead letters and skipped messages.

    Attributes:
        counts: the numbers of events so far.
        observers: the same list.
    """

    def __init__(
        self, plan: Plan, observers: Sequence[Observer], log: Log, reports: Observer | None = None
    ) -> None:
        self.counts = Counts()
        self._plan = plan
        self._log = log
        self.observers = observers
        self._reports = () if reports is None else (reports,)

    def handled(self, held: Held) -> None:
        self.counts.handled += 1
        for observer in self.observers:
            observer.on_handled(self._plan, held)

    def filtered(self, held: Held) -> None:
        self.counts.filtered += 1
        for observer in self.observers:
            observer.on_filtered(self._plan, held)

    def failed(self, held: Held, attempts: Attempts, delay: float | None = None) -> None:
        """Count a failed attempt, and log it if another one follows.

        The treatment after the last attempt has a log line of its own.
        """
        self.counts.failed += 1
        if delay is not None:
            self._log.often(
                logging.INFO,
                "attempt_failed",
                "handler %s: attempt %d of %s failed and is repeated in %.3g s: %s",
                *(self._plan.name, attempts.failed, repr(held), delay),
                excerpt_of_error(attempts.error),
                handler=self._plan.name,
                attempt=attempts.failed,
                partitions=[held.tp],
                offset=held.first if isinstance(held, Batch) else held.offset,
                seconds=delay,
                error=attempts.error,
            )
        for observer in (*self.observers, *self._reports):
            observer.on_failed(self._plan, held, attempts, delay)

    def dead_letter(self, held: Held, attempts: Attempts) -> None:
        self.counts.dead_letters += 1
        for observer in (*self.observers, *self._reports):
            observer.on_dead_letter(self._plan, held, attempts)

    def skipped(self, held: Held, attempts: Attempts) -> None:
        for observer in (*self.observers, *self._reports):
            observer.on_skipped(self._plan, held, attempts)
        self.counts.skipped += 1
