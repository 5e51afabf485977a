"""The spans of sent messages and of dead letters: parents, links, attributes and ends."""

from __future__ import annotations

import pytest
import trio
from opentelemetry.trace import SpanKind, StatusCode
from trio.testing import MockClock

from tests.apps import app_on, broker_with, write
from tests.monitoring.tracing.recording import (
    DEAD,
    ORDERS,
    UPSTREAM,
    UPSTREAM_SPAN,
    Recorder,
    handled,
    headers_at,
    id_of,
    linked_to,
    parent_of,
    trace_of,
)
from tests.producing.held_back import HeldBack, app_with
from transport import DeliveryFailed, Message
from transport.errors import AppClosed, MessageTooLarge, UnknownTopic
from transport.monitoring.spans.trace_context import TraceHeaders


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


async def refuse(topic: str) -> int:
    """Answer a request for the partitions of a topic that does not exist."""
    raise UnknownTopic(topic)


async def test_a_message_that_is_not_accepted_ends_its_span_with_the_error(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
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
