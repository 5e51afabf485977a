"""A transaction request that the broker refuses as too early is repeated after a short pause."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import (
    ConcurrentTransactionsError,
    KafkaConnectionError,
    NoError,
    NotCoordinatorError,
)
from kafka.future import Future
from kafka.producer.transaction_manager import (
    AddOffsetsToTxnHandler,
    AddPartitionsToTxnHandler,
    ProducerIdAndEpoch,
    TransactionManager,
    TransactionState,
    TxnRequestHandler,
)
from kafka.protocol.producer import (
    AddOffsetsToTxnResponse,
    AddPartitionsToTxnResponse,
    EndTxnRequest,
    EndTxnResponse,
)
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition

from transport.drivers.kafka.workarounds.concurrent_transactions import PAUSES, ask_again_soon

TPS = [TopicPartition("t", 0), TopicPartition("t", 1)]


class Net:
    """A client whose requests the test answers, and whose pauses end at once."""

    def __init__(self) -> None:
        self.answers: list[Future] = []
        self.requests: list[Any] = []
        self.pauses: list[float] = []
        self.is_closed = False
        self._net = SimpleNamespace(call_later=self._call_later)

    def send(self, node_id: Any, request: Any, **options: Any) -> Future:
        if self.is_closed:
            raise KafkaConnectionError("closed")
        self.requests.append(request)
        self.answers.append(Future())
        return self.answers[-1]

    def _call_later(self, delay: float, call: Callable[[], None]) -> None:
        self.pauses.append(delay)
        call()


def adding_partitions(*codes: int) -> AddPartitionsToTxnResponse:
    topic = AddPartitionsToTxnResponse.AddPartitionsToTxnTopicResult
    each = topic.AddPartitionsToTxnPartitionResult
    results = [
        each(partition_index=at, partition_error_code=code, version=3)
        for at, code in enumerate(codes)
    ]
    return AddPartitionsToTxnResponse(
        throttle_time_ms=0,
        results_by_topic_v3_and_below=[topic(name="t", results_by_partition=results, version=3)],
        version=3,
    )


def adding_offsets(code: int) -> AddOffsetsToTxnResponse:
    return AddOffsetsToTxnResponse(throttle_time_ms=0, error_code=code, version=3)


class Rig:
    """A transactional producer of the client with one request in flight."""

    def __init__(self, make: Callable[[TransactionManager], TxnRequestHandler]) -> None:
        self.net: Any = Net()
        ask_again_soon(SimpleNamespace(_sender=SimpleNamespace(_client=self.net)))
        self.manager = TransactionManager("an id", 60_000, retry_backoff_ms=20, api_version=(4, 0))
        self.manager.set_producer_id_and_epoch(ProducerIdAndEpoch(7, 0))
        self.manager._current_state = TransactionState.IN_TRANSACTION
        self.handler = make(self.manager)
        self.manager._in_flight_request_correlation_id = 3
        self.net.send(1, self.handler.request).add_both(self.handler.on_complete, 3)

    def answer(self, response: Any) -> None:
        self.net.answers[-1].success(response)


def of_partitions(manager: TransactionManager) -> TxnRequestHandler:
    return AddPartitionsToTxnHandler(manager, TPS)


def of_offsets(manager: TransactionManager) -> TxnRequestHandler:
    offsets = {TPS[0]: OffsetAndMetadata(5, "", -1)}
    return AddOffsetsToTxnHandler(manager, ConsumerGroupMetadata("g", 1, "m", None), offsets)


SOON, FINE = ConcurrentTransactionsError.errno, NoError.errno
KINDS = pytest.mark.parametrize(
    ("make", "too_soon", "fine"),
    [
        (of_partitions, adding_partitions(SOON, SOON), adding_partitions(FINE, FINE)),
        (of_offsets, adding_offsets(SOON), adding_offsets(FINE)),
    ],
    ids=["partitions", "offsets"],
)


@KINDS
def test_early_request_is_repeated_and_client_gets_last_answer(
    make: Callable[[TransactionManager], TxnRequestHandler], too_soon: Any, fine: Any
) -> None:
    rig = Rig(make)
    rig.answer(too_soon)
    rig.answer(too_soon)
    assert rig.net.pauses == list(PAUSES[:2])
    assert rig.manager.has_in_flight_transactional_request()
    rig.answer(fine)
    assert rig.net.requests == [rig.handler.request] * 3
    assert not rig.manager.has_in_flight_transactional_request()
    assert rig.manager._transaction_started
    assert not rig.handler.is_retry, "before a retry of its own the client sleeps"


@KINDS
def test_refusal_after_last_pause_reaches_client(
    make: Callable[[TransactionManager], TxnRequestHandler], too_soon: Any, fine: Any
) -> None:
    rig = Rig(make)
    for _ in range(len(PAUSES) + 1):
        rig.answer(too_soon)
    assert rig.net.pauses == list(PAUSES)
    assert rig.handler.is_retry
    assert rig.handler in [each for _, _, each in rig.manager._pending_requests]
    assert not rig.manager.has_error()


def test_all_pauses_take_less_than_one_backoff_of_client() -> None:
    assert sum(PAUSES) < 0.02


@KINDS
def test_other_refusal_reaches_client_at_once(
    make: Callable[[TransactionManager], TxnRequestHandler], too_soon: Any, fine: Any
) -> None:
    rig = Rig(make)
    code = NotCoordinatorError.errno
    rig.answer(adding_partitions(code, code) if make is of_partitions else adding_offsets(code))
    assert not rig.net.pauses
    assert rig.handler.is_retry


@KINDS
def test_connection_lost_after_pause_fails_request(
    make: Callable[[TransactionManager], TxnRequestHandler], too_soon: Any, fine: Any
) -> None:
    rig = Rig(make)
    rig.answer(too_soon)
    rig.net.answers[-1].failure(KafkaConnectionError("lost"))
    assert not rig.manager.has_in_flight_transactional_request()
    assert rig.handler.is_retry
    assert not rig.manager.has_error()


@KINDS
def test_client_closed_before_repetition_fails_request(
    make: Callable[[TransactionManager], TxnRequestHandler], too_soon: Any, fine: Any
) -> None:
    rig = Rig(make)
    rig.net.is_closed = True
    rig.answer(too_soon)
    assert not rig.manager.has_in_flight_transactional_request()


def test_end_of_transaction_is_not_repeated() -> None:
    rig = Rig(of_partitions)
    request = EndTxnRequest("an id", 7, 0, True, version=3)
    answer = EndTxnResponse(throttle_time_ms=0, error_code=SOON, version=3)
    seen = rig.net.send(1, request)
    rig.answer(answer)
    assert seen.value is answer
    assert not rig.net.pauses
