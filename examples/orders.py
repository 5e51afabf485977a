"""The smallest service: send a message, and handle messages until Ctrl-C or SIGTERM."""

import sys

import trio

from transport import App

app = App("orders", broker=sys.argv[1] if len(sys.argv) > 1 else "memory://")
orders = app.topic("orders")


async def main() -> None:
    async with app:
        app.stop_on_signals()  # finish the current message, commit, leave the group
        await orders.send(key=b"k", value=b"v")
        async for message in orders:  # acked when the loop requests the next message
            print(message.tp, message.offset, message.value, flush=True)


trio.run(main)
