"""Messages that are to be sent soon: from code that cannot wait, and from other threads."""

from __future__ import annotations

import collections
import concurrent.futures
import threading
from collections.abc import Callable, Generator
from typing import Any

import attrs
import trio

from transport.drivers.base import Outcome
from transport.errors import AppClosed, BufferFull
from transport.types import HeadersArg, RecordMetadata


@attrs.frozen(kw_only=True)
class PendingMessage:
    """A message that is not sent yet; the fields are the arguments of `Producer.send`."""

    topic: str
    key: bytes | None = None
    value: bytes | None = None
    partition: int | None = None
    timestamp: float | None = None
    headers: HeadersArg = None


class FutureMessage:
    """What becomes of a pending message: `await` it for where it was written.

    Any number of tasks may await it. Awaiting is a checkpoint; cancelling ends only the waiting. It
    raises what `Producer.send` and the delivery raise. A thread without trio asks for `result`.

    Attributes:
        ended: set once the outcome is known.
    """

    def __init__(self, message: PendingMessage) -> None:
        self.message = message
        self.ended = trio.Event()
        self._outcome: concurrent.futures.Future[RecordMetadata] = concurrent.futures.Future()
        self._on_seen: Callable[[], object] = lambda: None

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known."""
        return self._outcome.done()

    async def wait(self) -> RecordMetadata:
        """Wait for the outcome: the same as awaiting the object."""
        if self.ended.is_set():
            await trio.lowlevel.checkpoint()
        else:
            await self.ended.wait()
        self._on_seen()
        return self._outcome.result()

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Block for the outcome, in a thread that is not trio's.

        Raises TimeoutError after `timeout` seconds.
        """
        outcome = self._outcome.result(timeout)
        self._on_seen()
        return outcome

    def __await__(self) -> Generator[Any, Any, RecordMetadata]:
        return self.wait().__await__()

    def end(self, outcome: Outcome, on_seen: Callable[[], object]) -> None:
        """For the producer, in trio; it wants to know once somebody has seen a failure."""
        self._on_seen = on_seen
        if isinstance(outcome, RecordMetadata):
            self._outcome.set_result(outcome)
        else:
            self._outcome.set_exception(outcome)
        self.ended.set()


class ProducerBuffer:
    """What is to be sent soon, in order; bounded, and filled from any thread.

    Args:
        limit: most messages, until the producer has accepted or refused them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._messages: collections.deque[FutureMessage] = collections.deque()
        # Other threads come in here: the one place where they share anything with us.
        self._lock = threading.Lock()
        self._held: dict[FutureMessage, None] = {}
        self._token: trio.lowlevel.TrioToken | None = None
        self._filled = trio.Event()

    def __len__(self) -> int:
        """How many messages have not been accepted or refused."""
        return len(self._held)

    @property
    def token(self) -> trio.lowlevel.TrioToken:
        """Of the trio run of the app. Raises AppClosed."""
        if self._token is None:
            raise AppClosed("the app is not open: nothing can be sent")
        return self._token

    def open(self) -> None:
        """Take messages, in this trio run."""
        self._token = trio.lowlevel.current_trio_token()

    def close(self) -> None:
        """Take no more."""
        with self._lock:
            self._token = None

    @trio.lowlevel.enable_ki_protection
    def put(self, message: FutureMessage) -> None:
        """Add a message; from any thread, without waiting. Raises BufferFull, AppClosed."""
        with self._lock:
            if self._token is None:
                raise AppClosed("the app is not open: nothing can be sent")
            if len(self._held) >= self.limit:
                raise BufferFull(f"{self.limit} messages are to be sent already")
            self._held[message] = None
            self._messages.append(message)
            if len(self._messages) == 1:
                self._token.run_sync_soon(self._wake)

    async def take(self) -> FutureMessage:
        """Wait for the next message, which is held until `release`."""
        while not self._messages:
            self._filled = trio.Event()
            await self._filled.wait()
        return self._messages.popleft()

    def release(self, message: FutureMessage) -> None:
        """The message is accepted or refused."""
        with self._lock:
            self._held.pop(message, None)

    async def wait(self) -> None:
        """Wait for the outcomes of all that is held now. A checkpoint."""
        await trio.lowlevel.checkpoint()
        with self._lock:
            held = list(self._held)
        for message in held:
            await message.ended.wait()

    def drop(self) -> list[FutureMessage]:
        """Let go of all that is held, also of what was taken and not released."""
        with self._lock:
            dropped = list(self._held)
            self._held.clear()
            self._messages.clear()
        return dropped

    def _wake(self) -> None:
        self._filled.set()
