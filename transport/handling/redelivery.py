"""The rule for messages whose transaction was aborted because one of them has failed.

A failed attempt that has sent messages must not be committed, so its transaction is aborted. All of
the transaction's messages are then redelivered. The rule for the failed message:

- First, all messages below it are committed.
- Then it begins, when its next attempt is due. No message above it begins before it is committed.
- If it has sent messages before it failed, all other partitions of its transaction wait meanwhile.

So whatever a message does in its later attempts, an abort undoes no work on other messages. The
same holds for each part of a batch that has failed.

A message without further attempts needs no wait: its dead letter is sent again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from transport.consuming.consumer import Consumer
from transport.delivering.ledger import Ledger
from transport.handling.attempts import AttemptMemory
from transport.handling.key_order import Work
from transport.handling.timers import Timers
from transport.types import TP


class Redelivery:
    """The messages of one handler that have failed in aborted transactions.

    Args:
        memory: their attempts. It is empty without transactions.
        retries: the works that wait for their next attempt.
        spawn: starts a task that makes a call, and ignores its TransportError.
    """

    def __init__(
        self,
        memory: AttemptMemory,
        consumer: Consumer,
        retries: Timers[Work[Any]],
        spawn: Callable[[Callable[[], Awaitable[object]]], None],
    ) -> None:
        self._memory = memory
        self._consumer = consumer
        self._retries = retries
        self._spawn = spawn
        self._committing: set[TP] = set()  # a commit for them is under way

    def __bool__(self) -> bool:
        """Whether the attempts of any message are kept."""
        return bool(self._memory)

    def advance(self) -> None:
        """Commit what has to be committed, and note the messages that may begin after that.

        Call this before messages are taken, and when a message has ended. Not a checkpoint.
        """
        for tp in self._memory.partitions():
            if (ledger := self._consumer.assignment.get(tp)) is not None:
                self._advance(ledger)

    def _advance(self, ledger: Ledger) -> None:
        uncommitted, safe = ledger.uncommitted, ledger.safe
        if uncommitted is None or safe is None:
            return
        self._memory.forget(ledger.tp, uncommitted)
        if (place := self._memory.next(ledger.tp)) is not None:
            offset, remembered = place
            ledger.must_commit = offset if uncommitted < offset else remembered.end
        # The offset may be that of a message that became a dead letter or was skipped meanwhile.
        must = ledger.must_commit
        if must is not None and uncommitted < must <= safe and not ledger.is_draining:
            self._commit(ledger.tp)

    def recall(self, work: Work[Any]) -> bool:
        """Give a work its earlier attempts; return whether it has to wait. Not a checkpoint."""
        attempts = work.attempts = self._memory.find(work.held.tp, work.offset)
        if attempts is None or attempts.is_spent:
            return False
        if attempts.due > trio.current_time():
            self._retries.add(work, attempts.due)
            return True
        return self.isolates(work)

    def isolates(self, work: Work[Any]) -> bool:
        """Return whether a work, whose attempt is due, waits until its transaction is its own.

        It is then returned to its ledger, and is redelivered alone.
        """
        tp, attempts = work.held.tp, work.attempts
        if attempts is None or not attempts.has_sent or self._consumer.transactions.is_alone(tp):
            return False
        self._spawn(lambda: self._consumer.isolate(tp))
        return True

    def _commit(self, tp: TP) -> None:
        if tp in self._committing:
            return

        async def commit() -> None:
            try:
                await self._consumer.commit({tp})
            finally:
                self._committing.discard(tp)

        self._committing.add(tp)
        self._spawn(commit)
