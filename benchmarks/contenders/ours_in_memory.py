"""This library on `memory://`: the whole pipeline, and the cost of a message as numbers grow."""

from __future__ import annotations

import time

import trio
from job import CHECK, COMMIT_INTERVAL, KEYS, Done, Job, group, main

from transport import App, MemoryBroker, Topic

BATCH = 1000


async def send_each(topic: Topic, job: Job) -> None:
    values, partitions = job.values, job.options.get("partitions", 4)
    for number in range(job.messages):
        await topic.send(
            key=KEYS[number % 1000],
            value=values[number % 1000],
            partition=number % partitions,
        )


async def send_batches(topic: Topic, job: Job) -> None:
    values = job.values
    batch = [(KEYS[number], values[number]) for number in range(BATCH)]
    for _ in range(job.messages // BATCH):
        await topic.send_many(batch)


async def read_each(topic: Topic, job: Job) -> tuple[int, int, float]:
    seen = total = 0
    began = 0.0
    async for message in topic:
        if not seen:
            began = time.perf_counter()
        total += message.value[CHECK]
        seen += 1
        if seen == job.messages:
            message.ack()
            break
    return seen, total, began


async def read_batches(topic: Topic, job: Job) -> tuple[int, int, float]:
    seen = total = 0
    began = 0.0
    async for batch in topic.batches():
        if not seen:
            began = time.perf_counter()
        for value in batch.values():
            total += value[CHECK]
        seen += len(batch)
        if seen == job.messages:
            batch.ack()
            break
    return seen, total, began


def pipeline(job: Job) -> Done:
    """Send all messages, then read all of them, one by one or in batches."""
    by_batch = job.options.get("by_batch", False)
    send, read = (send_batches, read_batches) if by_batch else (send_each, read_each)

    async def run() -> Done:
        broker = MemoryBroker()
        broker.create_topic("bench", job.options.get("partitions", 4))
        async with App(group(), broker=broker, commit_interval=COMMIT_INTERVAL) as app:
            topic = app.topic("bench")
            began = time.perf_counter()
            await send(topic, job)
            await app.producer.flush()
            sent = time.perf_counter() - began
            seen, total, began = await read(topic, job)
            await app.consumer.commit()
            consumed = time.perf_counter() - began
        rates = {
            "sent": job.messages / sent,
            "consumed": job.messages / consumed,
            "microseconds": consumed / job.messages * 1e6,
        }
        return Done(seen, total, sent + consumed, rates)

    return trio.run(run)


if __name__ == "__main__":
    main({"pipeline": pipeline})
