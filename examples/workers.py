"""Slow handlers that run at the same time. Each acks its own message.

`async with message:` acks the message only on a clean exit. The committed offset never passes an
unacked message, so the handlers may end in any order. A message that cannot be handled is sent to
another topic. Otherwise its error would end the program, and the next program would receive the
message again.
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


async def deliver(address: int) -> None:
    await trio.sleep(random.uniform(0, 0.02))
    if address % 50 == 0:
        raise AddressUnknown(address)


async def courier(done: list[str]) -> None:
    async for message in parcels.noack():
        async with message:
            try:
                await deliver(message.value["address"])
            except AddressUnknown:
                await returned.send_and_wait(key=message.key, value=message.value)
        done.append(message.key)
        if len(done) == PARCELS:
            app.stop()  # each courier ends after its current message


async def main() -> None:
    done: list[str] = []
    async with app:
        app.stop_on_signals()
        for address in range(PARCELS):
            await parcels.send(key=f"parcel-{address}", value={"address": address})
        async with trio.open_nursery() as nursery:
            for _ in range(COURIERS):
                nursery.start_soon(courier, done)
    print(f"{len(done)} parcels handled")


trio.run(main)
