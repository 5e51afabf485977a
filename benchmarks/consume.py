"""Consuming: the whole pipeline against a bare `poll` loop of kafka-python.

Both read the same topic from its start, in a group of their own, and commit every second. Both use
the client options that the transport uses; the bare loop takes whole fetches, which is its fastest
way. The clock runs from the first record to the last.
"""

from __future__ import annotations

import time
import uuid

import trio
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient

from transport import App, Topic

COMMIT_INTERVAL = 1.0


def fill(bootstrap: str, topic: str, messages: int, size: int, partitions: int) -> None:
    """Make the topic and write the messages, evenly over the partitions."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1}})
    admin.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20, batch_size=65536)
    value = bytes(size)
    for number in range(messages):
        producer.send(topic, value=value, partition=number % partitions)
    producer.flush()
    producer.close()


def bare(bootstrap: str, topic: str, messages: int) -> float:
    """Messages a second of the client alone."""
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=f"bare-{uuid.uuid4().hex}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
        metrics_enabled=False,
    )
    seen = 0
    began = committed = 0.0
    while seen < messages:
        for records in consumer.poll(timeout_ms=1000, max_records=10**9).values():
            for _ in records:
                if not seen:
                    began = committed = time.perf_counter()
                seen += 1
        if time.perf_counter() - committed > COMMIT_INTERVAL:
            consumer.commit()
            committed = time.perf_counter()
    consumer.commit()
    took = time.perf_counter() - began
    consumer.close()
    return messages / took


def pipeline(bootstrap: str, topic: str, messages: int, *, in_batches: bool = False) -> float:
    """Messages a second through `async for`, acked one by one or by the batch."""

    async def main() -> float:
        app = App(
            f"pipeline-{uuid.uuid4().hex}",
            broker=f"kafka://{bootstrap}",
            commit_interval=COMMIT_INTERVAL,
        )
        async with app:
            read = _read_batches if in_batches else _read_messages
            began = await read(app.topic(topic), messages)
            await app.consumer.commit()
            return messages / (time.perf_counter() - began)

    return trio.run(main)


async def _read_messages(topic: Topic, messages: int) -> float:
    seen, began = 0, 0.0
    async for _ in topic:
        if not seen:
            began = time.perf_counter()
        seen += 1
        if seen == messages:
            break
    return began


async def _read_batches(topic: Topic, messages: int) -> float:
    seen, began = 0, 0.0
    async for batch in topic.batches():
        for _ in batch:
            if not seen:
                began = time.perf_counter()
            seen += 1
        if seen >= messages:
            break
    return began
