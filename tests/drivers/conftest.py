"""The drivers that the contract suite holds against `transport/drivers/base.py`.

The memory driver runs on a clock that jumps, so that no test waits for real time; Kafka runs on
the real one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.drivers.rig import Rig
from transport.drivers.memory import MemoryDriver


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


@pytest.fixture(
    params=[
        pytest.param("memory", marks=pytest.mark.trio(run=run_jumping)),
        pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.trio(run=run_in_real_time)]),
    ]
)
def rig(request: pytest.FixtureRequest) -> Rig:
    """A driver under test, with helpers to make its clients."""
    if request.param == "memory":
        return Rig(MemoryDriver("contract"))
    from transport.drivers.kafka import KafkaDriver  # not installed on every lane

    return Rig(KafkaDriver(request.getfixturevalue("kafka_bootstrap").split(",")))
