"""The events of handlers, for tests and for metrics.

Look here to follow what handlers do with each message. `Handlers.observers` has the observers of an
app. A driver for tests can bring one along, in its attribute `observer`.
"""

from __future__ import annotations

from typing import TypeAlias

from transport.handling.attempts import Attempts
from transport.handling.plan import Plan
from transport.message import AnyBatch, AnyMessage

Held: TypeAlias = AnyMessage | AnyBatch


class Observer:
    """The base class of observers. A subclass overrides the methods of the events that it needs.

    All methods are called in trio's thread, in the step in which the event happens, and are not
    async. They must be quick, must not change the app, and must not raise.

    With transactions, the events of an aborted transaction were reported, and its messages are
    redelivered. So an event can come more often than its effect.
    """

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
