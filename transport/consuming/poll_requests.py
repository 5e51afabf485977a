"""Requests to the task that polls: the one way to ask it for something.

Only the polling task may pause, seek and subscribe the client, because no such call may come
between a poll and the entry of its records. All other parts ask it here. There are two ways:

- A part changes what is wanted: a pause, the subscription, a full buffer, a position to fetch from.
  Then it calls `note_change`. Before its next poll, the polling task compares what is wanted with
  the state of the client. Changes that undo each other cost nothing.
- A part has something done once, and waits for the result: `ask`. The polling task does it in
  order, between two polls.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Generic, TypeVar

import trio
from outcome import Error, Outcome, Value

from transport.errors import AppClosed, TransportError

T = TypeVar("T")


class _Request(Generic[T]):
    """Something to be done between two polls. It can be withdrawn until it is begun."""

    def __init__(self, do: Callable[[], Awaitable[T]]) -> None:
        self._do = do
        self._outcome: Outcome[T] | None = None
        self._ended = trio.Event()

    async def result(self) -> T:
        await self._ended.wait()
        assert self._outcome is not None
        return self._outcome.unwrap()

    async def make(self) -> None:
        """Do it. An error that is no TransportError is raised here as well."""
        try:
            self._outcome = Value(await self._do())
        except TransportError as error:
            self._outcome = Error(error)
        finally:
            if self._outcome is None:  # also where it is cancelled: the caller gets an outcome
                self._outcome = Error(AppClosed("the app is closing"))
            self._ended.set()

    def refuse(self, error: TransportError) -> None:
        self._outcome = Error(error)
        self._ended.set()


class PollRequests:
    """The requests to one polling task.

    Args:
        interrupt: ends a poll that is under way. Not a checkpoint.

    Attributes:
        late_at: the time of the first request that the polling task has not seen yet. None: it has
            seen all of them.
    """

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self.late_at: float | None = None
        self._interrupt = interrupt
        self._waiting: deque[_Request[Any]] = deque()
        self._refusal: Callable[[], TransportError] | None = None
        self._is_closed = False

    def note_change(self) -> None:
        """Let the polling task compare what is wanted with the state of the client, soon.

        Not a checkpoint.
        """
        if self.late_at is None:
            self.late_at = trio.current_time()
        self._interrupt()

    @trio.lowlevel.enable_ki_protection
    async def ask(self, do: Callable[[], Awaitable[T]]) -> T:
        """Let the polling task call `do` between two polls, and return what it returns.

        A checkpoint. Cancelled: `do` is not called, or it is completed without the caller.

        Raises the TransportError of `do`; AppClosed: the polling task has ended, or ends before it
        begins this. RebalanceInProgress: see `refusing`.
        """
        if self._is_closed:
            raise AppClosed("the app is closing")
        if self._refusal is not None:
            raise self._refusal()
        request = _Request(do)
        self._waiting.append(request)
        self.note_change()
        try:
            return await request.result()
        except trio.Cancelled:
            if request in self._waiting:
                self._waiting.remove(request)
            raise

    @contextlib.contextmanager
    def refusing(self, why: Callable[[], TransportError]) -> Iterator[None]:
        """Refuse every new request in the block with an error that `why` returns.

        A rebalance needs this: the poll waits for it, and it may wait for the task that asks.
        """
        self._refusal = why
        try:
            yield
        finally:
            self._refusal = None

    def refuse_waiting(self, error: TransportError) -> None:
        """Fail the requests that are not begun yet. Not a checkpoint."""
        while self._waiting:
            self._waiting.popleft().refuse(error)

    # For the polling task

    async def make_all(self) -> None:
        """Do what is asked for, in order. A checkpoint for each request."""
        while self._waiting:
            await self._waiting.popleft().make()

    def seen(self) -> None:
        """Note that the polling task has seen every request made so far."""
        self.late_at = None

    def reopen(self) -> None:
        """Take requests again, for another polling task. Not a checkpoint."""
        self._is_closed = False
        self.late_at = None

    def close(self) -> None:
        """Refuse all requests from now on, also those that are not begun. Not a checkpoint."""
        self._is_closed = True
        self.refuse_waiting(AppClosed("the app is closing"))
