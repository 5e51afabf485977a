"""The two brokers that a test of both runs on, and how each is run.

On `memory://` the clock jumps, so that no test waits for real time; Kafka runs on the real one.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import pytest
import trio
import trio.testing

from tests.apps import A_WHILE
from tests.drivers.rig import Rig
from transport import TP, App
from transport.drivers.settings import ClientSettings

A = TypeVar("A", bound=App)

# No commit comes by itself: what is committed is what a test, a rebalance or the end commits.
NEVER = 1e6


def run_jumping(test: Callable[[], Awaitable[object]], **options: Any) -> object:
    # A deadlock ends by the time-out too: the clock jumps to it.
    return _run(test, 3600.0, **{**options, "clock": trio.testing.MockClock(autojump_threshold=0)})


def run_in_real_time(test: Callable[[], Awaitable[object]], **options: Any) -> object:
    return _run(test, 60.0, **options)


def _run(test: Callable[[], Awaitable[object]], timeout: float, **options: Any) -> object:
    async def bounded() -> None:
        with trio.fail_after(timeout):
            await test()

    return trio.run(bounded, **options)


BOTH = [
    pytest.param("memory", marks=pytest.mark.trio(run=run_jumping)),
    pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.trio(run=run_in_real_time)]),
]


def wait_for_threads() -> None:
    """From now on threads are waited for: no clock may jump over them."""
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, trio.testing.MockClock):
        clock.autojump_threshold, clock.rate = math.inf, 1.0


@attrs.frozen
class Place:
    """A broker for apps, with names that no other test uses.

    Attributes:
        name: of a group and of a topic.
    """

    url: str
    name: str

    def app(self, kind: type[A] = App, **settings: Any) -> A:  # type: ignore[assignment]
        """An app of the group, quick to hear of another member."""
        return kind(self.name, self.url, heartbeat_interval=0.5, **settings)

    def tps(self, partitions: int) -> list[TP]:
        """The topic's, if it has so many."""
        return [TP(self.name, number) for number in range(partitions)]

    async def create(self, partitions: int, *values: bytes) -> list[TP]:
        """The topic, with these values in its partition 0; returns its partitions."""
        async with self.opened(partitions, *values):
            return self.tps(partitions)

    async def widen(self, partitions: int) -> None:
        """Let the topic have so many partitions."""
        await Rig(self.app().driver).widen(self.name, partitions)

    async def create_again(self, partitions: int) -> None:
        """Delete the topic, and create another one of its name."""
        await Rig(self.app().driver).create_again(self.name, partitions)

    @asynccontextmanager
    async def opened(
        self,
        partitions: int,
        *values: bytes,
        kind: type[A] = App,  # type: ignore[assignment]
        **settings: Any,
    ) -> AsyncIterator[A]:
        """An app that commits when it is told to, on the new topic with these values in its
        partition 0."""
        async with self.app(kind, **{"commit_interval": NEVER, **settings}) as app:
            await app.producer.create_topic(self.name, partitions)
            for value in values:
                await app.producer.send(self.name, None, value, 0)
            await app.producer.flush()
            yield app

    @property
    def a_while(self) -> float:
        """Seconds in which something would come that is not to come."""
        return A_WHILE if self.url.startswith("memory://") else 0.5

    async def committed(self) -> dict[TP, int]:
        """What the group has committed, as the broker tells an outsider."""
        outsider = self.app().driver.consumer(ClientSettings(group_id=self.name))
        await outsider.open()
        try:
            return await outsider.committed(await outsider.partitions(self.name))
        finally:
            with trio.CancelScope(shield=True):
                await outsider.close(5.0)
