from __future__ import annotations

import pytest
import trio

from nurseries import tick
from tests.nurseries.clock import jumping


class Beats:
    """A beat that notes the times of its calls since the start, and takes the given durations."""

    def __init__(self, *durations: float) -> None:
        self.start = trio.current_time()
        self.at: list[float] = []
        self.under_way = 0
        self._durations = list(durations)

    async def __call__(self) -> None:
        assert self.under_way == 0, "two beats overlap"
        self.under_way += 1
        self.at.append(trio.current_time() - self.start)
        await trio.sleep(self._durations.pop(0) if self._durations else 0)
        self.under_way -= 1


@jumping
async def test_beats_are_due_at_multiples_of_the_interval() -> None:
    beats = Beats()
    with trio.move_on_after(2.25):
        await tick(0.5, beats)
    assert beats.at == [0.5, 1.0, 1.5, 2.0]


@jumping
async def test_duration_of_a_beat_does_not_delay_the_next() -> None:
    beats = Beats(*[0.25] * 100)
    with trio.move_on_after(100.5):
        await tick(1, beats)
    assert beats.at == list(range(1, 101))


@jumping
async def test_rounding_errors_do_not_accumulate() -> None:
    beats = Beats()
    with trio.move_on_after(1000.05):
        await tick(0.1, beats)
    assert beats.at[-1] == pytest.approx(1000, abs=1e-9)


@jumping
async def test_missed_beats_are_skipped_after_a_long_beat() -> None:
    beats = Beats(2.5)  # from 1 to 3.5: 2 and 3 are missed
    with trio.move_on_after(6.5):
        await tick(1, beats)
    assert beats.at == [1, 4, 5, 6]


@jumping
async def test_beat_as_long_as_the_interval_skips_none() -> None:
    beats = Beats(1, 1, 2)  # the last from 3 to 5: 4 is missed, 5 is not
    with trio.move_on_after(6.5):
        await tick(1, beats)
    assert beats.at == [1, 2, 3, 5, 6]


@jumping
async def test_error_of_a_beat_ends_the_ticker_and_is_raised() -> None:
    error = ValueError("out of step")
    beaten = 0

    async def beat() -> None:
        nonlocal beaten
        beaten += 1
        if beaten == 3:
            raise error

    with pytest.raises(ValueError, match="out of step") as raised:
        await tick(1, beat)
    assert raised.value is error
    assert beaten == 3


@jumping
async def test_cancelling_reaches_a_running_beat() -> None:
    beats = Beats(10)
    with trio.move_on_after(2) as scope:
        await tick(1, beats)
    assert scope.cancelled_caught
    assert beats.at == [1]


@jumping
async def test_ticker_can_be_cancelled_between_beats_without_checkpoints() -> None:
    async def beat() -> None:
        pass

    with trio.move_on_after(10) as scope:
        await tick(1, beat)
    assert scope.cancelled_caught


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
@jumping
async def test_interval_must_be_above_zero(interval: float) -> None:
    with pytest.raises(ValueError, match="interval must be"):
        await tick(interval, Beats())
