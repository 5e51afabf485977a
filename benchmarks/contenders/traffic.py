"""A thread that sends messages to a topic, evenly over its partitions, until the block ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from job import Job
from kafka import KafkaProducer
from threads import in_thread

PAUSE = 0.005  # seconds between two messages


@contextmanager
def traffic(job: Job) -> Iterator[None]:
    ended = threading.Event()

    def send() -> None:
        producer, number = KafkaProducer(bootstrap_servers=job.bootstrap), 0
        while not ended.wait(PAUSE):
            producer.send(job.target, value=b"message", partition=number % job.partitions)
            number += 1
        producer.close()

    with in_thread(send):
        try:
            yield
        finally:
            ended.set()
