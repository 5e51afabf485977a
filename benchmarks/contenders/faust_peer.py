"""faust-streaming: an agent, which acks each event when it requests the next event."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time

import faust
from job import CHECK, COMMIT_INTERVAL, Done, Job, group, main, report


def agent(job: Job) -> Done:
    """Read with `async for value in stream`."""

    async def read() -> Done:
        app = faust.App(
            group(),
            broker=f"kafka://{job.bootstrap}",
            store="memory://",
            datadir=tempfile.mkdtemp(prefix="bench-faust-"),
            web_enabled=False,
            topic_disable_leader=True,
            broker_commit_interval=COMMIT_INTERVAL,
            consumer_auto_offset_reset="earliest",
            value_serializer="raw",
        )
        topic = app.topic(job.topic, value_type=bytes, value_serializer="raw")
        ended = asyncio.Event()
        seen = total = 0
        began = seconds = 0.0

        @app.agent(topic)
        async def handle(stream: faust.Stream) -> None:
            nonlocal seen, total, began, seconds
            async for value in stream:
                if not seen:
                    began = time.perf_counter()
                total += value[CHECK]
                seen += 1
                if seen == job.messages:
                    seconds = time.perf_counter() - began
                    ended.set()

        await app.start()
        await ended.wait()
        # Faust's services take up to a minute to stop, and no result depends on their end.
        report(Done(seen, total, seconds))
        os._exit(0)

    return asyncio.run(read())


if __name__ == "__main__":
    main({"agent": agent})
