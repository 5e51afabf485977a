"""The end of a span, with the error of its operation."""

from __future__ import annotations

from opentelemetry.trace import Span, StatusCode

from transport.excerpt import excerpt_of_error
from transport.leaves import leaves
from transport.monitoring.spans.attributes import CANCELLED


def end(span: Span, error: BaseException | None) -> None:
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
        span.set_attribute(CANCELLED, True)
        return
    kind = type(error)
    is_builtin = kind.__module__ == "builtins"
    name = kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}"
    span.set_attribute("error.type", name)
    span.set_status(StatusCode.ERROR, excerpt_of_error(error))
    span.record_exception(error)
