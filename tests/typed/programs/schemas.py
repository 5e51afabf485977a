"""Topics with types of a schema registry, right and wrong."""

from __future__ import annotations

from dataclasses import dataclass

from transport import App, Topic
from transport.codecs import LONG
from transport.registry import SchemaRegistry


@dataclass
class Order:
    customer: str
    amount: int


app = App("shop", broker="memory://")
registry = SchemaRegistry("mock://test")
orders = app.topic("orders", key_type=LONG, value_type=registry.avro(Order, {"type": "record"}))
plain: Topic[bytes, Order] = app.topic("orders", value_type=registry.json(Order))


async def main() -> None:
    await orders.send(key=1, value=Order("Eve", 5))
    await orders.send(key="1", value=Order("Eve", 5))  # error: arg-type, reportArgumentType
    await orders.send(key=1, value="Eve")  # error: arg-type, reportArgumentType
    async for message in orders:
        print(message.key + 1, message.value.customer)
        print(message.value.no_such_field)  # error: attr-defined, reportAttributeAccessIssue
