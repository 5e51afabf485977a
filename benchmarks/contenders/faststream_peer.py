"""FastStream: a subscriber on its Kafka broker (aiokafka)."""

from __future__ import annotations

import asyncio
import time

from faststream import FastStream
from faststream.kafka import KafkaBroker
from job import CHECK, Done, Job, group, main


def subscriber(job: Job) -> Done:
    """Run a subscriber that receives the bytes of each message."""
    seen = total = 0
    began = seconds = 0.0

    async def read() -> Done:
        broker = KafkaBroker(job.bootstrap, logger=None)
        app = FastStream(broker, logger=None)

        @broker.subscriber(job.topic, group_id=group(), auto_offset_reset="earliest")
        async def handle(body: bytes) -> None:
            nonlocal seen, total, began, seconds
            if not seen:
                began = time.perf_counter()
            total += body[CHECK]
            seen += 1
            if seen == job.messages:
                seconds = time.perf_counter() - began
                app.exit()

        await app.run()
        return Done(seen, total, seconds)

    return asyncio.run(read())


if __name__ == "__main__":
    main({"subscriber": subscriber})
