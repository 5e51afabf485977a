"""Slow handlers, several at a time, each acking its own message.

A message is acked on a clean exit of `async with message:` alone. The offset that is committed
never passes one that is not, so the tasks may end in any order. What fails here is set aside in a
topic of its own; without that it would end the program, and be delivered again to the next one.
"""

import random
import sys

import trio

from transport import JSON, App

app = App("couriers", broker=sys.argv[1] if len(sys.argv) > 1 else "memory://")
parcels = app.topic("parcels", key_type=str, value_type=JSON)
returned = app.topic("parcels-returned", key_type=str, value_type=JSON)

COURIERS, PARCELS = 8, 200


class AddressUnknown(Exception):
    pass


async def deliver(address):
    await trio.sleep(random.uniform(0, 0.02))
    if address % 50 == 0:
        raise AddressUnknown(address)


async def courier(done):
    async for message in parcels.noack():
        async with message:
            try:
                await deliver(message.value["address"])
            except AddressUnknown:
                await returned.send_and_wait(key=message.key, value=message.value)
        done.append(message.key)
        if len(done) == PARCELS:
            app.stop()  # every courier ends after the message in hand


async def main():
    done = []
    async with app:
        app.stop_on_signals()
        for address in range(PARCELS):
            await parcels.send(key=f"parcel-{address}", value={"address": address})
        async with trio.open_nursery() as nursery:
            for _ in range(COURIERS):
                nursery.start_soon(courier, done)
    print(f"{len(done)} parcels handled")


trio.run(main)
