"""The records of a rejected batch. These tests use the client's own sender."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import kafka.errors
import pytest
from kafka import TopicPartition
from kafka.cluster import ClusterMetadata
from kafka.producer.producer_batch import ProducerBatch
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import (
    ProducerIdAndEpoch,
    TransactionManager,
    TransactionState,
)
from kafka.protocol.producer import ProduceResponse
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from transport.drivers.kafka import KafkaProducerClient
from transport.drivers.kafka.workarounds.expired_batch import outlive_expiry
from transport.drivers.kafka.workarounds.rejected_record import (
    spare_neighbors,
    tolerate_rejected_records,
)

Answer = ProduceResponse.TopicProduceResponse.PartitionProduceResponse
TP = TopicPartition("t", 0)
INVALID = kafka.errors.InvalidRecordError.errno


class Rig:
    """A producer of the client. Its partition has used the sequence numbers 0 to 6."""

    def __init__(self, *, idempotent: bool = True, compression: int = 0, acks: int = -1) -> None:
        self.manager = TransactionManager(api_version=(2, 8)) if idempotent else None
        self.accumulator = RecordAccumulator(
            transaction_manager=self.manager,
            message_version=2,
            delivery_timeout_ms=60_000,
            compression_attrs=compression,
        )
        client = SimpleNamespace(cluster=ClusterMetadata(bootstrap_servers="127.0.0.1:1"))
        self.sender = Sender(
            client, client.cluster, self.accumulator, transaction_manager=self.manager, acks=acks
        )
        producer = SimpleNamespace(_sender=self.sender, _transaction_manager=self.manager)
        tolerate_rejected_records(producer)
        spare_neighbors(producer)
        outlive_expiry(producer)
        if self.manager is not None:
            self.manager.init_producer_id()
            self.take_id(1)
            self.manager.set_sequence_number(TP, 7)
        self.compression = compression

    def take_id(self, producer_id: int) -> None:
        assert self.manager is not None
        self.manager.set_producer_id_and_epoch(ProducerIdAndEpoch(producer_id, 0))
        self.manager._transition_to(TransactionState.READY)

    @property
    def number(self) -> int:
        assert self.manager is not None
        return self.manager.sequence_number(TP)

    @property
    def queue(self) -> list[Any]:
        return list(self.accumulator._batches[TP])

    def in_flight(self, count: int, *, age: float = 0.0) -> tuple[Any, list[Any]]:
        """Return a batch of `count` records in flight, and the futures of the records."""
        records = MemoryRecordsBuilder(2, self.compression, 100_000)
        batch = ProducerBatch(TP, records, time.monotonic() - age)
        futures = [
            batch.try_append(1000 + n, b"k%d" % n, b"v%d" % n * 20, [("h", b"%d" % n)])
            for n in range(count)
        ]
        if self.manager is not None:
            records.set_producer_state(1, 0, 7, False)
            self.manager.increment_sequence_number(TP, count)
        records.close()
        self.accumulator._incomplete.add(batch)
        self.accumulator.muted.add(TP)
        return batch, futures

    def answer(self, batch: Any, error: int, named: object = (), text: str | None = None) -> None:
        partition = Answer(
            index=0, error_code=error, error_message=text, record_errors=list(named), base_offset=40
        )
        topic = ProduceResponse.TopicProduceResponse(name="t", partition_responses=[partition])
        response = ProduceResponse(responses=[topic])
        self.sender._handle_produce_response(0, 0.0, [batch], response)

    def drain(self) -> Any:
        """Return the batch that the client sends next."""
        batch = self.accumulator._batches[TP].popleft()
        if not batch.in_retry() and self.manager is not None:  # as `drain_batches_for_one_node`
            number = self.manager.sequence_number(TP)
            batch.records.set_producer_state(
                self.manager.producer_id_and_epoch.producer_id, 0, number, False
            )
            self.manager.increment_sequence_number(TP, batch.record_count)
        batch.records.close()
        return batch


def named(*indices: int) -> list[Any]:
    Named = Answer.BatchIndexAndErrorMessage  # noqa: N806 - a class
    return [
        Named(batch_index=at, batch_index_error_message=f"bad {at}", version=8) for at in indices
    ]


def values(batch: Any) -> list[bytes]:
    return [r.value[:2] for each in MemoryRecords(batch.records.buffer()) for r in each]


@pytest.mark.parametrize("compression", [0, 1])
def test_neighbors_are_sent_again_in_order_with_sequence_numbers_of_batch(
    compression: int,
) -> None:
    rig = Rig(compression=compression)
    batch, futures = rig.in_flight(6)
    rig.answer(batch, INVALID, named(1, 4))
    assert [future.is_done for future in futures] == [False, True, False, False, True, False]
    assert "bad 1" in str(futures[1].exception)
    assert "bad 4" in str(futures[4].exception)
    assert TP not in rig.accumulator.muted
    (again,) = rig.queue
    assert (again.base_sequence, rig.number) == (7, 11)
    assert again.created == batch.created
    assert values(rig.drain()) == [b"v0", b"v2", b"v3", b"v5"]
    (record, *_) = [r for each in MemoryRecords(again.records.buffer()) for r in each]
    assert (record.timestamp, record.key, record.headers) == (1000, b"k0", [("h", b"0")])
    rig.answer(again, 0)
    assert [f.value.offset for f in futures if f.exception is None] == [40, 41, 42, 43]
    assert not rig.accumulator.has_incomplete


def test_later_message_stays_behind_neighbors() -> None:
    rig = Rig()
    batch, _ = rig.in_flight(3)
    rig.accumulator.append(TP, None, b"k", b"later", [])
    rig.answer(batch, INVALID, named(0))
    again = rig.drain()
    assert values(again) == [b"v1", b"v2"]
    later = rig.drain()
    assert (values(later), later.base_sequence) == ([b"la"], 9)


def test_second_rejection_sends_remaining_neighbors_again() -> None:
    rig = Rig()
    batch, futures = rig.in_flight(4)
    rig.answer(batch, INVALID, named(0))
    rig.answer(rig.drain(), INVALID, named(2))
    again = rig.drain()
    assert (values(again), again.base_sequence, rig.number) == ([b"v1", b"v2"], 7, 9)
    assert [future.is_done for future in futures] == [True, False, False, True]


@pytest.mark.parametrize("indices", [(), (-1, 9)])
def test_batch_is_halved_if_broker_names_no_record(indices: tuple[int, ...]) -> None:
    """The halving ends when the rejected batch has one record."""
    rig = Rig()
    _, futures = first = rig.in_flight(5)
    batch = first[0]
    sent = []
    while True:
        if b"v3" in values(batch):
            rig.answer(batch, INVALID, named(*indices), "bad")
            if batch.is_done:
                rig.take_id(2)  # the new id mends the gap in the numbers
        else:
            sent += values(batch)
            rig.answer(batch, 0)
        if not rig.queue:
            break
        batch = rig.drain()
    assert sent == [b"v0", b"v1", b"v2", b"v4"]
    assert [future.is_done for future in futures] == [True] * 5
    assert [at for at, future in enumerate(futures) if future.exception] == [3]


def test_records_that_broker_names_fail_with_their_own_reasons() -> None:
    rig = Rig()
    batch, futures = rig.in_flight(3)
    rig.answer(batch, INVALID, named(0, 1, 2))
    assert rig.queue == []
    for at, future in enumerate(futures):
        assert f"bad {at}" in str(future.exception)


@pytest.mark.parametrize(
    "error", [kafka.errors.TopicAuthorizationFailedError, kafka.errors.PolicyViolationError]
)
def test_error_of_whole_batch_fails_all_its_records(error: type[kafka.errors.KafkaError]) -> None:
    rig = Rig()
    batch, futures = rig.in_flight(3)
    rig.answer(batch, error.errno, named(0))
    assert rig.queue == []
    assert all(future.is_done for future in futures)


def test_neighbors_of_retried_batch_keep_producer_id_and_sequence_numbers() -> None:
    """The broker may have appended the batch before. It detects the batch by its numbers."""
    rig = Rig()
    batch, _ = rig.in_flight(3)
    rig.sender._failed_produce([batch], 0, kafka.errors.KafkaConnectionError("reset"))
    batch = rig.drain()
    assert rig.manager is not None
    rig.manager.reset_producer_id()
    rig.manager._current_state = TransactionState.INITIALIZING
    rig.take_id(2)
    rig.manager.set_sequence_number(TP, 5)
    rig.answer(batch, INVALID, named(1))
    again = rig.drain()
    assert (again.producer_id, again.base_sequence, values(again)) == (1, 7, [b"v0", b"v2"])
    assert rig.number == 5
    # The batch keeps this producer id in all its retries.
    rig.sender._failed_produce([again], 0, kafka.errors.KafkaConnectionError("reset"))
    assert rig.queue == [again]


def test_retried_batch_is_not_halved() -> None:
    """A half could get another producer id, with which the broker would append it twice."""
    rig = Rig()
    batch, futures = rig.in_flight(3)
    rig.sender._failed_produce([batch], 0, kafka.errors.KafkaConnectionError("reset"))
    rig.answer(rig.drain(), INVALID)
    assert rig.queue == []
    assert all(future.is_done for future in futures)


def test_halving_keeps_sequence_numbers_of_newer_producer_id() -> None:
    rig = Rig()
    batch, _ = rig.in_flight(4)
    assert rig.manager is not None
    rig.manager.reset_producer_id()
    rig.manager._current_state = TransactionState.INITIALIZING
    rig.take_id(2)
    rig.answer(batch, INVALID)
    assert rig.number == 0
    assert [rig.drain().base_sequence for _ in range(2)] == [0, 2]


def test_neighbors_keep_delivery_timeout_of_batch() -> None:
    rig = Rig()
    batch, futures = rig.in_flight(3, age=61.0)
    rig.answer(batch, INVALID, named(1))
    rig.sender._send_producer_data()
    assert [type(future.exception) for future in futures] == [
        kafka.errors.KafkaTimeoutError,
        kafka.errors.InvalidRecordError,
        kafka.errors.KafkaTimeoutError,
    ]


def test_forced_close_fails_neighbors() -> None:
    rig = Rig()
    batch, futures = rig.in_flight(3)
    rig.answer(batch, INVALID, named(1))
    rig.accumulator.abort_incomplete_batches()
    assert all(future.is_done for future in futures)
    assert not rig.accumulator.has_incomplete


def test_answer_after_forced_close_changes_nothing() -> None:
    rig = Rig()
    batch, futures = rig.in_flight(3)
    rig.accumulator.abort_incomplete_batches()
    rig.answer(batch, INVALID, named(1))
    assert rig.queue == []
    assert all(future.is_done for future in futures)


@pytest.mark.parametrize("names", [(1,), ()])
def test_neighbors_are_sent_again_without_idempotence(names: tuple[int, ...]) -> None:
    rig = Rig(idempotent=False, acks=1)
    batch, futures = rig.in_flight(3)
    rig.answer(batch, INVALID, named(*names))
    sent = [rig.drain() for _ in rig.queue]
    expected = [b"v0", b"v2"] if names else [b"v0", b"v1", b"v2"]
    assert [value for again in sent for value in values(again)] == expected
    for again in sent:
        rig.answer(again, 0)
    assert all(future.is_done for future in futures)


@pytest.mark.parametrize(("acks", "in_turn"), [(1, True), (-1, True), (0, False)])
def test_one_batch_of_partition_is_in_flight_if_broker_answers(acks: int, in_turn: bool) -> None:
    """Otherwise the neighbors would be written after later messages."""
    rig = Rig(idempotent=False, acks=acks)
    assert rig.sender.config["guarantee_message_order"] is in_turn


def test_flush_under_way_waits_for_neighbors() -> None:
    rig = Rig()
    batch, futures = rig.in_flight(3)
    flushes: list[float] = []

    def flush(timeout: float) -> None:  # as `KafkaProducer.flush`
        rig.accumulator.begin_flush()
        flushes.append(timeout)
        rig.accumulator.await_flush_completion(timeout)

    client: Any = SimpleNamespace(_producer=SimpleNamespace(flush=flush))
    waiting = threading.Thread(target=KafkaProducerClient._flush, args=(client, 10.0))
    waiting.start()
    wait_until(lambda: len(flushes) == 1)
    rig.answer(batch, INVALID, named(1))
    wait_until(lambda: len(flushes) == 2)
    assert waiting.is_alive()
    rig.answer(rig.drain(), 0)
    waiting.join(10.0)
    assert not waiting.is_alive()
    assert all(future.is_done for future in futures)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
