"""`cancel_everywhere` cancels after each step, and reports what outlives the run."""

from __future__ import annotations

import os
import random
import threading

import pytest
import trio

from transport.testing import Hang, LeftBehind, Target, cancel_everywhere, run


class Steps:
    """A scenario of three steps, which counts the steps of each of its runs."""

    lives: list[int]

    def __init__(self, lives: list[int]) -> None:
        lives.append(0)
        self.lives = lives

    async def play(self, target: Target) -> None:
        await trio.lowlevel.checkpoint()
        with target:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                self.lives[-1] += 1
        await trio.lowlevel.checkpoint()

    def check(self) -> None:
        pass


def test_each_step_is_cancelled_once() -> None:
    lives: list[int] = []
    assert cancel_everywhere(lambda: Steps(lives)) == 4
    assert lives == [3, 0, 0, 1, 2]


def test_every_nth_step_is_cancelled() -> None:
    lives: list[int] = []
    assert cancel_everywhere(lambda: Steps(lives), every=2) == 2


def test_failed_check_has_a_note_of_its_step_and_seed() -> None:
    class Half(Steps):
        def check(self) -> None:
            assert self.lives[-1] != 2, "two of three"

    with pytest.raises(AssertionError, match="two of three") as raised:
        cancel_everywhere(lambda: Half([]), seed=5)
    assert raised.value.__notes__[-1].startswith("Half: cancelled after 3 steps (the last of ")
    assert raised.value.__notes__[-1].endswith("(seed 5)")


def test_only_expected_errors_of_a_cancelled_scenario_pass() -> None:
    class Raises(Steps):
        async def play(self, target: Target) -> None:
            await super().play(target)
            if target.scope.cancelled_caught:
                raise KeyError

    cancel_everywhere(lambda: Raises([]), expected=KeyError)
    with pytest.raises(KeyError):
        cancel_everywhere(lambda: Raises([]), expected=ValueError)


def test_thread_that_outlives_the_run_is_reported() -> None:
    release = threading.Event()

    class Leaks(Steps):
        async def play(self, target: Target) -> None:
            thread = threading.Thread(target=release.wait, name="left behind")
            await super().play(target)
            if target.scope.cancelled_caught:
                thread.start()

    try:
        with pytest.raises(LeftBehind, match="left behind"):
            cancel_everywhere(lambda: Leaks([]))
    finally:
        release.set()


def test_file_that_outlives_the_run_is_reported() -> None:
    opened: list[int] = []

    class Leaks(Steps):
        async def play(self, target: Target) -> None:
            opened.append(os.open(os.devnull, os.O_RDONLY))
            await super().play(target)

    try:
        with pytest.raises(LeftBehind, match="1 file descriptors"):
            cancel_everywhere(lambda: Leaks([]))
    finally:
        for file in opened:
            os.close(file)


def test_shielded_hang_is_ended_and_reported() -> None:
    async def waits() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits)

    with pytest.raises(Hang, match=r"waits: .*waits") as raised:
        run(main)
    assert (
        len(str(raised.value).splitlines()) == 3
    )  # a heading, `waits`, and `main`, which waits for it


def test_run_may_take_as_long_as_its_patience() -> None:
    week = 7 * 86_400.0

    async def sleep() -> float:
        await trio.sleep(week)
        return trio.current_time()

    assert run(sleep, patience=week + 1) == week
    with pytest.raises(Hang):
        run(sleep, patience=week - 1)
    with pytest.raises(Hang):
        run(sleep)


def test_seed_decides_the_random_numbers_and_gives_the_state_back() -> None:
    async def numbers() -> list[float]:
        return [random.random() for _ in range(3)]

    before = random.getstate()
    assert run(numbers, seed=1) == run(numbers, seed=1) != run(numbers, seed=2)
    assert random.getstate() == before


@pytest.mark.parametrize("seed", [1, 2])
def test_same_seed_gives_the_same_order_of_tasks(seed: int) -> None:
    async def order() -> list[int]:
        seen: list[int] = []

        async def note(number: int) -> None:
            seen.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(note, number)
        return seen

    assert run(order, seed=seed) == run(order, seed=seed)
    assert run(order, seed=seed) != run(order, seed=seed + 10)
