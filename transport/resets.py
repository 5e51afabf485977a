"""Positions that a rule has set: reporting them, and committing some before delivery.

A driver sets a position by a rule if the group has no committed offset, or one outside the log. The
rules are in `drivers/starts.py`. This module enters the positions into the ledgers, and reports
those that are worth a warning.

With `auto_offset_reset="latest"` the rule gives another offset at each call. So the group must have
committed the first one before a message is delivered. Otherwise, after a crash of the member, the
group would skip the messages that had arrived.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from transport.backoff import Backoff
from transport.drivers.base import Reset
from transport.errors import AppClosed, CommitUnknown, TransportError
from transport.ledger import Ledger

if TYPE_CHECKING:
    from transport.consumer import Consumer

logger = logging.getLogger("transport.consumer")

# The longest wait between two tries of a commit.
_LONGEST_WAIT = 1.0


class Resets:
    """Handles the positions of one consumer that rules have set."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._wanted = trio.Event()

    @trio.lowlevel.enable_ki_protection
    def take(self, resets: Sequence[Reset]) -> None:
        """Enter the positions that the last poll set. For the polling task; not a checkpoint."""
        for reset in resets:
            ledger = self._consumer.assignment.get(reset.tp)
            if ledger is None or ledger.is_draining:
                continue
            if not reset.is_new:
                self._tell(reset)
            self._enter(ledger, reset)

    async def run(self) -> None:
        """Make the commits that delivery waits for, until cancelled or until the app ends.

        Raises the error of a refused commit, without transactions.
        """
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            backoff = Backoff(_LONGEST_WAIT)
            while due := [ledger.tp for ledger in self._waiting() if ledger.due is not None]:
                try:
                    await self._consumer.committer.commit(due)
                except AppClosed:
                    return
                except CommitUnknown as exc:
                    logger.warning(
                        "the commit of a start offset got no answer and is retried: %s", exc
                    )
                except TransportError:
                    if not self._consumer.in_transaction:
                        raise
                    # The abort has its warning; the committer raises the rest.
                if not self.let_on():
                    await backoff.wait()

    @trio.lowlevel.enable_ki_protection
    def let_on(self) -> bool:
        """Resume delivery where the awaited commit is made; return whether there is any."""
        begun = [ledger for ledger in self._waiting() if ledger.may_go_on()]
        self._consumer.app.conductor.offer(begun)
        return bool(begun)

    def _waiting(self) -> list[Ledger]:
        ledgers = self._consumer.assignment.values()
        return [ledger for ledger in ledgers if ledger.must_commit is not None]

    def _enter(self, ledger: Ledger, reset: Reset) -> None:
        """Stay in the same epoch if possible, so that messages in hand may still be acked."""
        if ledger.is_behind(reset.new) or ledger.must_refetch:
            self._consumer.ownership.begin_epoch(reset.tp, reset.new)
            ledger = self._consumer.assignment[reset.tp]
        else:
            ledger.advance(reset.new)
        if reset.must_commit:
            ledger.must_commit = reset.new
            self._wanted.set()

    def _tell(self, reset: Reset) -> None:
        policy = self._consumer.app.settings.client.auto_offset_reset
        if reset.old is None:
            logger.warning(
                "%s: the group has begun before and has no committed offset of this partition:"
                " reading starts at offset %d, 0 records are skipped",
                reset.tp,
                reset.new,
            )
        else:
            logger.warning(
                "%s: the position %d is not in the log: reading goes on at offset %d, as"
                " auto_offset_reset=%r says; %d records are skipped",
                reset.tp,
                reset.old,
                reset.new,
                policy,
                reset.skipped,
            )
        if (probe := self._consumer.app.probe) is not None:
            probe(probe.sensor.on_offset_reset, reset.tp, reset.old, reset.new, reset.skipped)
