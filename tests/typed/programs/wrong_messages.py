"""Lines with keys and values of wrong types, each with the rules of mypy and pyright it breaks."""

from __future__ import annotations

from dataclasses import dataclass

from transport import App, Batch, Codec, Message, Topic


@dataclass
class Order:
    customer: str


app = App("orders")
orders = app.topic("orders", key_type=str, value_type=Order)
raw = app.topic("raw")
order = Order("ada")


async def send() -> None:
    await orders.send(key=5, value=order)  # error: arg-type, reportArgumentType
    await orders.send(key=b"ada", value=order)  # error: arg-type, reportArgumentType
    await orders.send(key="ada", value="ada")  # error: arg-type, reportArgumentType
    await orders.send(kee="ada")  # error: call-arg, reportCallIssue
    await orders.send_and_wait(key=5)  # error: arg-type, reportArgumentType
    await orders.send_and_wait(value={"customer": "ada"})  # error: arg-type, reportArgumentType
    orders.send_soon(key=5)  # error: arg-type, reportArgumentType
    orders.send_soon(value=b"")  # error: arg-type, reportArgumentType
    await orders.send_many([(5, order)])  # error: list-item, reportArgumentType
    await orders.send_many([("ada", order), ("ada", 5)])  # error: list-item, reportArgumentType
    await orders.send_many([{"key": 5, "value": order}])  # error: list-item, reportArgumentType
    await orders.send_many([{"key": "ada", "value": b""}])  # error: list-item, reportArgumentType
    await orders.send_many([{"kee": "ada"}])  # error: list-item, reportArgumentType
    await raw.send(key="ada")  # error: arg-type, reportArgumentType
    await raw.send(value={"customer": "ada"})  # error: arg-type, reportArgumentType


def of_ints(message: Message[int, Order]) -> None: ...


def of_bytes(message: Message) -> None: ...


def of_batches(batch: Batch[str, bytes]) -> None: ...


def of_topics(topic: Topic[str, Order | None]) -> None: ...


async def read() -> None:
    async for message in orders:
        of_ints(message)  # error: arg-type, reportArgumentType
        of_bytes(message)  # error: arg-type, reportArgumentType
        message.value.amount()  # error: attr-defined, reportAttributeAccessIssue
        message.key.real()  # error: attr-defined, reportAttributeAccessIssue
    async for batch in orders.batches():
        of_batches(batch)  # error: arg-type, reportArgumentType
    of_topics(orders)  # error: arg-type, reportArgumentType


def types() -> None:
    app.topic("orders", value_type=5)  # error: arg-type, reportArgumentType
    app.topic("orders", value_type=order)  # error: arg-type, reportArgumentType
    encode: Codec[Order] = Codec(str.encode, bytes.decode)  # error: arg-type, reportAssignmentType
    print(encode)
