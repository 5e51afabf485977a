"""Runs of trio on a clock that jumps ahead, where nothing can hang a test."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio
import trio.testing

A_DAY = 86400.0


class Hang(AssertionError):
    """Tasks waited for what never came."""


def run(main: Callable[[], Awaitable[None]], instruments: Sequence[Any] = ()) -> None:
    """`trio.run`, with time that jumps ahead when all tasks wait. A hang comes out as an error."""

    async def watched() -> None:
        trio.lowlevel.spawn_system_task(_watch)
        await main()

    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(watched, clock=clock, instruments=instruments)


def jumping(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is an async function, as one that pytest runs on such a clock."""

    @functools.wraps(test)
    def runs(**fixtures: object) -> None:
        run(functools.partial(test, **fixtures))

    del runs.__wrapped__  # else pytest-trio takes it for the async function
    runs.__signature__ = inspect.signature(test)
    return runs


async def _watch() -> None:
    """Break up what still runs after a day, as nothing here is meant to: take the shields off."""
    await trio.sleep(A_DAY)
    root = trio.lowlevel.current_root_task()
    assert root is not None
    tasks = [root]
    for task in tasks:
        status = task._cancel_status
        while status is not None:
            status._scope.shield = False
            status = status.parent
        for nursery in task.child_nurseries:
            tasks.extend(nursery.child_tasks)
    raise Hang
