"""Tests that are async functions, on a clock that jumps ahead, where nothing can hang."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence

import trio

from transport.testing import schedule


def run(
    main: Callable[[], Awaitable[None]], instruments: Sequence[trio.abc.Instrument] = ()
) -> None:
    """Run it with tasks in whatever order trio likes: a test is not to depend on that."""
    schedule.run(main, seed=None, instruments=instruments)


def jumping(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that is an async function, as one that pytest runs on such a clock."""

    @functools.wraps(test)
    def runs(**fixtures: object) -> None:
        run(functools.partial(test, **fixtures))

    del runs.__wrapped__  # else pytest-trio takes it for the async function
    runs.__signature__ = inspect.signature(test)
    return runs
