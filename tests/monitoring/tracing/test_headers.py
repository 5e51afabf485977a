"""The headers in which a context travels: how they are read, written and replaced."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from trio.testing import MockClock

from tests.apps import app_on, broker_with
from tests.monitoring.tracing.recording import (
    BILLS,
    ORDERS,
    UPSTREAM,
    UPSTREAM_SPAN,
    UPSTREAM_TRACE,
    Recorder,
    handled,
    headers_at,
    ignore,
    linked_to,
    parent_of,
    trace_of,
)
from transport import Message, MessageTooLarge
from transport.monitoring.spans.trace_context import TraceHeaders
from transport.monitoring.tracing import Tracing


async def test_the_headers_of_the_user_stay_and_an_old_context_is_replaced_and_linked(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    mine = [
        ("a", b"1"),
        ("traceparent", UPSTREAM),
        ("tracestate", b"vendor=1"),
        ("baggage", b"mine=1"),
        ("a", None),
    ]
    async with app_on(broker, tracing=recorder.tracing()) as app:
        await app.topic("orders").send_and_wait(value=b"value", headers=mine)
    span = recorder.only("send orders")
    *others, (name, _) = headers_at(broker, ORDERS)
    assert others == [("a", b"1"), ("baggage", b"mine=1"), ("a", None)]
    assert name == "traceparent"
    assert linked_to(span) == [UPSTREAM_SPAN]
    assert trace_of(span) != UPSTREAM_TRACE
    assert mine[1] == ("traceparent", UPSTREAM)


@pytest.mark.parametrize("new_trace", [False, True])
async def test_baggage_travels_with_the_message(
    new_trace: bool, recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker, seen = broker_with(ORDERS), []
    async with app_on(broker, tracing=recorder.tracing(new_trace=new_trace)) as app:

        @app.handler(app.topic("orders"))
        async def note(message: Message[bytes, bytes]) -> None:
            seen.append(baggage.get_baggage("customer"))

        token = attach(baggage.set_baggage("customer", "7"))
        await app.topic("orders").send(value=b"value")
        detach(token)
        await handled(app)
    assert seen == ["7"]


async def test_a_propagator_without_baggage_neither_reads_nor_writes_it(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker, seen = broker_with(ORDERS, BILLS), []
    headers = [("traceparent", UPSTREAM), ("baggage", b"customer=7")]
    broker.log(ORDERS).append(None, b"value", headers, broker.clock())
    tracing = recorder.tracing(propagator=TraceContextTextMapPropagator())
    async with app_on(broker, tracing=tracing) as app:

        @app.handler(app.topic("orders"))
        async def bill(message: Message[bytes, bytes]) -> None:
            seen.append(baggage.get_baggage("customer"))
            attach(baggage.set_baggage("mine", "1"))
            await app.topic("bills").send(value=b"a bill")

        await handled(app)
    assert seen == [None]
    assert linked_to(recorder.only("process orders")) == [UPSTREAM_SPAN]
    assert [name for name, _ in headers_at(broker, BILLS)] == ["traceparent"]


async def test_the_context_counts_for_the_size_of_a_message(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    value = b"x" * 900
    async with app_on(broker_with(ORDERS), max_request_size=1000) as plain:
        await plain.topic("orders").send_and_wait(value=value)
    tracing = recorder.tracing()
    async with app_on(broker_with(ORDERS), tracing=tracing, max_request_size=1000) as traced:
        with pytest.raises(MessageTooLarge):
            await traced.topic("orders").send(value=value)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", None)],
        [("traceparent", b"")],
        [("traceparent", b"\xff\xfe")],
        [("traceparent", b"00-0-0-01")],
        [("traceparent", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01")],
        [("traceparent", b"x" * 10_000)],
        [("tracestate", b"vendor=1")],
    ],
    ids=str,
)
@pytest.mark.parametrize("is_batch", [False, True])
async def test_without_a_valid_context_the_span_begins_a_trace(
    headers: Any, is_batch: bool, recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    broker.log(ORDERS).append(None, b"value", headers, broker.clock())
    with recorder.span("main"):  # of the task that opens the app
        async with app_on(broker, tracing=recorder.tracing()) as app:
            (app.batch_handler if is_batch else app.handler)(app.topic("orders"), ignore)
            await handled(app)
    process = recorder.only("process orders")
    assert parent_of(process) is None
    assert linked_to(process) == []


async def test_of_several_contexts_in_the_headers_the_last_counts(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    first = UPSTREAM.replace(b"b7ad6b7169203331", b"1111111111111111")
    headers = [("traceparent", first), ("traceparent", UPSTREAM)]
    broker.log(ORDERS).append(None, b"value", headers, broker.clock())
    async with app_on(broker, tracing=recorder.tracing()) as app:
        app.handler(app.topic("orders"), ignore)
        await handled(app)
    assert linked_to(recorder.only("process orders")) == [UPSTREAM_SPAN]


async def test_an_unsampled_context_still_travels(autojump_clock: MockClock) -> None:
    recorder, broker = Recorder(sampler=ALWAYS_OFF), broker_with(ORDERS)
    current = []
    async with app_on(broker, tracing=recorder.tracing()) as app:

        @app.handler(app.topic("orders"))
        async def note(message: Message[bytes, bytes]) -> None:
            current.append(trace.get_current_span().get_span_context())

        await app.topic("orders").send(value=b"value")
        await handled(app)
        assert app.tracing.unfinished == 0
    [(_, value)] = headers_at(broker, ORDERS)
    assert value is not None
    assert not int(value[-2:], 16) & 1
    assert value.split(b"-")[1] == b"%032x" % current[0].trace_id
    assert recorder.spans() == []


async def test_without_an_sdk_a_context_is_passed_on(autojump_clock: MockClock) -> None:
    broker = broker_with(ORDERS, BILLS)
    broker.log(ORDERS).append(None, b"value", [("traceparent", UPSTREAM)], broker.clock())
    tracing = Tracing(trace.NoOpTracerProvider())
    async with app_on(broker, tracing=tracing) as app:

        @app.handler(app.topic("orders"))
        async def bill(message: Message[bytes, bytes]) -> None:
            await app.topic("bills").send(value=b"a bill", headers={"a": b"1"})

        await handled(app)
        await app.topic("bills").send_and_wait(value=b"outside")
    assert headers_at(broker, BILLS) == [("a", b"1"), ("traceparent", UPSTREAM)]
    assert headers_at(broker, BILLS, 1) == []


def test_the_default_propagator_is_recognized() -> None:
    assert TraceHeaders(propagate.get_global_textmap()).is_standard
    assert not TraceHeaders(TraceContextTextMapPropagator()).is_standard


@pytest.mark.parametrize(
    "headers",
    [
        (("traceparent", UPSTREAM),),
        (("traceparent", UPSTREAM[:-2] + b"03"),),
        (("traceparent", UPSTREAM[:-2] + b"00"), ("a", b"1")),
        (("traceparent", b"01" + UPSTREAM[2:] + b"-more"),),
        (("traceparent", b"ff" + UPSTREAM[2:]),),
        (("traceparent", UPSTREAM + b"-more"),),
        (("traceparent", UPSTREAM.upper()),),
        (("traceparent", b" " + UPSTREAM),),
        (("traceparent", UPSTREAM), ("tracestate", b"vendor=1")),
        (("traceparent", UPSTREAM), ("baggage", b"customer=7")),
    ],
    ids=str,
)
def test_a_plain_header_is_read_and_written_as_the_propagator_does(headers: Any) -> None:
    plain, other = (
        TraceHeaders(propagate.get_global_textmap()),
        TraceHeaders(propagate.get_global_textmap()),
    )
    other.is_standard = False
    (context, sender), (same_context, same_sender) = (
        each.read(headers, Context()) for each in (plain, other)
    )
    assert sender == same_sender
    assert baggage.get_all(context) == baggage.get_all(same_context)
    span = trace.get_current_span(context)
    assert span.get_span_context() == trace.get_current_span(same_context).get_span_context()
    assert list(plain.with_context_of(span, headers)) == list(other.with_context_of(span, headers))
