"""The switch for the linger, in which batches of a producer wait for more messages.

A batch of the client lingers for `linger_ms`, or until it is full. No batch lingers during a flush,
and the client counts the flushes. So one more flush in that count ends the linger of all batches,
without a wait for their outcomes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class Linger:
    """A switch for one producer's linger: off in a block, or until the next transaction."""

    def __init__(self, producer: Any) -> None:
        # `_accumulator`, `begin_flush`, `_flushes_in_progress`: the public flush does this as well,
        # and then blocks the thread. `_sender`, `wakeup`: it checks for batches to send.
        self._accumulator = producer._accumulator
        self._sender = producer._sender
        self._blocks = 0

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Let no batch linger in the block. In trio's thread."""
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
        """Let no batch linger until `restore`. From any thread."""
        # Each task that waits for an outcome calls this: the first call is enough.
        if not self._accumulator.flush_in_progress():
            self._accumulator.begin_flush()
            self._sender.wakeup()

    def restore(self) -> None:
        """Let batches linger again, after `end`.

        The client begins a flush when it aborts messages, and never ends it. This ends it, too.
        """
        while self._accumulator._flushes_in_progress.get() > self._blocks:
            self._accumulator._flushes_in_progress.decrement()
