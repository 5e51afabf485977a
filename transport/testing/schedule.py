"""Runs of trio that are the same each time: time jumps, and tasks take turns by a seed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from unittest import mock

import trio
import trio.testing

from transport.arguments import function, instance, or_none

T = TypeVar("T")

PATIENCE = 86_400.0  # seconds on the clock that jumps: nothing is meant to take a day


class Hang(AssertionError):
    """Tasks waited for what never came."""


def run(
    main: Callable[[], Awaitable[T]],
    *,
    seed: int | None = 0,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """Run an async function, on a clock that jumps to the next deadline when all tasks wait.

    The same function with the same seed makes the same steps in the same order, as long as it uses
    no thread, no real time and no order of a set.

    Args:
        seed: of the order in which trio lets tasks that are ready go on. None: leave that as it is,
            for example to Hypothesis, which knows of it.
        instruments: as for `trio.run`.

    Raises:
        Hang: tasks still waited after a day on that clock: those that the text names. Whatever they
            wait for is cancelled, shielded or not.
    """
    function("main", main, "an async function without arguments")
    or_none(instance, "seed", seed, kind=int, expected="an int or None")
    hangs: list[Hang] = []

    async def watched() -> T:
        trio.lowlevel.spawn_system_task(_watch, hangs)
        return await main()

    clock = trio.testing.MockClock(autojump_threshold=0)
    with contextlib.nullcontext() if seed is None else _seeded(seed):
        try:
            return trio.run(watched, clock=clock, instruments=instruments)
        finally:
            if hangs:
                raise hangs[0]


def _seeded(seed: int) -> contextlib.AbstractContextManager[object]:
    """Let trio's scheduler take its chances from a seed.

    Private names of trio, which its own plugin for Hypothesis sets as well: there is no public way.
    """
    return mock.patch.multiple(
        "trio._core._run", _r=random.Random(seed), _ALLOW_DETERMINISTIC_SCHEDULING=True
    )


async def _watch(hangs: list[Hang]) -> None:
    """Break up what still runs after a day: take the shields off, and cancel all."""
    await trio.sleep(PATIENCE)
    root = trio.lowlevel.current_root_task()
    assert root is not None
    tasks = [root]
    for task in tasks:
        status: Any = task._cancel_status
        while status is not None:
            status._scope.shield = False
            status = status.parent
        for nursery in task.child_nurseries:
            tasks.extend(nursery.child_tasks)
    waiting = filter(None, map(_where, tasks))
    hangs.append(Hang("these tasks waited for what never came:\n" + "\n".join(waiting)))
    raise hangs[0]  # which cancels every task


def _where(task: trio.lowlevel.Task) -> str:
    """The last functions outside of trio that a task is in; "" for one of trio's own."""
    frames = [
        frame.f_code.co_qualname
        for frame, _ in task.iter_await_frames()
        if not frame.f_globals.get("__name__", "").startswith(("trio.", __name__))
    ]
    return f"{task.name}: {' > '.join(frames[-3:])}" if frames else ""
