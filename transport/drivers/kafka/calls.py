"""Calls into the client, which may be closed, or cut, while they are under way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar, TypeVarTuple

from nurseries.worker import Worker
from transport.drivers.kafka.errors import of_a_call, translated
from transport.errors import ClientClosed, CommitFailed, CommitRefused, CommitUnknown

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# For what never waits for a broker: aborting what is held, closing sockets, joining threads.
CUT_TIMEOUT = 5.0
# Errors that say what became of a call: true also when the client was closed meanwhile.
_OUTCOMES = (CommitFailed, CommitRefused, CommitUnknown)


class Calls:
    """The calls of one client, until it is closed.

    Args:
        name: of the client, for errors.

    Attributes:
        opened: set once the client is being opened; calls before that raise ClientClosed, too.
        closed: set once the client is being closed. Calls then raise ClientClosed, and so do
            those under way that fail: what a cut client throws has no meaning.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.opened = False
        self.closed = False

    async def make(self, worker: Worker, name: str, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """Make a call on a worker, as `Worker.call` does, with the errors of `errors`."""
        with self.errors():
            return await worker.call(name, made, fn, *args)

    def check_open(self) -> None:
        """Raise ClientClosed if it was not opened, or was closed."""
        if not self.opened:
            raise ClientClosed(f"{self.name} is not open")
        if self.closed:
            raise ClientClosed(f"{self.name} was closed")

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Raise the client's errors as the transport's own."""
        self.check_open()
        try:
            with translated(of_a_call):
                yield
        except _OUTCOMES:
            raise
        except Exception as error:
            if self.closed:
                raise ClientClosed(f"{self.name} was closed") from error
            raise


def made(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Make a call on a worker's thread and prepare its errors for trio."""
    try:
        return fn(*args)
    except GeneratorExit as error:
        # Thrown into a coroutine of the client's loop, which was closed, and handed on to us as
        # that coroutine's error. Raised into a coroutine of ours it would pass for our own end.
        raise RuntimeError("the client's loop was closed") from error
