"""A program with typed keys and values: each type is inferred from the types of the topic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

from transport import JSON, App, Batch, Batches, Codec, Message, Messages, Topic


@dataclass
class Order:
    customer: str
    amount: int


@dataclass
class Refund:
    amount: int


ORDERS: Codec[Order] = Codec(lambda order: b"", lambda data: Order("", 0))

app = App("enrichment", broker="kafka://127.0.0.1:9092")
orders = app.topic("orders", key_type=str, value_type=Order)
by_codec = app.topic("orders", key_type=str, value_type=ORDERS)
of_json = app.topic("orders.json", value_type=JSON)
keyed = app.topic("orders.keyed", key_type=str)
of_ints = app.topic("totals", value_type=dict[str, int])
raw = app.topic("orders.raw")

# Type checkers infer no union, so the topic needs an annotation.
events: Topic[str, Order | Refund] = app.topic("events", key_type=str, value_type=Order | Refund)

assert_type(orders, Topic[str, Order])
assert_type(by_codec, Topic[str, Order])
assert_type(of_json, Topic[bytes, Any])
assert_type(keyed, Topic[str, bytes])
assert_type(of_ints, Topic[bytes, dict[str, int]])
assert_type(raw, Topic[bytes, bytes])


async def look_up(order: Order) -> Order:
    return order


async def enrich(message: Message[str, Order]) -> None:
    await orders.send(key=message.key, value=await look_up(message.value))


async def read() -> None:
    assert_type(aiter(orders), Messages[str, Order])
    assert_type(orders.noack(), Messages[str, Order])
    assert_type(orders.batches(), Batches[str, Order])
    async for message in orders:
        assert_type(message, Message[str, Order])
        assert_type(message.key, str)
        assert_type(message.value, Order)
        await enrich(message)
    async for message in orders.noack():
        async with message as held:
            assert_type(held.value, Order)
    async for batch in orders.batches(100):
        assert_type(batch, Batch[str, Order])
        assert_type(batch.keys(), list[str])
        assert_type(batch.values(), list[Order])
        assert_type(batch.messages, list[Message[str, Order]])
        assert_type(batch[0].value, Order)
        for each in batch:
            assert_type(each, Message[str, Order])


async def send() -> None:
    order = Order("ada", 1)
    await orders.send(key="ada", value=order)
    await orders.send(value=order)  # no key
    await orders.send(key="ada", value=None)  # a tombstone
    await orders.send_and_wait(key="ada", value=order, headers={"trace": b"1"})
    orders.send_soon(key="ada", value=order, partition=0)
    await orders.send_many(
        [("ada", order), (None, order), {"key": "ada", "value": None, "partition": 1}]
    )
    await orders.send_many(("ada", Order("ada", amount)) for amount in range(3))
    await raw.send(key=b"ada", value=b"1")
    await of_json.send(value={"any": ["thing"]})


# Without types, a message has bytes.
def size(message: Message) -> int:
    assert_type(message.value, bytes)
    return len(message.value)


# A function of messages of any type takes all of them.
def place(message: Message[object, object] | Batch[object, object]) -> str:
    return str(message.tp)


async def places() -> None:
    async for order in orders:
        place(order)
    async for batch in raw.batches():
        place(batch)
        size(batch[0])


async def of_a_union() -> None:
    async for event in events:
        assert_type(event.value, Order | Refund)
    await events.send(key="ada", value=Refund(1))
