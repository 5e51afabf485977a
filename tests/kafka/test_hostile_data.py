"""Damaged and extreme data on a real broker: the errors and messages that readers get."""

from __future__ import annotations

import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.producer import ProduceRequest

from tests.drivers.batches import CODECS, bomb, flipped, raw_batch, raw_record, with_byte
from tests.kafka.cluster import Broker
from transport import TP, App, MessageTooLarge, UnreadableBatch

pytestmark = pytest.mark.kafka

BOUND = 30.0  # seconds, on a busy machine
MAGIC_AT = 16  # in a batch
DAMAGED = {"crc": "crc", "format": "unknown format 3"}


def produce_raw(bootstrap: str, topic: str, batch: bytes) -> None:
    """Write a batch unchanged to partition 0. The broker checks it only as it checks any other."""
    host, _, port = bootstrap.partition(":")
    partition = ProduceRequest.TopicProduceData.PartitionProduceData(index=0, records=batch)
    data = ProduceRequest.TopicProduceData(name=topic, partition_data=[partition])
    request = ProduceRequest(
        version=7, transactional_id=None, acks=-1, timeout_ms=10_000, topic_data=[data]
    )
    protocol = KafkaProtocol(client_id="raw")
    protocol.send_request(request)
    with socket.create_connection((host, int(port)), timeout=60.0) as connection:
        connection.sendall(protocol.send_bytes())
        answers: list[tuple[int, object]] = []
        while not answers:
            answers = protocol.receive_bytes(connection.recv(4096))
    (_, answer), *_ = answers
    assert [
        partition.error_code
        for topic in answer.responses  # type: ignore[attr-defined]
        for partition in topic.partition_responses
    ] == [0]


def an_app(broker: Broker, name: str, **settings: Any) -> App:
    return App(name, f"kafka://{broker.bootstrap}", heartbeat_interval=0.5, **settings)


async def write(broker: Broker, name: str, *values: bytes) -> None:
    """Create the topic, and write each value in its own batch."""
    async with an_app(broker, name) as app:
        await app.producer.create_topic(name, 1)
        for value in values:
            await app.topic(name).send_and_wait(value=value)


def damage(log: Path, number: int, kind: str) -> None:
    """Damage a batch in the broker's log, as a bad disk would. The broker does not check it."""
    data = log.read_bytes()
    batches = []
    while data:
        size = 12 + struct.unpack_from(">i", data, 8)[0]
        batches.append(data[:size])
        data = data[size:]
    batch = batches[number]
    batches[number] = flipped(batch) if kind == "crc" else with_byte(batch, MAGIC_AT, 3)
    log.write_bytes(b"".join(batches))


@pytest.fixture(scope="module")
def broker(kafka_java: None) -> Iterator[Broker]:
    """A broker with a damaged batch at offset 2 of the topics `crc` and `format`."""
    with Broker() as broker:
        for name in DAMAGED:
            trio.run(write, broker, name, *(b"%d" % number for number in range(5)))
        broker.stop()
        for name in DAMAGED:
            damage(broker.data / f"{name}-0" / f"{0:020}.log", 2, name)
        broker.start()
        yield broker


@pytest.mark.parametrize("name", DAMAGED)
async def test_a_damaged_batch_is_an_error_each_time_and_nothing_is_skipped(
    broker: Broker, name: str
) -> None:
    unreadable = pytest.RaisesExc(UnreadableBatch, match=f"{name}-0 offset 2: .*{DAMAGED[name]}")
    found = []
    for _ in range(2):
        with trio.fail_after(BOUND), pytest.RaisesGroup(unreadable, flatten_subgroups=True):
            async with an_app(broker, name, commit_interval=0.1) as app:
                async for message in app.topic(name):
                    found.append(message.offset)
    assert found in ([0, 1], [0, 0, 1], [0, 1, 0, 1], [0, 1, 1])  # at least once
    with trio.fail_after(BOUND):
        async with an_app(broker, name, partitions={TP(name, 0): 3}) as app:
            after = [await anext(messages) for messages in [app.topic(name).noack()] * 2]
    assert [message.value for message in after] == [b"3", b"4"]


@pytest.mark.parametrize(("codec", "size"), [("gzip", 256 << 20), ("zstd", 1 << 30)])
async def test_a_decompression_bomb_is_an_error_and_takes_little_memory(
    broker: Broker, codec: str, size: int
) -> None:
    """A batch of some KB has one huge value. The broker accepts it without decompressing it all."""
    await write(broker, f"bomb-{codec}", b"good")
    packed = await trio.to_thread.run_sync(bomb, CODECS[codec], size)
    assert len(packed) < 1 << 20
    await trio.to_thread.run_sync(produce_raw, broker.bootstrap, f"bomb-{codec}", packed)
    unreadable = pytest.RaisesExc(
        UnreadableBatch, match=f"bomb-{codec}-0 offset 1: .*max_decompressed_bytes"
    )
    found = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with trio.fail_after(2 * BOUND), pytest.RaisesGroup(unreadable, flatten_subgroups=True):
        async with an_app(broker, f"bomb-{codec}", max_decompressed_bytes=16 << 20) as app:
            async for message in app.topic(f"bomb-{codec}"):
                found.append(message.value)
    assert set(found) <= {b"good"}
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < size // 2


async def test_very_large_and_very_many_headers_are_delivered(broker: Broker) -> None:
    headers = [("large", b"." * (1 << 20))], [(f"n{n}", b"%d" % n) for n in range(10_000)]
    limits = {"max_request_size": 8 << 20, "max_partition_fetch_bytes": 64 << 10}
    with trio.fail_after(BOUND):
        async with an_app(broker, "headers", **limits) as app:
            config = {"max.message.bytes": str(8 << 20)}
            await app.producer.create_topic("headers", 1, config=config)
            topic = app.topic("headers")
            for each in headers:
                await topic.send_and_wait(value=b"v", headers=each)
            found = [await anext(messages) for messages in [topic.noack()] * 2]
    assert [list(message.headers) for message in found] == [list(each) for each in headers]


async def test_a_message_too_large_by_its_headers_fails_alone(broker: Broker) -> None:
    with trio.fail_after(BOUND):
        async with an_app(broker, "small") as app:
            await app.producer.create_topic("small", 1)
            with pytest.raises(MessageTooLarge):
                await app.topic("small").send_and_wait(headers=[("large", b"." * (2 << 20))])
            assert (await app.topic("small").send_and_wait(value=b"v")).offset == 0


async def test_a_header_name_that_is_not_utf8_has_replacement_characters(broker: Broker) -> None:
    await write(broker, "names")
    records = raw_record(header=b"a\xffb") + raw_record(offset_delta=1, header=b"name")
    batch = raw_batch(0, 2, records)
    await trio.to_thread.run_sync(produce_raw, broker.bootstrap, "names", batch)
    with trio.fail_after(BOUND):
        async with an_app(broker, "names") as app:
            found = [await anext(messages) for messages in [app.topic("names").noack()] * 2]
    assert [list(message.headers) for message in found] == [[("a\ufffdb", b"h")], [("name", b"h")]]
