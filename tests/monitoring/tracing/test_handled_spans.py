"""The spans of handled messages and batches: parents, links, attributes and ends."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from trio.testing import MockClock

from tests.apps import app_on, broker_with, committed, write
from tests.monitoring.tracing.recording import (
    BILLS,
    DEAD,
    ORDERS,
    Recorder,
    handled,
    id_of,
    ignore,
    linked_to,
    parent_of,
    trace_of,
)
from transport import JSON, HandlerTimeout, Message, Retry
from transport.message import Batch


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


async def test_messages_of_one_send_many_count_once_for_the_links_of_a_batch(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker, tracing=recorder.tracing()) as app:
        await (await app.topic("orders").send_many([(None, b"value")] * 200))
        await app.topic("orders").send_and_wait(value=b"value")
        app.batch_handler(app.topic("orders"), ignore, linger=1)
        await handled(app)
    sent = recorder.spans("send orders")
    assert linked_to(recorder.only("process orders")) == [id_of(span) for span in sent]


async def test_a_message_that_cannot_be_decoded_has_no_span(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, tracing=recorder.tracing()) as app:
        app.handler(app.topic("orders", value_type=JSON), ignore, dead_letters="skip")
        await handled(app, 0)
        assert committed(broker)[ORDERS] == 1
    assert recorder.spans() == []


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
