"""The workers of a handler: how often they run for each message."""

from __future__ import annotations

import pytest
import trio

from tests.handling.calls import broker_with, handling
from tests.nurseries.clock import run
from transport import Message

SECONDS = 0.01


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


@pytest.mark.parametrize("order", ["key", "none"])
def test_a_worker_runs_once_for_each_message_whose_handler_waits(order: str) -> None:
    keys = "".join(map(chr, range(1_000, 3_000)))
    steps = Steps()
    ends: list[int] = []  # the steps until the end of each message

    async def wait(message: Message) -> None:
        await trio.sleep(SECONDS)
        ends.append(steps.count)

    async def main() -> None:
        async with handling(broker_with(keys), wait, order=order, concurrency=100):
            await trio.sleep(10)

    run(main, [steps])
    assert len(ends) == len(keys)
    assert ends[-1] - ends[500] < 1.3 * len(ends[500:])
