"""Schemas are loaded for the tasks of both backends: on asyncio, the guest fetches them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from tests.anyio.test_anyio import app_of, take
from tests.lanes import Place
from tests.registry.orders import AVRO, Order
from tests.registry.server import Refusal, Registry
from transport import RegistryUnavailable
from transport.anyio import open_app
from transport.registry import SchemaRegistry

pytestmark = pytest.mark.anyio

FAST: dict[str, Any] = {"max.retries": 0}


@pytest.fixture
def server() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


def types_of(server: Registry) -> dict[str, Any]:
    return {"value_type": SchemaRegistry(server.url, options=FAST).avro(Order, AVRO)}


async def test_values_are_sent_and_read_in_each_way(there: Place, server: Registry) -> None:
    async with open_app(app_of(there)) as app:
        await app.producer.create_topic(there.name, 1)
        await app.topic(there.name, **types_of(server)).send(value=Order("Eve", 1))
        many = app.topic(there.name, **types_of(server))
        await many.send_many([(None, Order("Eve", 2)), (None, Order("Eve", 3))])
        await app.topic(there.name, **types_of(server)).send_and_wait(value=Order("Eve", 4))
    expected = [Order("Eve", number) for number in range(1, 5)]
    async with open_app(app_of(there)) as app:
        messages = app.topic(there.name, **types_of(server))
        batches = app.topic(there.name, **types_of(server))
        batch = batches.batches(noack=True)
        assert [each.value for each in await take(messages.noack(), 4)] == expected
        found: list[Order] = []
        while len(found) < 4:
            found += [each.value for each in (await take(batch, 1))[0]]
        assert found == expected
    assert server.requests.count(f"POST /subjects/{there.name}-value/versions") == 3
    assert server.requests.count("GET /schemas/ids/1") == 2


async def test_a_thousand_tasks_share_one_fetch(there: Place, server: Registry) -> None:
    async with open_app(app_of(there)) as app:
        await app.producer.create_topic(there.name, 1)
        orders = app.topic(there.name, **types_of(server))

        async def send(amount: int) -> None:
            await orders.send(value=Order("Eve", amount))

        async with anyio.create_task_group() as tasks:
            for amount in range(1000):
                tasks.start_soon(send, amount)
    assert server.requests == [f"POST /subjects/{there.name}-value/versions"]


async def test_an_outage_and_a_cancelled_fetch_give_the_message_back(
    there: Place, server: Registry
) -> None:
    async with open_app(app_of(there)) as app:
        await app.producer.create_topic(there.name, 1)
        await app.topic(there.name, **types_of(server)).send(value=Order("Eve", 1))
    async with open_app(app_of(there)) as app:
        orders = app.topic(there.name, **types_of(server))
        server.refusal = Refusal(503, 503, "later")
        for messages in (orders.noack(), orders.batches(noack=True)):
            with anyio.fail_after(20.0), pytest.raises(RegistryUnavailable):
                await anext(messages)
        server.refusal = None
        server.gate.clear()
        with anyio.move_on_after(0.2) as scope:
            await anext(orders.noack())
        assert scope.cancelled_caught
        assert app.consumer.unacked == set()
        server.gate.set()
        (message,) = await take(orders.noack(), 1)
        assert message.value == Order("Eve", 1)
