"""A live feed: each process sends each new message to all browsers that are connected to it.

python examples/fan_out.py [BROKER] [PORT]
websocat ws://127.0.0.1:8000/feed
curl -X POST http://127.0.0.1:8000/prices/gold/2000

With `client_only=True` the app has no group, so every process reads all partitions, from their
ends. A browser that is slower than the feed is disconnected, and delays no other browser.
"""

from __future__ import annotations

import sys
from typing import Any

import hypercorn.trio
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from transport import App

BROKER = sys.argv[1] if len(sys.argv) > 1 else "memory://"
PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
WAITING = 100  # messages that may wait for one browser
PATIENCE = 10.0  # seconds in which a browser takes a message
TRY_AGAIN = 1013  # the code for a server that cannot keep up with this client

app = App("prices", broker=BROKER, client_only=True, auto_offset_reset="latest")
prices = app.topic("prices", key_type=str, value_type=str)
browsers: set[trio.MemorySendChannel[str]] = set()


async def change(request: Request) -> Response:
    await prices.send_and_wait(key=request.path_params["name"], value=request.path_params["price"])
    return Response(status_code=201)


async def feed(browser: WebSocket) -> None:
    await browser.accept()
    entry, waiting = trio.open_memory_channel[str](WAITING)
    browsers.add(entry)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_when_gone, browser, nursery.cancel_scope)
            async for line in waiting:
                with trio.move_on_after(PATIENCE) as sending:
                    await browser.send_text(line)
                if sending.cancelled_caught:
                    break
            nursery.cancel_scope.deadline = trio.current_time() + PATIENCE
            await browser.close(TRY_AGAIN)
            nursery.cancel_scope.cancel()
    finally:
        browsers.discard(entry)
        entry.close()


async def cancel_when_gone(browser: WebSocket, scope: trio.CancelScope) -> None:
    async for _ in browser.iter_text():
        pass  # a browser says nothing, until it leaves
    scope.cancel()


async def publish() -> None:
    async for message in prices:
        line = f"{message.key} {message.value}"
        for entry in list(browsers):
            try:
                entry.send_nowait(line)
            except trio.WouldBlock:
                browsers.discard(entry)
                entry.close()  # `feed` sends the lines that wait, and ends


service: Any = Starlette(  # hypercorn describes an ASGI app by other types
    routes=[
        Route("/prices/{name}/{price}", change, methods=["POST"]),
        WebSocketRoute("/feed", feed),
    ]
)


async def main() -> None:
    config = hypercorn.Config()
    config.bind = [f"127.0.0.1:{PORT}"]
    async with app, trio.open_nursery() as nursery:
        app.stop_on_signals()
        nursery.start_soon(publish)
        await hypercorn.trio.serve(service, config, shutdown_trigger=app.wait_stopped)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
