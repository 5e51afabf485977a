"""A trio run inside an asyncio loop, in the same thread.

Both loops share one thread, and trio lets the host make calls that do not wait (`trio.Event.set`,
`reschedule`, `Nursery.start_soon`). One wake-up of the guest serves all calls that were made before
its turn. A task of asyncio uses the guest in two ways:

- `Guest.wait`: to wait for room, for an outcome or for a message. The guest calls a function in its
  turn, and needs no task for it.
- `Guest.call`: for calls that wait in trio, such as a commit. A task of the guest makes the call. A
  caller that is cancelled cancels that task and waits for its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from threading import get_ident
from typing import Any, Generic, TypeAlias, TypeVar, TypeVarTuple

import anyio
import attrs
import outcome
import trio
from anyio.lowlevel import RunVar

from transport.codecs import NotLoaded
from transport.errors import AppClosed

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Leave: TypeAlias = Callable[[], object]

# The seconds after which a task that reads, or awaits known outcomes, gives way to other tasks.
GIVE_WAY = 0.001


@attrs.define(eq=False)
class Call(Generic[T]):
    """A call that a task of the guest makes for an asyncio task."""

    future: asyncio.Future[outcome.Outcome[T]]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def make(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> None:
        """Make the call and record its outcome. Runs in the guest."""
        ended: outcome.Outcome[T] = outcome.Error(
            trio.BrokenResourceError("the call was cancelled in the trio run of the app")
        )
        try:
            with self.scope:
                try:
                    ended = outcome.Value(await fn(*args))
                except Exception as error:  # noqa: BLE001 - the asyncio task raises it
                    ended = outcome.Error(error)
        finally:
            self.future.set_result(ended)

    async def wait(self, cancel: Callable[[], None]) -> T:
        """Wait for the outcome, in the asyncio task. Cancelled: the call is cancelled and over."""
        try:
            await asyncio.shield(self.future)
        except asyncio.CancelledError:
            cancel()
            with anyio.CancelScope(shield=True):
                while not self.future.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.shield(self.future)
            raise
        match self.future.result():  # not unwrap(), which works once: several tasks may wait
            case outcome.Value() as ended:
                value: T = ended.value
                return value
            case outcome.Error() as failed:
                raise failed.error
        raise AssertionError("ended without an outcome")

    async def wait_out(self, cancel: Callable[[], None]) -> None:
        """Wait as `wait` does, but if the call has failed, raise its error, also when cancelled."""
        try:
            await self.wait(cancel)
        except asyncio.CancelledError:
            match self.future.result():
                case outcome.Error() as failed:
                    raise failed.error from None
            raise


@attrs.frozen(eq=False)
class Answer(Generic[T]):
    """A callable that passes an answer to a waiting asyncio task. For the loop's thread only."""

    _future: asyncio.Future[outcome.Outcome[T]]

    @property
    def is_awaited(self) -> bool:
        """Whether the task still waits: it has no answer yet and is not cancelled."""
        return not self._future.done()

    def __call__(self, ended: outcome.Outcome[T]) -> None:
        if not self._future.done():
            self._future.set_result(ended)


