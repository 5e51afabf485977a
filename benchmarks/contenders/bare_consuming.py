"""kafka-python alone: reading in a `poll` loop, with the options that an App gives the client."""

from __future__ import annotations

import time

from job import BATCH_BYTES, CHECK, COMMIT_INTERVAL, LINGER_MS, Done, Job, group, main, percentile
from kafka import KafkaConsumer, KafkaProducer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from threads import in_thread

ALL = 10**9


def consumer_of(job: Job, group_id: str | None = None) -> KafkaConsumer:
    return KafkaConsumer(
        job.topic,
        bootstrap_servers=job.bootstrap,
        group_id=group_id or group(),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
        partition_assignment_strategy=(CooperativeStickyAssignor,),
        metrics_enabled=False,
    )


def messages(job: Job) -> Done:
    """Read whole fetches, which is the fastest way of the client, and commit every second."""
    consumer = consumer_of(job)
    interval = job.options.get("commit_interval", COMMIT_INTERVAL)
    seen = total = 0
    began = committed = 0.0
    while seen < job.messages:
        # The first poll takes one message, so that all others are decoded while the clock runs.
        most = ALL if seen else 1
        for records in consumer.poll(timeout_ms=1000, max_records=most).values():
            if not seen:
                began = committed = time.perf_counter()
            for record in records:
                total += record.value[CHECK]
            seen += len(records)
        if time.perf_counter() - committed > interval:
            consumer.commit()
            committed = time.perf_counter()
    last = time.perf_counter()
    consumer.commit()
    ended = time.perf_counter()
    consumer.close()
    measures = {
        "commit_ms": (ended - last) * 1000,
        "megabytes": seen * len(record.value) / (ended - began) / 1e6,
    }
    return Done(seen, total, ended - began, measures)


def handled(job: Job) -> Done:
    """Handle each message for some time; measure the time to the first one, and the memory."""
    pause, opened = job.options["handler"], time.perf_counter()
    consumer = consumer_of(job)
    seen = total = 0
    began = first = 0.0
    while seen < job.messages:
        for records in consumer.poll(timeout_ms=1000).values():
            for record in records:
                if not seen:
                    began = time.perf_counter()
                    first = began - opened
                total += record.value[CHECK]
                time.sleep(pause)
                seen += 1
                if seen == job.messages:
                    break
            if seen == job.messages:
                break
    seconds = time.perf_counter() - began
    consumer.close()
    return Done(seen, total, seconds, {"first_message": first})


def latency(job: Job) -> Done:
    """Send at a steady rate; measure the age of each message when it is received."""
    warm_up, late = job.options["warm_up"], []
    producer = KafkaProducer(
        bootstrap_servers=job.bootstrap, linger_ms=LINGER_MS, batch_size=BATCH_BYTES
    )
    consumer = consumer_of(job._replace(topic=job.target))
    total = job.messages + warm_up

    def send() -> None:
        start = time.perf_counter()
        for number in range(total):
            time.sleep(max(0.0, start + number / job.options["rate"] - time.perf_counter()))
            producer.send(
                job.target,
                key=b"%d" % number,
                value=b"%d %d" % (number, time.perf_counter_ns()),
            )

    while len(consumer.assignment()) < job.partitions:
        consumer.poll(timeout_ms=100)
    seen = 0
    with in_thread(send):
        while seen < total:
            for records in consumer.poll(timeout_ms=1000).values():
                for record in records:
                    number, sent = record.value.split()
                    if int(number) >= warm_up:
                        late.append((time.perf_counter_ns() - int(sent)) / 1e6)
                    seen += 1
    producer.close()
    consumer.close()
    shares = {"p50": percentile(late, 0.5), "p99": percentile(late, 0.99)}
    return Done(len(late), 0, total / job.options["rate"], shares)


def idle(job: Job) -> Done:
    """Poll an empty topic; measure the CPU time."""
    consumer = consumer_of(job)
    while len(consumer.assignment()) < job.partitions:
        consumer.poll(timeout_ms=1000)
    settled = time.perf_counter() + job.options["settle"]
    while time.perf_counter() < settled:
        consumer.poll(timeout_ms=1000)
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() < began + job.options["seconds"]:
        consumer.poll(timeout_ms=1000)
    seconds = time.perf_counter() - began
    used = time.process_time() - cpu
    consumer.close()
    return Done(0, 0, seconds, {"cpu_percent": 100 * used / seconds})


if __name__ == "__main__":
    main({"messages": messages, "handled": handled, "latency": latency, "idle": idle})
