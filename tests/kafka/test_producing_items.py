"""The output of a producer, checked with Kafka's own tools."""

from __future__ import annotations

import json
import re
import struct
import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from tests.kafka.cluster import CONSOLE_PRODUCER, Broker, tool
from transport import App, MessageTooLarge, RecordMetadata, TransportError

pytestmark = pytest.mark.kafka

CONFIGS = "kafka.admin.ConfigCommand"
TOPICS = "org.apache.kafka.tools.TopicCommand"
KEYS = ["", "a", "key", "key-17", "ключ", "\u00ff\u00fe", "x" * 100, *map(str, range(50))]


def an_app(bootstrap: str, **settings: object) -> App:
    return App("items", broker=f"kafka://{bootstrap}", **settings)


def records_of(bootstrap: str, topic: str, partitions: int) -> dict[int, list[object]]:
    """Return the records of each partition, read with a bare client."""
    reader = KafkaConsumer(bootstrap_servers=bootstrap.split(","), enable_auto_commit=False)
    try:
        tps = [TopicPartition(topic, number) for number in range(partitions)]
        reader.assign(tps)
        reader.seek_to_beginning()
        ends = reader.end_offsets(tps)
        found: dict[int, list[object]] = {tp.partition: [] for tp in tps}
        while any(reader.position(tp) < ends[tp] for tp in tps):
            for tp, records in reader.poll(timeout_ms=500).items():
                found[tp.partition] += records
        return found
    finally:
        reader.close()


def size_on_disk(bootstrap: str, topic: str) -> int:
    """Return the bytes of a topic's logs, as kafka-log-dirs shows them."""
    told = tool(
        "org.apache.kafka.tools.LogDirsCommand",
        *("--describe", "--topic-list", topic),
        bootstrap=bootstrap,
    )
    (line,) = [line for line in told.splitlines() if line.startswith("{")]
    brokers = json.loads(line)["brokers"]
    dirs = [log_dir for broker in brokers for log_dir in broker["logDirs"]]
    return sum(each["size"] for log_dir in dirs for each in log_dir["partitions"])


@pytest.mark.parametrize("partitions", [7, 12])
async def test_key_partition_is_where_kafkas_own_producer_puts_the_key(
    kafka_bootstrap: str, kafka_topic: Callable[..., str], partitions: int
) -> None:
    topic = kafka_topic(partitions)
    options = ["--reader-property", "parse.key=true", "--reader-property", "key.separator=|"]
    lines = "\n".join(f"{key}|value" for key in KEYS) + "\n"
    tool(CONSOLE_PRODUCER, "--topic", topic, *options, bootstrap=kafka_bootstrap, stdin=lines)
    found = records_of(kafka_bootstrap, topic, partitions)
    places = {record.key: number for number, records in found.items() for record in records}
    assert set(places) == {key.encode() for key in KEYS}
    async with an_app(kafka_bootstrap) as app:
        await app.producer.send_and_wait(topic, None, b"so that the topic is known")
        ours = {key: app.producer.key_partition(topic, key).partition for key in places}
        written = await app.topic(topic).send_and_wait(key="ключ".encode(), value=b"v")
    assert ours == places
    assert written.partition == places["ключ".encode()]


