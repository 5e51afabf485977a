"""Attacks on each step of a tree: a cancel, a stop, a crash or a Ctrl-C.

After each attack the tree must end: no task hangs or is left, `on_stop` is called for each
`on_start`, and parents end after their children.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import trio

import nurseries.service
from nurseries import Service, ServiceError, State, running
from tests.nurseries.clock import run
from tests.nurseries.ctrl_c import AtLine
from tests.nurseries.errors import leaves


class Attack(Exception):
    """The error of a crash."""


class Part(Service):
    """A service with children, tasks and work in each hook."""

    def __init__(self, name: str, *children: Part) -> None:
        super().__init__(name, grace=10)
        self.parts = children
        self.crashes = trio.Event()
        self.starts = self.stops = 0
        self.tasks = 0

    async def on_start(self) -> None:
        assert self.starts == self.stops
        self.starts += 1
        await trio.sleep(1)
        self.spawn("crash", self._crash)
        self.spawn("task", self._task)
        for part in self.parts:
            await self.add_service(part)
        await self.start("slow", self._slow)

    async def on_stop(self) -> None:
        self.stops += 1
        await trio.sleep(0.1)
        await super().on_stop()
        assert all(part.state in (State.IDLE, State.ENDED) for part in self.parts)
        await trio.sleep(0.1)

    async def on_restart(self) -> None:
        assert self.tasks == 0
        await trio.sleep(1)

    async def _crash(self) -> None:
        await self._task(self.crashes)
        raise Attack

    async def _task(self, end: trio.Event | None = None) -> None:
        self.tasks += 1
        try:
            await (trio.Event() if end is None else end).wait()
        finally:
            self.tasks -= 1

    async def _slow(self, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)
        task_status.started()
        await self._task()


class Scenario:
    """A tree of two levels, which starts, restarts and stops."""

    def __init__(self) -> None:
        self.low = [Part("low a"), Part("low b")]
        self.top = Part("top", *self.low)
        self.parts = [*self.low, self.top]
        self.scope = trio.CancelScope()
        self.attacked_at = math.inf
        self.ended_at = 0.0

    async def by_running(self) -> None:
        with self.scope:
            async with running(self.top):
                await self._play()

    async def by_serve(self) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.top.serve)
                await self._play()
                await self.top.stop()

    async def play(self, served: str) -> None:
        try:
            await getattr(self, served)()
        finally:
            self.ended_at = trio.current_time()

    async def _play(self) -> None:
        try:
            await trio.sleep(1)
            await self.low[1].restart()
            await self.top.restart()
            await trio.sleep(1)
        except ServiceError:
            pass  # the attack has ended the service

    def attack(self, how: str) -> None:
        self.attacked_at = trio.current_time()
        if how == "cancel":
            self.scope.cancel()
            return
        what, name = how.split(" ", 1)
        (part,) = (part for part in self.parts if part.name == name)
        if what == "stop":
            part.stop_soon()
        else:
            part.crashes.set()

    def check(self) -> None:
        for part in self.parts:
            assert part.state in (State.IDLE, State.ENDED)
            assert part.tree().children == ()
            assert part.starts == part.stops
            assert part.tasks == 0


class AtStep(trio.abc.Instrument):
    """An instrument that calls a function after a given number of steps of any task."""

    def __init__(self, number: int, fn: Callable[[], None]) -> None:
        self._left = number
        self._fn = fn
        self.error: BaseException | None = None

    @property
    def reached(self) -> bool:
        return self._left < 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == -1:
            try:
                self._fn()
            except BaseException as error:
                self.error = error
                raise


def errors_of(scenario: Scenario, served: str, instruments: Sequence[Any] = ()) -> list[Any]:
    try:
        run(functools.partial(scenario.play, served), instruments)
    except BaseException as error:  # noqa: BLE001 - this is what the tests look at
        return leaves(error)
    return []


@pytest.fixture(params=range(2))
def seeded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that gives each run the same order, because trio shuffles ready tasks."""

    def seed() -> None:
        monkeypatch.setattr(trio._core._run, "_r", random.Random(request.param))
        monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)

    return seed


@contextlib.contextmanager
def noted(what: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        error.add_note(what)
        raise


ATTACKS = ["cancel", *(f"{w} {n}" for w in ("stop", "crash") for n in ("low a", "low b", "top"))]


@pytest.mark.parametrize("served", ["by_running", "by_serve"])
@pytest.mark.parametrize("how", ATTACKS)
def test_tree_ends_after_an_attack_at_every_step(
    how: str, served: str, seeded: Callable[[], None]
) -> None:
    for number in itertools.count():
        seeded()
        scenario = Scenario()
        at_step = AtStep(number, functools.partial(scenario.attack, how))
        errors = errors_of(scenario, served, [at_step])
        with noted(f"at step {number}"):
            assert at_step.error is None
            scenario.check()
            assert all(isinstance(error, Attack) for error in errors), errors
            assert not errors or how.startswith("crash")
            if how == "cancel":
                assert scenario.ended_at <= scenario.attacked_at + scenario.top.grace
        if not at_step.reached:
            break
    assert number > 100


@pytest.mark.parametrize("served", ["by_running", "by_serve"])
@pytest.mark.parametrize("first", range(2))
def test_tree_ends_after_ctrl_c_at_each_line(
    served: str, first: int, seeded: Callable[[], None]
) -> None:
    for number in itertools.count(first, 11):  # each line runs often enough to be hit
        seeded()
        scenario = Scenario()
        at_line = AtLine(number, {nurseries.service.__file__})
        before = sys.gettrace()
        sys.settrace(at_line)
        try:
            errors = errors_of(scenario, served)
        finally:
            sys.settrace(before)
        with noted(f"at line {number}: {at_line.where}"):
            scenario.check()
            if at_line.reached:
                assert errors
            assert all(isinstance(error, KeyboardInterrupt) for error in errors), errors
        if not at_line.reached:
            break
    assert number > 100
