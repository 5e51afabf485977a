"""Outcomes of a transaction's messages after one is lost. The tests use the client's sender."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import kafka.errors
import pytest
from kafka import TopicPartition
from kafka.cluster import ClusterMetadata
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import TransactionManager
from kafka.protocol.producer import ProduceResponse

from transport.drivers.kafka.errors import of_a_delivery_in_a_transaction
from transport.drivers.kafka.transaction import abort_on_failure
from transport.errors import (
    AuthorizationFailed,
    DeliveryFailed,
    DeliveryTimeout,
    MessageTooLarge,
    TransactionAborted,
)

Named = ProduceResponse.TopicProduceResponse.PartitionProduceResponse.BatchIndexAndErrorMessage
TP = TopicPartition("t", 0)


@pytest.fixture
def sender() -> Any:
    manager = TransactionManager("id", api_version=(4, 0))
    accumulator = RecordAccumulator(transaction_manager=manager, message_version=2)
    client = SimpleNamespace(cluster=ClusterMetadata(bootstrap_servers="127.0.0.1:1"))
    sender = Sender(client, client.cluster, accumulator, transaction_manager=manager)
    abort_on_failure(SimpleNamespace(_sender=sender, _transaction_manager=manager))
    return sender


def test_rejected_record_has_its_reason_and_neighbors_are_aborted(sender: Any) -> None:
    names = [Named(batch_index=1, batch_index_error_message="no key", version=8)]
    top = kafka.errors.InvalidRecordError("one of them")
    error_of = sender._record_exceptions_fn(top, names, None)
    outcomes = [of_a_delivery_in_a_transaction(error_of(at)) for at in range(3)]
    assert [type(each) for each in outcomes] == [
        TransactionAborted,
        DeliveryFailed,
        TransactionAborted,
    ]
    assert "no key" in str(outcomes[1])


def test_error_without_record_names_applies_to_each_record(sender: Any) -> None:
    error_of = sender._record_exceptions_fn(kafka.errors.MessageSizeTooLargeError(), [], None)
    assert type(of_a_delivery_in_a_transaction(error_of(0))) is MessageTooLarge


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (kafka.errors.InvalidRecordError("no key"), TransactionAborted),
        (kafka.errors.KafkaTimeoutError("Expiring"), TransactionAborted),
        (kafka.errors.InvalidProducerEpochError(None), TransactionAborted),
        (kafka.errors.TransactionAbortedError(), TransactionAborted),
        # The missing right may also apply to this message.
        (kafka.errors.TopicAuthorizationFailedError({"t"}), AuthorizationFailed),
    ],
)
def test_unsent_message_is_aborted_after_error_of_another_batch(
    sender: Any, error: Exception, expected: type[Exception]
) -> None:
    future, *_ = sender._accumulator.append(TP, None, b"k", b"v", [])
    sender._accumulator.abort_undrained_batches(error)
    assert type(of_a_delivery_in_a_transaction(future.exception)) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (kafka.errors.ProducerFencedError(), TransactionAborted),
        (kafka.errors.InvalidTxnStateError(), TransactionAborted),
        (kafka.errors.InvalidProducerIdMappingError(), TransactionAborted),
        (kafka.errors.KafkaError(kafka.errors.InvalidProducerIdMappingError()), TransactionAborted),
        (kafka.errors.KafkaTimeoutError("Expiring"), DeliveryTimeout),
        (kafka.errors.TransactionalIdAuthorizationFailedError(), AuthorizationFailed),
    ],
)
def test_outcome_of_message_is_never_fenced(error: Exception, expected: type[Exception]) -> None:
    """Only the abort detects that another process has the id."""
    assert type(of_a_delivery_in_a_transaction(error)) is expected
