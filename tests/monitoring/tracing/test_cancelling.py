"""Each span ends once, wherever the app is cancelled."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from opentelemetry.sdk.trace import TracerProvider

from tests.apps import A_WHILE, broker_with, committed
from tests.effort import EVERY
from tests.monitoring.tracing.recording import BILLS, DEAD, ORDERS, Balance
from transport import App, Message, Retry
from transport.monitoring.tracing import Tracing
from transport.testing import Target, cancel_everywhere


class Cancelled:
    """An app that sends in each way, and handles with retries and dead letters."""

    def __init__(self, transactions: str | None) -> None:
        self.broker = broker_with(ORDERS, BILLS, DEAD)
        self.balance = Balance()
        provider = TracerProvider()
        provider.add_span_processor(self.balance)
        self.tracing = Tracing(provider)
        self.transactions: Any = transactions

    async def play(self, target: Target) -> None:
        with trio.fail_after(1000), target:
            async with App(
                "group",
                self.broker,
                tracing=self.tracing,
                transactions=self.transactions,
                send_buffer_messages=2,
                grace=5.0,
            ) as app:
                orders, bills = app.topic("orders"), app.topic("bills")

                @app.handler(orders, retry=Retry(attempts=2), dead_letters=app.topic("dead"))
                async def bill(message: Message[bytes, bytes]) -> None:
                    await bills.send(value=b"a bill")
                    if message.offset % 2:
                        raise ValueError
                    bills.send_soon(value=b"a copy")
                    await trio.sleep(0.1)

                await orders.send_and_wait(value=b"1", source=None)
                many = [(None, b"%d" % number) for number in range(4)]
                await (await orders.send_many(many, source=None))
                await orders.send_soon(value=b"6", source=None)
                await trio.sleep(A_WHILE)
                assert committed(self.broker)[ORDERS] == 6

    def check(self) -> None:
        assert self.balance.begun > 0 or not self.broker.log(ORDERS).end
        assert self.balance.open == set()
        assert self.tracing.unfinished == 0


@pytest.mark.parametrize("transactions", [None, "member"])
def test_each_span_ends_once_wherever_the_app_is_cancelled(transactions: str | None) -> None:
    assert cancel_everywhere(lambda: Cancelled(transactions), every=EVERY) > 0
