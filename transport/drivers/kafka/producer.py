"""A producer: kafka-python's, behind one thread that hands messages over.

The client resolves a future per message on its network thread. To cross to trio by the batch we
ask to be called for the last message of each partition in a batch that was handed over, and look
at the others then. That holds whatever the client does with its own batches (it may split them),
and where a later message overtakes an earlier one we ask again for what is left.

With idempotence on, the client may never resolve what expired while its broker did not answer. So
each batch has a deadline of ours; when it passes, the client is discarded with all that it holds.
"""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import kafka.errors
import trio
from kafka import KafkaAdminClient, KafkaProducer
from kafka.serializer import Serializer

from nurseries.worker import Worker, WorkerClosed, WorkerStuck
from transport.drivers.base import ClientSettings, Outcome, Outgoing, Reports
from transport.drivers.kafka.calls import Calls
from transport.drivers.kafka.connecting import Attempt
from transport.drivers.kafka.errors import of_a_delivery
from transport.drivers.kafka.options import admin_options, producer_options
from transport.drivers.kafka.refusal import keep_alive
from transport.drivers.kafka.topics import partition_counts
from transport.errors import ClientClosed, DeliveryTimeout, TransportError
from transport.types import RecordMetadata

# For what never waits for a broker: aborting what is held, closing sockets, joining threads.
CUT_TIMEOUT = 5.0
# How long a network thread takes to end that waits for nothing.
QUICK = 0.25


class _Nothing(Serializer):  # type: ignore[misc]
    """Makes nothing of any value."""

    def serialize(self, topic: str, headers: Any, data: Any) -> None:
        return None


@contextlib.contextmanager
def _serializing(producer: KafkaProducer, serializer: Serializer) -> Iterator[None]:
    before = producer.config["value_serializer"]
    producer.config["value_serializer"] = serializer
    try:
        yield
    finally:
        producer.config["value_serializer"] = before


def _hand_over(producer: KafkaProducer, message: Outgoing) -> Any:
    """The client's future for a message; raises what the client refuses it for."""
    options = {
        "headers": list(message.headers) if message.headers else None,
        "partition": message.partition,
        "timestamp_ms": message.timestamp_ms,
    }
    if message.key is not None or message.value is not None:
        return producer.send(message.topic, message.value, message.key, **options)
    # Kafka takes a message without key and value, and so would the client after this check.
    with _serializing(producer, _Nothing()):
        return producer.send(message.topic, b"", None, **options)


@attrs.define(eq=False)
class _Run:
    """Messages of one batch and one partition that the client has taken, in order."""

    batch: _Batch
    waiting: list[tuple[Outgoing, Any]]  # with the client's future


@attrs.define(eq=False)
class _Batch:
    """What one `send` handed over. Belongs to trio.

    Attributes:
        runs: None until the client has taken the messages.
        left: how many messages have not been reported.
    """

    messages: Sequence[Outgoing]
    deadline: float
    left: int
    runs: list[_Run] | None = None

    def unreported(self) -> Iterator[Outgoing]:
        if self.runs is None:
            yield from self.messages
        else:
            for run in self.runs:
                for message, _ in run.waiting:
                    yield message


