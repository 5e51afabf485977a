"""An HTTP service on asyncio: it writes on a request, and reads in the background.

python examples/http_service.py [BROKER] [PORT]
curl -X POST http://127.0.0.1:8000/greetings/world
curl http://127.0.0.1:8000/greetings
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

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


@asynccontextmanager
async def lifespan(service: Starlette) -> AsyncIterator[dict[str, Any]]:
    seen: list[str] = []
    async with open_app(App("greetings", broker=BROKER)) as app, anyio.create_task_group() as tasks:
        greetings = app.topic("greetings", value_type=str)

        async def read() -> None:
            async for message in greetings:
                seen.append(message.value)

        tasks.start_soon(read)
        yield {"greetings": greetings, "seen": seen}
        app.stop()  # the reader ends after the message in hand


async def greet(request: Request) -> JSONResponse:
    written = await request.state.greetings.send_and_wait(value=request.path_params["name"])
    return JSONResponse({"partition": written.partition, "offset": written.offset}, 201)


async def show(request: Request) -> JSONResponse:
    return JSONResponse(request.state.seen)


service = Starlette(
    routes=[
        Route("/greetings/{name}", greet, methods=["POST"]),
        Route("/greetings", show),
    ],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(service, port=PORT)
