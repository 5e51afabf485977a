"""Schemas are fetched once, in threads, and an outage of the registry loses no message."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import app_on, broker_with, committed, take, write
from tests.records import offsets
from tests.registry.orders import AVRO, NEWER, NewerOrder, Order
from tests.registry.server import Refusal, Registry
from transport import (
    TP,
    AuthorizationFailed,
    DecodeError,
    MemoryBroker,
    NotLoaded,
    RegistryUnavailable,
)
from transport.registry import SchemaRegistry, SchemaType

ORDERS = TP("orders", 0)
FAST: dict[str, Any] = {"max.retries": 1, "retries.wait.ms": 1}


@pytest.fixture
def server() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


def registry_of(server: Registry, **options: Any) -> SchemaRegistry:
    return SchemaRegistry(server.url, options={**FAST, **options})


def broker_of(server: Registry, count: int) -> MemoryBroker:
    """Return a broker with orders that another program has written, by hand."""
    number = server.add("orders-value", AVRO)
    broker = broker_with(ORDERS)
    for amount in range(count):
        write(broker, ORDERS, 1, avro_of(number, Order("Eve", amount)))
    return broker


def avro_of(number: int, order: Order) -> bytes:
    """Return an order with the id of its schema, encoded by hand."""
    name = order.customer.encode()
    return struct.pack(">bI", 0, number) + bytes([len(name) * 2]) + name + bytes([order.amount * 2])


async def test_our_bytes_are_those_of_the_wire_format(server: Registry) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        orders = app.topic("orders", value_type=registry_of(server).avro(Order, AVRO))
        await orders.send_and_wait(value=Order("Eve", 5))
    (record,) = broker.records("orders")
    assert record.value == avro_of(1, Order("Eve", 5))
    assert server.requests == ["POST /subjects/orders-value/versions"]


async def test_messages_of_another_program_are_read_with_one_fetch(server: Registry) -> None:
    async with app_on(broker_of(server, 60)) as app:
        orders = app.topic("orders", value_type=registry_of(server).avro(Order))
        messages = await take(orders.noack(), 60)
    assert [message.value for message in messages] == [Order("Eve", n) for n in range(60)]
    assert server.requests == ["GET /schemas/ids/1"]


async def test_a_thousand_tasks_share_one_fetch(server: Registry) -> None:
    """Both to send and to decode."""
    registry = registry_of(server)
    broker = broker_with(ORDERS)
    server.gate.clear()
    async with app_on(broker) as app:
        orders = app.topic("orders", value_type=registry.avro(Order, AVRO))
        async with trio.open_nursery() as nursery:
            for amount in range(1000):
                nursery.start_soon(send, orders, Order("Eve", amount % 50))
            await wait_all_tasks_blocked()
            assert len(server.requests) <= 1
            server.gate.set()
        await app.producer.flush()
        assert len(broker.records("orders")) == 1000
    assert server.requests == ["POST /subjects/orders-value/versions"]
    server.requests.clear()
    server.gate.clear()
    async with app_on(broker, "other") as app:
        # A registry of its own, because the first one has the schema already.
        codec = registry_of(server).avro(Order).codec("orders", "value")
        decoded = []

        async def decode(data: bytes) -> None:
            try:
                decoded.append(codec.decode(data))
            except NotLoaded as missing:
                await missing.load()
                decoded.append(codec.decode(data))

        async with trio.open_nursery() as nursery:
            for record in broker.records("orders"):
                nursery.start_soon(decode, record.value)
            await wait_all_tasks_blocked()
            server.gate.set()
    assert len(decoded) == 1000
    assert server.requests == ["GET /schemas/ids/1"]


async def send(orders: Any, value: object) -> None:
    await orders.send(value=value)


async def test_trio_runs_on_during_a_fetch_and_a_cancelled_fetch_is_kept(
    server: Registry,
) -> None:
    server.gate.clear()
    async with app_on(broker_of(server, 2)) as app:
        orders = app.topic("orders", value_type=registry_of(server).avro(Order))
        for _ in range(3):
            with trio.move_on_after(0.1) as scope:
                await anext(orders.noack())
            assert scope.cancelled_caught
            assert app.consumer.unacked == set()
        server.gate.set()
        assert offsets(await take(orders.noack(), 2)) == [0, 1]
    assert server.requests == ["GET /schemas/ids/1"], "the waiters joined the fetch in progress"


async def test_an_app_ends_while_a_fetch_hangs(server: Registry) -> None:
    server.gate.clear()
    broker = broker_of(server, 1)
    with trio.fail_after(3.0):
        async with app_on(broker) as app, trio.open_nursery() as nursery:
            orders = app.topic("orders", value_type=registry_of(server).avro(Order))
            nursery.start_soon(anext, orders.noack())
            while not server.requests:  # noqa: ASYNC110 - the server runs in a thread
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert committed(broker).get(ORDERS, 0) == 0


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_outage_is_not_a_decode_error(server: Registry, status: int) -> None:
    broker = broker_of(server, 3)
    server.refusal = Refusal(status, status, "later")
    async with app_on(broker) as app:
        orders = app.topic("orders", value_type=registry_of(server).avro(Order))
        for _ in range(2):
            with pytest.raises(RegistryUnavailable, match=r"/schemas/ids/1|schemas/ids/1: later"):
                await anext(orders.noack())
        assert app.consumer.unacked == set()
        server.refusal = None
        async for message in orders:
            if message.offset == 2:
                app.stop()
    assert committed(broker) == {ORDERS: 3}


async def test_a_registry_that_is_down_or_silent_is_an_outage(server: Registry) -> None:
    server.gate.clear()
    silent = SchemaRegistry(server.url, timeout=0.2, options={"max.retries": 0})
    with Registry() as other:
        down = SchemaRegistry(other.url, options=FAST)
    for registry, error in ((silent, "ReadTimeout"), (down, "ConnectError")):
        async with app_on(broker_with(ORDERS)) as app:
            orders = app.topic("orders", value_type=registry.avro(Order, AVRO))
            with pytest.raises(RegistryUnavailable, match=error):
                await orders.send(value=Order("Eve", 5))


async def test_a_wrong_login_is_not_a_decode_error_and_no_password_is_shown(
    server: Registry,
) -> None:
    server.login = "eve:right"
    broker = broker_of(server, 1)
    async with app_on(broker) as app:
        wrong = SchemaRegistry(f"http://eve:wrong@{server.address}", options=FAST)
        assert "wrong" not in repr(wrong)
        orders = app.topic("orders", value_type=wrong.avro(Order))
        with pytest.raises(AuthorizationFailed, match="refused the login") as caught:
            await anext(orders.noack())
        assert ":wrong" not in str(caught.value)
    async with app_on(broker) as app:
        right = registry_of(server, **{"basic.auth.user.info": "eve:right"})
        orders = app.topic("orders", value_type=right.avro(Order))
        assert (await anext(orders.noack())).value == Order("Eve", 0)


async def test_an_unknown_schema_is_a_decode_error(server: Registry) -> None:
    broker = broker_with(ORDERS)
    write(broker, ORDERS, 1, avro_of(7, Order("Eve", 5)))
    async with app_on(broker) as app:
        orders = app.topic("orders", value_type=registry_of(server).avro(Order))
        with pytest.raises(DecodeError, match=r"orders-0 offset 0 as an Order: .*refused GET"):
            await anext(orders.noack())


@pytest.mark.parametrize("data", [b"", b"text", b"\x01\x00\x00\x00\x01\x06Eve\x02"])
async def test_bytes_without_the_id_of_a_schema_are_a_decode_error(
    server: Registry, data: bytes
) -> None:
    broker = broker_with(ORDERS)
    write(broker, ORDERS, 1, data)
    async with app_on(broker) as app:
        orders = app.topic("orders", value_type=registry_of(server).avro(Order))
        with pytest.raises(DecodeError, match="orders-0 offset 0 as an Order"):
            await anext(orders.noack())
    assert server.requests == []


async def test_a_schema_that_the_registry_refuses_is_an_error_of_the_sender(
    server: Registry,
) -> None:
    server.refusal = Refusal(409, 409, "Schema being registered is incompatible")
    async with app_on(broker_with(ORDERS)) as app:
        orders = app.topic("orders", value_type=registry_of(server).avro(Order, AVRO))
        with pytest.raises(ValueError, match=r"refused POST subjects/orders-value.*incompatible"):
            await orders.send(value=Order("Eve", 5))


async def test_a_wrong_value_names_topic_and_type(server: Registry) -> None:
    async with app_on(broker_with(ORDERS)) as app:
        registry = registry_of(server)
        orders = app.topic("orders", value_type=registry.avro(Order, AVRO))
        with pytest.raises(TypeError, match="value of a message for 'orders' must be an Order or"):
            await orders.send(value={"customer": "Eve"})
        plain = app.topic("orders", value_type=registry.avro(dict, AVRO))
        await plain.send(value={"customer": "Eve", "amount": 5})
        with pytest.raises(ValueError, match="for 'orders' cannot be encoded"):
            await plain.send(value={"customer": "Eve"})
        unwritable = app.topic("orders", value_type=registry.avro(Order))
        with pytest.raises(ValueError, match="give the type a schema"):
            await unwritable.send(value=Order("Eve", 5))


async def test_messages_of_an_older_schema_are_converted_to_the_readers_schema(
    server: Registry,
) -> None:
    async with app_on(broker_of(server, 1)) as app:
        newer = app.topic("orders", value_type=registry_of(server).avro(NewerOrder, NEWER))
        await newer.send(value=NewerOrder("Bob", 1, "USD"))
        found = [message.value for message in await take(newer.noack(), 2)]
    assert found == [NewerOrder("Eve", 0, "EUR"), NewerOrder("Bob", 1, "USD")]


async def test_the_latest_schema_or_a_known_one_is_used_and_nothing_is_registered(
    server: Registry,
) -> None:
    server.add("orders-value", AVRO)
    server.add("orders-value", NEWER)
    registry = registry_of(server)
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        latest = app.topic("orders", value_type=registry.avro(dict, use_latest_version=True))
        await latest.send_and_wait(value={"customer": "Eve", "amount": 5})
        known = app.topic("orders", value_type=registry.avro(dict, AVRO, auto_register=False))
        await known.send_and_wait(value={"customer": "Eve", "amount": 5})
        unknown = app.topic("bills", value_type=registry.avro(dict, AVRO, auto_register=False))
        with pytest.raises(ValueError, match="refused POST subjects/bills-value"):
            await unknown.send(value={"customer": "Eve", "amount": 5})
    assert [record.value[:5] for record in broker.records("orders")] == [
        b"\0\0\0\0\x02",
        b"\0\0\0\0\x01",
    ]
    assert server.requests == [
        "GET /subjects/orders-value/versions/latest",
        "POST /subjects/orders-value",
        "POST /subjects/bills-value",
    ]


async def test_the_latest_schema_is_fetched_again_once_it_is_too_old(server: Registry) -> None:
    server.add("orders-value", AVRO)
    registry = registry_of(server, **{"cache.latest.ttl.sec": 0.2})
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        orders = app.topic("orders", value_type=registry.avro(dict, use_latest_version=True))
        await orders.send_and_wait(value={"customer": "Eve", "amount": 5})
        server.add("orders-value", NEWER)
        await trio.sleep(0.3)
        await orders.send_and_wait(value={"customer": "Eve", "amount": 5})
    assert [record.value[4] for record in broker.records("orders")] == [1, 2]
    assert server.requests == 2 * ["GET /subjects/orders-value/versions/latest"]


async def test_a_load_after_the_answer_fetches_nothing(server: Registry) -> None:
    """A task of asyncio may begin its load only after that of another task has ended."""
    number = server.add("orders-value", AVRO)
    codec = registry_of(server).avro(Order).codec("orders", "value")
    data = avro_of(number, Order("Eve", 5))
    missing = []
    for _ in range(2):
        with pytest.raises(NotLoaded) as caught:
            codec.decode(data)
        missing.append(caught.value)
    for each in missing:
        await each.load()
        assert codec.decode(data) == Order("Eve", 5)
    assert server.requests == ["GET /schemas/ids/1"]


@pytest.mark.parametrize(
    ("strategy", "subject"),
    [
        ("TOPIC", "orders-value"),
        ("RECORD", "Order"),
        ("TOPIC_RECORD", "orders-Order"),
        ("ASSOCIATED", "orders-value"),
        (lambda context, record: f"{context.field}s of {record}", "values of Order"),
    ],
)
async def test_a_strategy_names_the_subject(server: Registry, strategy: Any, subject: str) -> None:
    kind = registry_of(server).avro(Order, AVRO, subject_name_strategy=strategy)
    async with app_on(broker_with(ORDERS)) as app:
        orders = app.topic("orders", value_type=kind)
        await orders.send(value=Order("Eve", 1))
        await orders.send(value=Order("Eve", 2))
    assert server.requests[-1] == f"POST /subjects/{subject}/versions"
    assert len(server.requests) == (2 if strategy == "ASSOCIATED" else 1)


async def test_a_schema_that_refers_to_others_is_resolved(server: Registry) -> None:
    from confluent_kafka.schema_registry import Schema, SchemaReference

    name = {"name": "name", "type": "string"}
    server.add("customers", {"type": "record", "name": "Customer", "fields": [name]})
    schema = Schema(
        '{"type":"record","name":"Bill","fields":[{"name":"of","type":"Customer"}]}',
        "AVRO",
        [SchemaReference(name="Customer", subject="customers", version=1)],
    )
    async with app_on(broker_with(TP("bills", 0))) as app:
        bills = app.topic("bills", value_type=registry_of(server).avro(dict, schema))
        await bills.send(value={"of": {"name": "Eve"}})
        assert (await anext(bills.noack())).value == {"of": {"name": "Eve"}}
    assert sorted(server.requests) == [
        "GET /subjects/customers/versions/1",
        "POST /subjects/bills-value/versions",
    ]


async def test_send_soon_sends_once_the_schema_is_known(server: Registry) -> None:
    async with app_on(broker_with(ORDERS)) as app:
        orders = app.topic("orders", value_type=registry_of(server).avro(Order, AVRO))
        with pytest.raises(NotLoaded, match=r"send one message with `await topic\.send"):
            orders.send_soon(value=Order("Eve", 1))
        await orders.send(value=Order("Eve", 2))
        await orders.send_soon(value=Order("Eve", 3))


async def test_fetches_run_in_threads_only(
    server: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is also the contract with Confluent's client: all its requests pass this method."""
    from confluent_kafka.schema_registry import SchemaRegistryClient

    rest = type(SchemaRegistryClient({"url": server.url})._rest_client)
    send_request, threads = rest.send_request, set()

    def spied(self: Any, *args: Any, **options: Any) -> Any:
        threads.add(threading.current_thread())
        return send_request(self, *args, **options)

    monkeypatch.setattr(rest, "send_request", spied)
    async with app_on(broker_of(server, 1)) as app:
        orders = app.topic("orders", value_type=registry_of(server).avro(Order, AVRO))
        await orders.send(value=Order("Eve", 5))
        await take(orders.noack(), 2)
    assert threads
    assert threading.current_thread() not in threads


