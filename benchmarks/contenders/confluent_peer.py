"""confluent-kafka (librdkafka): reading, sending, and writing the data that all contenders read."""

from __future__ import annotations

import hashlib
import json
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from job import BATCH_BYTES, CHECK, COMMIT_INTERVAL, KEYS, LINGER_MS, Done, Job, group, main

POOL = 5000  # different values, so that none repeats in a batch of 1 MB with values of 870 bytes
PORTION = 10_000
# After this time in seconds, `consume` returns even if it has fewer messages than requested.
TURN = 0.1
PATIENCE = 60.0  # seconds to wait for missing messages


def messages(job: Job) -> Done:
    """Consume lists of 1,000 messages in a group, and commit every second."""
    consumer = Consumer(
        {
            "bootstrap.servers": job.bootstrap,
            "group.id": group(),
            "auto.offset.reset": "earliest",
            "auto.commit.interval.ms": int(COMMIT_INTERVAL * 1000),
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([job.topic])
    return _read(consumer, job)


def verify(job: Job) -> Done:
    """Read the messages that a contender has written, without a group."""
    consumer = Consumer(
        {
            "bootstrap.servers": job.bootstrap,
            "group.id": group(),
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    places = [TopicPartition(job.topic, each, OFFSET_BEGINNING) for each in range(job.partitions)]
    consumer.assign(places)
    seen = total = ends = 0
    began = time.perf_counter()
    while ends < job.partitions:
        for message in consumer.consume(1000, timeout=TURN):
            if (error := message.error()) is None:
                total += message.value()[CHECK]
                seen += 1
            elif error.code() == KafkaError._PARTITION_EOF:
                ends += 1
            else:
                raise RuntimeError(error)
    seconds = time.perf_counter() - began
    consumer.close()
    return Done(seen, total, seconds)


def _read(consumer: Consumer, job: Job) -> Done:
    seen = total = 0
    began = 0.0
    while seen < job.messages:
        # `consume` waits for the requested number of messages.
        most = min(1000, job.messages - seen) if seen else 1
        found = consumer.consume(most, timeout=PATIENCE)
        if not found:
            raise TimeoutError(f"received {seen} of {job.messages} messages")
        if not seen:
            began = time.perf_counter()
        for message in found:
            total += message.value()[CHECK]
        seen += len(found)
    seconds = time.perf_counter() - began
    consumer.close()
    return Done(seen, total, seconds)


def send(job: Job) -> Done:
    """Send all messages, then flush and count the outcomes."""
    values, failed = job.values, []

    def report(error: object, _: object) -> None:
        if error is not None:
            failed.append(error)

    producer = Producer(
        {
            "bootstrap.servers": job.bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": LINGER_MS,
            "batch.size": BATCH_BYTES,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": job.messages + 1,
        }
    )
    producer.list_topics(job.target)
    began = time.perf_counter()
    for number in range(job.messages):
        producer.produce(job.target, values[number % 1000], KEYS[number % 1000], on_delivery=report)
        if number % 1000 == 0:
            producer.poll(0)
    left = producer.flush()
    seconds = time.perf_counter() - began
    if failed:
        raise RuntimeError(failed[0])
    return Done(job.messages - left, job.checksum, seconds)


def fill(job: Job) -> Done:
    """Write the messages of a shape evenly over the partitions. Each run writes the same bytes."""
    options = job.options
    pool = [
        _document(number, job.size) if options["json"] else _plain(number, job.size)
        for number in range(min(POOL, job.messages))
    ]
    producer = Producer(
        {
            "bootstrap.servers": job.bootstrap,
            "linger.ms": options["linger_ms"],
            "batch.size": options["batch_bytes"],
            "batch.num.messages": options["batch_messages"],
            "compression.type": options["codec"] or "none",
            "queue.buffering.max.messages": 2 * PORTION,
            "queue.buffering.max.kbytes": 256 << 10,
        }
    )
    began, total, failed = time.perf_counter(), 0, []

    def report(error: object, _: object) -> None:
        if error is not None:
            failed.append(error)

    each = -(-job.messages // job.partitions)
    keys = options["keys"]
    for number in range(job.messages):
        value = pool[number % len(pool)]
        total += value[CHECK]
        # Batches become long if the partitions are filled one after the other.
        by_turns = number % job.partitions
        partition = number // each if options["one_by_one"] else by_turns
        key = b"key-%d" % (number % keys) if keys else None
        while True:
            try:
                producer.produce(job.topic, value, key, partition=partition, on_delivery=report)
                break
            except BufferError:
                producer.poll(0.05)
        if number % 1000 == 0:
            producer.poll(0)
    left = producer.flush()
    if failed or left:
        raise RuntimeError(f"{left} messages were not delivered: {failed[:1]}")
    return Done(job.messages, total, time.perf_counter() - began)


def _plain(number: int, size: int) -> bytes:
    return hashlib.shake_128(b"%d" % number).digest(size)


def _document(number: int, size: int) -> bytes:
    """Return an order as JSON, about as compressible as the orders of a shop."""
    code = hashlib.shake_128(b"%d" % number).hexdigest(200)
    document = {
        "id": code[:32],
        "customer": {
            "id": int(code[32:38], 16),
            "country": "DE",
            "email": f"{code[:8]}@example.org",
        },
        "status": ("paid", "shipped", "open")[number % 3],
        "items": [],
        "check": number % 10,
    }
    at = 40
    while len(json.dumps(document)) < size - 90 and at < 390:
        document["items"].append(
            {"article": f"A-{code[at : at + 8]}", "quantity": 1 + number % 5, "price": at * 1.25}
        )
        at += 8
    document["customer"]["note"] = ""
    document["customer"]["note"] = "x" * (size - len(json.dumps(document)))
    return json.dumps(document).encode()


if __name__ == "__main__":
    main({"messages": messages, "verify": verify, "send": send, "fill": fill})
