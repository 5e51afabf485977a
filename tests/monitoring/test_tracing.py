"""The spans of sent and handled messages, as the SDK of OpenTelemetry exports them."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from trio.testing import MockClock

from tests.apps import A_WHILE, app_on, broker_with, committed, take, write
from tests.effort import EVERY
from tests.producing.held_back import HeldBack, app_with
from transport import TP, App, DeliveryFailed, HandlerTimeout, MemoryBroker, Message, Retry
from transport.errors import AppClosed, MessageTooLarge, UnknownTopic
from transport.message import Batch
from transport.monitoring.spans.attributes import SpanAttributes
from transport.monitoring.spans.trace_context import TraceHeaders
from transport.monitoring.tracing import Tracing
from transport.testing import Target, cancel_everywhere

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


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Return a recorder, and check that each span has ended with the test."""
    recorder = Recorder()
    yield recorder
    assert recorder.balance.open == set()


@pytest.fixture(autouse=True)
def own_context() -> Iterator[None]:
    """Check that no test leaves a span behind as the current one."""
    yield
    assert not trace.get_current_span().get_span_context().is_valid


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


# Sending


async def test_a_sent_message_has_a_span_with_the_attributes_of_the_conventions(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker, tracing=recorder.tracing(), client_id="me") as app:
        with recorder.span("main") as main:
            await app.topic("orders").send_and_wait(key=b"k", value=b"value")
        assert app.tracing.unfinished == 0
    span = recorder.only("send orders")
    assert span.kind is SpanKind.PRODUCER
    assert span.status.status_code is StatusCode.UNSET
    assert parent_of(span) == main.get_span_context().span_id
    assert dict(span.attributes) == {
        "messaging.system": "kafka",
        "messaging.client.id": "me",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 0,
        "messaging.message.body.size": 5,
    }
    [(name, value)] = headers_at(broker, ORDERS)
    assert name == "traceparent"
    assert value == b"00-%032x-%016x-%02x" % (
        trace_of(span),
        id_of(span),
        span.context.trace_flags,
    )


async def test_each_call_that_sends_makes_one_span_below_the_current_one(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker, tracing=recorder.tracing()) as app:
        orders, producer = app.topic("orders"), app.producer
        with recorder.span("main") as main:
            await orders.send(value=b"1")
            await orders.send_and_wait(value=b"2")
            await (await orders.send_many([(None, b"3"), (None, b"4")]))
            await orders.send_soon(value=b"5")
            await producer.send("orders", None, b"6")
            await producer.send_and_wait("orders", None, b"7")
            in_thread = producer.threaded_producer.send_and_wait
            await trio.to_thread.run_sync(in_thread, "orders", None, b"8")
            soon = await trio.to_thread.run_sync(lambda: orders.send_soon(value=b"9"))
            await soon
        await producer.flush()
        assert app.tracing.unfinished == 0
    spans = recorder.spans("send orders")
    assert len(spans) == 8
    assert {parent_of(span) for span in spans} == {main.get_span_context().span_id}
    assert {headers_at(broker, ORDERS, offset)[0][0] for offset in range(9)} == {"traceparent"}


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


