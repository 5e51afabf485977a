"""A rejected record costs no other message.

The broker appends a batch whole or not at all. If it rejects one record, such as a record without a
key on a compacted topic, it rejects the batch and names the bad records (KIP-467). The client fails
all records of the batch. This module sends the neighbors of the bad records again, in order:

- The neighbors become one new batch at the front of the partition's queue. Later batches of the
  partition wait behind it, because the client has one batch of a partition in flight at a time.
- If the broker names no record, the batch is halved, as the client halves a batch that is too
  large. In the end each bad record is alone in its batch.
- If the broker names all records, or gives a reason that concerns the whole batch (such as a
  missing right), the whole batch fails.

The sequence numbers of an idempotent producer stay without a gap. A rejected batch was not
appended, so its numbers are free, and the neighbors begin with its first number. If the batch was
sent before and got no answer, it may have been appended at that time. Therefore the neighbors keep
the batch's producer id: if the broker has the batch, it rejects their numbers and appends nothing
twice.

In a transaction nothing is sent again. The transaction has lost a message and can only be aborted
(see `transaction.py`). Then the source of each neighbor is redelivered.

With `acks=0` the broker does not answer, so a rejection remains unknown.

After a rejection that is not retriable, the client also ends an idempotent producer: it aborts all
batches that it holds and accepts no more. This module makes the client request a new producer epoch
instead, in which the sequence numbers start again. Otherwise the rejected batch would leave a gap.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import kafka.errors
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

# The reasons that concern single records of a batch.
_OF_RECORDS = (kafka.errors.InvalidRecordError, kafka.errors.InvalidTimestampError)
# The records of one batch must fit into another one, so the new batch has no size limit.
_NO_LIMIT = 1 << 31


def tolerate_rejected_records(producer: Any) -> None:
    """Let a new producer without transactions continue after a rejected batch."""
    # `_transaction_manager`, `classify_batch_error`: decides which errors end the producer.
    manager = producer._transaction_manager
    if manager is None:
        return
    classify = manager.classify_batch_error

    def classify_mildly(error: Any, batch: Any, **details: Any) -> Any:
        verdict = classify(error, batch, **details)
        cause = error if isinstance(error, type) else type(error)
        if verdict == manager.ERROR_CLASS_FATAL and cause not in manager._FATAL_ERRORS:
            return manager.ERROR_CLASS_NEEDS_EPOCH_BUMP
        return verdict

    manager.classify_batch_error = classify_mildly


def spare_neighbors(producer: Any) -> None:
    """Let a new producer without transactions send the neighbors of rejected records again."""
    # `_sender`, `_dispatch_error`: decides about a failed batch.
    sender, manager = producer._sender, producer._transaction_manager
    dispatch = sender._dispatch_error
    # `config`: with `acks=1` the client sends a batch before the previous one has its answer. Then
    # each batch that is sent again would follow its successor.
    if sender.config["acks"] != 0:
        sender.config["guarantee_message_order"] = True

    def dispatch_each(batch: Any, error: Exception, partition_response: Any) -> None:
        if not _is_taken_apart(sender, manager, batch, error, partition_response):
            dispatch(batch, error, partition_response)
            return
        # `_in_flight_batches`, `deallocate`, `muted`: the same cleanup as after the client's split.
        sender._maybe_remove_from_inflight_batches(batch)
        sender._accumulator.deallocate(batch)
        sender._accumulator.muted.discard(batch.topic_partition)

    sender._dispatch_error = dispatch_each


def _is_taken_apart(
    sender: Any, manager: Any, batch: Any, error: Exception, partition_response: Any
) -> bool:
    """Send the good records of a rejected batch again; return whether that was possible."""
    if partition_response is None or not isinstance(error, _OF_RECORDS):
        return False
    named = _named(partition_response, batch.record_count)
    if len(named) == batch.record_count or batch.final_state is not None:
        return False
    if named:
        _send_neighbors(sender, manager, batch, named, error)
        return True
    # A half gets the current producer id. So a batch that may have been appended is not halved: the
    # broker would append its records twice.
    if batch.record_count == 1 or (batch.in_retry() and batch.has_sequence):
        return False
    _halve(sender, manager, batch)
    return True


def _named(partition_response: Any, count: int) -> Mapping[int, str | None]:
    """Return the indexes of the records that the broker named, with its reasons."""
    return {
        each.batch_index: each.batch_index_error_message
        for each in partition_response.record_errors or ()
        if 0 <= each.batch_index < count
    }


def _send_neighbors(
    sender: Any, manager: Any, batch: Any, named: Mapping[int, str | None], error: Exception
) -> None:
    """Put the records that were not named back to the front of the queue, as one batch."""
    left = [at for at in range(batch.record_count) if at not in named]
    again = _rebuilt(sender, batch, left)
    if manager is not None and manager.producer_id_and_epoch.match(batch):
        # The numbers of the partition's next batch follow those of the neighbors.
        manager.set_sequence_number(batch.topic_partition, batch.base_sequence)
        manager.increment_sequence_number(batch.topic_partition, len(left))
    # `_incomplete`: a flush and the closing of the client wait for these batches. `_batches`: the
    # queue of each partition. `_tp_lock`: another thread may append to the queue.
    accumulator = sender._accumulator
    with accumulator._tp_lock(batch.topic_partition):
        accumulator._batches[batch.topic_partition].appendleft(again)
        accumulator._incomplete.add(again)
    # `_record_futures`, `rebind`: used as in the client's split.
    futures = batch._record_futures
    for index, at in enumerate(left):
        futures[at].rebind(again.produce_future, index)
        again._record_futures.append(futures[at])
    for at, why in named.items():
        futures[at].failure(type(error)(why or (error.args[0] if error.args else None)))


def _rebuilt(sender: Any, batch: Any, left: Sequence[int]) -> Any:
    """Return a closed batch of these records, with the producer id and first number of `batch`."""
    config = sender._accumulator.config
    records = MemoryRecordsBuilder(
        config["message_version"], config["compression_attrs"], _NO_LIMIT
    )
    again = ProducerBatch(batch.topic_partition, records, now=time.monotonic())
    again.created = batch.created  # the delivery timeout does not start again
    again.attempts = batch.attempts
    content = [record for each in MemoryRecords(batch.records.buffer()) for record in each]
    for at in left:
        record = content[at]
        records.append(record.timestamp, record.key, record.value, record.headers)
    if batch.has_sequence:
        records.set_producer_state(
            batch.producer_id, batch.producer_epoch, batch.base_sequence, False
        )
    records.close()
    # `_retry`: the client assigns no new number to a batch in retry.
    again._retry = batch.has_sequence or batch.in_retry()
    return again


def _halve(sender: Any, manager: Any, batch: Any) -> None:
    """Send each half of a batch separately."""
    tp = batch.topic_partition
    if manager is None or manager.producer_id_and_epoch.match(batch):
        # `split_and_reenqueue`: the halves begin with the batch's first number.
        sender._accumulator.split_and_reenqueue(batch)
        return
    number = manager.sequence_number(tp)  # of the current id, which is newer than the batch's id
    sender._accumulator.split_and_reenqueue(batch)
    manager.set_sequence_number(tp, number)
