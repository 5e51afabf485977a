"""The smallest program: send, and handle what comes until Ctrl-C."""

import sys

import trio

from transport import App

app = App("orders", broker=sys.argv[1] if len(sys.argv) > 1 else "memory://")
orders = app.topic("orders")


async def main():
    async with app:
        await orders.send(key=b"k", value=b"v")
        async for message in orders:  # acked when the next one is asked for
            print(message.tp, message.offset, message.value, flush=True)


try:
    trio.run(main)
except* KeyboardInterrupt:
    pass  # what was acked is committed
