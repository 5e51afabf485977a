"""This library on `memory://`: the whole pipeline, and what a message costs as numbers grow."""

from __future__ import annotations

import time

import trio
from job import CHECK, COMMIT_INTERVAL, KEYS, Done, Job, group, main

from transport import App, MemoryBroker


def pipeline(job: Job) -> Done:
    """Send all messages, then read all of them."""
    values, partitions = job.values, job.options.get("partitions", 4)

    async def run() -> Done:
        broker = MemoryBroker()
        broker.create_topic("bench", partitions)
        seen = total = 0
        async with App(group(), broker=broker, commit_interval=COMMIT_INTERVAL) as app:
            topic = app.topic("bench")
            began = time.perf_counter()
            for number in range(job.messages):
                await topic.send(
                    key=KEYS[number % 1000],
                    value=values[number % 1000],
                    partition=number % partitions,
                )
            await app.producer.flush()
            sent = time.perf_counter() - began
            began = 0.0
            async for message in topic:
                if not seen:
                    began = time.perf_counter()
                total += message.value[CHECK]
                seen += 1
                if seen == job.messages:
                    message.ack()
                    break
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
