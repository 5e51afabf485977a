"""The committer with transactions: each of its commits is a barrier.

A transaction holds the messages that were sent for each of its sources. So it can be committed only
when all its sources are done. The committer suspends delivery, drains the partitions, and then
commits the sent messages and the offsets together. If that fails, or takes too long, the committer
aborts the transaction. Its sources are redelivered in a new epoch, from the last committed offset.
No ack and no send of the old epoch reaches the new transaction.

Every step of a transaction, from its begin to the end of its producer, is made in a commit attempt.
So two steps never overlap.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import trio

from transport.backoff import Backoff
from transport.committing.commit_queue import Around, CommitAttempt, CommitQueue, log_commit
from transport.committing.transactions import Scope, TransactionManager
from transport.delivering.assignment import Assignment, is_among
from transport.delivering.drain import until_done
from transport.delivering.in_hand import in_hand
from transport.delivering.ledger import Ledger, ledger_of
from transport.drivers.base import ConsumerClient
from transport.errors import (
    AppClosed,
    AuthorizationFailed,
    ClientClosed,
    CommitFailed,
    CommitUnknown,
    Fenced,
    NotInTransaction,
    RebalanceInProgress,
    TransactionAborted,
    TransactionFailed,
    TransportError,
)
from transport.log import Log
from transport.types import TP

# No retry helps against these errors: they end the app.
_FATAL = (Fenced, AuthorizationFailed, TransactionFailed)
# Why a transaction is aborted.
_REDO = "a handler has failed, and its message is handled again"
_REQUESTED = "an abort was requested"
# The longest wait before a retry of a step, in seconds.
_LONGEST_WAIT = 1.0


class BarrierCommitter:
    """The committer of a consumer whose messages are handled in transactions.

    Args:
        rewind: begins a new epoch of a partition at an offset, and returns its ledger.
        resume: resumes delivery of partitions.
        bound: seconds for which a barrier waits for handlers, and for the delivery of the messages
            that they have sent.
        attempts: the app fails when so many transactions of a scope in a row were aborted.
        around: returns a block that is entered around each commit attempt.
    """

    def __init__(
        self,
        assignment: Assignment,
        client: ConsumerClient,
        transactions: TransactionManager,
        log: Log,
        *,
        rewind: Callable[[TP, int], Ledger],
        resume: Callable[[Collection[Ledger]], None],
        bound: float,
        attempts: int,
        around: Around | None = None,
    ) -> None:
        self._assignment = assignment
        self._rewind = rewind
        self._client = client
        self._log = log
        self._resume_ledgers = resume
        self._transactions = transactions
        self._bound = bound
        self._attempts = attempts
        self._is_last = False
        # The scopes with a commit in flight or of unknown outcome, and the offsets of that commit.
        self._unanswered: dict[Scope, dict[Ledger, int]] = {}
        self._waits: set[trio.CancelScope] = set()
        self._drains: dict[Scope, trio.CancelScope] = {}  # the waits for handlers, at barriers
        self._queue = CommitQueue(self._make, fatal=_FATAL, around=around)

    @property
    def commit_had_no_effect(self) -> bool:
        """Whether no commit is in flight, and none has an unknown outcome."""
        return not self._unanswered

    async def commit(
        self,
        topics: Collection[str | TP] | None = None,
        *,
        begins_next: bool = True,
        text: str | None = None,
    ) -> bool:
        """Commit the transactions of `topics`, and return whether an offset moved.

        Each scope that has a partition of `topics` is committed as a whole. A checkpoint.
        Cancelled: the commit goes on.

        Args:
            topics: names and partitions, mixed; None: all.
            begins_next: begin the next transaction. If False, nothing is delivered until the next
                commit.
            text: stored with the offsets of `topics`. An offset that is committed already is
                committed again.

        Raises:
            NotInTransaction: the task has a message in hand, for which the commit would wait.
            TransactionAborted: all work since the last commit is undone and redelivered.
            Fenced, AuthorizationFailed, TransactionFailed: these end the app as well.
            AppClosed, ClientClosed, CommitUnknown: the app ended before or during the commit.
        """
        held = in_hand.get()
        if held is not None and held.is_open and ledger_of(held) in self._mine():
            raise NotInTransaction(f"a commit waits for {held!r}, which is in hand: ack it first")
        attempt = self._queue.join(topics, text)
        attempt.begins_next = attempt.begins_next and begins_next
        return await attempt.wait()

    async def abort_and_rewind(self, topics: Collection[str | TP] | None = None) -> bool:
        """Abort the transactions of `topics`, redeliver their messages, and return True.

        A checkpoint. Cancelled: the abort goes on. Raises AppClosed, ClientClosed, and the errors
        of `commit` that end the app.
        """
        attempt = self._queue.join(topics)
        attempt.abort(topics)
        try:
            await attempt.wait()
        except TransactionAborted:
            pass  # the abort that was requested
        except CommitUnknown as error:
            raise AppClosed(
                "the app is closing: its producer or the broker will abort the transaction"
            ) from error
        return True

    async def redo(self, tp: TP, *, counts: bool) -> None:
        """Abort the transaction of a partition, so that a failed message of it is redelivered.

        If a barrier waits for the failed message, or is about to, the barrier aborts at once. A
        checkpoint. Cancelled: the abort goes on. Raises AppClosed: the app is closing, and its
        producer or the broker will abort the transaction.

        Args:
            counts: whether the abort counts as one of `transaction_attempts`. It does not if the
                attempts of the message are bounded.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        scope = self._transactions.scope_of(tp)
        if scope is not None:
            scope.must_abort = True
            scope.is_redone = scope.is_redone or not counts
            if (drain := self._drains.get(scope)) is not None:
                drain.cancel()
            while scope.must_abort and self._transactions.scope_of(tp) is scope:
                # An attempt for a partition that is revoked meanwhile would leave out the scope.
                topics = {tp} if self._is_meant(scope, {tp}) else None
                attempt = self._queue.running or self._queue.join(topics)
                await attempt.ended.wait()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def isolate(self, tp: TP) -> None:
        """Commit the transaction of a partition, and deliver only from this partition after that.

        The other partitions of its scope wait until the next commit or abort. So if the work on
        the partition fails, its abort undoes nothing else. If several partitions of a scope ask at
        the same time, one of them is served. A checkpoint. Cancelled: the commit goes on. Raises
        what `commit` raises.
        """
        attempt = self._queue.join({tp})
        attempt.alone = tp
        await attempt.wait()

    async def leave(self, tps: Collection[TP]) -> None:
        """Do nothing: the broker refuses a late commit by its generation. A checkpoint."""
        await trio.lowlevel.checkpoint()

    async def wait_for_running(self) -> bool:
        """Wait for the commit attempt in flight, or the next one; return whether there was one.

        A checkpoint. Cancelling changes nothing.
        """
        return await self._queue.wait_for_running()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Make the commit attempts, until cancelled. Raises the errors that end the app."""
        await self._queue.run()

    def end(self) -> None:
        """Stop waiting for handlers, and begin no transaction. Not a checkpoint."""
        self._is_last = True
        for wait in self._waits:
            wait.cancel()

    @trio.lowlevel.enable_ki_protection
    async def _make(self, attempt: CommitAttempt) -> None:
        errors: list[TransportError] = []

        async def make(scope: Scope) -> None:
            try:
                await self._commit(scope, attempt)
            except TransportError as exc:
                errors.append(exc)

        await self._transactions.stop_released()
        async with trio.open_nursery() as nursery:
            for scope in list(self._transactions.scopes):
                if self._is_meant(scope, attempt.topics):
                    nursery.start_soon(make, scope)
        errors.sort(key=lambda error: not isinstance(error, _FATAL))
        for error in errors:
            raise error

    async def _commit(self, scope: Scope, attempt: CommitAttempt) -> None:
        failure: TransportError | None = None
        is_abort = scope.must_abort or self._is_meant(scope, attempt.aborted)
        alone = attempt.alone
        if alone is not None and self._transactions.scope_of(alone) is not scope:
            alone = None
        if not scope.is_ready:
            scope.must_abort = scope.is_redone = False
            if not self._is_last:
                await self._begin(scope)
            return  # nothing was delivered yet
        has_work = is_abort or scope.written or self._due(scope, attempt)
        if not has_work and alone is None and scope.alone is None:
            return
        with self._suspended(scope):
            scope.alone = None
            try:
                if is_abort:
                    raise TransactionAborted(_REDO if scope.must_abort else _REQUESTED)
                deadline = trio.current_time() + self._bound
                await self._drain(scope, deadline)
                await self._commit_drained(scope, attempt, deadline)
                scope.alone = alone
            except _FATAL:
                raise
            except TransportError as exc:
                await self._abort_and_rewind(scope, exc)
                failure = exc
            if attempt.begins_next and not self._is_last:
                await self._begin(scope)
        if failure is not None:
            raise TransactionAborted(f"the transaction was aborted after {failure!r}") from failure

    @trio.lowlevel.enable_ki_protection
    async def _drain(self, scope: Scope, deadline: float) -> None:
        ledgers = self._ledgers(scope)
        with self._until_end(deadline) as wait:
            self._drains[scope] = wait
            try:
                await until_done(ledgers)
            finally:
                del self._drains[scope]
        if scope.must_abort:
            raise TransactionAborted(_REDO)
        if left := [message for ledger in ledgers for message in ledger.unacked]:
            by_then = "at the end" if self._is_last else f"within {self._bound:g} s"
            raise TransactionAborted(
                f"{len(left)} messages were not acked {by_then}, such as {left[0]!r}"
            )

    async def _commit_drained(self, scope: Scope, attempt: CommitAttempt, deadline: float) -> None:
        due = self._due(scope, attempt)
        backoff = Backoff(_LONGEST_WAIT, self._bound)
        while True:
            try:
                await self._request(scope, due, attempt, deadline)
                break
            except RebalanceInProgress:
                if backoff.is_spent:
                    raise
                await backoff.wait()
                due = self._due(scope, attempt)  # partitions may be lost during the wait
            except CommitFailed:
                await self._wait_for_loss(due)
                raise
        for ledger, offset in due.items():
            attempt.moved = attempt.moved or ledger.committed != offset
            ledger.committed = offset

    async def _request(
        self, scope: Scope, due: dict[Ledger, int], attempt: CommitAttempt, deadline: float
    ) -> None:
        """Commit the transaction of a scope. Without an answer, the scope stays unanswered."""
        self._unanswered[scope] = due
        try:
            offsets = {ledger.tp: offset for ledger, offset in due.items()}
            texts = attempt.texts_of(offsets)
            await self._transactions.commit_scope(scope, offsets, deadline, texts)
        except TransportError as exc:
            if not isinstance(exc, CommitUnknown):
                del self._unanswered[scope]
            raise
        del self._unanswered[scope]
        log_commit(self._log, offsets)

    @trio.lowlevel.enable_ki_protection
    async def _wait_for_loss(self, due: Collection[Ledger]) -> None:
        """Wait until the evicted member loses the partitions, for `bound` seconds at most.

        Delivery stays suspended, because another member handles the messages of these partitions.
        """
        if not any(ledger.is_shut for ledger in due):
            with self._until_end(trio.current_time() + self._bound):
                await self._transactions.next_loss()

    async def _abort_and_rewind(self, scope: Scope, why: TransportError) -> None:
        """Abort the transaction, and redeliver its messages."""
        self._log.often(
            logging.INFO if scope.is_redone else logging.WARNING,
            "transaction_aborted",
            "a transaction was aborted, and its messages will be redelivered (id %r): %s",
            scope.transactional_id,
            why,
            transactional_id=scope.transactional_id,
            error=why,
        )
        unanswered = self._unanswered.get(scope, {})
        unknown = {}  # the new epochs of the partitions in that commit, and its offsets
        for ledger in self._ledgers(scope):
            if (offset := ledger.uncommitted) is not None:
                begun = self._rewind(ledger.tp, offset)
                if ledger in unanswered:
                    unknown[begun] = unanswered[ledger]
        aborted = TransactionAborted(f"the transaction was aborted after {why!r}")
        await self._until_answered(lambda: self._transactions.abort_scope(scope, aborted))
        await self._until_answered(lambda: self._settle(unknown))
        self._unanswered.pop(scope, None)
        if scope.aborts >= self._attempts:
            raise TransactionFailed(
                f"{scope.aborts} transactions of {scope.transactional_id!r} in a row were aborted;"
                f" the last one: {why}"
            ) from why

    async def _settle(self, unknown: Mapping[Ledger, int]) -> None:
        """Find out whether a commit without an answer was made; if so, continue after it.

        By now it was made as a whole, or not at all. It was made if the committed offsets equal its
        offsets. Greater ones prove nothing: after a seek backwards they may be older.
        """
        ours = {ledger: offset for ledger, offset in unknown.items() if not ledger.is_shut}
        if not ours:
            return
        committed = await self._client.committed([ledger.tp for ledger in ours])
        if any(committed.get(ledger.tp) != offset for ledger, offset in ours.items()):
            return
        for ledger, offset in ours.items():
            if not ledger.is_shut:
                self._rewind(ledger.tp, offset)

    @trio.lowlevel.enable_ki_protection
    async def _begin(self, scope: Scope) -> None:
        """Begin the next transaction; if that fails now, a later commit attempt begins it."""
        with self._until_end():
            try:
                await self._transactions.begin_scope(scope)
            except (*_FATAL, ClientClosed):
                raise
            except TransportError as exc:
                self._log.warning(
                    "transaction_not_begun",
                    "the next transaction of %r could not begin. Delivery waits for it, and the"
                    " next commit retries: %s",
                    scope.transactional_id,
                    exc,
                    transactional_id=scope.transactional_id,
                    error=exc,
                )
        self._resume(scope)

    @contextmanager
    @trio.lowlevel.enable_ki_protection
    def _until_end(self, deadline: float = math.inf) -> Iterator[trio.CancelScope]:
        """Cancel the block at a deadline on trio's clock, and at the end of the committer."""
        with trio.move_on_at(trio.current_time() if self._is_last else deadline) as wait:
            self._waits.add(wait)
            try:
                yield wait
            finally:
                self._waits.discard(wait)

    @contextmanager
    def _suspended(self, scope: Scope) -> Iterator[None]:
        """Suspend delivery of the scope, also of partitions that are assigned in the block."""
        scope.is_suspended = True
        for ledger in self._ledgers(scope):
            ledger.suspend()
        try:
            yield
        finally:
            scope.is_suspended = False
            self._resume(scope)

    def _resume(self, scope: Scope) -> None:
        ledgers = [ledger for ledger in self._ledgers(scope) if scope.delivers(ledger.tp)]
        if ledgers:
            self._resume_ledgers(ledgers)

    def _due(self, scope: Scope, attempt: CommitAttempt) -> dict[Ledger, int]:
        mine = set(self._ledgers(scope))
        due = self._assignment.due(repeats=attempt.has_text_of)
        return {ledger: offset for ledger, offset in due.items() if ledger in mine}

    def _ledgers(self, scope: Scope) -> list[Ledger]:
        scope_of = self._transactions.scope_of  # none for a partition that is being released
        return [ledger for ledger in self._mine() if scope_of(ledger.tp) is scope]

    def _mine(self) -> list[Ledger]:
        return list(self._assignment.values())

    def _is_meant(self, scope: Scope, topics: Collection[str | TP] | None) -> bool:
        return topics is None or any(is_among(each.tp, topics) for each in self._ledgers(scope))

    async def _until_answered(self, call: Callable[[], Awaitable[None]]) -> None:
        """Retry a call until it is answered, because no other step may come before that."""
        backoff, has_warned = Backoff(_LONGEST_WAIT), False
        while True:
            try:
                return await call()
            except (*_FATAL, ClientClosed):
                raise
            except TransportError as exc:
                if not has_warned:
                    has_warned = True
                    self._log.warning(
                        "transaction_not_ended",
                        "a transaction cannot be ended yet: %s. The app retries until it can",
                        exc,
                        error=exc,
                    )
                await backoff.wait()
