"""When the batches of a producer do not wait for more messages.

The client waits for `linger_ms`, or until a batch is full. It does not wait during a flush, which
it counts. So counting one more flush ends the wait of all batches, without waiting for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class Linger:
    """Ends the wait of one producer's batches: in a block, or until the next transaction."""

    def __init__(self, producer: Any) -> None:
        # `_accumulator`, `begin_flush`, `_flushes_in_progress`: the public flush does this as well,
        # and then blocks the thread. `_sender`, `wakeup`: it looks for batches to send.
        self._accumulator = producer._accumulator
        self._sender = producer._sender
        self._blocks = 0

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Let no batch wait in the block. In trio's thread."""
        # In this order: `restore`, in the other thread, never sees fewer blocks than flushes.
        self._blocks += 1
        self._accumulator.begin_flush()
        self._sender.wakeup()
        try:
            yield
        finally:
            self._accumulator._flushes_in_progress.decrement()
            self._blocks -= 1

    def end(self) -> None:
        """Let no batch wait until `restore`. From any thread."""
        # Each task that waits for a delivery calls this: the first one is enough.
        if not self._accumulator.flush_in_progress():
            self._accumulator.begin_flush()
            self._sender.wakeup()

    def restore(self) -> None:
        """Let batches wait again, after `end`.

        The client itself begins a flush where it aborts messages, and never ends it.
        """
        while self._accumulator._flushes_in_progress.get() > self._blocks:
            self._accumulator._flushes_in_progress.decrement()
