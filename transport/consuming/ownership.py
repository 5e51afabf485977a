"""How partitions come, begin anew and go: one step for all who have to hear of it.

What is ours stands in the `Assignment`. A change of it is a change for others, too: what is paused
(`Flow`), what is delivered (`Conductor`), which transaction is written (`TransactionManager`), and
what the monitor has still to be told. Each way in which a partition changes is one call in here,
and none of them is a checkpoint; so no two of these ever disagree. Whom the app and the group have
to be asked first is the business of who calls: the fetcher, the hand-over and the committer.
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
        transactions: None where they are not used.
        probe: None: there is no monitor.
        requests: to the polling task.
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
        """An epoch begins; with transactions nothing of it is delivered outside of one."""
        self._conductor.on_epoch(ledger)
        if self._transactions is not None and not self._transactions.delivers(ledger.tp):
            ledger.suspend()

    @trio.lowlevel.enable_ki_protection
    def begin_epoch(self, tp: TP, offset: int, *, is_proven: bool = True) -> bool:
        """Begin an epoch at `offset`, after the client has sought that offset.

        False: the partition is not assigned any more, and nothing has changed.

        `is_proven`: the log has this offset. Else it is not committed before that is known.
        """
        if (old := self._assignment.get(tp)) is None:
            return False
        self.enter_epoch(self._assignment.seek(tp, offset, is_proven=is_proven))
        self._tell_acked([old])
        return True

    @trio.lowlevel.enable_ki_protection
    def rewind(self, tp: TP, offset: int) -> Ledger:
        """Begin a new epoch at `offset`; the client is sought there before the next poll.

        One that is being handed over still is.
        """
        old = self._assignment[tp]
        was_draining = old.is_draining
        ledger = self._assignment.seek(tp, offset)
        ledger.must_refetch = True
        self.enter_epoch(ledger)
        self._tell_acked([old])
        if was_draining:
            ledger.drain()
        self._requests.note_change()
        return ledger

    # Partitions go

    @trio.lowlevel.enable_ki_protection
    def drop(self, tps: Collection[TP]) -> None:
        """They are lost, or the end has come: they go without a commit."""
        tps = list(tps)  # all of the assignment, for example, which is empty after this
        self._forget(tps, self._assignment.let_go(tps, lost=True))

    def abandon(self, tps: Collection[TP]) -> None:
        """They could not be handed over in time: they go as lost ones do.

        So do their transactions, at once: if they come back, it is with another producer.
        """
        tps = list(tps)
        self.drop(tps)
        if self._transactions is not None:
            self._transactions.let_go(tps)

    def let_go(self, tps: Collection[TP], generation: int) -> None:
        """They go in order, after their commit, in this generation."""
        if generation >= 0:
            self._assignment.generation = generation
        self._forget(tps, self._assignment.let_go(tps))

    def _forget(self, tps: Collection[TP], gone: Sequence[Ledger]) -> None:
        for ledger in gone:
            self._conductor.on_let_go(ledger.tp)
        self._tell_acked(gone)
        self._flow.forget(tps)

    def _tell_acked(self, ledgers: Sequence[Ledger]) -> None:
        if self._probe is not None:
            self._probe.acked(ledgers)
