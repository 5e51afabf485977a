"""`Tracing`: spans of OpenTelemetry for sent and handled messages.

It needs the extra `kafka-nursery[opentelemetry]`. Look here for the names and attributes of spans,
and for how their context travels in the headers. They follow the semantic conventions for messaging
and for Kafka of OpenTelemetry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import urlsplit

from transport.app import App
from transport.arguments import flag, instance, or_none
from transport.drivers.base import Outgoing
from transport.excerpt import excerpt_of_error
from transport.leaves import leaves
from transport.log import Log
from transport.message import AnyBatch, AnyMessage, Batch, Message
from transport.tracing import Sent
from transport.types import TP, Record, RecordMetadata

try:
    from opentelemetry import context as contexts
    from opentelemetry import propagate
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import (
        INVALID_SPAN,
        Link,
        Span,
        SpanContext,
        SpanKind,
        StatusCode,
        TracerProvider,
        get_current_span,
        get_tracer,
        set_span_in_context,
    )

    from transport.monitoring.trace_context import TraceHeaders
except ImportError as error:
    raise ImportError(
        "Tracing needs the extra opentelemetry: pip install 'kafka-nursery[opentelemetry]'"
    ) from error

__all__ = ["Tracing"]

# The most messages of a batch whose headers are read for links. A span of the SDK keeps as many
# links by default.
_MOST_LINKS = 128
# The most bytes of a key that a span shows.
_MOST_KEY = 128
_INSTRUMENTATION = "kafka-nursery"
# The version of the semantic conventions that the names here come from.
_SCHEMA = "https://opentelemetry.io/schemas/1.37.0"
# Attributes of one message, and of several.
_PARTITION = "messaging.destination.partition.id"
_OFFSET = "messaging.kafka.offset"
_KEY = "messaging.kafka.message.key"
_TOMBSTONE = "messaging.kafka.message.tombstone"
_SIZE = "messaging.message.body.size"
_COUNT = "messaging.batch.message_count"
# Attributes of this library.
_HANDLER = "kafka_nursery.handler"
_CANCELLED = "kafka_nursery.cancelled"
_FAILED = "kafka_nursery.failed_messages"

_NO_LINKS: Sequence[Link] = ()

Attributes = dict[str, str | int | bool]


class Tracing:
    """Spans of OpenTelemetry for the messages that an app sends and handles.

    Each app needs a `Tracing` of its own. The SDK belongs to your program: without one, or with
    tracing off there, spans are not recorded, and the context still travels in the headers.

    An error of the provider, of a sampler, of a processor or of the propagator has no effect on
    messages: a log line reports it, and spans or contexts are missing.

    Args:
        tracer_provider: makes the tracer. None: the global provider.
        propagator: writes a context into headers, and reads it. None: the global propagator, by
            default for `traceparent`, `tracestate` and `baggage` of the W3C.
        new_trace: False: the span of a handled message is a child of the producer's span, in the
            same trace, and has a link to it. True: it begins a trace of its own, and only the link
            leads to the producer's span.
        keys: whether spans have the keys of messages that are short texts.

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
        self._tracer = get_tracer(_INSTRUMENTATION, None, tracer_provider, _SCHEMA)
        self._headers = TraceHeaders(propagator or propagate.get_global_textmap())
        self._new_trace = new_trace
        self._keys = keys
        self._app: App | None = None
        self._log = Log("transport.tracing", "")
        self._of_app: Attributes = {}
        self._group: Attributes = {}
        # The spans of messages without an outcome. Without `Tracing`, a message needs no field.
        self._sends: dict[object, Span | ManySends] = {}
        # The name and the attributes of spans: by topic, and by partition and handler.
        self._of_topic: dict[str, tuple[str, Attributes]] = {}
        self._of_place: dict[tuple[TP, str | None], tuple[str, Attributes]] = {}

    @property
    def unfinished(self) -> int:
        """The number of sent messages whose spans have not ended."""
        return len(self._sends)

    def open(self, app: App) -> None:
        """Note the app whose messages the spans are about. The app calls it.

        Raises ValueError: another app has this object.
        """
        if self._app not in (None, app):
            raise ValueError(
                f"this Tracing belongs to the app {self._app.id!r}: make another one for the app"
                f" {app.id!r}"
            )
        self._app = app
        self._of_topic.clear()
        self._of_place.clear()
        self._log = Log("transport.tracing", app.id)
        self._of_app = {
            "messaging.system": "kafka",
            "messaging.client.id": app.settings.client.client_id,
            **_server(app.transport.url),
        }
        self._group = {"messaging.consumer.group.name": app.id}

    # Sending

    def sending(self, message: Outgoing) -> None:
        """Begin the span of a message, and write its context into the headers."""
        if message in self._sends:  # it has waited for room
            return
        try:
            links, headers = _NO_LINKS, message.headers
            if headers:
                _, before = self._headers.read(headers, Context())
                links = _links_to(before)
            span = self._begin_send(message, None, links, SpanKind.PRODUCER)
            message.headers = self._headers.with_context_of(span, headers)
        except Exception as error:  # noqa: BLE001 - whatever the user's SDK raises
            self._failed(error)

    def sending_many(self, messages: Sequence[Outgoing]) -> None:
        """Begin one span for messages of one topic, and write its context into all headers."""
        if not messages or messages[0] in self._sends:  # they have waited for room
            return
        try:
            name, attributes = self._sending_of(messages[0].topic)
            links = self._links(messages)
            span = self._tracer.start_span(name, None, SpanKind.PRODUCER, attributes, links)
            # First of all, so that the span ends even if the propagator raises an error.
            if span.is_recording():
                self._sends.update(dict.fromkeys(messages, ManySends(span, len(messages))))
                span.set_attribute(_COUNT, len(messages))
            else:  # its end has no effect, so one message is enough to know that it began
                self._sends[messages[0]] = span
            alone = self._headers.with_context_of(span, ())
            for message in messages:  # once for each message
                if message.headers:
                    message.headers = self._headers.with_context_of(span, message.headers)
                else:
                    message.headers = alone
        except Exception as error:  # noqa: BLE001 - whatever the user's SDK raises
            self._failed(error)

    def forwarding(self, message: Outgoing) -> None:
        """Begin the span of a message that keeps the context in its headers.

        The span is in the trace of that context, unless `new_trace` is set.
        """
        try:
            root = Context()
            context, before = self._headers.read(message.headers, root)
            parent = root if self._new_trace else context
            # By the conventions, only a span whose context is in the headers is a producer's.
            kind = SpanKind.PRODUCER if before is None else SpanKind.CLIENT
            span = self._begin_send(message, parent, _links_to(before), kind)
            if before is None:
                message.headers = self._headers.with_context_of(span, message.headers)
        except Exception as error:  # noqa: BLE001 - whatever the user's SDK raises
            self._failed(error)

    def _begin_send(
        self, message: Outgoing, parent: Context | None, links: Sequence[Link], kind: SpanKind
    ) -> Span:
        name, attributes = self._sending_of(message.topic)
        span = self._tracer.start_span(name, parent, kind, attributes, links)
        self._sends[message] = span
        if span.is_recording():
            span.set_attributes(self._of_content(message.key, message.value))
        return span

    def _sending_of(self, topic: str) -> tuple[str, Attributes]:
        """Return the name and the attributes of the spans of messages that are sent to a topic."""
        if (known := self._of_topic.get(topic)) is None:
            known = self._of_topic[topic] = f"send {topic}", self._attributes("send", topic)
        return known

    def sent(self, messages: Sequence[Sent]) -> None:
        """End the spans of messages that have an outcome."""
        for message in messages:
            if (span := self._sends.pop(message, None)) is None:
                continue
            try:
                if isinstance(span, ManySends):
                    span.ended(message)
                elif not span.is_recording():
                    span.end()
                elif isinstance(outcome := message.outcome, RecordMetadata):
                    span.set_attributes(
                        {_PARTITION: str(outcome.partition), _OFFSET: outcome.offset}
                    )
                    span.end()
                else:
                    _end(span, outcome)
            except Exception as error:  # noqa: BLE001 - whatever the user's SDK raises
                self._failed(error)

    def refused(self, messages: Sequence[object], why: BaseException) -> None:
        """End the spans of messages that the producer has not accepted."""
        for message in messages:
            if (span := self._sends.pop(message, None)) is None:
                continue
            try:
                if isinstance(span, ManySends):
                    span.failed(why)
                else:
                    _end(span, why)
            except Exception as error:  # noqa: BLE001 - whatever the user's SDK raises
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Note an error of the SDK or the propagator, which must not stop a message."""
        self._log.often(
            logging.WARNING,
            "tracing_failed",
            "OpenTelemetry has raised an error, so a span or a context is missing. The message is"
            " not affected. Check the provider, its processors and the propagator: %s",
            error,
            error=error,
        )

    # Handling

    def processing(self, held: AnyMessage | AnyBatch, *, handler: str | None = None) -> Processing:
        """Return a context manager with the span in which a message or a batch is handled.

        In its block, the span is the current one, so spans and messages of the block are its
        children. It ends with the block. An error that leaves the block is the span's, but a
        cancellation is no error. Use it in the body of `async for message in topic`. The app uses
        it for each attempt of a handler. Not a checkpoint.

        Args:
            handler: the name of the handler. None: the block is your own, and a message without a
                context has a span below the current one. With a context, the span has a link to the
                current one.
        """
        if handler is None:
            instance("held", held, (Message, Batch), "a Message or a Batch")
            base = contexts.get_current()
        else:
            base = Context()
        try:
            span, context = self._begin_process(held, handler, base)
        except Exception as error:  # noqa: BLE001 - whatever the user's SDK raises
            self._failed(error)
            return Processing(INVALID_SPAN, base, self._failed)
        return Processing(span, set_span_in_context(span, context), self._failed)

    def _begin_process(
        self, held: AnyMessage | AnyBatch, handler: str | None, base: Context
    ) -> tuple[Span, Context]:
        """Begin the span of a message or a batch; return it and the context that it is in."""
        place = held.tp, handler
        if (known := self._of_place.get(place)) is None:
            known = self._of_place[place] = self._processing_of(*place)
        name, attributes = known
        context, links = base, _NO_LINKS
        if not isinstance(held, Message):
            links = self._links(held.records)
        elif headers := held.record.headers:
            context, sender = self._headers.read(headers, base)
            links = _links_to(sender)
            if sender is not None and self._new_trace:
                context = set_span_in_context(get_current_span(base), context)
            elif sender is not None and base:  # there may be a span around a block of the user
                links = (*links, *_links_to(get_current_span(base).get_span_context()))
        span = self._tracer.start_span(name, context, SpanKind.CONSUMER, attributes, links)
        if span.is_recording():
            span.set_attributes(self._of_held(held))
        return span, context

    def _processing_of(self, tp: TP, handler: str | None) -> tuple[str, Attributes]:
        """Return the name and the attributes of the spans of a partition and a handler."""
        attributes = {
            **self._attributes("process", tp.topic),
            **self._group,
            _PARTITION: str(tp.partition),
        }
        if handler is not None:
            attributes[_HANDLER] = handler
        return f"process {tp.topic}", attributes

    def _of_held(self, held: AnyMessage | AnyBatch) -> Attributes:
        if not isinstance(held, Message):
            return {_COUNT: len(held)}
        record = held.record
        about = self._of_content(record.key, record.value)
        about[_OFFSET] = record.offset
        return about

    def _links(self, records: Iterable[Outgoing | Record]) -> Sequence[Link]:
        """Return links to the spans that have sent these messages, one for each span."""
        links: dict[tuple[int, int], Link] = {}
        root, before, left = Context(), None, _MOST_LINKS
        for record in records:
            headers = record.headers
            if not headers or headers == before:  # those of one `send_many` have the same
                continue
            before = headers
            _, sender = self._headers.read(headers, root)
            if sender is not None:
                links.setdefault((sender.trace_id, sender.span_id), Link(sender))
            left -= 1
            if not left:
                break
        return list(links.values())

    # Attributes

    def _attributes(self, operation: str, topic: str) -> Attributes:
        """Return what all spans of an operation and a topic have in common."""
        return {
            **self._of_app,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": topic,
        }

    def _of_content(self, key: bytes | None, value: bytes | None) -> Attributes:
        """Return the attributes of a key and a value, both encoded."""
        about: Attributes = {_TOMBSTONE: True} if value is None else {_SIZE: len(value)}
        if self._keys and key is not None and len(key) <= _MOST_KEY:
            text = key.decode("utf-8", "replace")
            if text.isprintable() and "\ufffd" not in text:
                about[_KEY] = text
        return about


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
            self._span.set_attribute(_FAILED, self._failed)
        _end(self._span, self._first)


class Processing:
    """The block in which a message or a batch is handled, with its span as the current one."""

    __slots__ = ("_context", "_failed", "_token", "span")

    def __init__(self, span: Span, context: Context, failed: Callable[[Exception], None]) -> None:
        self.span = span
        self._context = context
        self._failed = failed  # called with an error of the SDK

    def __enter__(self) -> Span:
        self._token = contexts.attach(self._context)
        return self.span

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        contexts.detach(self._token)
        try:
            _end(self.span, error)
        except Exception as wrong:  # noqa: BLE001 - whatever the user's SDK raises
            self._failed(wrong)


def _links_to(other: SpanContext | None) -> Sequence[Link]:
    return _NO_LINKS if other is None or not other.is_valid else (Link(other),)


def _end(span: Span, error: BaseException | None) -> None:
    """End a span, with an error if there is one."""
    try:
        if error is not None:
            _fail(span, error)
    finally:
        span.end()


def _fail(span: Span, error: BaseException) -> None:
    """Record an error in a span. A cancellation is no error."""
    if not span.is_recording():
        return
    if not any(isinstance(each, Exception) for each in leaves(error)):
        span.set_attribute(_CANCELLED, True)
        return
    kind = type(error)
    is_builtin = kind.__module__ == "builtins"
    name = kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}"
    span.set_attribute("error.type", name)
    span.set_status(StatusCode.ERROR, excerpt_of_error(error))
    span.record_exception(error)


def _server(urls: Iterable[str]) -> Attributes:
    """Return the address of the broker, if the URLs name only one."""
    hosts = [urlsplit(url[:]).netloc.rpartition("@")[2] for url in urls]
    if len(hosts) != 1 or not hosts[0] or "," in hosts[0]:
        return {}
    place = urlsplit(f"//{hosts[0]}")
    about: Attributes = {"server.address": place.hostname or ""}
    if place.port is not None:
        about["server.port"] = place.port
    return about
