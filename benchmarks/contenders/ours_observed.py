"""This library: sending and handling with a monitor, with metrics or with traces, or without.

The answer has the CPU time of a message, because that is less noisy than the rate.
"""

from __future__ import annotations

import gc
import time
from typing import Any

import trio
from job import CHECK, KEYS, Done, Job, main
from ours_consuming import app_of

from transport import App, Batch, Message, Monitor

CHUNK = 1000  # messages in one call of `send_many`


def observed(job: Job) -> Done:
    """Send each message with a call of its own, then handle each."""
    return _observed(job, by_batch=False)


def observed_batches(job: Job) -> Done:
    """Send 1,000 messages with each call, then handle batches."""
    return _observed(job, by_batch=True)


def _observed(job: Job, *, by_batch: bool) -> Done:
    values = job.values
    pairs = list(zip(KEYS, values, strict=True))
    handled = total = 0
    seconds = cpu = 0.0

    async def send() -> None:
        nonlocal seconds, cpu
        async with _app_of(job) as app:
            topic = app.topic(job.target)
            await app.producer.ask_partitions(job.target)  # before the clocks start
            began, before = time.perf_counter(), time.process_time()
            if by_batch:
                for first in range(0, job.messages, CHUNK):
                    await topic.send_many(pairs[: job.messages - first])
            else:
                for number in range(job.messages):
                    await topic.send(key=KEYS[number % 1000], value=values[number % 1000])
            await app.producer.flush()
            cpu += time.process_time() - before
            seconds += time.perf_counter() - began

    async def handle() -> None:
        nonlocal seconds, cpu
        app, began, before = _app_of(job), 0.0, 0.0

        def count(messages: list[Any]) -> None:
            nonlocal handled, total, began, before, seconds, cpu
            if not began:
                began, before = time.perf_counter(), time.process_time()
            for value in messages:
                total += value[CHECK]
            handled += len(messages)
            if handled == job.messages:
                cpu += time.process_time() - before
                seconds += time.perf_counter() - began
                app.stop()

        async def handle_batch(batch: Batch[Any, Any]) -> None:
            count(batch.values())

        async def handle_message(message: Message[Any, Any]) -> None:
            count([message.value])

        if by_batch:
            app.batch_handler(app.topic(job.target), handle_batch)
        else:
            app.handler(app.topic(job.target), handle_message)
        async with app:
            await app.wait_stopped()

    gc.freeze()
    trio.run(send)
    trio.run(handle)
    return Done(handled, total, seconds, {"microseconds": cpu / job.messages * 1e6})


def _app_of(job: Job) -> App:
    monitor, share = job.options.get("monitor"), job.options.get("share")
    settings: dict[str, Any] = {}
    if monitor == "counts":
        settings["monitor"] = Monitor()
    elif monitor == "prometheus":
        from prometheus_client import CollectorRegistry

        from transport.monitoring.prometheus import PrometheusSensor

        settings["monitor"] = PrometheusSensor(CollectorRegistry())
    if share is not None:
        settings["tracing"] = _tracing(share)
    return app_of(job, **settings)


def _tracing(share: float) -> Any:
    """Return the tracing of a share of all traces, whose spans are dropped once they have ended."""
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    from transport.monitoring.tracing import Tracing

    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(share))
    provider.add_span_processor(SpanProcessor())
    return Tracing(provider)


if __name__ == "__main__":
    main({"observed": observed, "observed_batches": observed_batches})
