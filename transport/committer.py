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
    AppClosed,
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
        patience: seconds that a commit is tried again for, until the group has come to rest.
        can_join: whether the member can join its group meanwhile; not while a rebalance is served.
    """

    def __init__(
        self,
        assignment: Assignment,
        client: ConsumerClient,
        *,
        timeout: float,
        patience: float,
        can_join: Callable[[], bool],
    ) -> None:
        self._assignment = assignment
        self._client = client
        self._timeout = timeout
        self._patience = patience
        self._can_join = can_join
        self._next: _Round | None = None
        self._running: _Round | None = None
        self._carried: dict[Ledger, int] = {}  # what the running round commits
        self._wanted = trio.Event()
        self._unknown: set[Ledger] = set()
        self._has_ended = False

    @property
    def unknown(self) -> set[TP]:
        """Partitions whose last commit got no answer, until the next one settles it."""
        return {ledger.tp for ledger in self._unknown if not ledger.is_shut}

    async def commit(self, topics: Collection[str | TP] | None = None) -> bool:
        """Commit what is safe of `topics` (names or partitions; None: of all).

        Returns whether an offset moved; False also where the group has not come to rest, or has not
        taken the member back, while we had patience (a warning says so). A checkpoint. Cancelled:
        the commit goes on, once it has begun as well as before; its outcome is entered into the
        ledgers.

        Raises:
            CommitUnknown: no answer within the timeout; the next commit settles it.
            CommitRefused, AuthorizationFailed, Fenced, ClientClosed: as they say.
            AppClosed: `run` ended before the commit was begun.
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

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Make the rounds, until cancelled. What goes wrong in one is raised by `commit`, to
        whoever waits for it; errors that are no TransportError are raised here as well."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                self._running, self._next = self._next, None
                if self._running is not None:
                    await self._complete(self._running)
        finally:
            self._has_ended = True
            if self._next is not None:
                self._next.error = AppClosed("the app is closing: nothing was committed")
                self._next.ended.set()

    async def _complete(self, round_: _Round) -> None:
        try:
            await self._make(round_)
        except TransportError as exc:
            round_.error = exc
        except BaseException:  # cancelled as well: whoever waits for the round is told
            round_.error = CommitUnknown("the app ended before the answer to a commit")
            self._lose_track()
            raise
        finally:
            self._running = None
            self._carried = {}
            round_.ended.set()

    @trio.lowlevel.enable_ki_protection
    def _join(self, topics: Collection[str | TP] | None) -> _Round | None:
        due = self._assignment.due(topics)
        if not due:
            return None
        if self._running is not None and all(
            self._carried.get(ledger, -1) >= offset for ledger, offset in due.items()
        ):
            return self._running
        if self._has_ended:
            raise AppClosed("the app is closing: nothing can be committed")
        if self._next is None:
            self._next = _Round(None if topics is None else set(topics))
            self._wanted.set()
        else:
            self._next.widen(topics)
        return self._next

    async def _make(self, round_: _Round) -> None:
        """Commit, again after a rebalance that came between, for what is still owned.

        What a member owns is for the rebalances alone to say. A commit can be refused for lack of
        a membership also where the member joins anew and keeps what it has; if it does not, its
        partitions are lost by then, and nothing of theirs is due.
        """
        backoff = _FIRST_BACKOFF
        give_up = trio.current_time() + self._patience
        while due := self._assignment.due(round_.topics):
            self._carried = due
            offsets = {ledger.tp: offset for ledger, offset in due.items()}
            try:
                await self._client.commit(offsets, self._timeout)
            except (RebalanceInProgress, CommitFailed) as exc:
                is_out = isinstance(exc, CommitFailed)
                if trio.current_time() + backoff > give_up or (is_out and not self._can_join()):
                    logger.warning("a commit was given up, what it held may come again: %s", exc)
                    return
                await trio.sleep(backoff)
                backoff = min(backoff * 2, _LAST_BACKOFF)
            except CommitUnknown:
                self._lose_track()
                raise
            else:
                self._unknown.difference_update(due)
                for ledger, offset in due.items():
                    ledger.committed = offset
                round_.moved = True
                return

    def _lose_track(self) -> None:
        """What the running round carries was committed, or was not."""
        carried = (*self._unknown, *self._carried)
        self._unknown = {ledger for ledger in carried if not ledger.is_shut}


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
