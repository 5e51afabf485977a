"""A service of typed messages in a simulation."""

from __future__ import annotations

from msgspec import Struct

from transport import App, Message
from transport.drivers.base import Driver
from transport.testing import Done, simulate


class Order(Struct):
    customer: str


async def bill(broker: Driver, done: Done) -> None:
    async with App("billing", broker=broker, session_timeout=6.0, drain_timeout=5.0) as app:
        async for order in app.topic("orders", value_type=Order).noack():
            async with order:
                await work(order)
                done(order)
        done("order 1")  # error: arg-type, reportArgumentType


async def work(order: Message[bytes, Order]) -> None: ...


report = simulate(bill, topics={"orders": 3}, seed=7)
report.check()
