"""Appending messages in batches to the client's own accumulator, without a broker."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import kafka.errors
import pytest
import trio
import trio.testing
from kafka import KafkaProducer, TopicPartition
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

from transport.drivers.base import Outcome, Outgoing
from transport.drivers.kafka.appending import Appending, FilledBatch, Part
from transport.drivers.kafka.deliveries import Deliveries, HandedBatch, Run
from transport.drivers.kafka.sleep import Sleep
from transport.drivers.kafka.workarounds.rejected_record import (
    spare_neighbors,
    tolerate_rejected_records,
)
from transport.errors import DeliveryFailed, MessageTooLarge
from transport.types import Headers, RecordMetadata

Answer = ProduceResponse.TopicProduceResponse.PartitionProduceResponse
TP = TopicPartition("t", 0)
OTHER = TopicPartition("t", 1)
TOO_LARGE = kafka.errors.MessageSizeTooLargeError.errno
INVALID = kafka.errors.InvalidRecordError.errno


@pytest.fixture(params=[True, False], ids=["compiled", "python"], autouse=True)
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rig, "compiled", request.param)


class Unconnected(KafkaProducer):  # type: ignore[misc]
    """A producer of the client without its connections."""

    def __init__(self) -> None:
        self.config = {"max_request_size": 10_000, "api_version": (2, 8)}
        self._closed = False

    def __del__(self) -> None: ...


class Rig:
    """A producer of the client that never connects, with its batches and answers to them."""

    compiled: ClassVar[bool] = True

    def __init__(self, *, transactional: bool = False, **config: Any) -> None:
        self.manager = TransactionManager(
            transactional_id="id" if transactional else None, api_version=(2, 8)
        )
        self.accumulator = RecordAccumulator(
            transaction_manager=self.manager,
            **{"message_version": 2, "delivery_timeout_ms": 60_000, **config},
        )
        client = SimpleNamespace(
            cluster=ClusterMetadata(bootstrap_servers="127.0.0.1:1"),
            wakeup=self._wake,
            _net=SimpleNamespace(poll=self._poll),
        )
        self.sender = Sender(
            client, client.cluster, self.accumulator, transaction_manager=self.manager, acks=-1
        )
        self.producer = Unconnected()
        self.producer._accumulator = self.accumulator
        self.producer._sender = self.sender
        self.producer._transaction_manager = self.manager
        self.producer._metadata = client.cluster
        self.wakes = 0
        self.sleep = Sleep(client)
        self.during: Callable[[], object] = lambda: None
        tolerate_rejected_records(self.producer)
        if not transactional:
            spare_neighbors(self.producer)
            self.manager.init_producer_id()
        self.manager.set_producer_id_and_epoch(ProducerIdAndEpoch(1, 0))
        self.manager._current_state = TransactionState.READY

    def _wake(self) -> None:
        self.wakes += 1

    def appending(self) -> Appending:
        return Appending(self.producer, self.sleep, compiled=self.compiled)

    def wakes_in(self, seconds: float, during: Callable[[], object]) -> int:
        """Let the network thread sleep, call a function meanwhile, and return the wake-ups."""
        before, self.during = self.wakes, during
        self.sender._client._net.poll(timeout_ms=seconds * 1000)
        return self.wakes - before

    def _poll(self, timeout_ms: float, future: object) -> None:
        self.during()

    def append(self, messages: Sequence[Outgoing], tp: TopicPartition = TP) -> Appending:
        appended = self.appending()
        appended.append(tp, messages)
        appended.wake()
        return appended

    def queue(self, tp: TopicPartition = TP) -> list[Any]:
        return list(self.accumulator._batches[tp])

    def drain(self, tp: TopicPartition = TP) -> Any:
        """Return the batch that the client sends next."""
        batch = self.accumulator._batches[tp].popleft()
        if not batch.in_retry():  # as `drain_batches_for_one_node`
            batch.records.set_producer_state(1, 0, self.manager.sequence_number(tp), False)
            self.manager.increment_sequence_number(tp, batch.record_count)
        batch.records.close()
        return batch

    def answer(
        self, batch: Any, error: int = 0, *, at: int = 40, stored_ms: int = -1, named: object = ()
    ) -> None:
        tp = batch.topic_partition
        partition = Answer(
            index=tp.partition,
            error_code=error,
            record_errors=list(named),  # type: ignore[call-overload]
            base_offset=at,
            log_append_time_ms=stored_ms,
        )
        topic = ProduceResponse.TopicProduceResponse(name=tp.topic, partition_responses=[partition])
        self.sender._handle_produce_response(0, 0.0, [batch], ProduceResponse(responses=[topic]))


def message(
    value: bytes | None = b"v",
    key: bytes | None = None,
    headers: Headers = (),
    timestamp_ms: int | None = None,
    partition: int = 0,
) -> Outgoing:
    return Outgoing("t", partition, key, value, headers, timestamp_ms)


def numbered(count: int, size: int = 0, partition: int = 0) -> list[Outgoing]:
    return [message(b"%d" % n + b"." * size, partition=partition) for n in range(count)]


def values(batch: Any) -> list[bytes]:
    return [r.value.rstrip(b".") for each in MemoryRecords(batch.records.buffer()) for r in each]


class Watch:
    """The outcomes of appended messages, in trio."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.outcomes: dict[Outgoing, Outcome] = {}
        self.deliveries = Deliveries(
            self._report, timeout=60.0, answered=True, set_aside=lambda *_: None
        )

    def _report(self, reports: Sequence[tuple[Outgoing, Outcome]]) -> None:
        for each, outcome in reports:
            assert each not in self.outcomes, "reported once"
            self.outcomes[each] = outcome

    def append(self, messages: list[Outgoing], tp: TopicPartition = TP) -> None:
        batch = HandedBatch(messages, trio.current_time() + 60.0)
        self.deliveries.add(batch)
        appended = self.rig.append(messages, tp)
        runs = [Run(batch, part) for part in appended.parts]
        refused: list[tuple[Outgoing, Outcome]] = list(appended.refused)
        self.deliveries.taken(batch, runs, refused, [])

    async def of(self, messages: Sequence[Outgoing]) -> list[Outcome | None]:
        await trio.testing.wait_all_tasks_blocked()
        return [self.outcomes.get(each) for each in messages]


