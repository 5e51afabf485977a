"""The wait until unacked messages are done: `transport/delivering/drain.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.nurseries.clock import jumping
from transport.delivering.drain import until_done
from transport.delivering.ledger import Ledger


class Unacked:
    """The part of a ledger with an unacked message that a drain uses.

    Attributes:
        calls: the calls to make once the message is done.
    """

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def when_empty(self, call: Callable[[], None]) -> Callable[[], None]:
        self.calls.append(call)
        return partial(self.calls.remove, call)

    def ack(self) -> None:
        for call in self.calls:
            call()


async def drain(*ledgers: Unacked) -> None:
    await until_done([cast(Ledger, ledger) for ledger in ledgers])


async def test_drain_of_no_partitions_is_a_checkpoint() -> None:
    with assert_checkpoints():
        await drain()


@jumping
async def test_drain_ends_when_the_messages_of_all_partitions_are_done() -> None:
    first, second = Unacked(), Unacked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain, first, second)
        for ledger in (second, first):
            await wait_all_tasks_blocked()
            assert first.calls, "the drain still waits"
            assert second.calls
            ledger.ack()
    assert first.calls == second.calls == []


@jumping
async def test_cancelled_drain_leaves_no_call_in_the_ledgers() -> None:
    ledger = Unacked()
    with trio.move_on_after(1.0) as wait:
        await drain(ledger)
    assert wait.cancelled_caught
    assert ledger.calls == []
