"""Cancel a part of a scenario after each of its steps, and check what the cancel leaves behind.

A step is the code that a task runs from one checkpoint to the next. The scenario is played once
without a cancel, to count the steps that tasks make inside the target block. Then it is played
again, on a fresh object each time. The block is cancelled at once, then after the first step, and
so on up to the last step. The rest of the scenario and its final check show what a cancelled call
leaves behind.
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
    """Code to play, and a check that must pass wherever the code is cancelled."""

    async def play(self, target: Target) -> None:
        """Run the whole scenario, on a clock that jumps.

        The block inside `with target:` is cancelled. It is the whole scenario, or a call in the
        middle after which the scenario goes on.
        """

    def check(self) -> None:
        """Raise AssertionError if a condition does not hold. Called after the run."""


class LeftBehind(AssertionError):
    """Threads or file descriptors outlived the run."""


class Target(trio.abc.Instrument):
    """A block that is cancelled after a given number of steps of any tasks.

    Attributes:
        scope: the cancel scope of the block.
        steps: the number of steps that were made inside the block.
        task: a remark that names the task of the last step before the cancel.
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
    """Play a scenario, then again with a cancel after each step. Return the number of cancels.

    Errors have a note that says when the scenario was cancelled.

    Args:
        make: returns a fresh scenario for each run.
        seed: decides the order in which ready tasks run.
        every: cancel only after every Nth step.
        expected: errors that a cancelled scenario may raise.

    Raises:
        AssertionError: the scenario's check failed.
        LeftBehind: threads or file descriptors outlived a run.
        BaseException: the scenario raised an error that is not among `expected`.
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
            raise LeftBehind(f"threads outlived the run: {sorted(thread.name for thread in left)}")
        if (more := _open_files() - files) > 0:
            raise LeftBehind(f"{more} file descriptors outlived the run")
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
    """Return the number of open file descriptors, or 0 if the system does not list them."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0
