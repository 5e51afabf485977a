"""Consume, transform and produce, at least once: a result is written before its source is acked."""

import sys

import trio

from transport import JSON, App

app = App("checkout", broker=sys.argv[1] if len(sys.argv) > 1 else "memory://")
carts = app.topic("carts", key_type=str, value_type=JSON)
invoices = app.topic("invoices", key_type=str, value_type=JSON)

CARTS = 1000


async def checkout() -> None:
    done = 0
    async for batch in carts.batches(200, noack=True):
        async with batch:
            sent = [
                await invoices.send(key=cart.key, value={"total": sum(cart.value["prices"])})
                for cart in batch
            ]
            for delivery in sent:
                await delivery  # raises if the message was not written: the batch stays unacked
        done += len(batch)
        if done >= CARTS:
            return


async def main() -> None:
    async with app:
        app.stop_on_signals()
        for number in range(CARTS):
            await carts.send(key=f"customer-{number % 50}", value={"prices": [number, 1]})
        await checkout()
        billed = 0
        async for invoice in invoices:
            billed += invoice.value["total"]
            if billed >= sum(range(CARTS)) + CARTS:
                app.stop()
    print(f"{billed} billed")


trio.run(main)
