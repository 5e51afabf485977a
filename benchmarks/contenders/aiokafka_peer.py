"""aiokafka: reading messages one by one and with `getmany`, and sending."""

from __future__ import annotations

import asyncio
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from job import BATCH_BYTES, CHECK, COMMIT_INTERVAL, KEYS, LINGER_MS, Done, Job, group, main


def consumer_of(job: Job) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        job.topic,
        bootstrap_servers=job.bootstrap,
        group_id=group(),
        auto_offset_reset="earliest",
        enable_auto_commit=True,
        auto_commit_interval_ms=int(COMMIT_INTERVAL * 1000),
        isolation_level="read_committed",
    )


def messages(job: Job) -> Done:
    """Read with `async for message in consumer`."""

    async def read() -> Done:
        async with consumer_of(job) as consumer:
            seen = total = 0
            began = 0.0
            async for message in consumer:
                if not seen:
                    began = time.perf_counter()
                total += message.value[CHECK]
                seen += 1
                if seen == job.messages:
                    break
            await consumer.commit()
            return Done(seen, total, time.perf_counter() - began)

    return asyncio.run(read())


def getmany(job: Job) -> Done:
    """Call `getmany`, and read each value."""

    async def read() -> Done:
        async with consumer_of(job) as consumer:
            seen = total = 0
            began = 0.0
            while seen < job.messages:
                # The first call takes one message, so that all others are decoded while the clock
                # runs.
                most = None if seen else 1
                found = await consumer.getmany(timeout_ms=1000, max_records=most)
                for records in found.values():
                    if not seen:
                        began = time.perf_counter()
                    for record in records:
                        total += record.value[CHECK]
                    seen += len(records)
            await consumer.commit()
            return Done(seen, total, time.perf_counter() - began)

    return asyncio.run(read())


def send(job: Job) -> Done:
    """Send all messages, then flush and check each outcome."""

    async def write() -> Done:
        values = job.values
        producer = AIOKafkaProducer(
            bootstrap_servers=job.bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=LINGER_MS,
            max_batch_size=BATCH_BYTES,
        )
        async with producer:
            await producer.partitions_for(job.target)
            began = time.perf_counter()
            futures = [
                await producer.send(
                    job.target, key=KEYS[number % 1000], value=values[number % 1000]
                )
                for number in range(job.messages)
            ]
            await producer.flush()
            for future in futures:
                future.result()
            seconds = time.perf_counter() - began
        return Done(len(futures), job.checksum, seconds)

    return asyncio.run(write())


if __name__ == "__main__":
    main({"messages": messages, "getmany": getmany, "send": send})
