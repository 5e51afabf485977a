"""The spans of messages and batches that are handled, and the block that such a span is for."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer, get_current_span, set_span_in_context

from transport.message import AnyBatch, AnyMessage, Message
from transport.monitoring.spans.attributes import COUNT, OFFSET, Attributes, SpanAttributes
from transport.monitoring.spans.ending import end
from transport.monitoring.spans.links import NO_LINKS, link_to, links_to_senders
from transport.monitoring.spans.trace_context import TraceHeaders


class HandledSpans:
    """The parents, links and attributes of the spans of handled messages and batches.

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

    def begin(
        self, held: AnyMessage | AnyBatch, handler: str | None, base: Context
    ) -> tuple[Span, Context]:
        """Begin the span of a message or a batch. Return it, and the context of its block.

        Args:
            base: the context around the block, whose span may be the parent, or be linked.
        """
        name, attributes = self._attributes.of_processing(held.tp, handler)
        context, links = base, NO_LINKS
        if not isinstance(held, Message):
            links = links_to_senders(self._headers, held.records)
        elif headers := held.record.headers:
            context, sender = self._headers.read(headers, base)
            links = link_to(sender)
            if sender is not None and self._new_trace:
                context = set_span_in_context(get_current_span(base), context)
            elif sender is not None and base:  # there may be a span around a block of the user
                links = (*links, *link_to(get_current_span(base).get_span_context()))
        span = self._tracer.start_span(name, context, SpanKind.CONSUMER, attributes, links)
        if span.is_recording():
            span.set_attributes(self._of(held))
        return span, set_span_in_context(span, context)

    def _of(self, held: AnyMessage | AnyBatch) -> Attributes:
        if not isinstance(held, Message):
            return {COUNT: len(held)}
        record = held.record
        about = self._attributes.of_content(record.key, record.value)
        about[OFFSET] = record.offset
        return about


class Processing:
    """The block in which a message or a batch is handled, with its span as the current one.

    Args:
        context: the context of the block.
        failed: called with an error of the SDK at the end of the span.
    """

    __slots__ = ("_context", "_failed", "_token", "span")

    def __init__(self, span: Span, context: Context, failed: Callable[[Exception], None]) -> None:
        self.span = span
        self._context = context
        self._failed = failed

    def __enter__(self) -> Span:
        self._token = contexts.attach(self._context)
        return self.span

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        contexts.detach(self._token)
        try:
            end(self.span, error)
        except Exception as wrong:  # noqa: BLE001 - whatever the user's SDK raises
            self._failed(wrong)
