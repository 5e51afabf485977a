"""The owner of a transactional id: this producer, or another one since.

The broker numbers the holders of a transactional id by an *epoch*. The broker raises the epoch in
two cases, and refuses requests with an earlier one:

- Another producer takes the id over.
- The broker aborts a transaction that is open for longer than its timeout.

Kafka gives the same error for both (KAFKA-9910), and the client ends the producer for both. A
request for the id with our last epoch separates them (KIP-360): the broker grants the id after a
timeout, and refuses it if another producer came in between. The broker compares and raises the
epoch in one step, so two producers can never both have the id.

Before that step the broker aborts any transaction that is open under the id, also another
producer's. So the driver first asks for the state of the id (KIP-664). If only another producer can
have caused that state, the driver makes no request for the id, and that transaction stays open.

A broker before Kafka 4 forgets our last epoch when it aborts our transaction, both after the
timeout and at our request. It then grants the id only for the next epoch. A producer that takes the
id over while a transaction is open gets the epoch after that one. So the driver asks for the next
epoch only if a transaction of ours was open.

Therefore a new client takes the id over once, when the producer is opened. Each later client of the
same producer takes the id back.
"""

from __future__ import annotations

import enum
from typing import Any

import kafka.errors
from kafka.producer.transaction_manager import (
    InitProducerIdHandler,
    Priority,
    ProducerIdAndEpoch,
    TransactionState,
    TxnRequestHandler,
)
from kafka.protocol.admin.transactions import DescribeTransactionsRequest
from kafka.protocol.metadata import CoordinatorType

from transport.errors import Fenced

_REFUSED = (kafka.errors.ProducerFencedError, kafka.errors.InvalidProducerEpochError)
# The states of an id while the broker aborts a transaction after its timeout.
_ABORTING = ("PrepareAbort", "PrepareEpochFence")
# The states that only the owner of the id causes.
_IN_USE = ("Ongoing", "PrepareCommit", "CompleteCommit")


class Holder(enum.Enum):
    """The owner of an id, by its state at the broker."""

    OTHER = "other"
    NOT_KNOWN_YET = "not known yet"
    TO_BE_ASKED = "to be asked"


def holder_of(epoch: int, state: str, last_epoch: int) -> Holder:
    """Return the owner of an id that we were last granted with `last_epoch`."""
    if epoch <= last_epoch:
        return Holder.TO_BE_ASKED
    if state in _ABORTING:
        return Holder.NOT_KNOWN_YET
    # An id is also "Empty" after we were granted it and the answer was lost.
    return Holder.OTHER if state in _IN_USE else Holder.TO_BE_ASKED


def identity_of(producer: Any) -> ProducerIdAndEpoch:
    """Return the producer id and the epoch that the client has been granted."""
    # `_transaction_manager`, `producer_id_and_epoch`: no public call returns them.
    return producer._transaction_manager.producer_id_and_epoch


def take_over(producer: Any) -> None:
    """Let a new client take its transactional id over and end its open transaction."""
    # `initialize_transactions`: `init_transactions` also calls it, but does not check `_closed`.
    _wait_for(producer, producer._transaction_manager.initialize_transactions())


def has_open(producer: Any) -> bool:
    """Return whether a transaction of the client is, or may be, open at the broker."""
    # `_transaction_started`: set once the broker has accepted a partition or offsets.
    return bool(producer._transaction_manager._transaction_started)


def take_back(producer: Any, last: ProducerIdAndEpoch, *, was_open: bool) -> None:
    """Let a new client take its transactional id back, unless another producer has taken it.

    An open transaction of the id is ended.

    Args:
        last: the identity that the previous client was granted.
        was_open: whether a transaction of ours may have been open then.

    Raises Fenced: another producer has taken the id over.
    """
    manager = producer._transaction_manager
    look = Look(manager, last)
    # `_enqueue_request`, `_transition_to`: `initialize_transactions` does the same, but asks for
    # the id without an epoch. `_init_transactions_result`: `init_transactions` waits for this
    # result if it is set.
    with manager._lock:
        manager._enqueue_request(look)
    _wait_for(producer, look.result)
    if look.is_of_another:
        raise _taken(manager)
    with manager._lock:
        manager._transition_to(TransactionState.INITIALIZING)
        request = Ask(manager, last, was_open=was_open)
        manager._enqueue_request(request)
    try:
        _wait_for(producer, request.result)
    except _REFUSED as error:
        raise _taken(manager) from error


def _wait_for(producer: Any, result: Any) -> None:
    producer._init_transactions_result = result
    # When the network thread ends, it fails the requests that it has. If it has ended before this
    # request was made, no thread would ever set the result.
    if producer._closed and not result.is_done:
        result.done(error=kafka.errors.KafkaConnectionError("the producer was closed"))
    producer._sender.wakeup()
    producer.init_transactions()


def _taken(manager: Any) -> Fenced:
    return Fenced(
        f"another producer has taken over the transactional id {manager.transactional_id!r}:"
        " stop one of them, or give each process its own id"
    )


class Ask(InitProducerIdHandler):  # type: ignore[misc]
    """A request for the id with our last epoch, and then with the next one if `was_open`."""

    def __init__(self, manager: Any, last: ProducerIdAndEpoch, *, was_open: bool) -> None:
        manager.set_producer_id_and_epoch(last)
        super().__init__(manager, manager.transaction_timeout_ms, is_epoch_bump=True)
        # `_is_epoch_bump`: otherwise the client takes the id over after a refusal.
        self._is_epoch_bump = False
        self._asks_again = was_open

    def handle_response(self, response: Any) -> None:
        error = kafka.errors.for_code(response.error_code)
        if self._asks_again and error in _REFUSED:
            self._asks_again = False
            self.request.producer_epoch += 1
            self.reenqueue()
        else:
            super().handle_response(response)


class Look(TxnRequestHandler):  # type: ignore[misc]
    """A request for the state of the id, repeated until its owner is known.

    Attributes:
        is_of_another: whether another producer certainly has the id.
    """

    def __init__(self, manager: Any, last: ProducerIdAndEpoch) -> None:
        super().__init__(manager)
        self._last = last
        self.is_of_another = False
        self.request = DescribeTransactionsRequest(transactional_ids=[self.transactional_id])

    @property
    def priority(self) -> Any:
        return Priority.INIT_PRODUCER_ID

    def on_complete(self, correlation_id: int, response_or_exc: Any) -> None:
        if isinstance(response_or_exc, kafka.errors.UnsupportedVersionError):
            # A broker before Kafka 3.0. `clear_in_flight_...`: the client calls it at each answer.
            self.transaction_manager.clear_in_flight_transactional_request_correlation_id()
            self._result.done()
        else:
            super().on_complete(correlation_id, response_or_exc)

    def handle_response(self, response: Any) -> None:
        (state,) = response.transaction_states
        error = kafka.errors.for_code(state.error_code)
        if issubclass(error, kafka.errors.RetriableError):
            # `_lookup_coordinator`: the other requests of the client do the same.
            self.transaction_manager._lookup_coordinator(
                CoordinatorType.TRANSACTION, self.transactional_id
            )
            self.reenqueue()
        elif error is kafka.errors.TransactionalIdNotFoundError:
            self._result.done()  # the broker forgets ids that are unused for days
        elif error is not kafka.errors.NoError:
            self.fatal_error(error())
        else:
            holder = holder_of(state.producer_epoch, state.transaction_state, self._last.epoch)
            if holder is Holder.NOT_KNOWN_YET:
                self.reenqueue()
            else:
                self.is_of_another = holder is Holder.OTHER
                self._result.done()
