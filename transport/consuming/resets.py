"""Positions that a rule has set: reporting them, and committing some of them before delivery.

A driver sets a position by a rule if the group has no committed offset, or if the position is
outside the log. The rules are in `drivers/starts.py`. This module enters the positions into the
ledgers. It warns about positions that are not those of a new group.

With `auto_offset_reset="latest"` the rule gives another offset at each call. So the group must have
committed the first one before a message is delivered. Otherwise, after a crash of the member, the
group would skip the messages that had arrived.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

import trio

from transport.backoff import Backoff
from transport.consuming.ownership import Ownership
from transport.delivering.assignment import Assignment
from transport.delivering.ledger import Ledger
from transport.drivers.base import Reset
from transport.errors import AppClosed, CommitUnknown, DeliveryFailed, TransportError
from transport.log import Log
from transport.probe import Probe
from transport.types import TP

# The longest wait between two tries of a commit, in seconds.
_LONGEST_WAIT = 1.0


class Resets:
    """The handler of the positions that rules have set for one consumer.

    Args:
        commit: commits the safe offsets of partitions.
        reschedule: lets the channels retry partitions that may be delivered again.
        in_transaction: whether the commits are made in transactions.
        policy: the setting `auto_offset_reset`, for the log.
        probe: None: there is no monitor.
    """

    def __init__(
        self,
        assignment: Assignment,
        ownership: Ownership,
        commit: Callable[[Collection[TP]], Awaitable[object]],
        reschedule: Callable[[Collection[Ledger]], None],
        log: Log,
        *,
        in_transaction: bool,
        policy: str,
        probe: Probe | None,
    ) -> None:
        self._assignment = assignment
        self._ownership = ownership
        self._commit = commit
        self._reschedule = reschedule
        self._log = log
        self._in_transaction = in_transaction
        self._policy = policy
        self._probe = probe
        self._wanted = trio.Event()

    @trio.lowlevel.enable_ki_protection
    def take(self, resets: Sequence[Reset]) -> None:
        """Enter the positions that the last poll set. For the polling task; not a checkpoint."""
        for reset in resets:
            ledger = self._assignment.get(reset.tp)
            if ledger is None or ledger.is_draining:
                continue
            if not reset.is_new:
                self._report(reset)
            self._enter(ledger, reset)

    async def run(self) -> None:
        """Make the commits that delivery waits for, until cancelled or until the app ends.

        Raises the error of a refused commit, without transactions.
        """
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            backoff, has_warned = Backoff(_LONGEST_WAIT), False
            while due := [ledger.tp for ledger in self._waiting() if ledger.due is not None]:
                try:
                    await self._commit(due)
                except AppClosed:
                    return
                except (CommitUnknown, DeliveryFailed) as exc:
                    if not has_warned:
                        has_warned = True
                        self._log.warning(
                            "start_commit_retried",
                            "the commit of a start offset is retried until it succeeds: %s",
                            exc,
                            error=exc,
                            partitions=due,
                        )
                except TransportError:
                    if not self._in_transaction:
                        raise
                    # An abort has its own warning, and the committer raises fatal errors.
                if not self.after_commit():
                    await backoff.wait()

    @trio.lowlevel.enable_ki_protection
    def after_commit(self) -> bool:
        """Deliver from partitions whose awaited commit is made; return whether there are any."""
        begun = [ledger for ledger in self._waiting() if ledger.clear_must_commit()]
        self._reschedule(begun)
        return bool(begun)

    def _waiting(self) -> list[Ledger]:
        return [each for each in self._assignment.values() if each.must_commit is not None]

    def _enter(self, ledger: Ledger, reset: Reset) -> None:
        """Enter a position, in the same epoch if possible: unacked messages may still be acked."""
        if ledger.is_behind(reset.new) or ledger.must_refetch:
            self._ownership.begin_epoch(reset.tp, reset.new)
            ledger = self._assignment[reset.tp]
        else:
            ledger.advance(reset.new)
        if reset.must_commit:
            ledger.must_commit = reset.new
            self._wanted.set()

    def _report(self, reset: Reset) -> None:
        if reset.old is None:
            self._log.warning(
                "partition_without_commit",
                "%s: the group is not new but has no committed offset of this partition:"
                " reading starts at offset %d, 0 records are skipped",
                reset.tp,
                reset.new,
                partitions=[reset.tp],
                offset=reset.new,
            )
        else:
            self._log.warning(
                "position_reset",
                "%s: the position %d is not in the log: reading goes on at offset %d, as"
                " auto_offset_reset=%r says; %d records are skipped",
                reset.tp,
                reset.old,
                reset.new,
                self._policy,
                reset.skipped,
                partitions=[reset.tp],
                offset=reset.new,
                count=reset.skipped,
            )
        if (probe := self._probe) is not None:
            probe(probe.sensor.on_offset_reset, reset.tp, reset.old, reset.new, reset.skipped)
