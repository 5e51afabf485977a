"""The orders of the tests, as a Struct, in Avro and in Protobuf."""

from __future__ import annotations

from typing import Any

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

AVRO = {
    "type": "record",
    "name": "Order",
    "fields": [{"name": "customer", "type": "string"}, {"name": "amount", "type": "long"}],
}
# The next version of it: its readers also read the messages of the version before.
NEWER = {
    **AVRO,
    "fields": [*AVRO["fields"], {"name": "currency", "type": "string", "default": "EUR"}],
}


class Order(msgspec.Struct):
    customer: str
    amount: int


class NewerOrder(msgspec.Struct):
    customer: str
    amount: int
    currency: str


def _protobuf() -> dict[str, Any]:
    """Return the classes that protoc would make, without protoc."""
    lines = descriptor_pb2.FileDescriptorProto(name="lines.proto", package="shop", syntax="proto3")
    sku = lines.message_type.add(name="Sku")
    sku.field.add(name="code", number=1, type=9, label=1)
    file = descriptor_pb2.FileDescriptorProto(name="orders.proto", package="shop", syntax="proto3")
    file.dependency.append("lines.proto")
    file.message_type.add(name="First")
    order = file.message_type.add(name="Order")
    order.field.add(name="customer", number=1, type=9, label=1)
    order.field.add(name="amount", number=2, type=3, label=1)
    order.field.add(name="sku", number=3, type=11, label=1, type_name=".shop.Sku")
    line = order.nested_type.add(name="Line")
    line.field.add(name="number", number=1, type=3, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(lines)
    pool.Add(file)
    names = ("shop.Sku", "shop.First", "shop.Order", "shop.Order.Line")
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names
    }


PROTOBUF = _protobuf()
