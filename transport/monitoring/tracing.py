"""`Tracing`: spans of OpenTelemetry for sent and handled messages.

This module needs the extra `kafka-nursery[opentelemetry]`. Look here for the arguments of a user,
and for errors of the SDK. The package `spans` makes the spans: it decides their names, attributes,
parents and links, and how their context travels in the headers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from transport.app import App
from transport.arguments import flag, instance, or_none
from transport.drivers.base import Outgoing
from transport.log import Log
from transport.message import AnyBatch, AnyMessage, Batch, Message
from transport.tracing import Sent

try:
    from opentelemetry import context as contexts
    from opentelemetry import propagate
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import INVALID_SPAN, TracerProvider, get_tracer

    from transport.monitoring.spans.attributes import SCHEMA, SpanAttributes
    from transport.monitoring.spans.handled import HandledSpans, Processing
    from transport.monitoring.spans.sent import SentSpans
    from transport.monitoring.spans.trace_context import TraceHeaders
except ImportError as error:
    raise ImportError(
        "Tracing needs the extra opentelemetry: pip install 'kafka-nursery[opentelemetry]'"
    ) from error

__all__ = ["Tracing"]

_INSTRUMENTATION = "kafka-nursery"


class Tracing:
    """Spans of OpenTelemetry for the messages that an app sends and handles.

    Each app needs a `Tracing` of its own. Your program brings the SDK. Without an SDK, no span is
    recorded, and the context of a sender still travels in the headers.

    An error of the provider, of a sampler, of a processor or of the propagator stops no message.
    The log line `tracing_failed` reports the error, and a span or a context is missing.

    Args:
        tracer_provider: makes the tracer. None: the global provider.
        propagator: writes a context into headers, and reads it. None: the global propagator, by
            default for `traceparent`, `tracestate` and `baggage` of the W3C.
        new_trace: False: the span of a handled message is a child of the sender's span, in the
            same trace, and has a link to it. True: the span of a handled message begins a trace of
            its own, and only the link leads to the sender's span.
        keys: True: a span shows the key of its message, if that is a printable text of at most 128
            bytes.

    Raises:
        TypeError: an argument has a wrong type.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        *,
        propagator: TextMapPropagator | None = None,
        new_trace: bool = False,
        keys: bool = False,
    ) -> None:
        or_none(
            instance,
            "tracer_provider",
            tracer_provider,
            kind=TracerProvider,
            expected="a TracerProvider or None",
        )
        or_none(
            instance,
            "propagator",
            propagator,
            kind=TextMapPropagator,
            expected="a TextMapPropagator or None",
        )
        flag("new_trace", new_trace)
        flag("keys", keys)
        tracer = get_tracer(_INSTRUMENTATION, None, tracer_provider, SCHEMA)
        headers = TraceHeaders(propagator or propagate.get_global_textmap())
        self._attributes = SpanAttributes(keys=keys)
        self._sent = SentSpans(tracer, headers, self._attributes, new_trace=new_trace)
        self._handled = HandledSpans(tracer, headers, self._attributes, new_trace=new_trace)
        self._app: App | None = None
        self._log = Log("transport.tracing", "")

    @property
    def unfinished(self) -> int:
        """The number of sent messages whose spans have not ended."""
        return len(self._sent)

    def open(self, app: App) -> None:
        """Note the app whose messages the spans are about. The app calls it.

        Raises:
            ValueError: another app has this object.
        """
        if self._app not in (None, app):
            raise ValueError(
                f"this Tracing belongs to the app {self._app.id!r}: make another one for the app"
                f" {app.id!r}"
            )
        self._app = app
        self._log = Log("transport.tracing", app.id)
        self._attributes.open(app)

    def sending(self, message: Outgoing) -> None:
        """Begin the span of a message, and write its context into the headers.

        The span is a child of the current one. A message that has a span keeps it.
        """
        try:
            self._sent.begin(message)
        except Exception as error:  # noqa: BLE001 - whatever the user's SDK raises
            self._failed(error)

    def sending_many(self, messages: Sequence[Outgoing]) -> None:
        """Begin one span for messages of one topic, and write its context into all headers."""
        try:
            self._sent.begin_many(messages)
        except Exception as error:  # noqa: BLE001 - whatever the user's SDK raises
            self._failed(error)

    def forwarding(self, message: Outgoing) -> None:
        """Begin the span of a message that keeps the context in its headers, as dead letters do."""
        try:
            self._sent.begin_forwarded(message)
        except Exception as error:  # noqa: BLE001 - whatever the user's SDK raises
            self._failed(error)

    def sent(self, messages: Sequence[Sent]) -> None:
        """End the spans of messages that have an outcome."""
        for message in messages:
            try:
                self._sent.end(message)
            except Exception as error:  # noqa: BLE001 - whatever the user's SDK raises
                self._failed(error)

    def refused(self, messages: Sequence[object], why: BaseException) -> None:
        """End the spans of messages that the producer has not accepted."""
        for message in messages:
            try:
                self._sent.refuse(message, why)
            except Exception as error:  # noqa: BLE001 - whatever the user's SDK raises
                self._failed(error)

    def processing(self, held: AnyMessage | AnyBatch, *, handler: str | None = None) -> Processing:
        """Return a context manager with the span in which a message or a batch is handled.

        In the block, the span is the current one, so spans and messages of the block are its
        children. The span ends with the block, and has the error that leaves the block. After a
        cancellation, the span has no error, and the attribute `kafka_nursery.cancelled`.

        Use the context manager in the body of `async for message in topic`. The app itself uses it
        for each attempt of a handler. Not a checkpoint.

        Args:
            held: the message or the batch.
            handler: the name of the handler. None: the block is your own. Then the span of a
                message without a context is below the current span, and the span of a message with
                a context has a link to the current span.

        Raises:
            TypeError: `held` is neither a message nor a batch.
        """
        if handler is None:
            instance("held", held, (Message, Batch), "a Message or a Batch")
            base = contexts.get_current()
        else:
            base = Context()
        try:
            span, context = self._handled.begin(held, handler, base)
        except Exception as error:  # noqa: BLE001 - whatever the user's SDK raises
            self._failed(error)
            span, context = INVALID_SPAN, base
        return Processing(span, context, self._failed)

    def _failed(self, error: Exception) -> None:
        """Log an error of the SDK or the propagator, which must not stop a message."""
        self._log.often(
            logging.WARNING,
            "tracing_failed",
            "OpenTelemetry has raised an error, so a span or a context is missing. The message is"
            " not affected. Check the provider, its processors and the propagator: %s",
            error,
            error=error,
        )
