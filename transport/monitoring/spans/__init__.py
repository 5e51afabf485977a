"""The spans of messages, as objects of OpenTelemetry. Only `Tracing` imports this package.

Start reading at `sent.py` and `handled.py`, which decide when spans begin, and what their parents
and links are. `attributes.py` has the names and attributes, `links.py` makes the links, `ending.py`
ends a span with its error, and `trace_context.py` reads and writes the headers. All of them need
the extra `opentelemetry`, and raise what the SDK raises: `Tracing` logs that.
Imports: the app, messages, and values.
"""