def offsets(outcomes: Sequence[Outcome | None]) -> list[int | None]:
    return [each.offset if isinstance(each, RecordMetadata) else None for each in outcomes]


@pytest.mark.parametrize("error", [0, kafka.errors.TopicAuthorizationFailedError.errno])
async def test_messages_with_an_outcome_are_freed_without_the_garbage_collector(error: int) -> None:
    """A collection scans all messages in flight, so cycles would cost more than the sending."""
    watch = Watch(Rig())
    messages = [message(b"%d" % number) for number in range(5)]
    kept = [weakref.ref(each) for each in messages]
    gc.disable()
    try:
        watch.append(messages)
        watch.rig.answer(watch.rig.drain(), error)
        assert None not in await watch.of(messages)
        watch.outcomes.clear()
        messages.clear()
        assert [each() for each in kept] == [None] * 5
    finally:
        gc.enable()


# Encoding


SAMPLE = [
    message(),
    message(b"", b""),
    message(None, b"key"),
    message(b"value", None),
    message(None, None),
    message(b"x" * 300, b"k" * 70),
    message(b"1", b"2", [("a", b"1"), ("ä", b""), ("none", None), ("a", b"again")]),
    message(b"old", timestamp_ms=0),
    message(b"new", timestamp_ms=2_000_000_000_000),
    message(b"older than the one before", timestamp_ms=1_000_000_000_000),
]


