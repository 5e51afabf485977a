"""The fetcher, item by item: the part that polls the client."""

from __future__ import annotations

import trio

from tests.apps import take
from tests.lanes import Place
from tests.scripted import Function, replace, scripted
from transport import App


async def test_app(place: Place) -> None:
    async with place.opened(1) as app:
        assert app.consumer.fetcher.app is app


async def test_on_stop(place: Place) -> None:
    """It stops fetching, and returns only when no poll is under way."""
    async with place.opened(1, b"0", kind=scripted(App)) as app:
        polls, began = 0, trio.Event()

        async def counted(poll: Function) -> object:
            nonlocal polls
            polls += 1
            began.set()
            try:
                return await poll()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.1)  # the poll returns late
                polls -= 1

        replace(app, "poll", counted)
        messages = app.topic(place.name).noack()
        await take(messages, 1)
        await began.wait()
        assert polls == 1
        await app.consumer.fetcher.on_stop()
        assert polls == 0
        began = trio.Event()
        await app.producer.send_and_wait(place.name, None, b"1", 0)
        with trio.move_on_after(place.a_while):
            await began.wait()
        assert not began.is_set(), "a poll began after the stop"
