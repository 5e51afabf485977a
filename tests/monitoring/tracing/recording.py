"""A recorder of spans, and what a test asks about a span."""

from __future__ import annotations

from typing import Any

import trio
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.apps import A_WHILE
from transport import TP, App, MemoryBroker
from transport.monitoring.tracing import Tracing

ORDERS, BILLS, DEAD = TP("orders", 0), TP("bills", 0), TP("dead", 0)
UPSTREAM = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UPSTREAM_TRACE, UPSTREAM_SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


class Balance(SpanProcessor):
    """A processor that knows the spans that have begun and not ended."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.begun = 0

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        self.begun += 1
        self.open.add(id_of(span))

    def on_end(self, span: ReadableSpan) -> None:
        self.open.remove(id_of(span))  # raises at a second end


class Recorder:
    """A provider of the SDK that keeps each ended span, and knows those that have not ended."""

    def __init__(self, **options: Any) -> None:
        self.provider = TracerProvider(**options)
        self.balance = Balance()
        self.provider.add_span_processor(self.balance)
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def tracing(self, **options: Any) -> Tracing:
        return Tracing(self.provider, **options)

    def span(self, name: str) -> Any:
        return self.provider.get_tracer("test").start_as_current_span(name)

    def spans(self, name: str = "") -> list[Any]:
        """Return the ended spans with this name, in the order of their ends; all: no name."""
        return [each for each in self._exporter.get_finished_spans() if name in ("", each.name)]

    def only(self, name: str) -> Any:
        [span] = self.spans(name)
        return span


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.trace_id


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def linked_to(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def headers_at(broker: MemoryBroker, tp: TP, offset: int = 0) -> list[tuple[str, bytes | None]]:
    """Return the headers of a record in the log."""
    return list(broker.log(tp).committed_records()[offset].headers)


async def handled(app: App, count: int = 1) -> None:
    """Wait until the only handler has handled so many messages or batches."""
    [handler] = app.handlers
    await trio.sleep(A_WHILE)
    assert handler.counts.handled == count


async def ignore(held: object) -> None:
    """Do nothing: a handler."""
