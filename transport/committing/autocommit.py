"""Automatic commits: one at each interval, and one at the end.

Nothing awaits the commits at the interval. If one gets no answer, that is only logged. Without
transactions, a refused one ends the app.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import trio

from transport.committing.contract import AnyCommitter
from transport.committing.livelock import LivelockWatch
from transport.delivering.assignment import Assignment
from transport.errors import AppClosed, CommitUnknown, DeliveryFailed, TransportError
from transport.log import Log


class AutoCommitter:
    """The automatic commits of one consumer.

    Args:
        commit: commits the safe offsets of all partitions; returns whether an offset moved.
        commit_last: does the same, and begins no transaction after it.
        ending_quietly: returns a block that ends without an error if the consumer was closed
            meanwhile.
        timeout: seconds for the last commit.
        livelock_timeout: seconds for which an offset may stand still while acks go on.
        raises_refusals: whether a refused commit ends the app.
        note_undelivered: called when the errors of messages that were not delivered end the app.
    """

    def __init__(
        self,
        assignment: Assignment,
        commit: Callable[[], Awaitable[object]],
        commit_last: Callable[[], Awaitable[object]],
        ending_quietly: Callable[[], contextlib.AbstractContextManager[None]],
        log: Log,
        *,
        timeout: float,
        livelock_timeout: float,
        raises_refusals: bool,
        note_undelivered: Callable[[], object],
    ) -> None:
        self._assignment = assignment
        self._commit = commit
        self._commit_last = commit_last
        self._ending_quietly = ending_quietly
        self._log = log
        self._timeout = timeout
        self._raises_refusals = raises_refusals
        self._note_undelivered = note_undelivered
        self._watch = LivelockWatch(livelock_timeout)
        self._unanswered_since: float | None = None  # on trio's clock; None: the last was answered
        self._was_prevented = False  # the last commit was not made, because a delivery had failed

    @trio.lowlevel.enable_ki_protection
    async def beat(self) -> None:
        """Commit, and check for livelocks. Called once in each interval.

        A checkpoint. Without transactions, raises the error of a refused commit, and DeliveryFailed
        if no task has seen the error of a sent message since the last beat.
        """
        was_answered: object = False
        try:
            with self._ending_quietly():
                was_answered = await self._commit()
            self._was_prevented = False
            if was_answered:
                self._note_answer()
        except DeliveryFailed as exc:
            if self._was_prevented:
                self._note_undelivered()
                raise
            self._was_prevented = True  # a handler may await the outcome soon
            self._log.warning(
                "commit_prevented",
                "nothing is committed until a task has seen the error of a message that was not"
                " delivered. Otherwise the next commit ends the app: %s",
                exc,
                error=exc,
            )
        except CommitUnknown as exc:
            if self._unanswered_since is None:
                self._unanswered_since = trio.current_time()
                self._log.warning(
                    "commit_unanswered",
                    "a commit got no answer, and the next one with an answer settles it: %s",
                    exc,
                    error=exc,
                )
        except TransportError:
            if self._raises_refusals:
                raise
            # The committer has warned of an abort. It raises all other errors itself.
        for tp, offset, age in self._watch.check(self._assignment, trio.current_time()):
            self._log.warning(
                "commit_stands",
                "%s: the offset to commit has stood at %d for %.1f s while later messages"
                " were acked. The message at that offset is not acked: check its handler",
                tp,
                offset,
                age,
                partitions=[tp],
                offset=offset,
                seconds=age,
            )

    def _note_answer(self) -> None:
        if self._unanswered_since is not None:
            seconds = trio.current_time() - self._unanswered_since
            self._unanswered_since = None
            self._log.info(
                "commit_answered",
                "commits are answered again, after %.1f s",
                seconds,
                seconds=seconds,
            )

    @trio.lowlevel.enable_ki_protection
    async def last(self, committer: AnyCommitter, most: float) -> None:
        """Make the last commit, within `most` seconds and within the commit timeout.

        A checkpoint. Raises CommitUnknown: no answer within that time.
        """
        timeout = min(most, self._timeout)
        committer.end()
        # AppClosed: the committer has ended, and raises the reason itself. DeliveryFailed: the
        # producer raises it when it stops.
        with (
            trio.move_on_after(timeout) as bound,
            contextlib.suppress(AppClosed, DeliveryFailed),
            self._ending_quietly(),  # the consumer may be killed meanwhile
        ):
            await self._commit_last()
        if bound.cancelled_caught and committer.commit_had_no_effect:
            self._log.warning(
                "last_commit_not_made",
                "the last commit was not made within %.1f s, because the group was in a rebalance,"
                " a transaction had to be aborted or sent messages were not delivered. Messages"
                " acked since the commit before it will be redelivered",
                timeout,
                seconds=timeout,
            )
        elif bound.cancelled_caught:
            raise CommitUnknown(f"the last commit got no answer within {timeout:.1f} s")
