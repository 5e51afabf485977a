"""Commits: one at a time, the latest safe offsets, each with an outcome.

A commit is a *round*. Who wants one joins the round that has not begun yet, or the running one if
that already carries all that the caller could want; rounds follow one another in one task, so two
commits never race each other to the broker. Only the waiting for a round can be cancelled. Its
outcome is entered into the ledgers whoever is left to see it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

import attrs
import trio

from transport.assignment import Assignment
from transport.drivers.base import ConsumerClient
from transport.errors import (
    CommitFailed,
    CommitUnknown,
    RebalanceInProgress,
    TransportError,
)
from transport.ledger import Ledger
from transport.types import TP

logger = logging.getLogger("transport.consumer")

# Between two tries of a commit that met a rebalance: the join has no end that is announced to
# a member that keeps what it has.
_FIRST_BACKOFF, _LAST_BACKOFF = 0.02, 0.5


@attrs.define(eq=False)
class _Round:
    """One commit, for all who wait for it."""

    topics: set[str | TP] | None  # None: all
    moved: bool = False
    error: Exception | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)

    def widen(self, topics: Collection[str | TP] | None) -> None:
        self.topics = None if self.topics is None or topics is None else self.topics | set(topics)


class Committer:
    """Makes the commits of one consumer.

    Args:
        timeout: seconds that the broker has for an answer.
        on_ownership_lost: called when the group says that this member is none any more.
    """

    def __init__(
        self,
        assignment: Assignment,
        client: ConsumerClient,
        *,
        timeout: float,
        on_ownership_lost: Callable[[], None],
    ) -> None:
        self._assignment = assignment
        self._client = client
        self._timeout = timeout
        self._on_ownership_lost = on_ownership_lost
        self._next: _Round | None = None
        self._running: _Round | None = None
        self._carried: dict[Ledger, int] = {}  # what the running round commits
        self._wanted = trio.Event()
        self._unknown: set[Ledger] = set()

    @property
    def unknown(self) -> set[TP]:
        """Partitions whose last commit got no answer, until the next one settles it."""
        return {ledger.tp for ledger in self._unknown if not ledger.is_shut}

    async def commit(self, topics: Collection[str | TP] | None = None) -> bool:
        """Commit what is safe of `topics` (names or partitions; None: of all).

        Returns whether an offset moved. A checkpoint. Cancelled: the commit goes on, once it
        has begun as well as before; its outcome is entered into the ledgers.

        Raises:
            CommitUnknown: no answer within the timeout; the next commit settles it.
            CommitRefused, AuthorizationFailed, Fenced, ClientClosed: as they say.
        """
        round_ = self._join(topics)
        if round_ is None:
            await trio.lowlevel.checkpoint()
            return False
        await round_.ended.wait()
        if round_.error is not None:
            raise round_.error
        return round_.moved

    async def wait_for_running(self) -> bool:
        """Wait for the end of the round that is under way; whether there was one."""
        running = self._running or self._next
        if running is None:
            await trio.lowlevel.checkpoint()
            return False
        await running.ended.wait()
        return True

    async def run(self) -> None:
        """Make the rounds, until cancelled. An error that nobody waits for cannot happen: it is
        raised by `commit`; whoever commits decides."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            self._running, self._next = self._next, None
            if (running := self._running) is None:
                continue
            try:
                await self._make(running)
            except TransportError as exc:
                running.error = exc
            finally:
                self._running = None
                self._carried = {}
                running.ended.set()

    def _join(self, topics: Collection[str | TP] | None) -> _Round | None:
        due = self._assignment.due(topics)
        if self._running is not None and all(
            self._carried.get(ledger, -1) >= offset for ledger, offset in due.items()
        ):
            return self._running
        if not due:
            return None
        if self._next is None:
            self._next = _Round(None if topics is None else set(topics))
            self._wanted.set()
        else:
            self._next.widen(topics)
        return self._next

    async def _make(self, round_: _Round) -> None:
        """Commit, again after a rebalance that came between, for what is still owned."""
        backoff = _FIRST_BACKOFF
        while due := self._assignment.due(round_.topics):
            self._carried = due
            offsets = {ledger.tp: offset for ledger, offset in due.items()}
            try:
                await self._client.commit(offsets, self._timeout)
            except RebalanceInProgress:
                await trio.sleep(backoff)
                backoff = min(backoff * 2, _LAST_BACKOFF)
            except CommitFailed:
                logger.warning("commit refused: this member is not in the group any more")
                self._on_ownership_lost()
                return
            except CommitUnknown:
                self._unknown = {ledger for ledger in (*self._unknown, *due) if not ledger.is_shut}
                raise
            else:
                self._unknown.difference_update(due)
                for ledger, offset in due.items():
                    ledger.committed = offset
                round_.moved = True
                return


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
            old_acked, old_safe, since, told = self._seen.get(ledger, (acked, None, now, False))
            if safe is None or safe != old_safe:
                old_acked, since, told = acked, now, False
            elif acked > old_acked and now - since >= self.timeout and not told:
                cases.append((tp, safe, now - since))
                told = True
            seen[ledger] = (old_acked, safe, since, told)
        self._seen = seen
        return cases
