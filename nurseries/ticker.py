"""A periodic task that keeps its beat and never runs twice at once."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from nurseries.arguments import function, seconds


async def tick(interval: float, beat: Callable[[], Awaitable[object]]) -> NoReturn:
    """Call `beat` every `interval` seconds until cancelled.

    Beats are due at multiples of the interval from the start, so that they do not drift; a beat
    that takes longer than the interval makes the missed ones fall out, it does not pile them up.
    An error of `beat` ends the ticker and is raised.

    Args:
        interval: seconds, more than 0.
        beat: called without arguments, first after one interval.
    """
    seconds("interval", interval)
    function("beat", beat, "an async function without arguments")
    start = trio.current_time()
    n = 1
    while True:
        await trio.sleep_until(start + n * interval)
        await beat()
        n = max(n + 1, math.ceil((trio.current_time() - start) / interval))
