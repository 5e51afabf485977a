"""An enrichment worker: many slow lookups at once, retries, and a topic for orders that fail.

python examples/enrichment.py kafka://HOST:PORT

It reads JSON such as {"customer":"Eve","amount":25} from the topic `orders`, and writes to
`orders.enriched`. The orders of each key keep their order. SIGTERM and Ctrl-C end it.
"""

import sys

import trio
from msgspec import Struct

from transport import App, Message, Retry


class Order(Struct):
    customer: str
    amount: int
    city: str | None = None


app = App("enrichment", broker=sys.argv[1] if len(sys.argv) > 1 else "memory://")
orders = app.topic("orders", key_type=str, value_type=Order)
enriched = app.topic("orders.enriched", key_type=str, value_type=Order)


async def look_up(order: Order) -> Order:
    await trio.sleep(0.01)  # as a request to a service of addresses
    if not order.customer:
        raise ValueError("the order has no customer")
    return Order(order.customer, order.amount, "Berlin")


@app.handler(
    orders,
    concurrency=100,
    order="key",
    timeout=5.0,
    retry=Retry(attempts=5, wait_initial=0.1, wait_max=30.0, on=(OSError, TimeoutError)),
    dead_letters=app.topic("orders.dead"),
)
async def enrich(message: Message[str, Order]) -> None:
    await enriched.send(key=message.key, value=await look_up(message.value))


if __name__ == "__main__":
    app.run()