class Guest:
    """A trio run in the thread of an asyncio loop.

    Attributes:
        users: the number of open apps that use the guest.
        is_ending: the guest accepts no further calls. A loop has one guest: the next one begins
            once this one has ended.
        gave_way: when a task of asyncio last gave way to others, by the monotonic clock.
        gives_way: the next `send` gives way to other tasks before it accepts its message.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.users = 0
        self.is_ending = False
        self._loop = loop
        self.gave_way = -1.0
        self.gives_way = False
        self._thread = get_ident()
        self._calls: set[Call[Any]] = set()  # without an outcome
        self._waits: set[asyncio.Future[outcome.Outcome[Any]]] = set()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[outcome.Outcome[None]] = loop.create_future()
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        trio.lowlevel.start_guest_run(
            self._live,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            done_callback=self._on_end,
            host_uses_signal_set_wakeup_fd=True,
        )

    async def ready(self) -> None:
        """Wait until the trio run has begun."""
        await asyncio.shield(self._ready)

    def start(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> Call[T]:
        """Start a task of the guest that makes a call, with the caller's context variables.

        For the loop's thread only. Raises AppClosed.
        """
        self.check()
        if self._nursery is None:
            raise AppClosed("the app is closed: nothing more can be called on it")
        call: Call[T] = Call(self._loop.create_future())
        self._calls.add(call)
        call.future.add_done_callback(lambda _: self._calls.discard(call))
        self._nursery.start_soon(call.make, fn, *args)
        return call

    async def call(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Make a call in a task of the guest, and wait for its outcome."""
        call = self.start(fn, *args)
        return await call.wait(lambda: self.soon(call.scope.cancel))

    async def in_asyncio(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run an async function in a task of the asyncio loop, for a task of the guest.

        The function sees the context variables of the caller. A checkpoint. Cancelled: the asyncio
        task is cancelled, and the call ends when that task has ended.

        Raises the error of the function. RuntimeError: other code has cancelled the asyncio task.
        """
        ended = trio.Event()

        async def call() -> T:
            return await fn(*args)

        task = self._loop.create_task(call(), context=contextvars.copy_context())
        task.add_done_callback(lambda _: ended.set())
        try:
            await ended.wait()
        except trio.Cancelled:
            task.cancel()
            with trio.CancelScope(shield=True):
                await ended.wait()
            if task.cancelled():
                raise
        if task.cancelled():
            raise RuntimeError(f"other code has cancelled the asyncio task of {fn!r}")
        return task.result()

    async def load(self, missing: NotLoaded) -> None:
        """Load what a codec needs, in a task of the guest."""
        await self.call(missing.load)

    async def wait(self, begin: Callable[[Answer[T]], Leave]) -> T:
        """Wait for an answer without a task of the guest.

        `begin` receives the function to call with the answer, at once or in a turn of the guest.
        `begin` returns the function that ends the waiting. That function is always called, also
        after the answer and when the caller is cancelled.
        """
        self.check()
        future: asyncio.Future[outcome.Outcome[T]] = self._loop.create_future()
        leave = begin(Answer(future))
        self._waits.add(future)
        try:
            ended = await future
        finally:
            self._waits.discard(future)
            leave()
        return ended.unwrap()

    def check(self) -> None:
        """Raise AppClosed if the guest is ending, and RuntimeError in another thread."""
        if get_ident() != self._thread:
            raise RuntimeError(
                "the call was made in another thread than that of the app's asyncio loop: use"
                " asyncio.run_coroutine_threadsafe, or send_soon of the native topic"
            )
        if self.is_ending:
            raise AppClosed("the app is closed: nothing more can be called on it")

    async def give_way(self) -> None:
        """Let other tasks and the guest run."""
        # Set first: one task that gives way is enough.
        self.gave_way, self.gives_way = time.monotonic(), False
        await asyncio.sleep(0)
        self.gave_way = time.monotonic()

    def soon(self, fn: Callable[[], object]) -> None:
        """Call `fn` in the guest's next turn, unless the trio run has ended."""
        assert self._token is not None
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(fn)

    async def end(self) -> None:
        """End the guest, and wait for its end, also when cancelled."""
        self.is_ending = True
        if self._nursery is not None:
            self.soon(self._nursery.cancel_scope.cancel)
        # Shielded, so that an error that ends the block does not turn into a cancellation.
        with anyio.CancelScope(shield=True):
            await Call(self._ended).wait_out(lambda: None)

    async def gone(self) -> None:
        """Wait until the guest has ended."""
        await asyncio.shield(self._ended)

    # In the guest

    async def _live(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._ready.set_result(None)
            if not self.is_ending:  # else its only user was cancelled meanwhile
                await trio.sleep_forever()

    def _on_end(self, ended: outcome.Outcome[None]) -> None:
        """Fail all calls and waits: the trio run has ended, by `end` or by a crash."""
        self.is_ending = True
        for call in list(self._calls):
            if not call.future.done():
                call.future.set_result(outcome.Error(AppClosed("the trio run of the app ended")))
        for future in self._waits:
            if not future.done():
                future.set_result(outcome.Error(AppClosed("the trio run of the app ended")))
        self._ended.set_result(ended)


_current: RunVar[Guest | None] = RunVar("the trio guest of an asyncio loop")


@contextlib.asynccontextmanager
async def guest_of_loop() -> AsyncIterator[Guest]:
    """Yield the guest of the running loop. Its last user ends it on leaving the block."""
    while (guest := _current.get(None)) is not None and guest.is_ending:
        await guest.gone()
        if _current.get(None) is guest:
            _current.set(None)
    if guest is None:
        guest = Guest(asyncio.get_running_loop())
        _current.set(guest)
    guest.users += 1
    try:
        await guest.ready()
        yield guest
    finally:
        guest.users -= 1
        if guest.users == 0:
            await guest.end()
