"""The Kafka producer with a fake client: threads, order, transactions and retries."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import attrs
import pytest
import trio
import trio.testing
from kafka import TopicPartition
from kafka.errors import (
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
    UnsupportedVersionError,
)
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.transaction_manager import InitProducerIdHandler, TransactionManager
from kafka.protocol.producer import ProduceRequest
from kafka.record.memory_records import MemoryRecordsBuilder

from tests.drivers.rig import Sent, outgoing
from transport.drivers.base import Outgoing
from transport.drivers.kafka import KafkaDriver, KafkaProducerClient, producer, topics
from transport.drivers.kafka.appending import FilledBatch, Part
from transport.drivers.kafka.records.compiled_code import compiled_code
from transport.drivers.kafka.sleep import Sleep
from transport.drivers.kafka.waiting import Waiting
from transport.drivers.kafka.workarounds.forgotten_requests import keep_requests
from transport.drivers.settings import ClientSettings
from transport.errors import AuthorizationFailed, ClientClosed, TransactionAborted
from transport.types import RecordMetadata


def message(value: bytes) -> Outgoing:
    return outgoing("t", partition=0, value=value)


class Metadata:
    """The client's metadata. Unless `held` is set, a lookup blocks. With `is_swapped`, a lookup
    fails once, as if the topic were removed during it."""

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.is_swapped = False
        self.asked = threading.Event()
        self.held = threading.Event()
        self.held.set()

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        known = topic in self.topics
        self.asked.set()
        if self.is_swapped:
            self.is_swapped = False
            raise KeyError(topic)
        assert self.held.wait(10)
        return {0} if known else None


class Sender:
    config: ClassVar[dict[str, Any]] = {"retry_backoff_ms": 20, "acks": -1}

    cluster = SimpleNamespace(request_update=None)
    _manager = None

    def __init__(self) -> None:
        self._client = self._accumulator = self

    def run_once(self, *args: object) -> None: ...

    _handle_produce_response = _failed_produce = _produce_request = drain = run_once

    def await_ready(self, node: int, timeout_ms: float) -> bool:
        return True

    def send(self, node: int, request: object) -> Future:
        return Future()

    def force_close(self) -> None: ...

    def wakeup(self) -> None: ...

    def _record_exceptions_fn(self, top: object, errors: object, text: object) -> None: ...

    def abort_undrained_batches(self, error: object) -> None: ...

    def _dispatch_error(self, batch: object, error: object, response: object) -> None: ...

    def join(self, timeout: float) -> None: ...

    def is_alive(self) -> bool:
        return False


class Result:
    """The result of a request that has succeeded."""

    is_done = True


class Transactions:
    """The client's transaction manager; each request succeeds."""

    ERROR_CLASS_FATAL = ERROR_CLASS_ABORTABLE = last_error = producer_id_and_epoch = None
    _transaction_started = False

    _lock = threading.RLock()
    _pending_requests = ()

    def initialize_transactions(self) -> Result:
        return Result()

    def next_request_handler(self, has_incomplete: bool) -> None: ...

    def classify_batch_error(self, error: object, batch: object) -> None: ...

    def has_fatal_error(self) -> bool:
        return False

    has_error = has_fatal_error

    def begin_abort(self) -> Transactions:
        return self

    def wait(self, timeout_ms: float) -> bool:
        return True


class Client:
    """A fake KafkaProducer that writes each message."""

    made: ClassVar[list[Client]] = []
    metadata: ClassVar[Metadata]

    def __init__(self, **options: Any) -> None:
        self.sent: list[bytes | None] = []
        self.threads: list[threading.Thread] = []
        self.compiled: list[bool] = []
        self.transactions = 0
        self._metadata = self.metadata
        self._sender = Sender()
        self._accumulator = RecordAccumulator()
        self._transaction_manager = Transactions() if "transactional_id" in options else None
        self.made.append(self)

    DEFAULT_CONFIG: ClassVar[dict[str, Any]] = {}
    _closed = False
    _init_transactions_result: Result | None = None

    def init_transactions(self) -> None: ...

    def begin_transaction(self) -> None:
        self.transactions += 1

    def _unregister_cleanup(self) -> None: ...


