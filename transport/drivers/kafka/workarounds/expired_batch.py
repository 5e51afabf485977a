"""A message that was tried until its time was up must not cost the others.

Whether an idempotent producer of the client has written such a message is not known, so it gives up
its producer id. That goes wrong twice: it never asks for another id, so that nothing is sent any
more, to no topic; and it forgets what it was about to send, until that has run out of time as well.
What was tried under the old id goes on with it, for the broker knows it by that; the client would
fail it the next time that it does not get through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kafka.producer.transaction_manager import ProducerIdAndEpoch, TransactionState

# A new id is asked for already.
_ASKING = (TransactionState.UNINITIALIZED, TransactionState.INITIALIZING)


def outlive_expiry(producer: Any) -> None:
    """Let a new producer without transactions send what it was about to, and then get a new id."""
    # `_sender`, `_transaction_manager`: nothing of this is public.
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
                    # `_retry`: else the id is given up at once, before the others are sent.
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
            # `_current_state`: it asks for an id in the first of its states alone.
            if manager._current_state == TransactionState.READY:
                manager._current_state = TransactionState.UNINITIALIZED
        return 0

    # `expired_batches`, `_get_expired_inflight_batches`: how it finds what is out of time.
    accumulator = sender._accumulator
    accumulator.expired_batches = noting(accumulator.expired_batches)
    sender._get_expired_inflight_batches = noting(sender._get_expired_inflight_batches)
    sender._send_producer_data = send_and_ask_anew
    _bump_with_an_id_alone(manager)
    _try_on_with_an_id_given_up(sender, manager)


def _bump_with_an_id_alone(manager: Any) -> None:
    # `bump_producer_id_and_epoch`: how it mends what was refused. While it has no id that
    # would raise, and leave all that was answered together with it without an outcome.
    bump = manager.bump_producer_id_and_epoch

    def bump_unless_asking() -> None:
        if manager._current_state not in _ASKING:
            bump()

    manager.bump_producer_id_and_epoch = bump_unless_asking


def _try_on_with_an_id_given_up(sender: Any, manager: Any) -> None:
    # `_can_retry`, `producer_id`: where it looks whether the id is the same still. An id that we
    # gave up is good, and no later batch overtakes: it sends one of a partition at a time.
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
