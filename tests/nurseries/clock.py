"""Runs of async test functions on a clock that jumps. A hang there is an error."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence

import trio

from transport.testing import schedule


def run(
    main: Callable[[], Awaitable[None]], instruments: Sequence[trio.abc.Instrument] = ()
) -> None:
    """Run a function in trio's random order of tasks: no test may depend on the order."""
    schedule.run(main, seed=None, instruments=instruments)


def jumping(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Return an async test as a plain test function, which runs it on such a clock."""

    @functools.wraps(test)
    def runs(**fixtures: object) -> None:
        run(functools.partial(test, **fixtures))

    del runs.__wrapped__  # otherwise pytest-trio runs the async function itself
    runs.__signature__ = inspect.signature(test)
    return runs
