"""The commits that nobody asks for: one at each interval, and one at the end.

What becomes of them is for the log, for nobody waits for it; and each is a look at what acks have
come to since the last. How a commit is made is the committer's to say, of which there are two: for
offsets alone, and with all that was sent as a whole.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

import attrs
import trio

from transport.delivering.assignment import Assignment
from transport.delivering.ledger import Ledger
from transport.errors import AppClosed, CommitUnknown, TransportError
from transport.types import TP

logger = logging.getLogger("transport.consumer")


class AnyCommitter(Protocol):
    """Makes the commits of one consumer, one at a time: `Committer` or `BarrierCommitter`."""

    @property
    def is_refused(self) -> bool:
        """Whether no commit is under way whose outcome nobody knows."""

    @property
    def unknown(self) -> set[TP]:
        """Partitions whose last commit got no answer, until it is settled."""

    async def commit(
        self, topics: Collection[str | TP] | None = None, *, goes_on: bool = True
    ) -> bool:
        """Commit what is safe of `topics` (None: of all); whether an offset moved.

        `goes_on`: with transactions, whether the next one is begun.
        """

    async def abort_and_rewind(self, topics: Collection[str | TP] | None = None) -> bool:
        """Undo what is not committed, and deliver it again; False: that cannot be done."""

    async def leave(self, tps: Collection[TP]) -> None:
        """Commit nothing of these partitions any more, which are about to go."""

    async def wait_for_running(self) -> bool:
        """Wait for the end of the commit that is under way; whether there was one."""

    async def run(self) -> None:
        """Make the commits, until cancelled."""

    def end(self) -> None:
        """Wait for no handler any more. Not a checkpoint."""


class AutoCommitter:
    """Sees to it that a consumer commits.

    Args:
        commit: commits the safe offsets of all partitions.
        commit_last: the same, and begins no transaction after it.
        ending_quietly: a block that ends without an error where the consumer was closed meanwhile.
        timeout: seconds for the last commit.
        livelock_timeout: seconds for which an offset may stand still while acks go on.
        raises_refusals: whether the app ends when a commit is refused.
    """

    def __init__(
        self,
        assignment: Assignment,
        commit: Callable[[], Awaitable[object]],
        commit_last: Callable[[], Awaitable[object]],
        ending_quietly: Callable[[], contextlib.AbstractContextManager[None]],
        *,
        timeout: float,
        livelock_timeout: float,
        raises_refusals: bool,
    ) -> None:
        self._assignment = assignment
        self._commit = commit
        self._commit_last = commit_last
        self._ending_quietly = ending_quietly
        self._timeout = timeout
        self._raises_refusals = raises_refusals
        self._watch = LivelockWatch(livelock_timeout)

    @trio.lowlevel.enable_ki_protection
    async def beat(self) -> None:
        """The interval has passed: commit, and look for a livelock.

        Raises, without transactions, what a commit is refused for.
        """
        try:
            with self._ending_quietly():
                await self._commit()
        except CommitUnknown as exc:
            logger.warning("a commit got no answer, the next one settles it: %s", exc)
        except TransportError:
            if self._raises_refusals:
                raise
            # An abort has its warning, and its messages come again; the committer raises the rest.
        for tp, offset, age in self._watch.look(self._assignment, trio.current_time()):
            logger.warning(
                "%s: the offset to commit has stood at %d for %.1f s while later messages"
                " were acked: the message there is not",
                tp,
                offset,
                age,
            )

    @trio.lowlevel.enable_ki_protection
    async def last(self, committer: AnyCommitter, most: float) -> None:
        """Commit what is safe at the end, within `most` seconds and the commit timeout.

        Raises CommitUnknown: it got no answer within them.
        """
        timeout = min(most, self._timeout)
        committer.end()
        # Whatever has ended the committer is told by itself.
        with (
            trio.move_on_after(timeout) as bound,
            contextlib.suppress(AppClosed),
            self._ending_quietly(),  # where it is killed meanwhile
        ):
            await self._commit_last()
        if bound.cancelled_caught and committer.is_refused:
            logger.warning(
                "the last commit was not made within %.1f s, because the group was in a rebalance"
                " or a transaction had to be aborted. Messages acked since the commit before it"
                " will be redelivered",
                timeout,
            )
        elif bound.cancelled_caught:
            raise CommitUnknown(f"the last commit got no answer within {timeout:.1f} s")


@attrs.define
class LivelockWatch:
    """Finds partitions whose acks go on while the offset to commit stands still.

    One message that is never acked holds back all that come after it; nothing else shows that.

    Args:
        timeout: seconds that an offset may stand still.
    """

    timeout: float
    _seen: dict[Ledger, tuple[int, int | None, float, bool]] = attrs.field(factory=dict)

    def look(self, assignment: Assignment, now: float) -> list[tuple[TP, int, float]]:
        """Partition, offset and age in seconds of each new case; each is told once."""
        cases = []
        seen = {}
        for tp, ledger in assignment.items():
            acked, safe = ledger.acked, ledger.safe
            old_acked, old_safe, since, told = self._seen.get(ledger, (acked, safe, now, False))
            age = now - since
            if safe != old_safe:
                old_acked, since, told = acked, now, False
            elif safe is not None and acked > old_acked and age >= self.timeout and not told:
                cases.append((tp, safe, age))
                told = True
            seen[ledger] = (old_acked, safe, since, told)
        self._seen = seen
        return cases
