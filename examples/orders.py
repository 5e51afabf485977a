"""The smallest service: send, and handle messages until Ctrl-C or SIGTERM."""

import sys

import trio

from transport import App

app = App("orders", broker=sys.argv[1] if len(sys.argv) > 1 else "memory://")
orders = app.topic("orders")


async def main():
    async with app:
        app.stop_on_signals()  # finish the message in hand, commit, leave the group
        await orders.send(key=b"k", value=b"v")
        async for message in orders:  # acked when the next one is asked for
            print(message.tp, message.offset, message.value, flush=True)


trio.run(main)
