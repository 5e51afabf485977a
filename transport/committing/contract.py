"""The contract of a committer, for the parts that ask for commits.

There are two committers. `Committer` commits offsets alone. `BarrierCommitter` commits them in a
transaction, together with the messages that were sent in it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from transport.types import TP


class AnyCommitter(Protocol):
    """A committer of one consumer, `Committer` or `BarrierCommitter`. One commit at a time."""

    @property
    def commit_had_no_effect(self) -> bool:
        """Whether it is certain that the commit under way had no effect.

        Then no request of it is in flight, and none is without an answer.
        """

    async def commit(
        self,
        topics: Collection[str | TP] | None = None,
        *,
        begins_next: bool = True,
        text: str | None = None,
    ) -> bool:
        """Commit the safe offsets of `topics`; return whether an offset moved.

        Args:
            topics: names and partitions, mixed; None: all.
            begins_next: with transactions, begin the next one.
            text: stored with the offsets. An offset that is committed already is committed again.
        """

    async def abort_and_rewind(self, topics: Collection[str | TP] | None = None) -> bool:
        """Undo all uncommitted work and redeliver its messages. False: that is not possible."""

    async def redo(self, tp: TP, *, counts: bool) -> None:
        """With transactions, abort that of a partition, so that a failed message is redelivered."""

    async def isolate(self, tp: TP) -> None:
        """With transactions, commit, and begin a transaction for one partition alone."""

    async def leave(self, tps: Collection[TP]) -> None:
        """Stop committing these partitions, which are about to be released."""

    async def wait_for_running(self) -> bool:
        """Wait for the commit in flight, or the next one; return whether there was one."""

    async def run(self) -> None:
        """Make the commits, until cancelled."""

    def end(self) -> None:
        """Stop waiting for handlers. Not a checkpoint."""
