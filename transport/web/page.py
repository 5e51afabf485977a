"""The page of an app: its files, its state as JSON, and a stream of states.

The files are in `files/`. `files/page.js` draws the states. It asks for one each second, or reads
them from the stream of `Feed`, if there is one.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import anyio
import attrs
import msgspec
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from nurseries import State
from transport.inspecting.health import Health
from transport.inspecting.recent_events import (
    RecentDeadLetter,
    RecentError,
    RecentEvents,
    RecentRebalance,
)
from transport.inspecting.status import Status
from transport.web.guard import Guard

_INTERVAL = 1.0  # seconds between two states
_MOST_READERS = 16  # each costs a status in each interval

_STREAM = "text/event-stream; charset=utf-8"
_FILES = Path(__file__).parent / "files"
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


class Shown(Protocol):
    """An app, or an app for the tasks of asyncio."""

    @property
    def recent_events(self) -> RecentEvents | None: ...

    def health(self, status: Status | None = None) -> Health: ...
    def status(self) -> Status: ...


@attrs.frozen
class Seen:
    """All that the page shows, at one moment.

    Attributes:
        clock: the seconds of a clock that never goes back, for rates.
        has_stream: whether there is a stream of states.
        has_crashed: the app ends, or has ended, because of an error, also one of its block.
        has_events: whether the app keeps its recent events.
        is_last: no state follows, because the app ends or has ended.
    """

    clock: float
    health: Health
    status: Status
    has_stream: bool
    has_crashed: bool
    has_events: bool
    rebalances: tuple[RecentRebalance, ...]
    errors: tuple[RecentError, ...]
    dead_letters: tuple[RecentDeadLetter, ...]
    is_last: bool


def seen(app: Shown, *, has_stream: bool = False, is_last: bool = False) -> Seen:
    """Return all that the page shows now. Costs what `App.status` costs."""
    status, recent = app.status(), app.recent_events
    is_fatal = recent is not None and any(error.ends_app for error in recent.errors)
    return Seen(
        clock=time.monotonic(),
        health=app.health(status),
        status=status,
        has_stream=has_stream,
        has_crashed=status.has_crashed or is_fatal,
        has_events=recent is not None,
        rebalances=() if recent is None else tuple(recent.rebalances),
        errors=() if recent is None else tuple(recent.errors),
        dead_letters=() if recent is None else tuple(recent.dead_letters),
        is_last=is_last or status.tree.state is State.ENDED,
    )


class Feed:
    """The states of an app as a stream of server-sent events: one now, then one each second.

    The stream ends with the app, or at a call of `end`. Its last state has `is_last`. A server that
    waits for its open requests before it ends, as uvicorn does, must call `end` first.
    """

    def __init__(self, app: Shown) -> None:
        self._app = app
        self._readers: set[anyio.Event] = set()  # of each, the event that `end` sets
        self._is_ending = False
        self._emptied: anyio.Event | None = None  # set when `end` waits and no reader is left

    @trio.lowlevel.enable_ki_protection
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await Response(media_type=_STREAM)(scope, receive, send)
            return
        if len(self._readers) >= _MOST_READERS:
            text = f"{_MOST_READERS} pages show this app already: close some of them\n"
            await PlainTextResponse(text, 503)(scope, receive, send)
            return
        ending = anyio.Event()
        self._readers.add(ending)
        try:
            async with anyio.create_task_group() as tasks:

                async def write() -> None:
                    await self._write(send, ending)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(write)
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()
        finally:
            self._readers.remove(ending)
            if not self._readers and self._emptied is not None:
                self._emptied.set()

    async def end(self) -> None:
        """Send the last state to all readers. Return when they have it.

        A checkpoint if there are any. Cancelled: some readers may not have it.
        """
        self._is_ending = True
        for ending in self._readers:
            ending.set()
        if self._readers:
            self._emptied = anyio.Event()
            await self._emptied.wait()

    @trio.lowlevel.enable_ki_protection
    async def _write(self, send: Send, ending: anyio.Event) -> None:
        headers = [(b"content-type", _STREAM.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            state = seen(self._app, has_stream=True, is_last=self._is_ending)
            body = b"data: " + msgspec.json.encode(state) + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
            if state.is_last:
                break
            with anyio.move_on_after(_INTERVAL):
                await ending.wait()
        await send({"type": "http.response.body", "body": b""})


def page(app: Shown, *, remote: bool = False) -> ASGIApp:
    """Return an ASGI app with a page that shows a running app, to mount in your own.

    Nothing can be changed through it. It shows topics, offsets, the tasks, and the texts of errors,
    but no keys and no values. Without recent events, the page shows no rebalances, errors and dead
    letters: make the app with `monitor=RecentEvents()`.

    Args:
        app: an `App`, or an `AioApp` in an asyncio program. It need not be open yet.
        remote: False: only programs of this machine get an answer, and only if they ask for
            localhost or a loopback address. True: all that can connect get an answer. Choose that
            only behind a login.
    """
    return page_with(app, None, remote=remote)


def page_with(app: Shown, feed: Feed | None, *, remote: bool) -> ASGIApp:
    """Return the page with a feed, which its caller ends."""

    async def status(request: Request) -> Response:
        state = seen(app, has_stream=feed is not None)
        return Response(msgspec.json.encode(state), media_type="application/json")

    routes = [
        Route("/", _file("page.html")),
        *[Route(f"/{name}", _file(name)) for name in ("page.css", "page.js", "icon.svg")],
        Route("/status.json", status),
    ]
    if feed is not None:
        routes.append(Route("/events", feed, methods=["GET"]))
    return Guard(Starlette(routes=routes), remote=remote)


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    content = (_FILES / name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=_TYPES[Path(name).suffix])

    return answer
