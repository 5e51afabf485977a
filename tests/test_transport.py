"""The transport: which parts an app is made of."""

from __future__ import annotations

from typing import Any

import trio

from tests.nurseries.clock import jumping
from transport import (
    App,
    ClientClosed,
    Consumer,
    RoundRobin,
)


def test_errors_that_mean_that_the_client_is_closing() -> None:
    assert Consumer.consumer_stopped_errors == (ClientClosed,)


@jumping
async def test_a_scheduler_of_the_users_decides_whose_turn_it_is() -> None:
    class OneByOne(RoundRobin[Any]):
        def __init__(self) -> None:
            super().__init__(quantum=1)

    async with App("orders", scheduler=OneByOne) as app:
        orders = app.topic("orders")
        await app.producer.create_topic("orders", 2)
        for number in range(6):
            await orders.send(value=b"v", partition=number % 2)
        await app.producer.flush()
        messages = orders.noack()
        got = [(await anext(messages)).partition for _ in range(6)]
        assert sorted(got[:2]) == [0, 1]
        assert got[:2] == got[2:4] == got[4:]
        await trio.lowlevel.checkpoint()
