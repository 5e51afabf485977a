"""The steps of a transaction, for a producer with a transactional id.

Look here for when the commit of a transaction fails because of a message that was not delivered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from transport.errors import TransactionAborted, TransportError
from transport.types import TP, GroupMetadata

if TYPE_CHECKING:
    from transport.producing.producer import Producer


class Transaction:
    """The transactions of one producer with an id, one after the other. One call at a time.

    Each call is a checkpoint. Cancelled: the step is made as a whole or not at all, and the caller
    cannot know which. Call `abort` then. All calls raise what the driver raises, and Fenced, after
    which no call succeeds.

    Args:
        timeout: seconds for each request that ends a transaction.

    Attributes:
        is_open: a transaction was begun and is not known to have ended.
    """

    def __init__(self, producer: Producer, transactional_id: str, *, timeout: float) -> None:
        self.transactional_id = transactional_id
        self.is_open = False
        self._producer = producer
        self._timeout = timeout

    async def begin(self) -> None:
        """Begin a transaction if none is open."""
        if not self.is_open:
            self._producer.failures.first = None
            await self._producer.client.begin()
            self.is_open = True

    @trio.lowlevel.enable_ki_protection
    async def commit(
        self,
        offsets: Mapping[TP, int],
        group: GroupMetadata | None,
        deadline: float = math.inf,
    ) -> None:
        """Wait until the sent messages are delivered, then commit them with a group's offsets.

        Args:
            deadline: the end of the wait for the deliveries, on trio's clock.

        Raises TransactionAborted: a message was not delivered, or the group is in another
        generation, or the broker has aborted the transaction after `transaction_timeout`.
        CommitFailed: the group does not know this member. CommitUnknown: the broker did not answer.
        After each of these, call `abort`.
        """
        with trio.move_on_at(deadline) as waiting:
            await self._producer.flush()
        if waiting.cancelled_caught and (left := self._producer.unfinished):
            raise TransactionAborted(
                f"{left} messages were not delivered before the deadline of the commit"
            )
        failures = self._producer.failures
        # A message that was not even accepted fails the commit only if no task has seen its error.
        failure = failures.unseen if failures.first is None else failures.first
        if failure is not None:
            raise TransactionAborted(f"a message was not delivered: {failure}") from failure
        if offsets and group is not None:
            await self._producer.client.send_offsets(offsets, group, self._timeout)
        await self._producer.client.commit(self._timeout)
        self.is_open = False

    async def abort(self, why: TransportError) -> None:
        """Abort the transaction, and fail with `why` all messages that have no outcome yet."""
        self._producer.give_up(why)
        await self._producer.client.abort(self._timeout)
        self.is_open = False
