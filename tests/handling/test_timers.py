"""The queue of retries: each thing becomes due at exactly its time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from tests.nurseries.clock import jumping
from transport.handling.timers import Timers


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Timers[str], list[tuple[str, float]]]]:
    """Run a queue; yield it, and the things that became due, with their times from now."""
    start, found = trio.current_time(), list[tuple[str, float]]()
    timers: Timers[str] = Timers(lambda thing: found.append((thing, trio.current_time() - start)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        yield timers, found
        nursery.cancel_scope.cancel()


@jumping
async def test_each_thing_is_due_at_its_time_also_if_it_was_added_later() -> None:
    async with running() as (timers, found):
        now = trio.current_time()
        for thing, seconds in (("c", 3.0), ("a", 1.0), ("d", 4.0), ("b", 2.0)):
            timers.add(thing, now + seconds)
            await trio.sleep(0.1)
        await trio.sleep(1.25)
        timers.add("at once", now)
        await trio.sleep(10)
    assert found == [("a", 1.0), ("at once", 1.65), ("b", 2.0), ("c", 3.0), ("d", 4.0)]


@jumping
async def test_things_of_one_time_are_due_in_the_order_in_which_they_were_added() -> None:
    async with running() as (timers, found):
        for thing in "cab":
            timers.add(thing, trio.current_time() + 1)
        await trio.sleep(10)
    assert found == [("c", 1.0), ("a", 1.0), ("b", 1.0)]


@jumping
async def test_things_that_are_not_kept_never_become_due() -> None:
    async with running() as (timers, found):
        now = trio.current_time()
        timers.keep(lambda thing: False)
        for seconds, thing in enumerate("abcdefg"):
            timers.add(thing, now + seconds + 1)
        timers.keep(lambda thing: thing not in "abf")
        assert sorted(timers) == list("cdeg")
        timers.add("h", now + 4.5)
        await trio.sleep(10)
        assert list(timers) == []
    assert found == [("c", 3.0), ("d", 4.0), ("h", 4.5), ("e", 5.0), ("g", 7.0)]


@jumping
async def test_the_next_thing_is_due_in_time_after_the_first_was_removed() -> None:
    async with running() as (timers, found):
        now = trio.current_time()
        for seconds, thing in zip([1, 5, 2, 6, 7, 3, 4], "aebfgcd", strict=True):
            timers.add(thing, now + seconds)
        timers.keep(lambda thing: thing != "a")
        await trio.sleep(10)
    assert found == [("b", 2.0), ("c", 3.0), ("d", 4.0), ("e", 5.0), ("f", 6.0), ("g", 7.0)]


@jumping
async def test_a_thing_may_be_added_again_when_it_is_due() -> None:
    found: list[float] = []

    def again(thing: str) -> None:
        found.append(trio.current_time())
        if len(found) < 3:
            timers.add(thing, trio.current_time() + 1)

    timers: Timers[str] = Timers(again)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        timers.add("a", start + 1)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert [time - start for time in found] == [1, 2, 3]
