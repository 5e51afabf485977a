"""This library in an anyio program: the same code on trio and on asyncio."""

from __future__ import annotations

import time

import anyio
from job import CHECK, KEYS, Done, Job, main
from ours_consuming import app_of

from transport.anyio import open_app


def send(job: Job) -> Done:
    """Call `send` for one message after the other, and await the outcomes at the end."""
    values = job.values

    async def run() -> Done:
        async with open_app(app_of(job)) as app:
            topic = app.topic(job.target)
            await topic.send_and_wait(value=values[0])  # learn the topic before the clock starts
            began = time.perf_counter()
            deliveries = [
                await topic.send(key=KEYS[number % 1000], value=values[number % 1000])
                for number in range(1, job.messages)
            ]
            await app.producer.flush()
            seconds = time.perf_counter() - began
            for delivery in deliveries:
                await delivery
        return Done(job.messages, job.checksum, seconds)

    return anyio.run(run, backend=job.options["backend"])


def consume(job: Job) -> Done:
    """Read with `async for message in topic`."""

    async def run() -> Done:
        async with open_app(app_of(job)) as app:
            seen = total = 0
            began = 0.0
            async for message in app.topic(job.topic):
                if not seen:
                    began = time.perf_counter()
                total += message.value[CHECK]
                seen += 1
                if seen == job.messages:
                    break
            seconds = time.perf_counter() - began
        return Done(seen, total, seconds)

    return anyio.run(run, backend=job.options["backend"])


if __name__ == "__main__":
    main({"send": send, "consume": consume})
