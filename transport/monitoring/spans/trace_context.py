"""The context of a trace in the headers of a message.

Look here for which headers are read and replaced.

OpenTelemetry's propagator does the work, with one exception. Most messages have a `traceparent` of
the W3C and nothing else, and the propagator takes several microseconds for each. So `TraceHeaders`
reads and writes such a header itself, if the propagator is the default one.
"""

from __future__ import annotations

import re

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from transport.types import Headers

_PARENT, _STATE = "traceparent", "tracestate"
_PLAIN = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})").fullmatch
_FLAGS = {b"%02x" % number: TraceFlags(number) for number in range(256)}


class TraceHeaders:
    """The headers in which a context travels.

    Attributes:
        is_standard: whether the propagator is the default one, for the headers of the W3C.
    """

    def __init__(self, propagator: TextMapPropagator) -> None:
        self._propagator = propagator
        self._fields = frozenset(propagator.fields)
        parts = getattr(propagator, "_propagators", ())
        self.is_standard = [type(each) for each in parts] == [
            TraceContextTextMapPropagator,
            W3CBaggagePropagator,
        ]

    def read(self, headers: Headers, base: Context) -> tuple[Context, SpanContext | None]:
        """Return `base` with the context in the headers, and the span that sent the headers.

        None: the headers name no span.
        """
        fields = self._fields
        # Of two headers with the same name, the last one counts, as in Kafka's own clients.
        found = {pair[0]: pair[1] for pair in headers if pair[0] in fields and pair[1] is not None}
        if not found:
            return base, None
        if self.is_standard and len(found) == 1 and _PARENT in found:
            match = _PLAIN(found[_PARENT])
            if match is not None:
                trace_id, span_id, flags = match.groups()
                sender = SpanContext(int(trace_id, 16), int(span_id, 16), True, _FLAGS[flags])
                if sender.is_valid:
                    return set_span_in_context(NonRecordingSpan(sender), base), sender
        carrier = {name: value.decode("utf-8", "replace") for name, value in found.items()}
        # Without `base`, because its span would be taken for the sender's.
        context = self._propagator.extract(carrier, Context())
        sender = get_current_span(context).get_span_context()
        if base:
            context = self._propagator.extract(carrier, base)
        return context, sender if sender.is_valid else None

    def with_context_of(self, span: Span, headers: Headers) -> Headers:
        """Return headers with the context of a span, in place of another context in them."""
        context = span.get_span_context()
        if self.is_standard and not context.trace_state and not baggage.get_all():
            if not context.is_valid:
                return headers
            text = b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)
            written: list[tuple[str, bytes | None]] = [(_PARENT, text)]
        else:
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier, set_span_in_context(span))
            written = [(name, value.encode()) for name, value in carrier.items()]
        if not headers or not written:
            return written or headers
        gone = {name for name, _ in written}
        if _PARENT in gone:
            gone.add(_STATE)  # the old state belongs to the old parent
        return [*(pair for pair in headers if pair[0] not in gone), *written]
