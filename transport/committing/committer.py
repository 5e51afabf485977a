"""The committer without transactions: it commits the safe offsets of partitions.

It enters the outcome of each commit into the ledgers. A caller shares the commit in flight if that
covers its offsets. Otherwise the caller joins the next commit attempt (see `CommitQueue`).

**Results before offsets.** A handler may send a message and ack its own before the sent one is
delivered. If its offset were committed then, a crash would lose the sent message for ever. So a
commit first waits until all that was sent before is delivered, and is not made if that fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping

import trio

from transport.backoff import Backoff
from transport.committing.commit_queue import Around, CommitAttempt, CommitQueue, log_commit
from transport.delivering.assignment import Assignment
from transport.delivering.ledger import Ledger
from transport.drivers.base import ConsumerClient
from transport.errors import (
    CommitFailed,
    CommitUnknown,
    PartitionGone,
    RebalanceInProgress,
    TopicReplaced,
)
from transport.excerpt import ranges
from transport.log import Log
from transport.types import TP

# The longest wait before a retry of a commit that a rebalance prevented, in seconds.
_LONGEST_WAIT = 0.5
# Seconds for which an offset of a partition that the broker does not have is not committed.
_LEFT_OUT = 30.0
# Extra seconds beyond the client's own timeout, so that its more specific error wins.
_MARGIN = 2.0


class Committer:
    """The committer of one consumer that does not use transactions.

    Args:
        timeout: seconds to wait for the broker's answer.
        patience: seconds for which a commit is retried while the group is in a rebalance.
        can_join: returns whether the member can join its group now. It cannot while a rebalance is
            served.
        suspend: suspends delivery. Called when a commit is refused because the consumer is not a
            member of its group. If it was evicted, another member gets its messages.
        resume: resumes delivery. Called when a later commit succeeds, or when nothing of the
            refused commit is due any more.
        around: returns a block that is entered around each commit attempt.
        confirm: waits until all messages that were sent before the call are delivered. It raises
            DeliveryFailed if one was not, and no task has seen its error.

    Attributes:
        commit_had_no_effect: the last request was refused or has not begun, and none is in flight.
    """

    def __init__(
        self,
        assignment: Assignment,
        client: ConsumerClient,
        log: Log,
        *,
        timeout: float,
        patience: float,
        can_join: Callable[[], bool],
        suspend: Callable[[], None],
        resume: Callable[[], None],
        confirm: Callable[[], Awaitable[None]],
        around: Around | None = None,
    ) -> None:
        self._assignment = assignment
        self._client = client
        self._log = log
        self._timeout = timeout
        self._patience = patience
        self._can_join = can_join
        self._suspend = suspend
        self._resume = resume
        self._confirm = confirm
        self._has_suspended = False
        self._queue = CommitQueue(self._make, around=around)
        self._carried: dict[Ledger, int] = {}  # the offsets of the commit in flight
        # For partitions that the broker does not have: the offset that could not be committed, and
        # until when that offset is left out.
        self._deleted: dict[Ledger, tuple[int, float]] = {}
        self._leaving: set[Ledger] = set()  # of partitions that are about to be released
        self.commit_had_no_effect = False

    async def commit(
        self,
        topics: Collection[str | TP] | None = None,
        *,
        begins_next: bool = True,
        text: str | None = None,
    ) -> bool:
        """Commit the safe offsets of `topics`, and return whether an offset moved.

        False also if the group was in a rebalance, or the consumer was not its member, for longer
        than `patience` (a warning says so). A checkpoint. Cancelling the caller does not cancel the
        commit; its outcome is entered into the ledgers.

        Args:
            topics: names and partitions, mixed; None: all.
            begins_next: has no effect here: without transactions a commit does not stop delivery.
            text: stored with the offsets of `topics`. An offset that is committed already is
                committed again.

        Raises:
            CommitUnknown: no answer within the timeout. The next commit settles it.
            CommitWithdrawn: the client did not begin the commit within the timeout, and never will.
            DeliveryFailed: a message that was sent before was not delivered, and no task has seen
                its error. Nothing was committed.
            CommitRefused, AuthorizationFailed, Fenced, ClientClosed: as their classes say.
            AppClosed: `run` ended before the commit began.
        """
        attempt = self._join(topics, text)
        if attempt is None:
            await trio.lowlevel.checkpoint()
            return False
        return await attempt.wait()

    async def abort_and_rewind(self, topics: Collection[str | TP] | None = None) -> bool:
        """Return False, because nothing can be undone without transactions. A checkpoint."""
        await trio.lowlevel.checkpoint()
        return False

    async def redo(self, tp: TP, *, counts: bool) -> None:
        """Do nothing, because nothing can be undone without transactions. A checkpoint."""
        await trio.lowlevel.checkpoint()

    async def isolate(self, tp: TP) -> None:
        """Do nothing, because there are no transactions. A checkpoint."""
        await trio.lowlevel.checkpoint()

    def end(self) -> None:
        """Do nothing, because no commit waits for a handler. Not a checkpoint."""

    async def leave(self, tps: Collection[TP]) -> None:
        """Stop committing these partitions; wait for the commit in flight if it includes any.

        They are about to be released. Otherwise a commit could reach the broker after the first
        commit of the next owner, and undo it. A checkpoint. Cancelled: the partitions are left out
        of later commits all the same.
        """
        await trio.lowlevel.checkpoint()
        leaving = {self._assignment[tp] for tp in tps if tp in self._assignment}
        self._leaving = {ledger for ledger in self._leaving if not ledger.is_shut} | leaving
        while not leaving.isdisjoint(self._carried):
            await self._queue.wait_for_running()

    async def wait_for_running(self) -> bool:
        """Wait for the commit attempt in flight, or the next one; return whether there was one.

        A checkpoint. Cancelling changes nothing.
        """
        return await self._queue.wait_for_running()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Make the commit attempts, until cancelled.

        `commit` raises the error of an attempt to its callers. An error that is not a
        TransportError is raised here as well.
        """
        await self._queue.run()

    @trio.lowlevel.enable_ki_protection
    def _join(self, topics: Collection[str | TP] | None, text: str | None) -> CommitAttempt | None:
        due = self._due(topics, lambda tp: text is not None)
        if not due:
            return None
        if text is None and due.items() <= self._carried.items():
            return self._queue.running
        return self._queue.join(topics, text)

    async def _make(self, attempt: CommitAttempt) -> None:
        try:
            await self._try(attempt)
        finally:
            self._carried = {}

    async def _try(self, attempt: CommitAttempt) -> None:
        """Commit the due offsets; after a rebalance, retry with the partitions still owned.

        Only rebalances decide what a member owns. A commit can also be refused for lack of
        membership while the member joins again and keeps its partitions. If the member does not
        keep them, they are lost by the time of the retry, and nothing of them is due.
        """
        backoff = Backoff(_LONGEST_WAIT, self._patience)
        while due := self._due(attempt.topics, attempt.has_text_of):
            await self._wait_for_results(due)
            due = {ledger: offset for ledger, offset in due.items() if self._may_commit(ledger)}
            if not due:  # the partitions are gone, or about to be released
                continue
            self._carried = due
            offsets = {ledger.tp: offset for ledger, offset in due.items()}
            self.commit_had_no_effect = False
            try:
                await self._commit(offsets, attempt.texts_of(offsets))
            except (RebalanceInProgress, CommitFailed) as exc:
                self.commit_had_no_effect = True
                is_out = isinstance(exc, CommitFailed)
                if is_out:
                    self._has_suspended = True
                    self._suspend()
                if backoff.is_spent or (is_out and not self._can_join()):
                    self._log.warning(
                        "commit_given_up",
                        "the commit of %s was given up, and its messages may be redelivered: %s",
                        ranges(offsets),
                        exc,
                        partitions=offsets,
                        error=exc,
                    )
                    return
                await backoff.wait()
            except PartitionGone as exc:
                self._leave_out(exc, due)
            else:
                attempt.moved = any(ledger.committed != at for ledger, at in due.items())
                for ledger, offset in due.items():
                    ledger.committed = offset
                log_commit(self._log, offsets)
                break
        if self._has_suspended:  # the commit succeeded, or its partitions are lost
            self._has_suspended = False
            self._resume()

    @trio.lowlevel.enable_ki_protection
    async def _wait_for_results(self, due: Mapping[Ledger, int]) -> None:
        """Wait until all that was sent before now is delivered: the results of acked messages."""
        self.commit_had_no_effect = True
        with trio.move_on_after(self._timeout) as patience:
            await self._confirm()
        if patience.cancelled_caught:
            self._log.warning(
                "commit_waits_for_sends",
                "the commit of %s waits for messages that were sent before and are not delivered"
                " yet. Check the partitions that they were sent to",
                ranges(ledger.tp for ledger in due),
                partitions=[ledger.tp for ledger in due],
            )
            await self._confirm()

    def _may_commit(self, ledger: Ledger) -> bool:
        """Return whether the partition is still in its epoch, and is not about to be released."""
        return not ledger.is_shut and ledger not in self._leaving

    def _due(
        self, topics: Collection[str | TP] | None, repeats: Callable[[TP], bool]
    ) -> dict[Ledger, int]:
        """Return the offsets to commit, without partitions that are to be left out."""
        return {
            ledger: offset
            for ledger, offset in self._assignment.due(topics, repeats).items()
            if ledger not in self._leaving and not self._is_left_out(ledger, offset)
        }

    def _is_left_out(self, ledger: Ledger, offset: int) -> bool:
        if (kept := self._deleted.get(ledger)) is None:
            return False
        at, until = kept
        return at == offset and trio.current_time() < until

    def _leave_out(self, error: PartitionGone, due: Mapping[Ledger, int]) -> None:
        """Leave out the offsets of partitions that the broker does not have, for `_LEFT_OUT` s.

        If their topic was deleted, a rebalance takes the partitions away soon. But a broker that
        has just started may not know its topics yet. So a later offset is committed at once, and
        the same offset after this time.
        """
        gone = error.partitions
        until = trio.current_time() + _LEFT_OUT
        before = {ledger: kept for ledger, kept in self._deleted.items() if not ledger.is_shut}
        known = {ledger.tp for ledger in before}
        of_gone = {ledger: (at, until) for ledger, at in due.items() if ledger.tp in gone}
        self._deleted = before | of_gone
        if isinstance(error, TopicReplaced):
            return  # the rebalance handler warns of it
        if new := sorted(set(gone) - known):
            self._log.warning(
                "partition_gone",
                "the broker has no partition %s any more. Its offset is not committed; the other"
                " partitions are not affected",
                ranges(new),
                partitions=new,
            )

    @trio.lowlevel.enable_ki_protection
    async def _commit(self, offsets: Mapping[TP, int], texts: Mapping[TP, str]) -> None:
        """Commit the offsets; if the client hangs, raise CommitUnknown after the timeout."""
        try:
            with trio.fail_after(self._timeout + _MARGIN):
                await self._client.commit(offsets, self._timeout, texts)
        except trio.TooSlowError:
            raise CommitUnknown(
                f"the client did not answer within commit_timeout ({self._timeout:g} s)"
            ) from None