@pytest.mark.parametrize("kind", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_values_take_less_space_and_are_read_unchanged(
    kafka_bootstrap: str, kafka_topic: Callable[..., str], kind: str
) -> None:
    topic = kafka_topic(1)
    values = [b"%d" % number + b"." * 10_000 for number in range(50)]
    async with an_app(kafka_bootstrap, compression_type=kind, linger=0.05) as app:
        assert app.producer.compression_type == kind
        for value in values:
            await app.topic(topic).send(value=value)
    found = records_of(kafka_bootstrap, topic, 1)[0]
    assert [record.value for record in found] == values
    assert 0 < size_on_disk(kafka_bootstrap, topic) < 100_000


def codecs(log: bytes) -> set[int]:
    """Return the compression codes of the batches in a log: the low bits of their attributes."""
    found, position = set(), 0
    while position < len(log):
        (length,) = struct.unpack_from(">i", log, position + 8)
        (attributes,) = struct.unpack_from(">h", log, position + 21)
        found.add(attributes & 7)
        position += 12 + length
    return found


async def test_the_log_has_the_chosen_compression(kafka_broker: Broker) -> None:
    kinds = {None: 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
    for kind, code in kinds.items():
        topic = f"by-{kind}"
        async with an_app(kafka_broker.bootstrap, compression_type=kind) as app:
            await app.producer.create_topic(topic, 1)
            await app.producer.send_and_wait(topic, None, b"." * 10_000)
        (file,) = kafka_broker.data.glob(f"{topic}-0/*.log")
        assert codecs(file.read_bytes().rstrip(b"\0")) == {code}


def fields_of(line: str) -> dict[str, str]:
    """Return the fields of one line of Kafka's topic tool. Some may have no value."""
    fields = (field.partition(":") for field in line.split("\t") if ":" in field)
    return {name.strip(): value.strip() for name, _, value in fields}


def test_a_field_without_a_value_is_parsed() -> None:
    line = "Topic: items\tTopicId: x1\tPartitionCount: 5\tReplicationFactor: 1\tConfigs: "
    assert fields_of(line) == {
        "Topic": "items",
        "TopicId": "x1",
        "PartitionCount": "5",
        "ReplicationFactor": "1",
        "Configs": "",
    }


def described(bootstrap: str, topic: str) -> tuple[int, int, dict[str, str]]:
    """Return the number of partitions and of replicas, and the configuration, of a topic."""
    told = tool(TOPICS, "--describe", "--topic", topic, bootstrap=bootstrap)
    (line,) = [line for line in told.splitlines() if "PartitionCount" in line]
    fields = fields_of(line)
    asked = ("--describe", "--entity-type", "topics", "--entity-name", topic)
    told = tool(CONFIGS, *asked, bootstrap=bootstrap)
    config = dict(re.findall(r"^  ([a-z.]+)=(\S*) ", told, re.MULTILINE))
    return int(fields["PartitionCount"]), int(fields["ReplicationFactor"]), config


async def test_create_topic_with_all_its_options(kafka_bootstrap: str) -> None:
    async with an_app(kafka_bootstrap) as app:
        name = f"items-{uuid.uuid4().hex[:12]}"
        for _ in range(2):  # the second time the topic exists
            await app.producer.create_topic(
                name,
                3,
                1,
                config={"max.message.bytes": 5000, "retention.ms": 1, "cleanup.policy": "delete"},
                timeout=timedelta(seconds=20),
                retention=timedelta(hours=1),
                compacting=True,
                deleting=True,
                ensure_created=True,
            )
        assert (await app.producer.send_and_wait(name, b"k", b"v")).offset == 0
        assert described(kafka_bootstrap, name) == (
            3,
            1,
            {
                "max.message.bytes": "5000",
                "retention.ms": "3600000",
                "cleanup.policy": "compact,delete",
            },
        )
        assert len(records_of(kafka_bootstrap, name, 3)) == 3


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ({"compacting": True}, "compact"),
        ({"compacting": True, "deleting": False}, "compact"),
        ({"deleting": True}, "delete"),
        ({"compacting": False, "deleting": True}, "delete"),
        ({}, None),
    ],
)
async def test_create_topic_sets_the_cleanup_policy(
    kafka_bootstrap: str, options: dict[str, bool], policy: str | None
) -> None:
    async with an_app(kafka_bootstrap) as app:
        name = f"items-{uuid.uuid4().hex[:12]}"
        await app.producer.create_topic(name, 1, **options)
        assert described(kafka_bootstrap, name)[2].get("cleanup.policy") == policy


async def test_create_topic_without_waiting_for_it(kafka_bootstrap: str) -> None:
    """The broker has accepted the topic. The first send waits until the topic is ready."""
    async with an_app(kafka_bootstrap) as app:
        name = f"items-{uuid.uuid4().hex[:12]}"
        await app.producer.create_topic(name, 5, ensure_created=False)
        assert (await app.producer.send_and_wait(name, None, b"v", 4)).offset == 0
        assert described(kafka_bootstrap, name)[:2] == (5, 1)


async def test_more_replicas_than_brokers_is_an_error(
    kafka_bootstrap: str, kafka_admin: KafkaAdminClient
) -> None:
    """For example 2 on one broker: the call raises, and leaves no topic."""
    brokers = len(kafka_admin.describe_cluster()["brokers"])
    async with an_app(kafka_bootstrap) as app:
        name = f"items-{uuid.uuid4().hex[:12]}"
        with pytest.raises(TransportError, match=r"(?i)replication"):
            await app.producer.create_topic(name, 1, brokers + 1)
        await app.producer.create_topic(name, 2, brokers)
        assert described(kafka_bootstrap, name)[:2] == (2, brokers)


async def test_an_oversized_message_fails_alone(
    kafka_bootstrap: str, kafka_topic: Callable[..., str]
) -> None:
    """The message is larger than the topic allows, which only the broker knows."""
    topic = kafka_topic(1, max_message_bytes="2000")
    async with an_app(kafka_bootstrap) as app:
        deliveries = [
            await app.topic(topic).send(value=b"." * (5000 if number % 5 == 2 else 10))
            for number in range(40)
        ]
        for number, delivery in enumerate(deliveries):
            if number % 5 == 2:
                with pytest.raises(MessageTooLarge):
                    await delivery
            else:
                assert isinstance(await delivery, RecordMetadata)
    assert len(records_of(kafka_bootstrap, topic, 1)[0]) == 32


async def test_timestamps_and_headers_are_written(
    kafka_bootstrap: str, kafka_topic: Callable[..., str]
) -> None:
    ours, theirs = kafka_topic(1), kafka_topic(1, message_timestamp_type="LogAppendTime")
    headers = [("a", b"1"), ("a", b"2"), ("b", b"")]
    async with an_app(kafka_bootstrap) as app:
        written = await app.topic(ours).send_and_wait(value=b"v", timestamp=1.5, headers=headers)
        assert written.timestamp == 1.5
        stamped = await app.topic(theirs).send_and_wait(
            value=b"v", timestamp=1.5, headers={"a": b"1"}
        )
        message = await anext(app.topic(theirs).noack())
        assert message.timestamp_type == 1
        assert message.timestamp == stamped.timestamp > 1.5  # the time of the broker
    (record,) = records_of(kafka_bootstrap, ours, 1)[0]
    assert (record.timestamp, record.timestamp_type, list(record.headers)) == (1500, 0, headers)
