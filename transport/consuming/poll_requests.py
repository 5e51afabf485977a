"""Requests to the polling task: the one way to ask that task for something.

Only the polling task may pause, seek and subscribe the client, because no such call may come
between a poll and the entry of its records. All other parts make requests here, in two ways:

- A part changes a wanted state: a pause, the subscription, a full buffer, a position to fetch from.
  Then the part calls `note_change`. Before its next poll, the polling task compares the wanted
  state with the state of the client. Changes that undo each other cost nothing.
- A part needs an action and its result: `ask`. The polling task makes these requests in order,
  between two polls.
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
    """An action between two polls, which can be withdrawn until it begins."""

    def __init__(self, do: Callable[[], Awaitable[T]]) -> None:
        self._do = do
        self._outcome: Outcome[T] | None = None
        self._ended = trio.Event()

    async def result(self) -> T:
        await self._ended.wait()
        assert self._outcome is not None
        return self._outcome.unwrap()

    async def make(self) -> None:
        """Run the action. An error that is no TransportError is raised here as well."""
        try:
            self._outcome = Value(await self._do())
        except TransportError as error:
            self._outcome = Error(error)
        finally:
            if self._outcome is None:  # cancelled, or another error: the caller must get an outcome
                self._outcome = Error(AppClosed("the app is closing"))
            self._ended.set()

    def refuse(self, error: TransportError) -> None:
        self._outcome = Error(error)
        self._ended.set()


class PollRequests:
    """The requests to one polling task.

    Args:
        interrupt: ends the poll in progress. Not a checkpoint.

    Attributes:
        late_at: the time of the first request that the polling task has not seen yet. None: the
            task has seen all requests.
        is_closed: all requests are refused, until `reopen`.
    """

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self.late_at: float | None = None
        self.is_closed = False
        self._interrupt = interrupt
        self._waiting: deque[_Request[Any]] = deque()
        self._refusal: Callable[[], TransportError] | None = None

    def note_change(self) -> None:
        """Let the polling task compare the wanted state with the state of the client, soon.

        Not a checkpoint.
        """
        if self.late_at is None:
            self.late_at = trio.current_time()
        self._interrupt()

    @trio.lowlevel.enable_ki_protection
    async def ask(self, do: Callable[[], Awaitable[T]]) -> T:
        """Let the polling task call `do` between two polls, and return the result of `do`.

        A checkpoint. Cancelled: `do` is not called, or is completed without the caller.

        Raises the TransportError of `do`. AppClosed: the polling task has ended, or ends before it
        has called `do`. RebalanceInProgress: see `refusing`.
        """
        if self.is_closed:
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

        For the time of a rebalance: the poll waits for the rebalance, which may wait for the task
        that makes the request.
        """
        self._refusal = why
        try:
            yield
        finally:
            self._refusal = None

    def refuse_waiting(self, error: TransportError) -> None:
        """Fail the requests that have not begun. Not a checkpoint."""
        while self._waiting:
            self._waiting.popleft().refuse(error)

    # For the polling task

    async def make_all(self) -> None:
        """Make the waiting requests, in order. A checkpoint for each request."""
        while self._waiting:
            await self._waiting.popleft().make()

    def seen(self) -> None:
        """Note that the polling task has seen all requests made until now."""
        self.late_at = None

    def reopen(self) -> None:
        """Accept requests again, for another polling task. Not a checkpoint."""
        self.is_closed = False
        self.late_at = None

    def close(self) -> None:
        """Refuse all later requests, and fail those that have not begun. Not a checkpoint."""
        self.is_closed = True
        self.refuse_waiting(AppClosed("the app is closing"))
