"""The transactions of one producer, one after the other."""

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
    """What of a producer with an id is committed as a whole. One call at a time.

    Each call is a checkpoint. Cancelled, the step is made as a whole or not at all, and nobody is
    told which: `abort` settles it. All raise Fenced, which nothing mends, and what the driver does.

    Attributes:
        is_open: begun, and not known to have ended.
    """

    def __init__(self, producer: Producer, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self.is_open = False
        self._producer = producer
        self._timeout = producer.app.settings.client.commit_timeout

    async def begin(self) -> None:
        """Begin one, if none is open."""
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
        """Deliver the sent messages, then commit them together with a group's offsets.

        Args:
            deadline: the end of the wait for the deliveries.

        Raises TransactionAborted: a message was not delivered, or the group does not know the
        member, or the broker has ended the transaction after its timeout; CommitUnknown. Then it is
        to be aborted.
        """
        self._producer.client.hurry()
        with trio.move_on_at(deadline) as waiting:
            await self._producer.flush()
        if waiting.cancelled_caught and (left := self._producer.unfinished):
            raise TransactionAborted(f"{left} messages were not delivered within the bound")
        failures = self._producer.failures
        # Who has seen that a message was refused can go on without it, as where `send` raises.
        failure = failures.unseen if failures.first is None else failures.first
        if failure is not None:
            raise TransactionAborted(f"a message was not delivered: {failure}") from failure
        if offsets and group is not None:
            await self._producer.client.send_offsets(offsets, group, self._timeout)
        await self._producer.client.commit(self._timeout)
        self.is_open = False

    async def abort(self, why: TransportError) -> None:
        """Undo what was sent, and fail what has no outcome yet with `why`."""
        self._producer.give_up(why)
        await self._producer.client.abort(self._timeout)
        self.is_open = False
