"""The links from a span to the spans that have sent its messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext

from transport.drivers.base import Outgoing
from transport.monitoring.spans.trace_context import TraceHeaders
from transport.types import Record

NO_LINKS: Sequence[Link] = ()
# The most messages of a batch whose headers are read for links. A span of the SDK keeps as many
# links by default.
_MOST_LINKS = 128


def link_to(other: SpanContext | None) -> Sequence[Link]:
    """Return a link to a span, or nothing if there is no such span."""
    return NO_LINKS if other is None or not other.is_valid else (Link(other),)


def links_to_senders(
    headers_of_traces: TraceHeaders, messages: Iterable[Outgoing | Record]
) -> Sequence[Link]:
    """Return links to the spans that have sent these messages, one for each span."""
    links: dict[tuple[int, int], Link] = {}
    root, before, left = Context(), None, _MOST_LINKS
    for message in messages:
        headers = message.headers
        if not headers or headers == before:  # those of one `send_many` have the same
            continue
        before = headers
        _, sender = headers_of_traces.read(headers, root)
        if sender is not None:
            links.setdefault((sender.trace_id, sender.span_id), Link(sender))
        left -= 1
        if not left:
            break
    return list(links.values())
