"""Tests of trio as a guest of an asyncio loop: its start, its end, and Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import pytest

from transport import App
from transport.anyio import open_app
from transport.drivers.memory import MemoryBroker

# More turns of the loop than an app takes to open, or to close.
TURNS = 60


async def sends(broker: MemoryBroker) -> None:
    async with open_app(App("after", broker)) as app:
        await app.topic("orders").send_and_wait(value=b"v")


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("count", range(TURNS))
def test_cancelling_a_task_that_opens_an_app_raises_cancelled_error(count: int) -> None:
    async def main() -> None:
        broker = MemoryBroker()

        async def program() -> None:
            async with open_app(App("app", broker)):
                await asyncio.Event().wait()

        task = asyncio.create_task(program())
        await turns(count)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await sends(broker)

    asyncio.run(main())


@pytest.mark.parametrize("count", range(TURNS))
def test_an_app_can_be_opened_while_the_last_one_closes(count: int) -> None:
    async def main() -> None:
        broker, opened = MemoryBroker(), asyncio.Event()

        async def program() -> None:
            async with open_app(App("app", broker)):
                opened.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(program())
            await opened.wait()
            await turns(count)
            await sends(broker)

    asyncio.run(main())


@pytest.mark.parametrize("count", range(TURNS))
def test_the_app_raises_a_keyboard_interrupt_that_trio_receives(count: int) -> None:
    """Without a signal handler such as that of `asyncio.run`, Ctrl-C interrupts trio."""

    async def program(opened: asyncio.Event) -> None:
        async with open_app(App("app", MemoryBroker())) as app:
            opened.set()
            async for _ in app.topic("orders"):
                pytest.fail("the topic has no message")

    async def main() -> None:
        opened = asyncio.Event()
        task = asyncio.create_task(program(opened))
        await opened.wait()
        signal.raise_signal(signal.SIGINT)
        await turns(count)
        task.cancel()
        with pytest.raises(BaseExceptionGroup) as raised:
            await task
        assert raised.group_contains(KeyboardInterrupt)

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(main())
