"""The client's private names that the driver relies on, about one test for each.

If a test fails after an upgrade of kafka-python, read the comment where the driver uses the name.
Then check whether the client has a public way now.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import kafka.errors
import pytest
from kafka import (
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
)
from kafka.cluster import ClusterMetadata
from kafka.consumer.fetcher import CompletedFetch, Fetcher
from kafka.consumer.subscription_state import (
    AsyncConsumerRebalanceListener,
    SubscriptionState,
    TopicPartitionState,
)
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import BaseCoordinator
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.coordinator.heartbeat import Heartbeat
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.connection import KafkaConnection
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.partitioner import DefaultPartitioner
from kafka.producer.producer_batch import ProducerBatch
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import (
    FindCoordinatorHandler,
    InitProducerIdHandler,
    ProducerIdAndEpoch,
    TransactionManager,
    TransactionState,
)
from kafka.protocol.admin.transactions import DescribeTransactionsResponse
from kafka.protocol.consumer import FetchRequest, OffsetSpec
from kafka.protocol.metadata import MetadataRequest
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.producer import InitProducerIdResponse
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslBytesRequest
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatch
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from transport.drivers.kafka.records.choice import codec_for
from transport.drivers.kafka.records.compiled_code import compiled_code
from transport.drivers.kafka.transactional_id import Ask, Look
from transport.drivers.kafka.unpacking import Share
from transport.drivers.kafka.workarounds import unclosed_socket
from transport.drivers.kafka.workarounds.pending_join import keep_join
from transport.drivers.kafka.workarounds.redacted_logins import keep_unseen

MakeTopic = Callable[..., str]
kafka_lane = pytest.mark.kafka
pytestmark = pytest.mark.usefixtures("quiet_client")


@contextlib.contextmanager
def a_loop() -> Iterator[NetworkSelector]:
    net = NetworkSelector(client_id="test")
    net.start()
    yield net
    net.close()


# `_net`.


def test_call_soon_threadsafe_resolves_and_wakes() -> None:
    with a_loop() as net:
        answer = Future()

        async def wait() -> Any:
            return await answer

        threading.Timer(0.1, lambda: net.call_soon_threadsafe(lambda: answer.success(7))).start()
        before = time.monotonic()
        assert net.run(wait) == 7
        assert time.monotonic() - before < 1.0


def test_call_later_fires_unless_cancelled() -> None:
    with a_loop() as net:
        fired: list[str] = []

        async def schedule() -> None:
            net.call_later(0.05, lambda: fired.append("late"))
            net.cancel(net.call_later(0.05, lambda: fired.append("cancelled")))
            await net.sleep(0.2)

        net.run(schedule)
        assert fired == ["late"]


def test_closing_the_loop_fails_its_waiters() -> None:
    net = NetworkSelector(client_id="test")
    net.start()
    threading.Timer(0.1, net.close).start()

    async def wait() -> None:
        await Future()

    with pytest.raises(kafka.errors.KafkaConnectionError):
        net.run(wait)
    with pytest.raises(RuntimeError):
        net.run(wait)
    with pytest.raises(RuntimeError):
        net.call_soon_threadsafe(lambda: None)


# `_subscription`.


def test_fresh_state_equals_state_of_new_partition() -> None:
    tp = TopicPartition("t", 0)
    subscription = SubscriptionState("earliest")
    subscription.subscribe(["t"])
    subscription.assign_from_subscribed([tp])
    subscription.seek(tp, 5)
    subscription.pause(tp)
    subscription.assign_from_subscribed([tp])  # an eager rebalance that assigns it again
    assert subscription.assignment[tp].position.offset == 5
    assert subscription.is_paused(tp)
    subscription.assignment["t", 0] = state = TopicPartitionState()
    assert list(subscription.assignment) == [tp]
    assert subscription.missing_fetch_positions() == {tp}
    assert not subscription.is_paused(tp)
    assert (state.position, state.highwater) == (None, None)
    state.seek(7)
    assert state.position.offset == 7


# `_coordinator`.


def test_listeners_that_are_coroutines_are_awaited() -> None:
    source = inspect.getsource(ConsumerCoordinator._invoke_rebalance_listener_async)
    assert "await cb(arg)" in source
    names = {"on_partitions_assigned", "on_partitions_revoked", "on_partitions_lost"}
    assert names <= vars(AsyncConsumerRebalanceListener).keys()


def test_end_of_membership_calls_listener_first() -> None:
    source = inspect.getsource(ConsumerCoordinator._on_close_prepare_async)
    asked, cleared = "_invoke_rebalance_listener_async", "assign_from_subscribed([])"
    assert 0 < source.index(asked) < source.index(cleared)


def test_client_forgets_a_join_in_these_lines() -> None:
    """Without these lines in the client, `pending_join.py` may be superfluous."""
    source = inspect.getsource(BaseCoordinator.join_group_async)
    assert "while self.need_rejoin()" in source
    assert "self._join_task is None or self._join_task.is_done" in source
    assert "self.rejoin_needed = False" in source
    seen_to = "self._joined_subscription = set(self._subscription.subscription)"
    assert seen_to in inspect.getsource(ConsumerCoordinator.group_protocols)  # as it is sent


@kafka_lane
def test_coordinator_has_last_poll_generation_and_commits(
    kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    topic = kafka_topic(partitions=2)
    consumer = KafkaConsumer(bootstrap_servers=kafka_bootstrap, group_id=topic)
    try:
        consumer.subscribe([topic])
        deadline = time.monotonic() + 10
        coordinator = consumer._coordinator
        while time.monotonic() < deadline:
            keep_join(consumer)  # otherwise it may forget a second join, see `pending_join.py`
            consumer.poll(50)
            if consumer.assignment() and coordinator._join_task is None:
                break
        assert 0 <= time.monotonic() - coordinator.heartbeat.last_poll < 1.0
        assert coordinator._join_task is None
        assert coordinator.group_metadata().generation_id >= 1
        tps = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
        assert coordinator.fetch_committed_offsets(tps, timeout_ms=3000) == {}
        assert consumer._client._net is consumer._net
        assert consumer._client.cluster.partitions_for_topic(topic) == {0, 1}
    finally:
        consumer.close()


# The producer.


@kafka_lane
def test_force_close_fails_messages_at_once(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap, linger_ms=60_000)
    future = producer.send(kafka_topic(), b"v")
    sender = producer._sender
    before = time.monotonic()
    sender.force_close()
    producer._closed = True
    producer._unregister_cleanup()
    sender.join(5.0)
    assert not sender.is_alive()
    assert time.monotonic() - before < 2.0
    assert future.failed()
    assert sender._client._manager.closed


def test_refused_batch_is_fatal_to_idempotent_producer() -> None:
    manager = TransactionManager(api_version=(4, 0))
    classify = manager.classify_batch_error
    assert classify(kafka.errors.MessageSizeTooLargeError(), None) == manager.ERROR_CLASS_FATAL
    assert kafka.errors.MessageSizeTooLargeError not in manager._FATAL_ERRORS
    assert kafka.errors.ProducerFencedError in manager._FATAL_ERRORS
    assert manager._supports_epoch_bump()
    assert not manager.is_transactional()
    assert not manager.has_fatal_error()


def test_client_fails_whole_batch_for_one_record() -> None:
    """In `_dispatch_error`. The client's split shows how a record moves to another batch."""
    assert "self._dispatch_error(batch, exception, partition_response)" in inspect.getsource(
        Sender._complete_batch
    )
    assert "batch.complete_exceptionally" in inspect.getsource(Sender._dispatch_error)
    split = inspect.getsource(RecordAccumulator.split_and_reenqueue)
    assert "original_future.rebind(current_batch.produce_future, metadata.offset)" in split
    assert "set_sequence_number(tp, base_sequence)" in split
    drain = inspect.getsource(RecordAccumulator.drain_batches_for_one_node)
    assert "not batch.in_retry()" in drain


