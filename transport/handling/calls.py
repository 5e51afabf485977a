"""The calls of a handler's function: for a message, or for the parts of a batch.

Look here for what happens around one call: decoding, the timeout, and the source of what the
function sends.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import attrs
import trio

from nurseries import exposed
from transport.codecs import DecodeError
from transport.delivering.channel import Channel
from transport.delivering.in_hand import in_hand
from transport.errors import HandlerTimeout, TransportError
from transport.handling.attempts import AttemptMemory, Attempts
from transport.handling.batch_intake import BatchWork
from transport.handling.key_order import Work
from transport.handling.observer import Events
from transport.handling.plan import Plan
from transport.message import AnyBatch, AnyMessage


class Calls(Protocol):
    """How a handler calls its function for a work.

    Attributes:
        is_plain: a call of the function with what is held is all that a first attempt needs.
    """

    is_plain: bool

    async def prepare(self, work: Any) -> Sequence[tuple[AnyMessage, Attempts]]:
        """Make a work ready to be handled; return the messages that cannot be, and their failures.

        A TransportError means that a schema could not be loaded, and is a failure of the work.
        """

    async def attempt(self, work: Any) -> None:
        """Handle and ack what is left of a work. Raises the error of the function."""

    def source(self, work: Any) -> AnyMessage | AnyBatch:
        """Return what the function was called with last."""

    def can_split(self, work: Any) -> bool:
        """Return whether what has failed has several messages, to be handled in parts."""

    def split(self, work: Any) -> None:
        """Split what has failed into parts."""

    def failed(self, work: Any) -> Sequence[AnyMessage]:
        """Return the messages of the attempt that has failed."""

    def remember(self, work: Any, memory: AttemptMemory) -> None:
        """Keep the attempts of a work that may be redelivered."""

    def remember_parts(self, work: Any, memory: AttemptMemory, attempts: Attempts) -> None:
        """Keep that a work was split in a transaction that is aborted, to handle each part alone.

        Args:
            attempts: of each part.
        """

    def skip(self, work: Any) -> bool:
        """Leave out the messages that have failed; return whether others are left to handle."""


class MessageCalls:
    """Calls for one message each."""

    def __init__(
        self, plan: Plan, channel: Channel, events: Events, *, in_transaction: bool
    ) -> None:
        self._plan = plan
        self._channel = channel
        self._events = events
        self._in_transaction = in_transaction
        self.is_plain = not (channel.must_decode or in_transaction or plan.timeout is not None)

    async def prepare(self, work: Work[AnyMessage]) -> Sequence[tuple[AnyMessage, Attempts]]:
        return ()

    @trio.lowlevel.disable_ki_protection
    async def attempt(self, work: Work[AnyMessage]) -> None:
        message = work.held
        if self._in_transaction:
            in_hand.set(message)
        # Again at a retry, because the attempt before may have changed the decoded value.
        if work.attempts is not None or not self._plan.decodes_early:
            await decode(self._channel, message)
        await call_in_time(self._plan, message)
        if message.refcount > 0:  # the function may have acked it
            message.ack()
        self._events.handled(message)

    def source(self, work: Work[AnyMessage]) -> AnyMessage:
        return work.held

    def can_split(self, work: Work[AnyMessage]) -> bool:
        return False

    def split(self, work: Work[AnyMessage]) -> None:
        raise AssertionError("a message cannot be split")

    def failed(self, work: Work[AnyMessage]) -> Sequence[AnyMessage]:
        return (work.held,)

    def remember(self, work: Work[AnyMessage], memory: AttemptMemory) -> None:
        if work.attempts is not None:
            memory.keep(work.held.tp, work.offset, work.attempts)

    def remember_parts(
        self, work: Work[AnyMessage], memory: AttemptMemory, attempts: Attempts
    ) -> None:
        raise AssertionError("a message cannot be split")

    def skip(self, work: Work[AnyMessage]) -> bool:
        return False


class BatchCalls:
    """Calls for a batch, or for its parts after a failure."""

    is_plain = False

    def __init__(
        self,
        plan: Plan,
        channel: Channel,
        memory: AttemptMemory,
        events: Events,
        *,
        in_transaction: bool,
    ) -> None:
        assert plan.batch is not None
        self._plan = plan
        self._splits = plan.batch.split
        self._channel = channel
        self._in_transaction = in_transaction
        self._memory = memory
        self._events = events
        self._prepares = channel.must_decode or plan.filter is not None

    async def prepare(self, work: BatchWork) -> Sequence[tuple[AnyMessage, Attempts]]:
        if work.is_prepared or not (self._prepares or self._memory):
            return ()
        failures: list[tuple[AnyMessage, Attempts]] = []
        for part in work.parts:
            part.messages = [
                message
                for message in part.open_messages()
                if await self._is_wanted(message, failures)
            ]
        work.is_prepared = True
        return failures

    async def _is_wanted(
        self, message: AnyMessage, failures: list[tuple[AnyMessage, Attempts]]
    ) -> bool:
        """Decode a message, and ack it if the filter refuses it."""
        keep = self._plan.filter
        spent = self._memory.find(message.tp, message.offset)
        if spent is not None and spent.is_spent:  # in a transaction that was aborted
            failures.append((message, spent))
            return False
        try:
            await decode(self._channel, message)
            if keep is None or keep(message):
                return True
        except Exception as error:
            if isinstance(error, TransportError) and not isinstance(error, DecodeError):
                raise  # the load of a schema has failed, and may succeed later
            attempts = Attempts.of(error, time.time())
            attempts.is_spent = True
            self._events.failed(message, attempts)
            failures.append((message, attempts))
            return False
        message.ack()
        self._events.filtered(message)
        return False

    @trio.lowlevel.disable_ki_protection
    async def attempt(self, work: BatchWork) -> None:
        while work.parts:
            part = work.parts[0]
            if len(part):
                if self._in_transaction:
                    in_hand.set(part)
                await call_in_time(self._plan, part)
                part.ack()
                self._events.handled(part)
            work.parts.popleft()
            work.attempts = None

    def source(self, work: BatchWork) -> AnyBatch:
        return work.parts[0]

    def can_split(self, work: BatchWork) -> bool:
        is_prepared = work.is_prepared or not self._prepares
        open_messages = list(work.parts[0].open_messages()) if work.parts else []
        return is_prepared and self._splits and len(open_messages) > 1

    def split(self, work: BatchWork) -> None:
        work.split()

    def failed(self, work: BatchWork) -> Sequence[AnyMessage]:
        if not work.parts:
            return []
        part = work.parts[0]
        # If the function has acked them all itself, its error still concerns all of them.
        return list(part.open_messages()) or list(part)

    def remember(self, work: BatchWork, memory: AttemptMemory) -> None:
        attempts, failed = work.attempts, self.failed(work)
        if attempts is None or not failed:
            return
        if attempts.is_spent:
            for message in failed:
                memory.keep(message.tp, message.offset, attempts)
        else:
            memory.keep(work.held.tp, failed[0].offset, attempts, failed[-1].offset + 1)

    def remember_parts(self, work: BatchWork, memory: AttemptMemory, attempts: Attempts) -> None:
        for part in list(work.parts)[:2]:
            attempts = attrs.evolve(attempts, has_sent=True)
            memory.keep(part.tp, part[0].offset, attempts, part[-1].offset + 1)

    def skip(self, work: BatchWork) -> bool:
        work.parts.popleft()
        return bool(work.parts)


async def decode(channel: Channel, message: AnyMessage) -> None:
    """Decode a message in place. A checkpoint only if a codec loads a schema.

    Raises DecodeError: the message cannot be decoded. Another TransportError, such as
    RegistryUnavailable: a load has failed.
    """
    if not channel.must_decode or (failure := channel.try_decode(message)) is None:
        return
    if (error := await channel.error_after(failure, message)) is not None:
        raise error


@trio.lowlevel.enable_ki_protection
async def call_in_time(plan: Plan, held: AnyMessage | AnyBatch) -> None:
    """Call the function. Raises its error, or HandlerTimeout."""
    fn: Callable[[Any], Awaitable[object]] = plan.fn
    if plan.timeout is None:
        await exposed(fn, held)
        return
    with trio.move_on_after(plan.timeout) as scope:
        await exposed(fn, held)
    if scope.cancelled_caught:
        raise HandlerTimeout(
            f"the handler {plan.name} did not end within its timeout of {plan.timeout:g} s, for"
            f" {held!r}"
        )
