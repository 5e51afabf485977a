"""kafka-python alone: sending, with the options that an App gives the client."""

from __future__ import annotations

import time

from job import BATCH_BYTES, KEYS, LINGER_MS, Done, Job, main
from kafka import KafkaProducer


def producer_of(job: Job, transactional_id: str | None = None) -> KafkaProducer:
    transactional = {}
    if transactional_id is not None:
        # With the client's default of 100 ms, a transaction takes 108 ms. An App sets this, too.
        transactional = {"transactional_id": transactional_id, "retry_backoff_ms": 20}
    return KafkaProducer(
        bootstrap_servers=job.bootstrap,
        acks="all",
        linger_ms=LINGER_MS,
        batch_size=BATCH_BYTES,
        metrics_enabled=False,
        **transactional,
    )


def send(job: Job) -> Done:
    """Send all messages, then flush and check each outcome."""
    producer, values = producer_of(job), job.values
    producer.partitions_for(job.target)
    began = time.perf_counter()
    futures = [
        producer.send(job.target, key=KEYS[number % 1000], value=values[number % 1000])
        for number in range(job.messages)
    ]
    producer.flush()
    for future in futures:
        future.get()
    seconds = time.perf_counter() - began
    producer.close()
    return Done(len(futures), job.checksum, seconds)


def in_turn(job: Job) -> Done:
    """Send each message after the message before it was delivered."""
    producer, values = producer_of(job), job.values
    producer.partitions_for(job.target)
    began = time.perf_counter()
    for number in range(job.messages):
        producer.send(job.target, key=KEYS[number % 1000], value=values[number % 1000]).get()
    seconds = time.perf_counter() - began
    producer.close()
    return Done(job.messages, job.checksum, seconds)


if __name__ == "__main__":
    main({"send": send, "in_turn": in_turn})