@pytest.mark.parametrize("compression", [0, 1])
def test_encoded_batch_equals_batch_of_client(compression: int) -> None:
    rig = Rig(compression_attrs=compression)
    appended = rig.append(SAMPLE)
    (part,) = appended.parts
    own = ProducerBatch(TP, MemoryRecordsBuilder(2, compression, 16384))
    for each, stamp in zip(SAMPLE, part.stamps(), strict=True):
        # Not `try_append` of the batch: that fails for a header without a value.
        assert own.records.append(stamp, each.key, each.value, list(each.headers)) is not None
    own.records.set_producer_state(1, 0, 0, False)
    own.records.close()
    batch = rig.drain()
    assert batch.records.buffer() == own.records.buffer()
    assert batch.record_count == len(SAMPLE)


def test_message_has_its_own_timestamp_or_time_of_append() -> None:
    rig = Rig()
    before = int(time.time() * 1000)
    (part,) = rig.append([message(), message(timestamp_ms=7)]).parts
    first, second = (r for each in MemoryRecords(rig.drain().records.buffer()) for r in each)
    assert before <= first.timestamp <= int(time.time() * 1000)
    assert [first.timestamp, second.timestamp] == part.stamps()
    assert second.timestamp == 7


def test_batches_hold_as_many_messages_as_batches_of_client() -> None:
    rig, messages = Rig(batch_size=500), numbered(40, size=50)
    rig.append(messages)
    own = RecordAccumulator(message_version=2, batch_size=500)
    for each in messages:
        own.append(TP, 0, each.key, each.value, [])
    sizes = [batch.record_count for batch in rig.queue()]
    assert sizes == [batch.record_count for batch in own._batches[TP]]
    assert len(sizes) > 3


def test_a_batch_is_filled_up_before_the_next_one_is_begun() -> None:
    rig = Rig(batch_size=500)
    for each in numbered(40, size=50):
        rig.append([each])
    one_by_one = [batch.record_count for batch in rig.queue()]
    together = Rig(batch_size=500)
    together.append(numbered(40, size=50))
    assert one_by_one == [batch.record_count for batch in together.queue()]


def test_message_larger_than_batch_size_gets_its_own_batch() -> None:
    rig = Rig(batch_size=100)
    rig.append([message(b"1"), message(b"2" * 300), message(b"3")])
    assert [batch.record_count for batch in rig.queue()] == [1, 1, 1]


def test_without_batching_each_message_is_a_batch() -> None:
    rig = Rig(batch_size=0)
    rig.append(numbered(3))
    assert [batch.record_count for batch in rig.queue()] == [1, 1, 1]


def test_each_partition_has_its_own_batches_in_order() -> None:
    rig = Rig(batch_size=300)
    for first in range(0, 30, 10):
        for tp in (TP, OTHER):
            rig.append(numbered(30, partition=tp.partition)[first : first + 10], tp)
    for tp in (TP, OTHER):
        seen = [value for _ in rig.queue(tp) for value in values(rig.drain(tp))]
        assert seen == [b"%d" % n for n in range(30)]


# The network thread


def test_network_thread_is_woken_only_for_new_and_full_batches() -> None:
    rig = Rig(batch_size=500, linger_ms=5000)
    assert rig.wakes_in(60, lambda: rig.append([message()])) == 1
    assert rig.wakes_in(60, lambda: rig.append([message()])) == 0
    assert rig.wakes_in(60, lambda: rig.append(numbered(20, size=50))) == 1


def test_network_thread_is_woken_by_the_message_that_fills_a_batch() -> None:
    size = Rig(batch_size=500).append([message(), message()]).parts[0].held.records._builder.size()
    rig = Rig(batch_size=size, linger_ms=5000)
    assert rig.wakes_in(60, lambda: rig.append([message()])) == 1
    assert rig.wakes_in(2, lambda: rig.append([message()])) == 1


def test_network_thread_is_woken_for_a_batch_that_follows_another() -> None:
    rig = Rig(batch_size=500, linger_ms=5000)
    rig.append([message()])
    assert rig.wakes_in(2, lambda: rig.append([message(b"v" * 425)])) == 1
    assert [batch.records.is_full() for batch in rig.queue()] == [False, False]


