"""Cancel a piece of a scenario at each moment of its life, and look at what is left.

A scenario is played once to count the steps that tasks make while it is within the block that is
to be cancelled: a step is what a task does from one checkpoint to the next. Then it is played again
and again, on a fresh object each time, and the block is cancelled at once, after the first step,
the second, ... the last. What a cancelled call leaves behind shows in how the scenario goes on, and
in what it checks at the end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import trio

from transport.arguments import function, whole
from transport.testing.schedule import run


class Scenario(Protocol):
    """What is played, and what must be true whenever it was cancelled."""

    async def play(self, target: Target) -> None:
        """The whole life of it, on a clock that jumps. What is `with target:` is cancelled; that is
        all of it, or a call in the middle after which it goes on."""

    def check(self) -> None:
        """Raise AssertionError where something must not be so. Called after the run."""


class LeftBehind(AssertionError):
    """Threads or file descriptors outlived the run."""


class Target(trio.abc.Instrument):
    """A block that is cancelled after so many steps of any tasks.

    Attributes:
        scope: of the block.
        steps: that were made within it.
        task: who made the last step before it was cancelled, as a remark.
    """

    def __init__(self, step: int | None) -> None:
        self.scope = trio.CancelScope()
        self.steps = 0
        self.task = ""
        self._step = step
        self._is_within = False

    def __enter__(self) -> Self:
        self.scope.__enter__()
        self._is_within = True
        if self._step == 0:
            self.scope.cancel()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._is_within = False
        return self.scope.__exit__(kind, error, trace)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._is_within:
            self.steps += 1
            if self.steps == self._step:
                self.task = f"(the last of {task.name})"
                self.scope.cancel()


def cancel_everywhere(
    make: Callable[[], Scenario],
    *,
    seed: int = 0,
    every: int = 1,
    expected: type[BaseException] | tuple[type[BaseException], ...] = (),
) -> int:
    """Play a scenario, and again cancelled after each step; how many times it was cancelled.

    Args:
        make: a fresh one, for each time it is played.
        seed: of the order in which tasks that are ready go on.
        every: cancel after every so-maniest step only.
        expected: what may come out of a scenario that was cancelled.

    Raises:
        AssertionError: of the scenario's check, or LeftBehind; with a note that says when it was
            cancelled. So does whatever else comes out of it.
    """
    function("make", make, "a function that makes a fresh Scenario")
    whole("every", every, least=1)
    steps = range(0, _play(make(), None, seed, ()) + 1, every)
    for step in steps:
        _play(make(), step, seed, expected)
    return len(steps)


def _play(
    scenario: Scenario,
    step: int | None,
    seed: int,
    expected: type[BaseException] | tuple[type[BaseException], ...],
) -> int:
    target = Target(step)
    threads, files = set(threading.enumerate()), _open_files()
    try:
        try:
            run(lambda: scenario.play(target), seed=seed, instruments=[target])
        except BaseException as error:
            if step is None or not _is_all(error, expected):
                raise
        if left := set(threading.enumerate()) - threads:
            raise LeftBehind(f"threads: {sorted(thread.name for thread in left)}")
        if (more := _open_files() - files) > 0:
            raise LeftBehind(f"{more} file descriptors")
        scenario.check()
    except BaseException as error:
        when = "not cancelled" if step is None else f"cancelled after {step} steps {target.task}"
        error.add_note(f"{type(scenario).__name__}: {when} (seed {seed})")
        raise
    return target.steps


def _is_all(
    error: BaseException, expected: type[BaseException] | tuple[type[BaseException], ...]
) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_all(part, expected) for part in error.exceptions)
    return isinstance(error, expected)


def _open_files() -> int:
    """How many file descriptors the process has; 0 where the system does not tell."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0
