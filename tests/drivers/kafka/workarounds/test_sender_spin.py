"""The network thread of a producer waits while no broker can be reached.

The fast tests use the client's own sender, metadata and loop, at a port that refuses connections.
"""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import attrs
import kafka.errors
import pytest
import trio
from kafka import TopicPartition
from kafka.net.compat import KafkaNetClient
from kafka.producer.producer_batch import ProducerBatch
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.sender import Sender as ClientSender
from kafka.protocol.metadata import MetadataResponse
from kafka.record.memory_records import MemoryRecordsBuilder

from tests.drivers.rig import Rig, outgoing
from tests.kafka.cluster import Broker, free_ports
from transport.drivers import driver_for
from transport.drivers.kafka.workarounds.sender_spin import wait_for_brokers
from transport.types import RecordMetadata

NODE = 1
TP = TopicPartition("t", 0)
pytestmark = pytest.mark.usefixtures("quiet_client")


class SenderRig:
    """A sender of the client with one message for a partition, and a broker that refuses."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        servers = f"127.0.0.1:{self.port}"
        self.client = KafkaNetClient(bootstrap_servers=servers, reconnect_backoff_max_ms=1000)
        self.manager, self.cluster = self.client._manager, self.client.cluster
        self.accumulator = RecordAccumulator(message_version=2, delivery_timeout_ms=60_000)
        self.sender = ClientSender(self.client, self.cluster, self.accumulator)
        wait_for_brokers(SimpleNamespace(_sender=self.sender))
        records = MemoryRecordsBuilder(2, 0, 1000)
        batch = ProducerBatch(TP, records, time.monotonic())
        assert batch.try_append(0, None, b"v", []) is not None
        self.accumulator._batches[TP] = collections.deque([batch])

    def answer(self, leader: int) -> None:
        """Apply an answer about the metadata, with this leader of the partition."""
        partition = MetadataResponse.MetadataResponseTopic.MetadataResponsePartition(
            partition_index=0, leader_id=leader, version=9
        )
        topic = MetadataResponse.MetadataResponseTopic(name="t", partitions=[partition], version=9)
        broker = MetadataResponse.MetadataResponseBroker(
            NODE, "127.0.0.1", self.port, None, version=9
        )
        response = MetadataResponse(brokers=[broker], topics=[topic], version=9)
        self.cluster.update_metadata(response)

    def passes_within(self, seconds: float) -> int:
        """Return how many passes the network thread makes in this time."""
        deadline = time.monotonic() + seconds
        count = 0
        while time.monotonic() < deadline:
            self.sender.run_once()
            count += 1
        return count


@pytest.fixture
def rig() -> Iterator[SenderRig]:
    rig = SenderRig()
    yield rig
    rig.client.close()


# Unknown leaders.


def test_pending_metadata_request_does_not_notify_again(rig: SenderRig) -> None:
    """Each notification ends the wait of the network thread."""
    notified: list[None] = []
    rig.cluster._wakeup = SimpleNamespace(notify=lambda: notified.append(None))
    first = rig.cluster.request_update()
    assert rig.cluster.request_update() is first
    assert len(notified) == 1
    rig.cluster.failed_update(kafka.errors.KafkaConnectionError("refused"))
    second = rig.cluster.request_update()
    assert second is not first
    assert len(notified) == 2
    rig.answer(leader=-1)
    assert second.is_done
    assert not rig.cluster.request_update().is_done
    assert len(notified) == 3


def test_producer_waits_while_leader_is_unknown_and_broker_refuses(rig: SenderRig) -> None:
    """Without the workaround, the thread makes thousands of passes."""
    rig.answer(leader=-1)
    assert 0 < rig.passes_within(1.0) < 200


# Known leaders.


def test_thread_waits_for_whole_backoff_of_leader(rig: SenderRig) -> None:
    rig.answer(leader=NODE)
    rig.manager._backoff[NODE] = (1, time.monotonic() + 20.0, 10_000)
    assert 10_000 < rig.sender._send_producer_data() <= 20_000


@pytest.mark.parametrize(
    "state", [{"initializing": True}, {"connected": True, "paused": {"max_in_flight"}}]
)
def test_thread_waits_while_connection_is_pending(
    rig: SenderRig, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.answer(leader=NODE)
    at_first: dict[str, Any] = {"connected": False, "initializing": False, "paused": set()}
    connection = SimpleNamespace(**{**at_first, **state})
    monkeypatch.setitem(rig.manager._conns, NODE, connection)
    assert rig.client.connection_delay(NODE) == math.inf
    assert rig.sender._send_producer_data() > 10_000  # until the batch expires
    connection.initializing, connection.connected, connection.paused = False, True, set()
    assert rig.client.connection_delay(NODE) == 0


def test_leader_without_connection_is_connected_at_once(rig: SenderRig) -> None:
    rig.answer(leader=NODE)
    assert rig.sender._send_producer_data() == 0
    assert NODE in rig.manager._conns
    assert rig.sender._send_producer_data() > 10_000


def test_producer_waits_while_its_leader_refuses(rig: SenderRig) -> None:
    rig.answer(leader=NODE)
    assert 0 < rig.passes_within(1.0) < 200


# On Kafka, with a broker of its own.


@attrs.define
class Passes:
    """The number of passes that the network thread of a producer has made."""

    count: int = 0

    @classmethod
    def of(cls, client: Any) -> Passes:
        passes, ready = cls(), client._sender._accumulator.ready

        def counted(*args: Any, **options: Any) -> Any:
            passes.count += 1
            return ready(*args, **options)

        client._sender._accumulator.ready = counted
        return passes

    async def within(self, seconds: float) -> int:
        before = self.count
        await trio.sleep(seconds)
        return self.count - before


@pytest.mark.kafka
async def test_producer_waits_for_deleted_topic_and_frozen_and_stopped_broker(
    kafka_java: None,
) -> None:
    """The producer sends as soon as the broker answers again, and closes within its timeout."""
    with Broker(properties="auto.create.topics.enable=false\n") as broker:
        rig = Rig(driver_for([f"kafka://{broker.bootstrap}"]))
        gone, topic = await rig.topic(1), await rig.topic(8)
        async with rig.sender() as sender:
            await sender.fill(gone, 1, 1)
            await sender.fill(topic, 8, 8)
            client = sender.client._producer  # type: ignore[attr-defined]
            cluster = client._sender._metadata
            passes = Passes.of(client)

            await rig.delete(gone)
            cluster.request_update()
            with trio.fail_after(10):
                while gone in cluster.topics():  # noqa: ASYNC110 - no event reports it
                    await trio.sleep(0.05)
            assert await passes.within(1.0) < 500

            broker.freeze()
            batches = [[outgoing(topic, partition=number)] for number in range(8)]
            for batch in batches:  # more requests than can be in flight
                await sender.client.send(batch)
                await trio.sleep(0.05)
            assert await passes.within(1.0) < 500
            broker.thaw()
            for outcome in await sender.reported([m for b in batches for m in b], within=5.0):
                assert isinstance(outcome, RecordMetadata), outcome

            await trio.to_thread.run_sync(broker.stop)
            last = outgoing(topic, partition=0)
            await sender.client.send([last])
            assert await passes.within(1.0) < 500
            await trio.to_thread.run_sync(broker.start)
            (outcome,) = await sender.reported([last], within=5.0)
            assert isinstance(outcome, RecordMetadata), outcome
            broker.kill()
            await sender.client.send([outgoing(topic, partition=0)])
            closing = trio.current_time()
        assert trio.current_time() - closing < 10.0
