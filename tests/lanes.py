"""The two test lanes, memory and Kafka, for tests that run on both.

In the memory lane the clock jumps, so no test waits in real time. The Kafka lane uses real time.
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

# A commit interval that never ends: only a test, a rebalance or the end of the app commits.
NEVER = 1e6


def run_jumping(test: Callable[[], Awaitable[object]], **options: Any) -> object:
    # The timeout also ends a deadlock, because the clock jumps to it.
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
    """Stop the jumping of the clock, so that the test can wait for threads."""
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, trio.testing.MockClock):
        clock.autojump_threshold, clock.rate = math.inf, 1.0


@attrs.frozen
class Place:
    """A broker for apps, with a name that no other test uses.

    Attributes:
        name: the name of the group and of the topic.
    """

    url: str
    name: str

    def app(self, kind: type[A] = App, **settings: Any) -> A:  # type: ignore[assignment]
        """Return an app of the group with a short heartbeat interval, for fast rebalances."""
        return kind(self.name, self.url, heartbeat_interval=0.5, **settings)

    def tps(self, partitions: int) -> list[TP]:
        """Return the first `partitions` partitions of the topic."""
        return [TP(self.name, number) for number in range(partitions)]

    async def create(self, partitions: int, *values: bytes) -> list[TP]:
        """Create the topic with these values in its partition 0; return its partitions."""
        async with self.opened(partitions, *values):
            return self.tps(partitions)

    async def widen(self, partitions: int) -> None:
        """Increase the topic's number of partitions to `partitions`."""
        await Rig(self.app().driver).widen(self.name, partitions)

    async def create_again(self, partitions: int) -> None:
        """Delete the topic, and create another topic of the same name."""
        await Rig(self.app().driver).create_again(self.name, partitions)

    @asynccontextmanager
    async def opened(
        self,
        partitions: int,
        *values: bytes,
        kind: type[A] = App,  # type: ignore[assignment]
        **settings: Any,
    ) -> AsyncIterator[A]:
        """Open an app on the new topic with these values in its partition 0.

        By default, the app makes no periodic commits.
        """
        async with self.app(kind, **{"commit_interval": NEVER, **settings}) as app:
            await app.producer.create_topic(self.name, partitions)
            for value in values:
                await app.producer.send(self.name, None, value, 0)
            await app.producer.flush()
            yield app

    @property
    def a_while(self) -> float:
        """The time to wait, in seconds, before a test concludes that an event does not happen."""
        return A_WHILE if self.url.startswith("memory://") else 0.5

    async def committed(self) -> dict[TP, int]:
        """Return the committed offsets of the group, as a client outside the group reads them."""
        outsider = self.app().driver.consumer(ClientSettings(group_id=self.name))
        await outsider.open()
        try:
            return await outsider.committed(await outsider.partitions(self.name))
        finally:
            with trio.CancelScope(shield=True):
                await outsider.close(5.0)