@attrs.define
class Appending:
    """A fake `Appending`, without an accumulator."""

    client: Client
    sleep: Sleep | None
    compiled: bool
    parts: list[Part] = attrs.field(factory=list)
    refused: tuple[()] = ()

    def append(self, tp: TopicPartition, messages: Sequence[Outgoing]) -> None:
        held = FilledBatch(tp, MemoryRecordsBuilder(2, 0, 1000), 0.0)
        part = Part(held, 0, 0, list(messages))
        held.complete(0, -1)
        self.client.sent += [message.value for message in messages]
        self.client.threads.append(threading.current_thread())
        self.client.compiled.append(self.compiled)
        self.parts.append(part)

    def wake(self) -> None: ...


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Metadata:
    monkeypatch.setattr(producer, "KafkaProducer", Client)
    monkeypatch.setattr(producer, "Appending", Appending)
    monkeypatch.setattr(Client, "made", [])
    monkeypatch.setattr(Client, "metadata", Metadata(), raising=False)
    return Client.metadata


@contextlib.asynccontextmanager
async def producing(**settings: Any) -> AsyncIterator[tuple[KafkaProducerClient, Sent]]:
    client = KafkaDriver(["127.0.0.1:1"]).producer(ClientSettings(**settings))
    sent = Sent()
    await client.open(sent.report)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.keep_deadlines)
        try:
            yield client, sent
        finally:
            await client.kill()
            nursery.cancel_scope.cancel()


def looking_up(monkeypatch: pytest.MonkeyPatch, look: Callable[[], Awaitable[None]]) -> None:
    async def partition_counts(
        client: object, topics: Sequence[str], timeout: float, waiting: object
    ) -> dict[str, int]:
        await look()
        return dict.fromkeys(topics, 1)

    monkeypatch.setattr(producer, "partition_counts", partition_counts)


