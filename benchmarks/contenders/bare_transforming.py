"""kafka-python alone: consume, transform, produce, in transactions."""

from __future__ import annotations

import time

from bare_consuming import consumer_of
from bare_producing import producer_of
from job import CHECK, COMMIT_INTERVAL, Done, Job, group, main
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata


class Copier:
    """Copies records into the target and commits their offsets in the same transactions."""

    def __init__(self, job: Job) -> None:
        self._target = job.target
        self.consumer: KafkaConsumer = consumer_of(job)
        self.producer: KafkaProducer = producer_of(job, group())
        self.producer.init_transactions()
        self._offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        self.count = self.total = 0

    def copy(self, most: int) -> None:
        """Copy what one poll brings; begins a transaction if none is open."""
        polled = self.consumer.poll(timeout_ms=1000, max_records=most)
        for tp, records in polled.items():
            if not self._offsets:
                self.producer.begin_transaction()
            for record in records:
                self.producer.send(self._target, key=record.key, value=record.value)
                self.total += record.value[CHECK]
            self.count += len(records)
            self._offsets[tp] = OffsetAndMetadata(records[-1].offset + 1, "", -1)

    def commit(self) -> bool:
        """Commit the open transaction; False: there is none."""
        if not self._offsets:
            return False
        self.producer.send_offsets_to_transaction(self._offsets, self.consumer.group_metadata())
        self.producer.commit_transaction()
        self._offsets = {}
        return True

    def close(self) -> None:
        self.producer.close()
        self.consumer.close()


def transactions(job: Job) -> Done:
    """Make each transaction as small as asked for."""
    copier = Copier(job)
    number, began = 0, 0.0
    while copier.count < job.messages:
        copier.copy(min(job.options["each"], job.messages - copier.count))
        if not began and copier.count:
            began = time.perf_counter()
        number += copier.commit()
    seconds = time.perf_counter() - began
    copier.close()
    return Done(copier.count, copier.total, seconds, {"transactions": number / seconds})


def exactly_once(job: Job) -> Done:
    """Copy as fast as possible, and commit every second."""
    copier = Copier(job)
    began = committed = 0.0
    while copier.count < job.messages:
        copier.copy(job.messages - copier.count if copier.count else 1)
        if not began and copier.count:
            began = committed = time.perf_counter()
        if time.perf_counter() - committed > COMMIT_INTERVAL:
            copier.commit()
            committed = time.perf_counter()
    copier.commit()
    seconds = time.perf_counter() - began
    copier.close()
    return Done(copier.count, copier.total, seconds)


if __name__ == "__main__":
    main({"transactions": transactions, "exactly_once": exactly_once})
