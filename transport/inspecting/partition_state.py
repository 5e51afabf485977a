"""`PartitionState`: the offsets and the counts of an assigned partition at one moment. Pure."""

from __future__ import annotations

import attrs

from transport.delivering.ledger import Ledger


@attrs.frozen
class PartitionState:
    """The state of an assigned partition.

    Attributes:
        position: the offset after the last fetched record. None: not known yet.
        highwater: the end of its log, from the last fetch, or from a request that is made every
            `lag_interval` while nothing is fetched. None: not known yet.
        committed: the committed offset, as far as this member knows. None: not known yet.
        lag: how many offsets, with or without a message, lie between the committed offset and the
            high watermark. If `committed` is None, they count from the safe offset. None: not
            known.
        waiting: how many messages are fetched and not delivered.
        unacked: how many messages are delivered and not acked.
    """

    position: int | None
    highwater: int | None
    committed: int | None
    lag: int | None
    waiting: int
    unacked: int


def state_of(ledger: Ledger, highwater: int | None) -> PartitionState:
    """Return the state of a partition now. Costs O(unacked messages)."""
    done = ledger.safe if ledger.committed is None else ledger.committed
    return PartitionState(
        position=ledger.position,
        highwater=highwater,
        committed=ledger.committed,
        lag=None if highwater is None or done is None else max(0, highwater - done),
        waiting=ledger.waiting,
        unacked=sum(1 for _ in ledger.unacked),
    )
