"""The producers with transactional ids: one for each id, as children of the app's producer.

A client's transactional id cannot be changed, so each id needs a producer of its own. The first
transaction of an id starts its producer, which fences the previous owner of the id. The producer
runs until `stop`, or until its owner stops.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import trio

from nurseries import State
from transport.errors import TransactionAborted
from transport.producing.transaction import Transaction

if TYPE_CHECKING:
    from transport.producing.producer import Producer


class TransactionalProducers:
    """The producers with transactional ids that one producer owns, by their ids."""

    def __init__(self, owner: Producer) -> None:
        self._owner = owner
        self._producers: dict[str, Producer] = {}

    def __iter__(self) -> Iterator[Producer]:
        """Return an iterator over the producers at the time of the call. They may end meanwhile."""
        return iter(list(self._producers.values()))

    def is_open(self, transactional_id: str) -> bool:
        """Return whether a transaction of this id is open."""
        return self._open(transactional_id) is not None

    def in_transaction(self, transactional_id: str) -> Producer:
        """Return the producer with this id. Raises TransactionAborted: it has none open."""
        if (producer := self._open(transactional_id)) is None:
            raise TransactionAborted(f"no transaction of {transactional_id!r} is open")
        return producer

    def transaction_of(self, transactional_id: str) -> Transaction:
        """Return the `Transaction` of this id. Raises TransactionAborted: none was ever begun."""
        producer = self._producers.get(transactional_id)
        if producer is None or producer.transaction is None:
            raise TransactionAborted(f"no transaction of {transactional_id!r} was begun")
        return producer.transaction

    async def begin(self, transactional_id: str) -> None:
        """Begin a transaction; see `Producer.begin_transaction`."""
        if (producer := self._producers.get(transactional_id)) is None:
            producer = await self._start(transactional_id)
        assert producer.transaction is not None
        if producer.transaction.is_open or producer.state is not State.RUNNING:
            raise RuntimeError(f"a transaction of {transactional_id!r} is open already")
        await producer.transaction.begin()

    async def stop(self, transactional_id: str) -> None:
        """End the producer of an id; see `Producer.stop_transaction`."""
        if (producer := self._producers.pop(transactional_id, None)) is not None:
            await producer.stop()
        else:
            await trio.lowlevel.checkpoint()

    def _open(self, transactional_id: str) -> Producer | None:
        producer = self._producers.get(transactional_id)
        if producer is None or producer.transaction is None or not producer.transaction.is_open:
            return None
        return producer

    @trio.lowlevel.enable_ki_protection
    async def _start(self, transactional_id: str) -> Producer:
        owner = self._owner
        producer = owner.transport.create_producer(transactional_id=transactional_id)
        # Registered before it starts: a second producer with this id would fence the first.
        self._producers[transactional_id] = producer
        started = False
        try:
            await owner.add_service(producer)
            started = True
        except BaseExceptionGroup as group:  # a Cancelled comes out of it unchanged
            raise _only_error(group) from group
        finally:
            if not started:
                del self._producers[transactional_id]
        return producer


def _only_error(error: BaseException) -> BaseException:
    """Return the single error in nested exception groups, or the innermost group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
