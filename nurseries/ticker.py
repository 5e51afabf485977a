"""A periodic task that does not drift and never overlaps itself."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from nurseries.arguments import function, seconds


async def tick(interval: float, beat: Callable[[], Awaitable[object]]) -> NoReturn:
    """Call `beat` every `interval` seconds until cancelled.

    Calls are due at multiples of the interval from the start, so they do not drift. If a call takes
    longer than the interval, the calls that became due meanwhile are skipped. An error of `beat`
    ends the ticker and is raised. A checkpoint. Cancelling reaches a call that is under way.

    Args:
        interval: seconds, more than 0.
        beat: called without arguments, for the first time after one interval.
    """
    seconds("interval", interval)
    function("beat", beat, "an async function without arguments")
    start = trio.current_time()
    n = 1
    while True:
        await trio.sleep_until(start + n * interval)
        await beat()
        n = max(n + 1, math.ceil((trio.current_time() - start) / interval))
