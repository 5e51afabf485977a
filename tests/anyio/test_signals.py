"""Tests of `stop_on_signals` on asyncio, and of an app opened there without `open_app`."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import anyio
import pytest

from tests.apps import broker_with
from transport import TP, App
from transport.anyio import open_app
from transport.drivers.memory import MemoryBroker

ORDERS = TP("orders", 0)


async def handle(
    broker: MemoryBroker, done: list[int], *signals: signal.Signals, **options: Any
) -> None:
    """Raise the signals while the loop handles the second of ten messages, for 0.3 s or more."""
    async with open_app(App("orders", broker)) as app:
        app.stop_on_signals(**options)
        async for message in app.topic("orders"):
            if message.offset == 1:
                for number in signals:
                    signal.raise_signal(number)
                    await asyncio.sleep(0.05)
                await asyncio.sleep(30.0 if options else 0.3)
            done.append(message.offset)


@pytest.mark.parametrize("signals", [["SIGTERM"], ["SIGINT"], ["SIGTERM", "SIGTERM"]])
def test_a_signal_lets_the_handler_finish_the_message_in_hand(signals: list[str]) -> None:
    broker, done = broker_with(ORDERS, records=10), list[int]()
    asyncio.run(handle(broker, done, *(signal.Signals[name] for name in signals)))
    assert done == [0, 1]
    assert broker.committed("orders") == {ORDERS: 2}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_that_takes_too_long_is_cancelled() -> None:
    broker, done = broker_with(ORDERS, records=10), list[int]()

    async def main() -> None:
        with anyio.fail_after(20.0):
            await handle(broker, done, signal.SIGTERM, timeout=0.2)

    asyncio.run(main())
    assert done == [0]
    assert broker.committed("orders") == {ORDERS: 1}


def test_a_second_ctrl_c_raises_keyboard_interrupt() -> None:
    broker, done = broker_with(ORDERS, records=10), list[int]()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(handle(broker, done, signal.SIGINT, signal.SIGINT))
    assert done == [0]
    assert broker.committed("orders") == {ORDERS: 1}


def test_wait_stopped_returns_at_a_signal() -> None:
    async def main() -> None:
        async with open_app(App("orders")) as app:
            app.stop_on_signals()
            asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
            with anyio.fail_after(20.0):
                await app.wait_stopped()

    asyncio.run(main())


def test_opening_an_app_on_asyncio_without_open_app_raises_an_error_that_names_it() -> None:
    async def main() -> None:
        async with App("orders"):
            raise AssertionError

    with pytest.raises(RuntimeError, match=r"'orders' was opened outside of trio.*open_app\(app\)"):
        asyncio.run(main())
