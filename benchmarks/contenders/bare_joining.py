"""kafka-python alone: a second member joins a group, with cooperative rebalancing."""

from __future__ import annotations

import threading
import time

from bare_consuming import consumer_of
from job import Done, Job, group, main
from threads import in_thread
from traffic import traffic


class Member:
    """A consumer in a thread.

    Attributes:
        partitions: the partitions from which it has received messages.
        latest: the time of its latest message.
    """

    def __init__(self, job: Job, group_id: str) -> None:
        self.partitions: set[int] = set()
        self.latest = 0.0
        self._job = job
        self._group_id = group_id
        self._ended = threading.Event()

    def run(self) -> None:
        consumer = consumer_of(self._job, self._group_id)
        while not self._ended.is_set():
            for records in consumer.poll(timeout_ms=1000).values():
                self.partitions.update(record.partition for record in records)
                self.latest = time.perf_counter()
        consumer.close()

    def end(self) -> None:
        self._ended.set()


def join(job: Job) -> Done:
    """Measure the time from the start of the second member until both receive messages."""
    reading, group_id = job._replace(topic=job.target), group()
    first, second = Member(reading, group_id), Member(reading, group_id)
    with traffic(job), in_thread(first.run):
        while len(first.partitions) < job.partitions:
            time.sleep(0.01)
        time.sleep(job.options["settle"])
        began = time.perf_counter()
        with in_thread(second.run):
            while not second.latest:
                time.sleep(0.005)
            while first.latest < second.latest and first.latest < began + 60:
                time.sleep(0.005)
            seconds = time.perf_counter() - began
            second.end()
            first.end()
    return Done(0, 0, seconds)


if __name__ == "__main__":
    main({"join": join})
