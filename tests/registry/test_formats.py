"""Avro, JSON Schema and Protobuf: Confluent's serializers read our bytes, and we read theirs."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pydantic
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from tests.registry.orders import AVRO, PROTOBUF, Order
from tests.registry.server import Registry
from transport import NotLoaded
from transport.codecs.errors import load_and_call
from transport.registry import SchemaRegistry, SchemaType

VALUE = SerializationContext("orders", MessageField.VALUE)
TOPIC = {"subject.name.strategy.type": "TOPIC"}
EVE = {"customer": "Eve", "amount": 5}
ORDER = PROTOBUF["shop.Order"]
LINE = PROTOBUF["shop.Order.Line"]


class Color(enum.Enum):
    RED = "red"


class Everything(msgspec.Struct):
    """A field for each type that Avro has beside those of JSON."""

    data: bytes
    at: datetime.datetime
    day: datetime.date
    price: decimal.Decimal
    id: uuid.UUID
    color: Color
    note: str | None = None


LOGICAL = {
    "type": "record",
    "name": "Everything",
    "fields": [
        {"name": "data", "type": "bytes"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {
            "name": "price",
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        },
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "color", "type": {"type": "enum", "name": "Color", "symbols": ["red"]}},
        {"name": "note", "type": ["null", "string"]},
    ],
}
EVERYTHING = Everything(
    data=b"\x00\xff",
    at=datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
    day=datetime.date(2026, 1, 2),
    price=decimal.Decimal("12.50"),
    id=uuid.UUID("12345678-1234-5678-1234-567812345678"),
    color=Color.RED,
)


class Model(pydantic.BaseModel):
    customer: str
    amount: int = pydantic.Field(ge=0)


@dataclasses.dataclass
class Record:
    customer: str
    amount: int


REGISTRY = SchemaRegistry("mock://formats")


def avro(kind: type) -> SchemaType[Any]:
    return REGISTRY.avro(kind, AVRO)


def json(kind: type) -> SchemaType[Any]:
    return REGISTRY.json(kind)


def round_trip(kind: SchemaType[Any], value: object) -> object:
    codec = kind.codec("orders", "value")
    return codec.decode(codec.encode(value))


@pytest.mark.parametrize("format", [avro, json])
@pytest.mark.parametrize(
    "value", [Order("Eve", 5), Model(customer="Eve", amount=5), Record("Eve", 5), EVE]
)
def test_objects_of_each_library_come_back(
    format: Callable[[type], SchemaType[Any]], value: object
) -> None:
    found = round_trip(format(type(value)), value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("kind", [Order, Model, Record])
def test_a_value_that_does_not_fit_the_type_is_an_error(kind: type) -> None:
    """The schema of the writer allows it, the type does not."""
    data = json(dict).codec("orders", "value").encode({"customer": "Eve"})
    with pytest.raises(ValueError, match="amount"):
        json(kind).codec("orders", "value").decode(data)
    if kind is Model:
        wrong = {"customer": "Eve", "amount": -5}
        data = avro(dict).codec("orders", "value").encode(wrong)
        with pytest.raises(ValueError, match="amount"):
            avro(kind).codec("orders", "value").decode(data)


def test_logical_types_of_avro_come_back() -> None:
    kind = SchemaRegistry("mock://logical").avro(Everything, LOGICAL)
    assert round_trip(kind, EVERYTHING) == EVERYTHING


def test_the_same_types_come_back_in_json() -> None:
    assert round_trip(json(Everything), EVERYTHING) == EVERYTHING


def test_a_value_against_the_json_schema_is_an_error() -> None:
    kind = SchemaRegistry("mock://json").json(
        dict, {"type": "object", "properties": {"amount": {"type": "integer", "minimum": 0}}}
    )
    codec = kind.codec("orders", "value")
    with pytest.raises(ValueError, match="-1 is less than the minimum"):
        codec.encode({"amount": -1})
    data = codec.encode({"amount": 0})
    with pytest.raises(Exception, match="'x' is not of type 'integer'"):
        codec.decode(data.replace(b"0}", b'"x"}'))


@pytest.mark.parametrize(
    ("message", "indexes"),
    [
        (PROTOBUF["shop.First"](), b"\x00"),
        (ORDER(customer="Eve", amount=5, sku={"code": "x"}), b"\x02\x02"),
        (LINE(number=3), b"\x04\x02\x00"),
    ],
)
def test_protobuf_messages_have_the_indexes_of_their_type(message: Any, indexes: bytes) -> None:
    """They follow the id: the index of the first type alone is one zero."""
    kind = SchemaRegistry("mock://protobuf").protobuf(type(message))
    data = kind.codec("orders", "value").encode(message)
    assert data[0] == 0
    assert data[5:] == indexes + message.SerializeToString()
    assert round_trip(kind, message) == message


async def loaded(fn: Callable[[Any], Any], value: object) -> Any:
    """Call a codec as a topic does."""
    try:
        return fn(value)
    except NotLoaded as missing:
        return await load_and_call(missing, lambda: fn(value))


async def test_confluents_clients_read_our_bytes_and_we_read_theirs() -> None:
    with Registry() as server, SchemaRegistryClient({"url": server.url}) as client:
        registry = SchemaRegistry(server.url)
        theirs: list[tuple[SchemaType[Any], Any, Any, Any]] = [
            (
                registry.avro(dict, AVRO),
                EVE,
                AvroSerializer(client, msgspec.json.encode(AVRO).decode(), conf=TOPIC),
                AvroDeserializer(client, conf=TOPIC),
            ),
            (
                registry.json(dict),
                EVE,
                JSONSerializer('{"type":"object"}', client, conf=TOPIC),
                JSONDeserializer(None, schema_registry_client=client, conf=TOPIC),
            ),
            (
                registry.protobuf(ORDER),
                ORDER(customer="Eve", amount=5, sku={"code": "x"}),
                ProtobufSerializer(ORDER, client, TOPIC),
                ProtobufDeserializer(ORDER, TOPIC, client),
            ),
        ]
        for kind, value, serialize, deserialize in theirs:
            codec = kind.codec("orders", "value")
            assert deserialize(await loaded(codec.encode, value), VALUE) == value
            assert await loaded(codec.decode, serialize(value, VALUE)) == value


def test_topic_objects_of_one_type_share_what_they_decode() -> None:
    kind = avro(Order)
    assert kind.codec("orders", "value") == kind.codec("orders", "value")
    assert kind.codec("orders", "value") != kind.codec("orders", "key")
    assert kind.codec("orders", "value") != avro(Order).codec("orders", "value")


async def test_the_subject_of_a_key_is_named_after_the_key() -> None:
    with Registry() as server:
        codec = SchemaRegistry(server.url).avro(Order, AVRO).codec("bills", "key")
        await loaded(codec.encode, Order("Eve", 5))
    assert server.requests == ["POST /subjects/bills-key/versions"]
