"""A client that gives up its producer id goes on with all else; its own sender is at work here."""

from __future__ import annotations

import time
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
from kafka.record.memory_records import MemoryRecordsBuilder

from transport.drivers.kafka.expiry import outlive_expiry
from transport.drivers.kafka.refusal import keep_alive

Answer = ProduceResponse.TopicProduceResponse.PartitionProduceResponse


class Rig:
    """A producer of the client that has an id, and no broker that it knows of."""

    def __init__(self) -> None:
        self.manager = TransactionManager(api_version=(2, 8))
        accumulator = RecordAccumulator(
            transaction_manager=self.manager, message_version=2, delivery_timeout_ms=60_000
        )
        client = SimpleNamespace(cluster=ClusterMetadata(bootstrap_servers="127.0.0.1:1"))
        self.sender = Sender(client, client.cluster, accumulator, transaction_manager=self.manager)
        producer = SimpleNamespace(_sender=self.sender, _transaction_manager=self.manager)
        keep_alive(producer)
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
        """One batch that was tried has run out of time."""
        late = self.batch(0, age=61.0)
        late.retry()
        self.sender._accumulator._batches[late.topic_partition].append(late)
        self.sender._send_producer_data()
        assert late.is_done


@pytest.mark.parametrize("is_asking", [False, True])
def test_a_message_that_is_refused_while_there_is_no_id_costs_no_other(is_asking: bool) -> None:
    rig = Rig()
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
    # It is still to have a new id.
    rig.manager.init_producer_id()
    rig.take_id(2)
    assert rig.manager.has_producer_id()
    assert not rig.manager.has_error()


def test_what_was_tried_under_the_id_that_is_given_up_keeps_its_time() -> None:
    """Its number is good under that id alone: else the broker could not tell that it has it."""
    rig = Rig()
    other = rig.batch(1)
    rig.expire()
    rig.manager.init_producer_id()
    rig.take_id(2)
    rig.sender._failed_produce([other], 0, kafka.errors.KafkaConnectionError("reset"))
    assert not other.is_done
    assert list(rig.sender._accumulator._batches[other.topic_partition]) == [other]
    assert other.in_retry()
    assert other.producer_id == 1


def test_what_has_no_time_left_is_not_tried_again() -> None:
    rig = Rig()
    late = rig.batch(1, age=61.0)
    rig.expire()
    rig.sender._failed_produce([late], 0, kafka.errors.KafkaConnectionError("reset"))
    assert late.is_done


def test_what_was_tried_in_an_epoch_before_is_given_up() -> None:
    """The broker takes no more of it."""
    rig = Rig()
    batch = rig.batch(1)
    rig.manager.set_producer_id_and_epoch(ProducerIdAndEpoch(1, 1))
    rig.sender._failed_produce([batch], 0, kafka.errors.KafkaConnectionError("reset"))
    assert batch.is_done
