"""kafka-python alone: consume, transform and produce in transactions.

The clock runs from the first received message, as in `ours_transforming.py`, to the end of the last
commit. The copies have no keys, so this client and our driver choose a random partition for each.
After its first commit, the client does not linger: a commit ends the linger, and the client never
restarts it. A `flush` before each commit keeps the linger, but does not make this loop faster.
"""

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
        self.began = 0.0

    def copy(self, most: int) -> None:
        """Copy the records of one poll. Begin a transaction if none is open."""
        polled = self.consumer.poll(timeout_ms=1000, max_records=most)
        if polled and not self.began:
            self.began = time.perf_counter()
        for tp, records in polled.items():
            if not self._offsets:
                self.producer.begin_transaction()
            for record in records:
                self.producer.send(self._target, key=record.key, value=record.value)
                self.total += record.value[CHECK]
            self.count += len(records)
            self._offsets[tp] = OffsetAndMetadata(records[-1].offset + 1, "", -1)

    def commit(self) -> bool:
        """Commit the open transaction. Return False if there is none."""
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
    """Copy in small transactions of a given number of messages."""
    copier = Copier(job)
    number = 0
    while copier.count < job.messages:
        copier.copy(min(job.options["each"], job.messages - copier.count))
        number += copier.commit()
    seconds = time.perf_counter() - copier.began
    copier.close()
    return Done(copier.count, copier.total, seconds, {"transactions": number / seconds})


def exactly_once(job: Job) -> Done:
    """Copy as fast as possible, and commit every second."""
    copier = Copier(job)
    committed = 0.0
    while copier.count < job.messages:
        copier.copy(job.messages - copier.count if copier.count else 1)
        committed = committed or copier.began
        if committed and time.perf_counter() - committed > COMMIT_INTERVAL:
            copier.commit()
            committed = time.perf_counter()
    copier.commit()
    seconds = time.perf_counter() - copier.began
    copier.close()
    return Done(copier.count, copier.total, seconds)


if __name__ == "__main__":
    main({"transactions": transactions, "exactly_once": exactly_once})
