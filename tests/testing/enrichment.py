"""An app of a module, as a user writes it: with a `kafka://` broker that no test reaches."""

from __future__ import annotations

import re

import trio
from msgspec import Struct

from transport import App, Batch, Message, Retry


class Order(Struct):
    customer: str
    amount: int


app = App("enrichment", broker="kafka://127.0.0.1:1")
orders = app.topic("orders", key_type=str, value_type=Order)
enriched = app.topic("orders.enriched", key_type=str, value_type=Order)
events = app.topic("events")
dead = app.topic("orders.dead")

failures: list[Exception] = []  # raised by the next attempts


@app.handler(
    orders,
    order="key",
    concurrency=10,
    timeout=5.0,
    retry=Retry(attempts=3, wait_initial=600.0, wait_max=3600.0, wait_jitter=0, on=OSError),
    filter=lambda message: message.value.amount > 0,
    dead_letters=dead,
)
async def enrich(message: Message[str, Order]) -> None:
    await events.send(value=b"begun")
    if failures:
        raise failures.pop(0)
    if message.value.customer == "slow":
        await trio.sleep(3600)
    order = Order(message.value.customer, message.value.amount * 2)
    await enriched.send(key=message.key, value=order, headers=message.headers)


@app.handler(orders)
async def audit(message: Message[str, Order]) -> None:
    """Its errors end the app."""
    if message.value.amount > 1000:
        raise ValueError("too much")


@app.handler(app.topic(re.compile(r"logs\..*"), value_type=str), dead_letters="skip")
async def read_log(message: Message[bytes, str]) -> None:
    if message.value == "bad":
        raise ValueError("a bad line")


@app.batch_handler(orders, linger=60.0, dead_letters=dead)
async def count(batch: Batch[str, Order]) -> None:
    if any(message.value.amount == 3 for message in batch):
        raise ValueError("three")
    await events.send(value=b"%d" % len(batch))
