"""Handlers of messages whose codec must load a schema first: nothing is lost or out of order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from tests.apps import app_on
from tests.codecs.loadable import Loadable
from tests.handling.calls import broker_with, committed_to, put
from tests.nurseries.clock import jumping
from transport import App, Batch, MemoryBroker, Message, RegistryUnavailable, Retry

OFTEN = Retry(attempts=10, wait_initial=1.0, wait_jitter=0.0)

# A filter, and a key that is computed, need the decoded message before its place is known.
ways = pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": "key", "concurrency": 5},
        {"order": "key", "concurrency": 5, "key": lambda message: message.value[0]},
        {"filter": lambda message: True},
        {"batches": True},
    ],
    ids=["partition", "key", "computed key", "filter", "batches"],
)


@contextlib.asynccontextmanager
async def handling(
    broker: MemoryBroker,
    schemas: Loadable,
    had: list[Any],
    *,
    batches: bool = False,
    **options: Any,
) -> AsyncIterator[App]:
    """Open an app with a handler that adds the values to `had`."""
    app = app_on(broker)
    topic = app.topic("orders", value_type=schemas.codec())
    if "dead_letters" in options:
        options["dead_letters"] = app.topic(options["dead_letters"])

    async def handle(message: Message[Any, Any]) -> None:
        had.append(message.value)

    async def handle_batch(batch: Batch[Any, Any]) -> None:
        had.extend(batch.values())

    if batches:
        app.batch_handler(topic, handle_batch, **options)
    else:
        app.handler(topic, handle, **options)
    async with app:
        yield app


def broker_of(*values: bytes) -> MemoryBroker:
    """Return a broker with these values, each with its first letter as the key."""
    broker = broker_with()
    for value in values:
        put(broker, chr(value[0]), value=value)
    return broker


@ways
@jumping
async def test_handler_gets_all_messages_in_order_after_one_load_of_each_schema(
    options: dict[str, Any],
) -> None:
    schemas, had = Loadable(), []
    broker = broker_of(b"a1", b"a2", b"b3", b"a4", b"b5")
    async with handling(broker, schemas, had, **options):
        await trio.sleep(20.0)
    assert [value for value in had if value[0] == "a"] == ["a1", "a2", "a4"]
    assert [value for value in had if value[0] == "b"] == ["b3", "b5"]
    assert set(schemas.loads) == {"a", "b"}
    assert committed_to(broker) == 5


@ways
@jumping
async def test_handler_goes_on_after_an_outage_of_the_registry(options: dict[str, Any]) -> None:
    failures = 3

    async def fail_at_first() -> None:
        nonlocal failures
        await trio.sleep(1.0)
        if failures:
            failures -= 1
            raise RegistryUnavailable("the registry did not answer")

    schemas, had = Loadable(on_load=fail_at_first, loaded={"a"}), []
    broker = broker_of(b"a1", b"b2", b"a3")
    async with handling(broker, schemas, had, retry=OFTEN, dead_letters="dead", **options):
        await trio.sleep(100.0)
    assert sorted(had) == ["a1", "a3", "b2"]
    assert broker.records("dead") == []
    assert committed_to(broker) == 3


@ways
@jumping
async def test_message_of_a_refused_schema_is_a_dead_letter_with_its_bytes(
    options: dict[str, Any],
) -> None:
    async def refuse() -> None:
        await trio.sleep(1.0)
        raise ValueError("there is no such schema")

    schemas, had = Loadable(on_load=refuse, loaded={"a"}), []
    broker = broker_of(b"a1", b"b2", b"a3")
    async with handling(broker, schemas, had, retry=OFTEN, dead_letters="dead", **options):
        await trio.sleep(100.0)
    assert had == ["a1", "a3"]
    assert [record.value for record in broker.records("dead")] == [b"b2"]
    assert committed_to(broker) == 3


@ways
@jumping
async def test_app_ends_at_once_while_a_schema_is_loaded(options: dict[str, Any]) -> None:
    schemas, had = Loadable(on_load=trio.sleep_forever), []
    broker = broker_of(b"a1", b"a2")
    with trio.fail_after(60.0):
        async with handling(broker, schemas, had, **options) as app:
            await trio.sleep(5.0)
            app.stop()
    assert had == []
    assert committed_to(broker) == 0
