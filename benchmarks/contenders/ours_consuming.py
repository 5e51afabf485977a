"""This library: reading messages and batches, with the default settings of an App."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import trio
from job import CHECK, COMMIT_INTERVAL, Done, Job, group, main, percentile, resident

# An app imports its driver when it is created. The bare contender imports its client before its
# clock starts, so this contender does the same.
import transport.drivers.kafka  # noqa: F401
from transport import TP, App, Message


def app_of(job: Job, **settings: Any) -> App:
    return App(
        group(),
        broker=f"kafka://{job.bootstrap}",
        **{"commit_interval": COMMIT_INTERVAL, **settings},
    )


def messages(job: Job) -> Done:
    """Read with `async for message in topic`."""

    async def read() -> Done:
        interval = job.options.get("commit_interval", COMMIT_INTERVAL)
        app = app_of(job, commit_interval=interval)
        async with app:
            seen = total = 0
            began = 0.0
            async for message in app.topic(job.topic):
                if not seen:
                    began = time.perf_counter()
                total += message.value[CHECK]
                seen += 1
                if seen == job.messages:
                    message.ack()
                    break
            last = time.perf_counter()
            await app.consumer.commit()
            ended = time.perf_counter()
            measures = {
                "commit_ms": (ended - last) * 1000,
                "megabytes": seen * len(message.value) / (ended - began) / 1e6,
            }
            return Done(seen, total, ended - began, measures)

    return trio.run(read)


def batches(job: Job) -> Done:
    """Read with `async for batch in topic.batches()`, and read each value."""

    async def read() -> Done:
        app = app_of(job)
        async with app:
            seen = total = 0
            began = 0.0
            async for batch in app.topic(job.topic).batches():
                if not seen:
                    began = time.perf_counter()
                for value in batch.values():
                    total += value[CHECK]
                seen += len(batch)
                if seen >= job.messages:
                    batch.ack()
                    break
            await app.consumer.commit()
            return Done(seen, total, time.perf_counter() - began)

    return trio.run(read)


def concurrent(job: Job) -> Done:
    """Tasks share one topic object with `noack()`, and their handlers do nothing."""
    seen = total = 0
    began = ended = 0.0

    async def read() -> Done:
        app = app_of(job)
        async with app:
            shared = app.topic(job.topic)

            async def handle(messages: AsyncIterator[Message]) -> None:
                nonlocal seen, total, began, ended
                async for message in messages:
                    async with message:
                        if not seen:
                            began = time.perf_counter()
                        total += message.value[CHECK]
                        seen += 1
                    if seen == job.messages:
                        await app.consumer.commit()
                        ended = time.perf_counter()
                        app.stop()

            async with trio.open_nursery() as nursery:
                for _ in range(job.options["tasks"]):
                    nursery.start_soon(handle, shared.noack())
        return Done(seen, total, ended - began)

    return trio.run(read)


def handled(job: Job) -> Done:
    """Handle each message for some time; measure the time to the first one, and the memory."""

    async def read() -> Done:
        opened = time.perf_counter()
        async with app_of(job) as app:
            seen = total = 0
            began = first = 0.0
            async for message in app.topic(job.topic):
                if not seen:
                    began = time.perf_counter()
                    first = began - opened
                total += message.value[CHECK]
                await trio.sleep(job.options["handler"])
                seen += 1
                if seen == job.messages:
                    break
            return Done(seen, total, time.perf_counter() - began, {"first_message": first})

    return trio.run(read)


def loop_delay(job: Job) -> Done:
    """Read at full speed beside a task that wakes at an interval; measure how late it wakes."""
    late: list[float] = []

    async def tick(interval: float) -> None:
        while True:
            due = trio.current_time() + interval
            await trio.sleep_until(due)
            late.append((trio.current_time() - due) * 1000)

    async def read() -> Done:
        async with app_of(job) as app, trio.open_nursery() as nursery:
            seen = total = 0
            began = 0.0
            async for message in app.topic(job.topic):
                if not seen:
                    began = time.perf_counter()
                    nursery.start_soon(tick, job.options["interval"])
                total += message.value[CHECK]
                seen += 1
                if seen == job.messages:
                    break
            seconds = time.perf_counter() - began
            nursery.cancel_scope.cancel()
        delays = {"p99": percentile(late, 0.99), "max": max(late)}
        return Done(seen, total, seconds, delays)

    return trio.run(read)


def memory_flat(job: Job) -> Done:
    """Read very many messages; measure the peak memory in the first tenth, and after it."""
    tenth = job.messages // 10
    every, pause = min(tenth, job.options["every"]), job.options["handler"]
    first = most = 0.0

    async def read() -> Done:
        nonlocal first, most
        async with app_of(job) as app:
            seen = total = 0
            began = 0.0
            async for message in app.topic(job.topic):
                if not seen:
                    began = time.perf_counter()
                total += message.value[CHECK]
                seen += 1
                if seen % every == 0:
                    if pause:
                        await trio.sleep(pause)
                    if seen <= tenth:
                        first = max(first, resident())
                    else:
                        most = max(most, resident())
                if seen == job.messages:
                    break
            memory = {"rss_first_tenth": first, "rss_later": most}
            return Done(seen, total, time.perf_counter() - began, memory)

    return trio.run(read)


class Assigned(App):
    """An app that sets an event when it has been assigned a number of partitions."""

    def __init__(self, *args: Any, partitions: int, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.has_all = trio.Event()
        self._left = partitions

    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        self._left -= len(assigned)
        if self._left == 0:
            self.has_all.set()


def assigned_of(job: Job) -> Assigned:
    return Assigned(group(), f"kafka://{job.bootstrap}", partitions=job.partitions)


def latency(job: Job) -> Done:
    """Send at a steady rate; measure the age of each message when its handler receives it."""
    warm_up, late = job.options["warm_up"], []
    total = job.messages + warm_up

    async def run() -> Done:
        async with assigned_of(job) as app:
            topic = app.topic(job.target)

            async def send() -> None:
                await app.has_all.wait()
                start = trio.current_time()
                for number in range(total):
                    await trio.sleep_until(start + number / job.options["rate"])
                    value = b"%d %d" % (number, time.perf_counter_ns())
                    await topic.send(key=b"%d" % number, value=value)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                seen = 0
                async for message in topic:
                    number, sent = message.value.split()
                    if int(number) >= warm_up:
                        late.append((time.perf_counter_ns() - int(sent)) / 1e6)
                    seen += 1
                    if seen == total:
                        break
        shares = {"p50": percentile(late, 0.5), "p99": percentile(late, 0.99)}
        return Done(len(late), 0, total / job.options["rate"], shares)

    return trio.run(run)


def idle(job: Job) -> Done:
    """Wait in an empty topic; measure the CPU time."""

    async def wait() -> Done:
        async with assigned_of(job) as app, trio.open_nursery() as nursery:

            async def read() -> None:
                async for _ in app.topic(job.topic):
                    raise RuntimeError("the idle topic has a message")

            nursery.start_soon(read)
            await app.has_all.wait()
            await trio.sleep(job.options["settle"])
            began, cpu = time.perf_counter(), time.process_time()
            await trio.sleep(job.options["seconds"])
            seconds = time.perf_counter() - began
            used = time.process_time() - cpu
            nursery.cancel_scope.cancel()
        return Done(0, 0, seconds, {"cpu_percent": 100 * used / seconds})

    return trio.run(wait)


if __name__ == "__main__":
    main(
        {
            "messages": messages,
            "batches": batches,
            "concurrent": concurrent,
            "handled": handled,
            "loop_delay": loop_delay,
            "memory_flat": memory_flat,
            "latency": latency,
            "idle": idle,
        }
    )
