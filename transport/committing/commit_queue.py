"""Commits, one at a time, each shared by all who want it.

A commit is a *round*. Who wants one joins the round that has not begun yet; queue follow one
another in one task, so two commits never race each other to the broker. Only the waiting for a
round can be cancelled; its outcome is known whoever is left to see it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection

import attrs
import trio

from transport.errors import AppClosed, CommitUnknown, TransportError
from transport.types import TP


@attrs.define(eq=False)
class CommitAttempt:
    """One commit, for all who wait for it.

    Attributes:
        topics: names and partitions; None: all.
        moved: whether an offset moved.
        goes_on: whether the next transaction is to begin after it.
        is_abort: it is to undo, not to commit.
    """

    topics: set[str | TP] | None
    goes_on: bool = True
    is_abort: bool = False
    moved: bool = False
    error: Exception | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def wait(self) -> bool:
        """Wait for its end; whether an offset moved. A checkpoint; cancelling ends the waiting."""
        await self.ended.wait()
        if self.error is not None:
            raise self.error
        return self.moved

    def _widen(self, topics: Collection[str | TP] | None) -> None:
        self.topics = None if self.topics is None or topics is None else self.topics | set(topics)


Around = Callable[[CommitAttempt], contextlib.AbstractContextManager[object]]


class CommitQueue:
    """The queue of one consumer.

    Args:
        make: makes one; what it raises is the round's error.
        around: entered around each; the round has its outcome at the end.
        fatal: errors that `run` raises as well, and ends with. So it does with those that are no
            TransportError.

    Attributes:
        running: the round under way.
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
    def join(self, topics: Collection[str | TP] | None) -> CommitAttempt:
        """The next round, widened by these topics. Raises AppClosed after the end of `run`."""
        if self._has_ended:
            raise AppClosed("the app is closing: nothing can be committed")
        if self._next is None:
            self._next = CommitAttempt(None if topics is None else set(topics))
            self._wanted.set()
        else:
            self._next._widen(topics)
        return self._next

    async def wait_for_running(self) -> bool:
        """Wait for the end of the round that is under way; whether there was one."""
        running = self.running or self._next
        if running is None:
            await trio.lowlevel.checkpoint()
            return False
        await running.ended.wait()
        return True

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Make the queue, until cancelled."""
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
        except BaseException:  # cancelled as well: whoever waits for the round is told
            attempt.error = CommitUnknown("the app ended before the answer to a commit")
            raise
        finally:
            self.running = None
            attempt.ended.set()
