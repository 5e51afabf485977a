"""One trace across two processes on a real Kafka."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kafka

# Prints each span as a line of JSON. The role decides what the process does.
PROGRAM = """
import sys, trio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from transport import App
from transport.monitoring.tracing import Tracing

role, broker, orders_name, bills_name = sys.argv[1:]
provider = TracerProvider()
exporter = ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + "\\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))
app = App(f"{role}-{bills_name}", broker, auto_offset_reset="earliest", tracing=Tracing(provider))
orders, bills = app.topic(orders_name), app.topic(bills_name)

if role == "biller":

    @app.handler(orders)
    async def bill(message):
        await bills.send_and_wait(value=b"a bill", headers=message.headers)
        app.stop()


async def main():
    with trio.fail_after(60):
        async with app:
            if role == "biller":
                await app.wait_stopped()
                return
            with provider.get_tracer("shop").start_as_current_span("order"):
                await orders.send(key=b"key", value=b"an order", headers={"mine": b"1"})
            async for message in bills:
                with app.tracing.processing(message):
                    assert dict(message.headers)["mine"] == b"1"
                app.stop()


trio.run(main)
"""


def test_the_spans_of_two_processes_are_one_trace(
    kafka_bootstrap: str, kafka_topic: Callable[..., str]
) -> None:
    orders, bills = kafka_topic(1), kafka_topic(1)
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, role, f"kafka://{kafka_bootstrap}", orders, bills],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        for role in ("shop", "biller")
    ]
    try:
        shop, biller = [program.communicate(timeout=90)[0] for program in programs]
    finally:
        for program in programs:
            program.kill()
    assert [program.returncode for program in programs] == [0, 0]
    of_shop, of_biller = by_name(shop), by_name(biller)
    assert of_shop.keys() == {"order", f"send {orders}", f"process {bills}"}
    assert of_biller.keys() == {f"process {orders}", f"send {bills}"}
    spans = of_shop | of_biller
    assert len({span["context"]["trace_id"] for span in spans.values()}) == 1
    way = ["order", f"send {orders}", f"process {orders}", f"send {bills}", f"process {bills}"]
    assert spans[way[0]]["parent_id"] is None
    for before, after in itertools.pairwise(way):
        assert spans[after]["parent_id"] == spans[before]["context"]["span_id"]
    for sent, processed in ((way[1], way[2]), (way[3], way[4])):
        [link] = spans[processed]["links"]
        assert link["context"]["span_id"] == spans[sent]["context"]["span_id"]
        for attribute in ("messaging.kafka.offset", "messaging.destination.partition.id"):
            assert spans[sent]["attributes"][attribute] in (0, "0")
            assert spans[processed]["attributes"][attribute] in (0, "0")


def by_name(lines: str) -> dict[str, Any]:
    spans = [json.loads(line) for line in lines.splitlines()]
    assert len({span["name"] for span in spans}) == len(spans)
    return {span["name"]: span for span in spans}
