"""Commits: the latest safe offsets, each with an outcome, which is entered into the ledgers.

Who wants one joins the next round (see `CommitQueue`), or the running one if that already carries all
that the caller could want.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

import trio

from transport.backoff import Backoff
from transport.committing.commit_queue import Around, CommitAttempt, CommitQueue
from transport.delivering.assignment import Assignment
from transport.delivering.ledger import Ledger
from transport.drivers.base import ConsumerClient
from transport.errors import (
    CommitFailed,
    CommitUnknown,
    CommitWithdrawn,
    PartitionGone,
    RebalanceInProgress,
    TopicReplaced,
    TransportError,
)
from transport.excerpt import listed
from transport.types import TP

logger = logging.getLogger("transport.consumer")

# The longest wait between two tries of a commit that met a rebalance.
_LONGEST_WAIT = 0.5
# Seconds after which a partition that the broker did not have is asked for again.
_HOMELESS = 30.0
# The timeout is for the client to keep; it has so many seconds more to tell of it.
_MARGIN = 2.0


class Committer:
    """Makes the commits of one consumer.

    Args:
        timeout: seconds to wait for the broker's answer.
        patience: seconds for which a commit is retried while the group is in a rebalance.
        can_join: whether the member can join its group meanwhile; not while a rebalance is served.
        suspend: stops delivery. Called when a commit was refused because the consumer is no member:
            the loss of all partitions follows, and another member handles their messages.
        resume: resumes delivery. Called when a later commit shows that the consumer is a member.
        around: entered around each commit.

    Attributes:
        is_refused: the last try was refused and changed nothing, and no other is in flight.
    """

    def __init__(
        self,
        assignment: Assignment,
        client: ConsumerClient,
        *,
        timeout: float,
        patience: float,
        can_join: Callable[[], bool],
        suspend: Callable[[], None],
        resume: Callable[[], None],
        around: Around | None = None,
    ) -> None:
        self._assignment = assignment
        self._client = client
        self._timeout = timeout
        self._patience = patience
        self._can_join = can_join
        self._suspend = suspend
        self._resume = resume
        self._is_holding = False
        self._queue = CommitQueue(self._make, around=around)
        self._carried: dict[Ledger, int] = {}  # what the running round commits
        self._unknown: set[Ledger] = set()
        # Of partitions that the broker does not have: what it could not commit, and until when that
        # is asked for no more.
        self._deleted: dict[Ledger, tuple[int, float]] = {}
        self._left: set[Ledger] = set()  # of partitions that are about to go
        self.is_refused = False

    @property
    def unknown(self) -> set[TP]:
        """Partitions whose last commit got no answer, until the next one settles it."""
        return {ledger.tp for ledger in self._unknown if not ledger.is_shut}

    async def commit(
        self, topics: Collection[str | TP] | None = None, *, goes_on: bool = True
    ) -> bool:
        """Commit the safe offsets of `topics` (names or partitions; None: all).

        Return whether an offset moved. False also if the group was in a rebalance, or the consumer
        was not its member, for longer than `patience` (a warning says so). A checkpoint.
        Cancelling the caller does not cancel the commit; its outcome is entered into the ledgers.

        Args:
            goes_on: has no effect here: without transactions a commit does not stop delivery.

        Raises:
            CommitUnknown: no answer within the timeout; the next commit settles it.
            CommitWithdrawn: the client did not begin it within the timeout: it is not made.
            CommitRefused, AuthorizationFailed, Fenced, ClientClosed: as they say.
            AppClosed: `run` ended before the commit was begun.
        """
        attempt = self._join(topics)
        if attempt is None:
            await trio.lowlevel.checkpoint()
            return False
        return await attempt.wait()

    async def abort_and_rewind(self, topics: Collection[str | TP] | None = None) -> bool:
        """Nothing can be undone without transactions: False. A checkpoint."""
        await trio.lowlevel.checkpoint()
        return False

    def end(self) -> None:
        """No commit waits for a handler, so none has to be hurried."""

    async def leave(self, tps: Collection[TP]) -> None:
        """Ask for no commit of these partitions any more, which are about to go, and wait for the
        one under way, if it has something of theirs.

        Or it could reach the broker after the first commit of the next owner, and take that back.
        A checkpoint. Cancelled: no other is asked for all the same.
        """
        await trio.lowlevel.checkpoint()
        leaving = {self._assignment[tp] for tp in tps if tp in self._assignment}
        self._left = {ledger for ledger in self._left if not ledger.is_shut} | leaving
        while not leaving.isdisjoint(self._carried):
            await self._queue.wait_for_running()

    async def wait_for_running(self) -> bool:
        """Wait for the end of the round that is under way; whether there was one."""
        return await self._queue.wait_for_running()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Make the rounds, until cancelled. What goes wrong in one is raised by `commit`, to
        whoever waits for it; errors that are no TransportError are raised here as well."""
        await self._queue.run()

    @trio.lowlevel.enable_ki_protection
    def _join(self, topics: Collection[str | TP] | None) -> CommitAttempt | None:
        due = self._due(topics)
        if not due:
            return None
        running = self._queue.running
        if running is not None and all(
            self._carried.get(ledger, -1) >= offset for ledger, offset in due.items()
        ):
            return running
        return self._queue.join(topics)

    async def _make(self, attempt: CommitAttempt) -> None:
        """Make a round; where it has no outcome, the ledgers are known for it."""
        try:
            await self._try(attempt)
        except BaseException as exc:  # a commit that is cancelled has no known outcome, either
            is_open = isinstance(exc, CommitUnknown) and not isinstance(exc, CommitWithdrawn)
            if is_open or not isinstance(exc, TransportError):
                self._lose_track()
            raise
        finally:
            self._carried = {}

    async def _try(self, attempt: CommitAttempt) -> None:
        """Commit, again after a rebalance that came between, for what is still owned.

        What a member owns is for the rebalances alone to say. A commit can be refused for lack of
        a membership also where the member joins anew and keeps what it has; if it does not, its
        partitions are lost by then, and nothing of theirs is due.
        """
        backoff = Backoff(_LONGEST_WAIT, self._patience)
        while due := self._due(attempt.topics):
            self._carried = due
            offsets = {ledger.tp: offset for ledger, offset in due.items()}
            self.is_refused = False
            try:
                await self._commit(offsets)
            except (RebalanceInProgress, CommitFailed) as exc:
                self.is_refused = True
                is_out = isinstance(exc, CommitFailed)
                if is_out:
                    self._is_holding = True
                    self._suspend()
                if backoff.is_spent or (is_out and not self._can_join()):
                    logger.warning("a commit was given up, what it held may come again: %s", exc)
                    return
                await backoff.wait()
            except PartitionGone as exc:
                self._go_on_without(exc, due)
            else:
                self._unknown.difference_update(due)
                for ledger, offset in due.items():
                    ledger.committed = offset
                attempt.moved = True
                break
        if self._is_holding:  # a commit was made, or what was refused is lost
            self._is_holding = False
            self._resume()

    def _due(self, topics: Collection[str | TP] | None) -> dict[Ledger, int]:
        """What there is to commit, of partitions that the broker has as far as we know."""
        return {
            ledger: offset
            for ledger, offset in self._assignment.due(topics).items()
            if ledger not in self._left and not self._is_homeless(ledger, offset)
        }

    def _is_homeless(self, ledger: Ledger, offset: int) -> bool:
        if (kept := self._deleted.get(ledger)) is None:
            return False
        at, until = kept
        return at == offset and trio.current_time() < until

    def _go_on_without(self, error: PartitionGone, due: Mapping[Ledger, int]) -> None:
        """A topic was deleted: what was to be committed for it is not asked for in a while.

        Its partitions go in a rebalance, once the group has heard of it. If it is there again
        before, what is new there is committed, and in the end what is old as well: a broker that
        was just started may not know its topics yet.
        """
        gone = error.partitions
        until = trio.current_time() + _HOMELESS
        homeless = {ledger: kept for ledger, kept in self._deleted.items() if not ledger.is_shut}
        known = {ledger.tp for ledger in homeless}
        of_gone = {ledger: (at, until) for ledger, at in due.items() if ledger.tp in gone}
        self._deleted = homeless | of_gone
        if isinstance(error, TopicReplaced):
            return  # the handover warns of it
        if new := sorted(set(gone) - known):
            logger.warning(
                "the broker has no partition %s any more: nothing is committed for it, and the"
                " others go on",
                listed(new),
            )

    @trio.lowlevel.enable_ki_protection
    async def _commit(self, offsets: Mapping[TP, int]) -> None:
        """Have an answer in time, also of a client that hangs."""
        try:
            with trio.fail_after(self._timeout + _MARGIN):
                await self._client.commit(offsets, self._timeout)
        except trio.TooSlowError:
            raise CommitUnknown(f"the client gave no answer for {self._timeout:g} s") from None

    def _lose_track(self) -> None:
        """What the running round carries was committed, or was not."""
        carried = (*self._unknown, *self._carried)
        self._unknown = {ledger for ledger in carried if not ledger.is_shut}