@pytest.mark.parametrize("was_open", [False, True])
def test_id_is_requested_with_last_epoch(was_open: bool) -> None:
    """With `_is_epoch_bump`, the client takes the id over after a refusal, so `Ask` resets it."""
    manager = TransactionManager("id", api_version=(4, 0))
    manager.set_producer_id_and_epoch(ProducerIdAndEpoch(7, 3))
    manager._transition_to(TransactionState.INITIALIZING)
    assert InitProducerIdHandler(manager, 60_000, is_epoch_bump=True)._is_epoch_bump
    handler = Ask(manager, ProducerIdAndEpoch(7, 3), was_open=was_open)
    epochs = []
    manager._enqueue_request(handler)
    while not handler.result.is_done:
        assert manager.next_request_handler(False) is handler
        assert handler.request.producer_id == 7
        epochs.append(handler.request.producer_epoch)
        with manager._lock:
            handler.handle_response(InitProducerIdResponse(error_code=90))
    assert epochs == ([3, 4] if was_open else [3])
    assert handler.result.failed
    assert isinstance(manager.last_error, kafka.errors.ProducerFencedError)


def test_client_waits_for_id_that_was_already_requested() -> None:
    """`init_transactions` requests the id itself only if `_init_transactions_result` is None."""
    source = inspect.getsource(KafkaProducer.init_transactions)
    assert "self._transaction_manager.initialize_transactions()" in source
    assert "if self._init_transactions_result is None:" in source
    assert "self._init_transactions_result.wait(" in source


def test_request_is_repeated_after_coordinator_lookup() -> None:
    """`TxnRequestHandler`: the base of all requests that the client sends for transactions."""
    manager = TransactionManager("id", api_version=(4, 0))
    look = Look(manager, ProducerIdAndEpoch(7, 3))
    manager._enqueue_request(look)
    assert manager.next_request_handler(False) is look
    assert look.needs_coordinator()
    look.on_complete(manager.next_in_flight_request_correlation_id() or 0, _told(16))
    assert isinstance(manager.next_request_handler(False), FindCoordinatorHandler)
    assert manager.next_request_handler(False) is look
    assert look.is_retry
    look.on_complete(manager.next_in_flight_request_correlation_id() or 0, _told(0, "Ongoing", 4))
    assert look.result.succeeded
    assert look.is_of_another


def test_id_is_requested_if_broker_cannot_describe_it() -> None:
    """A broker before Kafka 3.0."""
    manager = TransactionManager("id", api_version=(2, 8))
    look = Look(manager, ProducerIdAndEpoch(7, 3))
    number = manager.next_in_flight_request_correlation_id()
    look.on_complete(number, kafka.errors.UnsupportedVersionError("none"))
    assert look.result.succeeded
    assert not look.is_of_another
    assert not manager.has_in_flight_transactional_request()
    assert not manager.has_error()


def _told(error: int, state: str = "", epoch: int = -1) -> DescribeTransactionsResponse:
    told = DescribeTransactionsResponse.TransactionState(
        error_code=error, transactional_id="id", transaction_state=state, producer_epoch=epoch
    )
    return DescribeTransactionsResponse(transaction_states=[told])


