"""Reproducible runs of trio: the clock jumps, and a seed decides the order of tasks."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar
from unittest import mock

import trio
import trio.testing

from transport.arguments import function, instance, or_none, seconds

T = TypeVar("T")

PATIENCE = 86_400.0  # seconds on the clock that jumps: few runs are meant to take a day


class Hang(AssertionError):
    """Tasks waited for an event that never happened."""


def run(
    main: Callable[[], Awaitable[T]],
    *,
    seed: int | None = 0,
    instruments: Sequence[trio.abc.Instrument] = (),
    patience: float = PATIENCE,
) -> T:
    """Run an async function, on a clock that jumps to the next deadline when all tasks wait.

    The same function with the same seed makes the same steps in the same order, unless it uses
    threads, real time or the order of a set.

    Args:
        seed: decides the order in which trio runs ready tasks, and the random numbers of `random`,
            such as those in the delays of `Retry`. None: leave both to trio and Python, or to
            Hypothesis, which can set them too.
        instruments: as for `trio.run`.
        patience: the most seconds of a run, on that clock. By default, a day.

    Raises:
        Hang: tasks still waited after `patience` seconds. The text names them. All tasks are
            cancelled, shielded or not.
    """
    function("main", main, "an async function without arguments")
    or_none(instance, "seed", seed, kind=int, expected="an int or None")
    seconds("patience", patience)
    return run_while(main, lambda: patience, seed=seed, instruments=instruments)


def run_while(
    main: Callable[[], Awaitable[T]],
    most: Callable[[], float],
    *,
    seed: int | None = 0,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """Run an async function as `run` does, with a patience that may grow during the run.

    Args:
        most: returns the most seconds of the run, as known at the time of the call.
    """
    hangs: list[Hang] = []

    async def watched() -> T:
        trio.lowlevel.spawn_system_task(_watch, hangs, most)
        return await main()

    clock = trio.testing.MockClock(autojump_threshold=0)
    with contextlib.nullcontext() if seed is None else _seeded(seed):
        try:
            return trio.run(watched, clock=clock, instruments=instruments)
        finally:
            if hangs:
                raise hangs[0]


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """In the block, take the random choices of trio's scheduler and of `random` from a seed.

    There is no public way for trio, so it sets private names of trio. Trio's plugin for Hypothesis
    sets the same names.
    """
    before = random.getstate()
    random.seed(seed)
    try:
        with mock.patch.multiple(
            "trio._core._run", _r=random.Random(seed), _ALLOW_DETERMINISTIC_SCHEDULING=True
        ):
            yield
    finally:
        random.setstate(before)


async def _watch(hangs: list[Hang], most: Callable[[], float]) -> None:
    """End a run that has not ended in time: remove all shields, and cancel all tasks."""
    began = trio.current_time()
    while True:
        end = began + most()
        if end <= trio.current_time():
            break
        await trio.sleep_until(end)
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
    hangs.append(Hang("these tasks wait for an event that never happens:\n" + "\n".join(waiting)))
    raise hangs[0]  # which cancels every task


def _where(task: trio.lowlevel.Task) -> str:
    """Return the innermost functions of a task outside of trio, or "" for a task of trio itself."""
    frames = [
        frame.f_code.co_qualname
        for frame, _ in task.iter_await_frames()
        if not frame.f_globals.get("__name__", "").startswith(("trio.", __name__))
    ]
    return f"{task.name}: {' > '.join(frames[-3:])}" if frames else ""
