"""Errors of the SDK and of the propagator stop no message and no handler."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from trio.testing import MockClock

from tests.apps import A_WHILE, app_on, broker_with, take
from tests.monitoring.tracing.recording import DEAD, ORDERS, UPSTREAM, Balance, Recorder
from transport.errors import MessageTooLarge
from transport.monitoring.tracing import Tracing


class RaisingProcessor(SpanProcessor):
    """A processor that raises an error when a span starts, or when it ends."""

    def __init__(self, at: str) -> None:
        self._at = at

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        if self._at == "start":
            raise LookupError("a bug at the start")

    def on_end(self, span: ReadableSpan) -> None:
        if self._at == "end":
            raise LookupError("a bug at the end")


class RaisingPropagator(TraceContextTextMapPropagator):
    """A propagator that raises an error when it reads or writes headers."""

    def __init__(self, at: str) -> None:
        self._at = at

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Context:
        if self._at == "extract":
            raise LookupError("a bug in extract")
        return super().extract(carrier, context)

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        if self._at == "inject":
            raise LookupError("a bug in inject")
        super().inject(carrier, context)


async def send_five(orders: Any) -> None:
    """Send a message with each call, with and without another context in its headers."""
    old = {"traceparent": UPSTREAM}
    await orders.send_and_wait(value=b"1", source=None)
    await orders.send_and_wait(value=b"2", headers=old, source=None)
    many: Any = [(None, b"3"), {"key": None, "value": b"4", "headers": old}]
    await (await orders.send_many(many, source=None))
    await orders.send_soon(value=b"5", source=None)


@pytest.mark.parametrize("kind", ["message", "batch", "transaction"])
@pytest.mark.parametrize("at", ["start", "end", "extract", "inject"])
async def test_an_error_of_the_sdk_or_the_propagator_stops_no_message(
    at: str, kind: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "transport.tracing")
    provider, values = TracerProvider(), []
    provider.add_span_processor(balance := Balance())
    provider.add_span_processor(RaisingProcessor(at))
    tracing = Tracing(provider, propagator=RaisingPropagator(at))
    settings: Any = {"transactions": "member"} if kind == "transaction" else {}
    async with app_on(broker_with(ORDERS, DEAD), tracing=tracing, **settings) as app:
        orders, dead = app.topic("orders"), app.topic("dead")

        async def note(held: Any) -> None:
            values.extend(held.values() if kind == "batch" else [held.value])
            if values[-1] == b"last":
                raise ValueError

        add: Any = app.batch_handler if kind == "batch" else app.handler
        add(orders, note, dead_letters=dead)
        [handler] = app.handlers
        await send_five(orders)
        with pytest.raises(MessageTooLarge):
            await orders.send(value=b"x" * 10_000_000, source=None)
        await trio.sleep(A_WHILE)
        assert values == [b"1", b"2", b"3", b"4", b"5"]
        assert handler.counts.failed == 0
        await orders.send_and_wait(value=b"last", source=None)
        await trio.sleep(A_WHILE)
        assert handler.counts.dead_letters == 1
        assert tracing.unfinished == 0
    assert at == "start" or balance.open == set()
    assert caplog.records[0].event_name == "tracing_failed"  # type: ignore[attr-defined]
    assert "a bug" in caplog.records[0].getMessage()


async def test_an_error_whose_text_cannot_be_made_is_still_the_error_of_the_handler(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    class Textless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, tracing=recorder.tracing()) as app:
        [message] = await take(aiter(app.topic("orders")), 1)
        with pytest.raises(Textless), app.tracing.processing(message):
            raise Textless
    assert recorder.only("process orders").status.status_code is StatusCode.ERROR
