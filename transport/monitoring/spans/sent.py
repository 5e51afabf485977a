"""The spans of sent messages, from the call that sends to the outcome."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Tracer

from transport.drivers.base import Outgoing
from transport.monitoring.spans.attributes import COUNT, FAILED, SpanAttributes, of_place
from transport.monitoring.spans.ending import end
from transport.monitoring.spans.links import NO_LINKS, link_to, links_to_senders
from transport.monitoring.spans.trace_context import TraceHeaders
from transport.tracing import Sent
from transport.types import RecordMetadata


class SentSpans:
    """The spans of messages that have no outcome yet.

    Args:
        new_trace: see `Tracing`.
    """

    def __init__(
        self, tracer: Tracer, headers: TraceHeaders, attributes: SpanAttributes, *, new_trace: bool
    ) -> None:
        self._tracer = tracer
        self._headers = headers
        self._attributes = attributes
        self._new_trace = new_trace
        # Not a field of the message, so that a message without a span takes no more memory.
        self._open: dict[object, Span | ManySends] = {}

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, message: Outgoing) -> None:
        """Begin the span of a message, unless it has one, and write its context into the headers.

        The span is a child of the current one.
        """
        if message in self._open:  # it has waited for room
            return
        links, headers = NO_LINKS, message.headers
        if headers:
            _, before = self._headers.read(headers, Context())
            links = link_to(before)
        span = self._begin(message, None, links, SpanKind.PRODUCER)
        message.headers = self._headers.with_context_of(span, headers)

    def begin_many(self, messages: Sequence[Outgoing]) -> None:
        """Begin one span for messages of one topic, and write its context into all headers."""
        if not messages or messages[0] in self._open:  # they have waited for room
            return
        name, attributes = self._attributes.of_sending(messages[0].topic)
        links = links_to_senders(self._headers, messages)
        span = self._tracer.start_span(name, None, SpanKind.PRODUCER, attributes, links)
        # Before the headers are written, so that the span ends even if the propagator fails.
        if span.is_recording():
            self._open.update(dict.fromkeys(messages, ManySends(span, len(messages))))
            span.set_attribute(COUNT, len(messages))
        else:  # its end is not recorded, so one message is enough to know that the span began
            self._open[messages[0]] = span
        shared = self._headers.with_context_of(span, ())
        for message in messages:
            if message.headers:
                message.headers = self._headers.with_context_of(span, message.headers)
            else:
                message.headers = shared

    def begin_forwarded(self, message: Outgoing) -> None:
        """Begin the span of a message that keeps the context in its headers.

        The span is in the trace of that context, unless `new_trace` is set.
        """
        root = Context()
        context, before = self._headers.read(message.headers, root)
        parent = root if self._new_trace else context
        # By the conventions, only a span whose context is in the headers is a producer's.
        kind = SpanKind.PRODUCER if before is None else SpanKind.CLIENT
        span = self._begin(message, parent, link_to(before), kind)
        if before is None:
            message.headers = self._headers.with_context_of(span, message.headers)

    def _begin(
        self, message: Outgoing, parent: Context | None, links: Sequence[Link], kind: SpanKind
    ) -> Span:
        name, attributes = self._attributes.of_sending(message.topic)
        span = self._tracer.start_span(name, parent, kind, attributes, links)
        self._open[message] = span
        if span.is_recording():
            span.set_attributes(self._attributes.of_content(message.key, message.value))
        return span

    def end(self, message: Sent) -> None:
        """End the span of a message that has an outcome, if it has a span."""
        if (span := self._open.pop(message, None)) is None:
            return
        if isinstance(span, ManySends):
            span.ended(message)
        elif not span.is_recording():
            span.end()
        elif isinstance(outcome := message.outcome, RecordMetadata):
            span.set_attributes(of_place(outcome))
            span.end()
        else:
            end(span, outcome)

    def refuse(self, message: object, why: BaseException) -> None:
        """End the span of a message that the producer has not accepted, if it has a span."""
        if (span := self._open.pop(message, None)) is None:
            return
        if isinstance(span, ManySends):
            span.failed(why)
        else:
            end(span, why)


class ManySends:
    """The span of one `send_many`, which ends once all of its messages have outcomes."""

    __slots__ = ("_failed", "_first", "_left", "_span")

    def __init__(self, span: Span, count: int) -> None:
        self._span = span
        self._left = count
        self._failed = 0
        self._first: BaseException | None = None

    def ended(self, message: Sent) -> None:
        """Note that a message has an outcome."""
        if self._span.is_recording() and isinstance(outcome := message.outcome, Exception):
            self.failed(outcome)
        else:
            self._count()

    def failed(self, why: BaseException) -> None:
        """Note that a message has failed, or was not accepted."""
        self._failed += 1
        if self._first is None:
            self._first = why
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left:
            return
        if self._first is not None:
            self._span.set_attribute(FAILED, self._failed)
        end(self._span, self._first)
