"""Opening an app in an anyio program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import anyio
import trio

from transport.anyio.guest import guest_of_loop
from transport.anyio.wrappers import AioApp
from transport.app import App
from transport.arguments import instance

AnyApp: TypeAlias = Any  # an App on trio, an AioApp on asyncio: two classes with the same calls


@contextlib.asynccontextmanager
async def open_app(app: App) -> AsyncIterator[AnyApp]:
    """Open an app in an anyio program; what `async with app:` is to a trio program.

    A checkpoint on both sides. An error in the tree cancels the block and comes out of it in an
    exception group. However the block ends, also by cancelling, the app is closed in order,
    within its `grace`.

    Returns the app itself on trio, and on asyncio an `AioApp`, which offers the same calls to the
    tasks of asyncio.
    """
    instance("app", app, App, "an App")
    if trio.lowlevel.in_trio_task():
        async with app:
            yield app
        return
    async with guest_of_loop() as guest, anyio.create_task_group() as tasks:
        opened, closing, loop = asyncio.Event(), trio.Event(), asyncio.get_running_loop()

        async def live() -> None:
            async with app:
                opened.set()
                try:
                    await closing.wait()
                except trio.Cancelled:
                    # A crash, whose error cancels our block in the end, or the time after a signal
                    # is up: then nothing but this does.
                    loop.call_soon(tasks.cancel_scope.cancel)
                    raise

        life = guest.start(live)

        async def watch() -> None:
            try:
                await life.wait_out(lambda: guest.soon(closing.set))
            except trio.BrokenResourceError:
                if not life.scope.cancel_called:  # else it is we who have cancelled the opening
                    raise

        tasks.start_soon(watch)  # what goes wrong cancels us, and comes out of the group
        try:
            await opened.wait()
            yield AioApp(app, guest)
        finally:
            guest.soon(closing.set if opened.is_set() else life.scope.cancel)
            with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
                await life.wait(lambda: None)
