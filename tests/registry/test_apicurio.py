"""All formats with a real schema registry, Apicurio, beside Confluent's own serializers."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from tests.kafka.cluster import ToolchainMissing
from tests.registry.apicurio import Apicurio
from tests.registry.orders import AVRO, NEWER, PROTOBUF, NewerOrder, Order
from transport import App, DecodeError
from transport.registry import SchemaRegistry

pytestmark = pytest.mark.kafka

ORDER = PROTOBUF["shop.Order"]
LINE = PROTOBUF["shop.Order.Line"]
TOPIC = {"subject.name.strategy.type": "TOPIC"}


@pytest.fixture(scope="module")
def apicurio(kafka_java: None) -> Iterator[Apicurio]:
    try:
        with Apicurio() as registry:
            yield registry
    except ToolchainMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def name() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@contextlib.asynccontextmanager
async def app_of(name: str, kafka_bootstrap: str) -> AsyncIterator[App]:
    with trio.fail_after(60.0):
        async with App(name, f"kafka://{kafka_bootstrap}", heartbeat_interval=0.5) as app:
            yield app


async def test_values_of_all_formats_come_back_through_kafka(
    apicurio: Apicurio, kafka_bootstrap: str, name: str
) -> None:
    """Each app has a registry object of its own, as two programs have."""

    def kinds() -> list[tuple[Any, Any]]:
        registry = SchemaRegistry(apicurio.url)
        return [
            (registry.avro(Order, AVRO), Order("Eve", 5)),
            (registry.json(Order), Order("Eve", 5)),
            (registry.protobuf(ORDER), ORDER(customer="Eve", amount=5, sku={"code": "x"})),
            (registry.protobuf(LINE), LINE(number=7)),
        ]

    async with app_of(name, kafka_bootstrap) as app:
        for number, (kind, value) in enumerate(kinds()):
            topic = app.topic(f"{name}-{number}", key_type=str, value_type=kind)
            await app.producer.create_topic(topic.name, 1)
            await topic.send(key="key", value=value)
    async with app_of(name, kafka_bootstrap) as app:
        expected = [
            (app.topic(f"{name}-{number}", key_type=str, value_type=kind).noack(), value)
            for number, (kind, value) in enumerate(kinds())
        ]
        for messages, value in expected:
            message = await anext(messages)
            assert (message.key, message.value) == ("key", value)


async def test_messages_of_confluents_serializers_are_read(
    apicurio: Apicurio, kafka_bootstrap: str, name: str
) -> None:
    context = SerializationContext(name, MessageField.VALUE)
    with SchemaRegistryClient({"url": apicurio.url}) as client:
        avro = AvroSerializer(client, json.dumps(AVRO), conf=TOPIC)
        protobuf = ProtobufSerializer(ORDER, client, {"subject.name.strategy.type": "RECORD"})
        data = avro({"customer": "Eve", "amount": 5}, context)
        message = ORDER(customer="Eve", amount=5)
        other = protobuf(message, context)
    registry = SchemaRegistry(apicurio.url)
    async with app_of(name, kafka_bootstrap) as app:
        await app.producer.create_topic(name, 1)
        plain = app.topic(name)
        await plain.send(value=data)
        await plain.send(value=other)
        orders = app.topic(name, value_type=registry.avro(Order)).noack()
        found = app.topic(name, value_type=registry.protobuf(ORDER)).noack()
        assert (await anext(orders)).value == Order("Eve", 5)
        with pytest.raises(DecodeError, match="as an Order"):
            await anext(found)
        assert (await anext(found)).value == message


async def test_schemas_evolve_and_an_incompatible_one_is_refused(
    apicurio: Apicurio, kafka_bootstrap: str, name: str
) -> None:
    registry = SchemaRegistry(apicurio.url)
    with SchemaRegistryClient({"url": apicurio.url}) as client:
        async with app_of(name, kafka_bootstrap) as app:
            await app.producer.create_topic(name, 1)
            old = app.topic(name, value_type=registry.avro(Order, AVRO))
            new = app.topic(name, value_type=registry.avro(NewerOrder, NEWER))
            await old.send(value=Order("Eve", 5))
            client.set_compatibility(f"{name}-value", "BACKWARD")
            await new.send(value=NewerOrder("Bob", 6, "USD"))
            fields = [{"name": "customer", "type": "int"}]
            other = app.topic(name, value_type=registry.avro(dict, {**AVRO, "fields": fields}))
            with pytest.raises(ValueError, match=f"refused POST subjects/{name}-value"):
                await other.send(value={"customer": 5})
            latest = app.topic(name, value_type=registry.avro(dict, use_latest_version=True))
            await latest.send(value={"customer": "Ann", "amount": 7, "currency": "CHF"})
            messages = new.noack()
            assert [(await anext(messages)).value for _ in range(3)] == [
                NewerOrder("Eve", 5, "EUR"),
                NewerOrder("Bob", 6, "USD"),
                NewerOrder("Ann", 7, "CHF"),
            ]


async def test_an_unknown_schema_is_a_decode_error(
    apicurio: Apicurio, kafka_bootstrap: str, name: str
) -> None:
    async with app_of(name, kafka_bootstrap) as app:
        await app.producer.create_topic(name, 1)
        await app.topic(name).send(value=b"\0\0\1\0\0\6Eve\2")
        orders = app.topic(name, value_type=SchemaRegistry(apicurio.url).avro(Order))
        with pytest.raises(DecodeError, match="refused GET schemas/ids/65536"):
            await anext(orders.noack())
