"""The calls from the parts of an app to its tracing.

Look here for the places at which spans begin and end. `monitoring/tracing.py` makes the spans. The
core knows only this contract, so it imports nothing of OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from transport.drivers.base import Outcome, Outgoing
from transport.message import AnyBatch, AnyMessage


class Sent(Protocol):
    """The part of a message with an outcome that tracing needs."""

    @property
    def outcome(self) -> Outcome | None: ...


@runtime_checkable
class Spans(Protocol):
    """The calls that tracing receives, in trio's thread. `Tracing` is their implementation."""

    def open(self, app: Any) -> None:
        """Note which app makes the calls."""

    def sending(self, message: Outgoing) -> None:
        """Begin the span of a message, and write its context into the headers.

        The span is a child of the caller's current span. A message that has a span keeps it.
        """

    def sending_many(self, messages: Sequence[Outgoing]) -> None:
        """Begin one span for messages of one topic, and write its context into all headers."""

    def forwarding(self, message: Outgoing) -> None:
        """Begin the span of a message that keeps the context in its headers, as dead letters do."""

    def sent(self, messages: Sequence[Sent]) -> None:
        """End the spans of messages that have an outcome."""

    def refused(self, messages: Sequence[object], why: BaseException) -> None:
        """End the spans of messages that the producer has not accepted."""

    def processing(
        self, held: AnyMessage | AnyBatch, *, handler: str | None = None
    ) -> AbstractContextManager[Any]:
        """Make a span the current one in the block, in which a message or batch is handled.

        Args:
            held: the message or the batch.
            handler: the name of the handler. None: the block is the user's own.
        """