def test_network_thread_that_wakes_before_the_linger_ends_is_not_woken() -> None:
    rig = Rig(linger_ms=5000)
    assert rig.wakes_in(2, lambda: rig.append([message()])) == 0


def test_flush_wakes_network_thread_for_new_batch() -> None:
    rig = Rig(linger_ms=5000)
    rig.accumulator.begin_flush()
    assert rig.wakes_in(2, lambda: rig.append([message()])) == 1


def test_network_thread_is_woken_to_add_a_partition_to_a_transaction() -> None:
    rig = Rig(transactional=True, linger_ms=5000)
    rig.manager._current_state = TransactionState.IN_TRANSACTION
    assert rig.wakes_in(2, lambda: rig.append([message()])) == 1
    rig.manager._new_partitions_in_transaction.clear()
    rig.manager._partitions_in_transaction.add(TP)
    assert rig.wakes_in(2, lambda: rig.append([message()])) == 0


def test_network_thread_is_not_woken_again_while_full_batches_wait() -> None:
    rig = Rig(batch_size=500)
    rig.append(numbered(20, size=50))
    before, batches = rig.wakes, len(rig.queue())
    rig.append([message()])
    assert len(rig.queue()) == batches > 1
    assert rig.wakes == before


def test_a_batch_lingers_unless_it_is_full() -> None:
    rig = Rig(batch_size=500, linger_ms=5000)
    cluster: Any = SimpleNamespace(leader_for_partition=lambda tp: 0)
    rig.append([message()])
    nodes, wait, _ = rig.accumulator.ready(cluster)
    assert not nodes
    assert 4 < wait <= 5
    rig.append(numbered(20, size=50))
    assert rig.accumulator.ready(cluster)[0] == {0}


def test_sent_batch_takes_no_more_messages() -> None:
    rig = Rig()
    rig.append(numbered(2))
    batch = rig.drain()
    rig.append([message(b"later")])
    assert batch.record_count == 2
    assert values(rig.drain()) == [b"later"]


def test_retried_batch_stays_before_later_messages() -> None:
    rig = Rig()
    rig.append([message(b"first")])
    batch = rig.drain()
    rig.append([message(b"second")])
    rig.sender._failed_produce([batch], 0, kafka.errors.KafkaConnectionError("reset"))
    rig.append([message(b"third")])
    first = rig.queue()[0]
    assert first is batch
    assert values(rig.drain()) == [b"first"]
    assert values(rig.drain()) == [b"second", b"third"]


# Refused messages


def test_unencodable_message_fails_alone() -> None:
    rig = Rig()
    bad: Any = message("text")  # type: ignore[arg-type]
    good = numbered(4)
    appended = rig.append([good[0], bad, good[1], bad, *good[2:]])
    assert [each for each, _ in appended.refused] == [bad, bad]
    assert {type(error) for _, error in appended.refused} == {TypeError}
    assert values(rig.drain()) == [b"0", b"1", b"2", b"3"]


def test_no_batch_begins_if_all_messages_are_refused() -> None:
    rig = Rig()
    appended = rig.append([message("text")] * 2)  # type: ignore[arg-type]
    assert len(appended.refused) == 2
    assert rig.queue() == []
    assert not rig.accumulator.has_incomplete
    assert rig.wakes == 0


@pytest.mark.parametrize(
    "large", [message(b"x" * 10_000), message(headers=[("h", b"x" * 10_000)])], ids=["value", "h"]
)
def test_message_larger_than_a_request_fails_alone(large: Outgoing) -> None:
    rig = Rig()
    appended = rig.append([message(b"1"), large, message(b"2" * 9_000)])
    ((refused, error),) = appended.refused
    assert refused is large
    assert isinstance(error, kafka.errors.MessageSizeTooLargeError)
    assert [batch.record_count for batch in rig.queue()] == [2]


HEADERS: list[Headers] = [
    (),
    [("a", b"1")],
    [("\u20ac" * 40, None)] * 3,
    [("h", b"x" * 90), ("i", None)],
]


