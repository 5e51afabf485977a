"""A FastAPI service on asyncio: it sends an order on a request, and handles it in the background.

python examples/fastapi_service.py [BROKER] [PORT]
curl -X POST http://127.0.0.1:8000/orders --json '{"customer": "eve", "amount": 25}'
curl http://127.0.0.1:8000/totals
curl http://127.0.0.1:8000/health/readyz

The server runs in the block of the app, so a handler that fails for good ends the server and the
program with its error. If the app ran in the server's lifespan, the server would go on and answer
200 without it.
"""

from __future__ import annotations

import sys
from collections import Counter

import anyio
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, PositiveInt

from transport import App, Message
from transport.anyio import AioApp, open_app
from transport.web import probes

BROKER = sys.argv[1] if len(sys.argv) > 1 else "memory://"
PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 8000


class Order(BaseModel):
    customer: str
    amount: PositiveInt


def service_of(app: AioApp) -> FastAPI:
    service = FastAPI()
    service.mount("/health", probes(app))  # /health/livez, /health/readyz, /health/metrics
    orders = app.topic("shop.orders", key_type=str, value_type=Order)
    totals = Counter[str]()

    @service.post("/orders", status_code=201)
    async def take(order: Order) -> dict[str, int]:
        written = await orders.send_and_wait(key=order.customer, value=order)
        return {"partition": written.partition, "offset": written.offset}

    @service.get("/totals")
    async def show() -> dict[str, int]:
        return totals

    @app.handler(orders, concurrency=20, order="key")
    async def bill(message: Message[str, Order]) -> None:
        totals[message.value.customer] += message.value.amount

    return service


async def main() -> None:
    async with open_app(App("shop", broker=BROKER)) as app:
        assert isinstance(app, AioApp)  # on asyncio
        app.stop_on_signals()  # uvicorn handles a signal first, and raises it again when it ends
        await uvicorn.Server(uvicorn.Config(service_of(app), port=PORT)).serve()


if __name__ == "__main__":
    anyio.run(main)
