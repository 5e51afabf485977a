"""A client that gives up its producer id continues with all other batches.

These tests use the client's own sender.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import kafka.errors
import pytest
import trio
from kafka import TopicPartition
from kafka.cluster import ClusterMetadata
from kafka.future import Future
from kafka.producer.producer_batch import ProducerBatch
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import (
    ProducerIdAndEpoch,
    TransactionManager,
    TransactionState,
)
from kafka.protocol.producer import InitProducerIdRequest, ProduceResponse
from kafka.record.memory_records import MemoryRecordsBuilder

from tests.drivers.rig import Rig, outgoing
from transport.drivers.kafka.workarounds.expired_batch import outlive_expiry
from transport.drivers.kafka.workarounds.rejected_record import tolerate_rejected_records
from transport.types import RecordMetadata

Answer = ProduceResponse.TopicProduceResponse.PartitionProduceResponse


class SenderRig:
    """A producer of the client that has an id and knows no broker."""

    def __init__(self) -> None:
        self.manager = TransactionManager(api_version=(2, 8))
        accumulator = RecordAccumulator(
            transaction_manager=self.manager, message_version=2, delivery_timeout_ms=60_000
        )
        client = SimpleNamespace(cluster=ClusterMetadata(bootstrap_servers="127.0.0.1:1"))
        self.sender = Sender(client, client.cluster, accumulator, transaction_manager=self.manager)
        producer = SimpleNamespace(_sender=self.sender, _transaction_manager=self.manager)
        tolerate_rejected_records(producer)
        outlive_expiry(producer)
        self.manager.init_producer_id()
        self.take_id(1)

    def take_id(self, producer_id: int) -> None:
        self.manager.set_producer_id_and_epoch(ProducerIdAndEpoch(producer_id, 0))
        self.manager._transition_to(TransactionState.READY)

    def batch(self, partition: int, *, age: float = 0.0) -> Any:
        records = MemoryRecordsBuilder(2, 0, 1000)
        batch = ProducerBatch(TopicPartition("t", partition), records, time.monotonic() - age)
        assert batch.try_append(0, None, b"v", []) is not None
        records.set_producer_state(1, 0, 0, False)
        records.close()
        return batch

    def expire(self) -> None:
        """Let one batch in retry reach its delivery timeout."""
        late = self.batch(0, age=61.0)
        late.retry()
        self.sender._accumulator._batches[late.topic_partition].append(late)
        self.sender._send_producer_data()
        assert late.is_done


@pytest.mark.parametrize("is_asking", [False, True])
def test_rejected_message_without_producer_id_costs_no_other_message(is_asking: bool) -> None:
    rig = SenderRig()
    large, fine = rig.batch(1), rig.batch(2)
    rig.expire()
    if is_asking:
        rig.manager.init_producer_id()
    too_large = kafka.errors.MessageSizeTooLargeError.errno
    partitions = [
        Answer(index=1, error_code=too_large),
        Answer(index=2, error_code=0, base_offset=7, log_append_time_ms=-1),
    ]
    topic = ProduceResponse.TopicProduceResponse(name="t", partition_responses=partitions)
    response = ProduceResponse(responses=[topic])
    rig.sender._handle_produce_response(0, 0.0, [large, fine], response)
    assert large.is_done
    assert fine.is_done
    # The producer can still get a new id.
    rig.manager.init_producer_id()
    rig.take_id(2)
    assert rig.manager.has_producer_id()
    assert not rig.manager.has_error()


def test_batch_in_flight_is_retried_with_old_producer_id() -> None:
    """The broker detects a duplicate only by the same producer id and sequence number."""
    rig = SenderRig()
    other = rig.batch(1)
    rig.expire()
    rig.manager.init_producer_id()
    rig.take_id(2)
    rig.sender._failed_produce([other], 0, kafka.errors.KafkaConnectionError("reset"))
    assert not other.is_done
    assert list(rig.sender._accumulator._batches[other.topic_partition]) == [other]
    assert other.in_retry()
    assert other.producer_id == 1


def test_batch_past_delivery_timeout_is_not_retried() -> None:
    rig = SenderRig()
    late = rig.batch(1, age=61.0)
    rig.expire()
    rig.sender._failed_produce([late], 0, kafka.errors.KafkaConnectionError("reset"))
    assert late.is_done


def test_batch_of_older_producer_epoch_fails() -> None:
    """The broker accepts no batch of an older epoch."""
    rig = SenderRig()
    batch = rig.batch(1)
    rig.manager.set_producer_id_and_epoch(ProducerIdAndEpoch(1, 1))
    rig.sender._failed_produce([batch], 0, kafka.errors.KafkaConnectionError("reset"))
    assert batch.is_done


@pytest.mark.kafka
async def test_unanswered_producer_id_request_is_repeated(kafka_rig: Rig) -> None:
    """Without the workaround the client fails every message that it holds."""
    topic = await kafka_rig.topic(1)
    async with kafka_rig.sender() as sender:
        await sender.fill(topic, 1, 1)
        client = sender.client._producer  # type: ignore[attr-defined]
        connections, manager = client._sender._client._manager, client._transaction_manager
        send, unanswered = connections.send, []

        def lose_the_first(request: Any, **options: Any) -> Any:
            if not isinstance(request, InitProducerIdRequest) or unanswered:
                return send(request, **options)
            unanswered.append(request)
            return Future().failure(kafka.errors.RequestTimedOutError("too late"))

        connections.send = lose_the_first
        with manager._lock:
            manager.reset_producer_id()
            manager._current_state = TransactionState.UNINITIALIZED
        with trio.fail_after(20):
            (sent,) = await sender.send([outgoing(topic, partition=0)])
        assert isinstance(sent, RecordMetadata)
        assert unanswered