def test_manager_ends_loop_without_thread() -> None:
    made: list[Any] = []

    def client(**options: Any) -> Any:
        made.append(KafkaProducer.DEFAULT_CONFIG["kafka_client"](**options))
        threading.Timer(0.2, end, [made[-1]._manager]).start()
        return made[-1]

    def end(manager: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be closed before this is done
            manager.close()

    before = time.monotonic()
    with pytest.raises(kafka.errors.KafkaTimeoutError):
        KafkaProducer(
            bootstrap_servers="127.0.0.1:9", kafka_client=client, bootstrap_timeout_ms=30_000
        )
    assert time.monotonic() - before < 5.0
    made[0].close()


def test_manager_ends_admin_client_on_its_loop() -> None:
    made: list[Any] = []

    def client(**options: Any) -> Any:
        made.append(KafkaAdminClient.DEFAULT_CONFIG["kafka_client"](**options))
        manager = made[-1]._manager
        threading.Timer(0.2, lambda: manager.call_soon(manager.close)).start()
        return made[-1]

    before = time.monotonic()
    with pytest.raises(kafka.errors.KafkaTimeoutError):
        KafkaAdminClient(
            bootstrap_servers="127.0.0.1:9", kafka_client=client, bootstrap_timeout_ms=30_000
        )
    assert time.monotonic() - before < 5.0
    thread = made[0]._net._io_thread
    assert thread.is_alive()  # so the driver must end it
    made[0].close()
    assert not thread.is_alive()


# `_send_request`, `parser`, `send_request`, `bytes_to_send`.


@pytest.mark.parametrize("request_class", [SaslAuthenticateRequest, SaslBytesRequest])
def test_login_can_be_kept_out_of_the_log(
    request_class: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("kafka").setLevel(logging.DEBUG)
    ours, theirs = socket.socketpair()
    with a_loop() as net, ours, theirs:
        ours.setblocking(False)
        connection = KafkaConnection(net, node_id=1)
        keep_unseen(connection)

        async def log_in() -> None:
            connection.connection_made(KafkaTCPTransport(net, ours))
            request = request_class(b"\0me\0s3cret")
            if request_class is SaslAuthenticateRequest:
                request.API_VERSION = 2
            connection._send_request(request)

        with caplog.at_level(logging.DEBUG):
            net.run(log_in)
            theirs.settimeout(5.0)
            assert b"s3cret" in theirs.recv(4096)
        net.run(close_of(connection))
    assert "Send: b'***'" in caplog.text
    assert "s3cret" not in caplog.text


def close_of(connection: Any) -> Callable[[], Any]:
    async def close() -> None:
        connection.close()

    return close


# `_fetcher`, `PartitionRecords`, `_parse_fetched_data`, `fetched_records`, `_append`,
# `_paused_completed_fetches`, `_next_inline_exception`, and private parts of batches and records.


def test_fetch_is_unpacked_through_these_names() -> None:
    parse = inspect.getsource(Fetcher._parse_fetched_data)
    assert "self.PartitionRecords(fetch_offset, tp, records," in parse
    assert "self._parse_fetched_data(completion)" in inspect.getsource(Fetcher.fetched_records)
    assert "records = MemoryRecords(completed_fetch.partition_data.records)" in parse
    assert "_buffer" in MemoryRecords.__slots__
    assert "self._next_partition_records = self._parse_fetched_data(" in inspect.getsource(
        Fetcher.fetched_records
    )
    append = inspect.getsource(Fetcher._append)
    assert "if not part:" in append
    assert "if part.next_fetch_offset == position.offset:" in append
    assert "part_records = part.take(max_records)" in append
    assert "drained[tp].extend(part_records)" in append  # in order, for any kind of item
    assert "part.next_fetch_offset, '', part.leader_epoch)" in append
    assert "partition_records.bytes_read > 0" in inspect.getsource(
        Fetcher._on_partition_records_drain
    )
    attributes = set(re.findall(r"\bpart\.(\w+)", append))
    assert attributes <= {*vars(Share(codec_for("auto")[0], 1, 0, None, None)), "take", "drain"}
    assert "discard.update(self._paused_completed_fetches)" in inspect.getsource(
        Fetcher._fetchable_partitions
    )
    assert "headers = self._read_all_headers()" in inspect.getsource(LegacyRecordBatch.__iter__)
    assert "self._decompress(" in inspect.getsource(LegacyRecordBatch.__iter__)
    assert "self._read_key_value(" in inspect.getsource(LegacyRecordBatch.__iter__)


def test_a_batch_is_built_through_these_names() -> None:
    assert "_builder" in MemoryRecordsBuilder.__slots__
    assert set(DefaultRecordBatchBuilder.__slots__) >= {"_buffer", "_last_offset", "_num_records"}
    assert set(DefaultRecordBatchBuilder.__slots__) >= {"_first_timestamp", "_max_timestamp"}
    build = inspect.getsource(DefaultRecordBatchBuilder.build)
    assert in_order(build, "self._maybe_compress()", "self.write_header(", "return self._buffer")


def test_the_compiled_record_code_has_these_names() -> None:
    code, version = compiled_code()
    assert version.startswith("0.14.")
    assert code.DefaultRecordBatch
    encoder = code.DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1000)
    assert encoder.append(0, 1, b"k", b"v", []).offset == 0
    record = next(iter(code.DefaultRecordBatch(bytes(encoder.build()))))
    assert (record.offset, record.timestamp, record.timestamp_type) == (0, 1, 0)
    assert (record.key, record.value, record.headers) == (b"k", b"v", [])


# `cluster._topics`.


@kafka_lane
def test_requested_topics_can_be_added_and_removed(kafka_bootstrap: str) -> None:
    consumer = KafkaConsumer(bootstrap_servers=kafka_bootstrap)
    try:
        cluster = consumer._client.cluster
        future = consumer._client._manager.call_soon(cluster.add_topic, "asked-for")
        deadline = time.monotonic() + 5
        while not future.is_done and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "asked-for" in cluster._topics
        cluster._topics.discard("asked-for")
        assert cluster.unauthorized_topics == set()
    finally:
        consumer.close()


# `_fetcher._send_list_offsets_request`, `_coordinator.fetch_committed_offsets_async`,
# `_manager.send`, `_net.sleep`.


@kafka_lane
def test_queries_run_on_the_loop(kafka_bootstrap: str) -> None:
    consumer = KafkaConsumer(bootstrap_servers=kafka_bootstrap, group_id="private")
    try:
        client, topic = consumer._client, "asked-on-the-loop"
        with KafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:  # creates the topic
            producer.send(topic, b"value", partition=0).get(30)
        tp = TopicPartition(topic, 0)

        async def ask() -> Any:
            await client._net.sleep(0.0)
            committed = await consumer._coordinator.fetch_committed_offsets_async([tp], 5000)
            answers = []
            one = MetadataRequest.MetadataRequestTopic(name=topic)
            for topics in MetadataRequest.ALL_TOPICS, [one]:
                request = MetadataRequest(
                    topics=topics,
                    allow_auto_topic_creation=False,
                    include_cluster_authorized_operations=False,
                    include_topic_authorized_operations=False,
                )
                answer = await client._manager.wait_for(client._manager.send(request), 5000)
                answers.append({each.name: each for each in answer.topics})
            leader = answers[1][topic].partitions[0].leader_id
            ends, again = await consumer._fetcher._send_list_offsets_request(
                leader, {tp: (OffsetSpec.LATEST, -1)}
            )
            return ends[tp].offset, again, committed, answers

        end, again, committed, (every, one) = client._net.run(ask)
        assert (end, again, committed) == (1, set(), {})
        assert every[topic].error_code == one[topic].error_code == 0
        assert one.keys() == {topic}
    finally:
        consumer.close()


# `_coordinator._handle_offset_commit_response`, `_metadata`.


@kafka_lane
def test_answer_to_a_commit_passes_through_its_handler(kafka_bootstrap: str) -> None:
    consumer = KafkaConsumer(bootstrap_servers=kafka_bootstrap, group_id="private")
    try:
        read: list[Any] = []
        handle = consumer._coordinator._handle_offset_commit_response

        def look(offsets: Any, send_time: float, response: Any) -> None:
            for topic, partitions in response.topics:
                read.extend((topic, partition, code) for partition, code in partitions)
            handle(offsets, send_time, response)

        consumer._coordinator._handle_offset_commit_response = look
        wanted = {TopicPartition("no-such-topic", 3): OffsetAndMetadata(1, "", -1)}
        with pytest.raises(kafka.errors.KafkaTimeoutError):
            consumer.commit(wanted, timeout_ms=1000)
        code = kafka.errors.UnknownTopicOrPartitionError.errno
        assert set(read) == {("no-such-topic", 3, code)}
    finally:
        consumer.close()


# `_manager.broker_version` of the admin client.


@kafka_lane
def test_admin_client_knows_the_version_of_the_broker(kafka_admin: KafkaAdminClient) -> None:
    major, minor, *_ = kafka_admin._manager.broker_version
    assert (major, minor) >= (3, 9)


def test_send_waits_for_metadata() -> None:
    text = inspect.getsource(KafkaProducer.send)
    assert "if self._metadata.partitions_for_topic(topic) is None" in text


# `_send_producer_data`, `expired_batches`, `_get_expired_inflight_batches`, `_retry`,
# `_current_state`, `bump_producer_id_and_epoch`, `_can_retry`.


def test_client_resets_producer_id_after_expired_batch() -> None:
    text = inspect.getsource(Sender._send_producer_data)
    for name in (
        "self._accumulator.expired_batches(now=now)",
        "self._get_expired_inflight_batches(now=now)",
        "batch.in_retry() for batch in expired_batches",
        "self._transaction_manager.reset_producer_id()",
    ):
        assert name in text
    assert "self._send_producer_data()" in inspect.getsource(Sender.run_once)
    assert "return self._retry" in inspect.getsource(ProducerBatch.in_retry)


def test_producer_id_is_requested_only_in_first_state() -> None:
    text = inspect.getsource(TransactionManager.init_producer_id)
    assert "if self._current_state != TransactionState.UNINITIALIZED:" in text


def test_epoch_bump_needs_producer_id() -> None:
    for state in (TransactionState.UNINITIALIZED, TransactionState.INITIALIZING):
        assert not state.is_transition_valid(state, TransactionState.BUMPING_PRODUCER_EPOCH)
    text = inspect.getsource(Sender._dispatch_error)
    assert "self._transaction_manager.bump_producer_id_and_epoch()" in text


def test_retry_needs_same_producer_id() -> None:
    text = inspect.getsource(Sender._can_retry)
    assert "not self._transaction_manager.producer_id_and_epoch.match(batch)" in text
    assert "self._can_retry(batch, error_cls)" in inspect.getsource(Sender._dispatch_error)
    # With producer ids, one batch of a partition is sent at a time.
    text = inspect.getsource(KafkaProducer.__init__)
    assert "if self.config['enable_idempotence'] or" in text
    assert "guarantee_message_order = True" in text


# `_sender._client.await_ready`.


def test_request_is_retried_if_node_is_not_ready() -> None:
    text = inspect.getsource(Sender._maybe_send_pending_request)
    assert "elif not self._client.await_ready(target_node" in text


# `_sender._client.send`: `test_producer.py` tests the retries of these requests.


def test_requests_of_transactions_pass_through_client_send() -> None:
    text = inspect.getsource(Sender._maybe_send_pending_request)
    assert "future = self._client.send(target_node, next_request_handler.request)" in text
    assert "future.add_both(next_request_handler.on_complete, txn_correlation_id)" in text


# `_net`, `poll`: its callers, and the longest sleep.


def test_network_thread_checks_its_batches_and_then_sleeps_in_poll() -> None:
    once = inspect.getsource(Sender.run_once)
    assert once.rstrip().endswith("self._client.poll(timeout_ms=poll_timeout_ms)")
    assert in_order(once, "self._send_producer_data()", "self._client.poll(timeout_ms=poll_")
    # All waits of the thread are in that call of the loop.
    waits = [*re.findall(r"\.(\w+)\(", inspect.getsource(KafkaNetClient.await_ready))]
    assert waits.count("poll") == 2
    assert "self._net.poll(" in inspect.getsource(KafkaNetClient.send_and_receive)
    assert in_order(
        inspect.getsource(KafkaNetClient.poll),
        "def poll(self, timeout_ms=None, future=None):",
        "return self._net.poll(timeout_ms=timeout_ms, future=future)",
    )
    # No sleep is longer than its timeout. The byte of a wake-up ends the current sleep, or the
    # next one.
    sleep = inspect.getsource(NetworkSelector._poll_once)
    assert "timeout = min(timeout, scheduled_timeout) if timeout is not None else" in sleep
    assert "self._wakeup_w.send(b'\\x00')" in inspect.getsource(NetworkSelector.wakeup)
    ready = inspect.getsource(RecordAccumulator.ready)
    assert "full = bool(len(dq) > 1 or batch.records.is_full())" in ready
    assert "linger = self.config['linger_ms'] / 1000" in ready


def test_partition_of_a_transaction_is_pending_until_the_broker_has_added_it() -> None:
    tp = TopicPartition("t", 0)
    manager = TransactionManager(transactional_id="id", api_version=(2, 8))
    assert not manager.is_partition_pending_add(tp)
    manager._new_partitions_in_transaction.add(tp)
    assert manager.is_partition_pending_add(tp)


# `_accumulator`, `_flushes_in_progress`.


def test_flush_ends_linger_and_only_its_caller_ends_flush() -> None:
    accumulator = RecordAccumulator(linger_ms=60_000)
    assert not accumulator.flush_in_progress()
    accumulator.begin_flush()
    accumulator.begin_flush()
    assert accumulator.flush_in_progress()
    accumulator._flushes_in_progress.decrement()
    accumulator._flushes_in_progress.decrement()
    assert not accumulator.flush_in_progress()
    ready = inspect.getsource(RecordAccumulator.ready)
    assert "sendable = (full or expired or self._closed or" in ready
    assert "self.flush_in_progress())" in ready
    # The client begins a flush when it ends a transaction, and never ends the flush.
    assert "self._accumulator.begin_flush()" in inspect.getsource(
        Sender._maybe_send_pending_request
    )
    assert inspect.getsource(Sender).count("flush_in_progress") == 1
    assert "decrement" not in inspect.getsource(Sender)


# `_sender._client._net`: the loop may repeat a request of a transaction.


def test_one_request_of_transactions_is_in_flight_at_a_time() -> None:
    text = inspect.getsource(Sender.run_once)
    assert "self._transaction_manager.has_in_flight_transactional_request() or " in text
    # The sleep that `concurrent_transactions.py` avoids.
    text = inspect.getsource(Sender._maybe_send_pending_request)
    assert "time.sleep(self.config['retry_backoff_ms'] / 1000)" in text


# `_sender._client`: `connection_delay`, `_manager._conns`, `initializing`, `paused`; `cluster`:
# `_lock`, `_need_update`, `_future`. See `sender_spin.py`.


def test_network_thread_uses_seconds_as_milliseconds_of_its_wait() -> None:
    """If the client changes these lines, `sender_spin.py` may be superfluous."""
    text = inspect.getsource(Sender._send_producer_data)
    assert "self._metadata.request_update()" in text
    assert "if not self._client.is_ready(node):" in text
    assert "node_delay_ms = self._client.connection_delay(node)" in text
    assert "not_ready_timeout_ms = min(not_ready_timeout_ms, node_delay_ms)" in text
    assert inspect.getsource(Sender).count("connection_delay") == 1
    delay = inspect.getsource(KafkaConnectionManager.connection_delay)
    assert "return max(0, self._backoff[node_id][1] - time.monotonic())" in delay
    ready = inspect.getsource(KafkaNetClient.is_ready)
    assert "self._manager._conns.get(node_id)" in ready
    assert "conn.connected and not conn.paused" in ready


def test_loop_ends_each_pause_and_each_connecting() -> None:
    """Each such event of the loop ends the wait of the network thread."""
    connection = inspect.getsource(KafkaConnection)
    assert connection.count("self.unpause(") == 3
    for end in (
        KafkaConnection.data_received,
        KafkaConnection.resume_writing,
        KafkaConnection._maybe_unthrottle,
    ):
        assert "self.unpause(" in inspect.getsource(end)
    assert "self.net.call_at(throttle_time, self._maybe_unthrottle)" in connection
    for end in (KafkaConnection._init_complete, KafkaConnection.connection_lost):
        assert re.search(r"self\.initializing = False", inspect.getsource(end))


def test_request_for_metadata_waits_for_its_answer_or_failure() -> None:
    request = inspect.getsource(ClusterMetadata.request_update)
    assert in_order(
        request,
        "with self._lock:",
        "self._need_update = True",
        "self._future = Future()",
        "self._wakeup.notify()",
    )
    for end in (ClusterMetadata.update_metadata, ClusterMetadata.failed_update):
        assert "self._future = None" in inspect.getsource(end)


# `KafkaNetSocket.sock_connect`, `KafkaSSLTransport.handshake`, `_close`. See `unclosed_socket.py`.


def test_client_does_not_close_the_socket_of_a_failed_connection() -> None:
    """If the client closes it, `unclosed_socket.py` may be superfluous."""
    steps = (unclosed_socket._connect, unclosed_socket._handshake)
    assert not any("close(" in inspect.getsource(step) for step in steps)
    assert "return await self.sock_connect(net, sock, sockaddr, timeout_at=timeout_at)" in (
        inspect.getsource(KafkaNetSocket.connect)
    )
    assert "await transport.handshake()" in (
        inspect.getsource(KafkaConnectionManager._build_transport)
    )
    assert "sock.close()" in inspect.getsource(KafkaTCPTransport._close)


# `_manager._connect`, `_backoff`. See `closed_connection.py`.


def test_connection_that_closes_at_its_start_loses_its_backoff() -> None:
    """If the client changes these lines, `closed_connection.py` may be superfluous."""
    connect = inspect.getsource(KafkaConnectionManager._connect)
    assert "async def _connect(self, node, conn, " in connect
    assert in_order(
        connect,
        "await conn.initialize(timeout_at=timeout_at)",
        "self.update_backoff(node.node_id)",
        "return",
        "self.reset_backoff(node.node_id)",
    )
    assert in_order(
        inspect.getsource(KafkaConnection.initialize), "except Exception as error:", "self.close("
    )


# `_accumulator`: `_closed`, `_batches`, `_tp_lock`, `_incomplete`, `_appends_in_progress`;
# `MemoryRecordsBuilder._closed`, `_builder`, `_next_offset`; `ProducerBatch._record_futures`,
# `_complete_future`; `KafkaProducer._closed`, `_partition`, `_estimate_size_in_bytes`,
# `_ensure_valid_record_size`. `test_appending.py` compares the batches.


def in_order(text: str, *steps: str) -> bool:
    at = 0
    for step in steps:
        at = text.find(step, at) + 1
        if not at:
            return False
    return True


def test_append_has_the_steps_of_the_client() -> None:
    assert in_order(
        inspect.getsource(KafkaProducer.send),
        "if self._closed:",
        "self._partition(topic, partition, key, value, key_bytes, value_bytes)",
        "message_size = self._estimate_size_in_bytes(key_bytes, value_bytes, headers)",
        "self._ensure_valid_record_size(message_size)",
        "self._transaction_manager.maybe_add_partition_to_transaction(tp)",
        "self._accumulator.append(tp, timestamp_ms, key_bytes, value_bytes, headers,",
        "if batch_is_full or new_batch_created:",
        "self._sender.wakeup()",
    )
    assert in_order(
        inspect.getsource(RecordAccumulator.append),
        "self._appends_in_progress.increment()",
        "with self._tp_lock(tp):",
        "dq = self._batches[tp]",
        "last = dq[-1]",
        "batch_is_full = len(dq) > 1 or last.records.is_full()",
        "if self._closed:",
        "if self._transaction_manager and self.config['message_version'] < 2:",
        "records = MemoryRecordsBuilder(",
        "batch = ProducerBatch(tp, records, now=now)",
        "dq.append(batch)",
        "self._incomplete.add(batch)",
        "self._appends_in_progress.decrement()",
    )
    assert in_order(
        inspect.getsource(MemoryRecordsBuilder.append),
        "if self._closed:",
        "offset = self._next_offset",
        "metadata = self._builder.append(offset, timestamp, key, value, headers)",
        "if metadata is None:",
        "self._next_offset += 1",
    )


def test_batch_ends_in_one_place_and_only_a_split_moves_its_records() -> None:
    batch = inspect.getsource(ProducerBatch)
    assert batch.count("produce_future.success(") == 1
    assert "self.produce_future.success((base_offset, timestamp_ms, record_exceptions_fn))" in (
        inspect.getsource(ProducerBatch._complete_future)
    )
    users = [
        name
        for cls in (ProducerBatch, RecordAccumulator, Sender)
        for name, method in vars(cls).items()
        if inspect.isfunction(method) and "_record_futures" in inspect.getsource(method)
    ]
    assert users == ["__init__", "try_append", "split_and_reenqueue"]


def test_message_without_partition_goes_to_any_with_a_leader() -> None:
    assert isinstance(KafkaProducer.DEFAULT_CONFIG["partitioner"], DefaultPartitioner)
    assert in_order(
        inspect.getsource(DefaultPartitioner.partition),
        "available = list(cluster.available_partitions_for_topic(topic))",
        "pool = available if available else all_partitions",
        "return random.choice(pool)",
    )


# `_fetcher._reset_offset_if_needed`, `_fetcher._send_list_offsets_request`,
# `_subscription.request_offset_reset`.


@kafka_lane
def test_reset_requests_an_offset_and_applies_the_answer(
    kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    """Also for a time. After the last record's time, the answer does not have the partition."""
    topic = kafka_topic(2)
    consumer = KafkaConsumer(bootstrap_servers=kafka_bootstrap, auto_offset_reset="none")
    tps = [TopicPartition(topic, number) for number in range(2)]
    taken: list[Any] = []
    asked: list[Any] = []
    try:
        fetcher = consumer._fetcher
        take, send = fetcher._reset_offset_if_needed, fetcher._send_list_offsets_request

        async def look(node_id: Any, places: Any) -> Any:
            found, again = await send(node_id, places)
            asked.append((dict(places), dict(found), again))
            return found, again

        fetcher._send_list_offsets_request = look
        fetcher._reset_offset_if_needed = lambda *args: (taken.append(args), take(*args))
        consumer.assign(tps)
        with pytest.raises(kafka.errors.NoOffsetForPartitionError) as raised:
            consumer.poll(timeout_ms=1000)
        assert set(raised.value.args[0]) == set(tps)
        consumer._subscription.request_offset_reset(tps[0], -2)
        consumer._subscription.request_offset_reset(tps[1], 10**12)
        deadline = time.monotonic() + 10
        while not taken and time.monotonic() < deadline:
            consumer.poll(timeout_ms=100)
        assert taken == [(tps[0], -2, 0)]
        assert consumer._subscription.assignment[tps[0]].position.offset == 0
        places, found, again = asked[0]
        assert {tp: place for tp, (place, _) in places.items()} == {tps[0]: -2, tps[1]: 10**12}
        assert (set(found), again) == ({tps[0]}, set())
        consumer.seek(tps[0], 1000)
        with pytest.raises(kafka.errors.OffsetOutOfRangeError) as outside:
            consumer.poll(timeout_ms=10_000)
        assert outside.value.args[0] == {tps[0]: 1000}
    finally:
        consumer.close()


def test_truncation_error_has_divergent_offsets() -> None:
    validated = inspect.getsource(Fetcher._handle_offset_for_leader_epoch_response)
    assert "truncations[tp] = divergent" in validated
    assert "truncations[tp] = None" in validated
    error = kafka.errors.LogTruncationError({TopicPartition("t", 0): OffsetAndMetadata(3, "", 1)})
    assert error.divergent_offsets[TopicPartition("t", 0)].offset == 3


def test_a_request_for_a_place_in_a_log_is_noted_in_the_state() -> None:
    """`starts.py` recognizes an answer to an earlier request."""
    state = TopicPartitionState()
    state.reset(-2)
    assert state.next_allowed_retry_time is None
    state.set_reset_pending(1.0)
    assert state.next_allowed_retry_time == 1.0
    state.reset_failed(2.0)
    assert state.next_allowed_retry_time == 2.0
    state.reset(-2)
    assert state.next_allowed_retry_time is None
    ask = inspect.getsource(Fetcher._reset_offsets_async)
    asks = ("self._subscriptions.set_reset_pending(", "self._reset_offsets_for_node,")
    assert in_order(ask, "while not timer.expired:", *asks)


def test_a_start_has_no_leader_epoch() -> None:
    """`starts.py` recognizes a position that a seek or an assignment has set."""
    state = TopicPartitionState()
    state.seek(3)
    assert state.position.leader_epoch == -1
    refresh = inspect.getsource(ConsumerCoordinator.refresh_committed_offsets_if_needed_async)
    assert "self._subscription.seek(partition, offset.offset)" in refresh
    reset = inspect.getsource(Fetcher._reset_offset_if_needed)
    assert "self._subscriptions.seek(partition, offset)" in reset
    # A truncation is raised before the next fetch is taken.
    poll = inspect.getsource(KafkaConsumer._poll_once)
    assert in_order(poll, "validate_offsets_if_needed()", "fetch_records(")


@kafka_lane
def test_one_request_returns_offsets_of_many_partitions(
    kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    topic = kafka_topic(3)
    consumer = KafkaConsumer(topic, bootstrap_servers=kafka_bootstrap)
    try:
        consumer.partitions_for_topic(topic)
        fetcher = consumer._fetcher
        tps = [TopicPartition(topic, number) for number in range(3)]
        assert {consumer._client.cluster.leader_for_partition(tp) for tp in tps}.isdisjoint({None})
        nodes = fetcher._group_list_offset_requests(dict.fromkeys(tps, -1))
        ((node, places),) = nodes.items()
        future = fetcher._manager.call_soon(fetcher._send_list_offsets_request, node, places)
        found, again = consumer._net.run(fetcher._manager.wait_for, future, 5000)
        assert ({tp: at.offset for tp, at in found.items()}, again) == (
            dict.fromkeys(tps, 0),
            set(),
        )
    finally:
        consumer.close()


# Silent failures: `membership.py`, and `swallowed_errors.py`, `moved_brokers.py`,
# `dead_connection.py` and `silent_handshake.py` of `workarounds/`.


def test_task_keeps_its_error_until_it_is_dropped() -> None:
    with a_loop() as net:
        dropped = threading.Event()
        errors: list[BaseException] = []
        task_done = net._task_done

        def look(task: Any) -> None:
            if task._exc is not None:
                errors.append(task._exc)
                dropped.set()
            task_done(task)

        def fail() -> None:
            raise ValueError("in a task")

        net._task_done = look
        net.call_soon_threadsafe(fail)
        assert dropped.wait(5)
        assert [str(error) for error in errors] == ["in a task"]


def test_network_thread_looks_up_its_methods_at_each_call() -> None:
    source = inspect.getsource(Sender)
    for call in (
        "self.run_once()",
        "self._handle_produce_response, node_id",
        "self._failed_produce, batches",
        "self._produce_request(",
        "self._accumulator.abort_incomplete_batches()",
    ):
        assert call in source, call
    assert "self.abort_batches(error)" in inspect.getsource(RecordAccumulator)
    assert "next_request_handler.on_complete" in inspect.getsource(
        Sender._maybe_send_pending_request
    )


def test_heartbeats_are_made_through_these_names() -> None:
    assert "self._send_heartbeat_request()" in inspect.getsource(BaseCoordinator._do_heartbeat)
    join = inspect.getsource(BaseCoordinator.join_group_async)
    assert "self._enable_heartbeat()" in join
    assert "if not self.rejoining:" in join
    start = inspect.getsource(BaseCoordinator._maybe_start_heartbeat_loop)
    assert "call_soon(self._heartbeat_loop)" in start
    prepare = inspect.getsource(ConsumerCoordinator._on_join_prepare_async)
    assert "self._generation.is_lost()" in prepare


def test_claims_are_made_through_these_names() -> None:
    """`workarounds/stale_claims.py` makes the claims of a join."""
    joins = inspect.getsource(BaseCoordinator._do_join_and_sync_async)
    assert "protocols=self.group_protocols()" in joins
    protocols = inspect.getsource(ConsumerCoordinator.group_protocols)
    assert "self._assignors[assignor].metadata(" in protocols
    claim = inspect.getsource(CooperativeStickyAssignor.metadata)
    assert "in self.member_assignment:" in claim
    completed = inspect.getsource(ConsumerCoordinator._on_join_complete_async)
    assert "assignor.on_assignment(assignment, generation)" in completed
    # A new join that `on_assignment` requests is not forgotten.
    joined = inspect.getsource(BaseCoordinator.join_group_async)
    assert in_order(joined, "self.rejoin_needed = False", "self._on_join_complete_async(")


def test_each_try_of_a_commit_gets_the_same_offsets() -> None:
    """`workarounds/late_commit.py` recognizes a commit by this object."""
    public = inspect.getsource(KafkaConsumer.commit)
    assert "self._coordinator.commit_offsets_sync(offsets," in public
    commit = inspect.getsource(ConsumerCoordinator._commit_offsets_sync_async)
    assert "call_soon(self._send_offset_commit_request, offsets)" in commit
    sync = inspect.getsource(ConsumerCoordinator.commit_offsets_sync)
    assert "self._net.run(self._commit_offsets_sync_async, offsets," in sync
    # The generation is read before the first wait.
    send = inspect.getsource(ConsumerCoordinator._send_offset_commit_request)
    assert in_order(send, "self.generation_if_stable()", "await ")


def test_a_fetch_of_committed_offsets_is_kept_by_its_partitions() -> None:
    """`workarounds/stale_offsets.py` removes such a fetch."""
    fetch = inspect.getsource(ConsumerCoordinator.fetch_committed_offsets_async)
    assert in_order(
        fetch,
        "future_key = frozenset(partitions)",
        "if future_key in self._offset_fetch_futures:",
        "del self._offset_fetch_futures[future_key]",
        "timer.maybe_raise()",
    )


def test_arrived_fetches_are_kept_under_these_names() -> None:
    """`workarounds/stale_fetches.py` drops those of a deleted topic."""
    assert "topic_partition" in CompletedFetch._fields
    taken = inspect.getsource(Fetcher.fetched_records)
    assert "self._paused_completed_fetches[completion.topic_partition] = completion" in taken
    assert "completion = self._completed_fetches.popleft()" in taken
    arrived = inspect.getsource(Fetcher._handle_fetch_response)
    assert "self._completed_fetches.append(completed_fetch)" in arrived
    # Only the offset of the request shows whether a fetch is still wanted.
    parse = inspect.getsource(Fetcher._parse_fetched_data)
    assert "if position is None or position.offset != fetch_offset:" in parse


def test_heartbeat_interval_is_read_each_time() -> None:
    assert "self.heartbeat.sent_heartbeat()" in inspect.getsource(BaseCoordinator._do_heartbeat)
    loop = inspect.getsource(BaseCoordinator._heartbeat_loop)
    assert "next_hb = self.heartbeat.time_to_next_heartbeat()" in loop
    assert "await self._heartbeat_wakeup(next_hb)" in loop
    # `_enable_heartbeat` ends that wait, so that a shorter interval counts at once.
    assert "self._heartbeat_wakeup.notify()" in inspect.getsource(BaseCoordinator._enable_heartbeat)
    heartbeat = Heartbeat(group_id="g", heartbeat_interval_ms=3000)
    heartbeat.sent_heartbeat()
    assert 2.5 < heartbeat.time_to_next_heartbeat() <= 3.0
    heartbeat.config["heartbeat_interval_ms"] = 100
    assert heartbeat.time_to_next_heartbeat() <= 0.1
    assert Heartbeat.DEFAULT_CONFIG["heartbeat_interval_ms"] == 3000  # each has its own config


def test_a_poll_of_the_client_waits_through_these_names() -> None:
    """Without one of these names, an interrupt takes effect only at the end of a turn."""
    poll = inspect.getsource(KafkaConsumer.poll)
    assert "while not self._closed" in poll  # so the driver calls `_poll_once` instead
    assert "records = self._poll_once(timer, max_records, update_offsets=" in poll
    once = inspect.getsource(KafkaConsumer._poll_once)
    assert "self._coordinator.poll(timeout_ms=timer.timeout_ms)" in once
    assert "self._refresh_committed_offsets(timeout_ms=timer.timeout_ms)" in once
    assert "self._fetcher.fetch_records(" in once
    assert once.count("sleep(") == 1
    assert "if not records and idle and poll_timeout_ms > 0:" in once  # then it sleeps
    fetch = inspect.getsource(Fetcher.fetch_records)
    assert "self._net.run(self._manager.wait_for, wakeup, timeout_ms)" in fetch
    # `fetched_records`: an answer may arrive between these two checks.
    first_look = fetch.index("records, partial = self.fetched_records(")
    assert first_look < fetch.index("waited_on = list(self._fetch_futures)")
    assert "if not waited_on:\n            return records, True" in fetch
    for where, waits in (
        (BaseCoordinator.ensure_coordinator_ready, "self._net.run("),
        (BaseCoordinator.ensure_coordinator_ready_async, "self._manager.wait_for(future,"),
        (BaseCoordinator.ensure_active_group, "self._net.run("),
        (BaseCoordinator.join_group_async, "await self._manager.wait_for(\n"),
        (ConsumerCoordinator.refresh_committed_offsets_if_needed, "self._net.run("),
        (ConsumerCoordinator.fetch_committed_offsets_async, "self._manager.wait_for(future,"),
        (ConsumerCoordinator.fetch_committed_offsets_async, "await self._net.sleep("),
    ):
        assert waits in inspect.getsource(where), where
    # `_invoke`, `_current`: a coroutine that is run is one task of the loop.
    assert "await self._invoke(coro, *args)" in inspect.getsource(NetworkSelector.run)
    assert "self._current()" in inspect.getsource(NetworkSelector._poll_once)


def test_poll_begins_with_coordinator_check() -> None:
    poll = inspect.getsource(ConsumerCoordinator.poll)
    assert "if not self.ensure_coordinator_ready(timeout_ms=timer.timeout_ms):" in poll
    # `PollInterrupt` checks the same conditions, and calls this method if one of them is true.
    known = inspect.getsource(BaseCoordinator.coordinator)
    assert "self.coordinator_id is None" in known
    assert "self._client.is_disconnected(self.coordinator_id)" in known
    ready = inspect.getsource(BaseCoordinator.ensure_coordinator_ready_async)
    assert "while self.coordinator_unknown():" in ready


def test_request_continues_after_its_wait_ends() -> None:
    """So the group makes progress through interrupted polls."""
    join = inspect.getsource(BaseCoordinator.join_group_async)
    assert "self._join_task is None or self._join_task.is_done" in join
    lookup = inspect.getsource(BaseCoordinator.lookup_coordinator)
    assert "if self._find_coordinator_future is not None:" in lookup
    commits = inspect.getsource(ConsumerCoordinator.fetch_committed_offsets_async)
    assert "if future_key in self._offset_fetch_futures:" in commits
    resets = inspect.getsource(Fetcher.reset_offsets_if_needed)
    assert "if self._reset_task is not None and not self._reset_task.is_done:" in resets


def test_rebalance_is_noticed_through_these_names() -> None:
    answer = inspect.getsource(BaseCoordinator._handle_heartbeat_response)
    assert "self.request_rejoin()" in answer
    assert "self.reset_generation(" in answer
    assert "self.rejoin_needed = True" in inspect.getsource(BaseCoordinator.request_rejoin)


def test_metadata_answer_is_applied_through_update_metadata() -> None:
    assert "self.update_metadata(response)" in inspect.getsource(
        ClusterMetadata._do_refresh_metadata
    )
    update = inspect.getsource(ClusterMetadata.update_metadata)
    assert update.index("self._topic_ids =") < update.index("listener(self)")  # it may raise


def test_metadata_is_requested_through_these_names() -> None:
    assert "self._do_refresh_metadata(node_id)" in inspect.getsource(
        ClusterMetadata.refresh_metadata
    )
    assert "call_soon(self._refresh_loop)" in inspect.getsource(ClusterMetadata.start_refresh_loop)
    # Not within its `try`: a failure of this future ends the loop.
    assert "await self._refresh_future" in inspect.getsource(ClusterMetadata._refresh_loop)


def test_connection_is_made_and_served_through_these_names() -> None:
    connect = inspect.getsource(KafkaConnectionManager._connect)
    assert "self._build_transport(node, timeout_at=timeout_at)" in connect
    assert "call_soon(self._read_from_sock)" in inspect.getsource(KafkaTCPTransport.resume_reading)
    assert "call_soon(self._write_to_sock)" in inspect.getsource(KafkaTCPTransport.write)
    assert "timeout" not in inspect.getsource(KafkaSSLTransport.handshake)


def test_bytes_are_received_and_parsed_through_these_names() -> None:
    assert "self._sock_recv()" in inspect.getsource(KafkaTCPTransport._read_from_sock)
    assert "self._sock.recv(" in inspect.getsource(KafkaTCPTransport._sock_recv)
    assert "self.parser.receive_bytes(data)" in inspect.getsource(KafkaConnection.data_received)
    assert "self.parser = KafkaProtocol(" in inspect.getsource(KafkaConnection.connection_made)
    parse = inspect.getsource(KafkaProtocol.receive_bytes)
    for name in ("_header", "_rbuffer", "_receiving", "_validate_frame_size", "_process_response"):
        assert f"self.{name}" in parse
    assert "self._rbuffer = KafkaBytes(nbytes)" in parse
    assert "self._reset_buffer()" in parse


def test_callbacks_of_a_fetch_are_looked_up_for_each_request() -> None:
    send = inspect.getsource(Fetcher._send_fetches_async)
    assert "self._handle_fetch_response" in send
    assert "self._handle_fetch_error" in send


# `_topic_ids`, `_max_version`, `_handle_offset_fetch_response`: see `topic_ids.py`.


def test_each_metadata_answer_makes_new_mapping_of_ids() -> None:
    source = inspect.getsource(ClusterMetadata.update_metadata)
    assert "self._topic_ids = _new_topic_ids" in source


def test_fetch_and_commit_by_name_can_be_changed_to_by_id() -> None:
    """The client sets a highest version. Without these lines, it may use ids by itself."""
    assert "max_version = 12" in inspect.getsource(Fetcher._create_fetch_requests)
    source = inspect.getsource(ConsumerCoordinator._send_offset_commit_request)
    assert "max_version=8" in source
    topic_id = uuid.uuid4()
    topic = FetchRequest.FetchTopic(topic="t", topic_id=topic_id, partitions=[])
    request = FetchRequest(
        max_wait_ms=1, min_bytes=1, isolation_level=0, topics=[topic], max_version=12
    )
    request._max_version = 13
    request.API_VERSION = 13
    assert topic_id.bytes in bytes(request.encode())


def test_committed_offsets_pass_through_one_function() -> None:
    source = inspect.getsource(ConsumerCoordinator._send_offset_fetch_request)
    assert "return self._handle_offset_fetch_response(response)" in source


def test_requests_pass_through_manager_send() -> None:
    assert "self._manager.send(request" in inspect.getsource(Fetcher._send_fetches_async)
    source = inspect.getsource(ConsumerCoordinator._send_offset_commit_request)
    assert "self._manager.send(request" in source
