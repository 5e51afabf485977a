"""This library: sending one message at a time and many at once, and awaiting outcomes."""

from __future__ import annotations

import time

import trio
from job import KEYS, Done, Job, main
from ours_consuming import app_of

CHUNK = 1000  # messages in one call of `send_many`


def send(job: Job) -> Done:
    """Call `send` for each message, and await the outcomes at the end."""
    values = job.values

    async def run() -> Done:
        async with app_of(job) as app:
            topic = app.topic(job.target)
            await app.producer.ask_partitions(job.target)  # before the clock starts
            began = time.perf_counter()
            deliveries = [
                await topic.send(key=KEYS[number % 1000], value=values[number % 1000])
                for number in range(job.messages)
            ]
            await app.producer.flush()
            for delivery in deliveries:
                await delivery
            seconds = time.perf_counter() - began
        return Done(len(deliveries), job.checksum, seconds)

    return trio.run(run)


def send_many(job: Job) -> Done:
    """Call `send_many` for 1,000 messages at a time, and await the outcomes at the end."""
    values = job.values
    assert len(KEYS) == len(values) == CHUNK
    pairs = list(zip(KEYS, values, strict=True))

    async def run() -> Done:
        async with app_of(job) as app:
            topic = app.topic(job.target)
            await app.producer.ask_partitions(job.target)  # before the clock starts
            count = 0
            began = time.perf_counter()
            sent = [
                await topic.send_many(pairs[: job.messages - first])
                for first in range(0, job.messages, CHUNK)
            ]
            await app.producer.flush()
            for outcomes in sent:
                count += len(await outcomes)
            seconds = time.perf_counter() - began
        return Done(count, job.checksum, seconds)

    return trio.run(run)


def in_turn(job: Job) -> Done:
    """Call `send_and_wait` for one message after the other."""
    values = job.values

    async def run() -> Done:
        async with app_of(job) as app:
            topic = app.topic(job.target)
            await app.producer.ask_partitions(job.target)  # before the clock starts
            began = time.perf_counter()
            for number in range(job.messages):
                await topic.send_and_wait(key=KEYS[number % 1000], value=values[number % 1000])
            seconds = time.perf_counter() - began
        return Done(job.messages, job.checksum, seconds)

    return trio.run(run)


def at_once(job: Job) -> Done:
    """Call `send_and_wait` in several tasks, in each for one message after the other."""
    values, tasks = job.values, job.options["tasks"]

    async def run() -> Done:
        async with app_of(job) as app:
            topic = app.topic(job.target)
            await app.producer.ask_partitions(job.target)  # before the clock starts
            count = 0

            async def work(first: int) -> None:
                nonlocal count
                for number in range(first, job.messages, tasks):
                    await topic.send_and_wait(key=KEYS[number % 1000], value=values[number % 1000])
                    count += 1

            began = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for first in range(tasks):
                    nursery.start_soon(work, first)
            seconds = time.perf_counter() - began
        return Done(count, job.checksum, seconds)

    return trio.run(run)


if __name__ == "__main__":
    main({"send": send, "send_many": send_many, "in_turn": in_turn, "at_once": at_once})