@pytest.mark.parametrize("headers", HEADERS, ids=["none", "one", "wide names", "two"])
def test_the_same_messages_are_too_large_as_for_the_client(headers: Headers) -> None:
    """Each of them follows messages with other headers, in one append."""
    rig = Rig()
    asked = rig.producer._estimate_size_in_bytes
    room = 10_000 - asked(None, b"", list(headers)) - 4
    near = [message(b"x" * (room + more), headers=headers) for more in range(8)]
    others = [message(headers=each) for each in HEADERS]
    appended = rig.append([each for one in near for each in (*others, one)])
    expected = [one for one in near if asked(None, one.value, list(headers)) > 10_000]
    assert 0 < len(expected) < len(near)
    assert [refused for refused, _ in appended.refused] == expected


def test_messages_of_one_append_keep_their_own_headers() -> None:
    rig = Rig()
    shared = HEADERS[1]
    given = [HEADERS[0], shared, shared, HEADERS[2], shared, HEADERS[3], HEADERS[0]]
    rig.append([message(headers=each) for each in given])
    written = [each for batch in MemoryRecords(rig.drain().records.buffer()) for each in batch]
    assert [each.headers for each in written] == [list(each) for each in given]


def test_left_by_returns_messages_that_a_closed_client_did_not_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(batch_size=500)
    messages = numbered(40, size=50)
    appended = rig.appending()
    write = Appending._write

    def write_one(self: Appending, held: FilledBatch, several: Sequence[Outgoing], at: int) -> int:
        taken = write(self, held, several, at)
        rig.accumulator.close()
        return taken

    monkeypatch.setattr(Appending, "_write", write_one)
    with pytest.raises(kafka.errors.IllegalStateError):
        appended.append(TP, messages)
    (batch,) = rig.queue()
    assert appended.left_by(messages) == messages[batch.record_count :]
    assert rig.accumulator._appends_in_progress.get() == 0
    later = rig.appending()
    rig.producer._closed = True
    with pytest.raises(kafka.errors.IllegalStateError):
        later.append(TP, messages)
    assert later.left_by(messages) == messages


def test_partition_is_added_to_transaction_before_append() -> None:
    rig = Rig(transactional=True)
    rig.manager._current_state = TransactionState.IN_TRANSACTION
    rig.append([message()])
    assert rig.manager._new_partitions_in_transaction == {TP}
    rig.manager.transition_to_abortable_error(kafka.errors.KafkaError("no"))
    with pytest.raises(kafka.errors.KafkaError):
        rig.append([message()], OTHER)
    assert rig.queue(OTHER) == []


# Outcomes


async def test_each_message_has_its_own_offset_and_time() -> None:
    rig = Rig()
    watch = Watch(rig)
    first, second = numbered(3), [message(timestamp_ms=7000), message()]
    watch.append(first)
    watch.append(second)
    assert await watch.of(first) == [None] * 3
    rig.answer(rig.drain())
    outcomes = await watch.of([*first, *second])
    assert offsets(outcomes) == [40, 41, 42, 43, 44]
    assert isinstance(outcomes[3], RecordMetadata)
    assert outcomes[3].timestamp == 7.0


async def test_outcome_has_log_append_time_of_broker() -> None:
    rig = Rig()
    watch = Watch(rig)
    messages = [message(timestamp_ms=7000), message()]
    watch.append(messages)
    rig.answer(rig.drain(), stored_ms=9000)
    times = [o.timestamp for o in await watch.of(messages) if isinstance(o, RecordMetadata)]
    assert times == [9.0, 9.0]


async def test_outcome_before_batch_is_tracked_is_not_lost() -> None:
    rig = Rig()
    watch = Watch(rig)
    messages = numbered(3)
    batch = HandedBatch(messages, trio.current_time() + 60.0)
    watch.deliveries.add(batch)
    parts = rig.append(messages).parts
    rig.answer(rig.drain())
    watch.deliveries.taken(batch, [Run(batch, part) for part in parts], [], [])
    assert offsets(await watch.of(messages)) == [40, 41, 42]


