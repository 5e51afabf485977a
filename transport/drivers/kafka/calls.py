"""Calls into kafka-python's client: their errors, also if a close interrupts one; their threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar, TypeVarTuple

import trio

from nurseries.worker import Worker, WorkerStuck
from transport.drivers.kafka.errors import of_a_call, translated
from transport.errors import ClientClosed, CommitFailed, CommitRefused, CommitUnknown

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Seconds for steps that wait for no broker: failing messages, closing sockets, joining threads.
CUT_TIMEOUT = 5.0
# Errors that state the outcome of a call. They also hold if the client was closed meanwhile.
_OUTCOMES = (CommitFailed, CommitRefused, CommitUnknown)


class Calls:
    """The calls of one client, until it is closed.

    Args:
        name: the client's name, for errors.

    Attributes:
        opened: set when the opening begins. Earlier calls raise ClientClosed.
        closed: set when the closing begins. Later calls raise ClientClosed. So do calls under way
            that fail, because the errors of a closed client have no meaning.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.opened = False
        self.closed = False

    async def make(self, worker: Worker, name: str, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """Make a call on a worker, as `Worker.call` does, and translate its errors."""
        with self.errors():
            return await worker.call(name, made, fn, *args)

    def check_open(self) -> None:
        """Raise ClientClosed if the client was not opened or was closed."""
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
        # The closing of the client's loop throws this into a coroutine, and the loop then raises it
        # here as that coroutine's error. In a coroutine of trio it would mean that coroutine's end.
        raise RuntimeError("the client's loop was closed") from error


async def join_workers(deadline: float, *workers: Worker) -> list[str]:
    """Stop the workers; abandon those that are stuck at the deadline, and return a text on each."""
    stuck = []
    for worker in workers:
        try:
            await worker.stop(max(0.0, deadline - trio.current_time()))
        except WorkerStuck as error:
            stuck.append(str(error))
    return stuck
