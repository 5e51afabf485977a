"""The spans of messages that a block of the user handles, without a handler."""

from __future__ import annotations

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import StatusCode
from trio.testing import MockClock

from tests.apps import app_on, broker_with, take
from tests.monitoring.tracing.recording import (
    ORDERS,
    UPSTREAM,
    UPSTREAM_SPAN,
    Recorder,
    id_of,
    linked_to,
    parent_of,
)


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