async def test_split_batch_reports_each_outcome() -> None:
    """One half is split again. Some messages are written, and one is too large by itself."""
    rig = Rig()
    watch = Watch(rig)
    first, second = numbered(3), numbered(2)
    watch.append(first)
    watch.append(second)
    rig.answer(rig.drain(), TOO_LARGE)
    assert [batch.record_count for batch in rig.queue()] == [3, 2]
    rig.append([message(b"later")])
    assert [batch.record_count for batch in rig.queue()] == [3, 2, 1]
    left, right = rig.drain(), rig.drain()
    rig.answer(right, at=70)
    assert offsets(await watch.of(second)) == [70, 71]
    rig.answer(left, TOO_LARGE)
    pair, single = rig.drain(), rig.drain()
    rig.answer(single, TOO_LARGE)
    outcomes = await watch.of(first)
    assert outcomes[:2] == [None, None]
    assert isinstance(outcomes[2], MessageTooLarge)
    rig.answer(pair, at=50)
    assert offsets(await watch.of(first)) == [50, 51, None]


async def test_split_before_batch_is_tracked_loses_no_outcome() -> None:
    rig = Rig()
    watch = Watch(rig)
    messages = numbered(4)
    batch = HandedBatch(messages, trio.current_time() + 60.0)
    watch.deliveries.add(batch)
    parts = rig.append(messages).parts
    rig.answer(rig.drain(), TOO_LARGE)
    rig.answer(rig.drain(), at=10)
    watch.deliveries.taken(batch, [Run(batch, part) for part in parts], [], [])
    assert offsets(await watch.of(messages)) == [10, 11, None, None]
    rig.answer(rig.drain(), at=12)
    assert offsets(await watch.of(messages)) == [10, 11, 12, 13]


async def test_refused_record_in_the_middle_fails_alone() -> None:
    rig = Rig()
    watch = Watch(rig)
    first, second = numbered(3), numbered(3)
    watch.append(first)
    watch.append(second)
    named = [Answer.BatchIndexAndErrorMessage(batch_index=4, batch_index_error_message="no key")]
    rig.answer(rig.drain(), INVALID, named=named)
    (refused,) = [o for o in await watch.of([*first, *second]) if o is not None]
    assert isinstance(refused, DeliveryFailed)
    assert "no key" in str(refused)
    rig.answer(rig.drain())
    outcomes = await watch.of([*first, *second])
    assert offsets(outcomes) == [40, 41, 42, 43, None, 44]
    assert outcomes[4] is refused


async def test_expired_batch_fails_and_later_batch_is_sent() -> None:
    rig = Rig()
    watch = Watch(rig)
    late, later = numbered(3), numbered(2)
    watch.append(late)
    rig.queue()[0].created -= 61.0
    rig.queue()[0].records.close()  # so that later messages get another batch
    watch.append(later)
    rig.sender._send_producer_data()
    assert all(isinstance(outcome, DeliveryFailed) for outcome in await watch.of(late))
    rig.answer(rig.drain())
    assert offsets(await watch.of(later)) == [40, 41]


async def test_each_message_fails_if_client_is_closed() -> None:
    rig = Rig()
    watch = Watch(rig)
    messages = numbered(3)
    watch.append(messages)
    rig.accumulator.abort_incomplete_batches()
    assert all(isinstance(outcome, DeliveryFailed) for outcome in await watch.of(messages))
    assert not rig.accumulator.has_incomplete


def test_records_get_futures_only_when_read() -> None:
    rig = Rig()
    rig.append(numbered(3))
    batch = rig.drain()
    assert batch.futures is None
    calls: list[Part] = []
    batch.watch(lambda: calls.append(batch))
    futures = batch._record_futures
    assert calls == [batch]
    assert len(futures) == 3
    assert batch._record_futures is futures
