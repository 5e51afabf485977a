"""An HTTP service on asyncio: it sends a message on a request, and reads in the background.

python examples/http_service.py [BROKER] [PORT]
curl -X POST http://127.0.0.1:8000/greetings/world
curl http://127.0.0.1:8000/greetings

The server and the reader run in one task group, so a crash of the reader ends the server and the
program with its error. If the reader ran in the server's lifespan, the server would go on and
answer 200 after a crash of the reader.
"""

from __future__ import annotations

import sys

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from transport import App
from transport.anyio import open_app

BROKER = sys.argv[1] if len(sys.argv) > 1 else "memory://"
PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 8000


async def greet(request: Request) -> JSONResponse:
    name = request.path_params["name"]
    written = await request.app.state.greetings.send_and_wait(value=name)
    return JSONResponse({"partition": written.partition, "offset": written.offset}, 201)


async def show(request: Request) -> JSONResponse:
    return JSONResponse(request.app.state.seen)


service = Starlette(
    routes=[
        Route("/greetings/{name}", greet, methods=["POST"]),
        Route("/greetings", show),
    ],
)


async def handle(name: str) -> None:
    service.state.seen.append(name)


async def read() -> None:
    async for message in service.state.greetings:
        await handle(message.value)


async def main() -> None:
    async with open_app(App("greetings", broker=BROKER)) as app, anyio.create_task_group() as tasks:
        app.stop_on_signals()  # uvicorn handles a signal first, and raises it again when it ends
        service.state.greetings = app.topic("greetings", value_type=str)
        service.state.seen = []
        tasks.start_soon(read)
        await uvicorn.Server(uvicorn.Config(service, port=PORT)).serve()
        app.stop()  # the reader ends after its current message


if __name__ == "__main__":
    anyio.run(main)
