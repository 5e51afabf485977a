"""`cancel_everywhere` cancels at each moment, and tells of what is left behind."""

from __future__ import annotations

import os
import threading

import pytest
import trio

from transport.testing import Hang, LeftBehind, Target, cancel_everywhere, run


class Steps:
    """Makes three steps, and notes how far each of its lives came."""

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


def test_each_moment_is_cancelled_once() -> None:
    lives: list[int] = []
    assert cancel_everywhere(lambda: Steps(lives)) == 4
    assert lives == [3, 0, 0, 1, 2]


def test_every_so_maniest_moment() -> None:
    lives: list[int] = []
    assert cancel_everywhere(lambda: Steps(lives), every=2) == 2


def test_what_is_wrong_after_one_of_them_says_when() -> None:
    class Half(Steps):
        def check(self) -> None:
            assert self.lives[-1] != 2, "two of three"

    with pytest.raises(AssertionError, match="two of three") as raised:
        cancel_everywhere(lambda: Half([]), seed=5)
    assert raised.value.__notes__[-1].startswith("Half: cancelled after 3 steps (the last of ")
    assert raised.value.__notes__[-1].endswith("(seed 5)")


def test_what_comes_out_of_a_scenario_is_expected_or_not() -> None:
    class Raises(Steps):
        async def play(self, target: Target) -> None:
            await super().play(target)
            if target.scope.cancelled_caught:
                raise KeyError

    cancel_everywhere(lambda: Raises([]), expected=KeyError)
    with pytest.raises(KeyError):
        cancel_everywhere(lambda: Raises([]), expected=ValueError)


def test_a_thread_that_is_left_is_found() -> None:
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


def test_a_file_that_is_left_is_found() -> None:
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


def test_a_hang_is_broken_up_though_it_is_shielded() -> None:
    async def waits() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits)

    with pytest.raises(Hang, match=r"waits: .*waits") as raised:
        run(main)
    assert len(str(raised.value).splitlines()) == 3  # and main, which waits for it


@pytest.mark.parametrize("seed", [1, 2])
def test_a_seed_is_always_the_same_order(seed: int) -> None:
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