async def test_message_sent_during_abort_is_not_in_next_transaction(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client finds no metadata of the topic after the abort was called."""
    there = trio.Event()
    looking_up(monkeypatch, there.wait)
    # With compression, the message is appended on the sending thread.
    settings = {"transactional_id": "id", "compression_type": "gzip"}
    async with producing(**settings) as (client, sent), trio.open_nursery() as nursery:
        await client.begin()
        metadata.held.clear()
        aborted, after = message(b"aborted"), message(b"next")
        nursery.start_soon(client.send, [aborted])
        await trio.to_thread.run_sync(metadata.asked.wait, 10)
        nursery.start_soon(client.abort, 5.0)
        await trio.testing.wait_all_tasks_blocked()
        metadata.held.set()
        while client._sending.current is not None:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await client.begin()
        await client.send([after])
        metadata.topics.add("t")
        there.set()
        outcomes = await sent.reported([after, aborted])
        assert [type(outcome) for outcome in outcomes] == [RecordMetadata, TransactionAborted]
        assert [client.sent for client in Client.made] == [[b"next"]]


async def test_message_that_waits_for_topic_survives_discarded_client(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message at its deadline discards the client, and so the lookups on its loop."""
    let_go = [ClientClosed("the client was closed")]

    async def look() -> None:
        await trio.lowlevel.checkpoint()
        if let_go:
            raise let_go.pop()
        metadata.topics.add("t")

    looking_up(monkeypatch, look)
    async with producing() as (client, sent):
        batch = [message(b"1")]
        await client.send(batch)
        assert isinstance((await sent.reported(batch))[0], RecordMetadata)


async def test_topic_removed_during_lookup_is_waited_for(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking_up(monkeypatch, trio.lowlevel.checkpoint)
    async with producing() as (client, sent):
        metadata.topics.add("t")
        metadata.is_swapped = True
        batch = [message(b"1")]
        await client.send(batch)
        assert isinstance((await sent.reported(batch))[0], RecordMetadata)


@pytest.mark.parametrize(
    ("count", "size", "settings", "here"),
    [
        (1, 1, {}, True),
        (256, 1, {"record_codec": "pure"}, True),
        (2000, 1, {}, False),
        (2, 300_000, {}, False),
        (1, 1, {"compression_type": "gzip"}, False),
    ],
)
async def test_few_messages_are_appended_on_thread_of_trio(
    metadata: Metadata, count: int, size: int, settings: dict[str, Any], here: bool
) -> None:
    """Compression, or many messages, must not block trio."""
    metadata.topics.add("t")
    async with producing(**settings) as (client, sent):
        messages = [message(b"%d" % n + b"." * size) for n in range(count)]
        await client.send(messages)
        await sent.reported(messages)
        assert (Client.made[0].threads[0] is threading.current_thread()) is here


async def test_messages_keep_their_order_while_the_sending_thread_is_at_work(
    metadata: Metadata,
) -> None:
    metadata.topics.add("t")
    async with producing() as (client, sent), trio.open_nursery() as nursery:
        metadata.held.clear()
        first = [message(b"%d" % n) for n in range(2000)]
        nursery.start_soon(client.send, first)
        await trio.to_thread.run_sync(metadata.asked.wait, 10)
        later = message(b"later")
        nursery.start_soon(client.send, [later])
        await trio.testing.wait_all_tasks_blocked()
        metadata.held.set()
        await sent.reported([later])
        assert Client.made[0].sent == [*(each.value for each in first), b"later"]


@pytest.mark.parametrize("codec", ["auto", "pure"])
async def test_record_codec_setting_chooses_encoder(metadata: Metadata, codec: str) -> None:
    compiled = codec == "auto" and compiled_code()[0] is not None
    metadata.topics.add("t")
    async with producing(record_codec=codec) as (client, sent):
        batch = [message(b"1")]
        await client.send(batch)
        await sent.reported(batch)
        assert Client.made[0].compiled == [compiled]


def test_producer_request_is_retried_after_backoff() -> None:
    """The client alone retries at once, in a busy loop."""
    net = KafkaNetClient(bootstrap_servers="127.0.0.1:1")
    sender = SimpleNamespace(_client=net, config={"retry_backoff_ms": 20})
    keep_requests(SimpleNamespace(_sender=sender))
    try:
        begun = time.monotonic()
        assert not any(net.await_ready("bootstrap-0", timeout_ms=1000) for _ in range(5))
        assert time.monotonic() - begun >= 5 * 0.02
    finally:
        net.close()


@pytest.mark.parametrize("transactional_id", ["an id", None])
@pytest.mark.parametrize("why", [RequestTimedOutError, NodeNotReadyError, KafkaConnectionError])
def test_producer_request_without_answer_is_retried(
    why: type[KafkaError], transactional_id: str | None
) -> None:
    """The client itself retries only after a KafkaConnectionError. The others end the producer."""
    answer = Future()
    net = SimpleNamespace(await_ready=None, send=lambda node, request: answer)
    sender = SimpleNamespace(_client=net, config={"retry_backoff_ms": 20})
    keep_requests(SimpleNamespace(_sender=sender))
    manager = TransactionManager(transactional_id, 60_000, retry_backoff_ms=20, api_version=(4, 0))
    request = InitProducerIdHandler(manager, 60_000)
    manager._in_flight_request_correlation_id = 7

    net.send(1, request.request).add_both(request.on_complete, 7)
    answer.failure(why("too long"))

    assert not manager.has_error()
    again = [each for _, _, each in manager._pending_requests]
    assert request in again
    assert request.is_retry


def test_refused_producer_request_is_not_retried() -> None:
    answer = Future()
    net = SimpleNamespace(await_ready=None, send=lambda node, request: answer)
    sender = SimpleNamespace(_client=net, config={"retry_backoff_ms": 20})
    keep_requests(SimpleNamespace(_sender=sender))
    seen = net.send(1, None)
    answer.failure(UnsupportedVersionError("too old"))
    assert isinstance(seen.exception, UnsupportedVersionError)


def test_messages_without_answer_fail_with_error_of_client() -> None:
    answer = Future()
    net = SimpleNamespace(await_ready=None, send=lambda node, request, wakeup: answer)
    sender = SimpleNamespace(_client=net, config={"retry_backoff_ms": 20})
    keep_requests(SimpleNamespace(_sender=sender))
    seen = net.send(1, ProduceRequest(), wakeup=False)
    answer.failure(RequestTimedOutError("too long"))
    assert isinstance(seen.exception, RequestTimedOutError)


async def test_topic_refusal_counts_only_after_a_new_answer() -> None:
    """The right may have been granted since the client's last metadata about the topic."""
    known: dict[str, set[int]] = {}
    cluster = SimpleNamespace(
        partitions_for_topic=known.get,
        unauthorized_topics={"t"},
        brokers=lambda: [],
        add_topic=lambda topic: None,
        request_update=Future,
        _topics=set(),
    )

    async def wait_for(future: Future, timeout_ms: float) -> None:
        if not is_refused:
            known["t"] = {0, 1}

    client = SimpleNamespace(cluster=cluster, _manager=SimpleNamespace(wait_for=wait_for))
    is_refused = False
    assert await topics._look_up(client, ["t"], 5.0, Waiting("app", [])) == {"t": 2}
    known.clear()
    is_refused = True
    with pytest.raises(AuthorizationFailed, match="may not see t"):
        await topics._look_up(client, ["t"], 5.0, Waiting("app", []))
