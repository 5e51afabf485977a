"""`open_app`, which opens an app in an anyio program.

Look here for what cancels the block on asyncio, and which errors the block raises.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import anyio
import trio

from transport.anyio.app import AioApp
from transport.anyio.either import AnyApp
from transport.anyio.guest import guest_of_loop
from transport.app import App
from transport.arguments import instance


@contextlib.asynccontextmanager
async def open_app(app: App) -> AsyncIterator[AnyApp]:
    """Open an app in an anyio program, as `async with app:` does in a trio program.

    A checkpoint on entry and on exit. An error in the tree cancels the block, and the block raises
    it in an exception group. However the block ends, also by cancelling, the app closes in order,
    within `grace` seconds.

    On trio, the block gets the app itself. On asyncio, it gets an `AioApp`, which offers the same
    calls to the tasks of asyncio.
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
                    # The app has crashed, or the time after a signal is up. The error of a crash
                    # cancels the block in the end. In the other case only this call cancels it.
                    loop.call_soon(tasks.cancel_scope.cancel)
                    raise

        life = guest.start(live)

        async def watch() -> None:
            try:
                await life.wait_out(lambda: guest.soon(closing.set))
            except trio.BrokenResourceError:
                if not life.scope.cancel_called:  # else the code below cancelled the opening
                    raise

        tasks.start_soon(watch)  # an error of the app cancels the block, and the group raises it
        try:
            await opened.wait()
            yield AioApp(app, guest)
        finally:
            guest.soon(closing.set if opened.is_set() else life.scope.cancel)
            with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
                await life.wait(lambda: None)
