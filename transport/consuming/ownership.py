"""Changes of assigned partitions: new epochs, release and loss, each as one step for all parts.

The `Assignment` has the assigned partitions. A change of it concerns other parts as well: pauses
(`Flow`), delivery (`Conductor`), transactions (`TransactionManager`), and the counts that the
monitor has not received yet. Each change is one call in this module, and no call is a checkpoint.
So these parts always agree. The callers decide when a change is allowed: the polling task, the
rebalance handler and the committer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import trio

from transport.committing.transactions import TransactionManager
from transport.consuming.conductor import Conductor
from transport.consuming.poll_requests import PollRequests
from transport.delivering.assignment import Assignment
from transport.delivering.flow import Flow
from transport.delivering.ledger import Ledger
from transport.probe import Probe
from transport.types import TP


class Ownership:
    """The changes of one consumer's partitions.

    Args:
        transactions: None: transactions are not used.
        probe: None: there is no monitor.
        requests: the requests to the polling task.
    """

    def __init__(
        self,
        assignment: Assignment,
        flow: Flow,
        conductor: Conductor,
        transactions: TransactionManager | None,
        probe: Probe | None,
        *,
        requests: PollRequests,
    ) -> None:
        self._assignment = assignment
        self._flow = flow
        self._conductor = conductor
        self._transactions = transactions
        self._probe = probe
        self._requests = requests

    # An epoch begins

    def enter_epoch(self, ledger: Ledger) -> None:
        """Open the lanes of a new epoch, which is suspended while its scope does not deliver."""
        self._conductor.open_lanes(ledger)
        if self._transactions is not None and not self._transactions.delivers(ledger.tp):
            ledger.suspend()

    @trio.lowlevel.enable_ki_protection
    def begin_epoch(self, tp: TP, offset: int, *, is_proven: bool = True) -> bool:
        """Begin an epoch at `offset`. The caller is responsible for the client's position.

        Return False if the partition is not assigned; then nothing changes.

        Args:
            is_proven: the log reaches the offset. If False, the offset is not committed until that
                is known.
        """
        if (old := self._assignment.get(tp)) is None:
            return False
        self.enter_epoch(self._assignment.seek(tp, offset, is_proven=is_proven))
        self._report_acked([old])
        return True

    @trio.lowlevel.enable_ki_protection
    def rewind(self, tp: TP, offset: int) -> Ledger:
        """Begin a new epoch at `offset`; the polling task seeks the client before its next poll.

        A partition that is draining stays so in the new epoch.
        """
        old = self._assignment[tp]
        was_draining = old.is_draining
        ledger = self._assignment.seek(tp, offset)
        ledger.must_refetch = True
        self.enter_epoch(ledger)
        self._report_acked([old])
        if was_draining:
            ledger.drain()
        self._requests.note_change()
        return ledger

    # Partitions are removed

    @trio.lowlevel.enable_ki_protection
    def drop(self, tps: Collection[TP]) -> None:
        """Remove lost partitions, or those of a consumer that ends, without a commit."""
        tps = list(tps)  # a copy: `tps` may be the assignment itself
        self._forget(tps, self._assignment.remove(tps, lost=True))

    def abandon(self, tps: Collection[TP]) -> None:
        """Remove partitions that were not released in time, as `drop` does.

        Nothing can be sent in their transactions from now on: if the partitions are assigned again,
        they get another producer.
        """
        tps = list(tps)
        self.drop(tps)
        if self._transactions is not None:
            self._transactions.release(tps)

    def release(self, tps: Collection[TP], generation: int) -> None:
        """Release revoked partitions after their last commit, in this generation."""
        if generation >= 0:
            self._assignment.generation = generation
        self._forget(tps, self._assignment.remove(tps))

    def _forget(self, tps: Collection[TP], gone: Sequence[Ledger]) -> None:
        for ledger in gone:
            self._conductor.on_removed(ledger.tp)
        self._report_acked(gone)
        self._flow.forget(tps)

    def _report_acked(self, ledgers: Sequence[Ledger]) -> None:
        if self._probe is not None:
            self._probe.acked(ledgers)
