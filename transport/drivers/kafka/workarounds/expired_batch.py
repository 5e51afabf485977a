"""A batch that reaches its delivery timeout after a retry costs no other batch.

The broker may have such a batch or not. So the client's idempotent producer gives up its producer
id. This fails in three ways:

- The client never requests another id. It sends nothing more, to any topic.
- The client forgets the batches that it was about to send. They stay without an outcome until they
  reach their delivery timeout as well.
- The client fails the batches in flight at their next retry, because they have the old id.

This module lets the client send the drained batches first, and then request a new id. The batches
in flight are retried with the old id, by which the broker detects duplicates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kafka.producer.transaction_manager import ProducerIdAndEpoch, TransactionState

# The states in which a new id is being requested.
_ASKING = (TransactionState.UNINITIALIZED, TransactionState.INITIALIZING)


def outlive_expiry(producer: Any) -> None:
    """Let a new producer without transactions send drained batches and then request a new id."""
    # `_sender`, `_transaction_manager`: no public name reaches the producer id.
    sender, manager = producer._sender, producer._transaction_manager
    if manager is None:
        return
    send = sender._send_producer_data
    tried: list[Any] = []

    def noting(find: Callable[..., Sequence[Any]]) -> Callable[..., Sequence[Any]]:
        def find_expired(now: float | None = None) -> Sequence[Any]:
            batches = find(now=now)
            for batch in batches:
                if batch.in_retry():
                    tried.append(batch)
                    # `_retry`: if it is set, the client gives up the id before it sends the others.
                    batch._retry = False
            return batches

        return find_expired

    def send_and_ask_anew(now: float | None = None) -> Any:
        wait = send(now=now)
        if not tried:
            return wait
        tried.clear()
        with manager._lock:
            manager.reset_producer_id()
            # `_current_state`: the client requests an id only in its initial state.
            if manager._current_state == TransactionState.READY:
                manager._current_state = TransactionState.UNINITIALIZED
        return 0

    # `expired_batches`, `_get_expired_inflight_batches`: find the batches at their timeout.
    accumulator = sender._accumulator
    accumulator.expired_batches = noting(accumulator.expired_batches)
    sender._get_expired_inflight_batches = noting(sender._get_expired_inflight_batches)
    sender._send_producer_data = send_and_ask_anew
    _bump_with_an_id_alone(manager)
    _try_on_with_an_id_given_up(sender, manager)


def _bump_with_an_id_alone(manager: Any) -> None:
    # `bump_producer_id_and_epoch`: called after a refused batch. Without an id it raises, and the
    # other batches of the same answer get no outcome.
    bump = manager.bump_producer_id_and_epoch

    def bump_unless_asking() -> None:
        if manager._current_state not in _ASKING:
            bump()

    manager.bump_producer_id_and_epoch = bump_unless_asking


def _try_on_with_an_id_given_up(sender: Any, manager: Any) -> None:
    # `_can_retry`, `producer_id`: compares the batch's id with the current one. The broker still
    # accepts an id that was given up. No later batch overtakes this one, because the client has one
    # batch of a partition in flight at a time.
    can_retry = sender._can_retry

    def can_retry_as_before(batch: Any, error: Any) -> bool:
        current = manager.producer_id_and_epoch
        if batch.producer_id == current.producer_id:
            return bool(can_retry(batch, error))
        manager.producer_id_and_epoch = ProducerIdAndEpoch(batch.producer_id, batch.producer_epoch)
        try:
            return bool(can_retry(batch, error))
        finally:
            manager.producer_id_and_epoch = current

    sender._can_retry = can_retry_as_before