class KafkaProducerClient:
    """A `ProducerClient` on kafka-python; see the protocol for what each call promises.

    Args:
        servers: "HOST:PORT" of some brokers.
        security: the client's options for TLS and SASL.
    """

    def __init__(
        self, servers: Sequence[str], security: Mapping[str, Any], settings: ClientSettings
    ) -> None:
        self._settings = settings
        self._options = producer_options(servers, security, settings)
        self._admin_options = admin_options(servers, security, settings)
        self._name = f"producer {settings.client_id}"
        self._calls = Calls(self._name)
        self._sending = Worker(f"{self._name}: sending")
        self._administering = Worker(f"{self._name}: administering")
        self._client: Any = None  # the KafkaNetClient of the current producer
        self._opening: Any = None  # that of a producer that is being made
        self._producer: KafkaProducer | None = None
        self._discarded: list[KafkaProducer] = []
        self._batches: collections.deque[_Batch] = collections.deque()  # with something left
        self._handed = trio.Event()
        self._landed: collections.deque[_Run] = collections.deque()
        self._collecting = False
        self._watching = trio.CancelScope()

    async def open(self, report: Reports) -> None:
        self._report = report
        self._token = trio.lowlevel.current_trio_token()
        self._sending.start()
        opened = False
        try:
            await self._calls.make(self._sending, "open", self._connect)
            trio.lowlevel.spawn_system_task(self._watch, name=f"{self._name}: deadlines")
            opened = True
        finally:
            if not opened:
                with trio.CancelScope(shield=True):
                    await self.kill()

    async def partition_count(self, topic: str, timeout: float) -> int:
        if self._producer is None:
            await self._calls.make(self._sending, "open", self._connect)
        with self._calls.errors():
            return (await partition_counts(self._client, [topic], timeout))[topic]

    async def send(self, batch: Sequence[Outgoing]) -> None:
        messages = list(batch)
        deadline = trio.current_time() + self._settings.delivery_timeout
        handed = _Batch(messages, deadline, left=len(messages))
        with self._calls.errors():
            call = self._sending.submit("send", self._send, handed)
            if messages:
                self._batches.append(handed)
                self._handed.set()
            await call.wait()

    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int,
        config: Mapping[str, str],
        timeout: float,
    ) -> None:
        if self._administering.current is None and not self._administering.alive:
            with contextlib.suppress(WorkerClosed):
                self._administering.start()
        wanted = {
            "num_partitions": partitions,
            "replication_factor": replication,
            "configs": dict(config),
        }
        await self._calls.make(
            self._administering, "create topic", self._create, topic, wanted, timeout
        )

    async def close(self, timeout: float) -> None:
        end = trio.current_time() + timeout
        if self._producer is not None and not self._calls.closed:
            with contextlib.suppress(WorkerClosed):
                flushed = self._sending.submit("flush", self._flush, timeout * 0.75)
                with trio.CancelScope(deadline=end - timeout * 0.2, shield=True):
                    await flushed.wait()
        await self._end(end)

    async def kill(self) -> None:
        await self._end(trio.current_time() + CUT_TIMEOUT)

    # In trio.

    async def _end(self, deadline: float) -> None:
        """Fail what is left, then end the threads."""
        self._calls.closed = True
        self._watching.cancel()
        self._collect()
        self._fail(list(self._batches), ClientClosed(f"{self._name} was closed"))
        self._discard()
        if self._opening is not None:
            # `_manager`: an open waits for a broker on a loop that its thread runs itself; this
            # ends the waiting. The client's close() is for that thread alone.
            self._opening._manager.close()
        stuck = []
        for worker in (self._sending, self._administering):
            if worker is self._sending:
                with contextlib.suppress(WorkerClosed):
                    worker.submit("join", self._join, deadline - trio.current_time())
            try:
                await worker.stop(max(0.0, deadline - trio.current_time()))
            except WorkerStuck as error:
                stuck.append(str(error))
        if stuck:
            raise TransportError(f"abandoned: {'; '.join(stuck)}")

    def _taken(
        self, batch: _Batch, runs: list[_Run], refused: list[tuple[Outgoing, Outcome]]
    ) -> None:
        """The client has taken a batch, but for what it refused."""
        if batch.left == 0:
            return  # its deadline came first
        batch.runs = runs
        batch.left -= len(refused)
        if refused:
            self._report(refused)
        for run in runs:
            self._expect(run)

    def _expect(self, run: _Run) -> None:
        run.waiting[-1][1].add_both(lambda _: self._has_landed(run))

    def _has_landed(self, run: _Run) -> None:
        """Mostly on the client's network thread: wake trio, unless somebody did already."""
        self._landed.append(run)
        if not self._collecting:
            self._collecting = True
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._collect)

    def _collect(self) -> None:
        """Report what the client has resolved."""
        self._collecting = False  # first: what lands from now on wakes us again
        outcomes: list[tuple[Outgoing, Outcome]] = []
        answered = self._options["acks"] != 0
        while self._landed:
            run = self._landed.popleft()
            if run.batch.left == 0:
                continue  # failed by us
            waiting = []
            before = len(outcomes)
            for taken in run.waiting:  # once a message: this loop is most of what trio does
                message, future = taken
                if not future.is_done:
                    waiting.append(taken)
                elif future.exception is None:
                    done = future.value
                    # Where the client asked for no answer it counts from 0 by itself.
                    offset = done.offset if answered else -1
                    written = RecordMetadata(
                        done.topic, done.partition, offset, done.timestamp / 1000
                    )
                    outcomes.append((message, written))
                else:
                    outcomes.append((message, of_a_delivery(future.exception)))
            run.waiting = waiting
            run.batch.left -= len(outcomes) - before
            if waiting:
                self._expect(run)
        while self._batches and self._batches[0].left == 0:
            self._batches.popleft()
        if outcomes:
            self._report(outcomes)

    async def _watch(self) -> None:
        """One timer for all deadlines: the oldest batch has the next one."""
        with self._watching:
            while True:
                if not self._batches:
                    self._handed = trio.Event()
                    await self._handed.wait()
                oldest = self._batches[0]
                await trio.sleep_until(oldest.deadline)
                self._collect()
                if oldest.left:
                    self._expire()

    def _expire(self) -> None:
        now = trio.current_time()
        held = [b for b in self._batches if b.runs is not None or b.deadline <= now]
        self._discard()
        seconds = self._settings.delivery_timeout
        self._fail(held, DeliveryTimeout(f"not acknowledged within {seconds:g} s"))

    def _fail(self, batches: list[_Batch], error: TransportError) -> None:
        outcomes = [(message, error) for batch in batches for message in batch.unreported()]
        for batch in batches:
            batch.left = 0
        self._batches = collections.deque(batch for batch in self._batches if batch.left)
        if outcomes:
            self._report(outcomes)

    def _discard(self) -> None:
        """Let the current client go with all that it holds; the next `send` makes another."""
        if self._producer is None:
            return
        producer, self._producer = self._producer, None
        # `_sender`: the public close() waits for what is held, or raises and leaves all as it is.
        producer._sender.force_close()
        # `_closed`, `_unregister_cleanup`: else close() is called when it is garbage collected
        # and at exit, and waits up to a second each time.
        producer._closed = True
        producer._unregister_cleanup()
        self._discarded = [p for p in self._discarded if p._sender.is_alive()]
        self._discarded.append(producer)

    # On the sending thread.

    def _connect(self) -> KafkaProducer:
        """The current producer, made if need be."""
        if self._producer is not None:
            # `_transaction_manager`: after a fatal error it fails all that it is given.
            manager = self._producer._transaction_manager
            if manager is None or not manager.has_fatal_error():
                return self._producer
            self._discard()

        def built(client: Any) -> None:
            self._opening = client

        attempt = Attempt(self._options["bootstrap_servers"], built)
        producer = None
        try:
            with attempt.errors():
                producer = KafkaProducer(**{**attempt.options(KafkaProducer), **self._options})
        finally:
            made, self._opening = self._opening, None
            if producer is None and made is not None:
                made.close()  # its thread was not started, but sockets are open
        self._client = made
        keep_alive(producer)
        self._producer = producer
        return producer

    def _send(self, batch: _Batch) -> None:
        runs: dict[tuple[str, int | None], _Run] = {}
        refused: list[tuple[Outgoing, Outcome]] = []
        if batch.left == 0:
            return  # its deadline passed while it waited for its turn
        try:
            producer = self._connect()
        except TransportError as error:
            refused = [(message, error) for message in batch.messages]
        else:
            for message in batch.messages:
                try:
                    future = _hand_over(producer, message)
                except Exception as error:  # noqa: BLE001 - whatever it is, it concerns one message
                    refused.append((message, of_a_delivery(error)))
                    continue
                place = (message.topic, message.partition)
                run = runs.get(place)
                if run is None:
                    run = runs[place] = _Run(batch, [])
                run.waiting.append((message, future))
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._taken, batch, list(runs.values()), refused)

    def _flush(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while self._producer is not None and (left := end - time.monotonic()) > 0:
            try:
                self._producer.flush(left)
            except kafka.errors.KafkaTimeoutError:
                return
            except kafka.errors.UnknownError:
                continue  # a batch was split, and the client waits for its halves the next time
            return

    def _join(self, timeout: float) -> None:
        """Wait for the network threads of discarded producers, which close their sockets."""
        for producer in self._discarded:
            sender = producer._sender
            sender.join(min(QUICK, max(0.0, timeout)))
            if sender.is_alive():
                # It waits for a broker. `_client`, `_manager`: closing the connections ends that.
                with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                    sender._client._manager.close()
                sender.join(max(0.0, timeout - QUICK))

    # On the administering thread.

    def _create(self, topic: str, wanted: Mapping[str, Any], timeout: float) -> None:
        timeout_ms = round(timeout * 1000)
        attempt = Attempt(self._options["bootstrap_servers"], lambda _: None)
        with attempt.errors():
            admin = KafkaAdminClient(**{**attempt.options(KafkaAdminClient), **self._admin_options})
        try:
            with contextlib.suppress(kafka.errors.TopicAlreadyExistsError):
                admin.create_topics({topic: wanted}, timeout_ms=timeout_ms)
            admin.wait_for_topics([topic], timeout_ms=timeout_ms)
        finally:
            admin.close()
