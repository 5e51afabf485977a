"""The wait of a drain: until the unacked messages of some partitions are done.

The ledger does not know trio, so it only makes a call when its messages are done. Rebalances,
transactions and `Consumer.wait_empty` wait here.
"""

from __future__ import annotations

from collections.abc import Collection

import trio

from transport.delivering.ledger import Ledger


async def until_done(ledgers: Collection[Ledger]) -> None:
    """Wait until all messages of these ledgers that are unacked at the call are done.

    A checkpoint. Cancelling changes nothing.
    """
    waits = [(event := trio.Event(), ledger.when_empty(event.set)) for ledger in ledgers]
    try:
        await trio.lowlevel.checkpoint()
        for event, _ in waits:
            await event.wait()
    finally:
        for _, forget in waits:
            forget()