async def test_a_failed_delivery_is_the_error_of_its_span(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    client = HeldBack()
    async with app_with(client, tracing=recorder.tracing()) as app:
        delivery = await app.topic("orders").send(value=b"value")
        assert app.tracing.unfinished == 1
        await trio.testing.wait_all_tasks_blocked()
        client.end(error=DeliveryFailed("the broker is on fire"))
        with pytest.raises(DeliveryFailed):
            await delivery
        assert app.tracing.unfinished == 0
    span = recorder.only("send orders")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "transport.errors.DeliveryFailed"
    [event] = span.events
    assert event.attributes["exception.message"] == "the broker is on fire"


async def test_a_message_that_is_not_accepted_ends_its_span_with_the_error(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    async def refuse(topic: str) -> int:
        raise UnknownTopic(topic)

    async with app_on(
        broker_with(ORDERS), tracing=recorder.tracing(), max_request_size=1000
    ) as app:
        orders = app.topic("orders")
        with pytest.raises(MessageTooLarge):
            await orders.send(value=b"x" * 1000)
        with pytest.raises(MessageTooLarge):
            await orders.send_many([(None, b"x"), (None, b"x" * 1000)])
        with pytest.raises(ValueError, match="no partition 5"):
            await orders.send(value=b"x", partition=5)
        app.producer.ask_partitions = refuse  # type: ignore[method-assign]
        with pytest.raises(UnknownTopic):
            await app.topic("nowhere").send(value=b"x")
        assert app.tracing.unfinished == 0
    with pytest.raises(AppClosed):
        await orders.send(value=b"x")
    assert app.tracing.unfinished == 0
    kinds = [span.attributes["error.type"] for span in recorder.spans()]
    assert kinds == [
        "transport.errors.MessageTooLarge",
        "transport.errors.MessageTooLarge",
        "ValueError",
        "transport.errors.UnknownTopic",
        "transport.errors.AppClosed",
    ]


async def test_a_queued_message_that_is_refused_has_a_span_with_the_error(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    async def refuse(topic: str) -> int:
        raise UnknownTopic(topic)

    async with app_on(broker_with(ORDERS), tracing=recorder.tracing()) as app:
        app.producer.ask_partitions = refuse  # type: ignore[method-assign]
        with recorder.span("main") as main:
            future = app.topic("nowhere").send_soon(value=b"x")
        with pytest.raises(UnknownTopic):
            await future
        assert app.tracing.unfinished == 0
    span = recorder.only("send nowhere")
    assert span.attributes["error.type"] == "transport.errors.UnknownTopic"
    assert parent_of(span) == main.get_span_context().span_id


async def test_a_queued_message_that_the_producer_refuses_has_only_one_span(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    async with app_on(
        broker_with(ORDERS), tracing=recorder.tracing(), max_request_size=1000
    ) as app:
        with pytest.raises(MessageTooLarge):
            await app.topic("orders").send_soon(value=b"x" * 1000)
        assert app.tracing.unfinished == 0
    error = recorder.only("send orders").attributes["error.type"]
    assert error == "transport.errors.MessageTooLarge"


@pytest.mark.parametrize("many", [False, True])
async def test_a_sender_that_is_cancelled_while_it_waits_for_room_ends_its_span_without_an_error(
    many: bool, recorder: Recorder, autojump_clock: MockClock
) -> None:
    client = HeldBack()
    async with app_with(client, tracing=recorder.tracing(), send_buffer_messages=2) as app:
        orders = app.topic("orders")
        await orders.send(value=b"1")
        with trio.move_on_after(1):
            if many:
                await orders.send_many([(None, b"2"), (None, b"3"), (None, b"4")])
            else:
                await orders.send(value=b"2")
                await orders.send(value=b"3")
        assert app.tracing.unfinished == 2
        assert len(recorder.spans("send orders")) == (0 if many else 1)
        client.end(2)
        assert app.tracing.unfinished == 0
    cancelled = [
        span
        for span in recorder.spans("send orders")
        if "kafka_nursery.cancelled" in span.attributes
    ]
    assert len(cancelled) == 1
    assert cancelled[0].status.status_code is StatusCode.UNSET
    assert cancelled[0].attributes.get("kafka_nursery.failed_messages") == (2 if many else None)


async def test_send_many_makes_one_span_whose_context_all_of_its_messages_have(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker, tracing=recorder.tracing()) as app:
        mine = {"key": None, "value": b"2", "headers": {"a": b"1", "traceparent": UPSTREAM}}
        await (await app.topic("orders").send_many([(None, b"1"), mine, (None, b"3")]))
        assert app.tracing.unfinished == 0
    span = recorder.only("send orders")
    assert span.attributes["messaging.batch.message_count"] == 3
    assert "messaging.kafka.offset" not in span.attributes
    assert linked_to(span) == [UPSTREAM_SPAN]
    first, second, third = (headers_at(broker, ORDERS, offset) for offset in range(3))
    assert first == third == second[1:]
    assert b"%016x" % id_of(span) in dict(first)["traceparent"]
    assert second[0] == ("a", b"1")


async def test_the_span_of_send_many_ends_with_its_last_outcome_and_has_the_first_error(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    client = HeldBack()
    async with app_with(client, tracing=recorder.tracing()) as app:
        many = await app.topic("orders").send_many([(None, b"%d" % n) for n in range(4)])
        await trio.testing.wait_all_tasks_blocked()
        client.end(1)
        client.end(1, error=DeliveryFailed("the first"))
        client.end(1, error=DeliveryFailed("the second"))
        assert recorder.spans() == []
        client.end(1)
        assert [isinstance(each, Exception) for each in await many.outcomes()] == [
            False,
            True,
            True,
            False,
        ]
    span = recorder.only("send orders")
    assert span.attributes["kafka_nursery.failed_messages"] == 2
    assert span.events[0].attributes["exception.message"] == "the first"


async def test_the_end_of_the_app_ends_the_spans_of_messages_in_flight(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    client = HeldBack()
    with pytest.raises(ExceptionGroup):
        async with app_with(client, tracing=recorder.tracing(), grace=5) as app:
            await app.topic("orders").send(value=b"1")
    assert app.tracing.unfinished == 0
    assert recorder.only("send orders").status.status_code is StatusCode.ERROR


async def test_a_ctrl_c_while_the_span_of_send_many_begins_ends_it(
    recorder: Recorder, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    async with app_on(broker_with(ORDERS), tracing=recorder.tracing()) as app:
        monkeypatch.setattr(TraceHeaders, "with_context_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            await app.topic("orders").send_many([(None, b"1"), (None, b"2")])
        assert app.tracing.unfinished == 0


# Handling


async def test_a_handled_message_has_a_span_below_and_linked_to_that_of_its_producer(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS, BILLS)
    async with app_on(broker, tracing=recorder.tracing(), client_id="me") as app:
        bills = app.topic("bills")

        @app.handler(app.topic("orders"))
        async def bill(message: Message[bytes, bytes]) -> None:
            with recorder.span("work"):
                await trio.sleep(0.1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: bills.send(value=b"a bill", headers=message.headers))

        with recorder.span("main"):
            await app.topic("orders").send(value=b"value")
        await handled(app)
    main, sent = recorder.only("main"), recorder.only("send orders")
    process, work, bill_sent = map(recorder.only, ("process orders", "work", "send bills"))
    assert {trace_of(span) for span in recorder.spans()} == {trace_of(main)}
    assert (parent_of(process), linked_to(process)) == (id_of(sent), [id_of(sent)])
    assert parent_of(work) == parent_of(bill_sent) == id_of(process)
    assert process.kind is SpanKind.CONSUMER
    assert process.status.status_code is StatusCode.UNSET
    assert dict(process.attributes) == {
        "messaging.system": "kafka",
        "messaging.client.id": "me",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 0,
        "messaging.message.body.size": 5,
        "messaging.consumer.group.name": "group",
        "kafka_nursery.handler": "bill",
    }


async def test_with_new_trace_the_span_only_links_to_that_of_the_producer(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker, tracing=recorder.tracing(new_trace=True)) as app:
        app.handler(app.topic("orders"), ignore)
        await app.topic("orders").send(value=b"value")
        await handled(app)
    sent, process = recorder.only("send orders"), recorder.only("process orders")
    assert parent_of(process) is None
    assert trace_of(process) != trace_of(sent)
    assert linked_to(process) == [id_of(sent)]


async def ignore(held: object) -> None:
    """Do nothing: a handler."""


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


async def test_each_attempt_has_a_span_of_its_own(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker, attempts = broker_with(ORDERS), 0
    async with app_on(broker, tracing=recorder.tracing()) as app:

        @app.handler(app.topic("orders"), retry=Retry(attempts=3))
        async def shaky(message: Message[bytes, bytes]) -> None:
            nonlocal attempts
            attempts += 1
            if attempts < 3:
                raise LookupError("not yet")

        await app.topic("orders").send(value=b"value")
        await handled(app)
    sent, spans = recorder.only("send orders"), recorder.spans("process orders")
    assert [parent_of(span) for span in spans] == [id_of(sent)] * 3
    assert [span.status.status_code for span in spans] == [
        StatusCode.ERROR,
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]
    assert spans[0].attributes["error.type"] == "LookupError"
    assert spans[0].events[0].attributes["exception.message"] == "not yet"


@pytest.mark.parametrize("is_batch", [False, True])
async def test_a_timeout_is_the_error_of_the_span(
    is_batch: bool, recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, tracing=recorder.tracing()) as app:
        add: Any = app.batch_handler if is_batch else app.handler

        @add(app.topic("orders"), timeout=1, dead_letters="skip")
        async def slow(held: object) -> None:
            await trio.sleep_forever()

        await handled(app, 0)
    span = recorder.only("process orders")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == f"{HandlerTimeout.__module__}.HandlerTimeout"


async def test_a_cancelled_handler_ends_its_span_without_an_error(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker, begun = broker_with(ORDERS, records=1), trio.Event()
    async with app_on(broker, tracing=recorder.tracing(), grace=1) as app:

        @app.handler(app.topic("orders"))
        async def slow(message: Message[bytes, bytes]) -> None:
            begun.set()
            await trio.sleep_forever()

        await begun.wait()
    span = recorder.only("process orders")
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["kafka_nursery.cancelled"] is True
    assert not span.events


async def test_messages_handled_at_once_keep_their_contexts_apart(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    current: dict[bytes, set[int]] = {}
    async with app_on(broker, tracing=recorder.tracing()) as app:

        @app.handler(app.topic("orders"), concurrency=10, order="none")
        async def note(message: Message[bytes, bytes]) -> None:
            for _ in range(3):
                span = trace.get_current_span().get_span_context()
                current.setdefault(message.value, set()).add(span.trace_id)
                await trio.sleep(0.1)

        sent = {}
        for number in range(30):
            with recorder.span("main") as main:
                value = b"%d" % number
                await app.topic("orders").send(value=value)
                sent[value] = {main.get_span_context().trace_id}
        await handled(app, 30)
    assert current == sent


async def test_a_redelivered_message_has_a_new_span(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, tracing=recorder.tracing()) as app:
        app.handler(app.topic("orders"), ignore)
        await handled(app)
        await app.consumer.seek(ORDERS, 0)
        await handled(app, 2)
    assert len({id_of(span) for span in recorder.spans("process orders")}) == 2


async def test_a_batch_has_one_span_with_a_link_to_each_span_that_has_sent_its_messages(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker, tracing=recorder.tracing()) as app:
        await app.topic("orders").send(value=b"1")
        other = {"key": None, "value": b"3", "headers": {"a": b"1"}}
        await app.topic("orders").send_many([(None, b"2"), other])
        await app.topic("orders").send(value=b"4", headers={"a": b"1"})
        await app.producer.flush()
        write(broker, ORDERS)  # without a context

        @app.batch_handler(app.topic("orders"))
        async def handle(batch: Batch[bytes, bytes]) -> None:
            with recorder.span("work"):
                pass

        await handled(app)
    sent, process = recorder.spans("send orders"), recorder.only("process orders")
    assert linked_to(process) == [id_of(span) for span in sent]
    assert process.attributes["messaging.batch.message_count"] == 5
    assert "messaging.kafka.offset" not in process.attributes
    assert parent_of(process) is None
    assert parent_of(recorder.only("work")) == id_of(process)


async def test_a_large_batch_has_links_to_its_first_128_messages(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker, tracing=recorder.tracing()) as app:
        for _ in range(200):
            await app.topic("orders").send(value=b"value")
        await app.producer.flush()
        app.batch_handler(app.topic("orders"), ignore, linger=1)
        await handled(app)
    process = recorder.only("process orders")
    assert len(process.links) == 128
    assert process.dropped_links == 0
    assert process.attributes["messaging.batch.message_count"] == 200


async def test_each_part_of_a_failed_batch_has_a_span(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS, DEAD)
    async with app_on(broker, tracing=recorder.tracing()) as app:
        await (await app.topic("orders").send_many([(None, b"%d" % n) for n in range(4)]))

        @app.batch_handler(app.topic("orders"), dead_letters="skip", linger=1)
        async def handle(batch: Batch[bytes, bytes]) -> None:
            if b"3" in batch.values():
                raise ValueError("three")

        await handled(app, 2)
        await trio.sleep(1)
    spans = recorder.spans("process orders")
    counts = [span.attributes["messaging.batch.message_count"] for span in spans]
    failed = [span.status.status_code is StatusCode.ERROR for span in spans]
    assert list(zip(counts, failed, strict=True)) == [
        (4, True),
        (2, False),
        (2, True),
        (1, False),
        (1, True),
    ]


@pytest.mark.parametrize("new_trace", [False, True])
async def test_a_dead_letter_keeps_the_context_of_its_message_and_its_span_links_to_it(
    new_trace: bool, recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS, DEAD)
    async with app_on(broker, tracing=recorder.tracing(new_trace=new_trace)) as app:

        @app.handler(app.topic("orders"), dead_letters=app.topic("dead"))
        async def fail(message: Message[bytes, bytes]) -> None:
            raise ValueError

        await app.topic("orders").send(value=b"value", headers={"a": b"1"})
        await handled(app, 0)
    sent, letter = recorder.only("send orders"), recorder.only("send dead")
    before = headers_at(broker, ORDERS)
    assert headers_at(broker, DEAD)[: len(before)] == before
    assert [name for name, _ in headers_at(broker, DEAD)].count("traceparent") == 1
    assert parent_of(letter) == (None if new_trace else id_of(sent))
    assert linked_to(letter) == [id_of(sent)]
    assert (sent.kind, letter.kind) == (SpanKind.PRODUCER, SpanKind.CLIENT)


async def test_a_dead_letter_of_a_message_without_a_context_has_that_of_its_own_span(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS, DEAD)
    write(broker, ORDERS)
    async with app_on(broker, tracing=recorder.tracing()) as app:

        @app.handler(app.topic("orders"), dead_letters=app.topic("dead"))
        async def fail(message: Message[bytes, bytes]) -> None:
            raise ValueError

        await handled(app, 0)
    letter = recorder.only("send dead")
    assert letter.kind is SpanKind.PRODUCER
    assert b"%016x" % id_of(letter) in (dict(headers_at(broker, DEAD))["traceparent"] or b"")


async def test_in_a_transaction_spans_are_the_same_and_a_repeated_attempt_has_its_own(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker, attempts = broker_with(ORDERS, BILLS), 0
    async with app_on(broker, tracing=recorder.tracing(), transactions="member") as app:

        @app.handler(app.topic("orders"), retry=Retry(attempts=3))
        async def bill(message: Message[bytes, bytes]) -> None:
            nonlocal attempts
            attempts += 1
            await app.topic("bills").send(value=b"a bill")
            app.topic("bills").send_soon(value=b"a copy")
            if attempts == 1:
                raise ValueError("too early")

        await app.topic("orders").send(value=b"value", source=None)
        await handled(app)
        await app.consumer.commit()
        assert app.tracing.unfinished == 0
    first, second = recorder.spans("process orders")
    assert first.status.status_code is StatusCode.ERROR
    assert second.status.status_code is StatusCode.UNSET
    bills = recorder.spans("send bills")
    assert {parent_of(span) for span in bills} == {id_of(first), id_of(second)}
    assert len(bills) == 4


# Your own blocks


async def test_a_block_of_the_user_handles_the_message_of_an_iterator(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker, tracing=recorder.tracing()) as app:
        await app.topic("orders").send(value=b"value")
        [message] = await take(aiter(app.topic("orders")), 1)
        with app.tracing.processing(message) as span:
            assert trace.get_current_span() is span
            span.set_attribute("mine", 1)
        assert not trace.get_current_span().get_span_context().is_valid
    sent, process = recorder.only("send orders"), recorder.only("process orders")
    assert parent_of(process) == id_of(sent)
    assert process.attributes["mine"] == 1
    assert "kafka_nursery.handler" not in process.attributes


async def test_a_block_for_a_message_without_a_context_is_below_the_current_span(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS, records=2)
    async with app_on(broker, tracing=recorder.tracing()) as app:
        with recorder.span("main") as main:
            [batch] = await take(app.topic("orders").batches(), 1)
            with pytest.raises(KeyError), app.tracing.processing(batch):
                raise KeyError
            with app.tracing.processing(batch[0]):
                pass
            with pytest.raises(TypeError, match="held must be a Message or a Batch"):
                app.tracing.processing(batch.values())
    failed, fine = recorder.spans("process orders")
    assert failed.status.status_code is StatusCode.ERROR
    assert parent_of(failed) == parent_of(fine) == main.get_span_context().span_id
    assert linked_to(fine) == []


@pytest.mark.parametrize(
    ("parent", "sender"), [(UPSTREAM, [UPSTREAM_SPAN]), (b"00-0-0-01", [])], ids=str
)
async def test_a_block_in_another_span_is_linked_to_it_and_has_both_baggages(
    parent: bytes, sender: list[int], recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    headers = [("traceparent", parent), ("baggage", b"customer=7")]
    broker.log(ORDERS).append(None, b"value", headers, broker.clock())
    async with app_on(broker, tracing=recorder.tracing()) as app:
        [message] = await take(aiter(app.topic("orders")), 1)
        with recorder.span("main") as main:
            token = attach(baggage.set_baggage("mine", "1"))
            with app.tracing.processing(message):
                assert baggage.get_all() == {"mine": "1", "customer": "7"}
            detach(token)
    process, around = recorder.only("process orders"), [main.get_span_context().span_id]
    assert [parent_of(process)] == (sender or around)
    assert linked_to(process) == (sender and sender + around)


async def test_with_new_trace_a_block_in_another_span_is_below_it(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    broker.log(ORDERS).append(None, b"value", [("traceparent", UPSTREAM)], broker.clock())
    async with app_on(broker, tracing=recorder.tracing(new_trace=True)) as app:
        [message] = await take(aiter(app.topic("orders")), 1)
        with recorder.span("main") as main, app.tracing.processing(message):
            pass
    process = recorder.only("process orders")
    assert parent_of(process) == main.get_span_context().span_id
    assert linked_to(process) == [UPSTREAM_SPAN]


# Options


async def test_keys_that_are_short_texts_are_shown_on_request(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker, tracing=recorder.tracing(keys=True)) as app:
        for key in (b"Zo\xc3\xab", b"\xff", b"a\nb", b"k" * 129, None):
            await app.topic("orders").send_and_wait(key=key, value=b"value")
        await app.topic("orders").send_and_wait(key=b"gone")
    spans = recorder.spans("send orders")
    keys = [span.attributes.get("messaging.kafka.message.key") for span in spans]
    assert keys == ["Zoë", None, None, None, None, "gone"]
    stones = [span.attributes.get("messaging.kafka.message.tombstone") for span in spans]
    assert stones == [None] * 5 + [True]


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


def test_wrong_arguments_are_refused() -> None:
    for wrong in ({"tracer_provider": 5}, {"propagator": 5}, {"new_trace": 1}, {"keys": 1}):
        [name] = wrong
        with pytest.raises(TypeError, match=f"{name} must be"):
            Tracing(**wrong)  # type: ignore[arg-type]


def test_a_tracing_belongs_to_one_app() -> None:
    tracing = Tracing()
    App("one", "memory://", tracing=tracing)
    with pytest.raises(ValueError, match="belongs to the app 'one'"):
        App("two", "memory://", tracing=tracing)


@pytest.mark.parametrize(
    ("broker", "server"),
    [
        ("kafka://broker.example:9092", {"server.address": "broker.example", "server.port": 9092}),
        ("kafka+sasl://me:p%40ss@[::1]:9092", {"server.address": "::1", "server.port": 9092}),
        ("kafka://one:9092,two:9092", {}),
        (["kafka://one:9092", "kafka://two:9092"], {}),
        ("memory://", {}),
    ],
)
def test_the_server_is_named_if_there_is_only_one(broker: Any, server: dict[str, Any]) -> None:
    attributes = SpanAttributes(keys=False)
    attributes.open(App("one", broker))
    _, named = attributes.of_sending("orders")
    assert {name: value for name, value in named.items() if name.startswith("server")} == server


# Off


def test_without_tracing_nothing_of_opentelemetry_is_imported() -> None:
    program = (
        "import sys, trio, transport.anyio, transport.monitoring.monitor\n"
        "from transport import App, Monitor\n"
        "app = App('one', 'memory://', monitor=Monitor())\n"
        "@app.handler(app.topic('orders'))\n"
        "async def note(message): app.stop()\n"
        "async def main():\n"
        "    async with app:\n"
        "        await app.producer.create_topic('orders', 1)\n"
        "        await app.topic('orders').send(value=b'value')\n"
        "        await app.wait_stopped()\n"
        "trio.run(main)\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout.strip() == "[]", ended.stderr


def test_without_the_extra_the_error_names_it() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "try: import transport.monitoring.tracing\n"
        "except ImportError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout.strip() == (
        "Tracing needs the extra opentelemetry: pip install 'kafka-nursery[opentelemetry]'"
    )


# Errors of the SDK and of the propagator


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
    old = {"traceparent": UPSTREAM}
    async with app_on(broker_with(ORDERS, DEAD), tracing=tracing, **settings) as app:
        orders, dead = app.topic("orders"), app.topic("dead")

        async def note(held: Any) -> None:
            values.extend(held.values() if kind == "batch" else [held.value])
            if values[-1] == b"last":
                raise ValueError

        add: Any = app.batch_handler if kind == "batch" else app.handler
        add(orders, note, dead_letters=dead)
        [handler] = app.handlers
        await orders.send_and_wait(value=b"1", source=None)
        await orders.send_and_wait(value=b"2", headers=old, source=None)
        many: Any = [(None, b"3"), {"key": None, "value": b"4", "headers": old}]
        await (await orders.send_many(many, source=None))
        await orders.send_soon(value=b"5", source=None)
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


# Cancelled after each step


class Cancelled:
    """An app that sends in each way, and handles with retries and dead letters."""

    def __init__(self, transactions: str | None) -> None:
        self.broker = broker_with(ORDERS, BILLS, DEAD)
        self.balance = Balance()
        provider = TracerProvider()
        provider.add_span_processor(self.balance)
        self.tracing = Tracing(provider)
        self.transactions: Any = transactions

    async def play(self, target: Target) -> None:
        with trio.fail_after(1000), target:
            async with App(
                "group",
                self.broker,
                tracing=self.tracing,
                transactions=self.transactions,
                send_buffer_messages=2,
                grace=5.0,
            ) as app:
                orders, bills = app.topic("orders"), app.topic("bills")

                @app.handler(orders, retry=Retry(attempts=2), dead_letters=app.topic("dead"))
                async def bill(message: Message[bytes, bytes]) -> None:
                    await bills.send(value=b"a bill")
                    if message.offset % 2:
                        raise ValueError
                    bills.send_soon(value=b"a copy")
                    await trio.sleep(0.1)

                await orders.send_and_wait(value=b"1", source=None)
                many = [(None, b"%d" % number) for number in range(4)]
                await (await orders.send_many(many, source=None))
                await orders.send_soon(value=b"6", source=None)
                await trio.sleep(A_WHILE)
                assert committed(self.broker)[ORDERS] == 6

    def check(self) -> None:
        assert self.balance.begun > 0 or not self.broker.log(ORDERS).end
        assert self.balance.open == set()
        assert self.tracing.unfinished == 0


@pytest.mark.parametrize("transactions", [None, "member"])
def test_each_span_ends_once_wherever_the_app_is_cancelled(transactions: str | None) -> None:
    assert cancel_everywhere(lambda: Cancelled(transactions), every=EVERY) > 0
