"""The metrics of an app in Prometheus's text format, as its own parser reads them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from tests.apps import app_on, broker_with, take
from transport import TP, App, Message, Monitor, RecordMetadata, Retry, Sensors
from transport.monitoring.prometheus import Metrics, PrometheusSensor, observe_all

ORDERS = TP("orders", 0)
LABELS = ("topic", "partition", "handler", "outcome", "treatment", "kind")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """Return each sample but those of buckets and times, without the prefix and the app."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            if not sample.name.endswith(("_bucket", "_created")):
                labels = [sample.labels[name] for name in LABELS if name in sample.labels]
                name = sample.name.removeprefix("kafka_nursery_")
                found[" ".join([name, *labels])] = sample.value
    return found


def kinds(registry: CollectorRegistry) -> dict[str, str]:
    """Return the type of each metric that has a sample, without the prefix and without times."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        each.name.removeprefix("kafka_nursery_"): each.type
        for each in families
        if each.samples and not each.name.endswith("_created")
    }


async def test_the_way_of_messages_is_counted(
    registry: CollectorRegistry, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS, records=5)
    async with app_on(broker, monitor=PrometheusSensor(registry), commit_interval=1.5) as app:
        messages = aiter(app.topic("orders"))
        await take(messages, 3)  # so two are acked
        await app.topic("bills").send_and_wait(value=b"value")
        await trio.sleep(2.1)
        found = samples(registry)
        assert (
            found.items()
            >= {
                "received_messages_total orders": 5,
                "acked_messages_total orders": 2,
                "lag_messages orders 0": 3,
                "unacked_messages orders 0": 1,
                "waiting_messages orders 0": 2,
                "sent_messages_total bills": 1,
                "send_seconds_count": 1,
                "in_flight_messages": 0,
                "commits_total ok": 1,
                "commit_seconds_count": 1,
                "rebalances_total assigned": 1,
                "rebalance_seconds_count": 1,
                "stuck_partitions": 0,
                "event_loop_delay_seconds_count": 2,
            }.items()
        )
        assert found["received_bytes_total orders"] > 0
        assert found["sent_bytes_total bills"] > 0
        assert found["polls_total"] >= 1


async def test_the_lag_has_an_age(registry: CollectorRegistry, autojump_clock: MockClock) -> None:
    broker = broker_with(ORDERS, records=2)
    async with app_on(broker, monitor=PrometheusSensor(registry)) as app:
        messages = aiter(app.topic("orders"))
        await take(messages, 1)
        await trio.sleep(30.5)
        assert samples(registry)["lag_seconds orders 0"] == pytest.approx(30, abs=1.5)
        await anext(messages)
        with trio.move_on_after(5):
            await anext(messages)  # acks the last one
        found = samples(registry)
        assert (found["lag_messages orders 0"], found["lag_seconds orders 0"]) == (0, 0)


async def test_handlers_are_timed_by_outcome_and_failures_counted_by_treatment(
    registry: CollectorRegistry, autojump_clock: MockClock
) -> None:
    app = app_on(broker_with(ORDERS, records=4), monitor=PrometheusSensor(registry))
    retry = Retry(attempts=2, wait_initial=0.1, wait_jitter=0.0)

    @app.handler(
        app.topic("orders"), name="bill", timeout=5, retry=retry, dead_letters=app.topic("dead")
    )
    async def bill(message: Message) -> None:
        if message.offset == 1:
            raise ValueError("bad")
        if message.offset == 2:
            await trio.sleep_forever()

    async with app:
        await trio.sleep(60)
        found = samples(registry)
    assert (
        found.items()
        >= {
            "handler_seconds_count bill ok": 2,
            "handler_seconds_count bill failed": 2,
            "handler_seconds_count bill timeout": 2,
            "handler_failures_total bill retried": 2,
            "handler_failures_total bill dead_letter": 2,
            "handler_running bill": 0,
            "sent_messages_total dead": 2,
        }.items()
    )


async def test_a_revoked_partition_has_no_gauges(
    registry: CollectorRegistry, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS, TP("orders", 1), records=1)
    async with app_on(broker, monitor=PrometheusSensor(registry)) as app:
        await anext(aiter(app.topic("orders")))
        await trio.sleep(2)
        assert {"lag_messages orders 0", "lag_messages orders 1"} <= samples(registry).keys()
        async with app_on(broker) as other:
            aiter(other.topic("orders"))
            await trio.sleep(30)
            gauges = [each for each in samples(registry) if each.startswith("waiting_messages")]
            assert len(gauges) == len(app.consumer.assignment) == 1


@pytest.mark.parametrize("crashes", [False, True])
async def test_a_closed_app_has_counters_and_no_gauges(
    crashes: bool, registry: CollectorRegistry, autojump_clock: MockClock
) -> None:
    async def handle(message: Message) -> None:
        await trio.sleep(5)
        if crashes:
            raise ValueError
        app.stop()

    app = app_on(broker_with(ORDERS, records=3), monitor=PrometheusSensor(registry))
    app.handler(app.topic("orders"), handle, name="handle")
    with pytest.RaisesGroup(ValueError, flatten_subgroups=True) if crashes else nullcontext():
        async with app:
            await trio.sleep(2)
            gauges = {each for each, kind in kinds(registry).items() if kind == "gauge"}
            assert {"in_flight_messages", "handler_running", "lag_messages"} <= gauges
            await app.wait_stopped()
    left = kinds(registry)
    assert "gauge" not in left.values()
    assert left["received_messages"] == "counter"


async def test_apps_share_a_registry(registry: CollectorRegistry) -> None:
    for name in ("one", "two"):
        async with App(name, monitor=PrometheusSensor(registry)) as app:
            await app.producer.create_topic("orders", 1)
            await app.topic("orders").send_and_wait(value=b"value")
    text = generate_latest(registry).decode()
    for name in ("one", "two"):
        line = f'kafka_nursery_sent_messages_total{{app="{name}",topic="orders"}} 1.0'
        assert line in text.splitlines()


async def test_it_can_be_combined_with_a_monitor(registry: CollectorRegistry) -> None:
    monitor = Monitor()
    async with App("one", monitor=Sensors(monitor, PrometheusSensor(registry))) as app:
        await app.producer.create_topic("orders", 1)
        await app.topic("orders").send_and_wait(value=b"value")
        assert monitor.snapshot().sends_completed == 1
    assert samples(registry)["sent_messages_total orders"] == 1


async def test_messages_that_another_sensor_passes_on_are_counted_by_topic(
    registry: CollectorRegistry, autojump_clock: MockClock
) -> None:
    sensor = PrometheusSensor(registry)
    async with app_on(broker_with(ORDERS), monitor=sensor) as app:
        written = [RecordMetadata(topic, 0, 0, 1.0) for topic in ("orders", "bills", "orders")]
        sensor.on_sends_completed(app.producer, written)
        found = samples(registry)
    assert found["sent_messages_total orders"] == 2
    assert found["sent_messages_total bills"] == 1


def test_values_observed_at_once_count_as_one_by_one() -> None:
    values = [0.0, 0.001, 0.0011, 0.25, 5.0, 31.0, 1e9]
    shown = []
    for at_once in (True, False):
        registry = CollectorRegistry()
        histogram = Histogram("seconds", "Seconds.", registry=registry, buckets=(0.001, 0.25, 30))
        if at_once:
            observe_all(histogram, values)
        else:
            for value in values:
                histogram.observe(value)
        shown.append([sample for each in registry.collect() for sample in each.samples[:-1]])
    assert shown[0] == shown[1]


def test_the_parts_of_prometheus_client_that_are_private_exist() -> None:
    histogram = Histogram("seconds", "Seconds.", registry=CollectorRegistry())
    assert len(histogram._buckets) == len(histogram._upper_bounds)
    assert histogram._upper_bounds[-1] == float("inf")
    histogram._sum.inc(0.0)


def families() -> Iterator[Any]:
    registry = CollectorRegistry()
    Metrics(registry)
    yield from registry.collect()


def test_names_follow_the_conventions_of_prometheus() -> None:
    """https://prometheus.io/docs/practices/naming/: base units, and `_total` for counters."""
    for family in families():
        assert re.fullmatch(r"kafka_nursery_[a-z_]+", family.name)
        assert "milli" not in family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
        if family.type == "counter":
            assert not family.name.endswith("_total")  # the text format adds it
        assert family.documentation.endswith(".")


def test_each_metric_is_in_the_docs_and_on_the_dashboard() -> None:
    page = (ROOT / "docs" / "prometheus.md").read_text()
    dashboard = (ROOT / "docs" / "grafana" / "kafka-nursery.json").read_text()
    names = {family.name for family in families()}
    shown = {
        f"{family.name}_total" if family.type == "counter" else family.name for family in families()
    }
    assert {name for name in shown if f"`{name}`" not in page} == set()
    used = set(re.findall(r"kafka_nursery_[a-z_]+", dashboard))
    plain = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in used}
    assert plain <= names, "the dashboard uses metrics that do not exist"
    assert names - plain == set(), "the dashboard does not show these"


def test_the_dashboard_is_valid_json_with_unique_panels() -> None:
    dashboard = json.loads((ROOT / "docs" / "grafana" / "kafka-nursery.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert 'app=~"$app"' in target["expr"]


def test_without_the_extra_the_error_names_it() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "try: import transport.monitoring.prometheus\n"
        "except ImportError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout.strip() == (
        "PrometheusSensor needs the extra prometheus: pip install 'kafka-nursery[prometheus]'"
    )