def test_a_wrong_schema_or_option_is_an_error_at_once(server: Registry) -> None:
    registry = registry_of(server)
    for make in (
        lambda: registry.avro(Order, {"type": "recorder"}),
        lambda: registry.avro(Order, AVRO, write_options={"no.such.option": 1}),
        lambda: registry.json(Order, read_options={"no.such.option": 1}),
        lambda: registry.avro(Order, AVRO, subject_name_strategy="SUBJECT"),
        lambda: SchemaRegistry(server.url, options={"no.such.option": 1}),
        lambda: SchemaRegistry("127.0.0.1:8081"),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - some are Confluent's
            make()
    with pytest.raises(TypeError, match="schema must be"):
        registry.avro(Order, 5)  # type: ignore[arg-type]
    for wrong in (registry.avro, registry.json):
        with pytest.raises(TypeError, match="kind cannot be 5: Type '5' is not supported"):
            wrong(5)  # type: ignore[operator]
    with pytest.raises(TypeError, match="kind must be a class that protoc has made, not 5"):
        registry.protobuf(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="options must be a mapping"):
        SchemaRegistry(server.url, options=5)  # type: ignore[arg-type]
    assert server.requests == []


@pytest.mark.parametrize("url", ["eve:secret@one", "ftp://eve:secret@one"])
def test_the_error_of_a_wrong_url_shows_no_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"of the registry .*one are wrong") as caught:
        SchemaRegistry(url)
    assert "secret" not in str(caught.value)


def test_several_addresses_are_shown_without_their_passwords() -> None:
    registry = SchemaRegistry("http://eve:secret@one:8081,http://bob:secret@two/path")
    assert repr(registry) == "<SchemaRegistry http://one:8081, http://two/path>"


def test_our_avro_is_that_of_fastavro(server: Registry) -> None:
    import io

    kind: SchemaType[Order] = SchemaRegistry("mock://fastavro").avro(Order, AVRO)
    data = kind.codec("orders", "value").encode(Order("Eve", 1234))
    found = fastavro.schemaless_reader(io.BytesIO(data[5:]), fastavro.parse_schema(AVRO), None)
    assert found == {"customer": "Eve", "amount": 1234}
