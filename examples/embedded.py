"""An app in an anyio program on the trio backend, where it works without a wrapper."""

import sys

import anyio

from transport import App

app = App("greetings", broker=sys.argv[1] if len(sys.argv) > 1 else "memory://")
names = app.topic("names", value_type=str)


async def greet() -> None:
    async for message in names:
        print(f"Hello {message.value}")
        if message.value == "world":
            app.stop()


async def main() -> None:
    async with app, anyio.create_task_group() as group:
        app.stop_on_signals()
        group.start_soon(greet)
        await names.send(key=b"1", value="you")
        await names.send(key=b"1", value="world")


anyio.run(main, backend="trio")
