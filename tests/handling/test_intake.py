"""How many messages a handler takes before they may begin."""

from __future__ import annotations

import pytest
import trio

from tests.handling.calls import Calls, broker_with, handling
from tests.nurseries.clock import jumping


@pytest.mark.parametrize("order", ["partition", "key", "none"])
@jumping
async def test_a_single_worker_takes_from_one_partition_at_a_time(order: str) -> None:
    calls, waiting = Calls(seconds=0.1), []
    broker = broker_with("a" * 200, partitions=4)
    async with handling(broker, calls, order=order) as app:
        (handler,) = app.handlers
        for _ in range(100):
            await trio.sleep(0.15)
            waiting.append(handler.waiting)
    assert 0 < max(waiting) < 64
