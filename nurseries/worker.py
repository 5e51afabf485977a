"""One owned thread for a blocking client, with calls that are safe to cancel.

A blocking library often needs all its calls in one thread, and a call that has begun cannot be
undone. So submitting a call and waiting for it are two steps, and only the waiting can be
cancelled. The call still runs in its turn, and its `Call` object keeps the outcome.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, TypeVarTuple

import attrs
import trio
from outcome import Error, Outcome, Value, capture

from nurseries.arguments import function, seconds, text

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class WorkerClosed(RuntimeError):
    """The worker accepts no calls: it was not started, or it was stopped."""


class WorkerStuck(RuntimeError):
    """The thread did not return from a call in time and was abandoned in that call."""


class CallWithdrawn(RuntimeError):
    """The call was withdrawn before the thread began it. It will never be made."""


@attrs.define(eq=False)
class Call(Generic[T]):
    """A call that was submitted to a worker.

    Attributes:
        name: shown by `Worker.current` and in errors.
        outcome: the value or the error once the call has ended, None before.
    """

    name: str
    _run: Callable[[], T]
    outcome: Outcome[T] | None = None
    _ended: trio.Event = attrs.field(factory=trio.Event)
    # Acquired once, by the thread that makes the call or by the withdrawal that prevents it.
    _claim: threading.Lock = attrs.field(factory=threading.Lock)

    async def wait(self) -> T:
        """Wait for the end of the call. Return its value, or raise its error.

        Any number of tasks may wait. A checkpoint. Cancelling ends only the waiting.
        """
        await self._ended.wait()
        match self.outcome:  # not unwrap(), which works only once: several tasks may wait
            case Value() as ended:
                value: T = ended.value
                return value
            case Error() as failed:
                raise failed.error
        raise AssertionError("ended without an outcome")

    def _claimed(self) -> bool:
        return self._claim.acquire(blocking=False)

    def _end(self, result: Outcome[T]) -> None:
        if self.outcome is None:
            self.outcome = result
            self._ended.set()


class Worker:
    """A thread that makes one call after the other, in the order of submission.

    Call `start`, then `submit` or `call` in the trio thread, then `stop`. Or use `async with`.

    Args:
        name: the name of the thread, also shown in errors.
    """

    def __init__(self, name: str) -> None:
        text("name", name)
        self.name = name
        self._queue: queue.SimpleQueue[Call[Any] | None] = queue.SimpleQueue()
        self._calls: dict[Call[Any], None] = {}  # submitted and not ended, in order
        self._token: trio.lowlevel.TrioToken | None = None
        self._joined = trio.Event()
        self._open = False
        self._alive = False
        self._stuck: WorkerStuck | None = None

    def start(self) -> None:
        """Start the thread, once and inside a trio run. Not a checkpoint.

        Raises:
            WorkerClosed: the worker was started before.
        """
        if self._token is not None:
            raise WorkerClosed(f"worker {self.name!r} was started before: create another worker")
        token = trio.lowlevel.current_trio_token()
        # trio's threads are daemon threads: a thread that was abandoned in a call does not keep
        # the interpreter from exiting.
        trio.lowlevel.start_thread_soon(self._work, self._thread_ended, self.name)
        self._token = token
        self._open = self._alive = True

    @property
    def waiting(self) -> int:
        """The number of calls behind the running one. May be read from any thread."""
        return max(len(self._calls) - 1, 0)

    @property
    def current(self) -> str | None:
        """The name of the oldest call that has not ended. None: there is no such call."""
        return next((call.name for call in self._calls), None)

    @property
    def alive(self) -> bool:
        """Whether the thread exists. May be read from any thread, also after the trio run."""
        return self._alive

    def submit(self, name: str, fn: Callable[[*Ts], T], *args: *Ts) -> Call[T]:
        """Queue a call, which runs even if no task waits for it. Not a checkpoint.

        Raises:
            WorkerClosed: the worker was not started, is stopping or has stopped.
        """
        if not callable(fn):
            function("fn", fn, "a function; its arguments follow it")
        if not self._open:
            raise WorkerClosed(
                f"worker {self.name!r} takes no calls: it was not started, or it was stopped"
            )
        call = Call(name, lambda: fn(*args))
        self._calls[call] = None
        self._queue.put(call)
        return call

    def withdraw(self, call: Call[Any]) -> bool:
        """Withdraw a call that the thread has not begun. Return whether that was in time.

        True: the call will never be made, and fails with CallWithdrawn. False: the call has begun
        or has ended. Use this in the trio thread. Not a checkpoint.
        """
        if call not in self._calls or not call._claimed():
            return False
        self._record(call, Error(CallWithdrawn(f"the call {call.name!r} was withdrawn")))
        return True

    async def call(self, name: str, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """Submit a call and wait for it. Return its value, or raise its error.

        A checkpoint. If it is cancelled before the submission, nothing happens. If it is cancelled
        later, the call runs to its end and its value is dropped. Use `submit` if the value must not
        be lost.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self.submit(name, fn, *args).wait()

    @trio.lowlevel.enable_ki_protection
    async def stop(self, timeout: float) -> None:
        """Make all submitted calls, then end the thread and join it.

        Does nothing if the worker was not started or has stopped. Cancelling does not shorten it.

        Args:
            timeout: seconds, 0 or more.

        Raises:
            WorkerStuck: a call did not return within the timeout. The thread is abandoned in that
                call. All calls that have not ended fail with this error, and the queued calls are
                never made.
        """
        seconds("timeout", timeout, least=0, finite=False)
        if self._token is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if self._open:
            self._open = False
            self._queue.put(None)
        with trio.CancelScope(shield=True) as limit:
            limit.deadline = trio.current_time() + timeout
            await self._joined.wait()
        if self._joined.is_set():  # it may be set although the wait timed out
            return
        if self._stuck is None and self._calls:
            self._stuck = self._abandon()
        if self._stuck is not None:
            raise self._stuck
        with trio.CancelScope(shield=True):  # no call runs, so the thread is about to end
            await self._joined.wait()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop without a timeout. Use `stop` instead if a call may get stuck."""
        await self.stop(timeout=float("inf"))

    def _abandon(self) -> WorkerStuck:
        """Fail the calls that have not ended, and end the thread if its call ever returns."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(None)
        error = WorkerStuck(f"worker {self.name!r} is stuck in {self.current!r}")
        for call in list(self._calls):
            self._record(call, Error(error))
        return error

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            if call._claimed():
                self._call_in_trio(self._record, call, capture(call._run))

    def _thread_ended(self, result: Outcome[None]) -> None:
        self._alive = False
        self._call_in_trio(self._joined.set)
        result.unwrap()

    def _call_in_trio(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        assert self._token is not None
        # An abandoned thread may outlive the trio run. Then there is no task to notify.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(fn, *args)

    def _record(self, call: Call[Any], result: Outcome[Any]) -> None:
        self._calls.pop(call, None)
        call._end(result)
