"""Spans in anyio programs: the current span of a task of either backend is the parent."""

from __future__ import annotations

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from tests.anyio.test_without_crossing import all_wait
from tests.apps import app_on, broker_with
from tests.monitoring.tracing.recording import Recorder, id_of, linked_to, parent_of
from tests.producing.held_back import HeldBack, app_with
from transport import TP, Message, MessageTooLarge
from transport.anyio import open_app

pytestmark = pytest.mark.anyio

ORDERS, BILLS = TP("orders", 0), TP("bills", 0)
PATIENCE = 20.0


async def test_sent_and_handled_messages_have_spans_below_the_current_one() -> None:
    recorder, broker, done = Recorder(), broker_with(ORDERS, BILLS), anyio.Event()
    async with open_app(app_on(broker, tracing=recorder.tracing())) as app:
        orders, bills = app.topic("orders"), app.topic("bills")

        @app.handler(orders)
        async def bill(message: Message[bytes, bytes]) -> None:
            with recorder.span("work"):
                await anyio.sleep(0.001)
            await bills.send_and_wait(value=b"a bill")
            done.set()

        with recorder.span("main"):
            await orders.send(value=b"an order")
        with anyio.fail_after(PATIENCE):
            await done.wait()
            async for message in bills:
                with app.tracing.processing(message) as span:
                    assert trace.get_current_span() is span
                break
    main, sent, process = map(recorder.only, ("main", "send orders", "process orders"))
    assert parent_of(sent) == id_of(main)
    assert (parent_of(process), linked_to(process)) == (id_of(sent), [id_of(sent)])
    assert parent_of(recorder.only("work")) == id_of(process)
    assert parent_of(recorder.only("send bills")) == id_of(process)
    assert parent_of(recorder.only("process bills")) == id_of(recorder.only("send bills"))
    assert not trace.get_current_span().get_span_context().is_valid


async def test_each_call_that_sends_makes_one_span() -> None:
    recorder = Recorder()
    async with open_app(app_on(broker_with(ORDERS), tracing=recorder.tracing())) as app:
        orders, producer = app.topic("orders"), app.producer
        with recorder.span("main") as main:
            await orders.send_and_wait(value=b"1")
            await (await orders.send_many([(None, b"2"), (None, b"3")]))
            await orders.send_soon(value=b"4")
            await producer.send_and_wait("orders", None, b"5")
        with pytest.raises(MessageTooLarge):
            await orders.send(value=b"x" * 10_000_000)
        with pytest.raises(MessageTooLarge):
            await orders.send_many([(None, b"x" * 10_000_000)])
        assert app.tracing.unfinished == 0
    *spans, refused, one_of_many = recorder.spans("send orders")
    assert len(spans) == 4
    assert one_of_many.status.status_code is StatusCode.ERROR
    assert {parent_of(span) for span in spans} == {main.get_span_context().span_id}
    assert refused.attributes["error.type"] == "transport.errors.MessageTooLarge"


async def test_a_call_that_waits_for_the_partitions_makes_one_span() -> None:
    recorder = Recorder()
    async with open_app(app_on(broker_with(ORDERS, BILLS), tracing=recorder.tracing())) as app:
        await app.topic("orders").send_and_wait(value=b"1")
        await (await app.topic("bills").send_many([(None, b"2"), (None, b"3")]))
        assert app.tracing.unfinished == 0
    assert [span.name for span in recorder.spans()] == ["send orders", "send bills"]
    assert recorder.balance.open == set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("many", [False, True])
async def test_a_sender_that_is_cancelled_while_it_waits_ends_its_span(many: bool) -> None:
    recorder, client = Recorder(), HeldBack()
    native = app_with(client, tracing=recorder.tracing(), send_buffer_messages=1)
    async with open_app(native) as app:
        orders = app.topic("orders")
        first = await orders.send(value=b"1")
        with anyio.move_on_after(0.05):
            await (orders.send_many([(None, b"2")]) if many else orders.send(value=b"2"))
        assert app.tracing.unfinished == 1
        assert recorder.only("send orders").attributes["kafka_nursery.cancelled"] is True
        await all_wait(app)
        client.end()
        await first
        assert app.tracing.unfinished == 0
