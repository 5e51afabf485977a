"""The commit queue: one commit at a time, each shared by all its callers.

A commit is a `CommitAttempt`. A caller joins the attempt that has not begun yet. One task makes the
attempts one after the other, so two commits never race each other to the broker. Cancelling a
caller does not cancel the attempt; its outcome is always recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

import attrs
import trio

from transport.delivering.assignment import is_among
from transport.errors import AppClosed, CommitUnknown, TransportError
from transport.excerpt import listed
from transport.log import Log
from transport.types import TP


@attrs.define(eq=False)
class CommitAttempt:
    """One commit, shared by its callers.

    Attributes:
        topics: names and partitions; None: all.
        texts: the texts to commit with the offsets, each for names and partitions or None (all), in
            the order of the calls.
        begins_next: whether the next transaction begins after it.
        aborted: the topics and partitions whose transactions it aborts instead of committing them;
            None: all of them.
        alone: with transactions, the partition to which the next transaction belongs alone.
        moved: whether an offset moved.
        error: why it failed. None: it has not ended, or it succeeded.
    """

    topics: set[str | TP] | None
    texts: list[tuple[set[str | TP] | None, str]] = attrs.field(factory=list)
    begins_next: bool = True
    aborted: set[str | TP] | None = attrs.field(factory=set)
    alone: TP | None = None
    moved: bool = False
    error: Exception | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def wait(self) -> bool:
        """Wait until the attempt has ended, and return whether an offset moved.

        A checkpoint; cancelling ends only the wait. Raises the error of the attempt.
        """
        await self.ended.wait()
        if self.error is not None:
            raise self.error
        return self.moved

    def abort(self, topics: Collection[str | TP] | None) -> None:
        """Abort the transactions of these topics as well, which the attempt has; None: all."""
        self.aborted = _union(self.aborted, topics)

    def text_of(self, tp: TP) -> str | None:
        """Return the text to commit with the offset of a partition; None: no caller gave one."""
        for topics, text in reversed(self.texts):
            if is_among(tp, topics):
                return text
        return None

    def has_text_of(self, tp: TP) -> bool:
        """Return whether a caller gave a text for the partition."""
        return self.text_of(tp) is not None

    def texts_of(self, tps: Iterable[TP]) -> dict[TP, str]:
        """Return the texts of partitions, without those that have none."""
        return {tp: text for tp in tps if (text := self.text_of(tp))}

    def _widen(self, topics: Collection[str | TP] | None) -> None:
        self.topics = _union(self.topics, topics)


def _union(some: set[str | TP] | None, others: Collection[str | TP] | None) -> set[str | TP] | None:
    return None if some is None or others is None else some | set(others)


Around = Callable[[CommitAttempt], contextlib.AbstractContextManager[object]]


class CommitQueue:
    """The commit queue of one consumer.

    Args:
        make: makes one attempt. An error that it raises is the error of the attempt.
        around: returns a block that is entered around each attempt. The attempt has its outcome
            when the block ends.
        fatal: errors that also end `run`, which raises them. Every error that is not a
            TransportError does so as well.

    Attributes:
        running: the attempt in flight.
    """

    def __init__(
        self,
        make: Callable[[CommitAttempt], Awaitable[None]],
        *,
        around: Around | None = None,
        fatal: tuple[type[TransportError], ...] = (),
    ) -> None:
        self.running: CommitAttempt | None = None
        self._make = make
        self._around = around or contextlib.nullcontext
        self._fatal = fatal
        self._next: CommitAttempt | None = None
        self._wanted = trio.Event()
        self._has_ended = False

    @trio.lowlevel.enable_ki_protection
    def join(self, topics: Collection[str | TP] | None, text: str | None = None) -> CommitAttempt:
        """Add these topics to the next attempt and return it. Raises AppClosed after `run`.

        Args:
            text: committed with their offsets. None: the text of another caller, if there is one.
        """
        if self._has_ended:
            raise AppClosed("the app is closing: nothing can be committed")
        if self._next is None:
            self._next = CommitAttempt(None if topics is None else set(topics))
            self._wanted.set()
        else:
            self._next._widen(topics)
        if text is not None:
            self._next.texts.append((None if topics is None else set(topics), text))
        return self._next

    async def wait_for_running(self) -> bool:
        """Wait for the attempt in flight, or the next one; return whether there was one."""
        running = self.running or self._next
        if running is None:
            await trio.lowlevel.checkpoint()
            return False
        await running.ended.wait()
        return True

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Make the attempts, one after the other, until cancelled."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                self.running, self._next = self._next, None
                if self.running is not None:
                    with self._around(self.running):
                        await self._complete(self.running)
        finally:
            self._has_ended = True
            if self._next is not None:
                self._next.error = AppClosed("the app is closing: nothing was committed")
                self._next.ended.set()

    async def _complete(self, attempt: CommitAttempt) -> None:
        try:
            await self._make(attempt)
        except TransportError as exc:
            attempt.error = exc
            if isinstance(exc, self._fatal):
                raise
        except BaseException:  # also Cancelled: the callers still need an outcome
            attempt.error = CommitUnknown("the app ended before the answer to a commit")
            raise
        finally:
            self.running = None
            attempt.ended.set()


def log_commit(log: Log, offsets: Mapping[TP, int]) -> None:
    """Log offsets that were committed, at level DEBUG. Not a checkpoint."""
    if log.is_debugging:
        shown = listed(f"{tp} at {offset}" for tp, offset in sorted(offsets.items()))
        log.debug("committed", "committed %s", shown, partitions=offsets, count=len(offsets))
