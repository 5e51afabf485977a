"""An agent of Faust, migrated. The comments have the lines of Faust.

python examples/faust_agent.py [BROKER]
"""

import sys

import trio
from msgspec import Struct  # faust: class Order(faust.Record)

from transport import App, Message

# faust: app = faust.App("shop", broker="kafka://127.0.0.1:9092")
app = App("shop", broker=sys.argv[1] if len(sys.argv) > 1 else "memory://")


class Order(Struct):
    account: str
    amount: int


# faust: orders_topic = app.topic("shop.orders", key_type=str, value_type=Order)
orders = app.topic("shop.orders", key_type=str, value_type=Order)
bills = app.topic("shop.bills", key_type=str, value_type=int)

ORDERS = 100
billed = 0


# faust: @app.agent(orders_topic, concurrency=10)
# faust: async def bill(orders):
# faust:     async for order in orders:
@app.handler(orders, concurrency=10, order="key")  # Faust keeps no order with concurrency
async def bill(message: Message[str, Order]) -> None:
    global billed
    order = message.value
    # faust: await bills_topic.send(key=order.account, value=order.amount)
    await bills.send(key=order.account, value=order.amount)
    billed += 1
    if billed == ORDERS:
        app.stop()  # a service does not stop here


# faust: @app.timer(interval=1.0)
async def report() -> None:
    while True:
        await trio.sleep(1.0)
        print(f"{billed} billed so far")


async def main() -> None:
    async with app, trio.open_nursery() as nursery:
        app.stop_on_signals()
        nursery.start_soon(report)
        for number in range(ORDERS):
            account = f"account {number % 7}"
            await orders.send(key=account, value=Order(account, number))
        await app.wait_stopped()
        nursery.cancel_scope.cancel()
    print(f"{billed} billed")


trio.run(main)  # faust: app.main()
