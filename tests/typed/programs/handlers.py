"""Handlers of typed messages, right and wrong."""

from __future__ import annotations

from msgspec import Struct

from transport import App, Batch, Message, Retry, Topic


class Order(Struct):
    customer: str
    amount: int


app = App("enrichment", broker="kafka://127.0.0.1:9092")
orders = app.topic("orders", key_type=str, value_type=Order)
enriched = app.topic("orders.enriched", key_type=str, value_type=Order)
users: Topic[str, str | None] = app.topic("users", key_type=str, value_type=str)


async def look_up(order: Order) -> Order:
    return order


@app.handler(
    orders,
    concurrency=100,
    order="key",
    timeout=5,
    retry=Retry(attempts=5, wait_initial=0.1, wait_max=30.0),
    dead_letters=app.topic("orders.dead"),
)
async def enrich(message: Message[str, Order]) -> None:
    await enriched.send(key=message.key, value=await look_up(message.value))


async def place(message: Message[object, object]) -> None:
    print(message.tp, message.offset)


async def count(message: Message[str, Order]) -> int:
    return message.value.amount


app.handler(orders, count, filter=lambda message: message.value.amount > 0)
app.handler(orders, count, name="by customer", key=lambda message: message.value.customer)
app.handler(orders, place)
app.handler(users, place, filter=lambda message: message.value is not None)


@app.batch_handler(orders, max_size=500, linger=0.1, retry=Retry(attempts=3), split=False)
async def store(batch: Batch[str, Order]) -> None:
    print(sum(order.amount for order in batch.values()))


async def of_ints(message: Message[str, int]) -> None: ...


def not_async(message: Message[str, Order]) -> None: ...


app.handler(orders, of_ints)  # error: arg-type, reportCallIssue
app.handler(orders, not_async)  # error: arg-type, reportCallIssue
app.handler(orders, count, order="keys")  # error: call-overload, reportCallIssue
app.handler(orders, count, filter=5)  # error: call-overload, reportCallIssue
app.handler(orders, count, workers=5)  # error: call-overload, reportCallIssue
app.handler(orders, count, retry=5)  # error: call-overload, reportCallIssue
app.handler(orders, count, dead_letters="drop")  # error: call-overload, reportCallIssue


@app.handler(orders)  # error: arg-type, reportArgumentType
async def of_bytes(message: Message) -> None: ...


@app.batch_handler(orders)  # error: arg-type, reportArgumentType
async def of_one(message: Message[str, Order]) -> None: ...


app.batch_handler(orders, store, order="key")  # error: call-overload, reportCallIssue
